"""The official ``openai`` client against a real server: chat, streams, usage, seed, stop, logprobs."""

from __future__ import annotations

import json
import math
import socket
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
        ("n", 2),
        ("response_format", {"type": "json_object"}),
        ("store", True),
        ("audio", {"format": "wav", "voice": "alloy"}),
    ],
)
def test_what_is_not_supported_is_refused_by_name(ai, field, value):
    with pytest.raises(openai.BadRequestError) as error:
        ai.chat.completions.create(model="story", messages=MESSAGES, **{field: value})
    assert error.value.body["code"] == "unsupported_field"
    assert error.value.body["path"] == field
    assert error.value.body["type"] == "invalid_request_error"


def test_a_field_that_asks_for_what_is_done_anyway_is_accepted(ai):
    plain = ai.chat.completions.create(model="story", messages=MESSAGES, max_tokens=6)
    same = ai.chat.completions.create(
        model="story", messages=MESSAGES, max_tokens=6, n=1, store=False, response_format={"type": "text"}
    )
    assert same.choices[0].message.content == plain.choices[0].message.content


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
