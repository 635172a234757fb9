"""A plan as declared: checked against the schema, nothing resolved yet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runtime.bundle.modelindex import is_store_name, model_label


@dataclass(frozen=True)
class Plan:
    """What a plan's author wrote.

    ``values`` maps paths (``limits.max_tokens``) to declared values; what was not
    declared is absent. ``source`` is how errors name the plan, ``base_dir`` the folder
    that its relative paths start from.
    """

    source: str
    base_dir: Path
    default_name: str
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The declared name, or the file's."""
        return str(self.values.get("name", self.default_name))

    @property
    def model(self) -> str:
        """The model as declared: a path or a name in the model store."""
        return str(self.values["model"])

    @property
    def backend(self) -> str:
        return str(self.values["backend"])

    @property
    def recipe(self) -> str:
        return str(self.values["quantization.recipe"])

    @property
    def model_is_path(self) -> bool:
        """Whether ``model`` can only be a path, whatever the store holds."""
        return is_model_path(self.model)

    @property
    def model_label(self) -> str:
        """The model's name without folders, suffix and part numbers: ``storyteller-f16``."""
        return model_label(self.model)

    def to_document(self) -> dict[str, Any]:
        """The plan as a tree that the schema accepts; loading it gives this plan again."""
        document: dict[str, Any] = {}
        for path, value in self.values.items():
            group, _, leaf = path.rpartition(".")
            (document.setdefault(group, {}) if group else document)[leaf] = value
        if list(document["quantization"]) == ["recipe"]:
            document["quantization"] = document["quantization"]["recipe"]
        return document

    def to_yaml(self, folder: Path) -> str:
        """The plan as YAML to be saved in ``folder``, its relative paths adapted to it."""
        document = self.to_document()
        document.setdefault("name", self.name)
        if self.model_is_path:
            document["model"] = _moved(self.model, self.base_dir, folder)
        if isinstance(document["quantization"], dict) and document["quantization"].get("imatrix"):
            imatrix = document["quantization"]["imatrix"]
            document["quantization"]["imatrix"] = _moved(imatrix, self.base_dir, folder)
        order = ["version", "name", "model", "backend", "quantization", "scheduler_policy"]
        document = {key: document[key] for key in [*order, *document] if key in document}
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def is_model_path(model: str) -> bool:
    """Whether ``model`` is spelled as a path: no store name has a ``/`` or ends in ``.gguf``."""
    return not is_store_name(model)


def is_file(path: Path) -> bool:
    """Whether there is such a file; one that may not be looked at, or no path at all, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def plan_path(base_dir: Path, path: str) -> Path:
    """A path of a plan, from the plan's folder; ``~`` stands for a home as in a shell."""
    try:
        return (base_dir / Path(path).expanduser()).absolute()
    except RuntimeError:  # ~name of nobody
        return (base_dir / path).absolute()


def _moved(path: str, old: Path, new: Path) -> str:
    if Path(path).is_absolute() or path.startswith("~"):
        return path
    return os.path.relpath(old / path, new)
