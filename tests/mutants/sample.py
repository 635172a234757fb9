"""Mutants of Python by cosmic-ray, each of which some test must notice. Run apart from CI:

    pip install cosmic-ray
    python -m tests.mutants.sample records [COUNT] [SEED]

All mutants of a target that ``OPERATORS`` leaves are shuffled by the seed, and the first COUNT (60) are
run, one after the other, each in a copy of the checkout and within the target's seconds. Survivors are
printed with their change. Exit code 1 if there is one.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Target:
    """``tests``: what pytest is given, the fastest that the module has. ``seconds``: for each mutant."""

    module: str
    tests: str
    seconds: float = 60.0


_CHAIN = "row or edited or head or rewritten or truncated or emptied or export or guards or spelling or gap"
_STORE = "tests/records/test_store.py"
_SCHEDULER = "tests/scheduler/test_promises.py"
_METER = "tests/metrics/test_energy_in_detail.py"

TARGETS = {
    "chain": Target("runtime/control/chain.py", f"{_STORE} -k '{_CHAIN}'"),
    "records": Target("runtime/control/records.py", _STORE),
    "scheduler": Target("runtime/scheduler/scheduler.py", _SCHEDULER),
    "policies": Target("runtime/scheduler/policies.py", _SCHEDULER),
    "policy": Target(
        "runtime/scheduler/policy.py", f"{_SCHEDULER} tests/scheduler/test_packaged_policies.py"
    ),
    "cost": Target("runtime/scheduler/cost.py", _SCHEDULER),
    "limits": Target("runtime/metrics/limits.py", _METER),
    "energy": Target("runtime/metrics/energy.py", _METER),
    "shares": Target("runtime/metrics/shares.py", _METER),
    "official": Target("runtime/metrics/official.py", _METER),
}
#: Left away: what only changes a type or fails at once, and more than one step of a comparison.
OPERATORS = [
    "core/ReplaceBinaryOperator_Add_(?!Sub).*",
    "core/ReplaceBinaryOperator_Sub_(?!Add).*",
    "core/ReplaceBinaryOperator_Mul_(?!FloorDiv).*",
    "core/ReplaceBinaryOperator_(?!Add_|Sub_|Mul_).*",
    "core/ReplaceComparisonOperator_Eq_(?!NotEq).*",
    "core/ReplaceComparisonOperator_NotEq_(?!Eq).*",
    "core/ReplaceComparisonOperator_Lt_(?!LtE).*",
    "core/ReplaceComparisonOperator_LtE_(?!Lt$).*",
    "core/ReplaceComparisonOperator_Gt_(?!GtE).*",
    "core/ReplaceComparisonOperator_GtE_(?!Gt$).*",
    "core/ReplaceUnaryOperator.*",
    "core/RemoveDecorator",
    "core/ExceptionReplacer",
]


def _configuration(target: Target) -> str:
    command = "env PYTHONPATH=. PYTHONDONTWRITEBYTECODE=1 python -m pytest -q -x -n 0 -p no:cacheprovider "
    return f"""[cosmic-ray]
module-path = {json.dumps(target.module)}
timeout = {target.seconds}
excluded-modules = []
test-command = {json.dumps(command + target.tests)}
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = {json.dumps(OPERATORS)}
"""


def _choose(session: Path, count: int, seed: int) -> int:
    """Marks all but ``count`` of the pending mutants as skipped; how many were pending."""
    with use_db(str(session), WorkDB.Mode.open) as db:
        pending = sorted(
            db.pending_work_items, key=lambda item: (item.mutations[0].start_pos, str(item.mutations))
        )
        random.Random(seed).shuffle(pending)
        for item in pending[count:]:
            db.set_result(item.job_id, WorkResult(WorkerOutcome.SKIPPED, "not chosen"))
    return len(pending)


def _report(session: Path, pending: int) -> int:
    with use_db(str(session), WorkDB.Mode.open) as db:
        results = [result for _, result in db.results if result.worker_outcome != WorkerOutcome.SKIPPED]
    survivors = [result for result in results if result.test_outcome == TestOutcome.SURVIVED]
    for result in survivors:
        print(result.diff)
    odd = sum(result.test_outcome == TestOutcome.INCOMPETENT for result in results)
    print(f"{len(results)} of {pending} run, {len(survivors)} survive, {odd} could not be judged")
    return int(bool(survivors))


def main(name: str, count: int = 60, seed: int = 0) -> int:
    """Runs the mutants of one target in a copy of the checkout."""
    with tempfile.TemporaryDirectory(prefix="engine-mutants-") as work:
        folder = Path(work) / "checkout"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "build"))
        config, session = Path(work) / "target.toml", Path(work) / "session.sqlite"
        config.write_text(_configuration(TARGETS[name]))
        run = lambda *command: subprocess.run(command, cwd=folder, check=True)  # noqa: E731
        run("cosmic-ray", "init", str(config), str(session))
        run("cr-filter-operators", str(session), str(config))
        run("cosmic-ray", "baseline", str(config))
        pending = _choose(session, count, seed)
        run("cosmic-ray", "exec", str(config), str(session))
        return _report(session, pending)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *(int(argument) for argument in sys.argv[2:])))
