"""The bundle's manifest: what it must say, and its canonical bytes.

A bundle is a directory::

    manifest.json     this module
    plan.json         the resolved plan: every value with its origin
    graph.txt         the graph the code was emitted from, one line a node
    kernels/*.c *.h   the emitted C
    engine.so         built from it (C ABI: kernels_c/include/engine_abi.h)
    weights.bin       packed weights, mapped
    tokenizer.json, vocabulary.json

``manifest.json`` names every other file with its size and digest; the
bundle's own digest is the SHA-256 of ``manifest.json``. Everything in it
follows from the inputs and the toolchain: no date, no path, no host name.

Digests. A file of at most :data:`CHUNK_BYTES` has the SHA-256 of its bytes. A
larger one is cut into pieces of ``CHUNK_BYTES`` and has the SHA-256 of the
pieces' SHA-256 digests, one after the other (binary), so that weights can be
checked by several threads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.bundle.plan import canonical_json
from runtime.errors import EXIT_BUNDLE, EngineError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PLAN = "plan.json"
GRAPH = "graph.txt"
SHARED_OBJECT = "engine.so"
WEIGHTS = "weights.bin"
TOKENIZER = "tokenizer.json"
VOCABULARY = "vocabulary.json"
KERNELS_DIR = "kernels"

#: Piece of a large file that is digested on its own, bytes.
CHUNK_BYTES = 16 << 20
#: No manifest of ours comes near this; a larger one is not read.
MAX_MANIFEST_BYTES = 64 << 20


def sha256_hex(data: bytes) -> str:
    """SHA-256 of ``data`` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and digest (hex, see above) of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class TensorEntry:
    """How one tensor of the model lies in ``weights.bin``, and why in that type.

    ``shape`` outermost first; ``source_type`` and ``type`` are lower-case GGML
    names; ``offset`` and ``nbytes`` of the packed form; ``reason`` is a sentence.
    """

    name: str
    shape: tuple[int, ...]
    source_type: str
    type: str
    reason: str
    offset: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class CompilerEntry:
    """The C compiler that built ``engine.so``."""

    name: str
    version: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """``manifest.json``, checked.

    ``builder`` is a digest of the compiler package's own sources, so that a
    changed engine does not take an older engine's bundle for its own.
    ``details`` holds what readers show but the runtime does not act on (numbers
    of parameters, memory plan, …).
    """

    name: str
    engine_version: str
    builder: str
    plan_digest: str
    model_name: str
    model_digest: str
    architecture: str
    backend: str
    quantization: str
    cpu_features: tuple[str, ...]
    compiler: CompilerEntry
    files: Mapping[str, FileEntry]
    tensors: tuple[TensorEntry, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the manifest."""
        return {
            "format": self.format,
            "name": self.name,
            "engine_version": self.engine_version,
            "builder": self.builder,
            "plan_digest": self.plan_digest,
            "model": {
                "name": self.model_name,
                "digest": self.model_digest,
                "architecture": self.architecture,
            },
            "backend": self.backend,
            "quantization": self.quantization,
            "cpu_features": list(self.cpu_features),
            "compiler": {
                "name": self.compiler.name,
                "version": self.compiler.version,
                "flags": list(self.compiler.flags),
            },
            "files": {
                name: {"size": entry.size, "sha256": entry.sha256} for name, entry in self.files.items()
            },
            "tensors": [
                {
                    "name": tensor.name,
                    "shape": list(tensor.shape),
                    "source_type": tensor.source_type,
                    "type": tensor.type,
                    "reason": tensor.reason,
                    "offset": tensor.offset,
                    "nbytes": tensor.nbytes,
                }
                for tensor in self.tensors
            ],
            "details": dict(self.details),
        }

    def to_bytes(self) -> bytes:
        """The bytes of ``manifest.json``."""
        return canonical_json(self.to_json()) + b"\n"


def is_member_name(name: str) -> bool:
    """Whether ``name`` can be a file of a bundle: relative, plain, at most one folder deep."""
    parts = name.split("/")
    plain = all(
        part and not part.startswith(".") and part.isascii() and part.isprintable() and "\\" not in part
        for part in parts
    )
    return plain and len(parts) <= 2 and name != MANIFEST


def bundle_notes(details: Mapping[str, Any]) -> tuple[str, ...]:
    """What a manifest's ``details`` say is worth knowing of the model's file."""
    notes = details.get("notes")
    return tuple(str(text) for text in notes) if isinstance(notes, list | tuple) else ()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """``manifest.json`` → :class:`Manifest`; ``where`` names the file in errors.

    Raises ``bundle_damaged`` for anything that a writer of this format would
    not have written, ``bundle_format`` for a format of another version.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as cause:
        raise _damaged(where, f"is not JSON ({cause})") from None
    if not isinstance(body, dict):
        raise _damaged(where, "is not a JSON object")
    if body.get("format") != FORMAT_VERSION:
        raise EngineError(
            "bundle_format",
            f"the bundle is of format {body.get('format')!r}",
            path=where,
            allowed=f"format {FORMAT_VERSION}",
            hint="compile the plan again with this engine",
            exit_code=EXIT_BUNDLE,
        )
    read = _Fields(body, where)
    model, compiler = _Fields(read.object("model"), where), _Fields(read.object("compiler"), where)
    files: dict[str, FileEntry] = {}
    for name, raw in read.object("files").items():
        if not is_member_name(name):
            raise _damaged(where, f"names a file {name!r} that cannot be part of a bundle")
        entry = _Fields(raw, where)
        files[name] = FileEntry(entry.integer("size"), entry.digest("sha256"))
    for name in (PLAN, SHARED_OBJECT, WEIGHTS):
        if name not in files:
            raise _damaged(where, f"does not list {name}")
    return Manifest(
        name=read.text("name"),
        engine_version=read.text("engine_version"),
        builder=read.text("builder"),
        plan_digest=read.digest("plan_digest"),
        model_name=model.text("name"),
        model_digest=model.digest("digest"),
        architecture=model.text("architecture"),
        backend=read.text("backend"),
        quantization=read.text("quantization"),
        cpu_features=read.texts("cpu_features"),
        compiler=CompilerEntry(compiler.text("name"), compiler.text("version"), compiler.texts("flags")),
        files=files,
        tensors=tuple(_tensor(_Fields(raw, where)) for raw in read.array("tensors")),
        details=read.object("details"),
    )


def _tensor(entry: _Fields) -> TensorEntry:
    shape = entry.array("shape")
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape):
        raise entry.wrong("shape", "a list of sizes")
    return TensorEntry(
        name=entry.text("name"),
        shape=tuple(shape),
        source_type=entry.text("source_type"),
        type=entry.text("type"),
        reason=entry.text("reason"),
        offset=entry.integer("offset"),
        nbytes=entry.integer("nbytes"),
    )


def _damaged(where: str, what: str) -> EngineError:
    return EngineError(
        "bundle_damaged",
        f"the manifest {what}",
        path=where,
        hint="compile the plan again",
        exit_code=EXIT_BUNDLE,
    )


class _Fields:
    """Typed access to a JSON object; anything unexpected is ``bundle_damaged``."""

    def __init__(self, body: object, where: str) -> None:
        self._where = where
        if not isinstance(body, dict):
            raise _damaged(where, "holds something else where an object belongs")
        self._body: dict[str, Any] = body

    def wrong(self, key: str, expected: str) -> EngineError:
        return _damaged(self._where, f"lacks {key!r}, or it is not {expected}")

    def text(self, key: str) -> str:
        value = self._body.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def digest(self, key: str) -> str:
        value = self.text(key)
        if len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise self.wrong(key, "a SHA-256 in hex")
        return value

    def integer(self, key: str) -> int:
        value = self._body.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.wrong(key, "a count")
        return value

    def array(self, key: str) -> list[Any]:
        value = self._body.get(key)
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.array(key)
        if not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "a list of texts")
        return tuple(value)

    def object(self, key: str) -> dict[str, Any]:
        value = self._body.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return value
