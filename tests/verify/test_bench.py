"""``engine bench`` speaks llama-bench: tests, lists, keys, table; what is unknown is null."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from pathlib import Path

import pytest

from compiler.workbench.bandwidth import BandwidthProbe, _tool
from runtime.cli import main
from runtime.cli.target import bundle_of
from runtime.engine.executable import Executable
from runtime.errors import EngineError
from runtime.laboratory.bench import Test as Row
from runtime.laboratory.bench import chunks, parse_values, plan_tests, run_test
from runtime.laboratory.work import Step
from runtime.metrics.energy import EnergyMeter

LLAMA_BENCH_KEYS = [
    "build_commit",
    "cpu_info",
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "n_batch",
    "n_ubatch",
    "n_threads",
    "type_k",
    "type_v",
    "n_prompt",
    "n_gen",
    "n_depth",
    "test_time",
    "avg_ns",
    "stddev_ns",
    "avg_ts",
    "stddev_ts",
    "samples_ns",
    "samples_ts",
]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("512", [512]),
        ("1,2,4", [1, 2, 4]),
        ("1-4", [1, 2, 3, 4]),
        ("16-64+16", [16, 32, 48, 64]),
        ("1-8*2", [1, 2, 4, 8]),
        ("0,128-256*2", [0, 128, 256]),
    ],
)
def test_lists_and_ranges(text: str, values: list[int]) -> None:
    assert parse_values(text, "-p") == values


@pytest.mark.parametrize("text", ["", "a", "4-1", "1-4*1", "0-4*2", "1-9+0", "1-5000", "-1", "1,,2"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(EngineError) as caught:
        parse_values(text, "-p")
    assert (caught.value.code, caught.value.path) == ("invalid_option", "-p")


def test_tests_are_named_and_ordered_as_llama_bench_does() -> None:
    tests = plan_tests([512], [128, 0], [(64, 16)], [0, 256])
    assert [test.name for test in tests] == [
        "pp512",
        "tg128",
        "pp64+tg16",
        "pp512 @ d256",
        "tg128 @ d256",
        "pp64+tg16 @ d256",
    ]


def test_steps_of_a_test_follow_one_another_and_want_the_last_logits_of_a_prompt() -> None:
    assert Row(70, 2, 5).steps(32) == [
        Step(32, 5, 0),
        Step(32, 37, 0),
        Step(6, 69, 1),
        Step(1, 75, 1),
        Step(1, 76, 1),
    ]
    assert Row(0, 1).steps(32) == [Step(1, 0, 1)]
    assert chunks(70, 32) == [32, 32, 6]


class Constant:
    """A counter of 50 W on a clock of its own."""

    domain, kind, joules_per_count, count_range = "package-0", "package", 1e-6, None

    def __init__(self) -> None:
        self.ns = 0

    def clock(self) -> int:
        self.ns += 1_000_000
        return self.ns

    def read(self) -> int:
        return self.ns // 20

    def close(self) -> None:
        pass


def test_a_test_is_repeated_with_the_bandwidth_and_energy_of_each_round(tiny_plan: Path) -> None:
    bundle = bundle_of(str(tiny_plan), quiet=True)
    counter = Constant()
    meter = EnergyMeter("made", [counter], clock=counter.clock, sampling=False)
    with Executable.open(bundle, 1) as executable:
        looks = iter((4e9, 6e9, 5e9, 3e9))
        result = run_test(executable, Row(4, 3, 8), repetitions=3, meter=meter, bandwidth=lambda: next(looks))
        body = result.to_json(bundle, "made")
    assert len(body["samples_ns"]) == 3
    assert body["avg_ts"] == pytest.approx(sum(7e9 / ns for ns in body["samples_ns"]) / 3)
    assert body["avg_watts"] == pytest.approx(50.0)
    assert body["joules_per_token"] == pytest.approx(0.05 / 7)
    assert result.bandwidths == (6e9, 6e9, 5e9)  # the better of before and after
    assert body["read_bandwidth_gb_per_s"] == 6.0
    assert body["bandwidth_share"] is None  # the prompt's part is bound by arithmetic
    assert 0 <= body["overhead"] < 1


def test_sampling_is_outside_the_compiled_forward_and_counts_as_overhead(
    tiny_plan: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    positions: list[int] = []

    def sample(_: Executable, logits: object, sampling: object, position: int, history: object) -> None:
        positions.append(position)
        time.sleep(0.02)

    monkeypatch.setattr(Executable, "sample", sample)
    arguments = (str(tiny_plan), "-p", "0", "-n", "3", "-d", "4", "-r", "2", "--no-bandwidth", "-o", "json")
    assert command(*arguments) == 0
    assert positions == []
    capsys.readouterr()
    assert command(*arguments, "--sample") == 0
    captured = capsys.readouterr()
    assert positions == [5, 6, 7] * 2
    assert json.loads(captured.out)[0]["overhead"] > 0.1
    assert "and sampling as the plan says" in captured.err


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    return int(ended.value.code or 0)


def test_the_four_formats(tiny_plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = (str(tiny_plan), "-p", "4", "-n", "2", "-pg", "3,1", "-r", "2", "--no-bandwidth")
    assert command(*small, "-o", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["n_prompt"], r["n_gen"]) for r in rows] == [(4, 0), (0, 2), (3, 1)]
    assert set(LLAMA_BENCH_KEYS) <= set(rows[0])
    assert rows[0]["avg_watts"] is None or rows[0]["avg_watts"] > 0
    assert command(*small, "-o", "jsonl") == 0
    assert [json.loads(line)["n_gen"] for line in capsys.readouterr().out.splitlines()] == [0, 2, 1]
    assert command(*small, "-o", "csv") == 0
    assert [r["n_prompt"] for r in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["4", "0", "3"]
    assert command(*small) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("| model")
    assert [cell.strip() for cell in lines[0].split("|")][1:8] == [
        "model",
        "size",
        "params",
        "backend",
        "threads",
        "test",
        "t/s",
    ]
    assert "pp3+tg1" in lines[4]
    assert lines[-1].startswith("build: 0.")
    assert "not timed: tokenization, sampling" in captured.err


def test_what_cannot_be_measured_is_refused(tiny_plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(str(tiny_plan), "-p", "9999", "-n", "0") == 2
    assert "at most 256" in capsys.readouterr().err
    assert command(str(tiny_plan), "-p", "banana") == 2
    assert command(str(tiny_plan), "-o", "xml") == 2
    assert command(str(tiny_plan), "-pg", "5") == 2


def test_the_bandwidth_probe_reads_memory_with_its_fastest_loops() -> None:
    with BandwidthProbe(2, 16 << 20) as probe:
        assert (probe.threads, probe.bytes) == (2, 16 << 20)
        rate = probe.measure(rounds=2)
        assert 1e8 < rate < 1e13
        assert re.fullmatch(r"(256|512) bit( x \d streams)?, (no prefetch|prefetch \d+ ahead.*)", probe.loop)
    probe.close()
    with BandwidthProbe(3, 1) as small:
        assert small.bytes == 3 * (4 << 20)  # a unit a thread


def test_every_loop_of_the_probe_reads_every_word() -> None:
    tool = _tool()
    probe = tool.lib.bandwidth_open(2, 8 << 20)
    loops = tool.lib.bandwidth_loops()
    assert loops > 4
    assert all(tool.lib.bandwidth_pass(probe, loop) > 0 for loop in range(loops))  # -1: another sum
    assert tool.lib.bandwidth_pass(probe, loops) == tool.lib.bandwidth_pass(probe, -1) == 0
    assert tool.lib.bandwidth_loop(loops) == tool.ffi.NULL
    tool.lib.bandwidth_close(probe)


@pytest.mark.parametrize(("threads", "size"), [(0, 1 << 20), (2000, 1 << 20), (1, 1 << 50)])
def test_what_the_probe_cannot_have_is_said(threads: int, size: int) -> None:
    with pytest.raises(EngineError) as caught:
        BandwidthProbe(threads, size)
    assert caught.value.code == "bandwidth_unknown"
