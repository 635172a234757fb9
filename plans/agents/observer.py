"""The observing agent: collects metrics, detects patterns, changes nothing.

``python -m plans.agents.observer --url http://127.0.0.1:8080`` reads the records, groups them
by what makes executions comparable, and reports for each group the median and spread of the
KPI, a change between its older and newer half beyond the tolerance, and how executions ended.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from plans.agents.client import EngineClient, Journal

#: Executions a half of a group needs before the halves are compared.
MIN_HALF = 3


def read_runs(client: EngineClient, most: int) -> list[dict[str, Any]]:
    """The newest records, newest first."""
    runs: list[dict[str, Any]] = []
    while len(runs) < most:
        before = f"&before={runs[-1]['execution_id']}" if runs else ""
        page = client.call("GET", f"/v1/runs?limit={min(100, most - len(runs))}{before}")
        runs += page["data"]
        if not page["has_more"]:
            break
    return runs


def patterns(runs: list[dict[str, Any]], tolerance: float) -> list[dict[str, Any]]:
    """One finding a group of executions of the same plan, backend and engine version."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for run in reversed(runs):  # oldest first
        groups.setdefault((run["engine_version"], run["plan"], run["plan_digest"]), []).append(run)
    found = []
    for (version, plan, digest), group in groups.items():
        rates = [r["metrics"]["tokens_per_sec"] for r in group if r["metrics"].get("tokens_per_sec")]
        half = len(rates) // 2
        change = None
        if half >= MIN_HALF:
            change = median(rates[half:]) / median(rates[:half]) - 1
        ends = Counter(run["stop_reason"] for run in group)
        found.append(
            {
                "engine_version": version,
                "plan": plan,
                "plan_digest": digest,
                "executions": len(group),
                "stop_reasons": dict(ends),
                "tokens_per_sec_median": median(rates) if rates else None,
                "tokens_per_watt_median": _median(group, "tokens_per_watt"),
                "change": change,
                "finding": _finding(change, ends, len(group), tolerance),
            }
        )
    return found


def _median(group: list[dict[str, Any]], name: str) -> float | None:
    values = [run["metrics"][name] for run in group if run["metrics"].get(name) is not None]
    return median(values) if values else None


def _finding(change: float | None, ends: Counter[str], count: int, tolerance: float) -> str:
    if ends["error"]:
        return f"{ends['error']} of {count} executions failed"
    if ends["energy_limit"] * 2 > count:
        return "most executions end at the energy limit"
    if change is not None and change < -tolerance:
        return f"slower by {-change:.1%} than before"
    if change is not None and change > tolerance:
        return f"faster by {change:.1%} than before"
    return "steady" if change is not None else "too few executions to say"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--most", type=int, default=500, help="records to read")
    parser.add_argument("--tolerance", type=float, default=0.03)
    parser.add_argument("--every", type=float, help="seconds between looks; once without it")
    parser.add_argument("--journal", type=Path, default=Path("observer.jsonl"))
    options = parser.parse_args()
    client, journal = EngineClient(options.url), Journal(options.journal, "observer")
    while True:
        for finding in patterns(read_runs(client, options.most), options.tolerance):
            journal.engine_version = finding["engine_version"]
            journal.write("pattern", **{k: v for k, v in finding.items() if k != "engine_version"})
            print(json.dumps(finding, ensure_ascii=False), flush=True)
        if options.every is None:
            return
        time.sleep(options.every)


if __name__ == "__main__":
    main()
