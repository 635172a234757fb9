"""Split models: one model in several files, ``<name>-00001-of-00003.gguf`` and so on."""

from __future__ import annotations

from pathlib import Path

from runtime.bundle.modelindex import PART
from runtime.errors import EXIT_MODEL, EngineError

MAX_PARTS = 1024


def model_parts(path: Path) -> list[Path]:
    """All parts of a split model in order, or the one file; raises ``model_part_missing``."""
    match = PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    if not 1 <= int(match["part"]) <= count <= MAX_PARTS:
        raise EngineError(
            "bad_gguf",
            f"part {int(match['part'])} of {count} cannot be",
            path=str(path),
            allowed=f"1 to {MAX_PARTS} parts",
            exit_code=EXIT_MODEL,
        )
    paths = [path.with_name(f"{match['stem']}-{part:05}-of-{count:05}.gguf") for part in range(1, count + 1)]
    if missing := [part.name for part in paths if not part.exists()]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise EngineError(
            "model_part_missing",
            f"the split model lacks {missing[0]}{more}",
            path=str(path),
            hint="put all parts into one folder",
            exit_code=EXIT_MODEL,
        )
    return paths
