"""Endpoints as llama-server users know them, Prometheus text, and the OpenAPI document."""

from __future__ import annotations

import time

import jsonschema
import pytest

from runtime.api.checking import SCHEMAS, schema
from runtime.api.endpoints import ENDPOINTS
from tests.fake_service import FakeTokenizer


def test_tokenize_and_back(client):
    ids = FakeTokenizer().encode("Olá", add_special=False)
    assert client.post("/tokenize", json={"content": "Olá"}).json() == {"tokens": ids}
    special = client.post("/tokenize", json={"content": "Olá", "add_special": True}).json()["tokens"]
    assert special == [256, *ids]
    assert client.post("/detokenize", json={"tokens": ids}).json() == {"content": "Olá"}


def test_pieces_that_are_not_utf8_are_bytes(client):
    tokens = client.post("/tokenize", json={"content": "lá", "with_pieces": True}).json()["tokens"]
    assert tokens == [{"id": 108, "piece": "l"}, {"id": 0xC3, "piece": [0xC3]}, {"id": 0xA1, "piece": [0xA1]}]


def test_an_id_outside_the_vocabulary_is_refused_with_its_place(client):
    reply = client.post("/detokenize", json={"tokens": [1, 99999]})
    assert reply.status_code == 400
    assert reply.json()["error"]["path"] == "tokens[1]"


def test_apply_template(client):
    messages = [{"role": "user", "content": "Hi"}]
    assert client.post("/apply-template", json={"messages": messages}).json() == {
        "prompt": "<user>Hi\n<assistant>"
    }
    reply = client.post("/apply-template", json={"messages": [{"role": "user"}]})
    assert reply.json()["error"]["path"] == "messages[0].content"


def test_props_and_slots(client):
    props = client.get("/props").json()
    assert (props["total_slots"], props["model_alias"]) == (4, "story")
    slots = client.get("/slots").json()
    assert len(slots) == 4
    assert not any(slot["is_processing"] for slot in slots)


def test_plans(client, service):
    plans = client.get("/v1/plans").json()["data"]
    assert [plan["name"] for plan in plans] == ["story"]
    assert plans[0]["plan"]["fields"]["backend"] == {"value": "cpu_avx2", "origin": "default"}
    assert plans[0]["memory"]["weights_bytes"] == 1_000_000


def test_prometheus_counts_tokens_and_reasons(client):
    client.post("/v1/runs", json={"model": "story", "prompt": "Go"})
    expected = {
        'engine_generation_tokens_total{plan="story"} 24.0',
        'engine_requests_finished_total{plan="story",stop_reason="max_tokens"} 1.0',
        'engine_num_requests_running{plan="story"} 0.0',
        'engine_time_to_first_token_seconds_count{plan="story"} 1.0',
    }
    deadline = time.monotonic() + 30
    # The reply may come before the step and the request are counted, and each is counted for itself.
    while missing := expected - set((text := client.get("/metrics").text).splitlines()):
        assert time.monotonic() < deadline, f"{missing} in:\n{text}"
        time.sleep(0.01)
    assert "engine_power_watts{" not in text  # unknown, so absent


def test_the_openapi_document_names_every_endpoint(client):
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    offered = {(m.upper(), p) for p, operations in document["paths"].items() for m in operations}
    assert offered == {(e.method, e.path) for e in ENDPOINTS} | {("GET", "/openapi.json")}
    ids = [op["operationId"] for operations in document["paths"].values() for op in operations.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", sorted(path.stem for path in SCHEMAS.glob("*.json")))
def test_every_schema_is_a_schema_and_describes_its_fields(name):
    jsonschema.Draft202012Validator.check_schema(schema(name))
    assert schema(name)["additionalProperties"] is False
    for field, rule in schema(name)["properties"].items():
        if field != "stream_options":
            assert rule.get("description"), field


def test_null_says_nothing_to_the_tokenizer(client):
    body = {"content": "ab", "model": None, "add_special": None, "parse_special": None, "with_pieces": None}
    assert (
        client.post("/tokenize", json=body).json() == client.post("/tokenize", json={"content": "ab"}).json()
    )
