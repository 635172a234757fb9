"""Fixtures shared by all rooms' tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of test data beside the checkout, or ``$ENGINE_TEST_DATA``; skips where it is missing."""
    folder = Path(os.environ.get("ENGINE_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"test data not found at {folder}; set ENGINE_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test run keeps its bundles, weights and records in a cache of its own."""
    base = Path(os.environ.get("ENGINE_TEST_CACHE") or tmp_path_factory.getbasetemp() / "cache")
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(base))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what is emitted now over the golden files; review the difference",
    )


_STATUS = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the process with the tests' own status once everything is reported.

    Some hundred shared objects are loaded by then. The interpreter's teardown unloads them in no
    order, which can crash after the last test; what the tests found must not be lost in that.
    """
    if _STATUS in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_STATUS])
