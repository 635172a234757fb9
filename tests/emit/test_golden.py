"""What is emitted, as text a reviewer reads: one two-layer forward, one panel kernel of each kind.

``pytest --update-golden`` writes what is emitted now; review the difference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from compiler import lower_plan
from tests.tiny_models import write_llama

GOLDEN = Path(__file__).parent / "golden"


def sources(
    tmp_path: Path, quantization: str, backend: str = "cpu_avx2", **execution: object
) -> Mapping[str, str]:
    """The emitted C of a two-layer llama."""
    path = tmp_path / "tiny.gguf"
    if not path.exists():
        write_llama(path)
    settings = {"context": 256, "step_tokens": 32, "slots": 2, "threads": 1, **execution}
    plan = {"name": "golden", "model": str(path), "backend": backend, "quantization": quantization}
    return lower_plan({**plan, "execution": settings})[1].emitted.sources


def compare(name: str, text: str, request: pytest.FixtureRequest) -> None:
    golden = GOLDEN / name
    if request.config.getoption("--update-golden"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_forward_of_two_layers(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    text = sources(tmp_path, "q8_0")["forward.c"]
    compare("forward_q8_0.c", text, request)
    assert text.count("static void layer_shape_") == 1  # equal layers are emitted once


@pytest.mark.parametrize(
    ("format", "backend"), [("q4_k", "reference"), ("q4_k", "cpu_avx512vnni"), ("f16", "cpu_avx2")]
)
def test_panel_kernel(format: str, backend: str, request: pytest.FixtureRequest) -> None:
    from compiler import backends
    from compiler.emit import panel_source

    row = backends.get(backend).kernel("panel", format)
    compare(f"panel_{format}_{backend}.h", panel_source(row, 512), request)


def test_layers_that_differ_in_format_are_separate_shapes(tmp_path: Path) -> None:
    """q4_k_m keeps more bits in the last eighth of the layers."""
    text = sources(tmp_path, "q4_k_m")["forward.c"]
    assert text.count("static void layer_shape_") == 2
    assert "q6_k [128 x 256]" in text
    assert "q4_k [128 x 256]" in text


def test_the_same_plan_gives_the_same_text(tmp_path: Path) -> None:
    assert sources(tmp_path, "q6_k") == sources(tmp_path, "q6_k")


def test_c_holds_no_string_of_the_model(tmp_path: Path) -> None:
    """Names from files never reach C: a hostile name changes nothing but the digest in a comment."""
    texts = []
    for name in ("tiny", 'x"; system("true"); //'):
        path = tmp_path / f"model-{len(texts)}.gguf"
        write_llama(path)
        data = path.read_bytes()
        assert b"tiny" in data
        path.write_bytes(_renamed(data, name))
        plan = {"name": "same", "model": str(path), "backend": "reference", "quantization": "f32"}
        settings = {"context": 256, "step_tokens": 32, "slots": 1, "threads": 1}
        emitted = lower_plan({**plan, "execution": settings})[1].emitted.sources
        texts.append({n: re.sub(r"plan [0-9a-f]{16}", "plan", t) for n, t in emitted.items()})
    assert texts[0] == texts[1]


def _renamed(data: bytes, name: str) -> bytes:
    """The file with general.name replaced, its length changed, and padding kept to the alignment."""
    key = b"general.name"
    at = data.index(key) + len(key) + 4
    length = int.from_bytes(data[at : at + 8], "little")
    new = name.encode().ljust(length, b"_")[: max(length, len(name))]
    grown = (len(new) - length) % 32
    new = new.ljust(len(new) + (32 - grown) % 32, b"_")
    return data[:at] + len(new).to_bytes(8, "little") + new + data[at + 8 + length :]


def test_op_timing_is_compiled_in_only_where_the_plan_asks(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "timed.gguf")
    plan = {"name": "timed", "model": str(path), "backend": "reference", "quantization": "f32"}
    with_timing = lower_plan({**plan, "observability": {"op_timing": True}})[1].emitted.sources["config.h"]
    without = lower_plan(plan)[1].emitted.sources["config.h"]
    assert "#define OP_TIMING 1" in with_timing
    assert "#define OP_TIMING 0" in without
