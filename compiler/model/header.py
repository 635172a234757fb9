"""One GGUF file's header, read with every count, length and offset checked first.

Format: the GGUF specification in ggml's ``docs/gguf.md`` (versions 2 and 3, little
endian). ``gguf`` gives the numbers of types and block sizes; its reader is not used,
since it trusts what the file declares. The bounds below are far above any model
known and keep a hostile file from costing more than a second or some memory.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from compiler.model.cursor import Cursor
from compiler.model.description import MetadataValue, Tensor
from runtime.errors import EXIT_MODEL, EngineError

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_KEY_BYTES = 1 << 16
MAX_STRING_BYTES = 32 << 20
#: Elements of all arrays of one file together; the largest vocabularies and their merges have 0.8 million.
MAX_STRINGS = 1 << 20
MAX_NUMBERS = 1 << 21
MAX_ARRAY_DEPTH = 4
#: Arrays inside of arrays; no known model has any.
MAX_INNER_ARRAYS = 1 << 12
#: Type numbers that a newer version of the format may give a meaning to; beyond, a file is damaged.
MAX_TYPE = 1 << 10
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 63  # ggml's GGML_MAX_NAME, less its final NUL
MAX_ALIGNMENT = 1 << 20

_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS: dict[int, np.dtype[np.generic]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("<u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_SCALARS = {code: struct.Struct("<" + letter) for code, letter in zip(_NUMBERS, "BbHhIifBQqd", strict=True)}
_TYPES = {int(kind): kind for kind in GGMLQuantizationType}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Header:
    """What one file declares: metadata and tensors with absolute offsets."""

    metadata: dict[str, MetadataValue]
    tensors: dict[str, Tensor]


def read_header(path: Path, descriptor: int, size: int) -> Header:
    """Reads and checks the header of the open file; raises ``bad_gguf`` with the byte offset."""
    cursor = Cursor(descriptor, path, size)
    magic = cursor.take(4, "the magic number") if size >= 4 else b""
    if magic != b"GGUF":
        raise cursor.error(f"not a GGUF file: it begins with {magic!r}", "b'GGUF'", 0)
    version = cursor.u32("the version")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        big = ", in big-endian order" if swapped in (1, 2, 3) and version not in (1, 2, 3) else ""
        raise cursor.error(
            f"GGUF version {swapped if big else version}{big}", "versions 2 and 3, little endian", 4
        )
    tensor_count = _count(cursor, "the number of tensors", MAX_TENSORS, 8 + 4 + 8 + 4 + 8)
    key_count = _count(cursor, "the number of metadata keys", MAX_KEYS, 8 + 4 + 1)
    metadata = _Metadata(cursor).read(key_count)
    alignment = _alignment(cursor, metadata)
    return Header(metadata, _tensors(cursor, tensor_count, alignment))


def _count(cursor: Cursor, what: str, limit: int, item_bytes: int) -> int:
    """A 64-bit count of items that take at least ``item_bytes`` each."""
    start = cursor.offset
    count = cursor.u64(what)
    most = min(limit, cursor.remaining // item_bytes)
    if count > most:
        raise cursor.error(f"{what} is {count}", f"at most {most}", start)
    return count


class _Metadata:
    """Reads key-value pairs, with a budget for all arrays together."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._strings = MAX_STRINGS
        self._numbers = MAX_NUMBERS
        self._arrays = MAX_INNER_ARRAYS
        self._offsets: dict[str, int] = {}

    def read(self, count: int) -> dict[str, MetadataValue]:
        cursor = self._cursor
        metadata: dict[str, MetadataValue] = {}
        for index in range(count):
            start = cursor.offset
            key = cursor.text(MAX_KEY_BYTES, f"metadata key {index}")
            if not key or _UNPRINTABLE.search(key):
                raise cursor.error(
                    f"metadata key {index} is empty or not printable: {key[:80]!r}", None, start
                )
            if key in metadata:
                raise cursor.error(f"metadata key {key!r} appears twice", None, start)
            kind = cursor.u32(f"the type of {key}")
            metadata[key] = self._value(kind, key)
        return metadata

    def _value(self, kind: int, key: str) -> MetadataValue:
        cursor = self._cursor
        if kind == _STRING:
            return cursor.text(MAX_STRING_BYTES, key)
        if kind == _ARRAY:
            return self._array(key, 1)
        if kind not in _SCALARS:
            raise cursor.error(f"{key} has the unknown value type {kind}", "types 0 to 12", cursor.offset - 4)
        layout = _SCALARS[kind]
        start = cursor.offset
        value: bool | int | float = layout.unpack(cursor.take(layout.size, key))[0]
        return self._boolean(value, key, start) if kind == _BOOL else value

    def _array(self, key: str, depth: int) -> tuple[MetadataValue, ...]:
        cursor = self._cursor
        if depth > MAX_ARRAY_DEPTH:
            raise cursor.error(f"{key} nests arrays", f"at most {MAX_ARRAY_DEPTH} levels")
        kind_at = cursor.offset
        kind = cursor.u32(f"the type of {key}")
        if kind == _STRING:
            count = _count(cursor, f"the length of {key}", self._strings, 8)
            self._strings -= count
            return cursor.texts(count, MAX_STRING_BYTES, key)
        if kind == _ARRAY:
            count = _count(cursor, f"the length of {key}", self._arrays, 12)
            self._arrays -= count
            return tuple(self._array(key, depth + 1) for _ in range(count))
        if kind not in _NUMBERS:
            raise cursor.error(f"{key} has the unknown element type {kind}", "types 0 to 12", kind_at)
        layout = _NUMBERS[kind]
        count = _count(cursor, f"the length of {key}", self._numbers, layout.itemsize)
        self._numbers -= count
        start = cursor.offset
        values = np.frombuffer(cursor.take(count * layout.itemsize, key), layout)
        if kind == _BOOL:
            if values.size and int(values.max()) > 1:
                at = start + int(np.argmax(values > 1))
                raise cursor.error(f"{key} holds a boolean that is neither 0 nor 1", "0 or 1", at)
            return tuple((values != 0).tolist())
        return tuple(values.tolist())

    def _boolean(self, value: float, key: str, start: int) -> bool:
        if value not in (0, 1):
            raise self._cursor.error(f"{key} is {value}, not a boolean", "0 or 1", start)
        return bool(value)


