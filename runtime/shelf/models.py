"""The model store: names for GGUF files, with what is known of each.

The store holds no weights. An entry says which file a name stands for and the digest
of its content, so that a plan can say ``model: llama3-8b`` and a record can say
exactly which bytes that was. Entries are written whole or not at all; reading them
is :mod:`runtime.bundle.modelindex`, which all rooms share.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.bundle.modelindex import (
    StoredModel,
    entry_path,
    is_store_name,
    model_label,
    store_folder,
    stored_model,
    stored_names,
)
from runtime.bundle.spelling import did_you_mean
from runtime.bundle.store import file_error
from runtime.errors import EXIT_MODEL, EXIT_USAGE, EngineError


def list_models() -> tuple[StoredModel, ...]:
    """All entries, by name; raises ``bad_model_entry`` for a damaged one."""
    return tuple(model for name in stored_names() if (model := stored_model(name)) is not None)


def get_model(name: str) -> StoredModel:
    """The entry of that name; raises ``unknown_model`` with the nearest name."""
    if (model := stored_model(name)) is not None:
        return model
    names = stored_names()
    raise EngineError(
        "unknown_model",
        f"the model store has no {name!r}",
        allowed=", ".join(names) or "nothing yet",
        hint=did_you_mean(name, names) or "`engine models add FILE`, or `engine models pull hf:OWNER/REPO`",
        exit_code=EXIT_MODEL,
    )


def store_name(path: Path, name: str | None = None) -> str:
    """``name``, or the name that the file suggests; raises ``bad_model_name``."""
    wanted = model_label(path.name) if name is None else name
    if name is None:
        wanted = "".join(c if c.isascii() and (c.isalnum() or c in "._+-") else "-" for c in wanted)
        wanted = wanted.lstrip("._+-")[:128]
    if not is_store_name(wanted):
        raise EngineError(
            "bad_model_name",
            f"{wanted!r} cannot be a name in the model store",
            allowed="letters, digits and . _ + - (at most 128, a letter or digit first, no .gguf at the end)",
            hint="choose one with --name",
            exit_code=EXIT_USAGE,
        )
    return wanted


def add_model(
    path: Path,
    digest: str,
    about: Mapping[str, Any],
    *,
    name: str | None = None,
    source: str | None = None,
    overwrite: bool = False,
) -> StoredModel:
    """Gives the model at ``path`` (the first part of a split one) a name.

    ``about`` is the compiler's summary (``files`` with name and size among it). A name
    that stands for the same content moves to the new path; for other content it raises
    ``model_exists`` unless ``overwrite``.
    """
    path = path.absolute()
    files = [path.with_name(part["name"]) for part in about["files"]]
    try:
        modified = max(file.stat().st_mtime_ns for file in files)
    except OSError as error:
        raise file_error(error, path) from error
    model = StoredModel(
        name=store_name(path, name),
        path=path,
        digest=digest,
        size=sum(part["size"] for part in about["files"]),
        modified=modified,
        source=source,
        about=dict(about),
    )
    _write(model, overwrite)
    return model


def remove_model(name: str) -> StoredModel | None:
    """Forgets a name; the model's file stays. Returns the entry, or None for a damaged one.

    Raises ``unknown_model``.
    """
    model: StoredModel | None
    try:
        model = get_model(name)
    except EngineError as error:
        if error.code != "bad_model_entry":
            raise
        model = None
    path = entry_path(name)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise file_error(error, path) from error
    return model


def is_present(model: StoredModel) -> bool:
    """Whether all files of the entry are there in the size that was recorded."""
    try:
        return all(
            model.path.with_name(part["name"]).stat().st_size == part["size"] for part in model.about["files"]
        )
    except (OSError, KeyError, TypeError):
        return False


def _write(model: StoredModel, overwrite: bool) -> None:
    folder = store_folder()
    target = entry_path(model.name)
    data = json.dumps(model.to_json(), sort_keys=True, indent=1, ensure_ascii=False).encode()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, written = tempfile.mkstemp(dir=folder, prefix=".writing-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                os.replace(written, target)
            else:
                _link_new(Path(written), target, model)
        finally:
            Path(written).unlink(missing_ok=True)
    except OSError as error:
        raise file_error(error, target) from error


def _link_new(written: Path, target: Path, model: StoredModel) -> None:
    """Puts the entry in place unless another content has the name, whoever else is writing."""
    try:
        os.link(written, target)
        return
    except FileExistsError:
        present = stored_model(model.name)
    if present is not None and present.digest == model.digest:
        kept = model if model.source is not None else replace(model, source=present.source)
        written.write_text(json.dumps(kept.to_json(), sort_keys=True, indent=1, ensure_ascii=False))
        os.replace(written, target)
        return
    other = f" ({present.path})" if present is not None else ""
    raise EngineError(
        "model_exists",
        f"the name {model.name!r} already stands for other content{other}",
        path=str(target),
        hint="choose another with --name, or --replace it",
        exit_code=EXIT_MODEL,
    )
