"""Where temporary files find no room, that is said, and not that there is no C compiler."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from compiler.build import build_shared_object, toolchain
from runtime.errors import EXIT_MACHINE, EngineError


@pytest.fixture(autouse=True)
def unremembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "")
    toolchain._find.cache_clear()


def compiler_that_says(complaint: str, folder: Path) -> str:
    """A program that names itself like a compiler and fails at whatever it is to compile."""
    script = folder / "made-cc"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec echo made 1\necho "{complaint}" >&2\nexit 1\n'
    )
    script.chmod(0o700)
    return str(script)


def refused(act, code: str) -> EngineError:
    with pytest.raises(EngineError) as caught:
        act()
    assert (caught.value.code, caught.value.exit_code) == (code, EXIT_MACHINE)
    assert "TMPDIR" in str(caught.value.hint)
    return caught.value


def test_a_temporary_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    working = toolchain.find_toolchain()
    toolchain._find.cache_clear()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    for act in (
        toolchain.find_toolchain,
        lambda: build_shared_object({"a.c": "int a;"}, [], tmp_path / "a.so", working),
    ):
        assert refused(act, "no_temporary_files").path == str(tmp_path / "gone")


@pytest.mark.parametrize(
    "complaint", ["/tmp/ccX.s: No space left on device", "ld: final link failed: Disk quota exceeded"]
)
def test_a_compiler_without_room_for_its_own(
    complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = compiler_that_says(complaint, tmp_path)
    monkeypatch.setenv("CC", command)
    refused(toolchain.find_toolchain, "no_temporary_files")
    made = toolchain.Toolchain((command,), "made", "1")
    refused(lambda: build_shared_object({"a.c": "int a;"}, [], tmp_path / "a.so", made), "no_temporary_files")
