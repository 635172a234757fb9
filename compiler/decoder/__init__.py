"""A model description and its family → the graph of one step of a decoder.

Every tensor the graph reads is checked for the shape the metadata demands. One of a
layer that nothing reads is refused, since without it the file would be another model;
what lies beside the decoder (heads of other tasks) is listed in ``Decoder.unused``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from compiler.decoder.families import Family, find_family
from compiler.decoder.hyperparameters import Hyperparameters, read_hyperparameters
from compiler.decoder.rotary import inverse_frequencies
from compiler.graph import Graph, GraphBuilder, Ref, ValueType, Weight
from compiler.graph.ops import verify
from compiler.graph.states import State, kv_state
from compiler.model.description import ModelDescription, Tensor
from runtime.errors import EXIT_MODEL, EngineError

#: Reads a small tensor of the model as float32.
TensorLoader = Callable[[str], np.ndarray]

#: What old converters stored although it follows from the metadata.
_RECOMPUTED = ("attn_rot_embd.weight", "attention.rotary_emb.inv_freq")


@dataclass(frozen=True)
class Decoder:
    """The graph of a model, with what belongs to it.

    ``constants``: float64 inverse rotation frequencies by weight name (``rope.0``).
    ``tied``: the output projection is the token embedding.
    ``unused``: tensors of the file that no node reads.
    """

    graph: Graph
    hyper: Hyperparameters
    constants: Mapping[str, np.ndarray]
    tied: bool
    unused: tuple[str, ...]


def build_decoder(model: ModelDescription, load: TensorLoader, context: int) -> Decoder:
    """The unfused graph of ``model`` for at most ``context`` positions.

    Raises :class:`EngineError` ``unknown_architecture``, ``model_metadata`` or
    ``model_tensor`` (a required tensor is missing or has another shape).
    """
    family = find_family(model.architecture)
    hyper = read_hyperparameters(model, family)
    _refuse_temperature(model, hyper, context)
    return _Builder(model, family, hyper, load, context).build()


def _refuse_temperature(model: ModelDescription, hyper: Hyperparameters, context: int) -> None:
    """Queries past the original context are scaled by their position in some models, which no op does."""
    within = hyper.rope_scaling.original_context
    if model.get("attention.temperature_scale") and context > within:
        raise EngineError(
            "model_metadata",
            f"the model scales queries by their position from {within} on, which is not described",
            path=f"{model.architecture}.attention.temperature_scale",
            allowed=f"execution.context of at most {within}",
            exit_code=EXIT_MODEL,
        )


class _Builder:
    def __init__(
        self,
        model: ModelDescription,
        family: Family,
        hyper: Hyperparameters,
        load: TensorLoader,
        context: int,
    ) -> None:
        self.model, self.family, self.hyper, self.load, self.context = model, family, hyper, load, context
        self.g = GraphBuilder()
        self.weights: dict[str, Weight] = {}
        self.states: dict[str, State] = {}
        self.constants: dict[str, np.ndarray] = {}
        self._ropes: dict[tuple[object, ...], tuple[str, float]] = {}
        self._folded: set[str] = set()  # tensors whose values became constants of the graph

    # -- the model, top to bottom ------------------------------------------------

    def build(self) -> Decoder:
        h = self.hyper
        table = self.weight("token_embd.weight", (h.vocab, h.width))
        x = self.g.add("embed", ValueType("f32", "T", h.width), weights=[table])
        x = self.scaled(x, h.embedding_scale)
        if "position_embd.weight" in self.model.tensors:
            raise EngineError(
                "model_tensor",
                "learned position embeddings are not in the vocabulary of families",
                path="position_embd.weight",
                hint="see 'Add an op' in HACKING.md",
                exit_code=EXIT_MODEL,
            )
        for layer in range(h.layers):
            self.g.layer = layer
            x = self.layer(x, layer)
        self.g.layer = None
        x = self.g.add("select", ValueType("f32", "W", h.width), [x])
        x = self.norm(x, "output_norm", h.width)
        tied = "output.weight" not in self.model.tensors
        name = "token_embd.weight" if tied else self.weight("output.weight", (h.vocab, h.width))
        x = self.g.add("matmul", ValueType("f32", "W", h.vocab), [x], [name])
        x = self.bias(x, "output.bias")
        x = self.scaled(x, h.logit_scale)
        if h.final_softcap:
            x = self.g.add("softcap", self.g.type(x), [x], cap=h.final_softcap)
        graph = Graph(tuple(self.g.nodes), MappingProxyType(self.weights), x, MappingProxyType(self.states))
        unused = tuple(n for n in self.model.tensors if n not in self.weights and n not in self._folded)
        self.refuse_strays(unused)
        return Decoder(verify(graph), h, MappingProxyType(self.constants), tied, unused)

    def refuse_strays(self, unused: tuple[str, ...]) -> None:
        """Raises for tensors of the decoder itself that the family's declarations leave unread."""
        layers = tuple(f"blk.{i}." for i in range(self.hyper.layers))
        strays = [
            name
            for name in unused
            if name.startswith((*layers, "token_embd", "output")) and not name.endswith(_RECOMPUTED)
        ]
        if strays:
            more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
            raise EngineError(
                "model_tensor",
                f"the family {self.family.name!r} says nothing of this tensor{more}; "
                "unread, the results would be those of another model",
                path=strays[0],
                hint="a family's declarations are one file in compiler/architectures: see HACKING.md",
                exit_code=EXIT_MODEL,
            )

    def layer(self, x: str, layer: int) -> str:
        blk, placement = f"blk.{layer}.", self.family.norm_placement
        width = self.hyper.width
        normed = self.norm(x, blk + "attn_norm", width) if placement != "post" else x
        attention = self.attention(normed, layer)
        if placement != "pre":
            attention = self.norm(attention, blk + "post_attention_norm", width)
        attention = self.scaled(attention, self.hyper.residual_scale)
        parallel = (
            self.family.parallel_residual != "never" and blk + "ffn_norm.weight" not in self.model.tensors
        )
        x = self.g.add("add", self.g.type(x), [attention, x])
        if not parallel:
            normed = self.norm(x, blk + "ffn_norm", width) if placement != "post" else x
        experts = self.hyper.experts and blk + "ffn_gate_inp.weight" in self.model.tensors
        out = self.experts(normed, blk) if experts else self.ffn(normed, blk, "", self.hyper.ffn)
        if placement != "pre":
            out = self.norm(out, blk + "post_ffw_norm", width)
        out = self.scaled(out, self.hyper.residual_scale)
        return self.g.add("add", self.g.type(x), [out, x])

    # -- attention ------------------------------------------------------------------

    def attention(self, x: str, layer: int) -> str:
        h, blk = self.hyper, f"blk.{layer}."
        window = h.window if h.sliding[layer] else 0
        q, k, v = self.qkv(x, blk)
        q = self.head_norm(q, blk + "attn_q_norm", h.heads)
        k = self.head_norm(k, blk + "attn_k_norm", h.kv_heads)
        if h.rotates[layer]:
            table, mscale = self.rope_table(sliding=bool(window))
            q, k = (
                self.g.add(
                    "rope",
                    self.g.type(value),
                    [value],
                    [table],
                    heads=heads,
                    head_dim=h.head_dim,
                    pairing=self.family.rope_pairing,
                    mscale=mscale,
                )
                for value, heads in ((q, h.heads), (k, h.kv_heads))
            )
        shape: dict[str, Any] = {
            "heads": h.heads,
            "kv_heads": h.kv_heads,
            "head_dim": h.head_dim,
            "head_dim_v": h.head_dim_v,
        }
        state = kv_state(layer, h.kv_heads, h.head_dim, h.head_dim_v, window)
        self.states[state.name] = state
        kv = self.g.add("kv_store", ValueType("kv", "T", 1), [k, v], state=state.name, **shape)
        out = self.g.add(
            "attention",
            ValueType("f32", "T", h.heads * h.head_dim_v),
            [q, kv],
            state=state.name,
            **shape,
            scale=h.attention_scale,
            softcap=h.attention_softcap,
            window=window,
        )
        return self.project(out, blk + "attn_output", h.width)

    def qkv(self, x: str, blk: str) -> tuple[str, str, str]:
        h = self.hyper
        sizes = (h.heads * h.head_dim, h.kv_heads * h.head_dim, h.kv_heads * h.head_dim_v)
        if blk + "attn_qkv.weight" in self.model.tensors:
            fused = self.project(x, blk + "attn_qkv", sum(sizes))
            ends = np.cumsum(sizes).tolist()
            q, k, v = (
                self.g.add("slice", ValueType("f32", "T", size), [fused], first=end - size, end=end)
                for size, end in zip(sizes, ends, strict=True)
            )
            return q, k, v
        q, k, v = (
            self.project(x, blk + name, size)
            for name, size in zip(("attn_q", "attn_k", "attn_v"), sizes, strict=True)
        )
        return q, k, v

    def head_norm(self, x: str, name: str, heads: int) -> str:
        """A norm of q or k; the weight's shape says whether it spans a head, a row, or each head."""
        if self.family.qk_norm == "none":
            return x
        if self.family.qk_norm == "optional" and name + ".weight" not in self.model.tensors:
            return x
        tensor = self.required(name + ".weight")
        columns = self.g.type(x).columns
        head_dim = columns // heads
        if tensor.shape not in ((head_dim,), (columns,), (heads, head_dim)):
            raise self.shape_error(
                name + ".weight", tensor.shape, f"({head_dim},), ({columns},) or ({heads}, {head_dim})"
            )
        groups = 1 if tensor.shape == (columns,) and columns != head_dim else heads
        return self.norm(x, name, columns, groups, tensor.shape)

    def rope_table(self, sliding: bool) -> tuple[str, float]:
        """The weight name of the rotation's inverse frequencies, and the factor on cos and sin."""
        h = self.hyper
        base, scaling = (
            (h.rope_base_window, h.rope_scaling_window) if sliding else (h.rope_base, h.rope_scaling)
        )
        key = (base, scaling)
        if key not in self._ropes:
            factors = self.rope_factors()
            inverse, mscale = inverse_frequencies(base, h.n_rot, scaling, factors)
            name = f"rope.{len(self._ropes)}"
            self.weights[name] = Weight(name, "f64", (h.n_rot // 2,))
            self.constants[name] = inverse
            self._ropes[key] = (name, mscale)
        return self._ropes[key]

    def rope_factors(self) -> np.ndarray | None:
        """Per-channel divisors: Llama 3's one tensor, or LongRoPE's long or short one by the context."""
        original = self.hyper.rope_scaling.original_context
        longrope = "rope_factors_long.weight" if self.context > original else "rope_factors_short.weight"
        self._folded.update(
            {"rope_factors_long.weight", "rope_factors_short.weight"} & set(self.model.tensors)
        )
        for name in ("rope_freqs.weight", longrope):
            if name in self.model.tensors:
                shape = self.model.tensors[name].shape
                if shape != (self.hyper.n_rot // 2,):
                    raise self.shape_error(name, shape, f"({self.hyper.n_rot // 2},)")
                factors = self.load(name)
                if not np.all(np.isfinite(factors)) or np.any(factors <= 0):
                    raise EngineError(
                        "model_tensor",
                        "rotation factors must be finite and positive",
                        path=name,
                        exit_code=EXIT_MODEL,
                    )
                self._folded.add(name)
                return factors
        return None

    # -- feed-forward -----------------------------------------------------------------

    def ffn(self, x: str, blk: str, suffix: str, hidden: int) -> str:
        kind, act = self.family.ffn_kind, self.family.activation
        up_name, gate_name = f"{blk}ffn_up{suffix}", f"{blk}ffn_gate{suffix}"
        if kind == "fused_gated" and gate_name + ".weight" not in self.model.tensors:
            both = self.project(x, up_name, 2 * hidden)
            half = ValueType("f32", "T", hidden)
            gate = self.g.add("slice", half, [both], first=0, end=hidden)
            up = self.g.add("slice", half, [both], first=hidden, end=2 * hidden)
            inner = self.g.add("glu", half, [gate, up], kind=act)
        elif kind == "plain" and gate_name + ".weight" not in self.model.tensors:
            inner = self.project(x, up_name, hidden)
            inner = self.g.add("act", self.g.type(inner), [inner], kind=act)
        else:
            gate, up = self.project(x, gate_name, hidden), self.project(x, up_name, hidden)
            inner = self.g.add("glu", self.g.type(gate), [gate, up], kind=act)
        return self.project(inner, f"{blk}ffn_down{suffix}", self.hyper.width)

    def experts(self, x: str, blk: str) -> str:
        h = self.hyper
        logits = self.project(x, blk + "ffn_gate_inp", h.experts)
        if h.expert_gating is None:
            raise EngineError(
                "model_metadata",
                f"the file has experts, which the family {self.family.name!r} does not describe",
                path=blk + "ffn_gate_inp.weight",
                hint="declare 'experts' in the family's file in compiler/architectures",
                exit_code=EXIT_MODEL,
            )
        route = self.g.add(
            "route",
            ValueType("route", "T", h.experts_used),
            [logits],
            experts=h.experts,
            used=h.experts_used,
            gating=h.expert_gating,
            normalize=h.expert_normalize,
            scale=h.expert_scale,
        )
        pairs = self.g.add("gather", ValueType("f32", "P", h.width), [x, route])
        hidden = ValueType("f32", "P", h.expert_ffn)
        shape = (h.experts, h.expert_ffn, h.width)
        gate, up = (
            self.g.add("expert_matmul", hidden, [pairs, route], [self.weight(f"{blk}{name}.weight", shape)])
            for name in ("ffn_gate_exps", "ffn_up_exps")
        )
        inner = self.g.add("glu", hidden, [gate, up], kind=self.family.activation)
        down = self.weight(blk + "ffn_down_exps.weight", (h.experts, h.width, h.expert_ffn))
        out = self.g.add("expert_matmul", ValueType("f32", "P", h.width), [inner, route], [down])
        out = self.g.add("combine", ValueType("f32", "T", h.width), [out, route])
        kind = self.family.expert_shared
        if kind == "sigmoid" or (kind == "plain" and h.expert_shared_ffn):
            shared = self.ffn(x, blk, "_shexp", h.expert_shared_ffn)
            if kind == "sigmoid":
                name = blk + "ffn_gate_inp_shexp.weight"
                if self.required(name).shape == (h.width,):
                    gate_weight = self.weight(name, (h.width,), stored=(1, h.width))
                else:
                    gate_weight = self.weight(name, (1, h.width))
                gate = self.g.add("matmul", ValueType("f32", "T", 1), [x], [gate_weight])
                gate = self.g.add("act", self.g.type(gate), [gate], kind="sigmoid")
                shared = self.g.add("mul_row", self.g.type(shared), [shared, gate])
            out = self.g.add("add", self.g.type(out), [shared, out])
        return out

    # -- pieces -------------------------------------------------------------------------

    def project(self, x: str, name: str, rows: int) -> str:
        """``x @ W.T + b`` where the file carries b."""
        weight = self.weight(name + ".weight", (rows, self.g.type(x).columns))
        out = self.g.add("matmul", ValueType("f32", self.g.type(x).rows, rows), [x], [weight])
        return self.bias(out, name + ".bias")

    def bias(self, x: str, name: str) -> str:
        if name not in self.model.tensors:
            return x
        return self.g.add("bias", self.g.type(x), [x], [self.weight(name, (self.g.type(x).columns,))])

    def norm(
        self, x: str, name: str, columns: int, groups: int = 1, shape: tuple[int, ...] | None = None
    ) -> str:
        weights: list[Ref | str] = [self.weight(name + ".weight", shape or (columns,))]
        if self.family.norm == "layer" and name + ".bias" in self.model.tensors:
            weights.append(self.weight(name + ".bias", shape or (columns,)))
        op = "rms_norm" if self.family.norm == "rms" else "layer_norm"
        return self.g.add(op, self.g.type(x), [x], weights, eps=self.hyper.norm_eps, groups=groups)

    def scaled(self, x: str, by: float) -> str:
        return x if by == 1.0 else self.g.add("scale", self.g.type(x), [x], by=by)

    def weight(self, name: str, shape: tuple[int, ...], stored: tuple[int, ...] | None = None) -> str:
        """Declares a use of a tensor; ``stored`` is the shape the graph sees where it differs."""
        tensor = self.required(name)
        if tensor.shape != shape:
            raise self.shape_error(name, tensor.shape, str(shape))
        self.weights[name] = Weight(name, tensor.type, stored or shape)
        return name

    def required(self, name: str) -> Tensor:
        tensor = self.model.tensors.get(name)
        if tensor is None:
            raise EngineError(
                "model_tensor",
                f"the file lacks a tensor that the family {self.family.name!r} needs",
                path=name,
                hint="the file may be incomplete, or of another architecture than it says",
                exit_code=EXIT_MODEL,
            )
        return tensor

    def shape_error(self, name: str, found: tuple[int, ...], expected: str) -> EngineError:
        return EngineError(
            "model_tensor",
            f"the tensor's shape is {found}; its metadata demands {expected}",
            path=name,
            allowed=expected,
            hint="the file's metadata and tensors do not belong together",
            exit_code=EXIT_MODEL,
        )
