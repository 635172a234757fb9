"""A soak: many clients, some of whom leave at random; what must hold afterwards.

Used by a test on a fake engine and by ``tests/benchmarks/service.py`` on a real plan. As a program,
``python -m tests.soak URL MODEL SECONDS``, it is the attacker: the shapes of :mod:`tests.hostile`.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.hostile import SHAPES


@dataclass
class Tally:
    """What the clients saw. ``texts``: complete texts by (prompt, tokens); ``finished`` and ``left``:
    the tokens received of executions that ended, and of those whose client went away.
    ``seconds``: from request to result, of those that ended."""

    ends: Counter[str] = field(default_factory=Counter)
    texts: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    execution_ids: set[str] = field(default_factory=set)
    finished: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0


async def _client(
    http: httpx.AsyncClient, model: str, rng: random.Random, tally: Tally, until: float, leave: float
) -> None:
    while time.monotonic() < until:
        prompt = f"Once upon a time {rng.randrange(12)}"
        count = rng.randint(4, 48)
        # At -1 the client is gone before the first token: queued, or in its prefill.
        leaves_after = rng.randint(-1, count - 2) if rng.random() < leave else None
        body = {
            "model": model,
            "prompt": prompt,
            "stream": True,
            "execution": {
                "limits": {"max_tokens": count},
                "scheduler_policy": rng.choice(("default", "latency")),
            },
        }
        try:
            await _one(http, body, prompt, count, leaves_after, tally)
        except httpx.HTTPError as error:
            tally.faults.append(repr(error))


async def _one(
    http: httpx.AsyncClient,
    body: dict[str, object],
    prompt: str,
    count: int,
    leaves_after: int | None,
    tally: Tally,
) -> None:
    began = time.monotonic()
    async with http.stream("POST", "/v1/runs", json=body) as reply:
        if reply.status_code == 429:
            tally.ends["refused"] += 1
            await asyncio.sleep(0.05)
            return
        if reply.status_code != 200:
            tally.faults.append(f"status {reply.status_code}: {(await reply.aread())[:200]!r}")
            return
        execution_id = reply.headers["x-execution-id"]
        tally.execution_ids.add(execution_id)
        event, indexes, text = "", [], ""
        if leaves_after == -1:
            tally.ends["left"] += 1
            tally.left[execution_id] = 0
            return
        async for line in reply.aiter_lines():
            if line.startswith("event: "):
                event = line[7:]
            if not line.startswith("data: "):
                continue
            data = json.loads(line[6:])
            if event == "token":
                indexes += [data["index"]] if data["index"] is not None else []
                text += data["text"]
                tally.tokens += 1
                if leaves_after is not None and len(indexes) > leaves_after:
                    tally.ends["left"] += 1
                    tally.left[execution_id] = len(indexes)
                    return
            elif event == "result":
                tally.seconds.append(time.monotonic() - began)
                _check(data, indexes, text, prompt, count, tally)
            elif event == "error":
                tally.faults.append(json.dumps(data))


def _check(
    data: dict[str, object], indexes: list[int], text: str, prompt: str, count: int, tally: Tally
) -> None:
    metrics = data["metrics"]
    assert isinstance(metrics, dict)
    if indexes != list(range(len(indexes))) or len(indexes) != metrics["tokens_total"]:
        tally.faults.append(f"tokens lost or doubled: {indexes} of {metrics['tokens_total']}")
    if text != data["result"]:
        tally.faults.append(f"streamed {text!r}, result {data['result']!r}")
    tally.texts.setdefault((prompt, count), set()).add(text)
    tally.ends[str(data["stop_reason"])] += 1
    tally.finished[str(data["execution_id"])] = len(indexes)


def unexplained(tally: Tally, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the records say otherwise than the clients: executions that are missing, ended for
    another reason, or hold other numbers of tokens."""
    found = [f"{id} is not recorded" for id in sorted(tally.execution_ids - records.keys())]
    strangers = sorted(records.keys() - tally.execution_ids)
    found += [f"{id} is recorded, and no client knows it" for id in strangers]
    for id, received in (tally.finished | tally.left).items():
        if (record := records.get(id)) is None:
            continue
        reason, tokens = record["stop_reason"], record["metrics"]["tokens_total"]
        if id in tally.finished and (reason != "max_tokens" or tokens != received):
            found.append(f"{id} ended with {reason} at {tokens} tokens, its client has {received}")
        # Who leaves may be overtaken by the end of the execution, but not by far.
        if id in tally.left and (reason not in ("cancelled", "max_tokens") or tokens < received):
            found.append(f"{id} was left at {received} tokens and ended with {reason} at {tokens}")
    return found


async def soak(
    url: str,
    model: str,
    *,
    clients: int,
    seconds: float,
    leave: float = 0.2,
    seed: int = 0,
    watch: Callable[[], None] | None = None,
) -> Tally:
    """``clients`` at once for ``seconds``; ``watch`` is called about once a second."""
    tally = Tally()
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=clients + 1)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        tasks = [
            asyncio.create_task(_client(http, model, random.Random(seed * 1000 + i), tally, until, leave))
            for i in range(clients)
        ]
        while not all(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=1.0)
            if watch is not None:
                watch()
        for task in tasks:
            task.result()
    return tally


@dataclass
class Attack:
    """What the attackers got: replies by status, and what no attack may cause."""

    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def hostile_bodies(model: str) -> list[tuple[str, str, bytes]]:
    """(shape, path, body), each shape in three sizes."""
    return [
        (shape, path, make(size).replace(b'"story"', json.dumps(model).encode(), 1))
        for shape, (path, make) in SHAPES.items()
        for size in (64 << 10, 512 << 10, (4 << 20) - 300)
    ]


async def attack(
    url: str, bodies: list[tuple[str, str, bytes]], *, clients: int, seconds: float, seed: int = 0
) -> Attack:
    """``clients`` attackers at once, each sending the next of ``bodies`` as soon as one was answered."""
    found, until, rng = Attack(), time.monotonic() + seconds, random.Random(seed)

    async def one(http: httpx.AsyncClient) -> None:
        while time.monotonic() < until:
            shape, path, body = rng.choice(bodies)
            try:
                reply = await http.post(path, content=body, headers={"Content-Type": "application/json"})
            except httpx.HTTPError as error:
                found.faults.append(f"{shape}, {len(body)} bytes: {error!r}")
                continue
            found.statuses[str(reply.status_code)] += 1
            if reply.status_code >= 500 and reply.status_code != 503:
                found.faults.append(f"{shape}, {len(body)} bytes: {reply.text[:200]}")

    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        await asyncio.gather(*(one(http) for _ in range(clients)))
    return found


if __name__ == "__main__":
    url, model, wanted = sys.argv[1:4]
    made = hostile_bodies(model)
    print("ready", flush=True)
    print(json.dumps(vars(asyncio.run(attack(url, made, clients=4, seconds=float(wanted))))))
