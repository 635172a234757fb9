"""``engine quantize``: the plan's weights as an ordinary GGUF."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli.output import megabytes, note, print_json, progress_bars, table


def register(app: typer.Typer) -> None:
    """Adds the command ``quantize``."""
    app.command("quantize")(quantize)


def quantize(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A plan's file or a bundled plan.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The GGUF to write.")],
    errors: Annotated[bool, typer.Option("--errors", help="Measure each tensor's error as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a model quantized as a plan says, as a GGUF that llama.cpp and others load."""
    from compiler.model.reader import read_model
    from compiler.plan import load_plan, locate_imatrix, locate_model
    from compiler.plan.explain import declared_quantization
    from compiler.quantize.error import tensor_errors
    from compiler.quantize.export import export_gguf
    from compiler.quantize.imatrix import read_importance
    from compiler.quantize.recipes import assign_types

    declared = load_plan(plan)
    with progress_bars() as show:
        source = locate_model(declared)
        model = read_model(
            source, None if show is None else lambda done, all: show("reading the model", done, all)
        )
        types = assign_types(model, declared_quantization(declared))
        imatrix = locate_imatrix(declared)
        importance = None if imatrix is None else read_importance(imatrix)
        if importance is not None:
            importance.check(model)

        def report(done: int, total: int, _name: str) -> None:
            if show is not None:
                show(f"quantizing to {declared.recipe}", done, total)

        size = export_gguf(model, types, declared.recipe, out, report, importance=importance)
        measured = {e.name: e for e in tensor_errors(model, types, importance)} if errors else {}
    rows = [asdict(decided) for decided in types]
    for row in rows:
        if row["name"] in measured:
            error = measured[row["name"]]
            row |= {"rmse": error.rmse, "relative_rmse": error.relative, "largest_error": error.largest}
    if as_json:
        print_json({"file": str(out), "bytes": size, "recipe": declared.recipe, "tensors": rows})
        return
    if measured:
        lines: list[tuple[str, ...]] = [
            (e.name, t.source_type, e.type, f"{e.rmse:.3e}", f"{100 * e.relative:.3f} %", f"{e.largest:.3e}")
            for t in types
            for e in (measured[t.name],)
        ]
        typer.echo(table(lines, ("tensor", "in the file", "type", "rmse", "of its weights", "largest")))
    note(f"{out}: {megabytes(size)}, {declared.recipe}")
