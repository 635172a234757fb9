"""From what the user named (a plan, a bundle, flags) to a bundle that can be opened.

A plan is compiled only where no bundle of it exists that this engine built from the
same model. Finding that out takes no compiler: :mod:`runtime.bundle.shortcut`
remembers which bundle a plan's file led to, as long as nothing it depends on changed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.bundle import shortcut, store
from runtime.bundle.reader import Bundle, is_bundle, open_bundle
from runtime.cli.flags import Made, usage, with_quantization
from runtime.cli.output import Progress, note, progress_bars
from runtime.errors import EXIT_USAGE, EngineError


@dataclass(frozen=True)
class Named:
    """What a command line names: a plan or a bundle, or a model and the plan that flags make for it."""

    target: str
    document: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, target: str | None, made: Made, command: str) -> Named:
        """Raises ``usage`` unless one thing is named, and where flags that make a plan stand beside one;
        ``invalid_plan`` if they would make none."""
        if target is not None and is_gguf(target) and made.model is None:
            return cls(target, made.document(target))
        if (target is None) == (made.model is None):
            raise usage(
                "name a plan, a bundle or a model's file, or give --model (not both)",
                f"engine {command} storyteller-q4" + (" --prompt TEXT" if command == "run" else ""),
            )
        if target is None:
            return cls(str(made.model), made.document())
        if words := made.words():
            model = _model_of(target)
            _judge(made.document(model))  # a hint with a value that nobody has would not work
            what = f"engine {command} --model {shlex.quote(model)} {' '.join(words)}"
            raise usage(
                f"{', '.join(word.split()[0] for word in words)}: makes a plan where there is none, "
                f"and {target} is one",
                what + (" --prompt TEXT" if command == "run" else ""),
            )
        return cls(target)

    def bundle(self, *, quiet: bool = False) -> Bundle:
        """The checked bundle, compiled first if it has to be."""
        if self.document is None:
            return bundle_of(self.target, quiet=quiet)
        return bundle_of_document(self.document, quiet=quiet)

    def declared(self) -> dict[str, Any]:
        """The plan that the flags made, whole."""
        return with_quantization(self.document or {}, quiet=True)


def _judge(document: Mapping[str, Any]) -> None:
    """Raises ``invalid_plan`` for what no plan may say; the model's file is not looked at."""
    from compiler.plan import plan_from_mapping

    plan_from_mapping({"quantization": "source", **document}, Path())


def is_gguf(target: str) -> bool:
    """Whether ``target`` is the file of a model, by its name or its first bytes."""
    if target.endswith(".gguf"):
        return True
    try:
        with Path(target).expanduser().open("rb") as file:
            return file.read(4) == b"GGUF"
    except (OSError, ValueError, RuntimeError):
        return False


def _model_of(target: str) -> str:
    """The model of a plan or a bundle, as a command line names it."""
    try:
        if is_bundle(path := Path(target).expanduser()):
            return open_bundle(path).plan.model
        from compiler.plan import load_plan, locate_model

        path = locate_model(load_plan(target))
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    except EngineError:
        return "FILE"


def bundle_of(target: str, *, quiet: bool = False) -> Bundle:
    """The checked bundle that ``target`` names, compiled first if it has to be.

    ``target``: the folder of a bundle, the name of one in the store
    (``name-digest12``), a plan's file, the name of a bundled plan, or a model's file,
    for which a plan is made. A plan whose bundle is damaged is compiled again, which mends it.
    """
    if is_gguf(target):
        return bundle_of_document(Made().document(target), quiet=quiet)
    try:
        path = Path(target).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, not permitted, ~name of nobody
        reason = getattr(error, "strerror", None) or str(error)
        raise EngineError(
            "unknown_plan",
            f"{target[:80]!r} cannot be looked up: {reason}",
            allowed="a plan's file or name, or a bundle's folder",
            exit_code=EXIT_USAGE,
        ) from error
    if is_bundle(path):
        return open_bundle(path)
    if "/" not in target and is_bundle(stored := store.bundles_dir() / target):
        return open_bundle(stored)
    if path.is_dir():
        raise EngineError(
            "bundle_not_found",
            "the folder holds no bundle",
            path=target,
            allowed="a plan's file or name, or a bundle's folder",
            exit_code=EXIT_USAGE,
        )
    key = shortcut.key_of_file(path if path.is_file() else _bundled(target))
    return _recalled(key) or _compiled(target, key, quiet)


def bundle_of_document(document: Mapping[str, Any], *, quiet: bool = False) -> Bundle:
    """As :func:`bundle_of`, for a plan given by flags; relative paths start from here.

    Without ``quantization``, the model's file suggests one, when the plan is compiled.
    """
    key = shortcut.key_of_document(document, Path.cwd())
    return _recalled(key) or _compiled(with_quantization(document, quiet=quiet), key, quiet)


def _bundled(name: str) -> Path:
    """The file of a bundled plan, or a name that leads to the compiler's own error message."""
    folder = Path(__file__).resolve().parents[2] / "plans"
    return folder / f"{name.removesuffix('.yaml')}.yaml"


def remember_compiled(plan: str, bundle: Path) -> None:
    """Notes which bundle a plan's file or name led to, for the next run of it."""
    path = Path(plan).expanduser()
    key = shortcut.key_of_file(path if path.is_file() else _bundled(plan))
    if key is not None:
        shortcut.remember(key, bundle, model_files(plan))


def _recalled(key: str | None) -> Bundle | None:
    """The bundle that the plan led to last time, if nothing has changed since."""
    if key is not None and (known := shortcut.recall(key)) is not None:
        try:
            return open_bundle(known)
        except EngineError as error:
            note(f"note: {error}; compiling again")
    return None


def _compiled(plan: str | dict[str, Any], key: str | None, quiet: bool) -> Bundle:
    with progress_bars(not quiet) as progress:
        path = _compile(plan, progress)
    bundle = open_bundle(path)
    if key is not None:
        shortcut.remember(key, path, model_files(plan))
    return bundle


def _compile(plan: str | dict[str, Any], progress: Progress | None) -> Path:
    from compiler import compile_plan

    return compile_plan(plan, progress=progress)


def model_files(plan: str | dict[str, Any]) -> list[Path]:
    """Every file that the plan's bundle follows from, besides the plan itself."""
    from compiler.plan import load_plan, plan_files, plan_from_mapping

    return plan_files(load_plan(plan) if isinstance(plan, str) else plan_from_mapping(plan, Path.cwd()))
