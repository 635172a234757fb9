"""Recipes: which type each tensor of a model gets, decided once and readable afterwards.

A recipe is a table from a tensor's role to a block format. ``f32``, ``f16``, ``bf16``, ``q8_0``,
``q6_k`` and ``q4_0`` give every matrix that type. The mixes of k-quants follow llama.cpp's published
ones; in all of them output, or the tied token embedding, is q6_k. What else departs from their type:

=========  =====  ================================  ================================  ============
recipe     type   attn_v, attn_qkv                  ffn_down                          attn_output
=========  =====  ================================  ================================  ============
q2_k       q2_k   q4_k of 4 heads a key, else q3_k  q3_k                              q3_k
q3_k_s     q3_k
q3_k_m     q3_k   q5_k in the first two, else q4_k  q5_k in the first 16th, else q4_k q4_k
q3_k_l     q3_k   q5_k                              q5_k                              q5_k
q4_k_s     q4_k   q5_k in the first four            q5_k in the first eighth
q4_k_m     q4_k   q6_k with more bits               q6_k with more bits
q5_k_s     q5_k
q5_k_m     q5_k   q6_k with more bits               q6_k with more bits
=========  =====  ================================  ================================  ============

In 80-layer models of llama or qwen2, attn_v is q5_k where it would be q3_k or q4_k.

Layer i of n has *more bits* if ``i < n//8``, ``i >= 7n//8`` or ``(i - n//8) % 3 == 2``. For attn_v and
attn_qkv, i and n count the layers that have one. Models with exactly eight experts get q8_0 for attn_v,
attn_qkv and attn_k in every quantized recipe, and q5_k for attn_output in the mixes up to q4_k_m but q3_k_l.

``iq4_nl`` gives every matrix that type, but the output (or the tied token embedding) q6_k.

In every recipe, vectors, norms, biases, routers (``ffn_gate_inp``), position embeddings and short
convolutions stay f32. A row that is not a whole number of blocks falls back: q4_k and q5_k to q5_1, q6_k to
q8_0 (by measured error, ``docs/quality.md``), and where rows are not a multiple of 32, to f16. What the
file holds for such rows in codes of no fewer bits stays as it is.

The recipe ``source`` takes every matrix in the type the file holds it in, where there is a kernel for it.
Where a type is asked for whose blocks hold the file's very values (q5_0 of a q4_0 file), that is no
quantizing.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from compiler.formats import FORMATS
from compiler.model.description import ModelDescription, Tensor
from compiler.model.reader import decodable
from runtime.bundle.plan import Quantization, TypeOverride
from runtime.bundle.planfields import RECIPES
from runtime.errors import EXIT_PLAN, EngineError

#: Types of a file that are plain floats, not codes: converting them is not requantizing.
FLOAT_TYPES = frozenset({"f64", *(name for name, format in FORMATS.items() if not format.quantized)})

#: For recipe ``source`` with ``requantize``: what stands in for a type without a kernel. Types of
#: four bits and fewer are not named here; they become q4_k.
SOURCE_SUBSTITUTES: Mapping[str, str] = MappingProxyType({"q8_1": "q8_0"})

#: Types, and the format whose blocks hold their very values.
EXACT: Mapping[str, str] = MappingProxyType(
    {held: name for name, format in FORMATS.items() for held in format.exact}
)

#: Mixes of k-quants, and the type of every matrix that they name no other for.
K_MIXES: Mapping[str, str] = MappingProxyType(
    {
        "q2_k": "q2_k",
        "q3_k_s": "q3_k",
        "q3_k_m": "q3_k",
        "q3_k_l": "q3_k",
        "q4_k_s": "q4_k",
        "q4_k_m": "q4_k",
        "q5_k_s": "q5_k",
        "q5_k_m": "q5_k",
    }
)

_KEPT_PARTS = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "position_embd",
    "token_types",
    "ssm_conv1d",
    "shortconv.conv.weight",
)
_LAYER = re.compile(r"^blk\.(\d+)\.")


@dataclass(frozen=True)
class _Refusal:
    """A tensor that would be quantized a second time, unasked."""

    tensor: Tensor
    wanted: str


@dataclass(frozen=True)
class TensorType:
    """The decision for one tensor: the type it has in the file, the type it gets, and why."""

    name: str
    source_type: str
    type: str
    reason: str


def assign_types(model: ModelDescription, quantization: Quantization) -> tuple[TensorType, ...]:
    """Decides the type of every tensor of ``model``, in the file's order.

    All that is wrong is reported in one ``EngineError``: ``unknown_recipe``, ``unknown_tensor_type``,
    ``override_matches_nothing``, ``tensor_type_does_not_fit``, ``unsupported_source_type`` or
    ``requantization_refused``; several of them as causes of the first.
    """
    errors = _check_names(quantization)
    if errors:
        raise _together(errors)
    check_decodable(model.tensors.values())
    mix = _Mix(model, quantization.recipe)
    used = [False] * len(quantization.overrides)
    decided: list[TensorType] = []
    refused: list[_Refusal] = []
    for tensor in model.tensors.values():
        decision = _decide(tensor, mix, quantization, used)
        if isinstance(decision, TensorType):
            decided.append(decision)
        elif isinstance(decision, _Refusal):
            refused.append(decision)
        else:
            errors.append(decision)
    if refused:
        errors.append(_requantization_refused(refused, quantization.recipe))
    for index, override in enumerate(quantization.overrides):
        if not used[index]:
            errors.append(
                EngineError(
                    "override_matches_nothing",
                    f"{override.tensors!r} matches no matrix of the model that an earlier override left",
                    path=f"quantization.overrides[{index}].tensors",
                    allowed="a pattern as in fnmatch, such as blk.*.ffn_down.weight",
                    hint="vectors, norms and routers stay f32 and cannot be overridden",
                    exit_code=EXIT_PLAN,
                )
            )
    if errors:
        raise _together(errors)
    return tuple(decided)


def _check_names(quantization: Quantization) -> list[EngineError]:
    errors = []
    if quantization.recipe not in RECIPES:
        errors.append(
            EngineError(
                "unknown_recipe",
                f"there is no recipe {quantization.recipe!r}",
                path="quantization.recipe",
                allowed=", ".join(RECIPES),
                exit_code=EXIT_PLAN,
            )
        )
    for index, override in enumerate(quantization.overrides):
        if override.type not in FORMATS:
            errors.append(
                EngineError(
                    "unknown_tensor_type",
                    f"there is no kernel for tensors of type {override.type!r}",
                    path=f"quantization.overrides[{index}].type",
                    allowed=", ".join(FORMATS),
                    exit_code=EXIT_PLAN,
                )
            )
    return errors


def check_decodable(tensors: Iterable[Tensor]) -> None:
    """Refuses types of which no value can be had, all in one ``unsupported_source_type``."""
    lacking = [tensor for tensor in tensors if not decodable(tensor.type)]
    if not lacking:
        return
    counts = Counter(tensor.type for tensor in lacking)
    said = ", ".join(f"{count} as {kind}" for kind, count in counts.most_common())
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    raise EngineError(
        "unsupported_source_type",
        f"tensors are stored in types that cannot be decoded: {said} ({lacking[0].name}{more})",
        path=str(lacking[0].path),
        hint="use a file with f32, f16, bf16 or ordinary quantized tensors",
        exit_code=EXIT_PLAN,
    )


def _decide(
    tensor: Tensor, mix: _Mix, quantization: Quantization, used: list[bool]
) -> TensorType | _Refusal | EngineError:
    k = tensor.shape[-1]
    kept = kept_reason(tensor)
    if kept is not None:
        wanted, reason = "f32", kept
    else:
        override = _first_match(tensor.name, quantization.overrides)
        if override is not None:
            used[override] = True
            pattern = quantization.overrides[override]
            wanted, reason = pattern.type, f"override {pattern.tensors}"
            if not FORMATS[wanted].fits(k):
                return EngineError(
                    "tensor_type_does_not_fit",
                    f"{tensor.name} has rows of {k}, not a multiple of {FORMATS[wanted].block}",
                    path=f"quantization.overrides[{override}].type",
                    allowed=", ".join(name for name, f in FORMATS.items() if f.fits(k)),
                    exit_code=EXIT_PLAN,
                )
        else:
            wanted, reason = mix.choose(tensor)
            if quantization.recipe == "source" and wanted not in FORMATS:
                wanted = _substitute(wanted)
                reason = f"no kernel for {tensor.type}: {wanted} in its place"
            wanted, reason = _fall_back(wanted, k, reason, tensor.type)
    exact = tensor.type in FLOAT_TYPES or wanted in (tensor.type, EXACT.get(tensor.type))
    if not exact and not quantization.requantize:
        return _Refusal(tensor, wanted)
    if tensor.type == wanted:
        reason += "; bytes of the file"
    elif wanted == EXACT.get(tensor.type):
        reason += "; the file's values exactly"
    elif not exact:
        reason += f"; requantized from {tensor.type}"
    return TensorType(tensor.name, tensor.type, wanted, reason)


def stand_in(kind: str, k: int) -> str:
    """What recipe ``source`` takes for a type without a kernel, in a tensor with rows of ``k``."""
    return _fall_back(_substitute(kind), k, "")[0]


def _substitute(kind: str) -> str:
    return EXACT.get(kind) or SOURCE_SUBSTITUTES.get(kind, "q4_k")


def kept_reason(tensor: Tensor) -> str | None:
    """Why a tensor stays f32 in every recipe, or ``None`` if recipes decide."""
    if len(tensor.shape) < 2:
        return "vector"
    if not tensor.name.endswith("weight"):
        return "bias"
    for part in _KEPT_PARTS:
        if part in tensor.name:
            return {"_norm.weight": "norm", "ffn_gate_inp.weight": "router"}.get(part, "small")
    return None


def more_bits(layer: int, layers: int) -> bool:
    """Whether the published k-quant mixes give ``layer`` of ``layers`` the larger format."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


