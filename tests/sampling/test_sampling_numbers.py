"""The numbers under sampling: exp, log, and the random bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sampling_twin as twin
from sampling_library import Library

# The published answers for philox4x32-10 (Random123, tests/kat_vectors): counter, key, output.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_philox_gives_the_published_answers(
    library: Library, counter: list[int], key: list[int], output: list[int]
) -> None:
    c = library.ffi.new("uint32_t[4]", counter)
    library.c.visible_philox(c, *key)
    assert list(c) == output
    assert twin.philox(counter, key, 32) == output


def test_the_oracles_philox_is_numpys_at_64_bits() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        key = [int(v) for v in rng.integers(0, 1 << 63, 2)]
        counter = [int(v) for v in rng.integers(0, 1 << 62, 4)]
        bits = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64))
        # numpy counts before it generates
        assert twin.philox([counter[0] + 1, *counter[1:]], key, 64) == [int(v) for v in bits.random_raw(4)]


def test_exp_is_within_two_ulp_and_equals_the_oracle_bit_for_bit(library: Library) -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([-rng.exponential(8, 20000), -np.logspace(-30, 4, 5000), [0.0, -0.0, -87.0, -np.inf]])
    x = x.astype(np.float32)
    got = np.array([library.c.visible_exp(float(v)) for v in x], np.float32)
    assert got.tobytes() == twin.exp(x).tobytes()
    assert got[-4] == got[-3] == 1.0
    inside = x >= -87
    true = np.exp(x[inside].astype(np.float64))
    assert np.max(np.abs(got[inside] - true) / np.spacing(true.astype(np.float32))) <= 2


def test_log_is_exact_to_double_precision(library: Library) -> None:
    rng = np.random.default_rng(2)
    for x in [1.0, 2.0, math.sqrt(2), 0.5, 131072.0, *np.exp(rng.uniform(-40, 40, 2000))]:
        got = library.c.visible_log(float(x))
        assert got == twin.log(float(x))
        assert got == pytest.approx(math.log(x), rel=1e-15, abs=1e-15)


def test_scaling_random_bits_is_the_exact_product(library: Library) -> None:
    rng = np.random.default_rng(4)
    edge = [0, 1, (1 << 32) - 1, 1 << 32, (1 << 64) - 1]
    pairs = [(a, b) for a in edge for b in edge]
    pairs += [(int(a), int(b)) for a, b in rng.integers(0, 1 << 63, (500, 2))]
    assert all(library.c.visible_scale(u, n) == (u * n) >> 64 for u, n in pairs)
