"""Measurements of the server on a real plan, each against a server of its own.

    python tests/benchmarks/service.py overhead PLAN      one stream over HTTP against `engine run`
    python tests/benchmarks/service.py streams PLAN       8 streams against one: tokens/s, spread
    python tests/benchmarks/service.py prefill PLAN       a short request behind a long prefill
    python tests/benchmarks/service.py soak PLAN          64 clients, 10 minutes, one in five leaving
    python tests/benchmarks/service.py hostile PLAN       32 clients, in turns alone and beside attackers
    python tests/benchmarks/service.py kill PLAN          kill -9 while streaming, 50 times

One JSON object on stdout; exit code 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from runtime.control.records import RecordStore  # noqa: E402
from tests.soak import soak, unexplained  # noqa: E402

ENGINE = [sys.executable, "-m", "runtime.cli"]
PROMPT = "Once upon a time there was"


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    model: str

    def rss_mb(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@contextmanager
def server(plan: str, records: Path, *options: str) -> Iterator[Server]:
    """A server of the plan on a free port, ready; killed at the end if it still runs."""
    command = [*ENGINE, "serve", plan, "--port", "0", "--records", str(records), *options]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    url = ""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.match(r"listening on (\S+)", line):
            url = found[1]
        if line.startswith("ready"):
            break
    threading.Thread(target=process.stderr.read, daemon=True).start()
    if process.poll() is not None or not url:
        raise SystemExit(f"the server did not start: {' '.join(command)}")
    try:
        model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
        yield Server(process, url, model)
    finally:
        process.kill()
        process.wait()


def run(at: Server, prompt: str, tokens: int) -> dict[str, Any]:
    """One streamed execution; its final object, and when each token arrived here (seconds).

    Read with the standard library's client: a client that works more than it must takes the
    machine's cores from the engine it measures.
    """
    body = {"model": at.model, "prompt": prompt, "stream": True,
            "execution": {"limits": {"max_tokens": tokens}}}  # fmt: skip
    connection = http.client.HTTPConnection(at.url.removeprefix("http://"), timeout=600)
    arrivals, event, began = [], b"", time.monotonic()
    try:
        connection.request("POST", "/v1/runs", json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        while line := reply.readline():
            if line.startswith(b"event: "):
                event = line
                if line == b"event: token\n":
                    arrivals.append(time.monotonic() - began)
            elif event == b"event: result\n":
                return {**json.loads(line[6:]), "arrivals": arrivals, "began": began}
    finally:
        connection.close()
    raise Broken("a stream ended without its final object")


class Broken(Exception):
    """A stream that did not come to its end."""


def overhead(plan: str, folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Decode rates, alternating: as a client sees them, and as `engine run` reports them."""
    http, alone = [], []
    threads = [] if options.threads is None else ["--threads", str(options.threads)]
    with server(plan, folder / "records.sqlite", *threads) as at:
        run(at, PROMPT, 8)
        for _ in range(options.rounds):
            arrivals = run(at, PROMPT, options.tokens)["arrivals"]
            http.append((len(arrivals) - 1) / (arrivals[-1] - arrivals[0]))
            command = [*ENGINE, "run", plan, "-p", PROMPT, "-n", str(options.tokens), "--json", *threads]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            alone.append(json.loads(done.stdout)["diagnostics"]["decode_tokens_per_sec"])
    ratio = median(http) / median(alone)
    return {"http_tokens_per_sec": http, "run_tokens_per_sec": alone, "ratio": ratio}, ratio >= 0.95


