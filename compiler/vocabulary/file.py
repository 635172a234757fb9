"""The vocabulary of a GGUF file, from its header alone: no tensor is read, no digest computed."""

from __future__ import annotations

import os
from pathlib import Path

from compiler.model.header import read_header
from compiler.vocabulary.read import read_vocabulary
from compiler.vocabulary.serialize import tokenizer_json, vocabulary_json
from runtime.errors import EXIT_MODEL, EngineError


def vocabulary_of_file(path: Path) -> dict[str, bytes]:
    """As :func:`compiler.vocabulary.build_vocabulary`; of a split model, ``path`` is the first part.

    Raises EngineError: ``model_unreadable``, ``bad_gguf``, ``vocabulary_*``.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError(2, "there is no such file")
        with path.open("rb") as file:
            header = read_header(path, file.fileno(), os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise EngineError(
            "model_unreadable", f"cannot be read: {error.strerror}", str(path), exit_code=EXIT_MODEL
        ) from error
    vocabulary = read_vocabulary(header.metadata)
    return {"tokenizer.json": tokenizer_json(vocabulary), "vocabulary.json": vocabulary_json(vocabulary)}
