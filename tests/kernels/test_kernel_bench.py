"""``engine kernels bench``: every format, warm and from DRAM, against limits of the same run."""

from __future__ import annotations

import json

import pytest

from compiler import backends
from compiler.formats import FORMATS
from runtime.cli import main


def test_every_format_is_timed_warm_and_from_memory(capsys: pytest.CaptureFixture[str]) -> None:
    backend = backends.get("cpu_avx2")
    if missing := backend.missing_features(backends.cpu_features()):
        pytest.skip(f"this CPU lacks {', '.join(missing)}")
    with pytest.raises(SystemExit) as ended:
        main(["kernels", "bench", "-t", "2", "-r", "1", "--megabytes", "8", "--json"])
    assert ended.value.code in (None, 0)
    read, *panels = json.loads(capsys.readouterr().out)
    assert read["op"] == "read"
    assert read["gb_per_s"] > 0
    found = [(row["format"], row["tokens"], row["weights"]) for row in panels]
    kinds = [(256, "cache"), (1, "cache"), (1, "dram"), (4, "dram"), (8, "dram")]
    assert sorted(found) == sorted((f, *kind) for f in FORMATS for kind in kinds)
    for row in panels:
        assert row["gb_per_s"] > 0
        assert row["gmac_per_s"] <= row["best_gmac_per_s"]
        assert 0 < row["share_of_peak"] < 2
        assert (row["share_of_read"] is None) == (row["weights"] == "cache")
        assert row["times_reference"] > 0
