"""Whatever is drafted, right or wrong, nothing but the number of steps depends on it.

Here drafts are not looked up but given: the tokens of the plain run, spoilt at random places, so
that every length is kept and every length is rewound.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.control.plane import ControlPlane
from runtime.control.records import RecordStore
from runtime.control.types import RunSpec
from runtime.engine.drafts import Drafts
from runtime.engine.loop import Completion, Engine, generate
from runtime.engine.request import Constraint
from runtime.engine.sequence import LiveSequence
from runtime.engine.types import Limits, Phase, Request, Sampling
from runtime.metrics.energy import EnergyMeter
from runtime.scheduler import SHIPPED_POLICIES
from tests.conformance.conftest import compiled, plan_of, runnable_backends
from tests.engine.test_constraint import PERSON
from tests.fake_service import served_bundle
from tests.fakes.bundle import make_bundle, resolved_plan
from tests.families.models import tokens, write_case
from tests.families.test_windows import CASE, RING, STEP

__all__ = ["compiled"]

SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.8, seed=7),
    Sampling(temperature=0.9, top_k=9, seed=3, repetition_penalty=1.2, dry_multiplier=0.5),
)
FACTS = ("token_ids", "text", "stop_reason", "logits_digest", "token_digests")


def foresee(monkeypatch: pytest.MonkeyPatch, runs: Sequence[LiveSequence], spoilt: float, seed: int) -> None:
    """Has sequences draft what the plain run of the same request said next, some tokens spoilt."""
    known = {run.request.prompt_ids: list(run.token_ids) for run in runs}
    rng = random.Random(seed)

    def propose(live: LiveSequence, room: int, *_: object) -> list[int]:
        at = len(live.token_ids)
        right = known[live.request.prompt_ids][at : at + rng.randint(0, max(room, 0))]
        return [token if rng.random() >= spoilt else (token + 1) % 200 for token in right]

    def settle(drafts: Drafts, drafted: int, kept: int, *_: object) -> None:
        drafts.drafted += drafted
        drafts.kept += kept

    monkeypatch.setattr(LiveSequence, "propose", propose)
    monkeypatch.setattr(Drafts, "settle", settle)


def same(fast: LiveSequence, plain: LiveSequence) -> None:
    for name in FACTS:
        assert getattr(fast, name) == getattr(plain, name), name


@pytest.fixture
def fakes(tmp_path: Path) -> Iterator[Callable[[str], Engine]]:
    """Engines over the compiled fake, which drafts as ``kind`` says."""
    engines: list[Engine] = []

    def opener(kind: str) -> Engine:
        plan = resolved_plan(speculation__kind=kind, speculation__tokens=6)
        engines.append(Engine.open(make_bundle(tmp_path / f"b{len(engines)}", plan=plan)))
        return engines[-1]

    yield opener
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("spoilt", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "wish",
    [
        {"constraint": PERSON, "limits": Limits(max_tokens=110)},
        {
            "constraint": Constraint("regex", "(ab|cd)*e{3,9}[0-9]+"),
        },
        {"limits": Limits(max_tokens=60, min_tokens=40), "sampling": Sampling(temperature=2.0, seed=8)},
        {"stop": ("e", "a"), "limits": Limits(max_tokens=90)},
        {"logit_bias": {65: 3.0, 66: -200.0}, "sampling": SAMPLINGS[2]},
    ],
    ids=lambda wish: "+".join(wish),
)
def test_constraints_stops_limits_and_bias_hold(
    fakes: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any], spoilt: float
) -> None:
    request = Request((3, 44, 41), **({"limits": Limits(max_tokens=50)} | wish))
    plain = generate(fakes("none"), request)
    foresee(monkeypatch, [plain.sequence], spoilt, seed=1)
    fast = generate(fakes("lookup"), request)
    assert plain.sequence.error is None
    same(fast.sequence, plain.sequence)
    drafted, kept = fast.sequence.drafted
    assert plain.n_steps - fast.n_steps == kept <= drafted
    assert drafted > 0
    assert (kept > 0) == (spoilt < 1)


#: What a real sampler has to keep to at every row of a step.
REAL_WISHES: tuple[dict[str, Any], ...] = (
    *({"sampling": sampling} for sampling in SAMPLINGS),
    {"constraint": Constraint("regex", "([a-f]{3} )+"), "sampling": Sampling(temperature=1.5, seed=4)},
    {"logit_bias": {65: 2.0, 66: -200.0}, "logprobs": 2, "sampling": Sampling(xtc_probability=0.5, seed=2)},
)


def long_request(wish: dict[str, Any], seed: int) -> Request:
    ids = tuple(int(i) for i in tokens(CASE, RING + 20)[seed : RING - 24])
    return Request(ids, limits=Limits(max_tokens=70), ignore_eos=True, cache_prompt=False, **wish)


def run(path: Path, request: Request, threads: int) -> Completion:
    engine = Engine.open(path, threads)
    try:
        return generate(engine, request)
    finally:
        engine.close()


@pytest.mark.parametrize("backend", runnable_backends())
def test_windows_and_borders_of_pages_are_rewound(
    backend: str, tmp_path: Path, compiled: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that look back 8 positions beside one that sees all, across the end of a page."""
    path = write_case(tmp_path / "m.gguf", CASE)
    bundle = compiled(plan_of(path, "f32", backend, context=512, step_tokens=STEP, slots=2))
    requests = [long_request(wish, seed) for seed, wish in enumerate(REAL_WISHES)]
    plain = [run(bundle, request, 1).sequence for request in requests]
    engine = Engine.open(bundle, 2)
    engine.draft_tokens = STEP - 2
    foresee(monkeypatch, plain, 0.2, seed=5)
    try:
        for request, expected in zip(requests, plain, strict=True):
            fast = generate(engine, request)
            same(fast.sequence, expected)
            assert fast.sequence.drafted[0] > fast.sequence.drafted[1] > 0
        _in_company(engine, requests, plain)
        assert engine.memory.check() == []
    finally:
        engine.close()