class _Mix:
    """A recipe's table applied to one model."""

    def __init__(self, model: ModelDescription, recipe: str) -> None:
        self.recipe = recipe
        self.tied = "output.weight" not in model.tensors
        self.eight_experts = model.get("expert_count", 0) == 8
        self.layers = _integer(model.get("block_count", 0))
        value_layers = {_layer(name) for name in model.tensors if _is_value(name)}
        self.value_order = {layer: i for i, layer in enumerate(sorted(value_layers))}
        heads, kv_heads = (model.get(f"attention.head_count{kv}") for kv in ("", "_kv"))
        grouped = heads != kv_heads
        #: Heads that share a head of keys and values, where that is one number for all layers.
        self.heads_a_key = _integer(heads) // max(1, _integer(kv_heads) or _integer(heads))
        self.is_70b = self.layers == 80 and (
            model.architecture == "qwen2" or (model.architecture == "llama" and grouped)
        )

    def choose(self, tensor: Tensor) -> tuple[str, str]:
        """Type and reason, before any fallback."""
        name, recipe = tensor.name, self.recipe
        if recipe == "source":
            return tensor.type, "source"
        if not FORMATS.get(recipe, FORMATS["q4_k"]).quantized:
            return recipe, recipe
        if self.eight_experts and (_is_value(name) or "attn_k.weight" in name):
            return "q8_0", f"{recipe}: attention keys and values of 8 experts"
        if recipe == "iq4_nl":
            last = "token_embd.weight" if self.tied else "output.weight"
            return ("q6_k", f"{recipe}: output") if name == last else (recipe, recipe)
        base = K_MIXES.get(recipe)
        if base is None:
            return recipe, recipe
        if name == "output.weight":
            return "q6_k", f"{recipe}: output"
        if name == "token_embd.weight":
            tied = ("q6_k", f"{recipe}: embedding tied to the output")
            return tied if self.tied else (base, f"{recipe}: embedding")
        return self._exception(name) or (base, recipe)

    def _exception(self, name: str) -> tuple[str, str] | None:
        """Type and reason of a matrix that a mix of k-quants gives another type than its own."""
        if _is_value(name):
            return self._of_values(self.value_order[_layer(name)])
        if "ffn_down" in name:
            return self._of_ffn_down(_layer(name))
        if "attn_output.weight" not in name:
            return None
        if self.eight_experts and self.recipe in ("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m"):
            return "q5_k", f"{self.recipe}: attention output of 8 experts"
        kind = {"q2_k": "q3_k", "q3_k_m": "q4_k", "q3_k_l": "q5_k"}.get(self.recipe)
        return None if kind is None else (kind, f"{self.recipe}: attention output")

    def _of_values(self, order: int) -> tuple[str, str] | None:
        """Of attn_v and attn_qkv, the ``order``-th of their kind."""
        recipe, why = self.recipe, "values"
        kind: str | None = None
        if recipe in ("q4_k_m", "q5_k_m") and more_bits(order, len(self.value_order)):
            kind, why = "q6_k", "values in a layer with more bits"
        elif recipe == "q2_k":
            kind = "q4_k" if self.heads_a_key >= 4 else "q3_k"
        elif recipe == "q3_k_m":
            kind = "q5_k" if order < 2 else "q4_k"
        elif recipe == "q3_k_l":
            kind = "q5_k"
        elif recipe == "q4_k_s" and order < 4:
            kind, why = "q5_k", "values of the first four layers"
        if self.is_70b and (kind or K_MIXES[recipe]) in ("q3_k", "q4_k"):
            kind, why = "q5_k", "values of a 70B model"
        return None if kind is None else (kind, f"{recipe}: {why}")

    def _of_ffn_down(self, layer: int) -> tuple[str, str] | None:
        recipe, why = self.recipe, "ffn_down"
        kind: str | None = None
        if recipe in ("q4_k_m", "q5_k_m") and more_bits(layer, self.layers):
            kind, why = "q6_k", "ffn_down in a layer with more bits"
        elif recipe == "q2_k":
            kind = "q3_k"
        elif recipe == "q3_k_m":
            kind = "q5_k" if layer < self.layers // 16 else "q4_k"
        elif recipe == "q3_k_l":
            kind = "q5_k"
        elif recipe == "q4_k_s" and layer < self.layers // 8:
            kind, why = "q5_k", "ffn_down in the first eighth"
        return None if kind is None else (kind, f"{recipe}: {why}")


