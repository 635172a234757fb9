"""The sampler again in NumPy, written for clearness: the oracle for ``sampling.c``.

It sorts where the C selects by radix; integer weights make the two agree exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

f32 = np.float32


def exp(x: np.ndarray) -> np.ndarray:
    """e^x, x <= 0, float32, the same operations in the same order as the C."""
    x = np.maximum(np.asarray(x, f32), f32(-87.0))
    n = (x * f32(1.44269504) + f32(12582912.0)) - f32(12582912.0)
    r = (x - n * f32(0.693145752)) - n * f32(1.42860677e-6)
    p = np.full_like(r, f32(1.98412698e-4))
    for c in (1.38888889e-3, 8.33333333e-3, 4.16666667e-2, 1.66666667e-1, 0.5, 1.0, 1.0):
        p = p * r + f32(c)
    return p * ((n.astype(np.int32) + 127) << 23).astype(np.int32).view(f32)


def log(x: float) -> float:
    m, k = np.frexp(np.float64(x))
    m, k = float(m) * 2.0, int(k) - 1
    if m >= 1.4142135623730951:
        m, k = m * 0.5, k + 1
    s = (m - 1.0) / (m + 1.0)
    p = 1.0 / 21.0
    for d in range(19, 0, -2):
        p = p * (s * s) + 1.0 / d
    return 2.0 * s * p + k * 0.69314718055994531


def weights(w: np.ndarray) -> np.ndarray:
    return np.floor(w.astype(np.float64) * 2.0**40).astype(np.uint64)


def philox(counter: list[int], key: list[int], bits: int) -> list[int]:
    """Philox 4x<bits>-10; at 64 bits it is ``numpy.random.Philox``'s, which is how it is checked."""
    mask = (1 << bits) - 1
    m0, m1, w0, w1 = {
        32: (0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85),
        64: (0xD2E7470EE14C6C93, 0xCA5A826395121157, 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B),
    }[bits]
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = m0 * c0, m1 * c2
        c0, c1, c2, c3 = (b >> bits) ^ c1 ^ k0, b & mask, (a >> bits) ^ c3 ^ k1, a & mask
        k0, k1 = (k0 + w0) & mask, (k1 + w1) & mask
    return [c0, c1, c2, c3]


def random(seed: int, position: int, use: int) -> int:
    """64 random bits."""
    c = philox([position & 0xFFFFFFFF, position >> 32, use, 0], [seed & 0xFFFFFFFF, seed >> 32], 32)
    return (c[1] << 32) | c[0]


def cut(order: np.ndarray, weight: np.ndarray, target: int) -> np.ndarray:
    """The shortest prefix of ``order`` whose weights reach ``target``; indices ascending."""
    total = np.cumsum(weight[order], dtype=np.uint64)
    n = int(np.searchsorted(total, max(target, 1), side="left")) + 1
    return np.sort(order[:n])


def sample(
    logits: np.ndarray,
    chain: Any,
    position: int = 0,
    history: tuple[int, ...] = (),
    bias: dict[int, float] | None = None,
    allowed: frozenset[int] | None = None,
    breakers: frozenset[int] = frozenset(),
) -> tuple[int, float]:
    """(token, logprob) by the order documented in ``sampling.c``."""
    logits = np.asarray(logits, f32)
    x = logits.copy()
    for token in set(history):
        v = x[token]
        v = v / f32(chain.repetition_penalty) if v > 0 else v * f32(chain.repetition_penalty)
        v = v - f32(history.count(token)) * f32(chain.frequency_penalty)
        x[token] = v - f32(chain.presence_penalty)
    for token, length in repetitions(history, chain.dry_penalty_last_n, breakers).items():
        if chain.dry_multiplier > 0 and length >= chain.dry_allowed_length:
            penalty = f32(chain.dry_multiplier)
            for _ in range(length - chain.dry_allowed_length):
                penalty = penalty * f32(chain.dry_base)
            x[token] = x[token] - min(penalty, f32(1e30))
    for token, value in (bias or {}).items():
        x[token] = x[token] + f32(value)
    if allowed is not None:
        x[[i for i in range(len(x)) if i not in allowed]] = -np.inf
    largest = x.max()
    token = int(np.argmax(x)) if chain.temperature == 0 else _draw(x, largest, chain, position)
    raw = logits.max()
    total = int(weights(exp(logits - raw)).sum())
    logprob = (float(logits[token]) - float(raw)) - log(total * 2.0**-40)
    return token, float(f32(max(logprob, -float(np.finfo(f32).max))))


def repetitions(history: tuple[int, ...], last_n: int, breakers: frozenset[int]) -> dict[int, int]:
    """Token → tokens of the longest repetition, at most 50, that it would prolong."""
    seen = history if last_n < 0 else history[len(history) - last_n :] if last_n < len(history) else history
    lengths: dict[int, int] = {}
    for end in range(len(seen) - 1):
        length = 0
        while (
            length < min(end + 1, 50)
            and seen[end - length] == seen[len(seen) - 1 - length]
            and seen[end - length] not in breakers
        ):
            length += 1
        if length and seen[end + 1] not in breakers:
            lengths[seen[end + 1]] = max(length, lengths.get(seen[end + 1], 0))
    return lengths


def _draw(x: np.ndarray, largest: np.float32, chain: Any, position: int) -> int:
    ids = np.arange(len(x))
    w = exp(x - largest)
    q = weights(w)
    if 0 < chain.top_k < len(ids):
        ids = np.sort(np.argsort(-x, kind="stable")[: chain.top_k])
    if chain.typical_p < 1:
        total = int(q[ids].sum())
        log_sum = log(total * 2.0**-40)
        entropy = 0.0
        for i in ids:
            if q[i]:
                entropy += float(q[i]) * (log_sum - (float(x[i]) - float(largest)))
        center = f32(entropy / float(total) - log_sum)
        distance = np.abs((largest - x[ids]) - center)
        target = int(float(f32(chain.typical_p)) * float(total))
        ids = ids[cut(np.argsort(distance, kind="stable"), q[ids], target)]
    if chain.top_p < 1:
        total = int(q[ids].sum())
        target = int(float(f32(chain.top_p)) * float(total))
        ids = ids[cut(np.argsort(-x[ids], kind="stable"), q[ids], target)]
    if chain.min_p > 0:
        ids = ids[w[ids] >= f32(chain.min_p) * w[ids].max()]
    if random(chain.seed, position, 1) >> 11 < chain.xtc_probability * 2.0**53:
        least = int(float(f32(chain.xtc_threshold)) * float(int(q[ids].sum())))
        above = [i for i in ids if q[i] >= least]
        if len(above) > 1:
            last = min(above, key=lambda i: (x[i], -i))
            ids = np.array([i for i in ids if q[i] < least or i == last])
    with np.errstate(over="ignore"):
        q = weights(exp((x[ids] - x[ids].max()) / f32(chain.temperature)))
    at = (random(chain.seed, position, 0) * int(q.sum())) >> 64
    return int(ids[min(int(np.searchsorted(np.cumsum(q, dtype=np.uint64), at, side="right")), len(ids) - 1)])
