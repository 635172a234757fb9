"""The ahead-of-time build: compiles the plans of ``plans/``, or those that are named.

python build.py                     every plan of plans/, into the store
python build.py my.yaml -o bundles  one plan, into bundles/<name>
python build.py --emit-only         graph and C of every plan into build/c, no C compiler needed
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from compiler import compile_plan
from compiler.backends import get as get_backend
from compiler.plan import bundled_plans, load_plan
from runtime.bundle.machine import Machine
from runtime.cli.output import print_error
from runtime.errors import EngineError


def main() -> int:
    """Builds; returns the exit code of the first plan that failed, 0 if none did."""
    parser = argparse.ArgumentParser(description="Compile plans ahead of time.")
    parser.add_argument(
        "plans", nargs="*", metavar="PLAN", help="plan files or names (default: all of plans/)"
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="put <name> folders here, not in the store"
    )
    parser.add_argument("--emit-only", action="store_true", help="write graph and C, start no compiler")
    options = parser.parse_args()
    out = options.out or (Path("build/c") if options.emit_only else None)
    features = Machine.probe().features
    code = 0
    for name in options.plans or list(bundled_plans()):
        began = time.monotonic()
        try:
            declared = load_plan(name)
            missing = sorted(set(get_backend(declared.backend).cpu_features) - features)
            folder = None if out is None else out / declared.name
            path = compile_plan(name, out=folder, emit_only=options.emit_only)
        except EngineError as error:
            print_error(error)
            code = code or error.exit_code
            continue
        note = f"  (this CPU lacks {', '.join(missing)})" if missing else ""
        print(f"{declared.name}: {path}  {time.monotonic() - began:.1f} s{note}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
