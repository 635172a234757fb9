"""The llama architecture in PyTorch, small and plain, for training only.

RMSNorm, rotary positions over interleaved pairs (the order GGUF's llama tensors have, so
nothing is permuted on export), grouped-query attention, SwiGLU, tied embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The sizes of the model; ``dim`` and ``ffn`` are multiples of 256 so that K-quants apply."""

    vocabulary: int = 3072
    dim: int = 256
    layers: int = 4
    ffn: int = 768
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    context: int = 2048
    rope_base: float = 10000.0
    epsilon: float = 1e-5


class Layer(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.shape = s
        self.attn_norm = nn.RMSNorm(s.dim, eps=s.epsilon)
        self.attn_q = nn.Linear(s.dim, s.heads * s.head_dim, bias=False)
        self.attn_k = nn.Linear(s.dim, s.kv_heads * s.head_dim, bias=False)
        self.attn_v = nn.Linear(s.dim, s.kv_heads * s.head_dim, bias=False)
        self.attn_output = nn.Linear(s.heads * s.head_dim, s.dim, bias=False)
        self.ffn_norm = nn.RMSNorm(s.dim, eps=s.epsilon)
        self.ffn_gate = nn.Linear(s.dim, s.ffn, bias=False)
        self.ffn_up = nn.Linear(s.dim, s.ffn, bias=False)
        self.ffn_down = nn.Linear(s.ffn, s.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """``x`` (batch, tokens, dim); ``cos`` and ``sin`` (tokens, head_dim / 2)."""
        s = self.shape
        batch, tokens, _ = x.shape
        h = self.attn_norm(x)
        q = _rotate(self.attn_q(h).view(batch, tokens, s.heads, s.head_dim), cos, sin)
        k = _rotate(self.attn_k(h).view(batch, tokens, s.kv_heads, s.head_dim), cos, sin)
        v = self.attn_v(h).view(batch, tokens, s.kv_heads, s.head_dim)
        repeat = s.heads // s.kv_heads
        k, v = k.repeat_interleave(repeat, dim=2), v.repeat_interleave(repeat, dim=2)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        x = x + self.attn_output(y.transpose(1, 2).reshape(batch, tokens, -1))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i+1) of ``x`` (batch, tokens, heads, head_dim)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Llama(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.shape = s
        self.token_embd = nn.Embedding(s.vocabulary, s.dim)
        self.blk = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.output_norm = nn.RMSNorm(s.dim, eps=s.epsilon)
        pairs = torch.arange(0, s.head_dim, 2, dtype=torch.float64) / s.head_dim
        angles = torch.arange(s.context, dtype=torch.float64)[:, None] * s.rope_base**-pairs
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        nn.init.normal_(self.token_embd.weight, std=0.02)
        for layer in self.blk:
            for name, w in layer.named_parameters():
                if w.dim() == 2:
                    residual = name.startswith(("attn_output", "ffn_down"))
                    nn.init.normal_(w, std=0.04 / ((2 * s.layers) ** 0.5 if residual else 1.0))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, tokens, vocabulary) of ``ids`` (batch, tokens)."""
        x = self.token_embd(ids)
        tokens = ids.shape[1]
        for layer in self.blk:
            x = layer(x, self.cos[:tokens], self.sin[:tokens])
        return F.linear(self.output_norm(x), self.token_embd.weight)
