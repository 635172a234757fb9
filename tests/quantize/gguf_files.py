"""Small GGUF files written for this room's tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter


def write_gguf(
    path: Path, tensors: Mapping[str, tuple[np.ndarray, str]], architecture: str = "llama", **metadata: int
) -> Path:
    """A GGUF of float32 arrays stored in the given types (any that gguf can encode), or of raw blocks."""
    writer = GGUFWriter(path, architecture)
    for key, value in metadata.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    for name, (values, type) in tensors.items():
        kind = GGMLQuantizationType[type.upper()]
        data = values if values.dtype == np.uint8 else gguf.quants.quantize(values, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
