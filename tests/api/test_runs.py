"""``/v1/runs`` as the requirements write it, and every way it refuses."""

from __future__ import annotations

import json
import threading
import time

import pytest

from tests.fake_service import FakeEngine, expected_text

RUN_REQUEST = {  # requirements, section 5.5; the model's name is the served one's
    "model": "story",
    "prompt": "Explique inferência eficiente",
    "execution": {
        "backend": "cpu_avx2",
        "quantization": "q4_k_m",
        "scheduler_policy": "default",
        "limits": {"max_tokens": 256, "max_watts": 25},
    },
}


def events(text: str) -> list[tuple[str, dict]]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def test_the_run_request_of_the_requirements_works_as_written(client):
    reply = client.post("/v1/runs", json=RUN_REQUEST)
    assert reply.status_code == 200
    body = reply.json()
    assert body["execution_id"].startswith("exec_")
    assert body["engine_version"] == "0.1.0"
    assert body["result"] == expected_text(RUN_REQUEST["prompt"], 256)
    assert body["stop_reason"] == "max_tokens"
    assert list(body["metrics"]) == [
        "tokens_total", "tokens_per_sec", "latency_total_ms", "latency_p50_ms", "latency_p95_ms",
        "watts_avg", "tokens_per_watt", "memory_peak_mb",
    ]  # fmt: skip
    assert body["metrics"]["tokens_total"] == 256
    assert body["metrics"]["watts_avg"] is None
    assert body["diagnostics"]["unknown"]["watts_avg"] == "no energy counter"
    assert body["diagnostics"]["notes"] == ["limits.max_watts is not kept: no energy counter"]


def test_the_record_is_there_before_the_reply_ends(client, records):
    body = client.post("/v1/runs", json=RUN_REQUEST).json()
    id = body["execution_id"]
    assert records.head()["hash"] == body["record"]["hash"]
    record = client.get(f"/v1/runs/{id}").json()
    assert record["status"] == "finished"
    assert record["metrics"] == body["metrics"]
    assert record["plan"]["fields"]["limits.max_tokens"] == {"value": 256, "origin": "override"}
    metrics = client.get(f"/v1/runs/{id}/metrics").json()
    assert {"engine_version", "model", "backend", "quantization", "metrics"} <= metrics.keys()
    assert metrics["metrics"] == body["metrics"]
    assert client.get("/v1/runs/head").json() == {"count": 1, "hash": body["record"]["hash"]}
    listed = client.get("/v1/runs").json()
    assert [run["execution_id"] for run in listed["data"]] == [id]
    assert listed["has_more"] is False


