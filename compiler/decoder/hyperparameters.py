"""The numbers of a model, read from its metadata and checked against sane bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from compiler.decoder.families import Family
from compiler.decoder.rotary import RopeScaling
from compiler.model.description import MetadataValue, ModelDescription
from runtime.errors import EXIT_MODEL, EngineError


@dataclass(frozen=True)
class Hyperparameters:
    """Sizes and constants of a decoder.

    ``sliding[i]`` says whether layer i sees only the last ``window`` positions,
    ``rotates[i]`` whether it rotates q and k. Scales of 1 and caps of 0 mean none.
    """

    layers: int
    vocab: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    head_dim_v: int
    n_rot: int
    norm_eps: float
    context: int
    rope_base: float
    rope_base_window: float
    rope_scaling: RopeScaling
    rope_scaling_window: RopeScaling
    rotates: tuple[bool, ...]
    window: int
    sliding: tuple[bool, ...]
    attention_scale: float
    attention_softcap: float
    final_softcap: float
    embedding_scale: float
    residual_scale: float
    logit_scale: float
    experts: int
    experts_used: int
    expert_ffn: int
    expert_shared_ffn: int
    expert_gating: str | None
    expert_normalize: bool
    expert_scale: float


def read_hyperparameters(model: ModelDescription, family: Family) -> Hyperparameters:
    """Raises :class:`EngineError` ``model_metadata`` naming the key that is missing or out of bounds."""
    m = _Metadata(model)
    layers = m.integer("block_count", 1, 1024)
    width = m.integer("embedding_length", 1, 1 << 20)
    heads = _heads(m, width)
    context = m.integer("context_length", 1, 1 << 24)
    window = m.integer("attention.sliding_window", 0, 1 << 24, 0) if family.window_period else 0
    scaling = _scaling(m, context)
    base = m.number("rope.freq_base", 1.0, 1e12, 10000.0)
    base_window = m.number("rope.freq_base_swa", 1.0, 1e12, family.rope_window_base or base)
    ffn = m.integer("feed_forward_length", 0, 1 << 22, 0)
    eps_key = "attention.layer_norm_rms_epsilon" if family.norm == "rms" else "attention.layer_norm_epsilon"
    switched_off = family.rope_switchable and model.get("rope.scaling.finetuned", True) is False
    return Hyperparameters(
        layers=layers,
        vocab=_vocab(model),
        width=width,
        ffn=ffn,
        **heads,
        norm_eps=m.number(eps_key, 0.0, 1.0),
        context=context,
        rope_base=base,
        rope_base_window=base_window,
        rope_scaling=scaling,
        # Sliding layers never see far positions: in some families their rotation is not stretched.
        rope_scaling_window=RopeScaling() if family.rope_window_unscaled else scaling,
        rotates=tuple(
            not switched_off and not (family.rope_skip_every and (i + 1) % family.rope_skip_every == 0)
            for i in range(layers)
        ),
        window=window,
        sliding=_sliding(m, family, layers) if window else (False,) * layers,
        attention_scale=_attention_scale(m, family, layers, width, heads["heads"], heads["head_dim"]),
        attention_softcap=_softcap(m, family, "attention", "attn_logit_softcapping"),
        final_softcap=_softcap(m, family, "final", "final_logit_softcapping"),
        embedding_scale=_embedding_scale(m, family, width),
        residual_scale=m.number("residual_scale", 1e-6, 1e6, 1.0) if family.residual_scale == "key" else 1.0,
        logit_scale=_logit_scale(m, family),
        **_experts(m, family, ffn),
    )


class _Metadata:
    """Typed, bounded reads of ``<architecture>.<key>``."""

    def __init__(self, model: ModelDescription) -> None:
        self.model = model

    def error(self, key: str, message: str, allowed: str | None = None) -> EngineError:
        path = f"{self.model.architecture}.{key}"
        return EngineError("model_metadata", message, path=path, allowed=allowed, exit_code=EXIT_MODEL)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, f"{_short(value)} is not an integer the engine takes", f"{low} … {high}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.error(key, f"{_short(value)} is not a number the engine takes", f"{low} … {high}")
        return float(value)

    def _value(self, key: str, default: MetadataValue | None) -> MetadataValue:
        value = self.model.get(key, default)
        if value is None:
            raise self.error(key, "the model's metadata lacks this key")
        if isinstance(value, tuple):
            # Some writers give one number a layer; the graph takes one for all.
            if not value or len(set(value)) != 1:
                raise self.error(key, "the engine takes one value for all layers", "equal numbers")
            return value[0]
        return value


def _heads(m: _Metadata, width: int) -> dict[str, Any]:
    """Counts and widths of the heads, by the field they fill."""
    heads = m.integer("attention.head_count", 1, 4096)
    kv_heads = m.integer("attention.head_count_kv", 1, 4096, heads)
    head_dim = m.integer("attention.key_length", 1, 4096, max(1, width // heads))
    head_dim_v = m.integer("attention.value_length", 1, 4096, head_dim)
    n_rot = m.integer("rope.dimension_count", 2, 4096, head_dim)
    if heads % kv_heads:
        raise m.error(
            "attention.head_count_kv", f"{heads} query heads do not divide among {kv_heads} KV heads"
        )
    if n_rot > head_dim or n_rot % 2:
        raise m.error(
            "rope.dimension_count", f"{n_rot} rotated channels of {head_dim}", f"even, at most {head_dim}"
        )
    return {
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "head_dim_v": head_dim_v,
        "n_rot": n_rot,
    }


def _experts(m: _Metadata, family: Family, ffn: int) -> dict[str, Any]:
    """What is said of experts, by the field it fills."""
    experts = m.integer("expert_count", 0, 4096, 0)
    used = m.integer("expert_used_count", 0, 4096, 0)
    if experts and not 1 <= used <= experts:
        raise m.error("expert_used_count", f"{used} of {experts} experts", f"1 … {experts}")
    return {
        "experts": experts,
        "experts_used": used,
        "expert_ffn": m.integer("expert_feed_forward_length", 1, 1 << 22, ffn or None) if experts else 0,
        "expert_shared_ffn": _shared_ffn(m, ffn),
        "expert_gating": _gating(m, family),
        "expert_normalize": bool(m.model.get("expert_weights_norm", family.expert_normalize)),
        "expert_scale": m.number("expert_weights_scale", 0.0, 1e6, 1.0) or 1.0,
    }


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _vocab(model: ModelDescription) -> int:
    table = model.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2 or not 1 <= table.shape[0] <= 1 << 24:
        raise EngineError(
            "model_tensor",
            "the file lacks a token embedding of two dimensions",
            path="token_embd.weight",
            exit_code=EXIT_MODEL,
        )
    return table.shape[0]


def _scaling(m: _Metadata, context: int) -> RopeScaling:
    linear = m.number("rope.scale_linear", 1e-3, 1e6, 1.0)  # what older writers call the factor
    factor = m.number("rope.scaling.factor", 1e-3, 1e6, linear)
    kind = str(m.model.get("rope.scaling.type", "linear" if factor != 1.0 else "none"))
    # LongRoPE's stretch is in the factor tensors; its kind only names them.
    kind = {"longrope": "none", "su": "none"}.get(kind, kind)
    if kind not in ("none", "linear", "yarn"):
        raise m.error("rope.scaling.type", f"{_short(kind)} is not known", "none, linear, yarn, longrope")
    return RopeScaling(
        kind=kind,
        factor=factor,
        original_context=m.integer("rope.scaling.original_context_length", 1, 1 << 24, context),
        attention_factor=m.number("rope.scaling.attn_factor", 1e-3, 1e3, 1.0),
        beta_fast=m.number("rope.scaling.yarn_beta_fast", 0.0, 1e6, 32.0),
        beta_slow=m.number("rope.scaling.yarn_beta_slow", 0.0, 1e6, 1.0),
        log_multiplier=m.number("rope.scaling.yarn_log_multiplier", 0.0, 1e3, 0.0),
    )


def _sliding(m: _Metadata, family: Family, layers: int) -> tuple[bool, ...]:
    key = "attention.sliding_window_pattern"
    pattern = m.model.get(key)
    if isinstance(pattern, tuple):
        if len(pattern) != layers:
            raise m.error(key, f"{len(pattern)} entries for {layers} layers", f"{layers} entries")
        return tuple(bool(flag) for flag in pattern)
    period = m.integer(key, 1, 64, family.window_period)
    return tuple(i % period < period - 1 for i in range(layers))


def _shared_ffn(m: _Metadata, ffn: int) -> int:
    """Inner size of the shared experts, which are one: by its key, or by their count and a routed one's."""
    count = m.integer("expert_shared_count", 0, 4096, 0)
    routed = m.integer("expert_feed_forward_length", 0, 1 << 22, ffn)
    return m.integer("expert_shared_feed_forward_length", 0, 1 << 22, 0) or count * routed


