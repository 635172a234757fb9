"""What an op needs is said in its declaration: no other code asks for ops by name."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from compiler.graph.ops import OPS
from tests.conformance.test_seventeenth_family import write_command_r

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


def places_of_an_op() -> set[str]:
    """The files and folders that HACKING says an op that computes nothing new touches."""
    text = (ROOT / "HACKING.md").read_text("utf-8").split("add an op.**")[1].split("**…")[0]
    named = set(re.findall(r"`((?:compiler|kernels_c)/[\w/<>.]+)`", text))
    return named - {"kernels_c/reference/", "kernels_c/simd/", "compiler/kernels"}  # of a new computation


def add_demo_op(root: Path) -> dict[str, str]:
    """Adds ``scale_demo``, which is ``scale`` under another name, to a copy of the sources; what was
    written where."""
    edits = {
        "compiler/graph/ops.py": (
            '        OpSpec("scale", 1, 0, {"by": float}, _same, "rows", 0),\n',
            '        OpSpec("scale_demo", 1, 0, {"by": float}, _same, "rows", 0),\n',
        ),
        "compiler/graph/interpret.py": (
            "@_op\ndef op_softcap(",
            "@_op\ndef op_scale_demo(run: Interpreter, node: Node, step: Step, ins: Inputs) -> Array:\n"
            '    return ins[0] * node.attrs["by"]\n\n\n',
        ),
    }
    for place, (beside, added) in edits.items():
        text = (root / place).read_text("utf-8")
        assert text.count(beside) == 1, place
        (root / place).write_text(text.replace(beside, added + beside), "utf-8")
    template = root / "kernels_c/ops/scale_demo.c.j2"
    template.write_text((root / "kernels_c/ops/scale.c.j2").read_text("utf-8"), "utf-8")
    maker = root / "compiler/decoder/__init__.py"
    text = maker.read_text("utf-8")
    assert text.count('self.g.add("scale",') == 1
    maker.write_text(text.replace('self.g.add("scale",', 'self.g.add("scale_demo",'), "utf-8")
    return {place: added for place, (_, added) in edits.items()} | {
        "kernels_c/ops/<op>.c.j2": str(template),
        "compiler/decoder": str(maker),
    }


def test_an_op_touches_the_places_that_hacking_lists_and_no_other(tmp_path: Path) -> None:
    """``scale_demo`` in a copy of the sources: verified, planned, emitted, run; the same bits come out."""
    for room in ("compiler", "kernels_c", "runtime", "plans"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "*.gguf"))
    assert places_of_an_op() == add_demo_op(tmp_path).keys()
    model = write_command_r(tmp_path / "tiny.gguf")
    digests = []
    for folder, op in ((ROOT, "scale"), (tmp_path, "scale_demo")):
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("use_demo_op.py")), str(model), op],
            env={**os.environ, "PYTHONPATH": str(folder)},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        digests.append(done.stdout)
    assert digests[0] == digests[1] != ""
