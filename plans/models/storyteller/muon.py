"""Muon in float32: momentum whose matrix is made nearly orthogonal before it is applied.

``torch.optim.Muon`` iterates in bfloat16, which a CPU without bfloat16 instructions runs
an order of magnitude slower than float32. The iteration is the quintic Newton-Schulz of
Keller Jordan's Muon (https://kellerjordan.github.io/posts/muon/).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """``matrices`` (n, rows, columns) with their singular values moved near 1."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; the step is scaled by sqrt(max(1, rows / columns))."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                shapes[tuple(p.shape)].append(p)
            for (rows, columns), parameters in shapes.items():
                directions = []
                for p in parameters:
                    buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    directions.append(p.grad.lerp(buffer, group["momentum"]))
                update = orthogonalize(torch.stack(directions))
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for p, u in zip(parameters, update, strict=True):
                    p.add_(u, alpha=-scale)
