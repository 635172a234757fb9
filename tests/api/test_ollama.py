"""The official ``ollama`` client against a real server: chat, generate, streams, shapes, models, errors."""

from __future__ import annotations

import json
import threading

import httpx
import pytest

from runtime.version import ENGINE_VERSION
from tests.fake_service import FakeEngine, FakeTokenizer, expected_ids, expected_text

ollama = pytest.importorskip("ollama")

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Olá"}]
PROMPT = "<system>Be brief.\n<user>Olá\n<assistant>"
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.fixture
def live(build, serve):
    return serve(build(FakeEngine(slots=4, step_tokens=16)))


@pytest.fixture
def client(live):
    with ollama.Client(host=live.url) as client:
        yield client


def newest(live) -> dict:
    return live.service.plane.records.list()[0]


def test_chat(client):
    reply = client.chat("story:latest", MESSAGES, options={"num_predict": 12}, keep_alive="5m")
    assert (reply.message.role, reply.message.content) == ("assistant", expected_text(PROMPT, 12))
    assert (reply.model, reply.done, reply.done_reason) == ("story", True, "length")
    assert reply.prompt_eval_count == len(FakeTokenizer().encode(PROMPT))
    assert reply.eval_count == 12
    assert reply.total_duration >= reply.prompt_eval_duration + reply.eval_duration > 0
    assert reply.created_at.endswith("Z")


def test_a_chat_stream_adds_up_and_its_last_line_counts(client):
    parts = list(client.chat("story", MESSAGES, options={"num_predict": 15}, stream=True))
    assert "".join(part.message.content for part in parts) == expected_text(PROMPT, 15)
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].eval_count, parts[-1].done_reason) == (15, "length")
    assert all(part.eval_count is None for part in parts[:-1])


def test_streaming_is_the_default_in_lines(live):
    body = {"model": "story", "prompt": "Go", "options": {"num_predict": 3}}
    reply = httpx.post(f"{live.url}/api/generate", json=body)
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in reply.text.splitlines()]
    assert "".join(line["response"] for line in lines) == expected_text("<user>Go\n<assistant>", 3)
    assert lines[-1]["execution_id"] == reply.headers["x-execution-id"]


def test_generate_with_a_system_message_and_raw(client):
    options = {"num_predict": 9}
    asked = client.generate("story", "Olá", system="Be brief.", options=options)
    assert asked.response == expected_text(PROMPT, 9)
    raw = client.generate("story", "Go", raw=True, options=options)
    assert raw.response == expected_text("Go", 9)
    parts = client.generate("story", "Go", raw=True, options=options, stream=True)
    assert "".join(part.response for part in parts) == raw.response


def test_nothing_asked_is_a_plan_in_memory(client, live):
    assert client.generate("story").done_reason == "load"
    assert client.chat("story", []).done_reason == "load"
    assert live.service.plane.records.list() == []


def test_options_become_sampling_and_limits(client, live):
    options = {
        "temperature": 0.8, "seed": 7, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.9,
        "repeat_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.25, "repeat_last_n": -1,
        "num_predict": 8, "num_ctx": 512, "num_thread": 1, "num_gpu": 0, "stop": ["zzzz"],
    }  # fmt: skip
    reply = client.generate("story", "Go", raw=True, options=options)
    assert reply.response == "".join(map(chr, expected_ids(FakeTokenizer().encode("Go"), 8, seed=7)))
    record = newest(live)
    values = {name: field["value"] for name, field in record["plan"]["fields"].items()}
    assert values["sampling.repetition_penalty"] == 1.1
    same = (
        "temperature",
        "seed",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "presence_penalty",
        "frequency_penalty",
    )
    assert {name: values[f"sampling.{name}"] for name in same} == {name: options[name] for name in same}
    assert (values["limits.max_tokens"], record["stop"]) == (8, ["zzzz"])


def test_a_negative_count_is_what_the_context_leaves_and_a_negative_seed_is_drawn(client, live):
    reply = client.generate("story", "Go", raw=True, options={"num_predict": -1, "seed": -1})
    assert reply.prompt_eval_count + reply.eval_count == 512 + 1
    assert newest(live)["plan"]["fields"]["sampling.seed"]["value"] > 0


def test_a_stop_text_ends_and_is_left_out(client):
    whole = expected_text("Go", 24)
    reply = client.generate("story", "Go", raw=True, options={"stop": whole[8:11], "num_predict": 24})
    assert (reply.response, reply.done_reason) == (whole[: whole.index(whole[8:11])], "stop")


@pytest.mark.parametrize(("form", "schema"), [("json", {"type": "object"}), (SCHEMA, SCHEMA)])
def test_a_format_is_a_constraint_of_the_execution(client, live, form, schema):
    client.chat("story", MESSAGES, format=form, options={"num_predict": 2})
    constraint = newest(live)["constraint"]
    assert (constraint["kind"], json.loads(constraint["text"])) == ("json_schema", schema)


