"""Compilers: found in a stated order, run reproducibly, and their failures passed on."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from compiler.build import build_shared_object, load_tool_library, toolchain
from runtime.bundle import store
from runtime.errors import EngineError

SOURCES = {
    "sum.h": "#pragma GCC visibility push(default)\nint sum(int a, int b);\n#pragma GCC visibility pop\n",
    "sum.c": '#include "sum.h"\nstatic int helper(int a) { return a + __LINE__ * 0; }\n'
    "int hidden(int a) { return a; }\nint sum(int a, int b) { return helper(a) + b; }\n"
    "const char *where(void) { return __FILE__; }\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in SOURCES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    records = [build_shared_object(SOURCES, ["-O2"], tmp_path / name) for name in ("a.so", "b.so")]
    assert (tmp_path / "a.so").read_bytes() == (tmp_path / "b.so").read_bytes()
    assert records[0] == records[1]
    assert records[0].compiler in ("gcc", "clang", "zig cc")
    assert "-ffp-contract=off" in records[0].flags
    assert not any(os.sep + "tmp" in word for word in records[0].command)


def test_errors_carry_the_compilers_own_words(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        build_shared_object({"bad.c": "int f(void) { return undeclared_thing; }"}, [], tmp_path / "x.so")
    assert caught.value.code == "build_failed"
    assert caught.value.exit_code == 6
    assert "undeclared_thing" in caught.value.message
    assert not (tmp_path / "x.so").exists()


def test_no_compiler_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(toolchain, "_candidates", lambda: [("cc",), ("gcc",), ("clang",)])
    with pytest.raises(EngineError) as caught:
        toolchain.find_toolchain()
    assert caught.value.code == "compiler_not_found"
    assert caught.value.exit_code == 6
    assert "cc: not found" in caught.value.message


def test_cc_that_does_not_work_is_an_error_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("/nonexistent/cc", "false", "cat"):
        monkeypatch.setenv("CC", command)
        with pytest.raises(EngineError) as caught:
            toolchain.find_toolchain()
        assert caught.value.code == "compiler_failed"
        assert command in str(caught.value)


def test_cc_may_have_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", f"{shutil.which('gcc') or 'cc'} -O1")
    assert toolchain.find_toolchain().command[1:] == ("-O1",)


@pytest.mark.parametrize("name", ["/etc/x.c", "../x.c"])
def test_sources_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a name"):
        build_shared_object({name: "int x;"}, [], tmp_path / "x.so")


def test_tools_are_built_once_and_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = load_tool_library(folder, ["sum.c"], "int sum(int a, int b);")
    assert library.lib.sum(2, 3) == 5
    before = library.path.stat().st_mtime_ns
    assert load_tool_library(folder, ["sum.c"], "int sum(int, int);").path.stat().st_mtime_ns == before
    (folder / "sum.h").write_text(SOURCES["sum.h"] + "\n")
    assert load_tool_library(folder, ["sum.c"], "int sum(int a, int b);").path != library.path


def test_a_planted_or_damaged_tool_is_not_loaded(folder: Path) -> None:
    (folder / "sum.c").write_text(SOURCES["sum.c"] + "/* another */\n")
    path = load_tool_library(folder, ["sum.c"], "int sum(int a, int b);").path
    clean = path.read_bytes()
    # Another file of that name: this process has the first one mapped, and calls into it when it unloads it.
    path.unlink()
    path.write_bytes(clean + b"damage")
    path.chmod(0o500)
    load_tool_library(folder, ["sum.c"], "int sum(int a, int b); ")  # another cdef: opened anew
    assert path.read_bytes() == clean
    path.chmod(0o722)
    with pytest.raises(EngineError) as caught:
        load_tool_library(folder, ["sum.c"], "int  sum(int a, int b);")
    assert caught.value.code == "not_trusted"
    path.chmod(0o500)
    assert stat.S_IMODE(store.tools_dir().stat().st_mode) == 0o700
