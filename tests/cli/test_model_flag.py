"""``--model FILE``: whatever a file holds runs at once, or one line says which word makes it run."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import gguf
import pytest
import yaml

from compiler.formats import FORMATS
from compiler.model.reader import decodable
from compiler.quantize.choice import suggested_quantization
from compiler.quantize.recipes import assign_types
from runtime.bundle.plan import Quantization
from runtime.errors import EngineError
from tests.command import Engine
from tests.quantize.quantize_models import describe, layers
from tests.tiny_models import write_llama, write_model

QUANTIZED = [
    kind.name.lower()
    for kind in gguf.GGMLQuantizationType
    if kind.name.startswith(("Q", "IQ", "TQ", "MX", "NV")) and decodable(kind.name.lower())
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    kinds = ("F32", "Q4_0", "Q4_1", "TQ2_0")
    return {
        name: write_llama(folder / f"tiny-{name}.gguf", layers=1, type=gguf.GGMLQuantizationType[name])
        for name in kinds
    }


@pytest.mark.parametrize("kind", QUANTIZED)
def test_every_quantized_type_has_a_suggestion_that_is_accepted(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = describe(layers(2, k=512, type=kind), block_count=2)
    tensors = tuple(model.tensors.values())
    monkeypatch.setattr("compiler.quantize.choice.peek_model", lambda path: ("llama", tensors))
    suggested, said = suggested_quantization(Path("model.gguf"))
    quantization = Quantization(suggested) if isinstance(suggested, str) else Quantization(**suggested)
    types = assign_types(model, quantization)
    assert quantization.recipe == "source"
    changed = {t.type for t in types if t.source_type == kind} - {kind}
    assert (said is not None) == quantization.requantize
    assert quantization.requantize == bool(changed)
    assert said is None or f"{kind} as {changed.pop()}" in said


def test_a_file_of_floats_is_quantized_and_a_quantized_one_kept(models: dict[str, Path]) -> None:
    assert suggested_quantization(models["F32"]) == ("q4_k_m", None)
    assert suggested_quantization(models["Q4_0"]) == ("source", None)
    assert suggested_quantization(models["Q4_1"]) == ("source", None)
    suggested, said = suggested_quantization(models["TQ2_0"])
    assert suggested == {"recipe": "source", "requantize": True}
    assert "tq2_0 as q4_k" in (said or "")


def test_what_is_said_knows_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = tuple(describe(layers(1, k=320, type="iq3_s"), block_count=1).tensors.values())
    monkeypatch.setattr("compiler.quantize.choice.peek_model", lambda path: ("llama", tensors))
    assert f"iq3_s as {FORMATS['q4_k'].fallback}" in (suggested_quantization(Path("model.gguf"))[1] or "")


def test_a_type_that_cannot_be_decoded_is_refused_and_not_promised_a_conversion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = tuple(describe(layers(2, k=512, type="q8_k"), block_count=2).tensors.values())
    monkeypatch.setattr("compiler.quantize.choice.peek_model", lambda path: ("llama", tensors))
    with pytest.raises(EngineError, match="16 as q8_k") as caught:
        suggested_quantization(Path("model.gguf"))
    assert caught.value.code == "unsupported_source_type"


def test_a_file_that_names_no_splitting_rule_is_noted_everywhere(engine: Engine, tmp_path: Path) -> None:
    """When it is explained, compiled and run, once each; and in the record."""
    model = write_llama(tmp_path / "m.gguf", layers=1)
    plan = tmp_path / "m.yaml"
    plan.write_text("{version: 1, model: m.gguf, backend: reference, quantization: q8_0}")
    rule = "tokenizer.ggml.pre"
    assert rule not in engine("plan", "explain", plan)[2]
    data = model.read_bytes()
    assert data.count(rule.encode()) == 1
    model.write_bytes(data.replace(rule.encode(), b"tokenizer.ggml.prx"))
    assert engine("plan", "explain", plan)[2].count(rule) == 1
    assert engine("compile", plan)[2].count(rule) == 1
    words = ("run", plan, "-p", "the cat", "-n", 2)
    assert engine(*words)[2].count(rule) == 1
    notes = json.loads(engine(*words, "--json")[1])["diagnostics"]["notes"]
    assert sum(rule in text for text in notes) == 1


def test_a_quantized_file_runs_by_its_name_alone(
    models: dict[str, Path], engine: Engine, tmp_path: Path
) -> None:
    plan = tmp_path / "saved.yaml"
    words = ("-p", "the cat", "-n", 3, "--context", 64, "--json", "--logprobs", 2, "--backend", "reference")
    code, out, said = engine("run", "--model", models["TQ2_0"], *words, "--save-plan", plan)
    assert code == 0, said
    assert "tq2_0 as q4_k" in said
    assert yaml.safe_load(plan.read_text())["quantization"] == {"recipe": "source", "requantize": True}
    body = json.loads(out)
    assert [entry["id"] for entry in body["logprobs"]] == body["token_ids"]
    for entry in body["logprobs"]:  # greedy: the chosen one is the likeliest
        assert entry["top"][0] == {key: entry[key] for key in ("id", "token", "logprob")}
        assert len(entry["top"]) == 2
        assert entry["top"][1]["logprob"] <= entry["logprob"] <= 0
    chosen = body["token_ids"][0]
    code, out, _ = engine("run", "--model", models["TQ2_0"], *words, "--logit-bias", f"{chosen}=-inf")
    again = json.loads(out)
    assert again["token_ids"][0] == body["logprobs"][0]["top"][1]["id"]
    assert again["logprobs"][0]["top"] == body["logprobs"][0]["top"]  # probabilities are the model's own


def test_what_would_be_quantized_twice_names_the_words_that_make_it_run(
    models: dict[str, Path], engine: Engine
) -> None:
    code, out, said = engine("run", "--model", models["TQ2_0"], "--quant", "q4_k_m", "-p", "a")
    assert (code, out) == (3, "")
    assert len(said.splitlines()) == 2
    assert "in tq2_0 (q4_k wanted)" in said
    assert "--quant source" in said
    assert "--requantize" in said
    code, _, said = engine("run", "--model", models["TQ2_0"], "--quant", "source", "-p", "a")
    assert code == 3
    assert "in tq2_0 (q4_k in its place)" in said
    code, _, said = engine("run", "--model", models["TQ2_0"], "--requantize", "-p", "a")
    assert code == 2
    assert "--quant" in said


def test_a_family_that_is_not_described_is_told_before_anything_is_read(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "m.gguf", "mamba", {}, {"blk.0.ssm_in.weight": (64, 64)})
    monkeypatch.setattr("compiler.model.reader.content_digest", lambda *_: pytest.fail("read for minutes"))
    code, _, said = engine("run", "--model", path, "-p", "a")
    assert code == 4
    assert "no model family describes the architecture 'mamba'" in said
    assert "qwen3moe" in said
    assert "HACKING.md" in said


def test_chat_takes_a_file_as_run_does(
    models: dict[str, Path],
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    words = ("-n", 3, "--context", 64, "--backend", "reference")
    code, out, said = engine("chat", "--model", models["Q4_0"], *words)
    assert code == 0, said
    assert out
    assert "tiny-Q4_0 source" in said
    for wrong in ((), ("storyteller-q4", "--model", "x.gguf")):
        code, _, said = engine("chat", *wrong)
        assert code == 2
        assert "not both" in said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--logit-bias", "five=1"], 2, "five=1"),
        (["--logit-bias", "5"], 2, "ID=BIAS"),
        (["--logit-bias", "100000=1"], 8, "100000"),
        (["--logit-bias", "5=nan"], 8, "logit_bias.5"),
        (["--logprobs", "3"], 2, "--json"),
        (["--json", "--logprobs", "1000"], 8, "logprobs"),
        (["--typical-p", "2"], 3, "sampling.typical_p"),
        (["--presence-penalty", "1e9"], 3, "sampling.presence_penalty"),
    ],
)
def test_what_a_run_asks_for_is_judged(
    words: list[str], code: int, says: str, models: dict[str, Path], engine: Engine
) -> None:
    base = ("run", "--model", models["Q4_0"], "-p", "a", "-n", 1, "--context", 64, "--backend", "reference")
    found, out, said = engine(*base, *words)
    assert (found, out) == (code, "")
    assert says in said