def streams(plan: str, folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Tokens a second of one stream and of ``clients`` at once, from the first token to the last."""
    one, many, least = [], [], []
    with server(plan, folder / "records.sqlite") as at, ThreadPoolExecutor(options.clients) as pool:
        run(at, PROMPT, 8)
        for _ in range(options.rounds):
            one.append(_rate([run(at, PROMPT, options.tokens)]))
            prompts = [f"{PROMPT} number {i}" for i in range(options.clients)]
            replies = list(pool.map(lambda prompt: run(at, prompt, options.tokens), prompts))
            many.append(_rate(replies))
            counts = [reply["metrics"]["tokens_per_sec"] for reply in replies]
            least.append(min(counts) / median(counts))
    ratio = median(many) / median(one)
    result = {"one": one, f"of_{options.clients}": many, "ratio": ratio, "slowest_over_median": least}
    return result, ratio >= 3 and min(least) > 0.5


def _rate(replies: list[dict[str, Any]]) -> float:
    first = min(reply["began"] + reply["arrivals"][0] for reply in replies)
    last = max(reply["began"] + reply["arrivals"][-1] for reply in replies)
    return sum(len(reply["arrivals"]) - 1 for reply in replies) / (last - first)


def prefill(plan: str, folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Time to the first token of a short request that comes while a long prompt is prefilled."""
    waits, bounds = [], []
    with server(plan, folder / "records.sqlite") as at, ThreadPoolExecutor(2) as pool:
        limits = httpx.get(f"{at.url}/props").json()["default_generation_settings"]
        words = int(min(options.prompt_tokens, limits["n_ctx"] - 16))
        ids = httpx.post(f"{at.url}/tokenize", json={"content": "the king " * words}).json()["tokens"][:words]
        text = httpx.post(f"{at.url}/detokenize", json={"tokens": ids}).json()["content"]
        run(at, PROMPT, 2)
        for _ in range(options.rounds):
            long = pool.submit(run, at, text, 2)
            time.sleep(options.delay)
            waits.append(run(at, PROMPT, 2)["arrivals"][0])
            reply = long.result()
            # What a step of the long prompt takes: its prefill, over its steps but that of the second token.
            bounds.append(reply["arrivals"][0] / max(1, reply["diagnostics"]["steps"] - 1))
    result = {
        "prompt_tokens": reply["diagnostics"]["prompt_tokens"],
        "short_ttft_seconds": waits, "long_step_seconds": bounds,
    }  # fmt: skip
    return result, median(waits) <= 3 * median(bounds)


def soaked(plan: str, folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Memory and descriptors once a second, beside what :mod:`tests.soak` checks of every stream."""
    memory: list[float] = []
    records = folder / "records.sqlite"
    with server(plan, records) as at:
        warmed = asyncio.run(soak(at.url, at.model, clients=8, seconds=3)).execution_ids
        before = at.descriptors()
        tally = asyncio.run(
            soak(
                at.url,
                at.model,
                clients=options.clients,
                seconds=options.seconds,
                watch=lambda: memory.append(at.rss_mb()),
            )
        )
        deadline = time.monotonic() + 60
        while any(slot["is_processing"] for slot in httpx.get(f"{at.url}/slots").json()):
            if time.monotonic() > deadline:
                tally.faults.append("a slot is still held")
                break
            time.sleep(0.1)
        time.sleep(1)
        after = at.descriptors()
        alone = {prompt: run(at, prompt, 48) for prompt in {prompt for prompt, _ in tally.texts}}
        warmed |= {reply["execution_id"] for reply in alone.values()}
        at.process.send_signal(signal.SIGTERM)
        exit_code = at.process.wait(60)
    with RecordStore(records) as store:
        recorded = {row.execution_id: json.loads(row.body) for row in store.rows()}
        _, faults = store.verify()
    wrong = unexplained(tally, {id: recorded[id] for id in recorded.keys() - warmed})
    different = [
        (prompt, count)
        for (prompt, count), texts in tally.texts.items()
        if len(texts) != 1 or not alone[prompt]["result"].startswith(*texts)
    ]
    half = memory[len(memory) // 2 :]
    flat = not half or median(half[-len(half) // 4 :]) <= 1.05 * median(half[: max(1, len(half) // 4)]) + 2
    result = {
        "ends": dict(tally.ends), "tokens": tally.tokens, "faults": tally.faults[:20],
        "texts_that_differ": different[:20], "records_that_differ": wrong[:20],
        "executions": len(tally.execution_ids),
        "recorded_reasons": dict(Counter(recorded[id]["stop_reason"] for id in tally.execution_ids)),
        "chain_faults": [str(fault) for fault in faults], "descriptors": [before, after],
        "rss_mb": [round(memory[i * (len(memory) - 1) // 9], 1) for i in range(10)] if memory else [],
        "exit_code": exit_code,
    }  # fmt: skip
    good = not (tally.faults or different or faults or wrong or exit_code)
    return result, good and flat and after <= before + 2


def hostile(plan: str, folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Ordinary clients in turns alone and beside attackers: times of whole requests, memory, health."""
    memory: list[float] = []
    alone: list[float] = []
    beside: list[float] = []
    faults: list[str] = []
    attacks: list[dict[str, Any]] = []
    ends: Counter[str] = Counter()
    part = options.seconds / (2 * options.rounds)
    health: list[list[float]] = [[], []]
    with server(plan, folder / "records.sqlite") as at, _probed(at.url) as probe:
        asyncio.run(soak(at.url, at.model, clients=8, seconds=3, leave=0))
        for number in range(2 * options.rounds):
            attacked = number % 2 == 1
            attackers = None
            if attacked:
                command = [sys.executable, "-m", "tests.soak", at.url, at.model, str(part)]
                attackers = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
                assert attackers.stdout is not None
                attackers.stdout.readline()  # its bodies are made
            tally = asyncio.run(
                soak(
                    at.url, at.model, clients=options.clients, seconds=part, leave=0, seed=number // 2,
                    watch=lambda: memory.append(at.rss_mb()),
                )
            )  # fmt: skip
            (beside if attacked else alone).extend(tally.seconds)
            health[attacked] += probe()
            faults += tally.faults
            ends.update(tally.ends)
            if attackers is not None:
                attacks.append(json.loads(attackers.communicate(timeout=180)[0]))
                faults += attacks[-1]["faults"]
        at.process.send_signal(signal.SIGTERM)
        exit_code = at.process.wait(60)
    statuses: Counter[str] = Counter()
    for found in attacks:
        statuses.update(found["statuses"])
    p95 = [quantiles(times, n=20)[-1] for times in (alone, beside)]
    result = {
        "requests_alone": len(alone), "requests_beside_attackers": len(beside), "ends": dict(ends),
        "p50_seconds": [median(alone), median(beside)], "p95_seconds": p95, "p95_ratio": p95[1] / p95[0],
        "attacks": dict(statuses), "health_p95_seconds": [quantiles(times, n=20)[-1] for times in health],
        "health_slowest_seconds": [max(times) for times in health],
        "rss_mb": [round(memory[i * (len(memory) - 1) // 11], 1) for i in range(12)],
        "faults": faults[:20], "exit_code": exit_code,
    }  # fmt: skip
    half = len(memory) // 2
    flat = max(memory[half:]) <= 1.1 * max(memory[:half]) + 8
    served = not faults and set(ends) == {"max_tokens"} and exit_code == 0
    return result, served and flat and p95[1] <= 1.5 * p95[0]


@contextmanager
def _probed(url: str) -> Iterator[Callable[[], list[float]]]:
    """Asks for /health ten times a second in a process of its own, which no client keeps busy;
    what it gives returns the seconds each took since it was last called."""
    code = (
        "import sys, time, http.client\n"
        "at = http.client.HTTPConnection(sys.argv[1], timeout=60)\n"
        "while True:\n"
        "    began = time.monotonic(); at.request('GET', '/health'); at.getresponse().read()\n"
        "    print(time.monotonic() - began, flush=True); time.sleep(0.1)\n"
    )
    command = [sys.executable, "-c", code, url.removeprefix("http://")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found: list[float] = []
    assert process.stdout is not None
    lines = process.stdout
    threading.Thread(target=lambda: [found.append(float(line)) for line in lines], daemon=True).start()

    def take() -> list[float]:
        taken = found[:]
        del found[: len(taken)]
        return taken

    try:
        yield take
    finally:
        process.kill()
        process.wait()


def killed(plan: str, folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Starts, streams with four clients, kills at a random moment; the records must hold what was
    acknowledged, the chain must verify, the next start must work."""
    records = folder / "records.sqlite"
    acknowledged: set[str] = set()
    broken: list[str] = []
    starts = []
    for number in range(options.times):
        began = time.monotonic()
        with server(plan, records) as at:
            starts.append(time.monotonic() - began)
            clients = [threading.Thread(target=_stream, args=(at, acknowledged)) for _ in range(4)]
            for client in clients:
                client.start()
            time.sleep(random.uniform(0.05, 1.5))
            at.process.kill()
            for client in clients:
                client.join(30)
        with RecordStore(records) as store:
            recorded = {row.execution_id for row in store.rows()}
            _, faults = store.verify()
        if missing := acknowledged - recorded:
            broken.append(f"kill {number}: not recorded: {sorted(missing)}")
        broken += [f"kill {number}: {fault}" for fault in faults]
    result = {
        "kills": options.times, "acknowledged": len(acknowledged), "recorded": len(recorded),
        "broken": broken, "start_seconds_median": median(starts),
        "start_seconds_most": max(starts),
    }  # fmt: skip
    return result, not broken and bool(acknowledged)


def _stream(at: Server, acknowledged: set[str]) -> None:
    try:
        while True:
            acknowledged.add(run(at, PROMPT, random.randint(1, 24))["execution_id"])
    except (OSError, http.client.HTTPException, Broken):
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    kinds = {"overhead": overhead, "streams": streams, "prefill": prefill, "soak": soaked, "kill": killed}
    kinds["hostile"] = hostile
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("plan")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, help="of the overhead's both sides; default: the plan's")
    parser.add_argument("--clients", type=int, help="default: 8 streams, 64 in a soak, 32 beside attackers")
    parser.add_argument("--prompt-tokens", type=int, default=4000)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds before the short request")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--times", type=int, default=50)
    options = parser.parse_args()
    options.clients = options.clients or {"soak": 64, "hostile": 32}.get(options.kind, 8)
    with tempfile.TemporaryDirectory(prefix="engine-service-") as folder:
        result, good = kinds[options.kind](options.plan, Path(folder), options)
    print(json.dumps({"kind": options.kind, "plan": options.plan, "kept": good, **result}, indent=2))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
