"""Side by side with llama.cpp: the same GGUF, the same threads, alternating rounds, one command.

    python tests/benchmarks/compare_llama_cpp.py model-f16.gguf \\
        --peer cpu_avx2=/path/to/avx2/bin/python --peer cpu_avx512vnni=/path/to/native/bin/python \\
        --quants q4_k_m q6_k q8_0 --rounds 5 -p 512 -n 64 --out results/

Each quantization is made once by llama-quantize's own code and then run by both sides,
its bytes untouched (``quantization: source``). The peer runs repacked and not; each of our
backends is compared with the better of the two, by median, of the build named with it.
In each round every arm runs every test once, in an order that rotates, and the read
bandwidth of the machine is measured before and after each decode. Neither side loads, tokenizes or samples
within the time. Writes ``results.json``, ``table.md`` and, with matplotlib, ``plot.svg``.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import gguf
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from bandwidth import Probe  # noqa: E402
from report import write_report  # noqa: E402

#: By arm and test, a value a round.
Samples = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Test:
    """``prefill`` tokens after ``depth`` others, then ``decode`` steps of ``sequences`` tokens."""

    prefill: int
    decode: int
    depth: int = 0
    sequences: int = 1

    @property
    def tokens(self) -> int:
        """Tokens that are counted: prefill and decode are timed apart, one of them is 0."""
        return self.prefill or self.decode * self.sequences

    @property
    def name(self) -> str:
        """As llama-bench names it: pp512, tg128, tg128 @ d4096; ``x8`` for 8 sequences."""
        name = f"pp{self.prefill}" if self.prefill else f"tg{self.decode}"
        return (
            name
            + (f" x{self.sequences}" if self.sequences > 1 else "")
            + (f" @ d{self.depth}" if self.depth else "")
        )


class Arm(Protocol):
    """One side of the comparison, loaded."""

    name: str

    def seconds(self, test: Test) -> float: ...

    def close(self) -> None: ...


class Ours:
    """Our engine on one backend: a bundle compiled for this file, in this process."""

    def __init__(
        self, backend: str, model: Path, threads: int, tests: list[Test], step: int, work: Path
    ) -> None:
        from compiler import compile_plan
        from runtime.bundle.reader import open_bundle
        from runtime.engine.executable import Executable

        self.name = backend
        context = max(t.depth + t.prefill + t.decode for t in tests)
        bundle = compile_plan(
            {
                "version": 1,
                "name": f"compare-{model.stem}-{backend}",
                "model": str(model.resolve()),
                "backend": backend,
                "quantization": "source",
                "execution": {
                    "threads": threads,
                    "context": context,
                    "step_tokens": step,
                    "kv_cache": "f16",
                    "slots": max(t.sequences for t in tests),
                },
            },
            work / f"{model.stem}-{backend}.bundle",
        )
        self.executable = Executable.open(open_bundle(bundle), threads)
        self.vocabulary = self.executable.limits.n_vocab

    def close(self) -> None:
        self.executable.close()

    def _fill(self, tokens: np.ndarray, start: int, slot: int) -> None:
        step = self.executable.limits.step_tokens
        for begin in range(0, len(tokens), step):
            part = tokens[begin : begin + step]
            want = np.zeros(len(part), np.uint8)
            want[-1] = begin + len(part) == len(tokens)
            self.executable.forward(
                np.full(len(part), slot, np.int32),
                np.arange(start + begin, start + begin + len(part), dtype=np.int32),
                part,
                want,
            )

    def seconds(self, test: Test) -> float:
        rng = np.random.default_rng(test.prefill + test.decode)

        def draw(n: int) -> np.ndarray:
            return rng.integers(0, min(self.vocabulary, 100_000), n).astype(np.int32)

        # A decode needs its slots to begin somewhere: at the depth, or at an empty slot.
        for slot in range(test.sequences if test.depth else 0):
            self._fill(draw(test.depth), 0, slot)
        if test.prefill:
            tokens = draw(test.prefill)
            begin = time.perf_counter()
            self._fill(tokens, test.depth, 0)
            return time.perf_counter() - begin
        slots = np.arange(test.sequences, dtype=np.int32)
        want = np.ones(test.sequences, np.uint8)
        drawn = [draw(test.sequences) for _ in range(test.decode)]
        begin = time.perf_counter()
        for step, tokens in enumerate(drawn):
            self.executable.forward(slots, np.full(test.sequences, test.depth + step, np.int32), tokens, want)
        return time.perf_counter() - begin


class Peer:
    """llama.cpp in a process of its own (``peer.py serve``), under its environment's Python."""

    def __init__(self, python: str) -> None:
        self.process = subprocess.Popen(
            [python, str(HERE / "peer.py"), "serve"], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the peer's process ended"}
        if "error" in answer:
            raise RuntimeError(f"peer: {command['do']}: {answer['error']}")
        return answer

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait(timeout=60)


class PeerArm:
    """A model loaded in the peer, repacked or not."""

    def __init__(
        self, peer: Peer, label: str, repack: bool, model: Path, threads: int, tests: list[Test], ubatch: int
    ) -> None:
        self.peer = peer
        self.name = f"llama.cpp {label} {'repacked' if repack else 'as stored'}"
        context = max(t.depth + t.prefill + t.decode for t in tests) + 32
        self.repacked_mib = peer.ask(
            do="load",
            name=self.name,
            model=str(model),
            threads=threads,
            repack=repack,
            context=context,
            sequences=max(t.sequences for t in tests),
            ubatch=ubatch,
        )["repacked_mib"]

    def seconds(self, test: Test) -> float:
        times = self.peer.ask(do="time", name=self.name, **asdict(test))
        return float(times["prefill_s" if test.prefill else "decode_s"])

    def close(self) -> None:
        self.peer.ask(do="unload", name=self.name)


def read_per_token(model: Path) -> tuple[int, int]:
    """Bytes of weights that a decoded token reads, and bytes of F16 KV a token of context adds.

    All tensors count but an embedding table that is not also the output (of it one row is
    read); of stacked experts the share that is routed to.
    """
    reader = gguf.GGUFReader(model)

    def value(key: str, default: int = 0) -> int:
        field = reader.get_field(key)
        return int(field.contents()) if field else default

    architecture = reader.get_field("general.architecture").contents()
    experts = value(f"{architecture}.expert_count")
    used = value(f"{architecture}.expert_used_count")
    tied = all(t.name != "output.weight" for t in reader.tensors)
    weights = 0.0
    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight" and not tied:
            continue
        share = used / experts if experts and "_exps" in tensor.name else 1.0
        weights += int(tensor.n_bytes) * share
    heads = value(f"{architecture}.attention.head_count")
    head_dim = (
        value(f"{architecture}.attention.key_length") or value(f"{architecture}.embedding_length") // heads
    )
    kv_heads = value(f"{architecture}.attention.head_count_kv", heads)
    return int(weights), 2 * 2 * value(f"{architecture}.block_count") * kv_heads * head_dim


def measure(
    arms: list[Arm], tests: list[Test], rounds: int, probe: Probe, pause: float
) -> tuple[Samples, Samples]:
    """Tokens a second by arm and test, a value a round, and the read bandwidth of memory around it.

    The bandwidth (bytes a second) is the mean of a look before and one after the timing, because that
    of a shared machine changes within a run. It is taken for decode only: prefill is bound by arithmetic.
    A first round is thrown away.
    """
    rates: Samples = {a.name: {t.name: [] for t in tests} for a in arms}
    bandwidth: Samples = {a.name: {t.name: [] for t in tests if t.decode} for a in arms}
    for number in range(-1, rounds):
        turn = number % len(arms)
        for arm in arms[turn:] + arms[:turn]:
            before: float | None = None
            for test in tests:
                if test.decode and before is None:
                    before = probe.measure()
                time.sleep(pause)  # threads of the arm before go to sleep
                seconds = arm.seconds(test)
                after = probe.measure() if test.decode else None
                if number >= 0:
                    rates[arm.name][test.name].append(test.tokens / seconds)
                    if before is not None and after is not None:
                        bandwidth[arm.name][test.name].append((before + after) / 2)
                before = after
        print(f"  round {number + 1} of {rounds}", file=sys.stderr)
    return rates, bandwidth


def compare(a: argparse.Namespace) -> dict[str, Any]:
    labels = dict(p.split("=", 1) for p in a.peer)
    peers = {label: Peer(python) for label, python in labels.items()}
    probe = Probe(a.threads)
    tests = [Test(a.prefill, 0), Test(0, a.decode)]
    tests += [Test(0, a.decode, depth=d) for d in a.depth]
    if a.sequences > 1:
        tests.append(Test(0, max(1, a.decode // 2), sequences=a.sequences))
    result: dict[str, Any] = {
        "model": a.model.name,
        "threads": a.threads,
        "rounds": a.rounds,
        "cpu": cpu_name(),
        "peer": {label: peer.ask(do="info") for label, peer in peers.items()},
        "quantizations": [],
    }
    a.work.mkdir(parents=True, exist_ok=True)
    try:
        for quant in a.quants:
            model = a.work / f"{a.model.stem}-{quant}.gguf"
            if not model.exists():
                next(iter(peers.values())).ask(
                    do="quantize", source=str(a.model), target=str(model), type=quant, threads=a.threads
                )
            print(f"{quant}: loading", file=sys.stderr)
            arms: list[Arm] = [Ours(b, model, a.threads, tests, a.step, a.work) for b in labels]
            packed = [
                PeerArm(peer, label, repack, model, a.threads, tests, a.step)
                for label, peer in peers.items()
                for repack in (True, False)
            ]
            arms += packed
            rates, bandwidth = measure(arms, tests, a.rounds, probe, a.pause)
            for arm in arms:
                arm.close()
            weights, kv = read_per_token(model)
            result["quantizations"].append(
                {
                    "quantization": quant,
                    "weight_bytes": weights,
                    "kv_bytes_per_token": kv,
                    "rates": rates,
                    "bandwidth": bandwidth,
                    "repacked_mib": {arm.name: arm.repacked_mib for arm in packed},
                }
            )
    finally:
        for peer in peers.values():
            peer.close()
    return result | {
        "tests": [asdict(t) | {"name": t.name} for t in tests],
        "against": {
            backend: [f"llama.cpp {backend} {how}" for how in ("repacked", "as stored")] for backend in labels
        },
    }


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="an F16 or BF16 GGUF")
    parser.add_argument(
        "--peer",
        action="append",
        required=True,
        metavar="BACKEND=PYTHON",
        help="our backend, and the Python whose llama.cpp it is compared with",
    )
    parser.add_argument("--quants", nargs="+", default=["q4_k_m", "q6_k", "q8_0"])
    parser.add_argument("-p", "--prefill", type=int, default=512)
    parser.add_argument("-n", "--decode", type=int, default=64)
    parser.add_argument("-d", "--depth", type=int, nargs="*", default=[])
    parser.add_argument("-s", "--sequences", type=int, default=8)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--step", type=int, default=512, help="step_tokens of ours, ubatch of the peer's")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds of rest before each timing")
    parser.add_argument("--work", type=Path, default=Path("build/compare"), help="quantized files, bundles")
    parser.add_argument("--out", type=Path, default=Path("build/compare"))
    arguments = parser.parse_args()
    if any("=" not in p for p in arguments.peer):
        parser.error("--peer takes BACKEND=PYTHON")
    result = compare(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    write_report(arguments.out)
    print((arguments.out / "table.md").read_text())


if __name__ == "__main__":
    main()
