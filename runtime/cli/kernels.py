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
    from compiler.workbench.table import kernel_table
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
    emulate: Annotated[
        bool, typer.Option("--emulate", help="Emulate the instructions that this CPU may lack.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run kernels against their scalar reference, bit for bit, on random and pathological inputs."""
    from compiler.backends import emulation_of
    from compiler.workbench.check import CHECKS, check_kernels
    from runtime.errors import EXIT_USAGE, EngineError

    unknown = [op for op in ops or () if op not in CHECKS]
    if unknown:
        raise EngineError(
            "unknown_op",
            f"there is no check of {unknown[0]!r}",
            allowed=", ".join(CHECKS),
            exit_code=EXIT_USAGE,
        )
    if emulate:
        backend = emulation_of(backend).name
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
    megabytes: Annotated[int, typer.Option(min=1, max=65536, help="Weights read from DRAM, MB.")] = 512,
    as_json: Json = False,
) -> None:
    """Time each panel kernel, warm and from DRAM: GB/s, GMAC/s, shares of the limits, times the reference.

    The limits are measured in the same run: the read bandwidth with the same threads, and the
    multiply-adds of the backend's instructions for such weights.
    """
    from compiler.workbench.check import bench_kernels

    note(f"building the benchmark of {backend}")
    results = bench_kernels(backend, threads, rounds, megabytes << 20)
    if as_json:
        print_json(results)
        return
    read = next(row for row in results if row["op"] == "read")
    panels = [row for row in results if row["op"] == "panel"]
    what = f"{backend}, {threads} thread{'s' if threads > 1 else ''}, rows of {panels[0]['k']}"
    print(f"{what}, median of {rounds} rounds; read bandwidth {read['gb_per_s']:.1f} GB/s")
    header = ("FORMAT", "TOKENS", "WEIGHTS", "GB/s", "OF READ", "GMAC/s", "OF PEAK", "x REFERENCE")
    print(table([_bench_row(row) for row in panels], header))


def _bench_row(row: dict[str, Any]) -> tuple[str, ...]:
    share = row["share_of_read"]
    return (
        row["format"],
        str(row["tokens"]),
        row["weights"],
        f"{row['gb_per_s']:.1f}",
        "" if share is None else f"{share:.0%}",
        f"{row['gmac_per_s']:.1f}",
        f"{row['share_of_peak']:.0%}",
        f"{row['times_reference']:.1f}",
    )
