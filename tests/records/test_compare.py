"""Only what is comparable is compared, and only a difference that is one is called so."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from runtime.control.compare import IDENTITY, compare_runs
from runtime.errors import EngineError
from runtime.metrics.official import OfficialMetrics
from runtime.metrics.tolerances import TOLERANCES


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
    ("name", "a", "same", "beyond", "verdict"),
    [
        ("tokens_total", 64, 64, 65, "different"),
        ("latency_total_ms", 640.0, 650.0, 680.0, "worse"),
        ("latency_p50_ms", 10.0, 10.29, 10.4, "worse"),
        ("latency_p95_ms", 10.0, 10.49, 9.4, "better"),
        ("tokens_per_watt", 5.0, 5.002, 5.5, "better"),
        ("tokens_per_watt", 5.0, 4.65, 4.5, "worse"),
        ("memory_peak_mb", 72.0, 72.03, 80.0, "worse"),
    ],
)
def test_what_the_requirements_do_not_judge_has_a_tolerance_too(
    name: str, a: float, same: float, beyond: float, verdict: str
) -> None:
    for value, wanted in ((same, "same"), (beyond, verdict)):
        comparison = compare_runs(run(**{f"metrics__{name}": a}), run(**{f"metrics__{name}": value}))
        assert comparison.metrics[name].verdict == wanted
        assert comparison.metrics[name].tolerance == TOLERANCES[name].relative
        assert comparison.within_tolerance, "the requirements judge rates and watts"


def test_every_official_metric_has_a_tolerance_and_two_of_them_decide() -> None:
    official = {field.name for field in fields(OfficialMetrics)} - {"op_time_ms"}
    assert set(TOLERANCES) == official == set(compare_runs(run(), run()).metrics)
    required = {name: given.relative for name, given in TOLERANCES.items() if given.required}
    assert required == {"tokens_per_sec": 0.03, "watts_avg": 0.05}


def test_what_rate_and_watts_accept_what_follows_from_them_accepts() -> None:
    for rate in (97.01, 102.99):
        for watts in (19.01, 20.99):
            sides = [run(r, w, metrics__tokens_per_watt=r / w) for r, w in ((100.0, 20.0), (rate, watts))]
            assert {m.verdict for m in compare_runs(*sides).metrics.values()} <= {"same", "unknown"}


def test_times_below_what_a_clock_tells_are_the_same() -> None:
    tiny = compare_runs(run(metrics__latency_p50_ms=0.02), run(metrics__latency_p50_ms=0.028))
    assert tiny.metrics["latency_p50_ms"].verdict == "same"


def test_times_of_ops_are_compared_where_a_plan_asked_for_them() -> None:
    sides = [run(metrics__op_time_ms={"linear": ms, "attention": 2.0}) for ms in (100.0, 120.0)]
    sides[1]["metrics"]["op_time_ms"]["softcap"] = 1.0
    metrics = compare_runs(*sides).metrics
    verdicts = {name: metrics[f"op_time_ms.{name}"].verdict for name in ("linear", "attention", "softcap")}
    assert verdicts == {"linear": "worse", "attention": "same", "softcap": "unknown"}


def test_what_was_nothing_and_is_something_is_judged_by_its_direction() -> None:
    found = compare_runs(run(metrics__watts_avg=0.0), run(metrics__watts_avg=20.0))
    assert (found.metrics["watts_avg"].verdict, found.metrics["watts_avg"].change) == ("worse", None)
    assert found.within_tolerance is False


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
