"""The measures themselves: what they give where the answer is known, and on what is extreme."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.errors import EngineError
from runtime.laboratory.evaluate import cut
from runtime.metrics import quality
from runtime.metrics.quality import Scores, divergence, log_softmax, score_rows


def logits(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_known_distributions() -> None:
    p, q = logits([math.log(3), 0, -1000]), logits([0, 0, -1000])
    scores = [Scores(), Scores()]
    score_rows([p, q], np.array([1], np.int32), scores, reference=0)
    first, second = (s.quality(1) for s in scores)
    assert first.perplexity.value == pytest.approx(4, rel=1e-6)
    assert second.perplexity.value == pytest.approx(2)
    assert second.kl_divergence is not None
    assert second.kl_divergence.mean == pytest.approx(
        math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25), rel=1e-6
    )
    assert second.probability_change == pytest.approx(0.25)
    assert second.top_token_agreement == 1  # of equals, the lowest id
    assert second.perplexity.error == 0


def test_huge_logits_lose_nothing_to_overflow() -> None:
    rows = log_softmax(logits([3e38, -3e38], [88.8, 88.8]))
    assert rows[0].tolist() == [0.0, pytest.approx(-6e38)]
    assert rows[1] == pytest.approx(math.log(0.5))
    assert divergence(rows, rows).tolist() == [0.0, 0.0]


def test_a_perplexity_that_no_float_holds_is_null_in_json() -> None:
    scores = Scores()
    score_rows([logits([0, 3000])], np.array([0], np.int32), [scores], reference=None)
    body = scores.quality(1).to_json()
    assert body["perplexity"] is None
    assert body["kl_divergence"] is None


def test_divergence_is_never_negative() -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((200, 500)).astype(np.float32)
    nearly = np.nextafter(base, np.float32(np.inf))
    values = divergence(log_softmax(base), log_softmax(nearly))
    assert (values >= 0).all()
    assert values.max() < 1e-12


def test_blocks_of_rows_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    rows = [rng.standard_normal((50, 40)).astype(np.float32) * 4 for _ in range(3)]
    targets = rng.integers(0, 40, 50, dtype=np.int32)
    found = []
    for size in (1, 8 * 40 * 7, 8 << 20):
        monkeypatch.setattr(quality, "BLOCK_BYTES", size)
        scores = [Scores() for _ in rows]
        score_rows(rows, targets, scores, reference=1)
        found.append([s.quality(10) for s in scores])
    assert found[0] == found[1] == found[2]
    first, middle, _ = (q.kl_divergence for q in found[0])
    assert middle.largest == 0
    assert len(first.by_window) == 5
    assert np.mean(first.by_window) == pytest.approx(first.mean)


def test_no_position_no_quality() -> None:
    with pytest.raises(ValueError, match="no position"):
        Scores().quality(1)


def tokenizer(count: int, bos: int | None = None) -> Any:
    return SimpleNamespace(
        encode=lambda text: list(range(100, 100 + count)), add_bos=bos is not None, bos_id=bos
    )


def test_windows_follow_each_other_and_the_rest_is_left() -> None:
    windows = cut(tokenizer(23), "…", 8)
    assert windows.ids.tolist() == [list(range(100, 108)), list(range(108, 116))]
    assert (windows.tokens, windows.first, windows.scored) == (23, 4, 6)
    assert cut(tokenizer(23), "…", 8, 1).ids.tolist() == [list(range(100, 108))]
    assert cut(tokenizer(9), "…", 9).scored == 4


def test_every_window_begins_with_bos_where_the_vocabulary_wants_it() -> None:
    assert cut(tokenizer(16, bos=1), "…", 8).ids[:, 0].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("count", "context", "code"),
    [(7, 8, "text_too_short"), (0, 8, "text_too_short"), (99, 3, "invalid_option")],
)
def test_what_cannot_be_cut(count: int, context: int, code: str) -> None:
    with pytest.raises(EngineError) as caught:
        cut(tokenizer(count), "…", context)
    assert caught.value.code == code
