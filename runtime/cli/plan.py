"""``engine plan``: check plans, explain every value, print the schema."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runtime.bundle.machine import Machine
from runtime.cli.output import note, print_json, progress_bars
from runtime.errors import EXIT_PLAN, EngineError

plan_app = typer.Typer(help="Check and explain Execution Plans.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Adds the group ``plan``."""
    app.add_typer(plan_app, name="plan")


@plan_app.command()
def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Plan files or bundled plans.")],
    as_json: AsJson = False,
) -> None:
    """Check plans: their fields, the files they name and what this machine can keep."""
    from compiler.plan import check_plan

    machine, results = Machine.probe(), []
    for name in files:
        try:
            check_plan(name, machine)
            results.append({"file": name, "valid": True, "errors": []})
        except EngineError as error:
            faults = error.causes or (error,)
            results.append({"file": name, "valid": False, "errors": [fault.to_json() for fault in faults]})
    if as_json:
        print_json(results)
    else:
        for result in results:
            _print_result(result)
    if not all(result["valid"] for result in results):
        raise typer.Exit(EXIT_PLAN)


@plan_app.command()
def explain(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A plan file or a bundled plan.")],
    as_json: AsJson = False,
) -> None:
    """Show every value of a plan with its origin, and every tensor's type with the reason."""
    from compiler.model.reader import read_model
    from compiler.plan import find_plan, load_plan, locate_model
    from compiler.plan.explain import explain_plan

    plan = load_plan(file)
    path: Path | None = None
    try:
        path = locate_model(plan)
    except EngineError as error:
        if error.code != "unknown_model":
            raise
    with progress_bars(not as_json) as progress:
        model = read_model(path, progress and partial(progress, "reading the model")) if path else None
    body = {"file": str(find_plan(file)), **explain_plan(plan, model, Machine.probe())}
    if as_json:
        print_json(body)
    else:
        _print_explanation(body)


@plan_app.command()
def schema() -> None:
    """Print the JSON Schema of a plan."""
    from compiler.plan import plan_schema

    print_json(plan_schema())


def _print_result(result: dict[str, Any]) -> None:
    if result["valid"]:
        print(f"{result['file']}: valid")
        return
    count = len(result["errors"])
    note(f"{result['file']}: {count} error{'s' * (count != 1)}")
    for error in result["errors"]:
        where = f"{error['path']}: " if "path" in error else ""
        note(f"  {where}{error['message']} [{error['code']}]")
        for key in ("allowed", "hint"):
            if key in error:
                note(f"    {key}: {error[key]}")


def _print_explanation(body: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(escape(f"{body['file']}  digest {body['digest'] or 'open: the model is not here'}"))
    fields = Table("field", "value", "origin", box=None, pad_edge=False)
    for path, entry in body["fields"].items():
        origin = f"{entry['origin']}: {entry['reason']}" if "reason" in entry else entry["origin"]
        fields.add_row(path, escape(_short(entry["value"])), escape(origin))
    console.print(fields)
    if body["tensors"] is not None:
        console.print()
        tensors = Table("tensor", "in the file", "type", "reason", box=None, pad_edge=False)
        for item in body["tensors"]:
            tensors.add_row(*(escape(item[key]) for key in ("name", "source_type", "type", "reason")))
        console.print(tensors)
    for text in body["notes"]:
        note(f"note: {text}")


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
