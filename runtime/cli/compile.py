"""``engine compile``: a plan to a bundle, ahead of time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli.output import megabytes, note, print_json, progress_bars


def register(app: typer.Typer) -> None:
    """Adds the command ``compile``."""
    app.command("compile")(compile_command)


def compile_command(
    plan: Annotated[
        str, typer.Argument(metavar="PLAN", help="A plan's file, or the name of a bundled plan.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="The bundle's folder instead of the store's."),
    ] = None,
    emit_only: Annotated[
        bool, typer.Option("--emit-only", help="Write graph and C for review; needs no C compiler.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print where the bundle is and what it is.")
    ] = False,
) -> None:
    """Compile a plan to a bundle; its folder is printed. Nothing is done again that is up to date."""
    from compiler import compile_plan

    began = time.monotonic()
    with progress_bars(not as_json) as progress:
        path = compile_plan(plan, out=out, emit_only=emit_only, progress=progress)
    seconds = time.monotonic() - began
    if emit_only:
        print_json({"folder": str(path), "emit_only": True}) if as_json else print(path)
        return

    from runtime.bundle.format import bundle_notes
    from runtime.bundle.reader import open_bundle
    from runtime.cli.target import remember_compiled

    bundle = open_bundle(path)
    if out is None:
        remember_compiled(plan, path)
    manifest = bundle.manifest
    size = sum(entry.size for entry in manifest.files.values())
    if as_json:
        body = manifest.to_json()
        del body["tensors"]
        print_json(
            {"folder": str(path), "digest": bundle.digest, "bytes": size, "seconds": round(seconds, 3)} | body
        )
        return
    what = f"{manifest.backend}, {manifest.quantization}, {megabytes(size)}"
    built = f"{manifest.compiler.name} {manifest.compiler.version}"
    for text in bundle_notes(manifest.details):
        note(f"note: {text}")
    note(f"{manifest.name}: {what}, by {built}, {seconds:.1f} s")
    print(path)