def _alignment(cursor: Cursor, metadata: dict[str, MetadataValue]) -> int:
    value = metadata.get("general.alignment", 32)
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not 8 <= value <= MAX_ALIGNMENT
        or value & (value - 1)
    ):
        allowed = f"a power of two from 8 to {MAX_ALIGNMENT}"
        raise cursor.error(f"general.alignment is {str(value)[:80]}", allowed)
    return value


def _tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, Tensor]:
    declared: dict[str, tuple[int, tuple[int, ...], str, int, int]] = {}
    unknown: dict[int, list[str]] = {}  # type number → tensors
    for index in range(count):
        start = cursor.offset
        name = cursor.text(MAX_NAME_BYTES, f"the name of tensor {index}")
        if not name or _UNPRINTABLE.search(name):
            raise cursor.error(f"the name of tensor {index} is empty or not printable: {name!r}", None, start)
        if name in declared:
            raise cursor.error(f"tensor {name!r} appears twice", None, start)
        declared[name] = (start, *_extent(cursor, name, unknown))
    if unknown:
        raise _unknown_types(cursor, unknown)
    data = -(-cursor.offset // alignment) * alignment
    tensors = {}
    for name, (start, shape, kind, offset, nbytes) in declared.items():
        if offset % alignment:
            raise cursor.error(
                f"tensor {name!r} begins at {offset} of the data", f"a multiple of {alignment}", start
            )
        if data + offset + nbytes > cursor.size:
            raise cursor.error(
                f"tensor {name!r} ends at byte {data + offset + nbytes}, beyond the end of the file",
                f"at most {cursor.size}",
                start,
            )
        tensors[name] = Tensor(name, shape, kind, cursor.path, data + offset, nbytes)
    end, before = data, ""
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise cursor.error(f"tensors {before!r} and {tensor.name!r} overlap", None, tensor.offset)
        end, before = tensor.offset + tensor.nbytes, tensor.name
    return tensors


def _unknown_types(cursor: Cursor, unknown: dict[int, list[str]]) -> EngineError:
    """One error for all tensors of types that this version does not know."""
    count = sum(map(len, unknown.values()))
    types = "; ".join(
        f"tensor type {code} is not known to this version of engine "
        f"({len(names)} tensor{'s' * (len(names) != 1)}, {names[0]!r} first)"
        for code, names in sorted(unknown.items())[:4]
    )
    return EngineError(
        "tensor_type_unknown",
        types + (f"; {count} tensors in all" if len(unknown) > 1 else ""),
        path=str(cursor.path),
        allowed=", ".join(kind.name.lower() for kind in _TYPES.values()),
        hint="update engine and the gguf package, or fetch the model in another quantization",
        exit_code=EXIT_MODEL,
    )


def _extent(
    cursor: Cursor, name: str, unknown: dict[int, list[str]]
) -> tuple[tuple[int, ...], str, int, int]:
    """Shape (outermost first), type, offset in the data, and size in bytes of one tensor.

    A type that a newer version may know is noted in ``unknown``; its size is not known either.
    """
    start = cursor.offset
    rank = cursor.u32(f"the dimensions of {name}")
    if not 1 <= rank <= MAX_DIMENSIONS:
        raise cursor.error(f"tensor {name!r} has {rank} dimensions", f"1 to {MAX_DIMENSIONS}", start)
    extents = struct.unpack(f"<{rank}Q", cursor.take(8 * rank, f"the dimensions of {name}"))
    kind_at = cursor.offset
    code = cursor.u32(f"the type of {name}")
    kind = _TYPES.get(code)
    if kind is None and code < MAX_TYPE:
        cursor.u64(f"the offset of {name}")
        unknown.setdefault(code, []).append(name)
        return (), "", 0, 0
    if kind is None:
        known = ", ".join(f"{code} {each.name}" for code, each in _TYPES.items())
        raise cursor.error(f"tensor {name!r} has an unknown type", known, kind_at)
    offset = cursor.u64(f"the offset of {name}")
    block, block_bytes = GGML_QUANT_SIZES[kind]
    elements = 1
    for extent in extents:
        elements *= extent  # Python integers do not overflow; the file's size bounds them below
    if elements == 0 or extents[0] % block:
        allowed = f"dimensions of at least 1, the first a multiple of {block}"
        raise cursor.error(f"tensor {name!r} of type {kind.name} is {extents}", allowed, start)
    nbytes = elements // block * block_bytes
    if nbytes > cursor.size or offset > cursor.size:
        raise cursor.error(
            f"tensor {name!r} declares {nbytes} bytes at {offset} of the data",
            f"inside the file of {cursor.size} bytes",
            start,
        )
    return tuple(reversed(extents)), kind.name.lower(), offset, nbytes
