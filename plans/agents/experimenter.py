"""The experimental agent: controlled variations of an execution, compared by medians.

``python -m plans.agents.experimenter --plans a,b --policies default,latency`` runs the same
workload under every combination, the repetitions interleaved (a b a b …), so that a slow drift
of the machine meets all of them alike, and records what it saw. It changes no plan.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

from plans.agents.client import EngineClient, Journal, kpi_of, read_workload


def experiment(
    client: EngineClient,
    journal: Journal,
    plans: list[str],
    policies: list[str],
    prompts: list[str],
    *,
    repetitions: int,
    max_tokens: int,
) -> list[dict[str, Any]]:
    """Runs every combination; returns and journals one result each, the best KPI first."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in product(plans, policies)}
    for _ in range(repetitions):
        for (plan, policy), prompt in product(runs, prompts):
            execution = {"scheduler_policy": policy, "limits": {"max_tokens": max_tokens}}
            run = client.run(plan, prompt, execution)
            journal.engine_version = run["engine_version"]
            runs[plan, policy].append(run)
    results = []
    for (plan, policy), done in runs.items():
        result = {
            "plan": plan,
            "policy": policy,
            "kpi": kpi_of(done),
            "executions": [run["execution_id"] for run in done],
            "stop_reasons": sorted({run["stop_reason"] for run in done}),
            # The same text whatever the policy or the repetition, or something is wrong.
            "results": len({run["result"] for run in done}),
        }
        journal.write("variation", prompts=len(prompts), **result)
        results.append(result)
    return sorted(results, key=lambda r: r["kpi"]["median"] or 0, reverse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--plans", help="served plans, separated by commas; all without it")
    parser.add_argument("--policies", default="default")
    parser.add_argument("--workload", type=Path, help="prompts, one a line")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--journal", type=Path, default=Path("experimenter.jsonl"))
    options = parser.parse_args()
    client, journal = EngineClient(options.url), Journal(options.journal, "experimenter")
    plans = options.plans.split(",") if options.plans else [plan["name"] for plan in client.plans()]
    for result in experiment(
        client,
        journal,
        plans,
        options.policies.split(","),
        read_workload(options.workload),
        repetitions=options.repetitions,
        max_tokens=options.max_tokens,
    ):
        print(json.dumps(result, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
