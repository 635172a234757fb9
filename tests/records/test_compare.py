"""Only what is comparable is compared, and only a difference that is one is called so."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.control.compare import IDENTITY, compare_runs
from runtime.errors import EngineError


def run(rate: float = 100.0, watts: float | None = 20.0, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "execution_id": f"exec_{abs(hash((rate, watts))):016x}"[:21],
        "engine_version": "0.1.0",
        "bundle": {"builder": "b" * 64},
        "model": {"digest": "d" * 64},
        "plan_digest": "e" * 64,
        "backend": "cpu_avx2",
        "hardware": {"cpu_model": "made", "cpus": 2, "physical_cores": 2, "cpu_quota": None},
        "stop_reason": "max_tokens",
        "prompt_ids_sha256": "f" * 64,
        "logits_digest": "a" * 64,
        "metrics": {
            "tokens_total": 64,
            "tokens_per_sec": rate,
            "watts_avg": watts,
            "latency_p50_ms": 1000 / rate,
        },
    }
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        place = made
        for parent in parents:
            place = place[parent]
        place[leaf] = value
    return made


@pytest.mark.parametrize(
    ("rate", "watts", "verdicts"),
    [
        (100.0, 20.0, ("same", "same")),
        (102.9, 20.9, ("same", "same")),
        (97.1, 19.1, ("same", "same")),
        (104.0, 20.0, ("better", "same")),
        (95.0, 20.0, ("worse", "same")),
        (100.0, 22.0, ("same", "worse")),
        (100.0, 18.0, ("same", "better")),
    ],
)
def test_the_tolerances_are_three_and_five_percent(
    rate: float, watts: float, verdicts: tuple[str, str]
) -> None:
    comparison = compare_runs(run(), run(rate, watts))
    assert (comparison.metrics["tokens_per_sec"].verdict, comparison.metrics["watts_avg"].verdict) == verdicts
    assert comparison.within_tolerance is (verdicts == ("same", "same"))


@pytest.mark.parametrize(
    ("p50", "verdict"), [(10.0, "same"), (10.004, "same"), (10.29, "same"), (10.4, "different")]
)
def test_times_are_the_same_within_what_a_clock_tells(p50: float, verdict: str) -> None:
    comparison = compare_runs(run(metrics__latency_p50_ms=10.0), run(metrics__latency_p50_ms=p50))
    assert comparison.metrics["latency_p50_ms"].verdict == verdict
    assert comparison.metrics["latency_p50_ms"].tolerance == 0.03
    assert comparison.within_tolerance, "the requirements judge rates and watts"
    tiny = compare_runs(run(metrics__latency_p50_ms=0.02), run(metrics__latency_p50_ms=0.028))
    assert tiny.metrics["latency_p50_ms"].verdict == "same"


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("model", {"model__digest": "0" * 64}),
        ("plan", {"plan_digest": "0" * 64}),
        ("backend", {"backend": "reference"}),
        ("hardware", {"hardware__cpu_model": "another"}),
        ("hardware", {"hardware__cpu_quota": 1.5}),
        ("engine_version", {"engine_version": "0.2.0"}),
        ("engine_version", {"bundle__builder": "0" * 64}),
    ],
)
def test_what_is_not_comparable_is_refused_and_the_field_is_named(part: str, change: dict[str, Any]) -> None:
    with pytest.raises(EngineError) as caught:
        compare_runs(run(), run(**change))
    assert caught.value.code == "not_comparable"
    (cause,) = caught.value.causes
    assert cause.path in IDENTITY[part]
    assert cause.path.replace(".", "__") == next(iter(change))


def test_all_that_differs_is_named_at_once() -> None:
    with pytest.raises(EngineError) as caught:
        compare_runs(run(), run(backend="reference", plan_digest="0" * 64))
    assert {cause.path for cause in caught.value.causes} == {"plan_digest", "backend"}


def test_repetitions_are_compared_by_median_and_a_difference_within_their_spread_is_unclear() -> None:
    steady = compare_runs([run(r) for r in (99, 100, 101)], [run(r) for r in (109, 110, 111)])
    assert steady.metrics["tokens_per_sec"].verdict == "better"
    assert steady.metrics["tokens_per_sec"].change == pytest.approx(0.1)
    noisy = compare_runs([run(r) for r in (80, 100, 120)], [run(r) for r in (90, 110, 130)])
    assert noisy.metrics["tokens_per_sec"].verdict == "unclear"
    assert noisy.metrics["tokens_per_sec"].spread_a == pytest.approx(0.4)


def test_one_outlier_does_not_decide() -> None:
    comparison = compare_runs([run(r) for r in (100, 100, 100)], [run(r) for r in (100, 101, 50)])
    assert comparison.metrics["tokens_per_sec"].verdict == "same"


def test_repetitions_of_one_side_must_be_comparable_too() -> None:
    with pytest.raises(EngineError):
        compare_runs([run(), run(backend="reference")], run())


def test_an_unknown_value_is_unknown_and_not_equal() -> None:
    comparison = compare_runs(run(watts=None), run(watts=None))
    assert comparison.metrics["watts_avg"].verdict == "unknown"
    assert comparison.within_tolerance is None


def test_executions_that_failed_are_not_compared() -> None:
    with pytest.raises(EngineError) as caught:
        compare_runs(run(), run(stop_reason="error"))
    assert caught.value.causes[0].path == "stop_reason"


def test_conditions_that_differ_are_noted() -> None:
    comparison = compare_runs(run(), run(prompt_ids_sha256="0" * 64, logits_digest="1" * 64))
    assert comparison.notes == ("the prompts differ", "the results differ")
