"""The same plan with something else in one place, for commands that compare plans."""

from __future__ import annotations

from typing import Any

from runtime.bundle.reader import Bundle, is_bundle, open_bundle
from runtime.errors import EXIT_USAGE, EngineError


class Variants:
    """A plan as declared, and the bundles of its variations, compiled where they are missing."""

    def __init__(self, target: str, *, quiet: bool = False) -> None:
        from pathlib import Path

        from compiler import declare
        from compiler.plan import locate_imatrix, locate_model

        if is_bundle(Path(target)):
            name = open_bundle(Path(target)).manifest.name
            raise EngineError(
                "plan_needed",
                f"this compiles variations of a plan, and {target} is a bundle",
                allowed="a plan's file or name",
                hint=f"name the plan {name!r} was compiled from",
                exit_code=EXIT_USAGE,
            )
        self._plan = declare(target)
        self._quiet = quiet
        self.model_path = locate_model(self._plan)
        self._imatrix = locate_imatrix(self._plan)

    def document(self, **changes: Any) -> dict[str, Any]:
        """The plan's tree with top-level fields replaced; an object is merged into what is there."""
        tree = self._plan.to_document() | {"model": str(self.model_path.resolve())}
        tree.setdefault("name", self._plan.name)
        quantization = tree["quantization"]
        if isinstance(quantization, dict) and self._imatrix is not None:
            tree["quantization"] = quantization | {"imatrix": str(self._imatrix.resolve())}
        for key, value in changes.items():
            old = tree.get(key)
            tree[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        return tree

    def bundle(self, **changes: Any) -> Bundle:
        """The bundle of a variation."""
        from runtime.cli.target import bundle_of_document

        return bundle_of_document(self.document(**changes), quiet=self._quiet)
