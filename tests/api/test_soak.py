"""The short form of the soak: 64 clients, one in five leaving at random."""

from __future__ import annotations

import asyncio
import os
import time

from runtime.api.service import Settings
from tests.fake_service import FakeEngine, expected_text
from tests.soak import soak, unexplained


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_nothing_is_lost_doubled_or_leaked(build, serve, records):
    engine = FakeEngine(slots=8, step_tokens=32, step_seconds=0.0005)
    service = build(engine, queue_limit=32, settings=Settings(max_in_flight=512))
    live = serve(service)
    # Descriptors that stay open by design are open after this.
    warmed = asyncio.run(soak(live.url, "story", clients=4, seconds=0.3)).execution_ids
    before = open_files()
    tally = asyncio.run(soak(live.url, "story", clients=64, seconds=5))
    deadline = time.monotonic() + 10
    while service.plane.live():
        assert time.monotonic() < deadline, service.plane.live()
        time.sleep(0.01)
    assert tally.faults == []
    assert tally.ends["left"] > 5
    assert tally.ends["max_tokens"] > 20
    for (prompt, count), texts in tally.texts.items():
        assert texts == {expected_text(prompt, count)}
    assert engine.free_slots == 8
    for lane in service.plane.executor.lanes():
        lane.check()
    recorded = {record["execution_id"]: record for record in records.list(limit=100_000)}
    assert unexplained(tally, {id: recorded[id] for id in recorded.keys() - warmed}) == []
    _, faults = records.verify()
    assert not faults
    while open_files() > before + 2:
        assert time.monotonic() < deadline, (before, open_files())
        time.sleep(0.05)
