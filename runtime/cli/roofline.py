"""``engine inspect PLAN roofline``: each op's bytes, multiply-adds and time against the machine's limits."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli.output import note, print_json, status_line, table, terminal_width

if TYPE_CHECKING:
    from runtime.bundle.reader import Bundle
    from runtime.laboratory.roofline import Limits, OpRow, Profile

HEADER = ("OP", "TYPE", "MB", "MMAC", "MS", "TIME", "GB/s", "GMAC/s", "OF LIMIT")
#: What the remark under the tables says.
REMARK = (
    "MB: least bytes from memory, weights and KV cache once a step. MS: until all threads are done, so\n"
    "the barrier after an op is part of it. OF LIMIT: the time that memory (mem) or arithmetic (alu)\n"
    "needs, whichever is longer, over the time taken; above 100 % caches had some of the bytes. outside:\n"
    "handing the step to the threads, waiting for the last of them, looking for NaN among the logits."
)


def roofline(
    target: str, n_prompt: int, depth: int, threads: int | None, rounds: int, *, as_json: bool
) -> None:
    """Compiles the plan with timers if it has none, measures a decode and a prompt, prints tables or JSON."""
    from compiler.workbench.bandwidth import BandwidthProbe
    from compiler.workbench.peak import PeakProbe
    from runtime.engine.executable import Executable
    from runtime.laboratory.bench import Test
    from runtime.laboratory.roofline import DECODED, Limits, measure_roofline

    bundle = _timed_bundle(target, quiet=as_json)
    count = threads or bundle.plan.execution.threads
    tests = [Test(0, DECODED, depth)] + ([Test(n_prompt, 0, depth)] if n_prompt else [])
    with (
        status_line(not as_json) as line,
        Executable.open(bundle, count) as executable,
        BandwidthProbe(count) as probe,
        PeakProbe(bundle.manifest.backend, count) as peaks,
    ):
        looks = iter(range(1, 1 + len(tests) * (rounds + 1)))

        def look() -> Limits:
            line(f"measuring ops and limits: {next(looks)} of {len(tests) * (rounds + 1)}")
            read = probe.measure(rounds=1)
            return Limits(
                (read, probe.loop),
                {bits: (peak.rate, peak.loop) for bits, peak in peaks.measure(rounds=2).items()},
            )

        profiles = measure_roofline(executable, tests, look, rounds)
    if as_json:
        body = {"bundle": bundle.path.name, "backend": bundle.manifest.backend, "threads": count}
        print_json(body | {"profiles": [profile.to_json() for profile in profiles]})
        return
    for profile in profiles:
        print(_title(profile, bundle, count))
        print(_table(profile))
        print()
    print(textwrap.fill(REMARK.replace("\n", " "), min(98, terminal_width() or 98)))


def _timed_bundle(target: str, *, quiet: bool) -> Bundle:
    """The bundle of a plan with timers compiled in; a bundle as it is."""
    from runtime.bundle.reader import is_bundle, open_bundle
    from runtime.cli.variants import Variants

    if is_bundle(Path(target)):
        return open_bundle(Path(target))
    if not quiet:
        note("note: timers are compiled in (observability.op_timing)")
    return Variants(target, quiet=quiet).bundle(observability={"op_timing": True})


def _title(profile: Profile, bundle: Bundle, threads: int) -> str:
    from runtime.laboratory.roofline import peak_name

    plan, limits = bundle.plan, profile.limits
    tokens = sum(step.tokens for step in profile.steps)
    depth = profile.steps[0].depth
    after = f" after {depth}" if depth else ""
    steps = f"in {len(profile.steps)} steps" if len(profile.steps) > 1 else "in one step"
    what = "decode, one token" if tokens == 1 else f"prefill, {tokens} tokens {steps}"
    lines = [
        f"{what}{after}: {bundle.manifest.model_name} {plan.quantization.recipe}, {plan.backend}, "
        f"{threads} thread{'s' if threads > 1 else ''}",
        f"  read  {limits.read[0] / 1e9:6.1f} GB/s    {limits.read[1]}",
    ]
    work = profile.total.work
    for bits in sorted(work.macs_by_bits if work else ()):
        rate, loop = limits.peaks[bits]
        lines.append(f"  {peak_name(bits):5} {rate / 1e9:6.1f} GMAC/s  {loop}")
    return "\n".join(lines)


def _table(profile: Profile) -> str:
    body = [_row(row, profile) for row in profile.rows]
    whole = profile.seconds
    outside = (f"{profile.outside * 1e3:.3f}", f"{profile.outside / whole:.1%}")
    body.append(("outside", "", "", "", *outside, "", "", ""))
    last = _row(profile.total, profile)
    last = (*last[:-1], f"{profile.share:.0%}")
    return f"{table([*body, last], HEADER, right_from=2, total=True, optional=(3, 2))}\n{_waiting(profile)}"


def _waiting(profile: Profile) -> str:
    """How long the first thread only waited, and after which op most."""
    whole = profile.total.waiting
    if not whole:
        return "no thread waited for another"
    worst = max(profile.rows, key=lambda row: row.waiting)
    share = f"{whole / profile.seconds:.1%}"
    return (
        f"the first thread waited {whole * 1e3:.3f} ms ({share}) in barriers, "
        f"{worst.waiting * 1e3:.3f} after {worst.op}"
    )


def _row(row: OpRow, profile: Profile) -> tuple[str, ...]:
    time = (f"{row.seconds * 1e3:.3f}", f"{row.seconds / profile.seconds:.1%}")
    if row.work is None or row.seconds <= 0:
        return (row.op, "", "", "", *time, "", "", "")
    least, by = profile.limits.seconds(row.work)
    types = "" if row.op == "total" else "+".join(row.work.types)
    return (
        row.op,
        types,
        f"{row.work.bytes / 1e6:.2f}",
        f"{row.work.macs / 1e6:.{1 if row.work.macs < 1e8 else 0}f}",
        *time,
        f"{row.work.bytes / row.seconds / 1e9:.1f}",
        f"{row.work.macs / row.seconds / 1e9:.1f}",
        f"{least / row.seconds:.0%} {'mem' if by == 'memory' else 'alu'}",
    )
