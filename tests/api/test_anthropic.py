"""The official ``anthropic`` client against a real server: messages, streams, shapes, counts, errors."""

from __future__ import annotations

import json
import threading

import httpx
import pytest

from runtime.api.service import Settings
from tests.fake_service import FakeEngine, FakeTokenizer, expected_ids, expected_text

anthropic = pytest.importorskip("anthropic")

MESSAGES = [{"role": "user", "content": "Olá"}]
PROMPT = "<system>Be brief.\n<user>Olá\n<assistant>"
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
KEY = "a key of sixteen characters"


@pytest.fixture
def live(build, serve):
    return serve(build(FakeEngine(slots=4, step_tokens=16)))


@pytest.fixture
def claude(live):
    with anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0) as client:
        yield client


def ask(claude, **fields):
    given = {"model": "story", "system": "Be brief.", "messages": MESSAGES, "max_tokens": 12}
    return claude.messages.create(**{**given, **fields})


def newest(live) -> dict:
    return live.service.plane.records.list()[0]


def test_a_message(claude):
    message = ask(claude)
    (block,) = message.content
    assert (block.type, block.text) == ("text", expected_text(PROMPT, 12))
    assert (message.type, message.role, message.model) == ("message", "assistant", "story")
    assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
    assert message.usage.input_tokens == len(FakeTokenizer().encode(PROMPT))
    assert message.usage.output_tokens == 12
    assert message.id.startswith("msg_")


def test_blocks_of_text_and_cache_marks(claude):
    mark = {"cache_control": {"type": "ephemeral"}}
    system = [{"type": "text", "text": "Be brief.", **mark}]
    said = [{"role": "user", "content": [{"type": "text", "text": "Olá", **mark}]}]
    assert ask(claude, system=system, messages=said).content[0].text == expected_text(PROMPT, 12)


def test_turns_of_one_role_are_one_turn(claude):
    said = [{"role": "user", "content": text} for text in ("One.", "Two.")]
    begun = [*said, {"role": "assistant", "content": "It"}, {"role": "assistant", "content": "was"}]
    prompt = "<system>Be brief.\n<user>One.\nTwo.\n<assistant>"
    assert ask(claude, messages=said).content[0].text == expected_text(prompt, 12)
    assert ask(claude, messages=begun).content[0].text == expected_text(f"{prompt}It\nwas", 12)


def test_an_assistants_text_at_the_end_is_continued_and_a_reply_can_be_given_back(claude):
    begun = [*MESSAGES, {"role": "assistant", "content": "It was"}]
    wanted = expected_text("<system>Be brief.\n<user>Olá\n<assistant>It was", 12)
    assert ask(claude, messages=begun).content[0].text == wanted
    first = ask(claude)
    again = [*MESSAGES, {"role": "assistant", "content": first.content}, {"role": "user", "content": "And?"}]
    prompt = f"<system>Be brief.\n<user>Olá\n<assistant>{first.content[0].text}\n<user>And?\n<assistant>"
    assert ask(claude, messages=again).content[0].text == expected_text(prompt, 12)


def test_a_stream_adds_up_to_the_same_message(claude):
    with claude.messages.stream(
        model="story", system="Be brief.", messages=MESSAGES, max_tokens=15
    ) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == message.content[0].text == expected_text(PROMPT, 15)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 15)
    assert message.usage.input_tokens == len(FakeTokenizer().encode(PROMPT))


