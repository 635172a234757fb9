"""The official ``openai`` client against a real server: chat, streams, usage, seed, stop, logprobs."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.fake_service import FakeEngine, FakeTokenizer, expected_ids, expected_text

openai = pytest.importorskip("openai")

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Olá"}]
PROMPT = "<system>Be brief.\n<user>Olá\n<assistant>"


@pytest.fixture
def live(build, serve):
    return serve(build(FakeEngine(slots=4, step_tokens=16)))


@pytest.fixture
def ai(live):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat(ai, live):
    reply = ai.chat.completions.create(model="story", messages=MESSAGES, max_completion_tokens=12)
    assert reply.choices[0].message.content == expected_text(PROMPT, 12)
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "length"
    assert reply.object == "chat.completion"
    assert reply.system_fingerprint == live.service.plane.bundle("story").info.digest
    assert reply.usage.prompt_tokens == len(FakeTokenizer().encode(PROMPT))
    assert reply.usage.completion_tokens == 12
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 12
    assert reply.usage.prompt_tokens_details.cached_tokens == 0
    timings = reply.model_extra["timings"]
    assert set(timings) == {
        "prompt_n", "prompt_ms", "prompt_per_second",
        "predicted_n", "predicted_ms", "predicted_per_second", "cache_n",
    }  # fmt: skip
    assert timings["predicted_n"] == 12


def test_content_parts_and_developer_role(ai):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Olá"}]},
    ]
    reply = ai.chat.completions.create(model="story", messages=messages, max_tokens=6)
    assert reply.choices[0].message.content == expected_text(PROMPT, 6)


def test_a_chat_stream_adds_up_and_ends_with_usage(ai):
    chunks = list(
        ai.chat.completions.create(
            model="story",
            messages=MESSAGES,
            max_tokens=15,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == expected_text(PROMPT, 15)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 15
    assert all(c.usage is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1


def test_a_stream_ends_with_done(live):
    body = {"model": "story", "prompt": "Go", "stream": True, "max_tokens": 3}
    text = httpx.post(f"{live.url}/v1/completions", json=body).text
    assert text.endswith("data: [DONE]\n\n")


def test_completion_of_text_and_of_ids(ai):
    text = ai.completions.create(model="story", prompt="Go", max_tokens=9)
    assert text.choices[0].text == expected_text("Go", 9)
    ids = FakeTokenizer().encode("Go")
    assert (
        ai.completions.create(model="story", prompt=ids, max_tokens=9).choices[0].text == text.choices[0].text
    )
    assert (
        ai.completions.create(model="story", prompt=["Go"], max_tokens=9).choices[0].text
        == text.choices[0].text
    )


def test_stop_texts_end_and_are_left_out(ai):
    whole = expected_text("Go", 24)
    reply = ai.completions.create(model="story", prompt="Go", max_tokens=24, stop=[whole[8:11], "zzzz"])
    assert reply.choices[0].text == whole[: whole.index(whole[8:11])]
    assert reply.choices[0].finish_reason == "stop"
    streamed = ai.completions.create(model="story", prompt="Go", max_tokens=24, stop=whole[8:11], stream=True)
    assert "".join(c.choices[0].text for c in streamed if c.choices) == reply.choices[0].text


def test_a_seed_decides_a_sampled_text(ai):
    def run(seed: int) -> str:
        reply = ai.completions.create(model="story", prompt="Go", max_tokens=20, temperature=0.8, seed=seed)
        return reply.choices[0].text

    assert run(1) == run(1) == "".join(chr(i) for i in expected_ids(FakeTokenizer().encode("Go"), 20, seed=1))
    assert run(1) != run(2)


def test_logprobs_of_both_kinds(ai):
    chat = ai.chat.completions.create(
        model="story", messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=3
    )
    content = chat.choices[0].logprobs.content
    assert "".join(entry.token for entry in content) == chat.choices[0].message.content
    assert all(len(entry.top_logprobs) == 3 and entry.logprob == -0.5 for entry in content)
    assert content[0].bytes == list(content[0].token.encode())
    text = ai.completions.create(model="story", prompt="Go", max_tokens=4, logprobs=2)
    logprobs = text.choices[0].logprobs
    assert "".join(logprobs.tokens) == text.choices[0].text
    assert logprobs.text_offset == [0, 1, 2, 3]
    assert all(len(top) == 2 for top in logprobs.top_logprobs)
    streamed = ai.chat.completions.create(
        model="story", messages=MESSAGES, max_tokens=4, logprobs=True, stream=True
    )
    entries = [
        e for c in streamed if c.choices and c.choices[0].logprobs for e in c.choices[0].logprobs.content
    ]
    assert [e.token for e in entries] == [e.token for e in content]
    assert all(math.isfinite(e.logprob) for e in entries)


def test_a_whole_number_may_be_written_with_a_point(live):
    body = b'{"model": "story", "prompt": "Go", "max_tokens": 3.0, "logprobs": 2.0, "temperature": 0.0}'
    reply = httpx.post(f"{live.url}/v1/completions", content=body)
    assert reply.json()["usage"]["completion_tokens"] == 3
    assert len(reply.json()["choices"][0]["logprobs"]["top_logprobs"][0]) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("best_of", 2),
        ("parallel_tool_calls", "yes"),
        ("service_tier", "flex"),
        ("metadata", {"a": "b"}),
        ("modalities", ["text", "audio"]),
        ("store", True),
        ("audio", {"format": "wav", "voice": "alloy"}),
    ],
)
def test_what_is_not_supported_is_refused_by_name(ai, field, value):
    with pytest.raises(openai.BadRequestError) as error:
        ai.chat.completions.create(model="story", messages=MESSAGES, extra_body={field: value})
    assert error.value.body["code"] == "unsupported_field"
    assert error.value.body["path"] == field
    assert error.value.body["type"] == "invalid_request_error"


def test_a_field_that_asks_for_what_is_done_anyway_is_accepted(ai):
    plain = ai.chat.completions.create(model="story", messages=MESSAGES, max_tokens=6)
    for nothing in (
        {"n": 1, "store": False, "response_format": {"type": "text"}},
        {"user": None, "tools": None, "tool_choice": "none", "metadata": {}, "service_tier": "auto"},
        {"tools": [], "parallel_tool_calls": False, "best_of": 1, "logit_bias": {}, "stop": []},
        {"functions": [], "function_call": "auto", "modalities": ["text"], "stream_options": None},
        {"n": None, "seed": None, "ignore_eos": None, "safety_identifier": "a", "user": "b", "echo": False},
        {"cache_prompt": False, "repeat_penalty": 1, "mirostat": 0, "grammar": "", "reasoning_effort": None},
    ):
        same = ai.chat.completions.create(model="story", messages=MESSAGES, max_tokens=6, extra_body=nothing)
        assert same.choices[0].message.content == plain.choices[0].message.content


def test_a_reply_can_be_given_back_as_the_client_dumps_it(ai):
    first = ai.chat.completions.create(model="story", messages=MESSAGES, max_tokens=6).choices[0].message
    again = [*MESSAGES, first.model_dump(), {"role": "user", "content": "And?", "name": None}]
    plain = [*MESSAGES, {"role": "assistant", "content": first.content}, {"role": "user", "content": "And?"}]
    replies = [ai.chat.completions.create(model="story", messages=m, max_tokens=6) for m in (again, plain)]
    assert replies[0].choices[0].message.content == replies[1].choices[0].message.content


def test_an_assistant_may_have_said_nothing_and_nobody_else(ai):
    silent = {"role": "assistant", "content": None, "tool_calls": []}
    reply = ai.chat.completions.create(
        model="story", messages=[MESSAGES[1], silent, MESSAGES[1]], max_tokens=6
    )
    prompt = "<user>Olá\n<assistant>\n<user>Olá\n<assistant>"
    assert reply.choices[0].message.content == expected_text(prompt, 6)
    with pytest.raises(openai.BadRequestError) as error:
        ai.chat.completions.create(model="story", messages=[{"role": "user", "content": None}])
    assert error.value.body["path"] == error.value.param == "messages[0].content"


def test_a_last_assistant_message_is_continued_unless_a_new_turn_is_asked_for(ai):
    begun = [MESSAGES[1], {"role": "assistant", "content": "It was"}]

    def text(**switches) -> str:
        reply = ai.chat.completions.create(model="story", messages=begun, max_tokens=6, extra_body=switches)
        return reply.choices[0].message.content

    going_on = expected_text("<user>Olá\n<assistant>It was", 6)
    assert text() == text(continue_final_message=True) == going_on
    assert text(continue_final_message=True, add_generation_prompt=False) == going_on
    assert text(add_generation_prompt=True) == expected_text("<user>Olá\n<assistant>It was\n<assistant>", 6)
    with pytest.raises(openai.BadRequestError) as error:
        text(continue_final_message=True, add_generation_prompt=True)
    assert error.value.body["code"] == "invalid_messages"


def sampled(prompt: str, count: int, seed: int) -> str:
    return "".join(map(chr, expected_ids(FakeTokenizer().encode(prompt), count, seed=seed)))


def test_each_choice_is_an_execution_with_the_next_seed(ai, live):
    chat = ai.chat.completions.create(
        model="story", messages=MESSAGES, max_tokens=6, n=3, temperature=1, seed=7
    )
    assert [c.message.content for c in chat.choices] == [sampled(PROMPT, 6, 7 + i) for i in range(3)]
    assert [c.index for c in chat.choices] == [0, 1, 2]
    assert chat.usage.prompt_tokens == len(FakeTokenizer().encode(PROMPT))
    assert chat.usage.completion_tokens == 18
    ids = [c.model_extra["execution_id"] for c in chat.choices]
    records = [live.service.plane.records.get(id) for id in ids]
    assert [r["plan"]["fields"]["sampling.seed"]["value"] for r in records] == [7, 8, 9]


def test_a_list_of_prompts_is_as_many_executions(ai):
    reply = ai.completions.create(
        model="story",
        prompt=["ab", "cd"],
        max_tokens=5,
        n=2,
        temperature=1,
        seed=1,
        echo=True,
        extra_body={"best_of": 2},
    )
    wanted = [p + sampled(p, 5, 1 + i) for i, p in enumerate(("ab", "ab", "cd", "cd"))]
    assert [choice.text for choice in reply.choices] == wanted
    assert reply.usage.prompt_tokens == 2 * 3
    ids = ai.completions.create(model="story", prompt=[[97, 98], [99]], max_tokens=5, echo=True)
    assert [choice.text[0] for choice in ids.choices] == ["a", "c"]


def test_choices_stream_side_by_side(ai):
    stream = ai.completions.create(
        model="story", prompt=["ab", "cd"], max_tokens=9, stream=True, echo=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    texts, ends, usage = {0: "", 1: ""}, [], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            ends += [choice.index] if choice.finish_reason else []
    assert texts == {0: "ab" + expected_text("ab", 9), 1: "cd" + expected_text("cd", 9)}
    assert sorted(ends) == [0, 1]
    assert usage.completion_tokens == 18


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"prompt": ["a"] * 65, "n": 2}, "n"),
        ({"prompt": "a", "n": 2, "best_of": 3}, "best_of"),
        ({"prompt": "a", "echo": True, "logprobs": 0}, "echo"),
        ({"prompt": ["a", "b" * 9000]}, "prompt[1]"),
        ({"prompt": [[1], [2, 999]]}, "prompt[1][1]"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
    ],
)
def test_choices_that_cannot_be_are_refused_with_their_place(live, fields, path):
    reply = httpx.post(f"{live.url}/v1/completions", json={"model": "story", **fields})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, path)
    assert not live.service.plane.live()


def test_more_choices_than_the_queue_takes_are_refused_whole(build, serve):
    gate = threading.Event()
    engine = FakeEngine(slots=1)
    engine.gate = gate
    live = serve(build(engine, queue_limit=3))
    body = {"model": "story", "prompt": "Go", "n": 8}
    assert httpx.post(f"{live.url}/v1/completions", json=body).status_code == 429
    gate.set()
    for execution in live.service.plane.live():
        assert execution.settled.wait(30)
    assert engine.free_slots == 1


def test_an_unknown_model_is_not_found(ai):
    with pytest.raises(openai.NotFoundError) as error:
        ai.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert error.value.body["code"] == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        ai.models.retrieve("gpt-4")


def test_models(ai):
    assert [model.id for model in ai.models.list()] == ["story"]
    assert ai.models.retrieve("story").owned_by == "engine"


def test_a_stream_that_fails_says_so(ai, live):
    live.service.plane.bundle("story").engine.broken = RuntimeError("thread lost")
    with pytest.raises(openai.APIError, match="thread lost"):
        list(ai.completions.create(model="story", prompt="Go", stream=True))


def test_eight_at_once_each_get_their_own_text(ai):
    def run(i: int) -> str:
        stream = ai.completions.create(model="story", prompt=f"prompt {i}", max_tokens=20, stream=True)
        return "".join(c.choices[0].text for c in stream if c.choices)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(8))) == [expected_text(f"prompt {i}", 20) for i in range(8)]


def test_leaving_a_stream_frees_the_slot_and_is_recorded(build, serve, records):
    engine = FakeEngine(step_seconds=0.02)
    live = serve(build(engine))
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none") as client:
        stream = client.completions.create(model="story", prompt="Go", max_tokens=400, stream=True)
        next(iter(stream))
        execution = live.service.plane.live()[0]
        stream.close()
    assert execution.settled.wait(5)
    assert engine.free_slots == engine.limits.slots
    assert len(execution.outcome.token_ids) < 20
    assert records.get(execution.id)["stop_reason"] == "cancelled"


def test_leaving_before_a_whole_reply_cancels_it(build, serve, records):
    engine = FakeEngine(step_seconds=0.02)
    live = serve(build(engine))
    body = json.dumps({"model": "story", "prompt": "Go", "max_tokens": 400})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", live.port)) as client:
        client.sendall((head + body).encode())
        deadline = time.monotonic() + 30
        while not engine.steps:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (execution,) = live.service.plane.live()
    assert execution.settled.wait(5)
    assert engine.free_slots == engine.limits.slots
    assert records.list()[0]["stop_reason"] == "cancelled"


def test_a_chat_template_is_given_variables_and_the_record_has_them(ai, live):
    plain = ai.chat.completions.create(model="story", messages=MESSAGES, max_tokens=6)
    said = {"enable_thinking": False, "tone": "dry"}
    reply = ai.chat.completions.create(
        model="story", messages=MESSAGES, max_tokens=6, extra_body={"chat_template_kwargs": said}
    )
    assert reply.choices[0].message.content == expected_text(f"[enable_thinking=False][tone=dry]{PROMPT}", 6)
    assert reply.choices[0].message.content != plain.choices[0].message.content
    record = httpx.get(f"{live.url}/v1/runs/{reply.model_extra['execution_id']}").json()
    assert record["chat_template_kwargs"] == said
    shown = httpx.post(
        f"{live.url}/apply-template", json={"messages": MESSAGES, "chat_template_kwargs": {"a": 1}}
    )
    assert shown.json()["prompt"] == f"[a=1]{PROMPT}"


@pytest.mark.parametrize("name", ["messages", "bos_token", "not a name", "x" * 65])
def test_what_the_template_has_already_is_no_variable(ai, name):
    with pytest.raises(openai.BadRequestError) as error:
        ai.chat.completions.create(
            model="story", messages=MESSAGES, extra_body={"chat_template_kwargs": {name: 1}}
        )
    assert "chat_template_kwargs" in error.value.body["path"]
