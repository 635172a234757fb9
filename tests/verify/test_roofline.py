"""``engine inspect PLAN roofline``: totals are exact, shares follow from limits, bad input is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler.workbench.peak import WIDTHS, PeakProbe
from runtime.cli import main
from runtime.cli.target import bundle_of
from runtime.cli.variants import Variants
from runtime.engine.executable import Executable
from runtime.errors import EngineError
from runtime.laboratory.bench import Test as Row
from runtime.laboratory.roofline import Limits, OpRow, measure_roofline
from runtime.laboratory.work import OpWork

LIMITS = Limits((10e9, "made"), {0: (20e9, "made"), 4: (80e9, "made"), 8: (40e9, "made")})


def test_the_later_of_memory_and_arithmetic_is_the_limit() -> None:
    seconds, by = LIMITS.seconds(OpWork("x", (), 10_000_000, {8: 20_000_000, 0: 4_000_000}))
    assert (seconds, by) == (pytest.approx(1e-3), "memory")
    seconds, by = LIMITS.seconds(OpWork("x", (), 10_000_000, {8: 40_000_000, 0: 4_000_000}))
    assert (seconds, by) == (pytest.approx(1.2e-3), "arithmetic")


def test_a_row_says_what_share_of_its_limit_it_reached() -> None:
    row = OpRow("x", 2e-3, 0.5e-3, OpWork("x", ("q8_0",), 10_000_000, {8: 20_000_000})).to_json(LIMITS)
    assert (row["ms"], row["waiting_ms"]) == (2.0, 0.5)
    assert (row["gb_per_s"], row["gmac_per_s"]) == (pytest.approx(5), pytest.approx(10))
    assert (row["share"], row["limited_by"]) == (pytest.approx(0.5), "memory")
    nothing = OpRow("rope", 1e-3, 0, None).to_json(LIMITS)
    assert (nothing["share"], nothing["bytes"], nothing["ms"]) == (None, None, 1.0)


def test_ops_and_what_lies_outside_add_up_to_the_forward(tiny_plan: Path) -> None:
    bundle = Variants(str(tiny_plan), quiet=True).bundle(observability={"op_timing": True})
    with Executable.open(bundle, 2) as executable:
        tests = [Row(0, 4, 10), Row(40, 0, 0)]
        decode, prefill = measure_roofline(executable, tests, lambda: LIMITS, rounds=3)
    for profile in (decode, prefill):
        ops = sum(row.seconds for row in profile.rows)
        assert ops + profile.outside == pytest.approx(profile.seconds)
        assert profile.outside >= 0
        whole = profile.total.work
        assert whole is not None
        assert whole.bytes == sum(row.work.bytes for row in profile.rows if row.work)
        least = sum(LIMITS.seconds(row.work)[0] for row in profile.rows if row.work)
        assert profile.share == pytest.approx(least / profile.seconds)
    assert [step.tokens for step in prefill.steps] == [32, 8]
    cost = bundle.manifest.details["cost"]
    whole = decode.total.work
    assert whole is not None
    # four tokens after ten: 11, 12, 13, 14 positions are read
    assert whole.bytes == cost["weight_bytes"] + cost["kv_bytes_per_token"] * 50 // 4


def test_a_bundle_without_timers_and_a_test_too_long_are_refused(tiny_plan: Path) -> None:
    with Executable.open(bundle_of(str(tiny_plan), quiet=True), 1) as executable:
        with pytest.raises(EngineError) as caught:
            measure_roofline(executable, [Row(0, 4)], lambda: LIMITS, rounds=1)
        assert caught.value.code == "op_timing_needed"
    bundle = Variants(str(tiny_plan), quiet=True).bundle(observability={"op_timing": True})
    with Executable.open(bundle, 1) as executable:
        with pytest.raises(EngineError) as caught:
            measure_roofline(executable, [Row(9999, 0)], lambda: LIMITS, rounds=1)
        assert (caught.value.code, caught.value.allowed) == ("test_too_long", "at most 256")


@pytest.mark.parametrize("backend", ["reference", "cpu_avx2"])
def test_the_peak_probe_knows_a_loop_for_every_width(backend: str) -> None:
    try:
        probe = PeakProbe(backend, 2)
    except EngineError as error:
        if error.code != "unsupported_cpu":
            raise
        pytest.skip(f"{backend}: {error}")
    with probe:
        peaks = probe.measure(rounds=1)
    assert set(peaks) == set(WIDTHS)
    assert all(1e8 < peak.rate < 1e14 for peak in peaks.values())
    assert "fma" in peaks[0].loop if backend == "cpu_avx2" else "plain C" in peaks[0].loop


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["inspect", *arguments])
    return int(ended.value.code or 0)


def test_the_command_prints_a_table_that_fits_and_json(
    tiny_plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(str(tiny_plan), "roofline", "-p", "40", "-d", "8", "-r", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "decode, one token after 8: tiny q8_0, reference, 2 threads"
    assert any(line.startswith("prefill, 40 tokens in 2 steps after 8: ") for line in lines)
    assert sum(line.startswith("total ") for line in lines) == 2
    # the part may come first, as `engine inspect roofline PLAN`
    assert command("roofline", str(tiny_plan), "-p", "0", "-r", "1", "--json") == 0
    body = json.loads(capsys.readouterr().out)
    (profile,) = body["profiles"]
    assert profile["test"] == "tg8"
    assert profile["limits"]["read"]["gb_per_s"] > 0
    spent = sum(op["ms"] for op in profile["ops"]) + profile["outside_ops_ms"]
    assert spent == pytest.approx(profile["total"]["ms"])


def test_options_of_roofline_belong_to_it(tiny_plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(str(tiny_plan), "graph", "-p", "4") == 2
    assert "belong to roofline" in capsys.readouterr().err
    assert command(str(tiny_plan), "roofs") == 2
    assert "roofline" in capsys.readouterr().err