def test_the_events_of_a_stream_come_in_their_order(live):
    body = {"model": "story", "messages": MESSAGES, "max_tokens": 3, "stream": True}
    reply = httpx.post(f"{live.url}/v1/messages", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\n") for block in reply.text.strip().split("\n\n")]
    names = [lines[0].removeprefix("event: ") for lines in events]
    assert names == [json.loads(lines[1].removeprefix("data: "))["type"] for lines in events]
    assert names == [
        "message_start", "content_block_start", *["content_block_delta"] * 3,
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip


def test_a_silent_stream_is_pinged(build, serve):
    engine = FakeEngine()
    engine.gate = threading.Event()
    live = serve(build(engine, settings=Settings(heartbeat_seconds=0.02)))
    body = {"model": "story", "messages": MESSAGES, "max_tokens": 3, "stream": True}
    with httpx.stream("POST", f"{live.url}/v1/messages", json=body) as reply:
        lines = reply.iter_lines()
        assert "event: ping" in lines  # reads on until it comes
        engine.gate.set()
        assert "event: message_stop" in lines


def test_a_stop_sequence_is_named_and_left_out(claude):
    whole = expected_text(PROMPT, 24)
    message = ask(claude, max_tokens=24, stop_sequences=["zzzz", whole[8:11]])
    assert message.content[0].text == whole[: whole.index(whole[8:11])]
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", whole[8:11])


def test_the_end_of_a_turn(build, serve):
    live = serve(build(FakeEngine(eos=True)))
    with anthropic.Anthropic(base_url=live.url, api_key="none") as claude:
        message = ask(claude, max_tokens=400)
    ids = expected_ids(FakeTokenizer().encode(PROMPT), 400, eos=True)
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", len(ids))


def test_sampling_is_that_of_the_execution(claude, live):
    sampling = {"temperature": 0.5, "top_k": 40, "top_p": 0.9}
    ask(claude, metadata={"user_id": "a"}, service_tier="auto", extra_body=sampling)
    fields = newest(live)["plan"]["fields"]
    assert {name: fields[f"sampling.{name}"]["value"] for name in sampling} == sampling
    assert fields["limits.max_tokens"]["value"] == 12


@pytest.mark.parametrize("where", ["output_config", "output_format"])
def test_a_format_is_a_constraint_of_the_execution(claude, live, where):
    form = {"type": "json_schema", "schema": SCHEMA}
    ask(claude, extra_body={where: {"format": form} if where == "output_config" else form})
    constraint = newest(live)["constraint"]
    assert (constraint["kind"], json.loads(constraint["text"])) == ("json_schema", SCHEMA)


def test_tokens_are_counted_without_an_execution(claude, live):
    counted = claude.messages.count_tokens(model="story", system="Be brief.", messages=MESSAGES)
    assert counted.input_tokens == len(FakeTokenizer().encode(PROMPT))
    assert live.service.plane.records.list() == []


def test_models(claude, live):
    (model,) = claude.models.list()
    assert (model.id, model.type, model.display_name) == ("story", "model", "Tiny Story")
    assert claude.models.retrieve("story").id == "story"


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.type"),
        ({"container": "c"}, "container"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 4096}, "max_tokens"),
        ({"stop_sequence": ["x"]}, "stop_sequence"),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, "messages"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}},
            "output_config.format.schema.not",
        ),
    ],
)
def test_what_is_not_there_is_refused_by_name(claude, live, fields, path):
    with pytest.raises(anthropic.BadRequestError) as error:
        ask(claude, **{"system": anthropic.omit, "extra_body": fields})
    body = error.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert body["error"]["path"] == path, body
    assert path in body["error"]["message"]
    assert not live.service.plane.live()


def test_what_asks_for_nothing_is_accepted(claude):
    nothing = {
        "tools": [], "tool_choice": {"type": "auto"}, "thinking": {"type": "disabled"}, "output_config": None,
        "mcp_servers": [], "container": None, "speed": "standard", "stop_sequences": [], "top_k": None,
    }  # fmt: skip
    assert ask(claude, extra_body=nothing).content[0].text == expected_text(PROMPT, 12)


def test_errors_have_the_classes_of_the_client(claude, live, build, serve):
    with pytest.raises(anthropic.NotFoundError) as error:
        ask(claude, model="claude-x")
    assert error.value.body["error"]["type"] == "not_found_error"
    live.service.plane.bundle("story").engine.broken = RuntimeError("thread lost")
    with pytest.raises(anthropic.InternalServerError, match="thread lost"):
        ask(claude)
    live.service.plane.bundle("story").engine.broken = RuntimeError("thread lost")
    with pytest.raises(anthropic.APIError, match="thread lost"):
        list(ask(claude, stream=True))


def test_the_key_is_taken_where_the_client_puts_it(build, serve):
    live = serve(build(settings=Settings(api_key=KEY)))
    with anthropic.Anthropic(base_url=live.url, api_key=KEY) as claude:
        assert ask(claude).usage.output_tokens == 12
    with anthropic.Anthropic(base_url=live.url, auth_token=KEY) as claude:
        assert ask(claude).usage.output_tokens == 12
    with (
        anthropic.Anthropic(base_url=live.url, api_key="wrong") as claude,
        pytest.raises(anthropic.AuthenticationError),
    ):
        ask(claude)


def test_leaving_a_stream_cancels_it(build, serve, records):
    engine = FakeEngine(step_seconds=0.02)
    live = serve(build(engine))
    with anthropic.Anthropic(base_url=live.url, api_key="none") as claude:
        stream = ask(claude, max_tokens=400, stream=True)
        next(iter(stream))
        (execution,) = live.service.plane.live()
        stream.close()
        assert execution.settled.wait(5)
    assert engine.free_slots == engine.limits.slots
    assert records.get(execution.id)["stop_reason"] == "cancelled"
