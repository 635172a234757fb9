"""``engine serve`` refuses what is unsafe or missing before it listens, and ends cleanly."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from runtime.cli import build_app
from runtime.cli.serve import _key
from runtime.errors import EXIT_PLAN, EXIT_USAGE, EngineError


def serve(*arguments: str) -> EngineError:
    result = CliRunner().invoke(build_app(), ["serve", *arguments])
    assert isinstance(result.exception, EngineError), result.output
    return result.exception


def test_reaching_beyond_loopback_needs_a_key(monkeypatch):
    monkeypatch.delenv("ENGINE_API_KEY", raising=False)
    error = serve("storyteller-q4", "--host", "0.0.0.0", "--port", "0")
    assert (error.code, error.exit_code) == ("key_required", EXIT_USAGE)


@pytest.mark.parametrize("key", ["qwertz", "with blanks in it, long enough", "ünïcödé-but-long-enough"])
def test_a_weak_key_is_refused(tmp_path, key):
    path = tmp_path / "key"
    path.write_text(key)
    with pytest.raises(EngineError) as error:
        _key(path)
    assert error.value.code == "key_weak"
    assert key not in str(error.value)


def test_a_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "key"
    path.write_text("0123456789abcdef\n")
    assert _key(path) == "0123456789abcdef"
    monkeypatch.setenv("ENGINE_API_KEY", "fedcba9876543210")
    assert _key(None) == "fedcba9876543210"
    with pytest.raises(EngineError) as error:
        _key(tmp_path / "missing")
    assert error.value.code == "key_unreadable"


def test_an_unknown_plan_ends_the_server_with_its_error(tmp_path, monkeypatch):
    import signal
    import sys

    interval, handlers = (
        sys.getswitchinterval(),
        [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)],
    )
    try:
        tmp_path.chmod(0o700)
        error = serve("storytelle-q4", "--port", "0", "--records", str(tmp_path / "records.sqlite"))
    finally:
        sys.setswitchinterval(interval)
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), handlers, strict=True):
            signal.signal(number, handler)
    assert (error.code, error.exit_code) == ("unknown_plan", EXIT_PLAN)
    assert "storyteller-q4" in str(error.hint)


def test_what_records_keep_is_one_of_three(tmp_path):
    error = serve("storyteller-q4", "--record-content", "everything")
    assert error.code == "invalid_option"
    assert error.allowed == "hashes, ids, text"
