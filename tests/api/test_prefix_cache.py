"""The prefix cache as a client meets it: the same bits, fewer tokens computed, and everything told.

The engine is the compiled fake, whose logits are a hash of all tokens that the pages of a slot
hold: a page that held anything else would change them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from runtime.api.app import create_app
from runtime.api.service import Service, Settings
from runtime.api.telemetry import Telemetry
from runtime.bundle.reader import open_bundle
from runtime.control.plane import ControlPlane
from runtime.metrics.energy import EnergyMeter
from runtime.shelf.loading import load_bundle
from tests.fakes.bundle import make_bundle, resolved_plan

DEFINES = ("CONTEXT=2048", "STEP_TOKENS=128", "SLOTS=4", "STEP_US=200")
SYSTEM = "You tell stories about a dog and a cat, and you never tell the same one twice. " * 8  # 640 bytes


def fake_plan(**changes: object):
    sizes = {"execution__context": 2048, "execution__step_tokens": 128, "execution__slots": 4}
    return resolved_plan(**sizes, **changes)


@pytest.fixture
def opened(tmp_path: Path, records):
    """Builds a client over the fake bundle."""
    planes = []

    def make(*defines: str, **changes: object) -> TestClient:
        path, shape = tmp_path / f"bundle{len(planes)}", (*DEFINES, *defines)
        bundle = make_bundle(path, shape, plan=fake_plan(**changes))
        telemetry = Telemetry()
        plane = ControlPlane(
            settled=telemetry.settled,
            stepped=telemetry.stepped,
            records=records,
            meter=EnergyMeter("none", (), reason="no energy counter"),
        )
        plane.serve(load_bundle(open_bundle(bundle)))
        plane.start()
        planes.append(plane)
        settings = Settings(allowed_hosts=(*Settings().allowed_hosts, "testserver"))
        return TestClient(create_app(Service(plane, settings, telemetry)), raise_server_exceptions=False)

    yield make
    for plane in planes:
        plane.stop()


def ask(client: TestClient, prompt: str, **fields: object) -> dict:
    body = {"model": "fake", "prompt": prompt, "max_tokens": 8, **fields}
    reply = client.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def record_by_header(client: TestClient, prompt: str, **fields: object) -> dict:
    body = {"model": "fake", "prompt": prompt, "max_tokens": 8, **fields}
    reply = client.post("/v1/completions", json=body)
    return client.get(f"/v1/runs/{reply.headers['x-execution-id']}").json()


def test_a_second_turn_computes_what_is_new_and_gives_the_same_bits(opened):
    client, cold = opened(), opened(execution__prefix_cache="off")
    first = ask(client, SYSTEM)
    turn = SYSTEM + first["choices"][0]["text"] + " And then?"
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    warm = record_by_header(client, turn)
    fresh = record_by_header(cold, turn)
    assert warm["logits_digest"] == fresh["logits_digest"]
    assert warm["diagnostics"]["reused_tokens"] >= len(SYSTEM)
    assert fresh["diagnostics"]["reused_tokens"] == 0
    admitted = next(d for d in warm["decisions"] if d["action"] == "admitted")
    assert admitted["reused_tokens"] == warm["diagnostics"]["reused_tokens"]


def test_usage_timings_slots_and_metrics_tell_of_it(opened):
    client = opened()
    ask(client, SYSTEM)
    again = ask(client, SYSTEM)
    cached = again["usage"]["prompt_tokens_details"]["cached_tokens"]
    prompt = again["usage"]["prompt_tokens"]
    assert prompt - 1 >= cached >= prompt - 2
    assert again["timings"]["cache_n"] == cached
    assert again["timings"]["prompt_n"] == prompt - cached
    text = client.get("/metrics").text
    assert f'engine_prefix_cache_queries_total{{plan="fake"}} {2.0 * prompt}' in text
    assert f'engine_prefix_cache_hits_total{{plan="fake"}} {float(cached)}' in text
    assert 'engine_kv_cache_usage_perc{plan="fake"} 0.0' in text
    slots = client.get("/slots").json()
    assert {(slot["pages"], slot["n_cached"]) for slot in slots} == {(0, 0)}


def test_a_request_may_keep_out_of_the_cache_or_have_one_of_its_own(opened):
    def cached(client, **fields):
        return ask(client, SYSTEM, **fields)["usage"]["prompt_tokens_details"]["cached_tokens"]

    client = opened()
    assert cached(client, cache_prompt=False) == 0
    assert cached(client, cache_prompt=False) == 0
    assert cached(client, cache_salt="mine") == 0
    assert cached(client) == 0
    assert cached(client, cache_salt="mine") > 0
    assert cached(client, cache_prompt=True) > 0
    assert client.post(
        "/v1/completions", json={"prompt": "a", "cache_salt": "x" * 257}
    ).status_code == 400  # fmt: skip


def test_a_run_request_has_the_same_fields(opened):
    client = opened()
    for wish, expected in (({}, 0), ({"cache_prompt": False}, 0), ({"cache_salt": "s"}, 0), ({}, 1)):
        body = {"model": "fake", "prompt": SYSTEM, "execution": {"limits": {"max_tokens": 4}}, **wish}
        reply = client.post("/v1/runs", json=body)
        assert reply.status_code == 200, reply.text
        reused = reply.json()["diagnostics"]["reused_tokens"]
        assert (reused > 0) == bool(expected)


def test_a_system_prompt_of_many_at_once_is_computed_once(opened):
    client, questions = opened(), [f"{i} what?" for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        warm = list(pool.map(lambda q: record_by_header(client, SYSTEM + q), questions))
    text = client.get("/metrics").text
    computed = float(text.split('engine_prompt_tokens_total{plan="fake"} ')[1].split()[0])
    whole = len(SYSTEM) // 256 * 256
    # Once for all, and of each what is behind the last whole page.
    assert computed <= whole + sum(record["prompt_tokens"] - whole for record in warm)
    cold = opened(execution__prefix_cache="off")
    for question, record in zip(questions, warm, strict=True):
        assert record["logits_digest"] == record_by_header(cold, SYSTEM + question)["logits_digest"]
    actions = {d["action"] for record in warm for d in record["decisions"]}
    assert {"admitted", "prefill", "finished"} <= actions


def test_many_short_sequences_live_where_few_long_ones_would(opened):
    """Four slots over the pages of one full context: what does not fit waits, and nothing is lost."""
    client = opened("PAGES=8", execution__kv_pages=8)
    prompts = [f"{i} " + "x" * 500 for i in range(12)]
    with ThreadPoolExecutor(12) as pool:
        done = list(pool.map(lambda prompt: record_by_header(client, prompt, max_tokens=40), prompts))
    assert all(record["metrics"]["tokens_total"] > 0 for record in done)
    reasons = {d["reason"] for record in done for d in record["decisions"] if d["action"] == "delayed"}
    assert "too few pages are free" in reasons  # three of 540 positions fill eight pages, and a slot is left
    cold = opened(execution__prefix_cache="off")
    for prompt, record in zip(prompts, done, strict=True):
        fresh = record_by_header(cold, prompt, max_tokens=40)
        assert record["logits_digest"] == fresh["logits_digest"]
    assert client.get("/health").status_code == 200


def test_a_page_that_is_not_given_back_is_found_once_idle(opened):
    client = opened()
    memory = client.app.state.service.plane.executor.lanes()[0].bundle.engine.memory
    ask(client, SYSTEM)
    assert client.get("/health").status_code == 200
    memory.pools[0].take()
    ask(client, SYSTEM)
    health = client.get("/health")
    assert health.status_code == 503
    assert "1 pages are in use" in health.text
