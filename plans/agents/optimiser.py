"""The optimising agent: proposes plans, and keeps a change only if the KPI improves within the limits.

``python -m plans.agents.optimiser --start storyteller-q8`` against a server that was started with
``--allow-compile``. One decision is changed at a time (quantization, threads, step size, policy).
A trial is kept only if

* the median KPI of its repetitions exceeds that of the best so far, measured again in turns with
  it, by more than the tolerance *and* by more than the repetitions of either scatter;
* its next-token choices agree with the reference's at enough places (the quality bound);
* none of its executions failed or ran into a limit of energy or time.

The KPI is tokens per watt; without a meter it is tokens per second, and the journal says so.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plans.agents.client import ApiError, EngineClient, Journal, kpi_of, read_workload

#: Ends that a kept plan may have.
GOOD_ENDS = {"end_of_sequence", "stop_sequence", "max_tokens"}


@dataclass
class Choice:
    """A plan that is served, a policy, and what was measured of them."""

    plan: str
    policy: str
    kpi: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    executions: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)


@dataclass
class Bounds:
    """What a change must respect. ``agreement``: least share of equal next tokens, 0 … 1."""

    tolerance: float = 0.03
    agreement: float = 0.9
    repetitions: int = 5
    max_tokens: int = 64
    limits: dict[str, Any] = field(default_factory=dict)


class Optimiser:
    """Searches from ``start``; quality is judged against ``reference`` (default: the start)."""

    def __init__(
        self,
        client: EngineClient,
        journal: Journal,
        prompts: list[str],
        bounds: Bounds,
        *,
        start: str,
        reference: str | None = None,
        places: int = 24,
    ) -> None:
        self._client = client
        self._journal = journal
        self._prompts = prompts
        self._bounds = bounds
        self._reference = reference or start
        self._start = start
        self._places = places
        self._expected: list[tuple[list[int], dict[str, float], str]] = []
        self._proposed: set[str] = set()

    def search(self, changes: list[tuple[str, Any]]) -> Choice:
        """Tries each (path in the plan, value) on top of the best so far; returns the best."""
        fields = self._client.plan(self._start)["plan"]["fields"]
        best = Choice(self._start, fields["scheduler_policy"]["value"])
        self._measure(best)
        kpi = best.kpi
        self._journal.write(
            "start",
            plan=best.plan,
            plan_digest=self._client.plan(best.plan)["digest"],
            kpi=kpi,
            quality=best.quality,
            executions=best.executions,
            note=None if kpi["reason"] is None else f"the KPI is {kpi['name']}: {kpi['reason']}",
        )
        for path, value in changes:
            best = self._try(best, path, value)
        self._journal.write("end", plan=best.plan, policy=best.policy, kpi=best.kpi, quality=best.quality)
        return best

    def _try(self, best: Choice, path: str, value: Any) -> Choice:
        change = {"path": path, "value": value}
        try:
            trial = self._propose(best, path, value)
            if trial is None:
                return best
            self._measure(best, trial)
        except ApiError as error:
            self._journal.write(
                "refused", change=change, code=error.code, message=str(error), hint=error.hint
            )
            return best
        reason = self._objection(best, trial)
        details = {
            "change": change,
            "plan": trial.plan,
            "policy": trial.policy,
            "kpi": trial.kpi,
            "best": {
                "plan": best.plan,
                "policy": best.policy,
                "kpi": best.kpi,
                "executions": best.executions,
            },
            "gain": _gain(best, trial),
            "quality": trial.quality,
            "executions": trial.executions,
        }
        loser = best if reason is None else trial
        self._journal.write("kept" if reason is None else "discarded", reason=reason, **details)
        if loser.plan in self._proposed and loser.plan not in (
            self._reference,
            (trial if reason is None else best).plan,
        ):
            self._proposed.discard(loser.plan)
            self._client.call("DELETE", f"/v1/plans/{loser.plan}")
        return trial if reason is None else best

    def _propose(self, best: Choice, path: str, value: Any) -> Choice | None:
        """A served plan with the change in it; None if the best has it already."""
        if path == "scheduler_policy":
            return None if value == best.policy else Choice(best.plan, value)
        served = self._client.plan(best.plan)
        fields = served["plan"]["fields"]
        full = "quantization.recipe" if path == "quantization" else path
        if fields[full]["value"] == value:
            return None
        document = _document(served, full, value)
        reply = self._client.call("POST", "/v1/plans", {"plan": document})
        if reply["served_as"] is not None:
            return Choice(reply["served_as"], best.policy)
        self._journal.write("proposed", change={"path": path, "value": value}, predicted=reply["predicted"])
        if not reply["predicted"]["fits"]:
            return None
        served = self._client.call("POST", "/v1/plans", {"plan": document, "compile": True})["served"]
        self._proposed.add(served["name"])
        return Choice(served["name"], best.policy)

    def _measure(self, *choices: Choice) -> None:
        """Runs the workload, once to warm up; then the repetitions that count, the choices taking
        turns, so that a machine that becomes faster or slower meanwhile favours none of them."""
        limits = {**self._bounds.limits, "max_tokens": self._bounds.max_tokens}
        runs: list[list[dict[str, Any]]] = [[] for _ in choices]
        for repetition in range(-1, self._bounds.repetitions):
            for choice, done in zip(choices, runs, strict=True):
                execution = {"scheduler_policy": choice.policy, "limits": limits}
                some = [self._client.run(choice.plan, prompt, execution) for prompt in self._prompts]
                done += some if repetition >= 0 else []
        for choice, done in zip(choices, runs, strict=True):
            self._journal.engine_version = done[0]["engine_version"]
            choice.kpi = kpi_of(done)
            choice.executions = [run["execution_id"] for run in done]
            choice.ends = sorted({run["stop_reason"] for run in done})
            choice.quality = choice.quality or self._quality(choice.plan)

    def _objection(self, best: Choice, trial: Choice) -> str | None:
        """Why a trial is not kept, or None."""
        if bad := set(trial.ends) - GOOD_ENDS:
            return f"executions ended with {', '.join(sorted(bad))}"
        if trial.quality["agreement"] < self._bounds.agreement:
            return (
                f"its next tokens agree at {trial.quality['agreement']:.0%} of the places, "
                f"{self._bounds.agreement:.0%} are asked for"
            )
        gain = _gain(best, trial)
        if gain is None:
            return "the KPI could not be measured alike"
        scatter = max(_scatter(best.kpi["samples"]), _scatter(trial.kpi["samples"]))
        if gain <= self._bounds.tolerance:
            wanted = f"more than {self._bounds.tolerance:.0%} is asked for"
            return f"{trial.kpi['name']} changes by {gain:+.1%}, {wanted}"
        if gain <= scatter:
            return (
                f"{trial.kpi['name']} changes by {gain:+.1%}, which the scatter of {scatter:.1%} may explain"
            )
        return None

    def _quality(self, plan: str) -> dict[str, float]:
        """How far a plan's next-token choices agree with the reference's, at places of the
        reference's own text: the share of equal likeliest tokens, and the mean divergence (nats)
        over the reference's twenty likeliest."""
        if not self._expected:
            self._expected = list(self._reference_places())
        same, divergence = 0, 0.0
        for ids, expected, top in self._expected:
            got, likeliest = self._next(plan, ids)
            same += likeliest == top
            floor = min(got.values())
            divergence += sum(math.exp(p) * (p - got.get(token, floor)) for token, p in expected.items())
        count = len(self._expected)
        return {"agreement": same / count, "divergence": max(0.0, divergence / count)}

    def _reference_places(self) -> list[tuple[list[int], dict[str, float], str]]:
        found = []
        each = max(1, self._places // len(self._prompts))
        for prompt in self._prompts:
            limits = {"limits": {"max_tokens": each * 2}}
            text = prompt + self._client.run(self._reference, prompt, limits)["result"]
            body = {"model": self._reference, "content": text, "add_special": True}
            ids = self._client.call("POST", "/tokenize", body)["tokens"]
            for end in range(max(1, len(ids) - 2 * each), len(ids), 2):
                expected, top = self._next(self._reference, ids[:end])
                found.append((ids[:end], expected, top))
        return found

    def _next(self, plan: str, ids: list[int]) -> tuple[dict[str, float], str]:
        """The likeliest next tokens with their log-probabilities, and the likeliest."""
        body = {"model": plan, "prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 20}
        logprobs = self._client.call("POST", "/v1/completions", body)["choices"][0]["logprobs"]
        top: dict[str, float] = logprobs["top_logprobs"][0]
        return top, max(top, key=lambda token: top[token])


def _document(served: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The served plan's own decisions as a plan, with one of them changed."""
    document: dict[str, Any] = {}
    fields = {**served["plan"]["fields"], path: {"value": value, "origin": "plan"}}
    for name, entry in fields.items():
        wanted = entry["origin"] in ("plan", "override") or name in ("backend", "quantization.recipe")
        if name in ("name", "model", "model_digest", "version", "quantization.imatrix") or not wanted:
            continue
        group, _, leaf = name.rpartition(".")
        (document.setdefault(group, {}) if group else document)[leaf] = entry["value"]
    label = f"{path.rpartition('.')[2]}-{value}".replace("_", "-")
    document["name"] = f"trial-{served['digest'][:8]}-{label}"[:64]
    document["model"] = served["model"]
    return document


def _gain(best: Choice, trial: Choice) -> float | None:
    """By what share the trial's median exceeds the best's; None where they are not the same KPI."""
    if trial.kpi["name"] != best.kpi["name"] or not trial.kpi["median"] or not best.kpi["median"]:
        return None
    return float(trial.kpi["median"] / best.kpi["median"] - 1)


def _scatter(samples: list[float]) -> float:
    """Half the distance between the quartiles, over the median."""
    ordered = sorted(samples)
    count = len(ordered)
    return (ordered[(3 * count) // 4 if count > 1 else 0] - ordered[count // 4]) / 2 / ordered[count // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--start", required=True, help="the served plan to start from")
    parser.add_argument("--reference", help="the served plan whose choices quality is judged by")
    parser.add_argument("--quantizations", default="q8_0,q6_k,q4_k_m")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--step-tokens", default="64,256")
    parser.add_argument("--policies", default="")
    parser.add_argument("--workload", type=Path, help="prompts, one a line")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--max-watts", type=float)
    parser.add_argument("--tolerance", type=float, default=0.03)
    parser.add_argument("--agreement", type=float, default=0.9, help="least share of equal next tokens")
    parser.add_argument("--journal", type=Path, default=Path("optimiser.jsonl"))
    options = parser.parse_args()
    limits = {} if options.max_watts is None else {"max_watts": options.max_watts}
    bounds = Bounds(options.tolerance, options.agreement, options.repetitions, options.max_tokens, limits)
    changes: list[tuple[str, Any]] = [("quantization", q) for q in options.quantizations.split(",") if q]
    changes += [("execution.threads", int(n)) for n in options.threads.split(",") if n]
    changes += [("execution.step_tokens", int(n)) for n in options.step_tokens.split(",") if n]
    changes += [("scheduler_policy", p) for p in options.policies.split(",") if p]
    optimiser = Optimiser(
        EngineClient(options.url),
        Journal(options.journal, "optimiser"),
        read_workload(options.workload),
        bounds,
        start=options.start,
        reference=options.reference,
    )
    best = optimiser.search(changes)
    print(json.dumps(vars(best), ensure_ascii=False))


if __name__ == "__main__":
    main()
