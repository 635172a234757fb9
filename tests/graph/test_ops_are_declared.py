"""What an op needs is said in its declaration: no other code asks for ops by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from compiler.graph.ops import OPS

ROOT = Path(__file__).resolve().parents[2]
#: Who declares ops, says what they mean, or makes a graph of them.
DECLARATIONS = {
    "compiler/graph/ops.py": "declares them",
    "compiler/graph/interpret.py": "what each means",
    "compiler/workflows/calibrate.py": "what some mean for a whole window",
    "compiler/decoder/__init__.py": "makes the graph",
}
#: Names of ops that are words of other things as well.
WORDS = {"scale", "bias", "select", "act", "add", "quantize", "attention", "rope", "slice", "embed", "linear"}
#: Names of ops that are names of kernels or of a type of values, too.
WORDS |= {"rms_norm", "layer_norm", "softcap", "kv_store", "route"}


def asked(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and node.value in OPS.keys() - WORDS:
            yield f"line {node.lineno}: {node.value}"
        of_a_node = isinstance(node, ast.Compare) and ".op " in ast.unparse(node)
        if of_a_node and any(isinstance(n, ast.Constant) and n.value in OPS for n in ast.walk(node)):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def test_only_declarations_name_ops() -> None:
    files = sorted(p for room in ("compiler", "runtime") for p in (ROOT / room).rglob("*.py"))
    wrong = {str(p.relative_to(ROOT)): list(asked(p)) for p in files}
    assert {place for place, found in wrong.items() if found} - DECLARATIONS.keys() == set(), wrong


def test_templates_ask_declarations() -> None:
    """A node's op is compared nowhere; it only names the template of its lines."""
    for path in (ROOT / "kernels_c").rglob("*.j2"):
        assert re.findall(r"\.op\s*(?:==|!=|in)\s*[\"'(]", path.read_text("utf-8")) == [], path


@pytest.mark.parametrize("name", list(OPS))
def test_a_declaration_is_consistent(name: str) -> None:
    spec = OPS[name]
    assert set(spec.epilogues.values()) | {spec.alone or name} <= OPS.keys()
    assert bool(spec.shared_activations) == (spec.cost == "product") == (spec.partition == "panels")
    template = ROOT / "kernels_c" / "ops" / f"{name}.c.j2"
    fused_away = bool(spec.alone) or spec.view
    assert template.is_file() != fused_away