def test_logprobs(client):
    reply = client.chat("story", MESSAGES, logprobs=True, top_logprobs=3, options={"num_predict": 4})
    assert "".join(entry.token for entry in reply.logprobs) == reply.message.content
    assert all(len(entry.top_logprobs) == 3 and entry.logprob == -0.5 for entry in reply.logprobs)
    parts = client.generate("story", "Go", raw=True, logprobs=True, options={"num_predict": 4}, stream=True)
    tokens = [entry.token for part in parts for entry in part.logprobs or ()]
    assert "".join(tokens) == expected_text("Go", 4)


def test_what_is_served(client, live):
    info = live.service.plane.bundle("story").info
    (tag,) = client.list().models
    assert (tag.model, tag.digest, tag.size) == ("story", info.digest, 1_000_000)
    assert (tag.details.family, tag.details.parameter_size) == ("llama", "1.00M")
    (running,) = client.ps().models
    assert (running.name, running.size, running.context_length) == ("story", 1_110_000, 512)
    shown = client.show("story")
    assert shown.modelinfo["general.parameter_count"] == 1_000_000
    assert (shown.template, shown.capabilities) == ("{# fake #}", ["completion"])
    assert "num_predict          24" in shown.parameters.splitlines()
    version = httpx.get(f"{live.url}/api/version").json()
    assert version == {"version": ENGINE_VERSION}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"images": ["aGk="]}, "images"),
        ({"think": True}, "think"),
        ({"suffix": "x"}, "suffix"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"keep_alive": 0}, "keep_alive"),
        ({"keep_alive": "0s"}, "keep_alive"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"num_gpu": 99}}, "options.num_gpu"),
        ({"options": {"num_ctx": 4096}}, "options.num_ctx"),
        ({"options": {"num_thread": 64}}, "options.num_thread"),
        ({"options": {"num_predict": 4096}}, "options.num_predict"),
        ({"options": {"temperature": -1}}, "options.temperature"),
        ({"options": {"repeat_last_n": 64, "repeat_penalty": 1.1}}, "options.repeat_last_n"),
        ({"options": {"temprature": 1}}, "options.temprature"),
        ({"format": {"type": "object", "properties": {"a": {"not": {}}}}}, "format.properties.a.not"),
        ({"raw": True, "system": "Be brief."}, "system"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"prompt": "x" * 600}, "prompt"),
    ],
)
def test_what_is_not_there_is_refused_by_name_in_ollamas_shape(live, fields, path):
    reply = httpx.post(f"{live.url}/api/generate", json={"model": "story", "prompt": "Go", **fields})
    error = reply.json()
    assert (reply.status_code, error["path"]) == (400, path), error
    assert path in error["error"]
    assert not live.service.plane.live()


def test_what_asks_for_nothing_is_accepted(client, live):
    plain = client.chat("story", MESSAGES, options={"num_predict": 6})
    said = [{**message, "images": [], "tool_calls": [], "thinking": ""} for message in MESSAGES]
    nothing = {"think": False, "tools": [], "format": "", "keep_alive": -1, "logprobs": False}
    options = {
        "num_predict": 6,
        "num_gpu": 0,
        "mirostat": 0,
        "num_keep": 4,
        "repeat_last_n": 64,
        "seed": None,
    }
    same = httpx.post(
        f"{live.url}/api/chat",
        json={"model": "story", "messages": said, "stream": False, "options": options, **nothing},
    )
    assert same.json()["message"]["content"] == plain.message.content


def test_errors_are_a_text_that_the_client_shows(client, live):
    with pytest.raises(ollama.ResponseError, match="no compiled plan for the model 'llama3'") as unknown:
        client.chat("llama3", MESSAGES)
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="computes no embeddings") as refused:
        client.embed("story", "text")
    assert refused.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="there is nothing here"):
        client.pull("llama3")
    live.service.plane.bundle("story").engine.broken = RuntimeError("thread lost")
    with pytest.raises(ollama.ResponseError, match="thread lost"):
        list(client.generate("story", "Go", stream=True))


def test_a_message_with_a_tool_is_refused_at_its_place(live):
    said = [*MESSAGES, {"role": "tool", "content": "21"}]
    error = httpx.post(f"{live.url}/api/chat", json={"model": "story", "messages": said}).json()
    assert error["path"] == "messages[2].role"


def test_leaving_a_stream_cancels_it(build, serve, records):
    engine = FakeEngine(step_seconds=0.02)
    live = serve(build(engine))
    with ollama.Client(host=live.url) as client:
        stream = client.generate("story", "Go", options={"num_predict": 400}, stream=True)
        next(stream)
        (execution,) = live.service.plane.live()
        stream.close()
        assert execution.settled.wait(5)
    assert engine.free_slots == engine.limits.slots
    assert records.get(execution.id)["stop_reason"] == "cancelled"


def test_a_silent_stream_is_kept_alive_by_lines_that_are_objects(build, serve):
    from runtime.api.service import Settings

    engine = FakeEngine()
    engine.gate = threading.Event()
    live = serve(build(engine, settings=Settings(heartbeat_seconds=0.02)))
    with ollama.Client(host=live.url) as client:
        stream = client.chat("story", MESSAGES, options={"num_predict": 4}, stream=True)
        first = next(stream)
        assert (first.message.content, first.done) == ("", False)
        engine.gate.set()
        assert "".join(part.message.content for part in stream) == expected_text(PROMPT, 4)
