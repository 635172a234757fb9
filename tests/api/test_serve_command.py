"""``engine serve`` refuses what is unsafe or missing before it listens, and ends cleanly."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from runtime.cli import build_app
from runtime.cli.serve import _key
from runtime.errors import EXIT_MODEL, EXIT_PLAN, EXIT_USAGE, EngineError
from tests.tiny_models import write_llama


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


def test_what_cannot_be_served_is_refused_before_the_port_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("runtime.api.server._listen", lambda *_: pytest.fail("the port was opened"))
    tmp_path.chmod(0o700)
    store = ("--port", "0", "--records", str(tmp_path / "records.sqlite"))
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"GGUF" + bytes(100_000))
    assert serve(str(junk), *store).exit_code == EXIT_MODEL
    assert serve("--model", str(tmp_path / "no.gguf"), *store).exit_code in (EXIT_PLAN, EXIT_MODEL)
    assert serve(*store).code == "usage"
    assert "--quant" in str(serve("storyteller-q4", "--quant", "f16", *store))


def test_a_models_file_is_served_like_a_plan(tmp_path, monkeypatch):
    served = []

    class Server:
        def __init__(self, service, *, load, **_):
            self.service, self.load = service, load

        def run(self):
            self.service.plane.start()
            try:
                self.load()
                served.extend(self.service.plane.infos())
            finally:
                self.service.plane.stop()

    monkeypatch.setattr("runtime.api.server.Server", Server)
    tmp_path.chmod(0o700)
    interval = sys.getswitchinterval()
    model = write_llama(tmp_path / "tiny.gguf", layers=1)
    words = [str(model), "--quant", "f16", "--backend", "reference", "--context", "64"]
    words += ["--records", str(tmp_path / "records.sqlite")]
    try:
        result = CliRunner().invoke(build_app(), ["serve", *words], catch_exceptions=False)
    finally:
        sys.setswitchinterval(interval)
    assert result.exit_code == 0
    assert [(info.model_name, info.quantization) for info in served] == [("tiny", "f16")]
    assert served[0].plan.execution.context == 64


def test_what_records_keep_is_one_of_three(tmp_path):
    error = serve("storyteller-q4", "--record-content", "everything")
    assert error.code == "invalid_option"
    assert error.allowed == "hashes, ids, text"
