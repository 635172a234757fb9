"""Prometheus metrics of a server: names, types and buckets in one place.

Suffixes are those that users of other servers know (``time_to_first_token_seconds``,
``prompt_tokens_total``), units are base units, counters end in ``_total``, and no
label holds an id: ``plan`` is the name of a served plan, of which there are few.
An unknown power is absent from the exposition, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from runtime.version import ENGINE_VERSION

#: What :meth:`ServerMetrics.render` returns.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Upper bounds in seconds. Prefill of a short prompt on a small model takes
#: milliseconds, of a long one on a large model a minute.
FIRST_TOKEN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: A token is one pass over the weights: from under a millisecond to seconds.
INTER_TOKEN_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56)
REQUEST_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
STEP_TOKEN_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ServerMetrics:
    """One server's metrics, in a registry of its own. Every method is thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        plan = ["plan"]
        Info("engine_build", "Version of the engine.", registry=self.registry).info(
            {"version": ENGINE_VERSION}
        )
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", FIRST_TOKEN_BUCKETS
        )
        self._inter_token = self._histogram(
            "inter_token_latency_seconds", "Between two tokens of a request.", INTER_TOKEN_BUCKETS
        )
        self._request = self._histogram(
            "e2e_request_latency_seconds", "From arrival to the end of a request.", REQUEST_BUCKETS
        )
        self._queue = self._histogram(
            "request_queue_time_seconds", "Waiting before admission.", FIRST_TOKEN_BUCKETS
        )
        self._step = self._histogram("step_tokens", "Tokens processed in a step.", STEP_TOKEN_BUCKETS)
        self._running = self._gauge("num_requests_running", "Requests that hold a slot.")
        self._waiting = self._gauge("num_requests_waiting", "Requests in the queue.")
        self._add_memory(plan)
        self._prompt_tokens = self._counter("prompt_tokens_total", "Prompt tokens processed.", plan)
        self._generated = self._counter("generation_tokens_total", "Tokens generated.", plan)
        self._finished = self._counter(
            "requests_finished_total", "Requests that ended, by stop reason.", ["plan", "stop_reason"]
        )
        self._energy = self._counter(
            "energy_joules_total",
            "Energy measured while requests were active, by meter and domain.",
            ["source", "domain"],
        )
        self._forward = self._counter(
            "forward_seconds_total", "Seconds inside the compiled forward pass.", plan
        )
        self._steps: dict[str, tuple[Histogram, Counter, Counter, Counter]] = {}
        self._energy_seen: dict[tuple[str, str], float] = {}
        self._lock = Lock()
        self._power = _Power()
        self.registry.register(self._power)

    def _add_memory(self, plan: list[str]) -> None:
        """What a plan's pages, its prefix cache and its drafts do."""
        self._kv_usage = self._gauge(
            "kv_cache_usage_perc", "Share of the KV cache's pages that requests use, 0 to 1."
        )
        self._cache_queries = self._counter(
            "prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", plan
        )
        self._cache_hits = self._counter(
            "prefix_cache_hits_total", "Prompt tokens taken from the prefix cache.", plan
        )
        self._drafted = self._counter(
            "spec_decode_num_draft_tokens_total", "Tokens guessed and verified.", plan
        )
        self._accepted = self._counter(
            "spec_decode_num_accepted_tokens_total", "Guessed tokens that were kept.", plan
        )
        self._cache_seen: dict[str, tuple[int, int]] = {}

    def step(
        self, plan: str, *, tokens: int, prompt_tokens: int, generated: int, forward_seconds: float
    ) -> None:
        """A step has ended. ``tokens`` were processed, ``prompt_tokens`` of them of prompts;
        ``generated`` came out: counted here, so that rates are right while requests still run."""
        step, prompts, generation, forward = self._of_steps(plan)
        step.observe(tokens)
        forward.inc(forward_seconds)
        if prompt_tokens:
            prompts.inc(prompt_tokens)
        if generated:
            generation.inc(generated)

    def _of_steps(self, plan: str) -> tuple[Histogram, Counter, Counter, Counter]:
        """A plan's own series; looked up once, since a step may take less than a millisecond."""
        if (found := self._steps.get(plan)) is None:
            found = self._steps[plan] = (
                self._step.labels(plan),
                self._prompt_tokens.labels(plan),
                self._generated.labels(plan),
                self._forward.labels(plan),
            )
        return found

    def load(self, plan: str, *, running: int, waiting: int) -> None:
        """How many requests a plan has at the moment."""
        self._running.labels(plan).set(running)
        self._waiting.labels(plan).set(waiting)

    def memory(self, plan: str, *, usage: float, looked_up: int, reused: int) -> None:
        """A plan's KV cache at the moment: the share in use, and its prefix cache's tokens so far."""
        self._kv_usage.labels(plan).set(usage)
        with self._lock:
            queries, hits = self._cache_seen.get(plan, (0, 0))
            # A plan that was unloaded and came back counts from 0 again.
            self._cache_queries.labels(plan).inc(looked_up - queries if looked_up >= queries else looked_up)
            self._cache_hits.labels(plan).inc(reused - hits if reused >= hits else reused)
            self._cache_seen[plan] = (looked_up, reused)

    def finished(
        self,
        plan: str,
        stop_reason: str,
        *,
        token_times: Iterable[float],
        queue_seconds: float,
        total_seconds: float,
        drafted: tuple[int, int] = (0, 0),
    ) -> None:
        """A request has ended. ``token_times``: seconds from its arrival to each token, ascending;
        ``drafted``: tokens guessed for it, and kept."""
        self._drafted.labels(plan).inc(drafted[0])
        self._accepted.labels(plan).inc(drafted[1])
        self._finished.labels(plan, stop_reason).inc()
        self._queue.labels(plan).observe(queue_seconds)
        self._request.labels(plan).observe(total_seconds)
        times = list(token_times)
        if times:
            self._first_token.labels(plan).observe(times[0])
        between = self._inter_token.labels(plan)
        for earlier, later in pairwise(times):
            between.observe(max(0.0, later - earlier))

    def energy(self, source: str, totals: Mapping[str, float]) -> None:
        """Sets the joules measured so far by domain (``EnergyLedger.totals``); they only grow."""
        with self._lock:
            for domain, joules in totals.items():
                grown = joules - self._energy_seen.get((source, domain), 0.0)
                if grown > 0:
                    self._energy.labels(source, domain).inc(grown)
                    self._energy_seen[source, domain] = joules

    def power(self, source: str, watts: float | None) -> None:
        """The present mean power, or None where it is unknown."""
        self._power.source, self._power.watts = source, watts

    def render(self) -> bytes:
        """The text exposition format, version 0.0.4."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"engine_{name}", text, ["plan"], buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"engine_{name}", text, ["plan"], registry=self.registry)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"engine_{name}", text, labels, registry=self.registry)


class _Power(Collector):
    """``engine_power_watts{source}``: there while it is known."""

    source: str = "none"
    watts: float | None = None

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "engine_power_watts", "Mean power of the last seconds, as measured.", labels=["source"]
        )
        if self.watts is not None:
            family.add_metric([self.source], self.watts)
        yield family
