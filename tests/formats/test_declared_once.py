"""A format is named where it is declared and nowhere else: one more touches nothing but its own files."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from compiler.formats import FORMATS
from tests.tiny_models import write_llama

ROOT = Path(__file__).resolve().parents[2]
QUANTIZED = [name for name, format in FORMATS.items() if format.quantized]

#: Recipes are tables from tensors to formats; the KV cache has an element type of the same name.
MAY_NAME = {
    "compiler/quantize/recipes.py": "recipes",
    "runtime/bundle/planfields.py": "the names of recipes, and the element types of the KV cache",
    "runtime/shelf/hub.py": "endings of files' names",
    "compiler/graph/states.py": "the element types of the KV cache",
    "kernels_c/reference/attention.c": "the element types of the KV cache",
    "kernels_c/simd/attention.c": "the element types of the KV cache",
    "kernels_c/tools/check_rows.c": "the element types of the KV cache",
}


def bears_a_name(path: Path) -> bool:
    return any(re.search(rf"(^|_){name}(_|\.)", path.name) for name in FORMATS)


def named_in_python(path: Path) -> Iterator[str]:
    """Strings that are a format's name, and identifiers that hold one."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        text = (
            node.value if isinstance(node, ast.Constant) else getattr(node, "id", getattr(node, "attr", ""))
        )
        if isinstance(text, str) and " " not in text:
            yield from (f"line {node.lineno}: {text}" for name in QUANTIZED if text.lower() == name)
            if not isinstance(node, ast.Constant):
                yield from (f"line {node.lineno}: {text}" for name in QUANTIZED if name in text.lower())


def named_in_c(path: Path) -> Iterator[str]:
    code = re.sub(r"/\*.*?\*/", "", path.read_text("utf-8"), flags=re.DOTALL)
    for name in QUANTIZED:
        yield from re.findall(rf"(?i)\w*(?<![a-z0-9]){name}(?![a-z0-9])\w*", code)


def test_code_outside_declarations_names_no_format() -> None:
    wrong = {}
    for room in ("compiler", "runtime", "kernels_c"):
        for path in (ROOT / room).rglob("*"):
            place = str(path.relative_to(ROOT))
            if place in MAY_NAME or bears_a_name(path) or not path.is_file():
                continue
            find = {".py": named_in_python, ".c": named_in_c, ".h": named_in_c, ".j2": named_in_c}.get(
                path.suffix
            )
            if find is not None and (found := list(find(path))):
                wrong[place] = found
    assert wrong == {}


def test_what_may_name_formats_does() -> None:
    """The list above is no longer than it must be."""
    for place in MAY_NAME:
        path = ROOT / place
        assert list((named_in_python if path.suffix == ".py" else named_in_c)(path)), place


def places_of(name: str) -> set[str]:
    """The files that HACKING says a format consists of."""
    text = (ROOT / "HACKING.md").read_text("utf-8").split("add a format.**")[1].split("**…")[0]
    patterns = re.findall(r"`([\w/]+<name>[\w.<>]*)`", text)
    files = {p.replace("<name>", name) for p in patterns}
    return {f.replace("<isa>", isa) for f in files for isa in FORMATS["q8_0"].panels}


def test_a_format_touches_the_places_that_hacking_lists_and_no_other(tmp_path: Path) -> None:
    """q8_demo, q8_0 under another name, in a copy of the sources: checked, encoded, packed, emitted."""
    for room in ("compiler", "kernels_c", "runtime", "plans"):
        ignore = shutil.ignore_patterns("__pycache__", "*.gguf")
        shutil.copytree(ROOT / room, tmp_path / room, ignore=ignore)
    places = places_of("q8_0")
    assert len(places) == 6 + len(FORMATS["q8_0"].panels)
    assert places == {
        str(p.relative_to(ROOT))
        for r in ("compiler", "kernels_c")
        for p in (ROOT / r).rglob("*q8_0*.[chpj]*")
    }
    for place in places:
        text = (tmp_path / place).read_text("utf-8")
        copy = text.replace("q8_0", "q8_demo").replace("Q8_0", "Q8_DEMO")
        (tmp_path / place.replace("q8_0", "q8_demo")).write_text(copy, "utf-8")
    model = write_llama(tmp_path / "tiny.gguf")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("use_demo_format.py")), str(model)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
