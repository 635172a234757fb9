"""GGUF files → :class:`ModelDescription`, and the rows of its tensors.

    model = read_model(path)
    with open_rows(model) as rows:
        block_bytes = rows(model.tensors["blk.0.attn_q.weight"], 0, 16)

Everything a file declares is checked before it is used (:mod:`compiler.model.header`);
what a family needs of metadata and shapes is checked where it is used.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, TracebackType

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES

from compiler.model.cursor import bad_gguf
from compiler.model.description import FileStamp, MetadataValue, ModelDescription, Tensor
from compiler.model.digest import Progress, changed, content_digest, file_stamp
from compiler.model.header import Header, read_header
from compiler.model.parts import model_parts
from runtime.bundle.files import open_regular
from runtime.bundle.modelindex import model_label
from runtime.errors import EXIT_MODEL, EngineError

_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


def read_model(path: str | Path, progress: Progress | None = None) -> ModelDescription:
    """Reads and checks the header of a GGUF model; any part of a split one stands for all.

    ``progress`` hears of the bytes whose digest is being computed. Raises
    ``model_unreadable`` or, with the byte offset, ``bad_gguf``.
    """
    path = Path(path)
    paths = model_parts(path)
    with contextlib.ExitStack() as stack, _reading(path):
        opened = []
        for part in paths:
            descriptor = _open(part)
            stack.callback(os.close, descriptor)
            opened.append((part, descriptor, file_stamp(descriptor)))
        headers = [read_header(part, descriptor, stamp.size) for part, descriptor, stamp in opened]
        metadata, tensors = _joined(paths, headers)
        architecture = _architecture(paths[0], metadata)
        digest = content_digest(opened, progress)
    name = metadata.get("general.name")
    return ModelDescription(
        path=paths[0],
        files=tuple((part, stamp.size) for part, _, stamp in opened),
        architecture=architecture,
        name=name if isinstance(name, str) and name else model_label(paths[0].name),
        metadata=MappingProxyType(metadata),
        tensors=MappingProxyType(tensors),
        digest=digest,
        stamps=tuple(stamp for _, _, stamp in opened),
    )


def peek_model(path: str | Path) -> tuple[str, tuple[Tensor, ...]]:
    """A model's ``general.architecture`` and its tensors, from its headers alone.

    No content is read and no digest computed, which of a large file takes minutes. Raises as
    :func:`read_model`.
    """
    path = Path(path)
    headers: list[Header] = []
    with _reading(path):
        for part in model_parts(path):
            descriptor = _open(part)
            try:
                headers.append(read_header(part, descriptor, os.fstat(descriptor).st_size))
            finally:
                os.close(descriptor)
    tensors = tuple(tensor for header in headers for tensor in header.tensors.values())
    return _architecture(path, headers[0].metadata), tensors


def _architecture(path: Path, metadata: Mapping[str, MetadataValue]) -> str:
    value = metadata.get("general.architecture")
    if not isinstance(value, str) or _ARCHITECTURE.fullmatch(value) is None:
        raise metadata_error(path, "general.architecture", value, "a name of lower-case letters and digits")
    return value


def metadata_error(path: Path, key: str, value: object, allowed: str) -> EngineError:
    """``bad_model_metadata``: a key that is missing or holds what it must not."""
    held = "is missing" if value is None else f"is {str(value)[:80]!r}"
    return EngineError(
        "bad_model_metadata", f"{key} {held}", path=str(path), allowed=allowed, exit_code=EXIT_MODEL
    )


@cache
def decodable(kind: str) -> bool:
    """Whether values of a tensor type (``q5_k``) can be had as float32."""
    if kind in _NUMPY_TYPES:
        return True
    if (known := _TYPES.get(kind)) is None:
        return False
    try:
        gguf.quants.dequantize(np.zeros((1, GGML_QUANT_SIZES[known][1]), np.uint8), known)
    except NotImplementedError:
        return False
    return True


class Rows:
    """Reads tensors of one model; a context manager that closes the files.

    Reading goes through ``pread``, so a file that is truncated meanwhile gives
    ``model_changed`` instead of killing the process as a mapping would. Any number of
    threads may read at once.
    """

    def __init__(self, model: ModelDescription) -> None:
        self._descriptors: dict[Path, int] = {}
        expected: tuple[FileStamp | None, ...] = model.stamps or (None,) * len(model.files)
        try:
            for (path, size), stamp in zip(model.files, expected, strict=True):
                self._descriptors[path] = descriptor = _open(path)
                now = file_stamp(descriptor)
                if now.size != size or (stamp is not None and now != stamp):
                    raise changed(path)
        except EngineError:
            self.close()
            raise
        self._stamps = {path: file_stamp(descriptor) for path, descriptor in self._descriptors.items()}

    def __call__(self, tensor: Tensor, begin: int, end: int) -> np.ndarray:
        """Rows [begin, end) of the tensor, flattened to two dimensions: uint8 (rows, row_bytes)."""
        rows, row_bytes = row_layout(tensor)
        if not 0 <= begin <= end <= rows:
            raise ValueError(f"rows {begin} to {end} of {tensor.name}, which has {rows}")
        data = np.empty((end - begin, row_bytes), np.uint8)
        view, offset = data.reshape(-1).data, 0
        while offset < data.size:
            start = tensor.offset + begin * row_bytes + offset
            try:
                count = os.preadv(self._descriptors[tensor.path], [view[offset:]], start)
            except OSError as error:
                raise _unreadable(tensor.path, error) from error
            if count == 0:
                raise changed(tensor.path)
            offset += count
        return data

    def float32(self, tensor: Tensor, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Values as float32, (rows, k) of rows [begin, end), or of the tensor's shape where it is whole.

        Raises ``unsupported_tensor_type`` where gguf cannot decode the type.
        """
        whole = begin == 0 and end is None
        rows = row_layout(tensor)[0]
        raw = self(tensor, begin, rows if end is None else end)
        values = decode(raw, tensor)
        return values.reshape(tensor.shape if whole else (len(raw), tensor.shape[-1]))

    def check_unchanged(self) -> None:
        """Raises ``model_changed`` if a file was written to since it was opened."""
        for path, descriptor in self._descriptors.items():
            if file_stamp(descriptor) != self._stamps[path]:
                raise changed(path)

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __enter__(self) -> Rows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_rows(model: ModelDescription) -> Rows:
    """Opens the model's files for reading tensors; raises ``model_changed`` if they are others now."""
    return Rows(model)


