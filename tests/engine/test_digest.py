"""The digest of logits is that of the rows in order, whoever hashes them and when."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest

from runtime.engine.digest import LONG_ROW, MOST_WAITING, LogitsDigest


@pytest.mark.parametrize("cpus", [{0}, {0, 1}])
@pytest.mark.parametrize("values", [8, LONG_ROW // 4])
def test_rows_that_are_overwritten_meanwhile_count_as_they_were(
    monkeypatch: pytest.MonkeyPatch, cpus: set[int], values: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: cpus)
    digests, whole = [LogitsDigest(), LogitsDigest()], blake2b(digest_size=32)
    row, expected = np.empty(values, np.float32), []
    for i in range(2 * MOST_WAITING):
        row[:] = i
        whole.update(row.tobytes())
        expected.append(whole.hexdigest()[:16])
        for digest in digests:
            digest.take(row)
    for digest in digests:
        assert digest.by_row() == expected
        assert digest.hexdigest() == whole.hexdigest()


def test_what_was_read_may_go_on() -> None:
    digest, row = LogitsDigest(), np.ones(LONG_ROW // 4, np.float32)
    digest.take(row)
    first = digest.hexdigest()
    digest.take(row)
    assert digest.hexdigest() == blake2b(row.tobytes() * 2, digest_size=32).hexdigest() != first
    assert len(digest.by_row()) == 2