def _in_company(engine: Engine, requests: Sequence[Request], plain: Sequence[LiveSequence]) -> None:
    """Two at once, of which one reads its prompt while the other drafts."""
    first, second = engine.admit(requests[0]), engine.admit(requests[1])
    while Phase.FINISHED not in (first.phase, second.phase):
        work = [(first, min(first.remaining_prefill or 4, 4))]
        if first.phase is Phase.DECODE:
            work.append((second, min(second.remaining_prefill or 4, 4)))
        engine.step(work)
    for sequence in (first, second):
        while sequence.phase is not Phase.FINISHED:
            engine.step([(sequence, min(sequence.remaining_prefill or 4, 4))])
    same(first, plain[0])
    same(second, plain[1])
    engine.release(first)
    engine.release(second)


@pytest.mark.parametrize("policy", SHIPPED_POLICIES)
def test_every_policy_gives_what_plain_runs_give(
    policy: str, fakes: Callable[[str], Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [
        Request(
            (3, 50 + i, 41) * (1 + 3 * i), sampling=SAMPLINGS[i % 3], limits=Limits(max_tokens=20 + 3 * i)
        )
        for i in range(7)
    ]
    engine = fakes("none")
    plain = [generate(engine, request).sequence for request in requests]
    foresee(monkeypatch, plain, 0.25, seed=2)
    drafting: Any = fakes("lookup")
    records = RecordStore(tmp_path / "records")
    plane = ControlPlane(records=records, meter=EnergyMeter("none", (), reason="no energy counter"))
    plane.serve(served_bundle("story", drafting, scheduler_policy=policy))
    plane.start()
    try:
        plan = resolved_plan(scheduler_policy=policy, speculation__kind="lookup")
        runs = [
            plane.submit(RunSpec(bundle="story", prompt="", request=request, plan=plan, kind="run"))
            for request in requests
        ]
        for live, expected in zip(runs, plain, strict=True):
            assert live.settled.wait(30)
            assert live.outcome is not None
            assert live.outcome.token_ids == tuple(expected.token_ids)
            assert live.outcome.logits_digest == expected.logits_digest
            assert records.get(live.id)["logits_digest"] == expected.logits_digest
    finally:
        plane.stop()
