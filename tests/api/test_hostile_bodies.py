"""What a body may cost: time and memory linear in its bytes, off the event loop, whatever is in it."""

from __future__ import annotations

import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from runtime.api import intake as intake_module
from runtime.api.checking import check
from runtime.api.endpoints import ENDPOINTS
from runtime.api.examiner import EXAMINER, Examiner
from runtime.api.rules import MAX_FAULTS
from runtime.api.strict_json import MAX_CONTAINERS, MAX_TEXTS, parse, parse_again
from runtime.errors import EngineError
from tests.fake_service import FakeEngine, FakeTokenizer
from tests.hostile import SHAPES

SCHEMA_OF = {endpoint.path: endpoint.body for endpoint in ENDPOINTS if endpoint.body}


def _refusal(path: str, data: bytes) -> EngineError | None:
    try:
        check(parse(data), SCHEMA_OF[path])
    except EngineError as error:
        return error
    return None


def _cpu_seconds(path: str, data: bytes) -> float:
    began = time.thread_time()
    _refusal(path, data)
    return time.thread_time() - began


@pytest.mark.parametrize("shape", SHAPES)
def test_eight_times_the_bytes_are_no_more_than_eight_times_the_work(shape):
    path, make = SHAPES[shape]
    small, large = make(64 << 10), make(512 << 10)
    # A factor of four for the noise of a busy machine; the square of eight lies far above it.
    assert _cpu_seconds(path, large) <= max(0.1, 32 * _cpu_seconds(path, small))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_megabyte_of_anything_takes_less_than_32(shape):
    path, make = SHAPES[shape]
    data = make(1 << 20)
    assert (3 << 18) < len(data) <= 1 << 20
    tracemalloc.start()
    try:
        error = _refusal(path, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20
    assert error is None or len(str(error.to_json())) < 10_000


def test_the_examiner_says_what_the_server_would():
    for path, make in SHAPES.values():
        body, schema = make(20 << 10), SCHEMA_OF[path]
        told: EngineError | None = None
        try:
            EXAMINER.examine(body, schema)
        except EngineError as error:
            told = error
        error = _refusal(path, body)
        assert (told and told.to_json()) == (error and error.to_json())
        if error is None:
            assert parse_again(body) == parse(body)


def test_an_examiner_that_dies_is_replaced():
    examiner = Examiner()
    try:
        examiner.examine(b'{"content": "a"}', "tokenize_request")
        examiner._process.kill()
        examiner._process.wait()
        examiner.examine(b'{"content": "a"}', "tokenize_request")
        with pytest.raises(EngineError) as error:  # ends on a schema that there is not
            examiner.examine(b"{}", "no_such_request")
        assert error.value.code == "overloaded"
        with pytest.raises(EngineError) as error:
            examiner.examine(b"[", "tokenize_request")
        assert error.value.code == "invalid_json"
    finally:
        examiner.close()


def test_only_the_first_faults_are_looked_for(client):
    body = {"model": "story", "messages": [0] * 4096, "stop": ["x"] * 100_000}
    error = client.post("/v1/chat/completions", json=body).json()["error"]
    assert error["message"].startswith(f"the request has more than {MAX_FAULTS} errors")
    assert len(error["causes"]) == MAX_FAULTS


@pytest.mark.parametrize("field", ["stop", "messages", "logit_bias"])
def test_a_list_that_is_too_long_is_one_fault(client, field):
    values = {
        "stop": ["x"] * 50_000,
        "messages": [0] * 150_000,
        "logit_bias": {str(i): 0 for i in range(5_000)},
    }
    body = {"model": "story", "messages": [{"role": "user", "content": "x"}], field: values[field]}
    error = client.post("/v1/chat/completions", json=body).json()["error"]
    assert error["path"] == field
    assert "causes" not in error


@pytest.mark.parametrize(
    ("data", "allowed"),
    [
        (b"[" + b"[]," * (MAX_CONTAINERS + 1) + b"1]", MAX_CONTAINERS),
        (b"[" + b'"",' * (MAX_TEXTS + 1) + b"1]", MAX_TEXTS),
    ],
)
def test_more_values_than_any_request_has_are_refused_before_they_are_made(client, data, allowed):
    error = client.post("/v1/runs", content=data).json()["error"]
    assert error["code"] == "invalid_json"
    assert error["allowed"] == f"at most {allowed}"


def test_the_bounds_of_a_prompt_hold_for_the_tokenizer_alone(client):
    reply = client.post("/tokenize", json={"content": "a" * 3_000_000})
    assert reply.json()["error"] | {"message": ""} == {
        "code": "prompt_too_long", "message": "", "type": "invalid_request_error", "path": "content",
        "param": "content", "allowed": "at most 512 tokens",
        "hint": "shorten it, or compile the plan with a larger execution.context, "
        "if the model was trained for one",
    }  # fmt: skip
    reply = client.post("/detokenize", json={"tokens": [97] * 600_000})
    assert (reply.status_code, reply.json()["error"]["path"]) == (400, "tokens")
    assert client.post("/detokenize", json={"tokens": [97] * 512}).json() == {"content": "a" * 512}


def test_health_and_small_requests_go_on_beside_large_ones(build, serve, monkeypatch):
    gate, begun = threading.Event(), threading.Event()
    encode = FakeTokenizer.encode

    def slow(self, text, *rest):
        if len(text) > intake_module.LARGE:
            begun.set()
            assert gate.wait(30)
        return encode(self, text, *rest)

    monkeypatch.setattr(FakeTokenizer, "encode", slow)
    monkeypatch.setattr(intake_module, "MAX_WAITING", 2)
    service = build(FakeEngine(context=2048))
    url = serve(service).url
    large = {"content": "a" * (intake_module.LARGE + 1)}
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(httpx.post, f"{url}/tokenize", json=large, timeout=60) for _ in range(2)]
        assert begun.wait(30)
        while service.intake.waiting < 2:
            time.sleep(0.005)
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        assert httpx.post(f"{url}/tokenize", json={"content": "ab"}).json() == {"tokens": [97, 98]}
        reply = httpx.post(f"{url}/tokenize", json=large)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
        gate.set()
        assert [len(found.result().json()["tokens"]) for found in waiting] == [len(large["content"])] * 2


def test_bodies_that_are_held_have_a_bound_and_are_let_go(client, service, monkeypatch):
    monkeypatch.setattr(intake_module, "MAX_HELD_BYTES", 10_000)
    body = {"content": "a" * 9_000}
    for _ in range(3):
        assert client.post("/tokenize", json=body).status_code == 200
    service.intake.hold(5_000)
    assert client.post("/tokenize", json=body).status_code == 503
    service.intake.hold(-5_000)
    assert client.post("/tokenize", json=body).status_code == 200
