"""A record that was acknowledged stays, unchanged, in its place."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.control.chain import GENESIS, RecordHead, row_hash, verify_rows
from runtime.control.record import Identity, Result, build_record, ids_digest, new_execution_id
from runtime.control.records import RecordStore
from runtime.control.types import RunSpec
from runtime.engine.request import Request
from runtime.errors import EngineError
from tests.fake_service import resolved_plan


def record(**changes: Any) -> dict[str, Any]:
    identity = Identity(
        execution_id=new_execution_id(),
        created_unix_ns=1_700_000_000_123_456_789,
        bundle={"name": "tiny", "digest": "b" * 64, "builder": "c" * 64},
        model={"name": "tiny", "digest": "d" * 64, "architecture": "llama"},
        backend="reference",
        quantization="q8_0",
        compiler={"name": "gcc", "version": "12.2.0", "flags": ["-O2"]},
        hardware={"cpu_model": "made"},
    )
    plan = resolved_plan("tiny", sampling__seed=7)
    result = Result(
        text="três",
        token_ids=[4, 5, 6],
        logits_digest="f" * 64,
        stop_reason="max_tokens",
        metrics={"tokens_total": 3, "tokens_per_sec": 10.5, "watts_avg": None},
        diagnostics={"unknown": {"watts_avg": "no meter"}},
        token_digests=["00" * 8] * 3,
    )
    spec = RunSpec("tiny", Request.of_plan(plan, [1, 2, 3]), plan, "Olá mundo")
    made = build_record(identity, spec, result)
    return made | changes


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "records.sqlite", content="text")


def filled(store: RecordStore, count: int = 5) -> list[str]:
    ids = []
    for _ in range(count):
        made = record()
        store.append(made)
        ids.append(made["execution_id"])
    return ids


def tamper(store: RecordStore, *statements: str) -> None:
    """What somebody with the file and time can do: the guards are dropped and put back."""
    with sqlite3.connect(store.path) as db:
        guards = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)
        for _, sql in guards:
            db.execute(sql)


def test_what_was_appended_comes_back_word_for_word(store: RecordStore) -> None:
    made = record()
    digest = store.append(made)
    assert store.get(made["execution_id"]) == made | {"content": "text"}
    assert store.head() == {"count": 1, "hash": digest}
    assert store.get("exec_0000") is None


def test_the_newest_come_first_and_pages_join(store: RecordStore) -> None:
    ids = filled(store, 7)
    assert [r["execution_id"] for r in store.list(limit=3)] == ids[:3:-1]
    assert [r["execution_id"] for r in store.list(limit=10, before=ids[4])] == ids[3::-1]
    filled(store, 94)
    assert len(store.list()) == 100 < store.head()["count"]


def test_an_id_may_be_shortened_while_it_is_unique(store: RecordStore) -> None:
    for name in ("exec_aaaa1111", "exec_aaaa2222"):
        store.append(record(execution_id=name))
    assert store.find("aaaa1")["execution_id"] == "exec_aaaa1111"
    for name, code in (("aaaa", "run_ambiguous"), ("bbbb", "run_not_found"), ("%", "run_not_found")):
        with pytest.raises(EngineError) as caught:
            store.find(name)
        assert caught.value.code == code


def test_a_whole_id_is_that_execution_even_where_it_begins_another(store: RecordStore) -> None:
    for name in ("exec_aaaa", "exec_aaaa2222"):
        store.append(record(execution_id=name))
    for spelling in ("aaaa", "exec_aaaa"):
        assert store.find(spelling)["execution_id"] == "exec_aaaa"


def test_an_execution_is_recorded_once(store: RecordStore) -> None:
    made = record()
    store.append(made)
    with pytest.raises(EngineError) as caught:
        store.append(made)
    assert caught.value.code == "record_exists"
    assert store.head()["count"] == 1
    with RecordStore(store.path) as another:  # the refusal holds no lock, here or there
        filled(another, 1)
    filled(store, 1)
    assert store.head()["count"] == 3


@pytest.mark.parametrize(
    "changes",
    [{"execution_id": "../etc"}, {"execution_id": None}, {"created": None}, {"metrics": {"x": float("nan")}}],
)
def test_what_is_no_record_is_refused(store: RecordStore, changes: dict[str, Any]) -> None:
    with pytest.raises(EngineError) as caught:
        store.append(record(**changes))
    assert caught.value.code == "record_invalid"
    assert store.head() == {"count": 0, "hash": GENESIS}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET body = '{}' WHERE seq = 1",
        "DELETE FROM records WHERE seq = 1",
        "DELETE FROM records",
        "INSERT OR REPLACE INTO records SELECT * FROM records WHERE seq = 1",
        "INSERT INTO records VALUES (9, 'exec_0009', '', '', '', '', '')",
    ],
)
def test_the_database_itself_refuses_to_change_the_past(store: RecordStore, statement: str) -> None:
    filled(store, 3)
    with sqlite3.connect(store.path) as db, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement)
    assert store.verify()[1] == []


TAMPERINGS = {
    "edited": ("UPDATE records SET body = replace(body, '10.5', '99.5') WHERE seq = 3",),
    "edited, its own hash mended": (
        "UPDATE records SET body = replace(body, '10.5', '99.5'), body_sha256 = 'aa' WHERE seq = 3",
    ),
    "deleted": ("DELETE FROM records WHERE seq = 3",),
    "deleted, numbers closed": (
        "DELETE FROM records WHERE seq = 3",
        "UPDATE records SET seq = 3 WHERE seq = 4",
        "UPDATE records SET seq = 4 WHERE seq = 5",
    ),
    "reordered": (
        "UPDATE records SET seq = 99 WHERE seq = 2",
        "UPDATE records SET seq = 2 WHERE seq = 3",
        "UPDATE records SET seq = 3 WHERE seq = 99",
    ),
    "renamed": ("UPDATE records SET execution_id = 'exec_beef' WHERE seq = 3",),
    "redated": ("UPDATE records SET created = '2020-01-01T00:00:00.000Z' WHERE seq = 3",),
    "first row deleted": ("DELETE FROM records WHERE seq = 1",),
    "not JSON": ("UPDATE records SET body = '{' WHERE seq = 3",),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_an_edited_deleted_or_reordered_row_is_found(store: RecordStore, name: str) -> None:
    filled(store, 5)
    assert store.verify()[1] == []
    tamper(store, *TAMPERINGS[name])
    faults = store.verify()[1]
    assert faults
    assert faults[0].seq is not None  # it names the row


def test_each_row_carries_the_hash_of_the_row_before(store: RecordStore) -> None:
    """A row whose own hash is right, but which follows another row than the one before it."""
    filled(store, 3)
    first, second, third = store.rows()
    for previous in (first.hash, "0" * 64, "f" * 64):
        other = replace(third, previous=previous, hash=row_hash(3, previous, third.body_sha256))
        assert [fault.what for fault in verify_rows([first, second, other])[1]] == [
            "does not carry the hash of the row before"
        ]


def test_a_gap_in_the_numbers_is_found_where_all_hashes_are_right(store: RecordStore) -> None:
    filled(store, 3)
    first, second, third = store.rows()
    for number in (2, 5):
        moved = replace(third, seq=number, hash=row_hash(number, second.hash, third.body_sha256))
        assert [fault.what for fault in verify_rows([first, second, moved])[1]] == [
            "follows row 2: rows are missing or out of order"
        ]


@pytest.mark.parametrize("how", [{"separators": (", ", ": ")}, {"ensure_ascii": True}, {"sort_keys": False}])
def test_content_in_another_spelling_is_found_where_all_hashes_are_right(
    store: RecordStore, how: dict[str, Any]
) -> None:
    filled(store, 1)
    (row,) = store.rows()
    usual: dict[str, Any] = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}
    backwards = dict(reversed(json.loads(row.body).items()))
    body = json.dumps(backwards, **{**usual, **how}).encode()
    digest = hashlib.sha256(body).hexdigest()
    other = replace(row, body=body, body_sha256=digest, hash=row_hash(1, GENESIS, digest))
    assert [fault.what for fault in verify_rows([other])[1]] == ["its content is not canonical JSON"]


@pytest.mark.parametrize("digit", "0f")
def test_a_digest_that_is_another_is_found_whichever_is_larger(store: RecordStore, digit: str) -> None:
    filled(store, 1)
    (row,) = store.rows()
    hashed = replace(row, hash=digit * 64)
    assert [fault.what for fault in verify_rows([hashed])[1]] == ["its hash was changed"]
    digested = replace(row, body_sha256=digit * 64, hash=row_hash(1, GENESIS, digit * 64))
    assert [fault.what for fault in verify_rows([digested])[1]] == ["its content was changed"]


def test_the_head_of_an_empty_store_is_one_to_verify_against(store: RecordStore) -> None:
    empty = RecordHead(**store.head())
    assert store.verify(empty) == (empty, [])
    filled(store, 1)
    assert store.verify(empty)[1] == []
    assert "rewritten" in store.verify(RecordHead(0, "f" * 64))[1][0].what


def test_a_rows_hash_covers_its_number_its_content_and_the_row_before() -> None:
    text = "2\n" + "a" * 64 + "\n" + "b" * 64 + "\n"
    assert row_hash(2, "a" * 64, "b" * 64) == hashlib.sha256(text.encode()).hexdigest()


def test_a_truncated_tail_is_found_against_a_head_saved_before(store: RecordStore) -> None:
    filled(store, 5)
    saved = RecordHead(**store.head())
    filled(store, 1)
    assert store.verify(saved)[1] == []
    tamper(store, "DELETE FROM records WHERE seq >= 5")
    assert [fault.what for fault in store.verify()[1]] == [
        "rows 5 to 6 of the head beside the store (records.sqlite.head) are missing"
    ]
    store._anchor.path.write_bytes(b"")  # who can write to the store can write beside it
    with RecordStore(store.path) as again:
        assert again.verify()[1] == []  # the chain itself is whole: only the saved head tells
        assert "missing" in again.verify(saved)[1][0].what


@pytest.mark.parametrize("how", ["truncated", "removed", "emptied by SQL", "another chain"])
def test_an_emptied_store_is_found_even_after_it_was_used_again(tmp_path: Path, how: str) -> None:
    path = tmp_path / "records.sqlite"
    with RecordStore(path) as store:
        filled(store, 3)
        if how == "emptied by SQL":
            tamper(store, "DELETE FROM records")
    if how != "emptied by SQL":
        for file in tmp_path.glob("records.sqlite*"):
            if file.suffix != ".head":
                file.unlink() if how == "removed" else file.write_bytes(b"")
    with RecordStore(path) as store:
        if how != "another chain":
            assert "rows 1 to 3" in store.verify()[1][0].what
        filled(store, 5)
        assert [fault.seq for fault in store.verify()[1]] == [3]
        assert "rewritten" in store.verify()[1][0].what


def test_the_head_beside_a_store_follows_it_and_catches_up(store: RecordStore) -> None:
    first = RecordHead(**store.head())
    assert store._anchor.read() == first
    filled(store, 2)
    second = store._anchor.read()
    assert second is not None
    assert second.to_json() == store.head()
    store._anchor.keep(first)  # as a crash between a row and its head leaves it
    filled(store, 1)
    store._anchor.keep(second)
    filled(store, 2)
    caught_up = store._anchor.read()
    assert caught_up is not None
    assert caught_up.to_json() == store.head()
    assert store.verify()[1] == []
    store._anchor.path.write_text("nonsense")
    assert "holds no head" in store.verify()[1][0].what
    filled(store, 1)
    assert store._anchor.path.read_text() == "nonsense", "who wrote it is to be found"


def test_a_locked_store_is_told_as_such_and_can_be_read(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store._db.execute("PRAGMA busy_timeout").fetchone() == (5_000,)  # a reply waits no longer
    monkeypatch.setattr("runtime.control.records.LOCK_SECONDS", 0.05)
    with sqlite3.connect(store.path, isolation_level=None) as other, RecordStore(store.path) as waiting:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(EngineError) as caught:
            waiting.append(record())
        assert caught.value.code == "records_unwritable"
        assert "lock for 0.05 s" in str(caught.value.hint)
        with RecordStore(store.path) as reading:  # who only reads does not wait
            assert reading.list() == []
        other.execute("ROLLBACK")
        waiting.append(record())


def test_a_rewritten_chain_is_found_against_a_head_saved_before(store: RecordStore, tmp_path: Path) -> None:
    ids = filled(store, 3)
    saved = RecordHead(**store.head())
    forged = RecordStore(tmp_path / "forged.sqlite", content="text")
    for name in ids:
        forged.append(store.get(name) | {"text": "another"})  # type: ignore[operator]
    assert forged.verify()[1] == []
    assert store.verify(saved)[1] == []
    assert "rewritten" in forged.verify(saved)[1][0].what


def test_removed_guards_are_found(store: RecordStore) -> None:
    filled(store, 1)
    with sqlite3.connect(store.path) as db:
        db.execute("DROP TRIGGER records_no_update")
    assert "records_no_update" in store.verify()[1][0].what


def test_a_damaged_file_is_a_typed_error(store: RecordStore) -> None:
    filled(store, 50)
    store.close()
    data = bytearray(store.path.read_bytes())
    data[4096 : len(data) - 4096] = b"\xa5" * (len(data) - 8192)
    store.path.write_bytes(data)
    with RecordStore(store.path) as again:
        assert again.verify()[1]
        with pytest.raises(EngineError) as caught:
            again.list()
        assert caught.value.code == "records_damaged"


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    path.chmod(0o600)
    for content in (path.read_bytes(), b"no database at all" * 100):
        path.write_bytes(content)
        with pytest.raises(EngineError) as caught:
            RecordStore(path)
        assert caught.value.code == "records_damaged"
        assert path.read_bytes() == content
        held = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert str(path) not in held


def test_the_file_says_whose_it_is(store: RecordStore) -> None:
    """The application id of SQLite's header (offset 68), by which ``file`` knows it."""
    filled(store, 1)
    store.close()
    assert store.path.read_bytes()[68:72] == b"ENGR"


