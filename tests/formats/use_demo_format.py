"""Run by test_declared_once.py in a copy of the sources with one more format, ``q8_demo``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import compiler
from compiler import backends, lower_plan
from compiler.formats import FORMATS
from compiler.plan import plan_schema
from compiler.quantize import encode
from compiler.workbench.check import CHECKS
from compiler.workbench.program import build_program
from compiler.workbench.table import kernel_table

NAME, TWIN = "q8_demo", "q8_0"
assert Path(compiler.__file__).parents[1] == Path.cwd()
assert NAME in FORMATS
assert NAME in CHECKS
assert kernel_table().count(f"`panel_{NAME}_k{{k}}`") == sum(name != "_" for name in backends.available())
assert NAME in json.dumps(plan_schema()["$defs"]["quantization"])

encode.TOOL_FLAGS = ("-O1", "-march=native")  # what is built here is used once
x = np.random.default_rng(3).standard_normal((16, 96)).astype(np.float32)
blocks = encode.encode(x, NAME)
assert np.array_equal(blocks, encode.encode(x, TWIN))
assert np.array_equal(encode.pack(blocks, NAME, 96), FORMATS[NAME].pack_panel(blocks, 96))
assert np.array_equal(encode.dequantize(blocks, NAME, 96), FORMATS[NAME].decode_rows(blocks))

plan = {
    "name": "demo",
    "model": sys.argv[1],
    "backend": "cpu_avx2",
    "quantization": {"recipe": TWIN, "overrides": [{"tensors": "*ffn_down.weight", "type": NAME}]},
}
emitted = lower_plan(plan)[1].emitted
assert f"panel_{NAME}_k" in emitted.sources["forward.c"]
assert {f"packed_{NAME}.h", f"simd_{NAME}_avx2.c"} <= emitted.sources.keys()

with TemporaryDirectory() as folder:
    tested = (
        "cpu_avx2" if not backends.get("cpu_avx2").missing_features(backends.cpu_features()) else "reference"
    )
    sets = [backends.get(name) for name in dict.fromkeys(("reference", tested))]
    program = build_program(sets, Path(folder), extra=("-O0",))
    done = subprocess.run(
        [program, "check", "reference", tested, "200", "1", NAME], capture_output=True, text=True
    )
    result = json.loads(done.stdout)
    assert (result["op"], result["cases"], result["failures"]) == (NAME, 200, 0), done.stdout + done.stderr
