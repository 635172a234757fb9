"""The page of the documentation that lists the kernels is the registry's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compiler.backends import Backend
from compiler.formats import FORMATS
from compiler.workbench.table import kernel_table, own_backends
from runtime.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kernels.md"


def test_the_page_is_current() -> None:
    """If this fails: engine kernels list --markdown > docs/kernels.md"""
    assert PAGE.read_text("utf-8") == kernel_table()


def test_every_kernel_of_every_backend_is_in_it() -> None:
    text = kernel_table()
    found = own_backends()
    assert found[0].name == "reference"
    assert {"cpu_avx2", "cpu_avxvnni", "cpu_avx512vnni", "cpu_amx"} <= {backend.name for backend in found}
    for backend in found:
        section = text.split(f"## {backend.name}\n")[1].split("\n## ")[0]
        assert section.count("\n| ") == 1 + len(backend.kernels) + 1  # header, rule
        for row in backend.kernels:
            assert f"| `{row.name}` |" in section


@pytest.mark.parametrize("backend", own_backends()[1:], ids=lambda backend: backend.name)
def test_tiles_are_those_of_the_kernels(backend: Backend) -> None:
    panels = [row for row in backend.kernels if row.op == "panel"]
    assert len(panels) == len(FORMATS)
    for row in panels:
        format = FORMATS[str(row.format)]
        panels_of_it = (p for p in format.panels.values() if (p.template, p.tile) == (row.template, row.tile))
        (source,) = {panel.source for panel in panels_of_it}
        if not format.group:
            (source,) = (name for name in backend.sources if name.startswith("simd/tiles_"))
        assert source in backend.sources
        text = (PAGE.parents[1] / "kernels_c" / source).read_text("utf-8")
        assert re.findall(r"#define \w+_TOKENS (\d+)", text) == [str(row.tile[1])]


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["kernels", "list", "--markdown"])
    assert ended.value.code in (None, 0)
    assert capsys.readouterr().out == kernel_table()
    with pytest.raises(SystemExit) as ended:
        main(["kernels", "list", "--markdown", "--json"])
    assert ended.value.code == 2
