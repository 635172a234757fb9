"""What the compiler knows of a model after reading its GGUF header: frozen, checked.

Nothing here touches the file; :mod:`compiler.model.reader` makes these objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: A GGUF metadata value: scalars, strings and arrays of scalars or strings.
MetadataValue = bool | int | float | str | tuple["MetadataValue", ...]


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file, as stored.

    ``shape`` is in row-major order, outermost first (``(rows, k)`` for a matrix,
    ``(experts, rows, k)`` for stacked experts): the reverse of GGUF's ``ne``.
    ``type`` is the lower-case GGML type name (``f32``, ``bf16``, ``q4_k`` …).
    ``offset`` and ``nbytes`` are absolute, in the file at ``path``.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class FileStamp:
    """What tells a file's state without reading it: size in bytes, times in ns, inode.

    ``ctime_ns`` changes with every write and cannot be set, which is what makes this reliable.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


@dataclass(frozen=True)
class ModelDescription:
    """A GGUF model: metadata and the table of tensors, bounds-checked.

    ``digest`` is the SHA-256 of the file's content (all parts of a split file in
    order); ``files`` the parts with their sizes; ``stamps`` their states when they
    were read, by which a later reader notices that a file was replaced.
    """

    path: Path
    files: tuple[tuple[Path, int], ...]
    architecture: str
    name: str
    metadata: Mapping[str, MetadataValue]
    tensors: Mapping[str, Tensor]
    digest: str
    stamps: tuple[FileStamp, ...] = ()

    def get(self, key: str, default: MetadataValue | None = None) -> MetadataValue | None:
        """``metadata['<architecture>.<key>']`` or the default."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


#: Reads rows [begin, end) of a tensor (flattened to two dimensions) as raw block
#: bytes ``uint8 (rows, row_bytes)``.
RowReader = Callable[[Tensor, int, int], np.ndarray]
