"""Drafts change nothing but how many steps it takes: tokens, digests, stops and errors stay."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.drafts import ALLOWANCE, MATCHES, Drafts, LookupIndex, StepTimes
from runtime.engine.loop import Engine, generate
from runtime.engine.types import Limits, Phase, Request, Sampling, StopReason
from runtime.errors import EngineError
from tests.fakes.bundle import make_bundle, resolved_plan

Opener = Callable[..., Engine]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Engines over the compiled fake, with drafts or without."""
    engines: list[Engine] = []
    names = itertools.count()

    def opener(*defines: str, kind: str = "lookup", tokens: int = 6) -> Engine:
        plan = resolved_plan(speculation__kind=kind, speculation__tokens=tokens)
        engines.append(Engine.open(make_bundle(tmp_path / f"b{next(names)}", defines, plan=plan)))
        return engines[-1]

    yield opener
    for engine in engines:
        engine.close()


#: What the fake says next, whatever the prompt: words that come again, then others.
SCRIPT = [40, 41, 42, 43, 44] * 6 + [50, 51, 52, 53] + [40, 41, 42, 43, 44, 60, 61, 62, 63, 40, 41, 42, 43]


def scripted(opened: Opener, kind: str = "lookup", ids: list[int] = SCRIPT) -> Engine:
    engine = opened("SCRIPT=" + ",".join(map(str, ids)), kind=kind)
    if kind != "none":
        _eager(engine)
    return engine


def _eager(engine: Engine) -> None:
    """Has drafts be affordable at once: the fake's times say nothing."""
    engine._times.note = lambda rows, ns: None  # type: ignore[method-assign]
    engine._times._ns = {n: 1e6 for n in range(1, 33)}


def request(**parts: object) -> Request:
    prompt = (8, 40, 41, 42, 43, 44, 40, 41)
    return Request(prompt, **{"limits": Limits(max_tokens=len(SCRIPT)), **parts})  # type: ignore[arg-type]


WISHES = [
    {},
    {"logprobs": 2},
    {"sampling": Sampling(temperature=0.9, seed=5)},
    {"sampling": Sampling(repetition_penalty=1.3, presence_penalty=0.5)},
    {"sampling": Sampling(temperature=4.0, top_k=7, seed=11, dry_multiplier=0.8)},
    {"logit_bias": {43: -200.0}},
    {"limits": Limits(max_tokens=13)},
    {"limits": Limits(max_tokens=1)},
]


@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_tokens_and_digest_are_those_of_plain_decoding(opened: Opener, wish: dict[str, object]) -> None:
    plain = generate(scripted(opened, "none"), request(**wish))
    fast = generate(scripted(opened), request(**wish))
    for name in ("token_ids", "logits_digest", "token_digests", "text", "stop_reason"):
        assert getattr(fast.sequence, name) == getattr(plain.sequence, name), name
    assert fast.n_steps <= plain.n_steps
    drafted, kept = fast.sequence.drafted
    assert plain.n_steps - fast.n_steps == kept <= drafted


def test_repetition_takes_far_fewer_steps(opened: Opener) -> None:
    fast = generate(scripted(opened), request())
    assert fast.sequence.token_ids == SCRIPT
    assert fast.n_steps * 2 < len(SCRIPT)


def test_a_stop_text_within_drafts_ends_where_it_would(opened: Opener) -> None:
    stop = {"stop": ("*+",)}  # 42, 43
    plain, fast = (generate(scripted(opened, kind), request(**stop)) for kind in ("none", "lookup"))
    assert fast.sequence.stop_reason is StopReason.STOP_SEQUENCE
    assert fast.sequence.text == plain.sequence.text
    assert fast.sequence.token_ids == plain.sequence.token_ids
    assert fast.sequence.logits_digest == plain.sequence.logits_digest


def test_events_and_probabilities_come_one_by_one(opened: Opener) -> None:
    seen: dict[str, list[tuple[int, int, float | None, tuple[tuple[int, float], ...]]]] = {}
    for kind in ("none", "lookup"):
        events: list = seen.setdefault(kind, [])
        generate(
            scripted(opened, kind),
            request(logprobs=3),
            lambda e, events=events: events.append((e.index, e.token, e.logprob, e.top_logprobs)),
        )
    assert seen["none"] == seen["lookup"]
    assert [index for index, *_ in seen["lookup"]] == list(range(len(SCRIPT)))


def test_company_and_the_size_of_a_step_change_nothing(opened: Opener) -> None:
    alone = generate(scripted(opened, "none"), request()).sequence
    engine = scripted(opened)
    pair = [engine.admit(request()), engine.admit(request(sampling=Sampling(temperature=1.0, seed=3)))]
    for sequence in pair:
        engine.step([(sequence, sequence.remaining_prefill)])
    count = itertools.cycle((1, 3, 7, 2))
    while any(sequence.phase is Phase.DECODE for sequence in pair):
        work = [(s, next(count)) for s in pair if s.phase is Phase.DECODE]
        report = engine.step(work)
        assert len(report.rows) == len(work)
        assert sum(report.rows) == report.n_decode
        assert all(rows <= count for rows, (_, count) in zip(report.rows, work, strict=True))
    assert pair[0].token_ids == alone.token_ids
    assert pair[0].logits_digest == alone.logits_digest
    assert engine.memory.check() == []


