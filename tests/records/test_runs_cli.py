"""``engine runs`` on a store of made records."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from runtime.cli import main
from runtime.control.records import RecordStore
from tests.records.test_store import record, tamper


@pytest.fixture
def ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three executions in this user's store: two alike, one of another plan."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    metrics = {"tokens_total": 3, "tokens_per_sec": 10.5, "watts_avg": None}
    made = [
        record(created="2026-01-01T00:00:00.000Z", metrics=metrics),
        record(created="2026-01-01T00:01:00.000Z", metrics=metrics | {"tokens_per_sec": 9.0}),
        record(created="2026-01-01T00:02:00.000Z", metrics=metrics, plan_digest="0" * 64),
    ]
    with RecordStore() as store:
        for one in made:
            store.append(one)
    return [one["execution_id"] for one in made]


def engine(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["runs", *arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_list_and_show(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = engine(capsys, "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ids[::-1]
    code, out, _ = engine(capsys, "list", "--json", "-n", "1", "--before", ids[2])
    assert [one["execution_id"] for one in json.loads(out)] == [ids[1]]
    code, out, _ = engine(capsys, "show", ids[0][:14])
    assert "tokens_per_sec" in out
    assert "no meter" in out  # why watts_avg is unknown
    code, out, _ = engine(capsys, "show", ids[0], "--json")
    assert json.loads(out)["seed"] == 7
    assert engine(capsys, "show", "exec_0000")[0] == 2


def test_compare(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = engine(capsys, "compare", ids[0], ids[1])
    assert code == 1
    assert "worse" in out
    code, out, _ = engine(capsys, "compare", f"{ids[0]},{ids[1]}", ids[0], "--json")
    assert json.loads(out)["metrics"]["tokens_per_sec"]["a"] == 9.75
    code, _, err = engine(capsys, "compare", ids[0], ids[2], "--json")
    assert code == 2
    error = json.loads(err)["error"]
    assert (error["code"], error["path"]) == ("not_comparable", "plan_digest")


def test_verify_finds_an_edit_and_a_cut(
    ids: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert engine(capsys, "verify")[0] == 0
    _, head, _ = engine(capsys, "head")
    (tmp_path / "head").write_text(head)
    assert engine(capsys, "verify", "--head", str(tmp_path / "head"))[0] == 0
    store = RecordStore()
    tamper(store, "DELETE FROM records WHERE seq = 3")
    for options in ((), ("--head", head.strip())):
        code, out, _ = engine(capsys, "verify", *options)
        assert code == 1
        assert "rows 3 to 3" in out
    tamper(store, "UPDATE records SET body = replace(body, '10.5', '99.5') WHERE seq = 1")
    code, out, _ = engine(capsys, "verify", "--json")
    assert code == 1
    assert json.loads(out)["faults"][0]["execution_id"] == ids[0]
    assert engine(capsys, "verify", "--head", "nonsense")[0] == 2


def test_export(ids: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, out, _ = engine(capsys, "export")
    assert [json.loads(line)["record"]["execution_id"] for line in out.splitlines()] == ids
    target = tmp_path / "records.jsonl"
    assert engine(capsys, "export", "-o", str(target))[0] == 0
    assert target.read_text() == out
    assert engine(capsys, "export", "-o", str(target))[0] == 1  # nothing is overwritten


def test_another_store_and_none(
    ids: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine(capsys, "list", "--store", str(tmp_path / "missing"))[0] == 2
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE t (x)")
    other.chmod(0o600)
    assert engine(capsys, "list", "--store", str(other))[0] == 7
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "new"))
    code, out, err = engine(capsys, "list")
    assert (code, out) == (0, "")
    assert "engine run" in err
