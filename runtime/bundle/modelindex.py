"""The model store's index, as read by all who turn a model's name into a file.

One JSON file a name in ``$XDG_DATA_HOME/engine/models`` (default
``~/.local/share/engine/models``). Only :mod:`runtime.shelf.models` writes there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from runtime.bundle.store import check_trusted
from runtime.errors import EXIT_MODEL, EngineError

#: A name in the store. It cannot be mistaken for a path: no ``/`` and no ``.gguf`` at the end.
STORE_NAME = re.compile(r"(?!.*\.gguf\Z)[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")

#: ``<name>-00001-of-00003.gguf``: part 1 of 3 of a split model.
PART = re.compile(r"(?P<stem>.+)-(?P<part>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")

_LARGEST_ENTRY = 1 << 20


@dataclass(frozen=True)
class StoredModel:
    """One model of the store.

    ``path`` is the file, or the first part of a split one; ``size`` counts all parts,
    in bytes; ``digest`` is the SHA-256 of the content; ``modified`` is the newest
    part's, in nanoseconds since the epoch; ``about`` is what the file says of itself
    (architecture, parameters, context length, tensor types …), for people to read.
    """

    name: str
    path: Path
    digest: str
    size: int
    modified: int
    source: str | None
    about: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As stored, and as ``--json`` shows it."""
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "path": str(self.path)}

    @classmethod
    def from_json(cls, body: Any) -> StoredModel:
        """The inverse of :meth:`to_json`; raises ValueError unless every field has its type."""
        if not isinstance(body, dict) or set(body) != {f.name for f in fields(cls)}:
            raise ValueError("not a model's entry")
        kinds = {"name": str, "path": str, "digest": str, "size": int, "modified": int, "about": dict}
        for key, kind in kinds.items():
            if not isinstance(body[key], kind):
                raise ValueError(f"{key} has the wrong type")
        if body["source"] is not None and not isinstance(body["source"], str):
            raise ValueError("source has the wrong type")
        if (
            STORE_NAME.fullmatch(body["name"]) is None
            or re.fullmatch(r"[0-9a-f]{64}", body["digest"]) is None
        ):
            raise ValueError("name or digest is malformed")
        return cls(**{**body, "path": Path(body["path"])})


def store_folder() -> Path:
    """Where the index lies; it may not exist yet."""
    base = os.environ.get("XDG_DATA_HOME")
    data = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "share"
    return data / "engine" / "models"


def entry_path(name: str) -> Path:
    """Where the entry of a store name lies, whether or not it exists."""
    return store_folder() / f"{name}.json"


def is_store_name(text: str) -> bool:
    """Whether ``text`` could be a name in the store, and so is not spelled as a path."""
    return STORE_NAME.fullmatch(text) is not None


def stored_model(name: str) -> StoredModel | None:
    """The entry of that name, or None; raises ``bad_model_entry`` where the entry is damaged."""
    if STORE_NAME.fullmatch(name) is None:
        return None
    path = entry_path(name)
    try:
        with path.open("rb") as file:
            check_trusted(os.fstat(file.fileno()), path)
            model = StoredModel.from_json(json.loads(file.read(_LARGEST_ENTRY)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(
            "bad_model_entry",
            f"the model store's entry for {name!r} cannot be read: {error}",
            path=str(path),
            hint=f"`engine models remove {name}`, then add it again",
            exit_code=EXIT_MODEL,
        ) from error
    if model.name != name:
        raise EngineError(
            "bad_model_entry",
            f"the model store's entry for {name!r} says it is {model.name!r}",
            path=str(path),
            hint=f"`engine models remove {name}`, then add it again",
            exit_code=EXIT_MODEL,
        )
    return model


def stored_names() -> tuple[str, ...]:
    """All names in the store, sorted."""
    names = (path.name.removesuffix(".json") for path in store_folder().glob("*.json"))
    return tuple(sorted(name for name in names if STORE_NAME.fullmatch(name)))


def model_label(model: str) -> str:
    """A model's name for people: no folders, no suffix, no part number (``llama3-8b``)."""
    name = Path(model).name
    if (part := PART.fullmatch(name)) is not None:
        return part["stem"][:255]
    return (name.removesuffix(".gguf") or name)[:255]
