"""The run loop over a compiled fake whose logits depend on the whole history of a slot."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from runtime.bundle.reader import open_bundle
from runtime.engine.loop import Engine, generate
from runtime.engine.pages import no_pages, whole_slots
from runtime.engine.types import Limits, Phase, Request, Sampling, StopReason, TokenEvent
from runtime.engine.weights import RESERVE_BYTES, Residence, hold_weights
from runtime.errors import EngineError
from tests.fakes.bundle import END, POISON, make_bundle

Opener = Callable[..., Engine]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    engines = []
    names = itertools.count()

    def opener(*defines: str) -> Engine:
        engines.append(Engine.open(make_bundle(tmp_path / f"bundle{next(names)}", defines)))
        return engines[-1]

    yield opener
    for engine in engines:
        engine.close()


def scripted(opened: Opener, ids: list[int] | bytes) -> Engine:
    """An engine that generates exactly these ids; its prompts begin with their own length."""
    return opened("SCRIPT=" + ",".join(map(str, ids)))


def prompt(n: int) -> tuple[int, ...]:
    return (n, *(20 + i for i in range(n - 1)))


def request(n: int = 5, **parts: object) -> Request:
    return Request(prompt(n), **{"limits": Limits(max_tokens=12), **parts})  # type: ignore[arg-type]


def test_same_tokens_and_digest_for_any_chunking_and_company(opened: Opener) -> None:
    engine = opened()
    alone = generate(engine, request(40))
    assert len(alone.sequence.token_ids) == 12
    for chunk in (1, 7, 32):
        sequence = engine.admit(request(40))
        companion = engine.admit(request(9))
        while sequence.phase is not Phase.FINISHED:
            work = [(sequence, min(sequence.remaining_prefill or 1, chunk))]
            if companion.phase is Phase.DECODE and work[0][1] < 32:
                work.append((companion, 1))
            engine.step(work)
            if companion.phase is Phase.PREFILL:
                engine.step([(companion, companion.remaining_prefill)])
        assert sequence.token_ids == alone.sequence.token_ids
        assert sequence.logits_digest == alone.sequence.logits_digest
        engine.release(sequence)
        engine.release(companion)
    assert generate(engine, request(41)).sequence.logits_digest != alone.sequence.logits_digest


def test_a_step_mixes_prefill_and_decode(opened: Opener) -> None:
    engine = opened()
    first, second = engine.admit(request(5)), engine.admit(request(20))
    report = engine.step([(first, 5), (second, 8)])
    assert (report.n_prefill, report.n_decode, len(report.events)) == (13, 0, 1)
    report = engine.step([(second, 12), (first, 1)])
    assert (report.n_prefill, report.n_decode) == (12, 1)
    assert [event.sequence for event in report.events] == [second, first]
    assert report.forward_ns <= report.ended_ns - report.started_ns


@pytest.mark.parametrize("bad", ["twice", "too many", "none", "finished", "foreign", "two decode", "zero"])
def test_impossible_work_changes_nothing(opened: Opener, bad: str) -> None:
    engine, other = opened(), opened()
    one, two = engine.admit(request(20)), engine.admit(request(20))
    engine.step([(two, 20)])
    ended = engine.admit(request())
    engine.finish(ended, StopReason.CANCELLED)
    work = {
        "twice": [(one, 1), (one, 1)],
        "too many": [(one, 21)],
        "none": [],
        "finished": [(ended, 1)],
        "foreign": [(other.admit(request()), 1)],
        "two decode": [(two, 2)],
        "zero": [(one, 0)],
    }[bad]
    with pytest.raises(EngineError, match="step") as caught:
        engine.step(work)
    assert caught.value.code == "invalid_work"
    assert one.remaining_prefill == 20
    assert len(two.token_ids) == 1


def test_slots_are_bounded_and_come_back(opened: Opener) -> None:
    engine = opened()
    held = [engine.admit(request()) for _ in range(engine.limits.slots)]
    with pytest.raises(EngineError) as caught:
        engine.admit(request())
    assert caught.value.code == "no_free_slot"
    engine.release(held[2])
    engine.release(held[2])
    assert engine.free_slots == 1
    assert held[2].stop_reason is StopReason.CANCELLED
    assert engine.admit(request()).slot == 2


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (Request(()), "prompt_empty"),
        (Request((1,) * 129), "prompt_too_long"),
        (Request((1, 258)), "token_out_of_range"),
        (Request((-1,)), "token_out_of_range"),
        (Request((1,), logit_bias={999: 1.0}), "token_out_of_range"),
        (Request((1,), limits=Limits(max_tokens=0)), "invalid_request"),
        (Request((1,), logprobs=101), "invalid_request"),
        (Request((1,), Sampling(seed=-1)), "invalid_request"),
    ],
)
def test_requests_that_cannot_run_are_refused(opened: Opener, bad: Request, code: str) -> None:
    engine = opened()
    with pytest.raises(EngineError) as caught:
        engine.admit(bad)
    assert caught.value.code == code
    assert engine.free_slots == engine.limits.slots


def test_text_streams_in_whole_characters(opened: Opener) -> None:
    text = "Olá 🦉!"
    engine = scripted(opened, [*text.encode(), END])
    events: list[TokenEvent] = []
    done = generate(engine, request(), events.append)
    assert done.sequence.stop_reason is StopReason.END_OF_SEQUENCE
    assert "".join(event.text for event in events) == done.sequence.text == text
    assert [event.text for event in events][:4] == ["O", "l", "", "á"]
    assert done.sequence.token_ids[-1] == END
    assert len(done.sequence.token_ns) == len(done.sequence.token_ids) == len(events)
    assert done.sequence.token_ns == sorted(done.sequence.token_ns)


def test_an_unfinished_character_is_shown_as_such_at_the_end(opened: Opener) -> None:
    engine = scripted(opened, "🦉".encode()[:3] + b"xyz")
    done = generate(engine, request(limits=Limits(max_tokens=3)))
    assert done.sequence.text == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("one END two", ("END",), "one "),
        ("one ENd two", ("END",), "one ENd two"),
        ("aaab", ("aab",), "a"),
        ("xyz", ("yz", "y"), "x"),
        ("fim. ção", ("ção",), "fim. "),
    ],
)
def test_stop_sequences_across_tokens(opened: Opener, text: str, stops: tuple[str, ...], shown: str) -> None:
    engine = scripted(opened, [*text.encode(), END])
    events: list[TokenEvent] = []
    done = generate(engine, request(stop=stops), events.append)
    reason = StopReason.END_OF_SEQUENCE if shown == text else StopReason.STOP_SEQUENCE
    assert done.sequence.stop_reason is reason
    assert "".join(event.text for event in events) == done.sequence.text == shown


def test_text_that_may_become_a_stop_sequence_is_held_back(opened: Opener) -> None:
    engine = scripted(opened, b"ab STxyz")
    events: list[TokenEvent] = []
    generate(engine, request(stop=("STOP",), limits=Limits(max_tokens=6)), events.append)
    assert [event.text for event in events] == ["a", "b", " ", "", "", "STx"]


def test_ignore_eos_goes_on(opened: Opener) -> None:
    engine = scripted(opened, [65, END, 66, 67])
    done = generate(engine, request(ignore_eos=True, limits=Limits(max_tokens=4)))
    assert done.sequence.token_ids == [65, END, 66, 67]
    assert done.sequence.text == "ABC"


def test_the_context_ends_a_sequence(opened: Opener) -> None:
    done = generate(opened(), request(120, limits=Limits(max_tokens=1000), ignore_eos=True))
    assert done.sequence.stop_reason is StopReason.MAX_TOKENS
    assert len(done.sequence.token_ids) == 128 - 120 + 1


def test_max_seconds_ends_prefill_and_decode(opened: Opener) -> None:
    engine = opened("STEP_US=20000", "STEP_TOKENS=2")
    done = generate(engine, request(60, limits=Limits(max_tokens=50, max_seconds=0.05)))
    assert done.sequence.stop_reason is StopReason.MAX_SECONDS
    assert done.sequence.token_ids == []
    done = generate(engine, request(2, limits=Limits(max_tokens=50, max_seconds=0.05), ignore_eos=True))
    assert done.sequence.stop_reason is StopReason.MAX_SECONDS
    assert 1 <= len(done.sequence.token_ids) < 10


def test_an_interrupt_ends_cleanly_with_the_text_so_far(opened: Opener) -> None:
    engine = scripted(opened, b"hello world!")
    events: list[TokenEvent] = []
    reasons = iter([None] * 5)
    done = generate(
        engine,
        request(stop=("lox",)),
        events.append,
        interrupt=lambda: next(reasons, StopReason.CANCELLED),
    )
    assert done.sequence.stop_reason is StopReason.CANCELLED
    assert "".join(event.text for event in events) == done.sequence.text == "hello"
    assert engine.free_slots == engine.limits.slots


def test_a_numeric_error_ends_its_own_sequence_only(opened: Opener) -> None:
    engine = opened()
    good, bad = engine.admit(request(6)), engine.admit(Request((POISON, 1, 2)))
    alone = generate(engine, request(6)).sequence
    report = engine.step([(good, 6), (bad, 3)])
    assert report.finished == (bad,)
    assert bad.stop_reason is StopReason.ERROR
    assert bad.error is not None
    assert bad.error.code == "numeric_error"
    assert "op attention of layer 0" in bad.error.message
    assert bad.token_ids == []
    while good.phase is not Phase.FINISHED:
        engine.step([(good, 1)])
    assert good.token_ids == alone.token_ids
    assert good.logits_digest == alone.logits_digest


def test_logprobs_bias_and_seeded_draws(opened: Opener) -> None:
    engine = opened()
    events: list[TokenEvent] = []
    generate(engine, request(logprobs=3, limits=Limits(max_tokens=2)), events.append)
    for event in events:
        assert len(event.top_logprobs) == 3
        assert event.top_logprobs[0] == (event.token, pytest.approx(event.logprob))
        assert event.logprob is not None
        assert event.logprob < 0
    biased = generate(engine, request(logit_bias={77: 1000.0}, limits=Limits(max_tokens=3)))
    assert biased.sequence.token_ids == [77, 77, 77]
    drawn = generate(engine, request(sampling=Sampling(temperature=1.0, seed=9), limits=Limits(max_tokens=2)))
    assert drawn.sequence.token_ids == [14, 15]  # the fake draws seed + position


def test_mapped_weights_that_shrink_end_the_step_not_the_process(tmp_path: Path) -> None:
    engine = Engine.open(make_bundle(tmp_path / "b"), residence="mapped")
    assert generate(engine, request()).sequence.error is None
    weights = engine.executable.bundle.weights
    weights.chmod(0o600)
    weights.write_bytes(b"")
    done = generate(engine, request())
    assert done.sequence.stop_reason is StopReason.ERROR
    assert done.sequence.error is not None
    assert done.sequence.error.code == "weights_changed"
    engine.close()


@pytest.mark.parametrize("residence", ["pages", "copied"])
def test_weights_in_memory_survive_even_that(tmp_path: Path, residence: Residence) -> None:
    engine = Engine.open(make_bundle(tmp_path / "b"), residence=residence)
    before = generate(engine, request()).sequence.logits_digest
    weights = engine.executable.bundle.weights
    weights.chmod(0o600)
    weights.write_bytes(b"")
    assert generate(engine, request()).sequence.logits_digest == before
    engine.close()


def test_weights_are_mapped_where_a_copy_would_not_fit(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "b"))
    size = bundle.manifest.files["weights.bin"].size
    for residence, available, mapped in (
        ("pages", size + RESERVE_BYTES, False),
        ("pages", size + RESERVE_BYTES - 1, True),
        ("copied", 0, False),
        ("mapped", 1 << 40, True),
    ):
        weights = hold_weights(bundle, size, cast(Residence, residence), available)
        assert weights.mapped is mapped, (residence, available)
        assert weights.memory[:] == bundle.weights.read_bytes()
        weights.close()


def test_a_copy_that_differs_from_the_manifest_is_refused(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "b"))
    size = bundle.manifest.files["weights.bin"].size
    bundle.weights.chmod(0o600)
    bundle.weights.write_bytes(bytes([1]) * size)
    with pytest.raises(EngineError) as caught:
        hold_weights(bundle, size, "copied", 1 << 40)
    assert caught.value.code == "weights_changed"
    bundle.weights.write_bytes(bytes(size - 1))
    with pytest.raises(EngineError) as caught:
        hold_weights(bundle, size, "pages", 1 << 40)
    assert caught.value.code == "weights_changed"


def test_forward_gives_all_rows_that_are_wanted(opened: Opener) -> None:
    executable = opened().executable
    executable.use_tables(whole_slots(executable.page_groups, 4, 1))
    rows = executable.forward([0] * 12, list(range(12)), list(range(30, 42)), [True] * 12).copy()
    assert rows.shape == (12, 258)
    assert rows.dtype == np.float32
    one = executable.forward([1] * 12, list(range(12)), list(range(30, 42)), [False] * 11 + [True])
    assert np.array_equal(one[0], rows[11])
    with pytest.raises(EngineError) as caught:
        executable.forward([2], [5], [1], [True])
    assert caught.value.code == "engine_argument"
    executable.use_tables(no_pages(executable.page_groups, 4, 1))
    with pytest.raises(EngineError, match="a slot, position or token") as caught:
        executable.forward([0], [12], [1], [True])
    assert "in pages that the slot holds" in (caught.value.allowed or "")
    with pytest.raises(ValueError, match="tables of shape"):
        executable.use_tables(no_pages(executable.page_groups, 3, 1))
