"""``engine verify``: the determinism grid of a plan, a digest of the logits in every cell."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli.flags import usage
from runtime.cli.output import note, on_terminal, print_json, table
from runtime.errors import EXIT_FAILURE, EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from runtime.bundle.reader import Bundle
    from runtime.laboratory.verify import Backend, Cell


def register(app: typer.Typer) -> None:
    """Adds the command ``verify``."""
    app.command()(verify)


def verify(
    plan: Annotated[str, typer.Argument(help="A plan's file or the name of a bundled plan.")],
    backends: Annotated[
        str | None, typer.Option(help="Separated by commas; default: all that this CPU can run.")
    ] = None,
    threads: Annotated[str | None, typer.Option(help="Separated by commas; default: 1 and the most.")] = None,
    chunks: Annotated[str, typer.Option(help="Prompt tokens a step, separated by commas.")] = "1,7,64,256",
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of the sequence.")] = 288,
    reference_tokens: Annotated[
        int | None,
        typer.Option(min=2, help="… on the reference backend, which is slow: 48; the rest is not run there."),
    ] = None,
    compilers: Annotated[
        str | None,
        typer.Option(help="gcc, clang, zig, separated by commas, or all: the bundles once by each."),
    ] = None,
    emulate: Annotated[
        bool, typer.Option("--emulate", help="Also emulate the backends that this CPU cannot run.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compute one sequence in every way that must not matter, and compare the logits bit for bit.

    Threads x prompt chunk x alone or beside others x cold, warm, moved or drafted KV x backend x compiler.
    Every cell shows a digest of the logits at all positions. Exit code 0 if there is one digest, 1 if not.
    """
    from runtime.laboratory.verify import disagreements, grid

    if emulate and backends:
        hint = f"engine verify {plan} --emulate"
        raise usage("--emulate adds to all backends; --backends names some", hint)
    chosen = backends.split(",") if backends else _usable(emulate)
    if reference_tokens is not None and "reference" not in chosen:
        hint = f"engine verify {plan} --reference-tokens {reference_tokens}"
        raise usage("--reference-tokens is about the reference backend, which is not among --backends", hint)
    lengths = (tokens, reference_tokens or 48)
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory(prefix="engine-verify-") as folder:
        bundles = _bundles(plan, chosen, compilers, Path(folder))
        made = _backends(bundles, threads, _numbers(chunks, "--chunks"), lengths)
        total = sum(len(backend.ways) for backend in made)
        for cell in grid(made):
            cells.append(cell)
            if on_terminal() and not as_json:
                note(f"{len(cells)}/{total}  {cell.backend}, {cell.way.label}: {cell.digest[:16]}")
    wrong = disagreements(cells)
    if as_json:
        body = [{**cell.to_json(), "agrees": cell not in wrong} for cell in cells]
        print_json({"deterministic": not wrong, "cells": body})
    else:
        print(_table(cells, wrong))
        shortest = min(cell.tokens for cell in cells)
        print(
            f"\n{len(cells)} cells, {len(wrong)} disagree"
            + (f" ({shortest} positions on reference, compared over those)" if shortest != tokens else "")
        )
    if wrong:
        raise typer.Exit(EXIT_FAILURE)


def _bundles(plan: str, chosen: list[str], compilers: str | None, folder: Path) -> dict[str, Bundle]:
    """The plan's bundle for each backend, by the column's name; by each of ``compilers``, in ``folder``."""
    from compiler import compile_plan
    from compiler.backends import get
    from compiler.build.toolchain import compiling_with
    from runtime.bundle.machine import Machine
    from runtime.bundle.reader import open_bundle
    from runtime.cli.variants import Variants

    machine, variants = Machine.probe(), Variants(plan)
    for name in chosen:
        machine.require_features(name, get(name).cpu_features)
    if compilers is None:
        return {name: variants.bundle(backend=name) for name in chosen}
    made = {}
    for compiler, command in _compilers(compilers).items():
        for name in chosen:
            with compiling_with(command):
                path = compile_plan(variants.document(backend=name), folder / f"{name}-{compiler}")
            made[f"{name} {compiler}"] = open_bundle(path)
    return made


