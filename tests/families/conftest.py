"""Compiling a plan once a session, as the shared models' tests do."""

from tests.conformance.conftest import compiled

__all__ = ["compiled"]