def row_layout(tensor: Tensor) -> tuple[int, int]:
    """Rows of the tensor flattened to two dimensions, and bytes of one."""
    rows = 1
    for extent in tensor.shape[:-1]:
        rows *= extent
    return rows, tensor.nbytes // rows


#: Types that are plain numbers.
_NUMPY_TYPES = {"f64": "<f8", "i8": "<i1", "i16": "<i2", "i32": "<i4", "i64": "<i8"}


def decode(raw: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Raw rows uint8 (rows, row_bytes) → float32 (rows, k)."""
    if tensor.type in _NUMPY_TYPES:
        with np.errstate(over="ignore"):
            return raw.view(_NUMPY_TYPES[tensor.type]).astype(np.float32)
    if not decodable(tensor.type):
        raise EngineError(
            "unsupported_tensor_type",
            f"tensor {tensor.name!r} has the type {tensor.type}, which cannot be decoded",
            path=str(tensor.path),
            hint="use a file with f32, f16, bf16 or ordinary quantized tensors",
            exit_code=EXIT_MODEL,
        )
    with np.errstate(all="ignore"):  # blocks of a hostile file may hold NaN or overflow
        values = gguf.quants.dequantize(raw, _TYPES[tensor.type])
    return np.ascontiguousarray(values, np.float32)


_TYPES = {kind.name.lower(): kind for kind in GGML_QUANT_SIZES}


def _open(path: Path) -> int:
    try:
        return open_regular(path)
    except OSError as error:
        raise _unreadable(path, error) from error


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What a failing disk or a lost mount says, as ``model_unreadable``."""
    try:
        yield
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> EngineError:
    reason = getattr(error, "strerror", None) or str(error)
    return EngineError(
        "model_unreadable", f"the model cannot be read: {reason}", path=str(path), exit_code=EXIT_MODEL
    )


def _joined(paths: list[Path], headers: list[Header]) -> tuple[dict[str, MetadataValue], dict[str, Tensor]]:
    """Metadata of the first part and the tensors of all, with the ``split.*`` keys checked."""
    tensors: dict[str, Tensor] = {}
    for number, (path, header) in enumerate(zip(paths, headers, strict=True)):
        _require(path, header.metadata, "split.count", len(paths), optional=len(paths) == 1)
        _require(path, header.metadata, "split.no", number, optional=len(paths) == 1)
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise bad_gguf(path, tensor.offset, f"tensor {name!r} is also in {tensors[name].path.name}")
            tensors[name] = tensor
    first = headers[0].metadata
    _require(paths[0], first, "split.tensors.count", len(tensors), optional=True)
    return first, tensors


def _require(
    path: Path, metadata: Mapping[str, MetadataValue], key: str, value: int, *, optional: bool
) -> None:
    held = metadata.get(key)
    if (held is None and optional) or (held == value and not isinstance(held, bool)):
        return
    if key == "split.count" and optional and held == 0:  # what splitters write for "not split"
        return
    raise metadata_error(path, key, held, f"{value}, by the file's name and its companions")