def test_the_store_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with RecordStore() as store:
        filled(store, 1)
        assert store.path == tmp_path / "state" / "engine" / "records.sqlite"
        assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
        for file in store.path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    store.path.chmod(0o644)
    with pytest.raises(EngineError) as caught:
        RecordStore()
    assert caught.value.code == "not_trusted"


def test_a_store_that_cannot_be_written_says_so_and_keeps_what_it_had(store: RecordStore) -> None:
    filled(store, 2)
    store._db.execute("PRAGMA query_only = ON")  # as a read-only file system would
    with pytest.raises(EngineError) as caught:
        store.append(record())
    assert caught.value.code == "records_unwritable"
    assert store.head()["count"] == 2


def test_a_full_disk_loses_nothing_that_was_acknowledged(store: RecordStore) -> None:
    ids = filled(store, 3)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    error = None
    while error is None:
        made = record(text="x" * 4000)
        try:
            store.append(made)
            ids.append(made["execution_id"])
        except EngineError as caught:
            error = caught
    assert "full" in error.message
    assert [row.execution_id for row in store.rows()] == ids
    assert store.verify()[1] == []


def test_what_text_is_kept_is_the_operators_choice(tmp_path: Path) -> None:
    made = record()
    kept = {}
    for content in ("hashes", "ids", "text"):
        with RecordStore(tmp_path / f"{content}.sqlite", content=content) as store:  # type: ignore[arg-type]
            store.append(made)
            kept[content] = store.get(made["execution_id"])
            raw = store.path.read_bytes() + Path(f"{store.path}-wal").read_bytes()
            assert ("Olá".encode() in raw) == (content == "text")
    assert kept["text"]["prompt"] == "Olá mundo"
    assert kept["ids"]["prompt"] is None
    assert kept["ids"]["prompt_ids"] == [1, 2, 3]
    assert kept["hashes"]["prompt_ids"] is None
    assert kept["hashes"]["token_ids_sha256"] == ids_digest([4, 5, 6])
    assert len({k["prompt_sha256"] for k in kept.values()}) == 1  # the hash identifies it in all