def test_a_stream_gives_a_token_an_event_and_then_the_final_object(client):
    reply = client.post("/v1/runs", json={"model": "story", "prompt": "Go", "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    found = events(reply.text)
    kinds = [kind for kind, _ in found]
    assert kinds == ["queued", *["token"] * 24, "result"]
    final = found[-1][1]
    assert "".join(data["text"] for kind, data in found if kind == "token") == final["result"]
    assert final["result"] == expected_text("Go", 24)
    assert final["execution_id"] == found[0][1]["execution_id"] == reply.headers["x-execution-id"]


@pytest.mark.parametrize(
    ("change", "code", "path"),
    [
        ({"prompt": None}, "invalid_request", "prompt"),
        ({"model": 3}, "invalid_request", "model"),
        ({"modle": "x"}, "unknown_field", "modle"),
        ({"execution": {"limits": {"max_tokens": 0}}}, "invalid_request", "execution.limits.max_tokens"),
        ({"execution": {"limits": {"max_token": 1}}}, "unknown_field", "execution.limits.max_token"),
        ({"execution": {"scheduler_policy": "latncy"}}, "unknown_scheduler_policy",
         "execution.scheduler_policy"),
        ({"execution": {"limits": {"on_limit": "pace"}}}, "conflicting_fields", "execution.limits.on_limit"),
        ({"execution": {"limits": {"max_tokens": 500}}, "prompt": "x" * 100}, "context_exceeded",
         "execution.limits.max_tokens"),
        ({"prompt": "x" * 600}, "prompt_too_long", "prompt"),
        ({"prompt": "\ud800"}, "invalid_json", None),
        ({"sampling": {"top_p": 2}}, "invalid_request", "sampling.top_p"),
        ({"stop": ["a"] * 17}, "invalid_request", "stop"),
        ({"execution": {"threads": 2}}, "unknown_field", "execution.threads"),
    ],
)  # fmt: skip
def test_an_invalid_request_is_refused_with_the_path_of_the_error(client, change, code, path):
    body = {"model": "story", "prompt": "Go", **change}
    if change.get("prompt") == "\ud800":
        reply = client.post("/v1/runs", content=b'{"model": "story", "prompt": "\xff"}')
    else:
        reply = client.post("/v1/runs", json=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert set(error) >= {"code", "message", "type", "path", "hint"}
    assert (error["code"], error["path"]) == (code, path)


def test_a_misspelt_policy_gets_the_nearest_one(client):
    body = {"model": "story", "prompt": "Go", "execution": {"scheduler_policy": "latncy"}}
    assert client.post("/v1/runs", json=body).json()["error"]["hint"] == "did you mean 'latency'?"


def test_all_errors_of_a_request_come_together(client):
    reply = client.post("/v1/runs", json={"model": "", "execution": {"limits": {"max_tokens": "x"}}})
    causes = reply.json()["error"]["causes"]
    assert {cause["path"] for cause in causes} == {"model", "prompt", "execution.limits.max_tokens"}


@pytest.mark.parametrize(
    ("execution", "path"),
    [
        ({"quantization": "q6_k"}, "execution.quantization"),
        ({"backend": "reference"}, "execution.backend"),
    ],
)
def test_a_plan_that_is_not_compiled_gets_409_and_what_is_served(client, execution, path):
    reply = client.post("/v1/runs", json={"model": "story", "prompt": "Go", "execution": execution})
    assert reply.status_code == 409
    error = reply.json()["error"]
    assert (error["code"], error["path"], error["type"]) == ("plan_not_compiled", path, "conflict_error")
    assert "story" in error["allowed"]


@pytest.mark.parametrize(
    ("execution", "code", "allowed"),
    [
        ({"quantization": "q3_k"}, "unknown_recipe", "q4_k_m"),
        ({"backend": "cuda"}, "unknown_backend", "cpu_avx2"),
    ],
)
def test_what_no_engine_has_gets_400_and_what_there_is(client, execution, code, allowed):
    reply = client.post("/v1/runs", json={"model": "story", "prompt": "Go", "execution": execution})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["path"]) == (code, f"execution.{next(iter(execution))}")
    assert allowed in error["allowed"]


def test_an_unknown_model_gets_409_and_the_names_there_are(client):
    reply = client.post("/v1/runs", json={"model": "x; rm -rf /", "prompt": "Go"})
    assert reply.status_code == 409
    assert "story" in reply.json()["error"]["allowed"]


def test_execution_chooses_among_the_plans_of_one_model(build):
    from starlette.testclient import TestClient

    from runtime.api.app import create_app

    service = build(
        FakeEngine(), FakeEngine(), names=("a", "b"), changes=({}, {"quantization__recipe": "q8_0"})
    )
    client = TestClient(create_app(service))
    request = {"model": "tiny-story", "prompt": "Go"}
    ambiguous = client.post("/v1/runs", json=request)
    assert (ambiguous.status_code, ambiguous.json()["error"]["code"]) == (400, "ambiguous_model")
    chosen = client.post("/v1/runs", json={**request, "execution": {"quantization": "q8_0"}}).json()
    assert (chosen["plan"], chosen["quantization"]) == ("b", "q8_0")


def test_deleting_cancels_and_the_waiting_reply_says_so(build):
    from starlette.testclient import TestClient

    from runtime.api.app import create_app

    service = build(FakeEngine(step_seconds=0.02))
    client = TestClient(create_app(service))
    replies = []
    body = {"model": "story", "prompt": "Go", "execution": {"limits": {"max_tokens": 400}}}
    waiting = threading.Thread(target=lambda: replies.append(client.post("/v1/runs", json=body)))
    waiting.start()
    while not service.plane.live():
        time.sleep(0.005)
    id = service.plane.live()[0].id
    assert client.get(f"/v1/runs/{id}").json()["status"] in ("queued", "prefill", "decode")
    assert client.get(f"/v1/runs/{id}/metrics").status_code == 409
    assert [run["execution_id"] for run in client.get("/v1/runs").json()["live"]] == [id]
    assert client.delete(f"/v1/runs/{id}").status_code == 202
    waiting.join(10)
    assert replies[0].json()["stop_reason"] == "cancelled"
    again = client.delete(f"/v1/runs/{id}")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "run_finished")


@pytest.mark.parametrize("id", ["exec_00ff", "nonsense", "exec_zz", "..%2f..%2fetc", "exec_00ff'--"])
def test_an_unknown_or_ill_formed_id_is_not_found(client, id):
    for reply in (client.get(f"/v1/runs/{id}"), client.delete(f"/v1/runs/{id}")):
        assert reply.status_code == 404


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=99999999999999", "before=nonsense"])
def test_listing_refuses_bad_queries(client, query):
    assert client.get(f"/v1/runs?{query}").status_code in (400, 404)


def test_pages_of_records_cover_every_one_once(client):
    ids = [
        client.post("/v1/runs", json={"model": "story", "prompt": f"p{i}"}).json()["execution_id"]
        for i in range(5)
    ]
    seen, before = [], ""
    while True:
        page = client.get(f"/v1/runs?limit=2{before}").json()
        seen += [run["execution_id"] for run in page["data"]]
        if not page["has_more"]:
            break
        before = f"&before={seen[-1]}"
    assert seen == ids[::-1]


def test_a_full_queue_is_429_with_retry_after(build):
    from starlette.testclient import TestClient

    from runtime.api.app import create_app

    engine = FakeEngine(slots=1)
    engine.gate = threading.Event()
    client = TestClient(create_app(build(engine, queue_limit=1)))
    body = {"model": "story", "prompt": "Go"}
    threads = [threading.Thread(target=lambda: client.post("/v1/runs", json=body)) for _ in range(2)]
    threads[0].start()
    while not engine.steps:
        time.sleep(0.002)
    threads[1].start()
    while client.app.state.service.plane.executor.queued() < 1:
        time.sleep(0.002)
    reply = client.post("/v1/runs", json=body)
    engine.gate.set()
    assert reply.status_code == 429
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.json()["error"]["code"] == "queue_full"
    for thread in threads:
        thread.join(10)


def test_a_failed_execution_is_a_typed_error_and_recorded(build, records):
    from starlette.testclient import TestClient

    from runtime.api.app import create_app

    engine = FakeEngine()
    client = TestClient(create_app(build(engine)))
    engine.broken = RuntimeError("thread lost")
    reply = client.post("/v1/runs", json={"model": "story", "prompt": "Go"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "engine_failure")
    assert records.get(reply.headers["x-execution-id"])["stop_reason"] == "error"
    engine.broken = RuntimeError("thread lost")
    found = events(client.post("/v1/runs", json={"model": "story", "prompt": "Go", "stream": True}).text)
    assert found[-1][0] == "error"
    assert found[-1][1]["error"]["code"] == "engine_failure"


def test_a_policy_that_others_register_is_accepted(client, monkeypatch):
    from runtime.scheduler import policy as policies

    class Theirs(type(policies.get("cost"))):
        name = "theirs"

    monkeypatch.setattr(policies, "_REGISTRY", {**policies._REGISTRY, "theirs": Theirs()})
    body = {"model": "story", "prompt": "Go", "execution": {"scheduler_policy": "theirs"}}
    assert client.post("/v1/runs", json=body).json()["scheduler_policy"] == "theirs"
    assert "theirs" in client.get("/props").json()["scheduler_policies"]


def test_an_unknown_policy_is_told_with_those_there_are(client):
    body = {"model": "story", "prompt": "Go", "execution": {"scheduler_policy": "latncy"}}
    error = client.post("/v1/runs", json=body).json()["error"]
    assert "latency_energy_balanced" in error["allowed"]
    assert error["hint"] == "did you mean 'latency'?"


def test_a_random_seed_is_drawn_used_and_recorded(client, records):
    body = {"model": "story", "prompt": "Go", "sampling": {"temperature": 1, "seed": "random"}}
    seeds = set()
    for _ in range(3):
        reply = client.post("/v1/runs", json=body).json()
        field = records.get(reply["execution_id"])["plan"]["fields"]["sampling.seed"]
        assert field["origin"] == "drawn"
        seeds.add(field["value"])
        again = {**body, "sampling": {"temperature": 1, "seed": field["value"]}}
        assert client.post("/v1/runs", json=again).json()["result"] == reply["result"]
    assert len(seeds) == 3


@pytest.mark.parametrize("seed", ["randm", -1, 2**63, 1.5, True])
def test_other_seeds_are_refused_with_what_is_allowed(client, seed):
    error = client.post(
        "/v1/runs", json={"model": "story", "prompt": "x", "sampling": {"seed": seed}}
    ).json()["error"]
    assert (error["path"], error["allowed"]) == (
        "sampling.seed", 'an integer from 0 to 9223372036854775807, or "random"'
    )  # fmt: skip


def test_an_empty_request_is_told_what_it_lacks_once(client):
    error = client.post("/v1/runs", json={}).json()["error"]
    assert sorted(cause["path"] for cause in error["causes"]) == ["model", "prompt"]
    assert error["message"] == "the request has 2 errors: model is missing; prompt is missing"
    assert error["param"] == error["path"]


def test_null_says_nothing(client):
    plain = client.post("/v1/runs", json={"model": "story", "prompt": "Go"}).json()
    nulls = {
        "execution": {"backend": None, "scheduler_policy": None,
                      "limits": {"max_tokens": None, "on_limit": None}},
        "sampling": {"temperature": None, "seed": None}, "stop": None, "stream": None,
    }  # fmt: skip
    for extra in (nulls, dict.fromkeys(nulls), {"execution": {"limits": None}}):
        reply = client.post("/v1/runs", json={"model": "story", "prompt": "Go", **extra})
        assert reply.json()["result"] == plain["result"]
