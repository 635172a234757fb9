"""Fixtures shared by all rooms' tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from runtime.bundle.machine import Machine
from runtime.cli import main
from tests.command import Engine, Result

ROOT = Path(__file__).resolve().parent.parent

# How long an example takes says how busy the machine is; bounds on time are tests of their own.
settings.register_profile("engine", deadline=None)
settings.load_profile("engine")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of test data beside the checkout, or ``$ENGINE_TEST_DATA``; skips where it is missing."""
    folder = Path(os.environ.get("ENGINE_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"test data not found at {folder}; set ENGINE_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This test run's own folder, the same one in all its workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(autouse=True)
def private_cache(
    tmp_path_factory: pytest.TempPathFactory, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every test run keeps its bundles, weights and records in folders of its own.

    Its workers share the cache, so that what one has compiled is not compiled again by the others.
    """
    cache = Path(os.environ.get("ENGINE_TEST_CACHE") or run_folder / "cache")
    kept = tmp_path_factory.getbasetemp() / "home"
    for name, folder in (("CACHE", cache), ("DATA", kept), ("STATE", kept)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        monkeypatch.setenv(f"XDG_{name}_HOME", str(folder))


@pytest.fixture
def engine(capfd: pytest.CaptureFixture[str]) -> Engine:
    """The command line: ``engine("run", plan, "--prompt", text)``."""

    def call(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many workers as CPUs may be used at once; tests named one by one run in this process."""
    if any("::" in argument for argument in config.args):
        return 0
    machine = Machine.probe()
    usable = len(machine.cpus) if machine.quota is None else min(len(machine.cpus), round(machine.quota))
    # A compiler under a worker takes up to a gigabyte.
    return max(1, min(usable, 8, machine.memory_available >> 30))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes runs when it is asked for by its mark."""
    if "slow" in (config.option.markexpr or ""):
        return
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with -m slow"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what is emitted now over the golden files; review the difference",
    )