def test_several_processes_and_threads_append_to_one_chain(store: RecordStore) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from runtime.control.records import RecordStore\n"
        "from runtime.control.record import new_execution_id\n"
        "store = RecordStore(Path(sys.argv[1]))\n"
        "for _ in range(20):\n"
        "    store.append({'execution_id': new_execution_id(), 'created': ''})\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    processes = [subprocess.Popen([sys.executable, "-c", script, str(store.path), root]) for _ in range(2)]
    threads = [threading.Thread(target=filled, args=(store, 20)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in processes] == [0, 0]
    head, faults = store.verify()
    assert (head.count, faults) == (80, [])


def test_an_acknowledged_record_survives_kill_9(store: RecordStore) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from runtime.control.records import RecordStore\n"
        "from runtime.control.record import new_execution_id\n"
        "store = RecordStore(Path(sys.argv[1]))\n"
        "while True:\n"
        "    name = new_execution_id()\n"
        "    store.append({'execution_id': name, 'created': ''})\n"
        "    print(name, flush=True)\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    acknowledged: list[str] = []
    for kill_after in (1, 7, 23):
        command = [sys.executable, "-c", script, str(store.path), root]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(kill_after):
                acknowledged.append(process.stdout.readline().strip())
            os.kill(process.pid, signal.SIGKILL)
            acknowledged += process.stdout.read().split()
    recorded = [row.execution_id for row in store.rows()]
    assert [name for name in recorded if name in set(acknowledged)] == acknowledged
    assert len(recorded) <= len(acknowledged) + 3  # at most the one in flight at each kill
    assert store.verify()[1] == []


def test_the_export_carries_the_whole_chain(store: RecordStore) -> None:
    ids = filled(store, 3)
    lines = [json.loads(line) for line in store.export()]
    assert [line["record"]["execution_id"] for line in lines] == ids
    assert [line["previous"] for line in lines] == [GENESIS, lines[0]["hash"], lines[1]["hash"]]
    assert lines[-1]["hash"] == store.head()["hash"]
