"""``engine bench``: llama-bench's tests, columns and keys, with energy and bandwidth beside them."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.output import note, on_terminal
from runtime.errors import EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from compiler.workbench.bandwidth import BandwidthProbe
    from runtime.bundle.reader import Bundle

FORMATS = ("md", "csv", "json", "jsonl")
TIMED = "timed: steps of the compiled forward, driven from Python, the last token's logits included"
NOT_TIMED = "not timed: tokenization, sampling, loading, filling the depth"
NOT_TIMED_SAMPLED = "and sampling as the plan says; not timed: tokenization, loading, filling the depth"


def register(app: typer.Typer) -> None:
    """Adds the command ``bench``."""
    app.command()(bench)


def bench(
    target: Annotated[str, typer.Argument(metavar="PLAN|BUNDLE", help="A plan's file or name, or a bundle.")],
    n_prompt: Annotated[
        str, typer.Option("--n-prompt", "-p", help="Prompt lengths; 0: none. Lists and ranges.")
    ] = "512",
    n_gen: Annotated[str, typer.Option("--n-gen", "-n", help="Tokens to generate; 0: none.")] = "128",
    pg: Annotated[
        list[str] | None, typer.Option("-pg", help="PROMPT,GEN in one test; may be repeated.")
    ] = None,
    n_depth: Annotated[str, typer.Option("--n-depth", "-d", help="Tokens already in the KV cache.")] = "0",
    repetitions: Annotated[int, typer.Option("--repetitions", "-r", min=1, max=1000)] = 5,
    threads: Annotated[
        str | None, typer.Option("--threads", "-t", help="Threads; default: the plan's.")
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="md, csv, json or jsonl.")] = "md",
    no_warmup: Annotated[bool, typer.Option("--no-warmup", help="No untimed round before a test.")] = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="Time the choice of each token, too, as the plan says.")
    ] = False,
    no_bandwidth: Annotated[
        bool, typer.Option("--no-bandwidth", help="Do not measure the read bandwidth beside the tests.")
    ] = False,
) -> None:
    """Measure a bundle: prompt processing (pp), generation (tg), both (pp+tg), at a depth (@ d).

    Numbers take lists and ranges: 512, 128,256, 1-4, 16-64+16, 1-8*2. Timed are the steps of the
    compiled code and what drives them; tokenization is not, sampling only with --sample. gb_per_s
    counts the weights once a step and the KV cache; bandwidth_share relates it to the read bandwidth
    measured before and after each repetition (generation only); overhead is the share of time outside
    the compiled forward.
    """
    from runtime.bundle.machine import Machine
    from runtime.cli.target import bundle_of
    from runtime.engine.executable import Executable
    from runtime.engine.request import Request
    from runtime.laboratory.bench import parse_values, plan_tests, run_test
    from runtime.metrics.energy_probe import probe_meters

    if output not in FORMATS:
        raise EngineError(
            "invalid_option", repr(output), path="--output", allowed=", ".join(FORMATS), exit_code=EXIT_USAGE
        )
    pairs = [_pair(text) for text in pg or ()]
    tests = plan_tests(
        parse_values(n_prompt, "-p"), parse_values(n_gen, "-n"), pairs, parse_values(n_depth, "-d")
    )
    bundle = bundle_of(target)
    counts = parse_values(threads, "-t") if threads else [bundle.plan.execution.threads]
    cpu = Machine.probe().cpu_model
    meter = probe_meters()
    if not meter.available:
        note(f"note: no energy: {meter.reason}")
    note(f"note: {TIMED}" + (f", {NOT_TIMED_SAMPLED}" if sample else f"; {NOT_TIMED}"))
    sampling = Request.of_plan(bundle.plan.with_overrides(), [0]).sampling if sample else None
    results: list[dict[str, Any]] = []
    for count in counts:
        with (
            Executable.open(bundle, count) as executable,
            nullcontext() if no_bandwidth else _probe(count) as probe,
        ):
            for test in tests:
                if on_terminal():
                    note(f"{test.name}, {count} threads, {repetitions} repetitions …")
                result = run_test(
                    executable,
                    test,
                    repetitions=repetitions,
                    meter=meter,
                    bandwidth=probe.measure if probe else None,
                    warm_up=not no_warmup,
                    sampling=sampling,
                )
                results.append(result.to_json(bundle, cpu))
                if output == "jsonl":
                    print(json.dumps(results[-1], ensure_ascii=False, allow_nan=False), flush=True)
    meter.close()
    _write(output, results, bundle)


@contextmanager
def _probe(threads: int) -> Iterator[BandwidthProbe | None]:
    """The bandwidth probe; None, with a note, where it cannot be had (it needs a C compiler once)."""
    from compiler.workbench.bandwidth import BandwidthProbe

    try:
        probe = BandwidthProbe(threads)
    except EngineError as error:
        note(f"note: no read bandwidth: {error.message}")
        yield None
        return
    with probe:
        yield probe


def _pair(text: str) -> tuple[int, int]:
    from runtime.laboratory.bench import parse_values

    parts = text.split(",")
    if len(parts) != 2:
        raise EngineError("invalid_option", repr(text), "-pg", "PROMPT,GEN", exit_code=EXIT_USAGE)
    prompt, gen = (parse_values(part, "-pg") for part in parts)
    return prompt[0], gen[0]


def _write(output: str, results: list[dict[str, Any]], bundle: Bundle) -> None:
    from runtime.laboratory.bench import build_name

    if output == "json":
        print(json.dumps(results, ensure_ascii=False, allow_nan=False, indent=2))
    elif output == "csv":
        buffer = io.StringIO()
        if results:
            # llama-bench's csv has no lists either
            keys = [key for key in results[0] if not key.startswith("samples_")]
            writer = csv.DictWriter(buffer, keys, extrasaction="ignore", quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(results)
        sys.stdout.write(buffer.getvalue())
    elif output == "md":
        print(markdown(results, bundle))
        print(f"\nbuild: {build_name(bundle.manifest)}")


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def markdown(results: list[dict[str, Any]], bundle: Bundle) -> str:
    """llama-bench's table with our columns after its own; ``-`` where a value is unknown."""
    from runtime.laboratory.bench import Test, params_text, size_text

    columns = ("model", "size", "params", "backend", "threads", "test", "t/s")
    ours = ("GB/s", "bandwidth", "GMAC/s", "overhead", "W", "J/t")
    rows = []
    for r in results:
        rows.append(
            (
                r["model_type"],
                size_text(r["model_size"]),
                params_text(bundle.manifest.details),
                r["backends"],
                str(r["n_threads"]),
                Test(r["n_prompt"], r["n_gen"], r["n_depth"]).name,
                f"{r['avg_ts']:.2f} ± {r['stddev_ts']:.2f}",
                _cell(r["gb_per_s"], ".2f"),
                _cell(r["bandwidth_share"], ".0%"),
                _cell(r["gmac_per_s"], ".1f"),
                _cell(r["overhead"], ".1%"),
                _cell(r["avg_watts"], ".1f"),
                _cell(r["joules_per_token"], ".3g"),
            )
        )
    header = (*columns, *ours)
    widths = [max(3, *(len(row[i]) for row in (header, *rows))) for i in range(len(header))]
    left = {0, 3}

    def line(cells: tuple[str, ...]) -> str:
        padded = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = ("-" * width if i in left else "-" * (width - 1) + ":" for i, width in enumerate(widths))
    return "\n".join([line(header), f"| {' | '.join(rule)} |", *map(line, rows)])
