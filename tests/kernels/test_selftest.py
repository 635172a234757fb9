"""A backend whose instructions must be seen to work is tested before it is offered."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from compiler import backends
from compiler.workbench import selftest
from runtime.errors import EngineError
from tests.command import Engine

AMX = backends.get("cpu_amx")
TILES = "simd/tile_ops.c"


def emulated() -> backends.Backend:
    backend = AMX.emulated()
    if missing := backend.missing_features(backends.cpu_features()):
        pytest.skip(f"this CPU lacks {', '.join(missing)}")
    return backend


@pytest.fixture
def with_wrong_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles whose product is wrong where weights are signed and large."""
    for name in ("tools/tiles.c", TILES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(selftest._KERNELS / name, tmp_path / name)
    text = (tmp_path / TILES).read_text()
    right = "weights_signed ? (int8_t)byte : byte"
    assert right in text
    (tmp_path / TILES).write_text(text.replace(right, "weights_signed ? byte & 127 : byte"))
    monkeypatch.setattr(selftest, "_KERNELS", tmp_path)


def test_a_machine_without_tiles_is_told_so_before_one_is_used() -> None:
    """The probe itself asks the CPU: whatever a hypervisor announces, no tile instruction comes first."""
    if "amx_int8" in backends.cpu_features():
        pytest.skip("this CPU has tiles")
    plain = replace(AMX, cflags=backends.COMMON_FLAGS)
    assert selftest.obstacle(plain) == "the CPU has no AMX-INT8"


def test_a_backend_without_a_test_has_no_obstacle() -> None:
    assert selftest.obstacle(backends.get("reference")) is None


def test_emulated_tiles_pass() -> None:
    assert selftest.obstacle(emulated()) is None


@pytest.mark.usefixtures("with_wrong_tiles")
def test_a_wrong_product_is_found_and_the_backend_refused() -> None:
    name = emulated().name
    with pytest.raises(EngineError) as caught:
        selftest.offered(name)
    assert (caught.value.code, caught.value.exit_code) == ("unsupported_cpu", 7)
    assert name in caught.value.message
    assert "a product of tiles is wrong" in caught.value.message


@pytest.mark.usefixtures("with_wrong_tiles")
def test_doctor_says_why_a_backend_is_not_usable(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = emulated()
    point = type("Point", (), {"name": backend.name, "load": lambda self: backend})()
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [point])
    (found,) = engine("doctor", "--json").json["backends"]
    assert not found["usable"]
    assert "a product of tiles is wrong" in found["error"]
