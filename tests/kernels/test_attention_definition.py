"""The definition of attention against the textbook's: blocks joined one after the other are one softmax."""

from __future__ import annotations

from pathlib import Path

import cffi
import numpy as np
import pytest

from compiler import backends
from compiler.build import KERNELS, build_shared_object

BLOCK, DIM, TOKENS = 256, 16, 3 * 256 + 40

#: The reference's own text with one query head, keys and values given as plain rows.
WRAPPER = """
#include "activations.h"
#include "numerics.h"
%s
#pragma GCC visibility push(default)
void attend(int32_t combined, int32_t tokens, const float *q, const float *keys, const float *values,
            float *out);
#pragma GCC visibility pop
static float pool[4 * 256 * 32], scratch[1 << 16], states[4 * 64];
static const int32_t pages[4] = {2, 0, 3, 1};
void attend(int32_t combined, int32_t tokens, const float *q, const float *keys, const float *values,
            float *out)
{
    attention_shape s = {16, 16, 1, 1, 0, 1.0f, 0.0f, .page_stride = 256 * 32 * sizeof(float),
                         .v_at = 256 * 16 * sizeof(float)};
    kv_slot slot = {(uint8_t *)pool, pages};
    for (int32_t p = 0; p < tokens; ++p)
        kv_store_f32(&s, slot, p, keys + p * 16, values + p * 16);
    if (!combined) {
        attention_f32(&s, slot, 0, tokens - 1, 1, q, 16, out, 16, (uint8_t *)scratch);
        return;
    }
    for (int32_t block = 0; block <= (tokens - 1) / ATTENTION_BLOCK; ++block)
        attention_block_f32(&s, slot, 0, block, tokens - 1, 1, q, 16,
                            states + block * attention_state_floats(&s), (uint8_t *)scratch);
    attention_combine(&s, tokens - 1, 1, 0, states, out, 16);
}
"""


@pytest.fixture(scope="module")
def attend(tmp_path_factory: pytest.TempPathFactory):
    """``attend(combined, q, keys, values)`` → the row that the reference computes."""
    out = tmp_path_factory.mktemp("attention") / "attention.so"
    reference = backends.get("reference")
    wanted = [name for name in reference.sources if name.startswith("reference/") or name.endswith(".h")]
    includes = "\n".join(f'#include "{Path(name).name}"' for name in wanted)
    files = [*(KERNELS / "include").glob("*.h"), *(KERNELS / name for name in wanted)]
    sources = {path.name: path.read_text() for path in files} | {"attend.c": WRAPPER % includes}
    build_shared_object(sources, ["-O1"], out, units=["attend.c"])
    ffi = cffi.FFI()
    ffi.cdef("void attend(int32_t, int32_t, const float *, const float *, const float *, float *);")
    lib = ffi.dlopen(str(out))

    def call(combined: bool, q: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        row = np.empty(DIM, np.float32)
        arrays = [ffi.cast("float *", array.ctypes.data) for array in (q, keys, values, row)]
        lib.attend(int(combined), len(keys), *arrays)
        return row

    return call


def softmax_attention(q: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """All positions at once, in float64."""
    scores = keys.astype(float) @ q.astype(float)
    weights = np.exp(scores - scores.max())
    return weights @ values.astype(float) / weights.sum()


@pytest.mark.parametrize("combined", [False, True])
@pytest.mark.parametrize("largest", [0, 1, 2, 3])
def test_blocks_of_different_maxima_are_rescaled_when_they_join(attend, combined: bool, largest: int) -> None:
    """The largest score in the first, a middle or the last block: what came before it, and what comes
    after it, is weighed by e to the difference of the maxima."""
    rng = np.random.default_rng(largest)
    q = rng.standard_normal(DIM).astype(np.float32)
    keys = (rng.standard_normal((TOKENS, DIM)) * 0.3).astype(np.float32)
    values = (rng.standard_normal((TOKENS, DIM)) + np.arange(TOKENS)[:, None] // BLOCK).astype(np.float32)
    # Scores of one block lie higher by 2: neither it nor the others vanish from the sum.
    rows = slice(largest * BLOCK, (largest + 1) * BLOCK)
    keys[rows] += 2 * q / (q @ q)
    expected = softmax_attention(q, keys, values)
    np.testing.assert_allclose(attend(combined, q, keys, values), expected, rtol=1e-5, atol=1e-5)
    without_rescaling = np.stack(
        [softmax_attention(q, keys[i : i + BLOCK], values[i : i + BLOCK]) for i in range(0, TOKENS, BLOCK)]
    ).mean(axis=0)
    assert np.abs(without_rescaling - expected).max() > 0.1  # the inputs would show it


@pytest.mark.parametrize("tokens", [1, 2, 255, 256, 257, 512, 513])
def test_whole_and_broken_blocks(attend, tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    q, keys, values = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((DIM,), (tokens, DIM), (tokens, DIM))
    )
    expected = softmax_attention(q, keys, values)
    for combined in (False, True):
        np.testing.assert_allclose(attend(combined, q, keys, values), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("combined", [False, True])
@pytest.mark.parametrize("height", [-300.0, 300.0])
def test_scores_whose_exponentials_no_float_holds(attend, combined: bool, height: float) -> None:
    rng = np.random.default_rng(5)
    q = rng.standard_normal(DIM).astype(np.float32)
    keys = (rng.standard_normal((TOKENS, DIM)) * 0.3 + height * q / (q @ q)).astype(np.float32)
    values = rng.standard_normal((TOKENS, DIM)).astype(np.float32)
    expected = softmax_attention(q, keys, values)
    np.testing.assert_allclose(attend(combined, q, keys, values), expected, rtol=1e-3, atol=1e-3)
