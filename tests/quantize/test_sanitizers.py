"""The C encoders stay within their buffers and within C, and give one sequence of bytes on every machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from compiler.build import load_tool_library
from compiler.build.toolchain import find_toolchain
from compiler.formats import FORMATS
from compiler.quantize import encode

TOOLS = encode.source_files()[0].parent
ENCODERS = [
    path for path in encode.source_files() if path.name.startswith("quantize") and path.suffix == ".c"
]


@pytest.mark.parametrize("march", ["native", "x86-64"])
def test_random_bits_under_the_sanitizers(tmp_path: Path, march):
    program = tmp_path / "encoders"
    driver = Path(__file__).with_name("encoders_under_sanitizers.c")
    encoded = [f"FORMAT({n}, {f.block}, {f.block_bytes})" for n, f in FORMATS.items() if f.encode is not None]
    (tmp_path / "formats.inc").write_text("\n".join(encoded) + "\n")
    flags = ["-O1", "-g", "-std=gnu11", f"-march={march}", "-ffp-contract=off", "-Wno-psabi"]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [
        *find_toolchain().command,
        *flags,
        *sanitize,
        f"-I{TOOLS}",
        f"-I{TOOLS.parent / 'include'}",
        f"-I{tmp_path}",
        *map(str, ENCODERS),
        str(driver),
    ]
    built = subprocess.run([*command, "-lm", "-o", str(program)], capture_output=True, text=True)
    if built.returncode and "san" in built.stderr:
        pytest.skip(f"the compiler has no sanitizers: {built.stderr.strip().splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert int(ran.stdout.split()[1]) > 1500


@pytest.mark.parametrize("name", list(FORMATS))
def test_machines_without_avx_give_the_same_bytes(name, monkeypatch):
    rng = np.random.default_rng(9)
    x = (rng.standard_normal((64, 768)) * np.exp(rng.standard_normal((64, 1)) * 3)).astype(np.float32)
    importance = rng.gamma(1.0, size=768).astype(np.float32) + np.float32(0.01)
    here = [encode.encode(x, name), encode.encode(x, name, importance)]
    units = [p.name for p in encode.source_files() if p.suffix == ".c"]
    flags = ("-O2", "-march=x86-64", "-Wno-psabi", "-fvisibility=default")
    include = (TOOLS.parent / "include",)
    plain = load_tool_library(TOOLS, units, encode.tool_declarations(), include=include, flags=flags)
    monkeypatch.setattr(encode, "library", lambda: plain)
    assert np.array_equal(encode.encode(x, name), here[0])
    assert np.array_equal(encode.encode(x, name, importance), here[1])
