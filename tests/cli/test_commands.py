"""The command line: data on stdout, the rest on stderr, exit codes as documented."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle import store
from runtime.cli import COMMANDS
from runtime.cli.logits import read_ids
from runtime.cli.output import print_error
from runtime.errors import EngineError
from tests.command import Engine
from tests.fakes.bundle import END, POISON, make_bundle, resolved_plan

ROOT = Path(__file__).resolve().parents[2]
TEXT = "Olá 🦉 mundo!"


@pytest.fixture
def scripted(tmp_path: Path) -> Path:
    """A bundle that answers a prompt of one token (its length: \\x01) with TEXT."""
    return make_bundle(tmp_path / "bundle", ["SCRIPT=" + ",".join(map(str, [*TEXT.encode(), END]))])


def test_run_streams_text_to_stdout_and_metrics_to_stderr(engine: Engine, scripted: Path) -> None:
    done = engine("run", scripted, "--prompt", "\x01", "-n", 64)
    assert done.code == 0
    assert done.out == TEXT + "\n"
    for name in ("tokens_total", "tokens_per_sec", "latency_p50_ms", "watts_avg", "logits_digest"):
        assert name in done.err
    assert "end_of_sequence" in done.err


def test_run_quiet_says_nothing_else(engine: Engine, scripted: Path) -> None:
    done = engine("run", scripted, "--prompt", "\x01", "-n", 3, "--quiet", "--no-stream")
    assert (done.out, done.err) == ("Ol\N{REPLACEMENT CHARACTER}\n", "")


def test_run_json_is_the_metrics_of_the_requirements(engine: Engine, scripted: Path) -> None:
    done = engine("run", scripted, "--prompt", "\x01", "-n", 64, "--json")
    body = json.loads(done.out)
    assert {"engine_version", "model", "backend", "quantization", "metrics"} <= set(body)
    official = {"tokens_total", "tokens_per_sec", "latency_p50_ms", "latency_p95_ms", "watts_avg"}
    assert official | {"latency_total_ms", "tokens_per_watt", "memory_peak_mb"} == set(body["metrics"])
    assert body["metrics"]["tokens_total"] == len(TEXT.encode()) + 1
    assert body["result"] == TEXT
    assert body["stop_reason"] == "end_of_sequence"
    assert len(body["diagnostics"]["logits_digest"]) == 64
    assert body["metrics"]["watts_avg"] is not None or body["diagnostics"]["unknown"]["watts_avg"]


def test_runs_of_one_seed_are_one(engine: Engine, scripted: Path) -> None:
    bodies = [json.loads(engine("run", scripted, "-p", "hello", "-n", 9, "--json").out) for _ in range(2)]
    assert bodies[0]["diagnostics"]["logits_digest"] == bodies[1]["diagnostics"]["logits_digest"]
    assert bodies[0]["token_ids"] == bodies[1]["token_ids"]


def test_messages_go_through_the_chat_template(engine: Engine, scripted: Path, tmp_path: Path) -> None:
    conversation = tmp_path / "messages.json"
    conversation.write_text(json.dumps([{"role": "user", "content": "hi"}]))
    body = json.loads(engine("run", scripted, "--messages", conversation, "-n", 1, "--json").out)
    assert body["diagnostics"]["prompt_tokens"] == len("user:hi\nassistant:")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "name a plan"),
        (["{bundle}", "--model", "x.gguf", "-p", "a"], 2, "not both"),
        (["{bundle}", "-p", "a", "--messages", "m.json"], 2, "one of --prompt"),
        (["{bundle}", "--messages", "/nonexistent.json"], 2, "cannot be read"),
        (["{bundle}", "-p", "a", "--save-plan", "p.yaml"], 2, "--save-plan"),
        (["{bundle}", "-p", "a", "--unknown"], 2, "unknown"),
        (["{bundle}", "-p", "a", "-n", "0"], 3, "limits.max_tokens"),
        (["{bundle}", "-p", "a", "--temperature", "-1"], 3, "sampling.temperature"),
        (["{bundle}", "-p", "a" * 500], 8, "500 tokens"),
        (["{bundle}", "-p", ""], 8, "no tokens"),
        (["no-such-plan", "-p", "a"], 3, "no-such-plan"),
        (["{folder}", "-p", "a"], 2, "holds no bundle"),
    ],
)
def test_run_says_what_is_wrong(
    engine: Engine, scripted: Path, arguments: list[str], code: int, says: str
) -> None:
    filled = [word.format(bundle=scripted, folder=ROOT / "docs") for word in arguments]
    done = engine("run", *filled)
    assert (done.code, done.out) == (code, "")
    assert says in done.err


def test_errors_as_json_for_programs(engine: Engine, scripted: Path) -> None:
    (scripted / "graph.txt").chmod(0o600)
    (scripted / "graph.txt").write_text("damage")
    done = engine("run", scripted, "-p", "a", "--json")
    assert done.code == 5
    error = json.loads(done.err)["error"]
    assert error["code"] == "bundle_damaged"
    assert error["path"].endswith("graph.txt")
    assert "hint" in error


def test_a_numeric_error_is_one_with_its_own_exit_code(engine: Engine, scripted: Path) -> None:
    done = engine("run", scripted, "--prompt", chr(POISON), "--json")
    assert done.code == 8
    body = json.loads(done.out)
    assert body["stop_reason"] == "error"
    assert body["error"]["code"] == "numeric_error"
    assert body["metrics"]["tokens_total"] == 0


def test_ctrl_c_ends_an_execution_with_its_metrics(tmp_path: Path) -> None:
    bundle = make_bundle(
        tmp_path / "slow",
        ["STEP_US=20000", "SCRIPT=" + ",".join(["65"] * 120)],
        plan=resolved_plan(limits__max_tokens=120),
    )
    command = [sys.executable, "-m", "runtime.cli", "run", str(bundle), "--prompt", "\x01"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    begun = process.stdout.read(3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert begun == "AAA"
    assert out.endswith("\n")
    assert set(out) <= {"A", "\n"}
    assert 3 <= len(begun + out) - 1 < 120
    assert "cancelled" in err
    assert "tokens_per_sec" in err


def test_a_reader_that_leaves_is_no_error(scripted: Path) -> None:
    command = f"{sys.executable} -m runtime.cli inspect {scripted} kernels engine.c | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""


def test_logits_are_the_same_for_any_step(engine: Engine, scripted: Path, tmp_path: Path) -> None:
    ids, out = tmp_path / "ids", tmp_path / "logits.npy"
    ids.write_text("[1, 20,30 40\n50]")
    digests = set()
    for step in (1, 2, 32):
        done = engine("logits", scripted, "--tokens", ids, "-o", out, "--step-tokens", step, "--json")
        digests.add(json.loads(done.out)["logits_digest"])
    assert len(digests) == 1
    rows = np.load(out)
    assert (rows.shape, rows.dtype) == ((5, 258), np.float32)


@pytest.mark.parametrize("text", ["", "1, two", "1 999", "-1", "1 " * 129])
def test_logits_refuses_what_are_no_ids(engine: Engine, scripted: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "ids").write_text(text)
    done = engine("logits", scripted, "--tokens", tmp_path / "ids", "-o", tmp_path / "x.npy")
    assert done.code == 2
    assert not (tmp_path / "x.npy").exists()


def test_ids_may_be_written_in_several_ways(tmp_path: Path) -> None:
    for text in ("1,2,3", "1 2 3", "[1, 2, 3]", "1\n2\n3\n"):
        (tmp_path / "ids").write_text(text)
        assert read_ids(tmp_path / "ids") == [1, 2, 3]


@pytest.mark.parametrize("part", ["summary", "plan", "graph", "kernels", "memory", "asm", "tensors"])
def test_inspect_shows_every_part(engine: Engine, scripted: Path, part: str) -> None:
    words = {
        "graph": "the graph",
        "plan": "execution.slots",
        "asm": "engine_forward",
        "tensors": "the recipe",
    }
    plain = engine("inspect", scripted, part)
    assert plain.code == 0, plain.err
    assert words.get(part, "engine" if part in ("summary", "kernels") else "") in plain.out
    json.loads(engine("inspect", scripted, part, "--json").out)


def test_inspect_names_what_there_is(engine: Engine, scripted: Path) -> None:
    assert "engine_forward>:" in engine("inspect", scripted, "asm", "engine_forward").out
    assert "#include" in engine("inspect", scripted, "kernels", "engine.c").out
    done = engine("inspect", scripted, "asm", "engine_foward")
    assert done.code == 2
    assert "engine_forward" in done.err


def test_bundles_are_listed_verified_and_removed(engine: Engine) -> None:
    kept = make_bundle(store.bundles_dir() / "kept-000000000000")
    make_bundle(store.bundles_dir() / "gone-000000000000")
    listed = json.loads(engine("bundles", "list", "--json").out)["bundles"]
    assert {"kept-000000000000", "gone-000000000000"} <= {entry["name"] for entry in listed}
    assert engine("bundles", "remove", "gone-000000000000").code == 0
    assert "gone-" not in engine("bundles", "list").out
    assert engine("bundles", "verify", kept.name).code == 0
    (kept / "plan.json").chmod(0o600)
    (kept / "plan.json").write_text("{}")
    assert engine("bundles", "verify", kept.name).code == 5
    assert engine("bundles", "remove", kept.name).code == 0
    assert engine("bundles", "remove", "never-was").code == 5


def test_doctor_says_what_is_there_and_what_is_not(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.loads(engine("doctor", "--json").out)
    assert body["cpu"]["threads"] >= 1
    assert any(backend["name"] == "reference" and backend["usable"] for backend in body["backends"])
    assert "cpu " in engine("doctor").out
    monkeypatch.setenv("CC", "/nonexistent/cc")
    assert "compiler_failed" in engine("doctor", "--json").out


def test_help_lists_the_commands_and_version_is_the_packages(engine: Engine) -> None:
    shown = engine("--help").out
    assert all(name in shown for name in ("compile", "run", "inspect", "doctor", "bundles", "logits"))
    assert f'version = "{engine("--version").out.strip()}"' in (ROOT / "pyproject.toml").read_text()
    assert len({name for names in COMMANDS.values() for name in names}) >= len(COMMANDS)


def test_all_faults_of_an_error_are_shown_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    inner = EngineError("x", "is wrong", path="limits.max_watts", allowed="1 to 9", hint="lower it")
    print_error(EngineError("y", "two faults", path="plan.yaml", causes=(inner,)))
    text = capfd.readouterr().err
    assert text.splitlines() == [
        "error: plan.yaml: two faults",
        "  - limits.max_watts: is wrong",
        "    allowed: 1 to 9",
        "    hint: lower it",
    ]
