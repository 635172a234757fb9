"""What is worth knowing of a model's file: allowed, but somebody should hear of it."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.model.description import MetadataValue


def model_notes(metadata: Mapping[str, MetadataValue]) -> tuple[str, ...]:
    """The notes on a file. A bundle's manifest keeps them, and every run of it shows and records them."""
    notes = []
    if metadata.get("tokenizer.ggml.model") == "gpt2" and "tokenizer.ggml.pre" not in metadata:
        notes.append(
            "the model's file does not name the rule by which text is split (tokenizer.ggml.pre): "
            "the default is taken, which may not be the one that the model was trained with"
        )
    return tuple(notes)