def _compilers(asked: str) -> dict[str, tuple[str, ...]]:
    from compiler.build.toolchain import installed

    found = installed()
    names = list(found) if asked == "all" else [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in found:
            raise EngineError(
                "invalid_option",
                f"no working compiler is called {name!r} here",
                path="--compilers",
                allowed=", ".join(("all", *found)),
                hint="install it with the system's package manager; zig is `pip install ziglang`",
                exit_code=EXIT_USAGE,
            )
    return {name: found[name] for name in names}


def _backends(
    bundles: dict[str, Bundle], threads: str | None, chunks: list[int], lengths: tuple[int, int]
) -> list[Backend]:
    """Columns of the grid; ``lengths``: tokens, and tokens on the slow reference backend."""
    from runtime.bundle.machine import Machine
    from runtime.engine.executable import Executable
    from runtime.laboratory.verify import Backend, Workload, ways

    machine = Machine.probe()
    counts = _numbers(threads, "--threads") if threads else sorted({1, max(2, len(machine.cpus))})
    made = []
    for name, bundle in bundles.items():
        limits = bundle.plan.execution
        slow = bundle.manifest.backend == "reference"
        length = min(lengths[0], limits.context, lengths[1] if slow else lengths[0])
        made.append(
            Backend(
                name=name,
                open=lambda count, bundle=bundle: Executable.open(bundle, count),  # type: ignore[misc]
                ways=ways(counts, chunks, slots=limits.slots, step_tokens=limits.step_tokens),
                workload=Workload(length, max(1, length - 16)),
            )
        )
    return made


def _usable(emulate: bool) -> list[str]:
    """Names of the backends that this CPU can run; with ``emulate``, of the emulations of the others too."""
    from compiler.backends import available, cpu_features, get
    from compiler.workbench.selftest import obstacle

    cpu = cpu_features()
    names = []
    for backend in (get(name) for name in available() if _offers(name)):
        if not backend.missing_features(cpu):
            if reason := obstacle(backend):
                note(f"note: {backend.name} cannot run here: {reason}")
            else:
                names.append(backend.name)
        elif emulate and backend.emulation and not backend.emulated().missing_features(cpu):
            names.append(backend.emulated().name)
    return names


def _offers(name: str) -> bool:
    """Whether an installed backend can be loaded; one that cannot is said, not hidden."""
    from compiler.backends import get

    try:
        get(name)
    except EngineError as error:
        note(f"note: {error}")
        return False
    return True


def _numbers(text: str, option: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() and 1 <= int(part) <= 65536 for part in parts):
        raise EngineError(
            "invalid_option",
            f"{text!r}",
            path=option,
            allowed="numbers separated by commas",
            exit_code=EXIT_USAGE,
        )
    return [int(part) for part in parts]


def _table(cells: list[Cell], wrong: list[Cell]) -> str:
    """Ways down, backends across; the digest in each cell, marked where it disagrees."""
    shortest = min(cell.tokens for cell in cells)
    names = list(dict.fromkeys(cell.backend for cell in cells))
    shown: dict[tuple[str, str], str] = {}
    for cell in cells:
        digest = cell.prefix_digests[shortest] if cell.tokens != shortest else cell.digest
        text = digest[:12] if cell.tokens == shortest else f"{digest[:12]} {cell.digest[:12]}"
        shown[cell.way.label, cell.backend] = text + (" DIFFERS" if cell in wrong else "")
    rows: list[tuple[str, ...]] = [
        (label, *(shown.get((label, name), "-") for name in names))
        for label in dict.fromkeys(cell.way.label for cell in cells)
    ]
    return table(rows, ("", *names))
