"""What a model says of itself, for people and for the model store: plain JSON values."""

from __future__ import annotations

import math
from typing import Any

from compiler.model.description import ModelDescription

#: Key of the summary → key of the metadata below the architecture.
_SIZES = {
    "context_length": "context_length",
    "embedding_length": "embedding_length",
    "layers": "block_count",
    "heads": "attention.head_count",
    "kv_heads": "attention.head_count_kv",
    "feed_forward_length": "feed_forward_length",
    "experts": "expert_count",
    "experts_used": "expert_used_count",
}
_TEXTS = {
    "license": "general.license",
    "basename": "general.basename",
    "size_label": "general.size_label",
    "tokenizer": "tokenizer.ggml.model",
    "pre_tokenizer": "tokenizer.ggml.pre",
}
_LONGEST_TEXT = 200


def about_model(model: ModelDescription) -> dict[str, Any]:
    """Architecture, sizes, tensor types and parts of a model; what it does not say is left out."""
    about: dict[str, Any] = {"architecture": model.architecture, "title": model.name[:_LONGEST_TEXT]}
    about["parameters"] = sum(math.prod(tensor.shape) for tensor in model.tensors.values())
    for name, key in _SIZES.items():
        value = model.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            about[name] = value
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, tuple):
        about["vocabulary"] = len(tokens)
    for name, key in _TEXTS.items():
        text = model.metadata.get(key)
        if isinstance(text, str) and text:
            about[name] = text[:_LONGEST_TEXT]
    about["chat_template"] = isinstance(model.metadata.get("tokenizer.chat_template"), str)
    about["files"] = [{"name": path.name, "size": size} for path, size in model.files]
    about["tensor_types"] = tensor_types(model)
    return about


def tensor_types(model: ModelDescription) -> dict[str, dict[str, int]]:
    """For each stored type, the number of tensors and their bytes; the largest share first."""
    types: dict[str, dict[str, int]] = {}
    for tensor in model.tensors.values():
        entry = types.setdefault(tensor.type, {"tensors": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["bytes"] += tensor.nbytes
    return dict(sorted(types.items(), key=lambda item: -item[1]["bytes"]))
