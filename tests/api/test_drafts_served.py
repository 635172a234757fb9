"""Drafts as a client meets them: the same answer and digest in fewer steps, and everything told."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from runtime.api.app import create_app
from runtime.api.service import Service, Settings
from runtime.api.telemetry import Telemetry
from runtime.bundle.reader import open_bundle
from runtime.cli.top import History, view
from runtime.control.plane import ControlPlane
from runtime.control.records import RecordStore
from runtime.metrics.energy import EnergyMeter
from runtime.shelf.loading import load_bundle
from tests.fakes.bundle import make_bundle, resolved_plan

#: What the compiled fake says: five words that come again and again, and a step's time whatever is in it.
SCRIPT = [70, 71, 72, 73, 74] * 24
DEFINES = ("CONTEXT=512", "STEP_US=1000", "SCRIPT=" + ",".join(map(str, SCRIPT)))
PROMPT = [8, 70, 71, 72, 73, 74, 70, 71]  # its first token says how long it is


@pytest.fixture
def opened(tmp_path: Path, records: RecordStore) -> Iterator[Callable[[str], TestClient]]:
    """Builds a client over the fake, which drafts as ``kind`` says."""
    planes = []

    def make(kind: str) -> TestClient:
        plan = resolved_plan(speculation__kind=kind, execution__context=512)
        bundle = make_bundle(tmp_path / kind, DEFINES, plan=plan)
        telemetry = Telemetry()
        meter = EnergyMeter("none", (), reason="no energy counter")
        plane = ControlPlane(
            settled=telemetry.settled, stepped=telemetry.stepped, records=records, meter=meter
        )
        plane.serve(load_bundle(open_bundle(bundle)))
        plane.start()
        planes.append(plane)
        settings = Settings(allowed_hosts=(*Settings().allowed_hosts, "testserver"))
        return TestClient(create_app(Service(plane, settings, telemetry)), raise_server_exceptions=False)

    yield make
    for plane in planes:
        plane.stop()


def ask(client: TestClient) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer to the prompt, and its record."""
    body = {"model": "fake", "prompt": PROMPT, "max_tokens": len(SCRIPT), "ignore_eos": True}
    reply = client.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json(), client.get(f"/v1/runs/{reply.headers['x-execution-id']}").json()


def counter(client: TestClient, name: str) -> float:
    found = re.search(rf'^engine_{name}{{plan="fake"}} (\S+)$', client.get("/metrics").text, re.M)
    assert found is not None
    return float(found[1])


def test_answer_and_digest_stay_and_records_timings_and_metrics_tell_of_drafts(
    opened: Callable[[str], TestClient],
) -> None:
    client = opened("lookup")
    (plain, plain_record), (fast, record) = ask(opened("none")), ask(client)
    assert fast["choices"] == plain["choices"]
    assert fast["usage"] == plain["usage"]
    assert record["logits_digest"] == plain_record["logits_digest"]
    drafted, kept = (record["diagnostics"][f"{name}_tokens"] for name in ("drafted", "kept"))
    assert drafted >= kept > len(SCRIPT) // 4
    assert (fast["timings"]["draft_n"], fast["timings"]["draft_n_accepted"]) == (drafted, kept)
    assert "draft_n" not in plain["timings"]
    assert plain_record["diagnostics"]["drafted_tokens"] == 0
    assert counter(client, "spec_decode_num_draft_tokens_total") == drafted
    assert counter(client, "spec_decode_num_accepted_tokens_total") == kept


def test_latencies_are_those_between_emitted_tokens(opened: Callable[[str], TestClient]) -> None:
    """Tokens that one step gave follow each other at once: the median says so, the sum does not change."""
    _, record = ask(opened("lookup"))
    metrics = record["metrics"]
    assert metrics["tokens_total"] == len(SCRIPT)
    assert metrics["latency_p50_ms"] < 1.0 < metrics["latency_p95_ms"]  # a step takes a millisecond


def test_slots_and_the_live_view_show_drafts(opened: Callable[[str], TestClient]) -> None:
    for kind, speculative in (("none", False), ("lookup", True)):
        slots = opened(kind).get("/slots").json()
        shown = {(slot["speculative"], slot["draft_n"], slot["draft_n_accepted"]) for slot in slots}
        assert shown == {(speculative, 0, 0)}
    plan = {"plan": "fake", "running": 0.0, "waiting": 0.0, "generated": 9.0, "kv": 0.0}
    plan |= {"looked_up": 0.0, "reused": 0.0, "drafted": 8.0, "kept": 6.0}
    state = {"time": 0.0, "slots": [], "runs": {"live": [], "data": []}, "plans": [plan]}
    state |= {"watts": None, "metered": False}
    assert "75% of drafts kept" in view(History().add(state), "http://here", 120)
