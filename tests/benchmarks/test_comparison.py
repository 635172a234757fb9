"""The arithmetic of the comparison, and the peer's program where there is a peer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import bandwidth
import report
from compare_llama_cpp import Peer, PeerArm, Test, measure, read_per_token
from make_llama import Shape, make

Test.__test__ = False  # type: ignore[attr-defined]

RESULT: dict[str, Any] = {
    "model": "m.gguf",
    "threads": 2,
    "rounds": 3,
    "cpu": "a CPU",
    "peer": {"cpu_avx2": {"version": "1.2"}},
    "tests": [
        {"name": "pp512", "prefill": 512, "decode": 0, "depth": 0, "sequences": 1},
        {"name": "tg64", "prefill": 0, "decode": 64, "depth": 0, "sequences": 1},
        {"name": "tg32 x8", "prefill": 0, "decode": 32, "depth": 0, "sequences": 8},
    ],
    "against": {"cpu_avx2": ["llama.cpp cpu_avx2 repacked", "llama.cpp cpu_avx2 as stored"]},
    "quantizations": [
        {
            "quantization": "q4_k_m",
            "weight_bytes": 1_000_000_000,
            "kv_bytes_per_token": 0,
            "repacked_mib": {},
            "bandwidth": {
                arm: {"tg64": [9e9, 10e9, 20e9], "tg32 x8": [10e9, 10e9, 10e9]}
                for arm in ("cpu_avx2", "llama.cpp cpu_avx2 repacked", "llama.cpp cpu_avx2 as stored")
            },
            "rates": {
                "cpu_avx2": {"pp512": [30, 20, 10], "tg64": [9, 8, 7], "tg32 x8": [40, 40, 40]},
                "llama.cpp cpu_avx2 repacked": {
                    "pp512": [10, 10, 1],
                    "tg64": [1, 2, 3],
                    "tg32 x8": [9, 9, 9],
                },
                "llama.cpp cpu_avx2 as stored": {
                    "pp512": [5, 5, 99],
                    "tg64": [4, 4, 4],
                    "tg32 x8": [8, 8, 8],
                },
            },
        }
    ],
}


def test_ratios_are_of_medians_against_the_better_peer_of_each_test() -> None:
    prefill, decode, batched = report.rows(RESULT)
    assert (prefill["ours"], prefill["peer"], prefill["ratio"]) == (20, 10, 2)
    assert prefill["peer_configuration"] == "repacked"
    assert (decode["ours"], decode["peer"], decode["ratio"]) == (8, 4, 2)
    assert decode["peer_configuration"] == "as stored"
    assert batched["peer_configuration"] == "repacked"


def test_a_round_is_compared_with_the_bandwidth_around_it() -> None:
    prefill, decode, batched = report.rows(RESULT)
    assert prefill["share"] is None
    assert decode["share"] == pytest.approx(0.8)  # of 9 / 9, 8 / 10 and 7 / 20
    assert batched["share"] == pytest.approx(40 / 8 * 1e9 / 10e9)


def test_a_step_reads_weights_once_and_kv_for_each_sequence() -> None:
    entry = {"weight_bytes": 1000, "kv_bytes_per_token": 10}
    test = {"prefill": 0, "decode": 20, "depth": 90, "sequences": 2}
    assert report.step_bytes(test, entry) == 1000 + 2 * 100 * 10


def test_the_table_has_a_line_for_each_figure(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RESULT))
    report.write_report(tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "| q4_k_m | tg64 | cpu_avx2 | 8.0 | 25% | 4.0 | as stored | 2.00 | 80% (40%) |" in text
    assert "| q4_k_m | tg64 | cpu_avx2 | 9.0, 100% of 9 | 8.0, 80% of 10 | 7.0, 35% of 20 |" in text


def test_decode_stands_between_two_looks_at_the_bandwidth() -> None:
    looks = iter(range(100))

    class FakeProbe:
        def measure(self) -> float:
            return float(next(looks))

    class FakeArm:
        name = "ours"

        def seconds(self, test: Test) -> float:
            return 2.0

    tests = [Test(10, 0), Test(0, 4), Test(0, 2, sequences=8)]
    rates, looked = measure([FakeArm()], tests, 2, FakeProbe(), pause=0)  # type: ignore[list-item,arg-type]
    assert rates == {"ours": {"pp10": [5, 5], "tg4": [2, 2], "tg2 x8": [8, 8]}}
    # Round 0, thrown away, looked at 0, 1 and 2.
    assert looked == {"ours": {"tg4": [3.5, 6.5], "tg2 x8": [4.5, 7.5]}}


def test_names_are_those_of_llama_bench() -> None:
    assert [t.name for t in (Test(512, 0), Test(0, 64), Test(0, 64, depth=4096), Test(0, 32, 0, 8))] == [
        "pp512",
        "tg64",
        "tg64 @ d4096",
        "tg32 x8",
    ]


@pytest.mark.parametrize("experts", [0, 4])
def test_bytes_a_token_reads(tmp_path: Path, experts: int) -> None:
    shape = Shape(
        dim=256,
        layers=2,
        ffn=512,
        heads=4,
        kv_heads=2,
        vocabulary=1024,
        experts=experts,
        experts_used=experts // 2,
    )
    make(tmp_path / "m.gguf", shape)
    weights, kv = read_per_token(tmp_path / "m.gguf")
    attention = 2 * (2 * 256 * 256 + 2 * 128 * 256)  # F16 bytes: q, output, k, v
    used = experts // 2 or 1
    layer = attention + used * 2 * 3 * 512 * 256 + 2 * 4 * 256 + experts * 4 * 256
    assert weights == 2 * layer + 2 * 1024 * 256 + 4 * 256
    assert kv == 2 * 2 * 2 * 128


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
def test_the_probe_reads_every_byte_at_a_plausible_rate() -> None:
    # More than a disk, less than any cache: a loop that was optimized away would be above.
    assert 1e8 < bandwidth.Probe(threads=2, megabytes=64).measure(2) < 2e12


@pytest.fixture(scope="module")
def peer_python() -> str:
    python = os.environ.get("ENGINE_PEER_PYTHON")
    if not python:
        pytest.skip("no peer: set ENGINE_PEER_PYTHON to a Python that has llama-cpp-python")
    return python


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peer") / "f16.gguf"
    make(path, Shape(dim=256, layers=2, ffn=512, heads=4, kv_heads=2, vocabulary=1024))
    return path


def test_the_peer_quantizes_times_and_answers_after_a_mistake(peer_python: str, small_model: Path) -> None:
    peer = Peer(peer_python)
    try:
        with pytest.raises(RuntimeError, match="cannot load"):
            peer.ask(do="load", name="x", model="/nowhere.gguf")
        with pytest.raises(RuntimeError, match="KeyError"):
            peer.ask(do="time", name="x", prefill=1, decode=1)
        quantized = small_model.with_name("q4.gguf")
        peer.ask(do="quantize", source=str(small_model), target=str(quantized), type="q4_k_m")
        arms = [
            PeerArm(peer, "here", repack, quantized, 1, [Test(8, 0), Test(0, 4, 0, 2)], 64)
            for repack in (True, False)
        ]
        assert arms[0].repacked_mib > 0 == arms[1].repacked_mib
        assert all(arm.seconds(test) > 0 for arm in arms for test in (Test(8, 0), Test(0, 4, 0, 2)))
    finally:
        peer.close()


def test_the_peers_logits_have_a_row_a_token_however_they_are_batched(
    peer_python: str, small_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "ids").write_text("1 2, 3\n4")
    script = Path(__file__).parent / "peer.py"
    subprocess.run(
        [
            peer_python,
            script,
            "logits",
            small_model,
            "--tokens",
            tmp_path / "ids",
            "-o",
            tmp_path / "all.npy",
            "-t",
            "1",
        ],
        check=True,
        capture_output=True,
    )
    (tmp_path / "ids").write_text("1 2")
    subprocess.run(
        [
            peer_python,
            script,
            "logits",
            small_model,
            "--tokens",
            tmp_path / "ids",
            "-o",
            tmp_path / "two.npy",
            "-t",
            "1",
        ],
        check=True,
        capture_output=True,
    )
    rows, first = np.load(tmp_path / "all.npy"), np.load(tmp_path / "two.npy")
    assert rows.shape == (4, 1024)
    assert rows.dtype == np.float32
    assert np.allclose(rows[:2], first, atol=1e-2)
