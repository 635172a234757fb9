"""The official ``openai`` client's newer API against a real server: responses, streams, shapes, errors."""

from __future__ import annotations

import json

import pytest

from tests.fake_service import FakeEngine, FakeTokenizer, expected_text

openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")

PROMPT = "<system>Be brief.\n<user>Olá\n<assistant>"


class Named(pydantic.BaseModel):
    name: str


@pytest.fixture
def live(build, serve):
    return serve(build(FakeEngine(slots=4, step_tokens=16)))


@pytest.fixture
def ai(live):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(ai, **fields):
    given = {"model": "story", "instructions": "Be brief.", "input": "Olá", "max_output_tokens": 12}
    return ai.responses.create(**{**given, **fields})


def newest(live) -> dict:
    return live.service.plane.records.list()[0]


def test_a_response(ai):
    response = ask(ai)
    assert response.output_text == expected_text(PROMPT, 12)
    assert (response.object, response.model, response.store) == ("response", "story", False)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.usage.input_tokens == len(FakeTokenizer().encode(PROMPT))
    assert response.usage.output_tokens == 12
    assert response.usage.total_tokens == response.usage.input_tokens + 12
    assert (response.output[0].type, response.output[0].role) == ("message", "assistant")
    assert response.model_extra["timings"]["predicted_n"] == 12


def test_one_that_ends_by_itself_is_completed(build, serve):
    live = serve(build(FakeEngine(eos=True)))
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none") as ai:
        response = ask(ai, max_output_tokens=400)
    assert (response.status, response.incomplete_details) == ("completed", None)
    assert response.output_text == expected_text(PROMPT, 400, eos=True)


def test_input_may_be_a_conversation_and_a_reply_can_be_given_back(ai):
    first = ask(ai)
    said = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Olá"}]
    parts = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Olá"}]}]
    assert ask(ai, instructions=None, input=said).output_text == first.output_text
    assert ask(ai, input=parts).output_text == first.output_text
    again = [*parts, *(item.model_dump() for item in first.output), {"role": "user", "content": "And?"}]
    prompt = f"<system>Be brief.\n<user>Olá\n<assistant>{first.output_text}\n<user>And?\n<assistant>"
    assert ask(ai, input=again).output_text == expected_text(prompt, 12)


def test_a_stream_adds_up_to_the_same_response(build, serve):
    live = serve(build(FakeEngine(eos=True)))
    asked = {"model": "story", "instructions": "Be brief.", "input": "Olá", "max_output_tokens": 400}
    with (
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="none") as ai,
        ai.responses.stream(**asked) as stream,
    ):
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == expected_text(PROMPT, 400, eos=True)
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_the_events_of_a_stream_come_in_their_order(ai):
    events = list(ask(ai, stream=True, max_output_tokens=3))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", *["output_text.delta"] * 3,
        "output_text.done", "content_part.done", "output_item.done", "incomplete",
    ]  # fmt: skip
    text = expected_text(PROMPT, 3)
    assert events[-4].text == events[-3].part.text == events[-2].item.content[0].text == text
    assert events[-1].response.output_text == "".join(event.delta for event in events[4:7]) == text
    assert events[-1].response.usage.output_tokens == 3


def test_a_format_is_a_constraint_of_the_execution(ai, live):
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    response = ask(ai, text={"format": form})
    assert json.loads(newest(live)["constraint"]["text"]) == {"type": "object"}
    assert response.text.format.type == "json_schema"
    ask(ai, text={"format": {"type": "json_object"}})
    assert json.loads(newest(live)["constraint"]["text"]) == {"type": "object"}
    with pytest.raises(pydantic.ValidationError):  # the fake engine keeps to no constraint
        ai.responses.parse(model="story", input="Olá", text_format=Named)
    assert json.loads(newest(live)["constraint"]["text"])["required"] == ["name"]


def test_sampling_and_logprobs(ai, live):
    response = ask(ai, temperature=0.5, top_p=0.9, top_logprobs=3, include=["message.output_text.logprobs"])
    content = response.output[0].content[0]
    assert "".join(entry.token for entry in content.logprobs) == content.text
    assert all(len(entry.top_logprobs) == 3 for entry in content.logprobs)
    assert (response.temperature, response.top_p) == (0.5, 0.9)
    fields = newest(live)["plan"]["fields"]
    assert [fields[f"sampling.{name}"]["value"] for name in ("temperature", "top_p")] == [0.5, 0.9]
    streamed = ask(ai, include=["message.output_text.logprobs"], stream=True)
    entries = [e for event in streamed if event.type == "response.output_text.delta" for e in event.logprobs]
    assert "".join(entry.token for entry in entries) == expected_text(PROMPT, 12)


IMAGE = {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "auto"}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "low"}}, "reasoning.effort"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"max_output_tokens": 4096}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"input": "x" * 600}, "input"),
        ({"stop": ["x"]}, "stop"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"not": {}}}}},
            "text.format.schema.not",
        ),
    ],
)
def test_what_is_not_there_is_refused_by_name(ai, live, fields, path):
    with pytest.raises(openai.BadRequestError) as error:
        ask(ai, instructions=None, extra_body=fields)
    assert error.value.body["path"] == error.value.param == path, error.value.body
    assert not live.service.plane.live()


def test_what_asks_for_nothing_is_accepted(ai):
    nothing = {
        "store": False, "previous_response_id": None, "tools": [], "tool_choice": "auto", "include": [],
        "parallel_tool_calls": True, "truncation": "disabled", "background": False, "metadata": {},
        "reasoning": {"effort": None}, "text": {"format": {"type": "text"}}, "service_tier": "auto",
        "user": "a", "prompt_cache_key": "b", "stream_options": {"include_obfuscation": False},
    }  # fmt: skip
    assert ask(ai, extra_body=nothing).output_text == expected_text(PROMPT, 12)


def test_a_failure_is_an_error_or_the_last_event(ai, live):
    with pytest.raises(openai.NotFoundError):
        ask(ai, model="gpt-4")
    live.service.plane.bundle("story").engine.broken = RuntimeError("thread lost")
    with pytest.raises(openai.InternalServerError, match="thread lost"):
        ask(ai)
    live.service.plane.bundle("story").engine.broken = RuntimeError("thread lost")
    last = list(ask(ai, stream=True))[-1]
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert "thread lost" in last.response.error.message


def test_leaving_a_stream_cancels_it(build, serve, records):
    engine = FakeEngine(step_seconds=0.02)
    live = serve(build(engine))
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none") as ai:
        stream = ask(ai, max_output_tokens=400, stream=True)
        next(iter(stream))
        (execution,) = live.service.plane.live()
        stream.close()
        assert execution.settled.wait(5)
    assert engine.free_slots == engine.limits.slots
    assert records.get(execution.id)["stop_reason"] == "cancelled"