def _gating(m: _Metadata, family: Family) -> str | None:
    """How scores follow from the router's logits: the file's word where it has one, else the family's."""
    value = m.integer("expert_gating_func", 0, 1 << 31, 0)
    if value == 0 or family.expert_gating is None:
        return family.expert_gating
    if value not in _GATINGS:
        raise m.error("expert_gating_func", f"{value} is not known", "1 (softmax), 2 (sigmoid)")
    return _GATINGS[value]


#: ``expert_gating_func`` of a file.
_GATINGS = {1: "softmax", 2: "sigmoid"}


def _attention_scale(
    m: _Metadata, family: Family, layers: int, width: int, heads: int, head_dim: int
) -> float:
    default = 1.0 / math.sqrt(width / heads if layers in family.width_per_head_at_layers else head_dim)
    if not family.scale_from_key:
        return default
    return m.number("attention.scale", 0.0, 1e3, default) or default


def _softcap(m: _Metadata, family: Family, which: str, key: str) -> float:
    return m.number(key, 0.0, 1e6, 0.0) if which in family.softcaps else 0.0


def _embedding_scale(m: _Metadata, family: Family, width: int) -> float:
    if family.embedding_scale == "sqrt_width":
        return math.sqrt(width)
    if family.embedding_scale == "key":
        return m.number("embedding_scale", 1e-6, 1e6, 1.0)
    return 1.0


def _logit_scale(m: _Metadata, family: Family) -> float:
    if family.logit_scale == "none":
        return 1.0
    scale = m.number("logit_scale", 0.0, 1e6, 1.0) or 1.0
    return 1.0 / scale if family.logit_scale == "divide" else scale
