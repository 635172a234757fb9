"""The exposition is what scrapers expect: base units, ``_total`` counters, no ids, no invented watt."""

from __future__ import annotations

import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime.metrics.prometheus import ServerMetrics


def values(metrics: ServerMetrics) -> dict[str, float]:
    """Sample name with its labels → value, as a scraper reads them."""
    return {
        sample.name + "".join(f",{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def finish(metrics: ServerMetrics, times: list[float]) -> None:
    metrics.finished("tiny", "max_tokens", token_times=times, queue_seconds=0.1, total_seconds=2.0)


def test_a_finished_request_shows_in_counters_and_histograms() -> None:
    metrics = ServerMetrics()
    finish(metrics, [0.2, 0.3, 0.35])
    found = values(metrics)
    assert found["engine_requests_finished_total,plan=tiny,stop_reason=max_tokens"] == 1
    assert found["engine_time_to_first_token_seconds_sum,plan=tiny"] == pytest.approx(0.2)
    assert found["engine_inter_token_latency_seconds_count,plan=tiny"] == 2
    assert found["engine_inter_token_latency_seconds_sum,plan=tiny"] == pytest.approx(0.15)
    assert found["engine_e2e_request_latency_seconds_sum,plan=tiny"] == 2.0


def test_a_request_without_tokens_has_no_first_token() -> None:
    metrics = ServerMetrics()
    finish(metrics, [])
    assert "engine_time_to_first_token_seconds_count,plan=tiny" not in values(metrics)


def test_joules_are_labelled_by_source_and_domain_and_never_fall() -> None:
    metrics = ServerMetrics()
    for joules in (5.0, 12.5, 12.5, 3.0):
        metrics.energy("powercap", {"package-0": joules})
    assert values(metrics)["engine_energy_joules_total,domain=package-0,source=powercap"] == 12.5


def test_unknown_power_is_absent() -> None:
    metrics = ServerMetrics()
    metrics.power("none", None)
    assert not any(name.startswith("engine_power_watts") for name in values(metrics))
    metrics.power("perf", 18.5)
    assert values(metrics)["engine_power_watts,source=perf"] == 18.5


def test_counts_are_exact_under_threads_and_scrapes() -> None:
    metrics = ServerMetrics()

    def work() -> None:
        for _ in range(200):
            finish(metrics, [0.1, 0.2])
            metrics.step("tiny", tokens=4, prompt_tokens=3, generated=2, forward_seconds=0.01)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        metrics.render()
    for thread in threads:
        thread.join()
    found = values(metrics)
    assert found["engine_generation_tokens_total,plan=tiny"] == 1600
    assert found["engine_prompt_tokens_total,plan=tiny"] == 2400
    assert found["engine_forward_seconds_total,plan=tiny"] == pytest.approx(8)
    assert found["engine_step_tokens_count,plan=tiny"] == 800


def test_names_follow_the_rules_of_prometheus() -> None:
    metrics = ServerMetrics()
    finish(metrics, [0.1, 0.2])
    metrics.load("tiny", running=1, waiting=2)
    metrics.energy("perf", {"package-0": 1.0})
    for family in text_string_to_metric_families(metrics.render().decode()):
        assert family.name.startswith("engine_")
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert not {"id", "execution_id", "request_id"} & set(sample.labels)
            if family.type == "counter":
                assert sample.name.endswith(("_total", "_created"))
