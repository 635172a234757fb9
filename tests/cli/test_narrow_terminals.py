"""Tables on terminals of 80 columns: no line is longer, and no digest is broken."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.cli.output import table
from tests.fakes.bundle import make_bundle

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "8818ef1eed9f3923b4e28424ae466c21f43cdfc4bd840b7f86f9f7735d082d0f"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def eighty(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def test_the_last_column_goes_on_below_itself(eighty: Terminal) -> None:
    rows = [("key", "word " * 20), ("other", "short")]
    lines = table(rows, stream=eighty).splitlines()
    assert lines == ["key    " + ("word " * 14).strip(), "       " + ("word " * 6).strip(), "other  short"]


def test_a_digest_is_never_broken(eighty: Terminal) -> None:
    rows = [("a name of twenty", f"tiny {DIGEST}"), ("  logits_digest_of_all", DIGEST), ("x" * 30, DIGEST)]
    shown = table(rows, stream=eighty)
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count(DIGEST) == 3


def test_optional_columns_go_one_after_the_other(eighty: Terminal) -> None:
    header = ("ID", "CREATED", "LOGITS")
    rows = [("1" * 40, "2" * 20, "3" * 30)]
    assert table(rows, header, optional=(2, 1), stream=eighty).splitlines()[0].split() == ["ID", "CREATED"]
    assert "LOGITS" in table(rows, header, optional=(2, 1), stream=io.StringIO())  # no terminal: all of it


@pytest.fixture
def shown_at_80(tmp_path: Path) -> str:
    """What the commands show on a terminal of 80 columns."""
    bundle = make_bundle(tmp_path / "b")
    begun = [sys.executable, "-m", "runtime.cli"]
    words = [*begun, "run", bundle, "-p", "a", "-n", "2", "-q"]
    subprocess.run(words, check=True, cwd=ROOT, capture_output=True)
    script = (
        "import sys; from runtime.cli import main\n"
        "for words in ('runs list', 'doctor', 'bundles list', 'inspect B summary', 'inspect B plan',"
        " 'inspect B tensors', 'runs show ' + sys.argv[2]):\n"
        "    try: main([sys.argv[1] if word == 'B' else word for word in words.split()])\n"
        "    except SystemExit as ended: assert not ended.code, words\n"
    )
    from runtime.control.records import RecordStore

    with RecordStore() as records:
        latest = records.list(limit=1)[0]["execution_id"]
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(bundle), latest],
        stdin=follower, stdout=follower, stderr=follower, cwd=ROOT, env=environment,
    )  # fmt: skip
    os.close(follower)
    out = b""
    try:
        while chunk := os.read(leader, 65536):
            out += chunk
    except OSError:  # the terminal has no writer any more
        pass
    os.close(leader)
    assert process.wait() == 0, out.decode()
    return out.decode()


def test_what_commands_show_fits(shown_at_80: str) -> None:
    wide = [line for line in shown_at_80.splitlines() if len(line.rstrip()) > 80 and " " in line.strip()]
    assert not wide
    assert shown_at_80.count("exec_") >= 2
