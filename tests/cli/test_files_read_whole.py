"""Every file that is read whole is a regular file within a size; a device, a pipe or a folder is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from runtime.bundle import files
from tests.command import Engine

ROOT = Path(__file__).resolve().parents[2]

#: Commands with FILE where a file is named that is read whole.
COMMANDS = (
    ("run", "storyteller-q8", "--prompt-file", "FILE"),
    ("run", "storyteller-q8", "--messages", "FILE"),
    ("tokenize", "storyteller-q8", "--file", "FILE"),
    ("detokenize", "storyteller-q8", "--file", "FILE"),
    ("eval", "storyteller-q8", "--text", "FILE"),
    ("imatrix", "storyteller-q8", "--text", "FILE", "-o", "OUT"),
    ("serve", "storyteller-q8", "--api-key-file", "FILE"),
    ("plan", "validate", "FILE"),
    ("compile", "FILE"),
    ("run", "--model", "FILE", "--prompt", "x"),
    ("compile", "PLAN"),  # a plan with imatrix: FILE
)


@pytest.fixture(params=["device", "pipe", "folder"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What would be read without an end, or make a reader wait."""
    if request.param == "device":
        return Path("/dev/zero")
    path = tmp_path / "odd"
    if request.param == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command))
def test_what_is_no_regular_file_is_refused(
    engine: Engine, command: tuple[str, ...], odd: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"version: 1\nmodel: {ROOT}/plans/models/storyteller-f16.gguf\nbackend: reference\n"
        f"quantization: {{recipe: q4_k_m, imatrix: {odd}}}\n"
    )
    names = {"FILE": str(odd), "OUT": str(tmp_path / "out"), "PLAN": str(plan)}
    ran = engine(*(names.get(word, word) for word in command))
    assert ran.code in (2, 3, 4, 5), ran.err
    assert str(odd) in ran.err
    assert "Traceback" not in ran.err


def test_a_file_larger_than_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(files.MOST_TEXT + 1)
    with pytest.raises(OSError, match="at most"):
        files.read_whole(path)
    assert files.read_whole(path, files.MOST_TEXT + 1) == bytes(files.MOST_TEXT + 1)


def test_no_command_reads_a_named_file_past_the_bounds() -> None:
    """Paths that people name are read by ``runtime.bundle.files``; a new place must not go around it."""
    bare = re.compile(r"\.read_(text|bytes)\(")
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted((ROOT / "runtime" / "cli").glob("*.py"))
        for line in path.read_text().splitlines()
        if bare.search(line) and "files." not in line
    ]
    assert found == []
