"""``engine kernels``: the registry, its kernels checked against their definitions, and their speed."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from runtime.cli.output import note, print_json, table

Backend = Annotated[str, typer.Option("--backend", help="The backend whose kernels are meant.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Adds the group ``kernels``."""
    group = typer.Typer(name="kernels", help="List, check and time the kernels of a backend.")
    group.command("list")(list_kernels)
    group.command("check")(check)
    group.command("bench")(bench)
    app.add_typer(group, no_args_is_help=True)


def list_kernels(
    backend: Annotated[str | None, typer.Option("--backend", help="Default: cpu_avx2.")] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The kernels of all our backends, as docs/kernels.md.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The registry: each kernel, where it is written, and the reference that it equals."""
    from compiler import backends
    from compiler.kernel_table import kernel_table
    from runtime.errors import EXIT_USAGE, EngineError

    if markdown:
        if as_json or backend is not None:
            raise EngineError(
                "invalid_option",
                "--markdown has the kernels of all backends, and is no JSON",
                path="--markdown",
                exit_code=EXIT_USAGE,
            )
        sys.stdout.write(kernel_table())
        return
    rows = backends.get(backend or "cpu_avx2").kernels
    if as_json:
        fields = ("op", "format", "name", "template", "reference", "packer", "tile", "k_block", "alignment")
        print_json([{name: getattr(row, name) for name in fields} for row in rows])
        return
    lines = [(row.op, row.format or "", row.name, row.template, row.reference) for row in rows]
    print(table(lines, ("OP", "FORMAT", "KERNEL", "WRITTEN IN", "DEFINED IN")))


def check(
    ops: Annotated[list[str] | None, typer.Argument(help="Formats or ops (default: all).")] = None,
    backend: Backend = "cpu_avx2",
    cases: Annotated[int, typer.Option(min=1, max=10_000_000, help="Cases a format.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Case i has the seed SEED + i.")] = 1,
    as_json: Json = False,
) -> None:
    """Run kernels against their scalar reference, bit for bit, on random and pathological inputs."""
    from compiler.kernel_check import CHECKS, check_kernels
    from runtime.errors import EXIT_USAGE, EngineError

    unknown = [op for op in ops or () if op not in CHECKS]
    if unknown:
        raise EngineError(
            "unknown_op",
            f"there is no check of {unknown[0]!r}",
            allowed=", ".join(CHECKS),
            exit_code=EXIT_USAGE,
        )
    note(f"building the check of {backend}; seed {seed}")
    results = check_kernels(backend, cases, seed, ops or ())
    if as_json:
        print_json(results)
    else:
        lines = [
            (r["op"], str(r["cases"]), str(r["failures"]), str(r.get("first_failing_seed", "")))
            for r in results
        ]
        print(table(lines, ("OP", "CASES", "FAILURES", "FIRST SEED")))
    if any(r["failures"] for r in results):
        raise typer.Exit(1)


def bench(
    backend: Backend = "cpu_avx2",
    threads: Annotated[int, typer.Option("-t", "--threads", min=1, max=1024)] = 1,
    rounds: Annotated[int, typer.Option("-r", "--rounds", min=1, max=1000)] = 5,
    megabytes: Annotated[int, typer.Option(min=1, max=65536, help="Weights read from DRAM, MB.")] = 256,
    as_json: Json = False,
) -> None:
    """Time each kernel: GMAC/s and GB/s, warm and from DRAM, and times the reference."""
    from compiler.kernel_check import bench_kernels

    note(f"building the benchmark of {backend}")
    results = bench_kernels(backend, threads, rounds, megabytes << 20)
    if as_json:
        print_json(results)
        return
    keys: list[str] = list(dict.fromkeys(key for row in results for key in row))
    print(table([tuple(_cell(row.get(key)) for key in keys) for row in results], tuple(keys)))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
