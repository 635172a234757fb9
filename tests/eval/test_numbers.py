"""The numbers of ``engine eval`` are those that plain formulas give for the logits of the same bundles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from runtime.engine.executable import Executable
from runtime.laboratory import evaluate
from tests.command import Engine
from tests.eval.conftest import WINDOW, Tiny
from tests.tiny_models import VOCABULARY

FIRST = WINDOW // 2


def logits_of(engine: Engine, plan: Path, ids: list[int], folder: Path) -> np.ndarray:
    """Of one window, through ``engine logits``, a token a step."""
    (folder / "ids").write_text(" ".join(map(str, ids)))
    out = folder / "logits.npy"
    assert engine("logits", plan, "--tokens", folder / "ids", "-o", out, "--step-tokens", 1).code == 0
    return np.load(out).astype(np.longdouble)


def probabilities(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def windows_of(engine: Engine, plan: Path, text: Path) -> list[list[int]]:
    ids = engine("tokenize", plan, "--file", text, "--json").json["ids"]
    return [ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)]


def test_perplexity_divergence_and_agreement_by_hand(engine: Engine, tiny: Tiny, tmp_path: Path) -> None:
    plans = {name: tiny.plan(name, name) for name in ("f32", "q4_k_m")}
    done = engine("eval", plans["q4_k_m"], "-f", tiny.text, "-c", WINDOW, "--json")
    assert done.code == 0, done.err
    found = done.json
    windows = windows_of(engine, plans["f32"], tiny.text)
    assert len(windows) >= 3
    losses: dict[str, list[float]] = {name: [] for name in plans}
    divergences, agree, change = [], [], []
    for window in windows:
        p, q = (probabilities(logits_of(engine, plans[n], window, tmp_path)) for n in ("f32", "q4_k_m"))
        for i in range(FIRST, WINDOW - 1):
            target = window[i + 1]
            losses["f32"].append(-math.log(p[i, target]))
            losses["q4_k_m"].append(-math.log(q[i, target]))
            divergences.append(float((p[i] * np.log(p[i] / q[i])).sum()))
            agree.append(int(p[i].argmax()) == int(q[i].argmax()))
            change.append(float(q[i, target] - p[i, target]))
    count = len(divergences)
    assert found["text"] == {
        "file": str(tiny.text),
        "tokens": found["text"]["tokens"],
        "context": WINDOW,
        "windows": len(windows),
        "positions": count,
    }
    (row,) = found["evaluations"]
    close = {"rel": 1e-9, "abs": 1e-12}
    reference = found["reference"]
    assert reference["quantization"].startswith("source (")
    assert reference["perplexity"] == pytest.approx(math.exp(np.mean(losses["f32"])), **close)
    mean = math.exp(np.mean(losses["q4_k_m"]))
    assert row["perplexity"] == pytest.approx(mean, **close)
    spread = np.std(losses["q4_k_m"], ddof=1) / math.sqrt(count)
    assert row["perplexity_error"] == pytest.approx(mean * spread, **close)
    assert row["perplexity_ratio"] == pytest.approx(mean / reference["perplexity"], **close)
    kl = row["kl_divergence"]
    assert kl["mean"] == pytest.approx(np.mean(divergences), **close)
    assert kl["p99_9"] == pytest.approx(np.percentile(divergences, 99.9), **close)
    by_window = np.reshape(divergences, (len(windows), -1)).mean(axis=1)
    assert kl["by_window"] == pytest.approx(by_window, **close)
    assert kl["largest"] == pytest.approx(max(divergences), **close)
    assert kl["mean"] > 1e-4
    assert row["top_token_agreement"] == np.mean(agree)
    assert row["probability_change"] == pytest.approx(np.mean(change), **close)
    assert row["probability_change_rms"] == pytest.approx(np.sqrt(np.mean(np.square(change))), **close)


def test_unquantized_weights_diverge_by_exactly_nothing(engine: Engine, tiny: Tiny) -> None:
    body = engine("eval", tiny.plan("f32", "f32"), "-f", tiny.text, "-c", WINDOW, "--json").json
    (row,) = body["evaluations"]
    assert row["kl_divergence"].pop("by_window") == [0.0] * body["text"]["windows"]
    assert set(row["kl_divergence"].values()) == {0.0}
    assert row["top_token_agreement"] == 1.0
    assert row["perplexity_ratio"] == 1.0
    assert row["perplexity"] == body["reference"]["perplexity"]
    assert row["weights_error"]["relative_rmse"] == 0.0


def test_the_weights_errors_are_those_of_the_exported_file(
    engine: Engine, tiny: Tiny, tmp_path: Path
) -> None:
    plan = tiny.plan("q4_k_m", "q4_k_m")
    assert engine("quantize", plan, "-o", tmp_path / "q4.gguf").code == 0
    body = engine("eval", plan, "-f", tiny.text, "-c", WINDOW, "--reference", "none", "--json").json
    (row,) = body["evaluations"]
    originals = {t.name: t.data for t in gguf.GGUFReader(tiny.folder / "model.gguf").tensors}
    found = {t["name"]: t for t in row["weights_error"]["tensors"]}
    squares: dict[str, list[float]] = {}
    for tensor in gguf.GGUFReader(tmp_path / "q4.gguf").tensors:
        if len(tensor.shape) < 2:
            assert tensor.name not in found
            continue
        right = np.asarray(originals[tensor.name], np.float64)
        gap = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(right.shape) - right
        error = found.pop(tensor.name)
        assert error["rmse"] == pytest.approx(np.sqrt((gap**2).mean()), rel=1e-6)
        relative = np.sqrt((gap**2).sum() / (right**2).sum())
        assert error["relative_rmse"] == pytest.approx(relative, rel=1e-6)
        squares.setdefault(error["type"], []).append((gap**2).sum())
    assert found == {}
    kinds = {kind["type"]: kind for kind in row["weights_error"]["by_type"]}
    assert kinds.keys() == squares.keys() == {"q4_k", "q6_k"}
    for kind, sums in squares.items():
        assert kinds[kind]["rmse"] == pytest.approx(math.sqrt(sum(sums) / kinds[kind]["weights"]), rel=1e-6)


def test_without_a_reference_there_is_perplexity_alone(engine: Engine, tiny: Tiny) -> None:
    plan = tiny.plan("q8_0", "q8_0")
    body = engine("eval", plan, "-f", tiny.text, "-c", WINDOW, "--reference", "none", "--json").json
    assert body["reference"] is None
    (row,) = body["evaluations"]
    assert row["perplexity"] > 1
    assert row["kl_divergence"] is row["top_token_agreement"] is row["perplexity_ratio"] is None


def test_the_step_and_the_threads_change_no_number(engine: Engine, tiny: Tiny) -> None:
    """Steps of 10 and of 3 tokens, 1 thread and 2."""
    seen = []
    for step, threads in ((10, 2), (3, 1)):
        plan = tiny.plan(f"step{step}", "q8_0", step_tokens=step)
        body = engine("eval", plan, "-f", tiny.text, "-c", WINDOW, "-t", threads, "--json").json
        seen.append({k: v for k, v in body["evaluations"][0].items() if k != "plan"})
    assert seen[0] == seen[1]


def test_no_step_holds_more_logits_than_its_share(
    engine: Engine, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step gives at most LOGITS_BYTES of them, and which rows go together changes no number."""
    plan = tiny.plan("q8_0", "q8_0")
    options = ("eval", plan, "-f", tiny.text, "-c", WINDOW, "--json")
    whole = engine(*options).json
    rows: list[int] = []
    plain = Executable.forward

    def watched(self: Executable, *arguments: Any) -> Any:
        rows.append(len(found := plain(self, *arguments)))
        return found

    monkeypatch.setattr(Executable, "forward", watched)
    monkeypatch.setattr(evaluate, "LOGITS_BYTES", 3 * 4 * VOCABULARY + 1)
    assert engine(*options).json == whole
    assert max(rows) == 3
    assert sum(rows) == 2 * whole["text"]["positions"]


def test_fewer_windows_are_the_first_ones(engine: Engine, tiny: Tiny, tmp_path: Path) -> None:
    plan = tiny.plan("q8_0", "q8_0")
    part = engine("eval", plan, "-f", tiny.text, "-c", WINDOW, "--chunks", 2, "--json").json
    assert part["text"]["windows"] == 2
    first, second, *_ = windows_of(engine, plan, tiny.text)
    ids = first + second
    cut = tmp_path / "cut.txt"
    cut.write_text(engine("detokenize", plan, "--ids", " ".join(map(str, ids))).out, "utf-8")
    whole = engine("eval", plan, "-f", cut, "-c", WINDOW, "--json").json
    assert whole["evaluations"] == part["evaluations"]
