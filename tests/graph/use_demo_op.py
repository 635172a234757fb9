"""Run by test_ops_are_declared.py in a copy of the sources with one more op, ``scale_demo``: prints the
digest of the logits of the model that is its first argument, which must use the op."""

from __future__ import annotations

import sys
import tempfile
from hashlib import blake2b
from pathlib import Path

import numpy as np

import compiler
from compiler import compile_plan, lower_plan
from compiler.graph import parse
from compiler.graph.interpret import Interpreter, Step
from compiler.model.reader import open_rows, read_model
from runtime.bundle.reader import open_bundle
from runtime.engine.executable import Executable

model, wanted = Path(sys.argv[1]), sys.argv[2]
assert Path(compiler.__file__).parents[1] == Path.cwd()
plan = {
    "version": 1,
    "name": "demo",
    "model": str(model),
    "backend": "reference",
    "quantization": "f32",
    "execution": {"context": 256, "slots": 1, "step_tokens": 16, "threads": 1, "kv_cache": "f32"},
}
lowered = lower_plan(plan)[1]
graph = parse(lowered.graph.to_text())  # the text form knows it
assert any(node.op == wanted for node in graph.nodes)
ids = np.arange(5, 21, dtype=np.int32)
with tempfile.TemporaryDirectory() as folder:
    bundle = open_bundle(compile_plan(plan, out=Path(folder) / "b"))
    with Executable.open(bundle) as executable:
        rows = np.array(executable.forward([0] * 16, range(16), ids, [True] * 16))

description = read_model(model)
with open_rows(description) as held:
    weights = {name: held.float32(tensor) for name, tensor in description.tensors.items()}
meant = Interpreter(lowered.graph, {**weights, **lowered.decoder.constants}).run(
    Step(ids, np.arange(16), np.zeros(16, int), np.ones(16, bool))
)
assert np.sum((rows - meant) ** 2) <= 1e-9 * np.sum(meant**2)
print(blake2b(rows.data).hexdigest())