def test_more_than_may_be_drafted_is_refused(opened: Opener) -> None:
    engine = scripted(opened)
    sequence = engine.admit(request())
    engine.step([(sequence, 8)])
    with pytest.raises(EngineError, match="8 tokens of a sequence in decode"):
        engine.step([(sequence, 8)])
    assert engine.step([(sequence, 7)]).rows[0] <= 7


def test_a_draft_that_is_no_number_fails_nobody(opened: Opener) -> None:
    """The poisoned row belongs to a token that the sequence does not come to."""
    engine = scripted(opened)
    forward = engine.executable.forward
    spoiled = []

    def spoiling(slots, positions, tokens, want):  # type: ignore[no-untyped-def]
        rows = forward(slots, positions, tokens, want)
        if len(rows) > 1 and not spoiled:
            first = int(np.argmax(rows[0]))
            if first != tokens[-len(rows) + 1]:
                rows[1:, 5] = np.nan
                spoiled.append(True)
        return rows

    engine.executable.forward = spoiling  # type: ignore[method-assign]
    done = generate(engine, request())
    assert spoiled
    assert done.sequence.error is None
    assert done.sequence.token_ids == SCRIPT


# ---- the index -------------------------------------------------------------------------


def plain_lookup(ids: list[int], most: int, window: int = 1 << 30) -> list[int]:
    """The same, by looking through everything."""
    for length in MATCHES:
        if len(ids) < length:
            continue
        for at in range(len(ids) - 1, max(length, len(ids) - window) - 1, -1):
            if ids[at - length : at] == ids[-length:]:
                found = list(ids)
                period = len(ids) - at
                for _ in range(most):
                    found.append(found[-period])
                return found[len(ids) :]
    return []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 9), st.integers(1, 5))
def test_the_index_finds_what_looking_through_everything_finds(ids: list[int], most: int, step: int) -> None:
    index = LookupIndex()
    for n in range(step, len(ids) + 1, step):
        found, which = index.propose(np.array(ids[:n], np.int32), most)
        assert found == (plain_lookup(ids[:n], most) if most else [])
        assert (which >= 0) == bool(found)


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=60),
    st.lists(st.integers(1, 30), min_size=1, max_size=9),
    st.integers(1, 20),
)
def test_what_lies_too_far_back_is_forgotten(ids: list[int], steps: list[int], window: int) -> None:
    """Whatever comes between two questions, the index holds its window and nothing else."""
    index, n = LookupIndex(window), 0
    for step in steps:
        n = min(n + step, len(ids))
        found, _ = index.propose(np.array(ids[:n], np.int32), 4)
        assert found == plain_lookup(ids[:n], 4, window)
        assert len(index) <= len(MATCHES) * window


def test_a_question_costs_what_is_new_not_what_there_is() -> None:
    """Tables are asked and changed a fixed number of times a token, at any length."""
    window = 64
    index = LookupIndex(window)
    asked: list[int] = []

    class Table(dict[bytes, int]):
        def get(self, *arguments):  # type: ignore[no-untyped-def]
            asked[-1] += 1
            return super().get(*arguments)

        def __setitem__(self, run: bytes, at: int) -> None:
            asked[-1] += 1
            super().__setitem__(run, at)

    index._after = tuple(Table() for _ in MATCHES)
    ids = np.random.default_rng(4).integers(0, 50, 4000).astype(np.int32)
    for n in range(1, len(ids)):
        asked.append(0)
        index.propose(ids[:n], 4)
    assert max(asked) <= 3 * len(MATCHES)
    assert len(index) <= len(MATCHES) * window


# ---- the rule ---------------------------------------------------------------------------


def simulate(keeps: Callable[[int], bool], row_cost: float, steps: int = 400) -> tuple[float, float]:
    """Decodes ``steps`` tokens of a text that always matches; time taken, and time without drafts."""
    times, drafts = StepTimes(), Drafts(8)
    taken = plain = 0.0
    text = np.tile(np.arange(5, dtype=np.int32), 40)
    token = 0
    for rows in range(1, 10):
        times.note(rows, round(1e6 * (1 + row_cost * (rows - 1))))
    while token < steps:
        guess = drafts.propose(text, 8, 1, times)
        kept = 0
        while kept < len(guess) and keeps(token + kept):
            kept += 1
        ns = round(1e6 * (1 + row_cost * len(guess)))
        times.note(1 + len(guess), ns)
        drafts.settle(len(guess), kept, 1 + len(guess), ns, times)
        taken += ns
        plain += 1e6 * (1 + kept)
        token += 1 + kept
    return taken, plain


@pytest.mark.parametrize("row_cost", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_drafts_never_cost_more_than_their_allowance(row_cost: float, share: float) -> None:
    rng = np.random.default_rng(1)
    taken, plain = simulate(lambda _: bool(rng.random() < share), row_cost)
    assert taken <= plain * (1 + 1.5 * ALLOWANCE)


def test_drafts_pay_where_rows_are_cheap_and_guesses_right() -> None:
    taken, plain = simulate(lambda _: True, 0.1)
    assert plain / taken > 3


def test_a_text_that_changes_is_drafted_again() -> None:
    taken, plain = simulate(lambda token: token > 2000, 0.1, steps=6000)
    assert plain / taken > 1.5
