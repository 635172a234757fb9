"""The plan's weights as an ordinary GGUF, for other programs.

Every key of the model's metadata is copied as it is, except what describes the file itself: its parts, its
type and the version of the quantization. The tensors keep their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.constants import GGML_QUANT_VERSION

from compiler.formats import FORMATS
from compiler.formats.parts.record import Bytes
from compiler.model.description import ModelDescription
from compiler.model.reader import open_rows
from compiler.quantize import encode
from compiler.quantize.imatrix import ImportanceMatrix
from compiler.quantize.recipes import TensorType
from compiler.quantize.stream import Piece, ordered_map, pieces
from runtime.bundle import store
from runtime.errors import EXIT_USAGE, EngineError

#: Called with (bytes written, bytes in all, name of the tensor).
Progress = Callable[[int, int, str], None]

_OWN_KEYS = ("GGUF.", "split.", "general.architecture", "general.quantization_version", "general.alignment")
_ALIGNMENT = 32


def export_gguf(
    model: ModelDescription,
    types: Sequence[TensorType],
    recipe: str,
    path: Path,
    progress: Progress | None = None,
    *,
    importance: ImportanceMatrix | None = None,
    threads: int = 2,
) -> int:
    """Writes the model with the decided types as one GGUF at ``path``; its size in bytes.

    The file appears whole or not at all; an earlier one is replaced. Raises ``output_is_the_model`` if
    ``path`` is a file of the model, and what encoding and writing raise.
    """
    if path.exists() and any(path.samefile(part) for part, _ in model.files):
        raise EngineError(
            "output_is_the_model",
            "the output would replace the model that is being read",
            path=str(path),
            hint="give -o another name",
            exit_code=EXIT_USAGE,
        )
    encode.library()
    with store.replacing(path) as draft:
        return _write(model, types, recipe, draft, progress, importance, threads)


def _write(
    model: ModelDescription,
    types: Sequence[TensorType],
    recipe: str,
    draft: Path,
    progress: Progress | None,
    importance: ImportanceMatrix | None,
    threads: int,
) -> int:
    writer = GGUFWriter(draft, model.architecture)
    try:
        _copy_metadata(writer, model.path, recipe)
        sizes = {decided.name: _declare(writer, model, decided) for decided in types}
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        total, written = sum(sizes.values()), 0
        kinds = {decided.name: decided.type for decided in types}
        with open_rows(model) as rows:

            def encoded(piece: Piece) -> tuple[Piece, Bytes]:
                return piece, piece.encode(piece.read(rows), kinds[piece.tensor.name])

            for piece, blocks in ordered_map(encoded, _all_pieces(model, types, importance), threads):
                file.write(blocks.data)
                written += blocks.nbytes
                name = piece.tensor.name
                if _is_last(piece):
                    writer.write_padding(file, sizes[name])
                if progress is not None:
                    progress(written, total, name)
            rows.check_unchanged()
        return int(file.tell())
    finally:
        writer.close()


def _all_pieces(
    model: ModelDescription, types: Sequence[TensorType], importance: ImportanceMatrix | None
) -> Iterator[Piece]:
    for decided in types:
        yield from pieces(model.tensors[decided.name], importance)


def _is_last(piece: Piece) -> bool:
    rows = int(np.prod(piece.tensor.shape[:-1], dtype=np.int64))
    return piece.first_row + piece.end - piece.begin == rows


def _declare(writer: GGUFWriter, model: ModelDescription, decided: TensorType) -> int:
    """Adds the tensor's row to the file's table; its bytes."""
    shape = model.tensors[decided.name].shape
    row_bytes = FORMATS[decided.type].row_bytes(shape[-1])
    byte_shape = (*shape[:-1], row_bytes)
    nbytes = int(np.prod(byte_shape, dtype=np.int64))
    kind = GGMLQuantizationType[decided.type.upper()]
    writer.add_tensor_info(decided.name, byte_shape, np.dtype(np.uint8), nbytes, raw_dtype=kind)
    return nbytes


def _copy_metadata(writer: GGUFWriter, path: Path, recipe: str) -> None:
    file_type = _file_type(recipe)
    for field in GGUFReader(path).fields.values():
        if field.name.startswith(_OWN_KEYS) or (field.name == "general.file_type" and file_type is not None):
            continue
        kind = GGUFValueType(field.types[0])
        if kind == GGUFValueType.ARRAY:
            element = GGUFValueType(field.types[-1])
            writer.add_key_value(field.name, _items(field, element), kind, sub_type=element)
        else:
            text = kind == GGUFValueType.STRING
            writer.add_key_value(field.name, field.parts[-1].tobytes() if text else field.contents(), kind)
    if file_type is not None:
        writer.add_file_type(file_type)

    writer.add_quantization_version(GGML_QUANT_VERSION)


def _items(field: Any, element: GGUFValueType) -> list[Any]:
    """An array's items; strings as their bytes, which need not be UTF-8."""
    if element == GGUFValueType.STRING:
        return [field.parts[index].tobytes() for index in field.data]
    return [value for index in field.data for value in field.parts[index].tolist()]


def _file_type(recipe: str) -> LlamaFileType | None:
    """``general.file_type`` of a recipe; None for those that have none of their own (``source``)."""
    for prefix in ("MOSTLY", "ALL"):
        if (kind := getattr(LlamaFileType, f"{prefix}_{recipe.upper()}", None)) is not None:
            return LlamaFileType(kind)
    return None
