"""The static cost of a graph, as integers, given to the scheduler from outside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CostModel:
    """What a step costs, from the compiled graph; never updated while running.

    ``flops_per_token``     floating point operations for one token, attention excluded.
    ``weight_bytes``        bytes of weights a step reads, whatever its number of tokens.
    ``kv_bytes_per_token``  bytes of KV cache that one resident token adds to a step of its sequence.
    ``flops_per_second``, ``bytes_per_second``  the machine's rates the estimate assumes.
    ``microjoules_per_step``, ``microjoules_per_token``  measured energy, None where no meter has spoken.
    """

    flops_per_token: int
    weight_bytes: int
    kv_bytes_per_token: int = 0
    flops_per_second: int = 50_000_000_000
    bytes_per_second: int = 10_000_000_000
    microjoules_per_step: int | None = None
    microjoules_per_token: int | None = None

    def step_bytes(self, kv_tokens: int) -> int:
        """Bytes one step reads when its sequences hold ``kv_tokens`` tokens in all."""
        return self.weight_bytes + kv_tokens * self.kv_bytes_per_token

    def step_ns(self, tokens: int, kv_tokens: int = 0) -> int:
        """Estimated time of a step: the slower of arithmetic and memory (the roofline)."""
        arithmetic = tokens * self.flops_per_token * 1_000_000_000 // self.flops_per_second
        memory = self.step_bytes(kv_tokens) * 1_000_000_000 // self.bytes_per_second
        return max(arithmetic, memory)

    def tokens_within(self, ns: int) -> int:
        """Most tokens whose arithmetic fits ``ns``."""
        if self.flops_per_token <= 0:
            return 1 << 30
        return ns * self.flops_per_second // (self.flops_per_token * 1_000_000_000)

    def step_microjoules(self, tokens: int) -> int | None:
        """Estimated energy of a step, or None where none was measured."""
        if self.microjoules_per_step is None or self.microjoules_per_token is None:
            return None
        return self.microjoules_per_step + tokens * self.microjoules_per_token
