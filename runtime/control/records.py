"""The store of records: SQLite, append-only, durable once acknowledged.

Triggers refuse UPDATE and DELETE, and INSERT of anything but the next row of
the chain (:mod:`runtime.control.chain`). Write-ahead log with synchronous=FULL:
when :meth:`RecordStore.append` has returned, the row survives a kill of the
process and a loss of power. Several processes may append at once: each takes
the write lock before it looks at the head. Nothing in the store influences an
execution.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from runtime.bundle.store import check_trusted, file_error, private_dir
from runtime.control.anchor import Anchor
from runtime.control.chain import EMPTY_HEAD, Fault, RecordHead, Row, next_row, verify_rows
from runtime.control.record import Content, record_bytes, reduce_content, state_root
from runtime.errors import EXIT_MACHINE, EXIT_USAGE, EngineError

FILE_NAME = "records.sqlite"
#: "ENGR": so that ``file`` and we know the database for ours.
APPLICATION_ID = 0x454E4752
#: Seconds to wait for another process that is appending, which takes milliseconds.
LOCK_SECONDS = 5.0

_EXECUTION_ID = re.compile(r"exec_[0-9a-f]{4,32}")
_PREFIX = re.compile(r"(exec_)?[0-9a-f]{1,32}")

_GUARDS = {
    "records_no_update": """
        CREATE TRIGGER records_no_update BEFORE UPDATE ON records
        BEGIN SELECT RAISE(ABORT, 'records are append-only'); END""",
    "records_no_delete": """
        CREATE TRIGGER records_no_delete BEFORE DELETE ON records
        BEGIN SELECT RAISE(ABORT, 'records are append-only'); END""",
    # Also refuses INSERT OR REPLACE, which deletes without asking a DELETE trigger.
    "records_next_only": """
        CREATE TRIGGER records_next_only BEFORE INSERT ON records
        WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM records)
          OR NEW.previous IS NOT coalesce(
            (SELECT hash FROM records ORDER BY seq DESC LIMIT 1), hex(zeroblob(32)))
          OR EXISTS (SELECT 1 FROM records WHERE execution_id = NEW.execution_id)
        BEGIN SELECT RAISE(ABORT, 'records are append-only'); END""",
}
_TABLE = """
CREATE TABLE records (
    seq INTEGER PRIMARY KEY, execution_id TEXT NOT NULL UNIQUE, created TEXT NOT NULL,
    body BLOB NOT NULL, body_sha256 TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL)"""
_COLUMNS = "seq, execution_id, created, body, body_sha256, previous, hash"


class RecordStore:
    """The records of this user (or at ``path``). Safe to use from several threads.

    ``content`` is what :func:`~runtime.control.record.reduce_content` keeps of texts.
    """

    def __init__(self, path: Path | None = None, *, content: Content = "ids") -> None:
        self.path = path if path is not None else private_dir(state_root()) / FILE_NAME
        self.content = content
        self._lock = threading.Lock()
        self._usable = True
        self._db = self._open()
        try:
            self._anchor = Anchor(self.path, self._head)
        except sqlite3.Error as cause:
            self._db.close()
            self._fail("opened", cause)
        except EngineError:
            self._db.close()
            raise

    def __enter__(self) -> RecordStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database; what was acknowledged is on disk already."""
        with self._lock:
            if self._usable:
                self._usable = False
                self._db.close()
                self._anchor.close()

    def append(self, record: Mapping[str, Any]) -> str:
        """Writes a record and returns its row's hash, once it is durable.

        Errors: ``record_invalid`` (no execution id, not JSON), ``record_exists`` (an
        execution is recorded once), ``records_unwritable``.
        """
        reduced = reduce_content(record, self.content)
        execution_id, created = reduced.get("execution_id"), reduced.get("created")
        if not isinstance(execution_id, str) or not _EXECUTION_ID.fullmatch(execution_id):
            raise EngineError(
                "record_invalid",
                f"{execution_id!r} is no execution id",
                path="execution_id",
                allowed="exec_ and 4 to 32 hex digits",
            )
        if not isinstance(created, str):
            raise EngineError("record_invalid", "the record has no time", path="created", allowed="RFC 3339")
        body = record_bytes(reduced)
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    if self._select("WHERE execution_id = ?", (execution_id,)):
                        raise EngineError(
                            "record_exists", f"{execution_id} is recorded already", path=str(self.path)
                        )
                    row = next_row(self._head(), execution_id, created, body)
                    self._db.execute(
                        f"INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (
                            row.seq,
                            row.execution_id,
                            row.created,
                            row.body,
                            row.body_sha256,
                            row.previous,
                            row.hash,
                        ),
                    )
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
                self._advance(row)
            except sqlite3.Error as cause:
                self._fail("written", cause)
        return row.hash

    def get(self, execution_id: str) -> dict[str, Any] | None:
        """The record of an execution, or None."""
        rows = self._read("WHERE execution_id = ?", (execution_id,))
        return _record(rows[0]) if rows else None

    def row(self, execution_id: str) -> Row | None:
        """The row of an execution with its place in the chain, or None."""
        rows = self._read("WHERE execution_id = ?", (execution_id,))
        return rows[0] if rows else None

    def find(self, name: str) -> dict[str, Any]:
        """The one record whose id begins with ``name`` (``exec_`` may be left out).

        Errors: ``run_not_found``, ``run_ambiguous``.
        """
        rows: Sequence[Row] = []
        if _PREFIX.fullmatch(name):
            begin = name if name.startswith("exec_") else f"exec_{name}"
            rows = self._read("WHERE substr(execution_id, 1, ?) = ? LIMIT 5", (len(begin), begin))
            rows = [row for row in rows if row.execution_id == begin] or rows
        if not rows:
            raise EngineError(
                "run_not_found",
                f"no execution {name!r} is recorded",
                path=str(self.path),
                hint="`engine runs list` shows those that are",
                exit_code=EXIT_USAGE,
            )
        if len(rows) > 1:
            raise EngineError(
                "run_ambiguous",
                f"{name!r} begins the ids of several executions",
                allowed=", ".join(row.execution_id for row in rows),
                exit_code=EXIT_USAGE,
            )
        return _record(rows[0])

    def list(self, *, limit: int = 100, before: str | None = None) -> list[dict[str, Any]]:
        """Records newest first; ``before`` an execution, to page on. An unknown one: ``run_not_found``."""
        if before is None:
            rows = self._read("ORDER BY seq DESC LIMIT ?", (limit,))
        else:
            mark = self.row(before)
            if mark is None:
                raise EngineError("run_not_found", f"no execution {before!r} is recorded", path="before")
            rows = self._read("WHERE seq < ? ORDER BY seq DESC LIMIT ?", (mark.seq, limit))
        return [_record(row) for row in rows]

    def head(self) -> dict[str, Any]:
        """``{"count", "hash"}`` of the last row; save it elsewhere to find later what was cut off."""
        with self._lock:
            try:
                return self._head().to_json()
            except sqlite3.Error as cause:
                self._fail("read", cause)

    def rows(self) -> Iterator[Row]:
        """Every row, oldest first, in pages: the store may be long and others may be appending."""
        last = -(1 << 63)
        while rows := self._read("WHERE seq > ? ORDER BY seq LIMIT 500", (last,)):
            yield from rows
            last = rows[-1].seq

    def verify(self, saved: RecordHead | None = None) -> tuple[RecordHead, Sequence[Fault]]:
        """Checks the whole chain, and the rows up to the head beside the store and up to a ``saved`` one.

        Gives the head, and what is wrong.
        """
        heads = {} if saved is None else {"the saved head": saved}
        # Read before the rows: others may be appending, and the chain only grows.
        with self._lock:
            anchor = self._anchor.read()
        if anchor is not None:
            heads[f"the head beside the store ({self._anchor.path.name})"] = anchor
        try:
            head, faults = verify_rows(self.rows(), heads)
        except EngineError as error:
            return EMPTY_HEAD, [Fault(None, None, error.message)]
        if anchor is None:
            faults.append(Fault(None, None, f"{self._anchor.path.name} beside the store holds no head"))
        with self._lock:
            guards = dict(self._db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
        for name, sql in _GUARDS.items():
            if " ".join((guards.get(name) or "").split()) != " ".join(sql.split()):
                faults.append(Fault(None, None, f"the store's guard {name} was removed or changed"))
        return head, faults

    def export(self) -> Iterator[str]:
        """Every row as a line of JSON: ``seq``, ``previous``, ``hash`` and ``record``."""
        for row in self.rows():
            line = {
                "seq": row.seq,
                "previous": row.previous,
                "hash": row.hash,
                "record": json.loads(row.body),
            }
            yield json.dumps(line, ensure_ascii=False, allow_nan=False)

    def _open(self) -> sqlite3.Connection:
        try:
            # The journal files that SQLite adds take their mode from this one.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            check_trusted(self.path.stat(), self.path, private=True)
        except OSError as cause:
            raise file_error(cause, self.path) from cause
        db: sqlite3.Connection | None = None
        try:
            db = sqlite3.connect(
                self.path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
            )
            if not _is_new(db) and db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                db.close()
                raise EngineError(
                    "records_damaged",
                    "the file is another program's database",
                    path=str(self.path),
                    exit_code=EXIT_MACHINE,
                )
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA trusted_schema = OFF")
            if _is_new(db):
                db.execute("BEGIN IMMEDIATE")
                if _is_new(db):  # nobody else made it meanwhile
                    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    db.execute(_TABLE)
                    for guard in _GUARDS.values():
                        db.execute(guard)
                db.execute("COMMIT")
        except sqlite3.Error as cause:
            if db is not None:
                db.close()
            self._fail("opened", cause)
        return db

    def _advance(self, row: Row) -> None:
        """Keeps the head that ``row`` made beside the store, if the one kept there is part of its chain.

        The row is durable already, so nothing that fails here fails the append.
        """
        try:
            kept = self._anchor.read()
            if kept is None or kept.count >= row.seq:
                return
            if kept.count and (kept.count, kept.hash) != (row.seq - 1, row.previous):
                found = self._db.execute("SELECT hash FROM records WHERE seq = ?", (kept.count,)).fetchone()
                if found != (kept.hash,):
                    return
            self._anchor.keep(RecordHead(row.seq, row.hash))
        except (OSError, sqlite3.Error):
            return

    def _select(self, tail: str, values: Sequence[object]) -> Sequence[Row]:
        found = self._db.execute(f"SELECT {_COLUMNS} FROM records {tail}", values)
        return [_row(columns) for columns in found]

    def _read(self, tail: str, values: Sequence[object]) -> Sequence[Row]:
        with self._lock:
            try:
                return self._select(tail, values)
            except sqlite3.Error as cause:
                self._fail("read", cause)

    def _head(self) -> RecordHead:
        found = self._db.execute("SELECT seq, hash FROM records ORDER BY seq DESC LIMIT 1").fetchone()
        return RecordHead(*found) if found else EMPTY_HEAD

    def _fail(self, verb: str, cause: sqlite3.Error) -> NoReturn:
        code, hint = "records_unwritable", "see that the disk has room and that the file may be written"
        if getattr(cause, "sqlite_errorname", "") in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
            code, hint = "records_damaged", "move the file away, or restore a copy of it"
        elif getattr(cause, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
            hint = f"another process has held the store's lock for {LOCK_SECONDS:g} s: end it, then try again"
        elif verb == "read":
            code, hint = "records_unreadable", "see that the file may be read"
        raise EngineError(
            code,
            f"the records could not be {verb}: {cause}",
            path=str(self.path),
            hint=hint,
            exit_code=EXIT_MACHINE,
        ) from cause


def _is_new(db: sqlite3.Connection) -> bool:
    tables: int = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return not tables


def _row(columns: tuple[Any, ...]) -> Row:
    """A row as it is found: SQLite keeps a value of any type in any column."""
    seq, execution_id, created, body, *digests = columns
    if not isinstance(body, bytes):
        body = str(body).encode(errors="surrogateescape")
    return Row(seq, str(execution_id), str(created), body, *map(str, digests))


def _record(row: Row) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(row.body)
    return record
