"""Small model descriptions for this room's tests, without any file behind them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from gguf import GGUFReader

from compiler.model.description import MetadataValue, ModelDescription, Tensor


def describe(
    tensors: Mapping[str, tuple[tuple[int, ...], str]], architecture: str = "llama", **metadata: MetadataValue
) -> ModelDescription:
    """A model of the given tensors (name → shape, type); metadata keys get the architecture's prefix."""
    path = Path("model.gguf")
    return ModelDescription(
        path=path,
        files=((path, 0),),
        architecture=architecture,
        name="model",
        metadata=MappingProxyType({f"{architecture}.{key}": value for key, value in metadata.items()}),
        tensors=MappingProxyType(
            {name: Tensor(name, shape, type, path, 0, 0) for name, (shape, type) in tensors.items()}
        ),
        digest="0" * 64,
    )


def layers(count: int, k: int = 256, type: str = "f16", **extra: tuple[tuple[int, ...], str]) -> dict:
    """The matrices of a plain llama of ``count`` layers with rows of ``k``."""
    tensors: dict[str, tuple[tuple[int, ...], str]] = {
        "token_embd.weight": ((64, k), type),
        "output_norm.weight": ((k,), "f32"),
        "output.weight": ((64, k), type),
    }
    for i in range(count):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            tensors[f"blk.{i}.{name}.weight"] = ((64, k), type)
        tensors[f"blk.{i}.attn_norm.weight"] = ((k,), "f32")
    return tensors | extra


def read_description(path: Path) -> ModelDescription:
    """A file's header through the gguf package alone."""
    reader = GGUFReader(path)
    metadata = {
        key: field.contents()
        for key, field in reader.fields.items()
        if not key.startswith(("GGUF.", "tokenizer."))
    }
    tensors = {
        t.name: Tensor(
            t.name,
            tuple(int(n) for n in reversed(t.shape)),
            t.tensor_type.name.lower(),
            path,
            int(t.data_offset),
            int(t.n_bytes),
        )
        for t in reader.tensors
    }
    architecture = str(metadata["general.architecture"])
    return ModelDescription(
        path=path,
        files=((path, path.stat().st_size),),
        architecture=architecture,
        name=path.stem,
        metadata=MappingProxyType(metadata),
        tensors=MappingProxyType(tensors),
        digest="0" * 64,
    )
