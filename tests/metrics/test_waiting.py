"""How much of an execution its threads waited for each other, and when that is said."""

from __future__ import annotations

import pytest

from runtime.metrics.diagnostics import Facts, compute_diagnostics, waiting_notes
from runtime.metrics.official import compute_metrics


@pytest.mark.parametrize(
    ("waited", "share"), [((30, 100), 0.3), ((0, 100), 0.0), ((0, 0), None), (None, None)]
)
def test_the_share_is_of_the_forward_passes(waited: tuple[int, int] | None, share: float | None) -> None:
    metrics = compute_metrics(started_ns=0, finished_ns=200, token_times_ns=(50, 100), energy=None)
    found = compute_diagnostics(
        metrics,
        Facts(
            started_ns=0,
            finished_ns=200,
            token_times_ns=(50, 100),
            energy=None,
            prompt_tokens=1,
            waited=waited,
        ),
    )
    assert found.barrier_wait_share == share
    assert ("barrier_wait_share" in found.unknown) == (share is None)


def test_more_than_a_quarter_is_said_and_one_thread_never_waits() -> None:
    assert waiting_notes((25, 100), 2) == ()
    assert "2 threads waited for each other 40%" in waiting_notes((40, 100), 2)[0]
    assert waiting_notes((40, 100), 1) == ()
    assert waiting_notes((0, 0), 4) == ()
