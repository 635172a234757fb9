"""The engine's version: part of every bundle, metric and record."""

#: Equal to ``version`` in pyproject.toml (a test says so).
ENGINE_VERSION = "0.1.0"
