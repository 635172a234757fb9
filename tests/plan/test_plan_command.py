"""``engine plan`` on the command line: data on stdout, faults on stderr, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from compiler.plan import plan_schema
from compiler.plan.schema import PLANS
from runtime.bundle.machine import Machine
from runtime.cli.plan import register
from runtime.cli.target import bundle_of
from runtime.errors import EXIT_PLAN, EXIT_USAGE, EngineError


@pytest.fixture
def engine(monkeypatch, machine):
    monkeypatch.setattr(Machine, "probe", classmethod(lambda cls: machine))
    app = typer.Typer()
    register(app)

    @app.callback()
    def _group() -> None:
        pass

    return lambda *arguments: CliRunner().invoke(app, ["plan", *map(str, arguments)])


@pytest.fixture
def plan_file(tmp_path: Path, shared_data: Path, minimal) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps({**minimal, "model": str(shared_data / "architectures/llama-dense.gguf")}))
    return path


def test_validate_says_valid_or_everything_that_is_not(engine, plan_file: Path, tmp_path: Path) -> None:
    good = engine("validate", plan_file)
    assert (good.exit_code, good.stdout) == (0, f"{plan_file}: valid\n")
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nmodel: gone.gguf\nbackend: cpu_avx3\nquantization: q9\n")
    result = engine("validate", plan_file, bad)
    assert result.exit_code == EXIT_PLAN
    assert f"{plan_file}: valid" in result.stdout
    for part in (f"{bad}: 3 errors", "cpu_avx3", "gone.gguf", "q9", "did you mean 'cpu_avx2'?"):
        assert part in result.stderr


def test_validate_as_json_lists_every_fault(engine, plan_file: Path, tmp_path: Path) -> None:
    result = engine("validate", "--json", plan_file, tmp_path / "none.yaml")
    assert result.exit_code == EXIT_PLAN
    good, bad = json.loads(result.stdout)
    assert good == {"file": str(plan_file), "valid": True, "errors": []}
    assert not bad["valid"]
    assert bad["errors"][0]["code"] == "unknown_plan"


def test_explain_shows_each_value_each_origin_and_each_tensor(engine, plan_file: Path) -> None:
    result = engine("explain", plan_file)
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
    assert lines["execution.context"][1:] == ["256", "model"]
    assert lines["execution.threads"][1:] == ["4", "probe:", "4", "physical", "cores"]
    assert lines["output.weight"][1:3] == ["f32", "q6_k"]
    body = json.loads(engine("explain", "--json", plan_file).stdout)
    assert body["fields"]["backend"] == {"value": "reference", "origin": "plan"}
    tensors = {item["name"]: item for item in body["tensors"]}
    assert tensors["blk.0.attn_q.weight"]["type"] == "q4_k"
    assert all(item["reason"] for item in body["tensors"])
    assert len(body["digest"]) == 64


def test_explain_without_the_model_leaves_open_what_it_decides(engine, tmp_path: Path, minimal) -> None:
    (tmp_path / "p.yaml").write_text(json.dumps({**minimal, "model": "gone.gguf"}))
    result = engine("explain", "--json", tmp_path / "p.yaml")
    assert result.exit_code == 0, result.output
    body = json.loads(result.stdout)
    assert body["digest"] is None
    assert body["tensors"] is None
    assert body["fields"]["execution.context"] == {"value": None, "origin": "model"}
    assert any("gone.gguf" in note for note in body["notes"])


def test_explain_reports_the_plans_and_the_tensors_faults_together(
    engine, shared_data, tmp_path, minimal
) -> None:
    model = str(shared_data / "quantized/llama-dense-Q6_K.gguf")
    document = {**minimal, "model": model, "quantization": "q8_0", "execution": {"context": 100_000}}
    (tmp_path / "p.yaml").write_text(json.dumps(document))
    result = engine("explain", tmp_path / "p.yaml")
    assert isinstance(result.exception, EngineError)
    assert {fault.path for fault in result.exception.causes} == {"execution.context", "quantization"}


def test_schema_is_printed_as_it_is(engine) -> None:
    assert json.loads(engine("schema").stdout) == plan_schema()
    # If this fails: engine plan schema says which formats plans/plan.schema.json lacks or has too many.
    assert json.loads((PLANS / "plan.schema.json").read_text("utf-8")) == plan_schema()


@pytest.mark.parametrize("target", ["a" * 5000, "~nobody-of-that-name/plan.yaml"])
def test_a_target_that_cannot_be_looked_up_is_an_error_of_usage(target: str) -> None:
    with pytest.raises(EngineError) as caught:
        bundle_of(target)
    assert (caught.value.code, caught.value.exit_code) == ("unknown_plan", EXIT_USAGE)
