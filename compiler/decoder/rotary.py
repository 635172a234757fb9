"""Rotary position embedding: the inverse frequencies of each rotation table.

The angle of channel pair i at position p is ``p * inverse[i]``; a table of
``(cos, sin) * mscale`` is built when a bundle is opened. Sources: RoFormer
(arXiv:2104.09864), position interpolation (arXiv:2306.15595), YaRN
(arXiv:2309.00071); the per-channel factors of Llama 3 and of LongRoPE
(arXiv:2402.13753) come as tensors in the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RopeScaling:
    """How positions are stretched. ``kind``: none | linear | yarn.

    ``factor`` ≥ 1 stretches; ``original_context`` is the length trained on;
    ``attention_factor`` multiplies cos and sin. ``log_multiplier``: what YaRN's own factor
    on them is divided by grows with the stretch as that factor does, times this; 0: nothing.
    """

    kind: str = "none"
    factor: float = 1.0
    original_context: int = 0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    log_multiplier: float = 0.0


def inverse_frequencies(
    base: float, n_rot: int, scaling: RopeScaling, factors: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """``(inverse float64 [n_rot / 2], mscale)``.

    ``factors`` ``[n_rot / 2]`` divides the frequencies before they are scaled.
    """
    pairs = np.arange(n_rot // 2, dtype=np.float64)
    inverse = np.array([base ** (-2.0 * i / n_rot) for i in range(n_rot // 2)], dtype=np.float64)
    if factors is not None:
        inverse = inverse / factors.astype(np.float64)
    if scaling.kind == "linear":
        return inverse / scaling.factor, scaling.attention_factor
    if scaling.kind == "yarn":
        low, high = _correction_range(base, n_rot, scaling)
        # 1 where a channel turns fast enough to be kept, 0 where it is interpolated.
        keep = 1.0 - np.clip((pairs - low) / max(0.001, high - low), 0.0, 1.0)
        stretch = 0.1 * math.log(max(1.0, scaling.factor))
        mscale = scaling.attention_factor * (1.0 + stretch) / (1.0 + scaling.log_multiplier * stretch)
        return inverse / scaling.factor * (1.0 - keep) + inverse * keep, mscale
    return inverse, scaling.attention_factor


def _correction_range(base: float, n_rot: int, scaling: RopeScaling) -> tuple[float, float]:
    """The channel pairs between which YaRN's ramp runs (its equation for the rotations beta)."""

    def pair(beta: float) -> float:
        return n_rot * math.log(scaling.original_context / (beta * 2 * math.pi)) / (2 * math.log(base))

    return max(0.0, math.floor(pair(scaling.beta_fast))), min(n_rot - 1.0, math.ceil(pair(scaling.beta_slow)))
