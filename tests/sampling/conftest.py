"""``sampling.c`` compiled once for the room's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sampling_library import Library, compile_sampling


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return compile_sampling(tmp_path_factory.mktemp("sampling"), "-O3")


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Library]:
    """Compiles with other flags."""
    return lambda *flags: compile_sampling(tmp_path_factory.mktemp("sampling"), *flags)
