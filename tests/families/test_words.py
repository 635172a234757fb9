"""Every word of ``family.schema.json``, and the families made of them, against what llama.cpp computes.

``words.npz`` holds the logits of the last eight tokens of each case of ``tests/families/models.py``
(llama-cpp-python 0.3.36, float weights, float cache, no flash attention, a context of 256);
``python -m tests.families.models FOLDER`` writes the models and their tokens for computing them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler import compile_plan
from compiler.decoder import build_decoder
from compiler.decoder.families import families
from compiler.graph.interpret import Interpreter, Step, activate
from compiler.graph.ops import ACTIVATIONS
from compiler.model.reader import open_rows, read_model
from runtime.errors import EngineError
from tests.conformance.conftest import nmse, plan_of, run_logits, runnable_backends
from tests.families.models import CASES, Case, tokens, write_case
from tests.tiny_models import VOCABULARY

STORED = np.load(Path(__file__).with_name("words.npz"))
KEPT = 8
#: llama.cpp looks gelu up in a table of half floats.
TOLERANCE = 1e-6
Compiled = Callable[..., Path]


def interpreted(path: Path, ids: np.ndarray, context: int) -> np.ndarray:
    model = read_model(path)
    with open_rows(model) as rows:
        weights = {name: rows.float32(tensor) for name, tensor in model.tensors.items()}
    decoder = build_decoder(model, weights.__getitem__, context)
    assert decoder.unused == ()
    run = Interpreter(decoder.graph, {**weights, **decoder.constants})
    count = len(ids)
    logits = run.run(Step(ids, np.arange(count), np.zeros(count, int), np.ones(count, bool)))
    return np.asarray(logits)


@pytest.mark.parametrize("name", CASES)
def test_what_the_graph_means_is_what_llama_cpp_computes(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    found = interpreted(write_case(tmp_path / "m.gguf", case), tokens(case), case.context)
    assert nmse(found[-KEPT:], STORED[name]) <= TOLERANCE


@pytest.mark.parametrize("backend", runnable_backends())
@pytest.mark.parametrize(
    "name",
    [
        "dots1-sigmoid-experts",
        "deepseek-shared-experts",
        "gemma3-window-base",
        "phi2-one-norm",
    ],
)
def test_what_runs_is_what_llama_cpp_computes_in_any_chunks(
    name: str,
    backend: str,
    tmp_path: Path,
    compiled: Compiled,
) -> None:
    case = CASES[name]
    path = write_case(tmp_path / f"{name}.gguf", case)
    bundle = compiled(plan_of(path, "f32", backend, context=case.context, step_tokens=64))
    ids = tokens(case).tolist()
    whole = run_logits(bundle, ids)
    assert nmse(whole[-KEPT:], STORED[name]) <= TOLERANCE
    for chunk in (1, 7):
        assert run_logits(bundle, ids, chunk=chunk, threads=2).tobytes() == whole.tobytes()


def test_every_case_is_recorded() -> None:
    assert set(STORED.files) == set(CASES)
    assert all(stored.shape == (KEPT, VOCABULARY) for stored in STORED.values())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("arcee-relu2", {"activation": "silu"}),
        ("deepseek-shared-experts", {"expert_normalize": True}),
        ("smollm3-nope-layer", {"rope_skip_every": 0}),
        ("gemma2-scale-by-layers", {"width_per_head_at_layers": ()}),
        ("gemma2-scale-by-layers", {"window_period": 3}),
        ("gemma3-window-base", {"rope_window_base": None}),
        ("gemma3-window-base", {"rope_window_unscaled": False}),
        ("olmo3-yarn", {"rope_window_unscaled": False}),
        ("olmo3-yarn", {"window_period": 2}),
        ("granite-scales", {"scale_from_key": False}),
        ("granite-scales", {"embedding_scale": "none"}),
        ("granite-scales", {"logit_scale": "multiply"}),
        ("granite-scales", {"residual_scale": "none"}),
        ("granite-no-rotation", {"rope_switchable": False}),
        ("exaone", {"rope_pairing": "norm"}),
    ],
)
def test_without_its_word_a_case_is_another_model(
    name: str, change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    monkeypatch.setitem(families(), case.architecture, replace(families()[case.architecture], **change))
    path = write_case(tmp_path / "m.gguf", case)
    model = read_model(path)
    with open_rows(model) as rows:
        weights = {n: rows.float32(tensor) for n, tensor in model.tensors.items()}
    decoder = build_decoder(model, weights.__getitem__, case.context)
    ids = tokens(case)
    step = Step(ids, np.arange(len(ids)), np.zeros(len(ids), int), np.ones(len(ids), bool))
    found = Interpreter(decoder.graph, {**weights, **decoder.constants}).run(step)
    assert nmse(found[-KEPT:], STORED[name]) > 1e-4


def test_the_walk_through_shows_the_whole_file() -> None:
    root = Path(__file__).resolve().parents[2]
    diff = (root / "HACKING.md").read_text().partition("```diff\n")[2].partition("```")[0].splitlines()
    name, *lines = [line.removeprefix("+") for line in diff]
    assert lines == (root / name.removeprefix("++ ")).read_text().splitlines()


def test_keys_of_yarn_are_heard(tmp_path: Path) -> None:
    """Without its multiplier the rotation is another; scaled queries are refused where they would begin."""
    case = CASES["mistral3-yarn"]
    plain = {k: v for k, v in case.metadata.items() if "multiplier" not in k}
    path = write_case(tmp_path / "a.gguf", replace(case, metadata=plain))
    found = interpreted(path, tokens(case), case.context)
    assert nmse(found[-KEPT:], STORED["mistral3-yarn"]) > 1e-4
    with pytest.raises(EngineError, match="scales queries by their position from 64 on") as caught:
        interpreted(path, tokens(case), 65)
    assert caught.value.path == "mistral3.attention.temperature_scale"


def test_the_gating_of_the_file_wins_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    case = CASES["deepseek-shared-experts"]
    plain = interpreted(write_case(tmp_path / "a.gguf", case), tokens(case), 64)
    for value, same in ((1, True), (2, False)):
        other = replace(case, metadata={**case.metadata, "expert_gating_func": value})
        found = interpreted(write_case(tmp_path / f"{value}.gguf", other), tokens(case), 64)
        assert np.array_equal(found, plain) == same
    other = replace(case, metadata={**case.metadata, "expert_gating_func": 9})
    with pytest.raises(EngineError, match="9 is not known"):
        interpreted(write_case(tmp_path / "9.gguf", other), tokens(case), 64)


#: By hand: x Phi(x) and its tanh approximation, x / (1 + e^-x), max(x, 0)^2.
AT_ONE_AND_MINUS_TWO = {
    "silu": (0.7310585786300049, -0.23840584404423515),
    "gelu": (0.8413447460685429, -0.04550026389635842),
    "gelu_tanh": (0.8411919906082768, -0.045402305912),
    "relu2": (1.0, 0.0),
    "sigmoid": (0.7310585786300049, 0.11920292202211755),
    "tanh": (0.7615941559557649, -0.9640275800758169),
}


def test_activations_are_what_they_are_called() -> None:
    assert set(AT_ONE_AND_MINUS_TWO) == set(ACTIVATIONS)
    for kind, expected in AT_ONE_AND_MINUS_TWO.items():
        assert activate(kind, np.array([1.0, -2.0])) == pytest.approx(expected, abs=1e-11), kind
    for x in np.linspace(-9, 9, 41):
        assert activate("gelu", np.array([x]))[0] == pytest.approx(x * (1 + math.erf(x / 2**0.5)) / 2)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_tanh", "relu2"])
def test_each_activation_runs_as_it_is_meant(
    kind: str, gated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base: Case = replace(CASES["internlm2" if gated else "arcee-relu2"], layers=1)
    monkeypatch.setitem(
        families(), base.architecture, replace(families()[base.architecture], activation=kind)
    )
    path = write_case(tmp_path / "m.gguf", base)
    ids = tokens(base)
    bundle = compile_plan(plan_of(path, "f32", "reference", context=64), out=tmp_path / "bundle")
    assert nmse(run_logits(bundle, ids.tolist()), interpreted(path, ids, 64)) <= 1e-11
