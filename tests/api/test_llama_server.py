"""``/completion`` as llama-server's clients speak it: all kinds of prompts, streams, errors."""

from __future__ import annotations

import json

import httpx
import pytest

from runtime.engine.request import MAX_BIAS
from tests.fake_service import FakeEngine, FakeTokenizer, expected_ids, expected_text

IDS = FakeTokenizer().encode("Go")


@pytest.fixture
def live(build, serve):
    return serve(build(FakeEngine(slots=4, step_tokens=16)))


def post(live, path: str = "/completion", **fields) -> httpx.Response:
    return httpx.post(live.url + path, json={"prompt": "Go", "n_predict": 9, **fields})


def newest(live) -> dict:
    return live.service.plane.records.list()[0]


@pytest.mark.parametrize("path", ["/completion", "/completions"])
def test_a_completion(live, path):
    reply = post(live, path).json()
    assert reply["content"] == expected_text("Go", 9)
    assert (reply["index"], reply["stop"], reply["stop_type"], reply["model"]) == (0, True, "limit", "story")
    assert (reply["tokens_predicted"], reply["tokens_evaluated"]) == (9, len(IDS))
    assert (reply["prompt"], reply["tokens"], reply["stopping_word"]) == ("Go", [], "")
    assert reply["generation_settings"]["n_predict"] == reply["timings"]["predicted_n"] == 9


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        (IDS, ["Go"]),
        ([*IDS[:1], "Go"], ["Go"]),
        (["Go"], ["Go"]),
        (["Go", "On"], ["Go", "On"]),
        (["Go", IDS, [256, "On"]], ["Go", "Go", "On"]),
    ],
)
def test_a_prompt_is_text_ids_both_or_a_list_of_such(live, prompt, texts):
    reply = post(live, prompt=prompt).json()
    replies = reply if len(texts) > 1 else [reply]
    assert [one["content"] for one in replies] == [expected_text(text, 9) for text in texts]
    assert [one["index"] for one in replies] == list(range(len(texts)))


def events(live, **fields) -> list[dict]:
    lines = post(live, stream=True, **fields).text.strip().split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_stream_adds_up_and_ends_with_stop(live):
    parts = events(live)
    assert "".join(part["content"] for part in parts) == expected_text("Go", 9)
    assert [part["stop"] for part in parts] == [False] * 9 + [True]
    assert [part["tokens_predicted"] for part in parts] == [*range(1, 10), 9]
    assert [id for part in parts for id in part["tokens"]] == expected_ids(IDS, 9)
    assert parts[-1]["timings"]["predicted_n"] == 9


def test_completions_stream_side_by_side(live):
    texts = {0: "", 1: ""}
    for part in events(live, prompt=["ab", "cd"]):
        texts[part["index"]] += part["content"]
    assert texts == {0: expected_text("ab", 9), 1: expected_text("cd", 9)}


def test_several_completions_draw_with_following_seeds(live):
    replies = post(live, n_cmpl=2, temperature=1, seed=7, return_tokens=True).json()
    assert [reply["tokens"] for reply in replies] == [expected_ids(IDS, 9, seed=7 + i) for i in range(2)]


def test_fields_become_sampling_limits_and_wishes(live):
    post(
        live, temperature=0.8, top_k=40, repeat_penalty=1.1, dry_multiplier=0.5, seed=-1, min_p=0.05,
        logit_bias=[[97, 2], [98, False]], ignore_eos=True, json_schema={"type": "object"},
    )  # fmt: skip
    record = newest(live)
    fields = {name: field["value"] for name, field in record["plan"]["fields"].items()}
    assert fields["sampling.repetition_penalty"] == 1.1
    assert (fields["sampling.dry_multiplier"], fields["sampling.top_k"]) == (0.5, 40)
    assert fields["sampling.seed"] > 0
    assert record["logit_bias"] == {"97": 2, "98": -MAX_BIAS}
    assert (record["ignore_eos"], record["constraint"]["kind"]) == (True, "json_schema")


def test_a_negative_count_is_what_the_context_leaves(live):
    reply = post(live, n_predict=-1).json()
    assert reply["tokens_evaluated"] + reply["tokens_predicted"] == 512 + 1


def test_why_it_stopped(live, build, serve):
    whole = expected_text("Go", 24)
    reply = post(live, n_predict=24, stop=["zzzz", whole[8:11]]).json()
    assert reply["content"] == whole[: whole.index(whole[8:11])]
    assert (reply["stop_type"], reply["stopping_word"]) == ("word", whole[8:11])
    other = serve(build(FakeEngine(eos=True)))
    assert post(other, n_predict=400).json()["stop_type"] == "eos"


def test_probabilities(live):
    entries = post(live, n_probs=2).json()["completion_probabilities"]
    assert "".join(entry["token"] for entry in entries) == expected_text("Go", 9)
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] == -0.5 for entry in entries)
    streamed = [entry for part in events(live, n_probs=2)[:-1] for entry in part["completion_probabilities"]]
    assert streamed == entries


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"mirostat": 2}, "mirostat"),
        ({"samplers": ["top_k"]}, "samplers"),
        ({"id_slot": 1}, "id_slot"),
        ({"n_predict": 0}, "n_predict"),
        ({"n_predict": 4096}, "n_predict"),
        ({"n_probs": 21}, "n_probs"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"repeat_penalty": 1.1, "repeat_last_n": 64}, "repeat_last_n"),
        ({"logit_bias": [["text", 1]]}, "logit_bias[0][0]"),
        ({"prompt": ["a", ["b" * 600]]}, "prompt[1]"),
        ({"prompt": [1, 999]}, "prompt[1]"),
        ({"prompt": []}, "prompt"),
        ({"n_cmpl": 128, "prompt": ["a", "b"]}, "n_cmpl"),
        ({"json_schema": {"not": {}}}, "json_schema.not"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(live, fields, path):
    reply = post(live, **fields)
    assert (reply.status_code, reply.json()["error"]["path"]) == (400, path), reply.text
    assert not live.service.plane.live()


def test_what_asks_for_nothing_is_accepted(live):
    nothing = {
        "model": None, "cache_prompt": True, "id_slot": -1, "n_keep": 0, "mirostat": 0, "samplers": None,
        "repeat_last_n": 64, "repeat_penalty": 1, "logit_bias": [], "n_probs": 0, "response_fields": [],
        "t_max_predict_ms": 0, "dynatemp_range": 0, "top_n_sigma": -1, "grammar": "", "lora": [],
    }  # fmt: skip
    assert post(live, **nothing).json()["content"] == expected_text("Go", 9)


def test_a_stream_that_fails_says_so(live):
    live.service.plane.bundle("story").engine.broken = RuntimeError("thread lost")
    assert "thread lost" in events(live)[-1]["error"]["message"]