def _fall_back(wanted: str, k: int, reason: str, held: str = "") -> tuple[str, str]:
    """The type for rows of ``k`` and why. Where ``wanted`` has to be replaced, codes that the file holds in
    no fewer bits stay: another quantizer chose that type, and quantizing twice can only lose."""
    first = wanted
    stays = held in FORMATS and FORMATS[held].code_bits >= FORMATS[first].code_bits > 0
    while not FORMATS[wanted].fits(k):
        wanted = held if stays else FORMATS[wanted].fallback or "f32"
    if wanted != first:
        reason += f"; {wanted} for {first}: rows of {k} are not whole blocks of {FORMATS[first].block}"
    return wanted, reason


def _first_match(name: str, overrides: Sequence[TypeOverride]) -> int | None:
    for index, override in enumerate(overrides):
        if fnmatch.fnmatchcase(name, override.tensors):
            return index
    return None


def _is_value(name: str) -> bool:
    return any(part in name for part in ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"))


def _layer(name: str) -> int:
    match = _LAYER.match(name)
    return int(match.group(1)) if match else 0


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0


def _requantization_refused(refused: list[_Refusal], recipe: str) -> EngineError:
    """One error for all the tensors, counted by type."""
    counts = Counter((refusal.tensor.type, refusal.wanted) for refusal in refused)
    count = "1 tensor is" if len(refused) == 1 else f"{len(refused)} tensors are"
    kinds = ", ".join(f"{n} in {held} ({wanted} wanted)" for (held, wanted), n in counts.most_common())
    if recipe == "source":
        message = f"{count} stored in types without a kernel: {kinds.replace('wanted', 'in its place')}"
        hint = "requantize: true (--requantize) converts them, which loses some quality"
    else:
        message = f"{count} quantized already, in other types than {recipe} gives them: {kinds}"
        hint = (
            "recipe source (--quant source) takes the types of the file; requantize: true (--requantize) "
            "converts them, which loses some quality; the model's F16 or BF16 file is better still"
        )
    return EngineError("requantization_refused", message, "quantization", hint=hint, exit_code=EXIT_PLAN)


def _together(errors: list[EngineError]) -> EngineError:
    if len(errors) == 1:
        return errors[0]
    first = errors[0]
    return EngineError(
        first.code, first.message, first.path, first.allowed, first.hint, first.exit_code, tuple(errors)
    )
