"""``engine runs``: the records of executions, their chain, and how two compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.bundle.files import read_whole
from runtime.cli.output import note, print_json, table
from runtime.errors import EXIT_FAILURE, EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from runtime.control.chain import RecordHead
    from runtime.control.records import RecordStore

_Store = Annotated[Path | None, typer.Option("--store", help="Another store than this user's.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Adds the group ``runs``."""
    group = typer.Typer(help="Execution records: append-only, chained by hashes.", no_args_is_help=True)
    group.command("list")(list_runs)
    group.command()(show)
    group.command()(compare)
    group.command()(verify)
    group.command()(head)
    group.command()(export)
    app.add_typer(group, name="runs")


def _open(store: Path | None) -> RecordStore:
    from runtime.control.records import RecordStore

    if store is not None and not store.is_file():
        raise EngineError("records_missing", "there is no such store", str(store), exit_code=EXIT_USAGE)
    return RecordStore(store)


def list_runs(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="Most rows.")] = 20,
    before: Annotated[str | None, typer.Option(help="Only what was recorded before this one.")] = None,
    as_json: _Json = False,
    store: _Store = None,
) -> None:
    """The latest executions, newest first."""
    with _open(store) as records:
        mark = records.find(before)["execution_id"] if before else None
        found = records.list(limit=limit, before=mark)
    if as_json:
        print_json(found)
        return
    if not found:
        note("no execution is recorded yet; `engine run PLAN --prompt TEXT` records one")
        return
    rows: list[tuple[str, ...]] = [
        (
            record["execution_id"],
            record["created"][:19].replace("T", " "),
            _text(record, "bundle.name"),
            record["stop_reason"],
            _number(record, "metrics.tokens_total"),
            _number(record, "metrics.tokens_per_sec"),
            _number(record, "metrics.watts_avg"),
            _text(record, "logits_digest")[:12],
        )
        for record in found
    ]
    header = ("ID", "CREATED (UTC)", "BUNDLE", "ENDED BY", "TOKENS", "TOK/S", "WATTS", "LOGITS")
    print(table(rows, header, optional=(7, 6, 3, 1)))


def show(
    execution: Annotated[str, typer.Argument(help="An id, or its first digits.")],
    as_json: _Json = False,
    store: _Store = None,
) -> None:
    """One record, by sections."""
    with _open(store) as records:
        record = records.find(execution)
        row = records.row(record["execution_id"])
    if as_json:
        print_json(record)
        return
    assert row is not None
    sections: list[tuple[str, list[tuple[str, str]]]] = [
        (
            "execution",
            [
                ("id", record["execution_id"]),
                ("created", record["created"]),
                ("ended by", record["stop_reason"]),
                *([("error", record["error"]["message"])] if record["error"] else []),
                ("row", f"{row.seq}  {row.hash}"),
            ],
        ),
        (
            "decided by",
            [
                ("plan", record["plan_digest"]),
                ("bundle", f"{_text(record, 'bundle.name')}  {_text(record, 'bundle.digest')}"),
                ("model", f"{_text(record, 'model.name')}  {_text(record, 'model.digest')}"),
                ("backend", f"{record['backend']}, {record['quantization']}"),
                ("policy", record["policy"]),
                ("seed", str(record["seed"])),
                ("engine", record["engine_version"]),
                ("compiler", f"{_text(record, 'compiler.name')} {_text(record, 'compiler.version')}"),
                ("CPU", f"{_text(record, 'hardware.cpu_model')}, {_text(record, 'hardware.cpus')} CPUs"),
            ],
        ),
        (
            "result",
            [
                ("prompt", f"{record['prompt_tokens']} tokens  {record['prompt_ids_sha256']}"),
                ("text", record["text"] if record["text"] is not None else f"sha256 {record['text_sha256']}"),
                ("logits", str(record["logits_digest"])),
            ],
        ),
        ("metrics", [(key, _shown(value)) for key, value in record["metrics"].items()]),
        (
            "diagnostics",
            [
                (key, _shown(value))
                for key, value in record["diagnostics"].items()
                if key not in ("unknown", "energy")
            ],
        ),
        ("unknown", list(record["diagnostics"].get("unknown", {}).items())),
        ("decisions", [(d.get("action", ""), _decision(d)) for d in record["decisions"]]),
    ]
    for title, rows in sections:
        if rows:
            print(f"{title}\n{table([('  ' + key, value) for key, value in rows])}")


def compare(
    a: Annotated[str, typer.Argument(help="An id, or several repetitions separated by commas.")],
    b: Annotated[str, typer.Argument(help="What it is compared with.")],
    as_json: _Json = False,
    store: _Store = None,
) -> None:
    """Two executions, metric by metric; refuses what is not comparable.

    Several repetitions a side are compared by their medians. Exit code 0 if the metrics that the
    requirements judge keep their tolerance (3 % of tokens/s, 5 % of watts), 1 if not.
    """
    from runtime.control.compare import compare_runs

    with _open(store) as records:
        sides = [[records.find(name) for name in side.split(",")] for side in (a, b)]
    comparison = compare_runs(sides[0], sides[1])
    if as_json:
        print_json(comparison.to_json())
    else:
        rows: list[tuple[str, ...]] = [
            (
                name,
                _shown(m.a),
                _shown(m.b),
                "" if m.change is None else f"{m.change:+.1%}",
                f"± {m.tolerance:.0%}",
                m.verdict,
            )
            for name, m in comparison.metrics.items()
        ]
        print(table(rows, ("METRIC", "A", "B", "CHANGE", "TOLERANCE", "VERDICT")))
        for line in comparison.notes:
            note(f"note: {line}")
    if comparison.within_tolerance is False:
        raise typer.Exit(EXIT_FAILURE)


def verify(
    saved: Annotated[
        str | None,
        typer.Option("--head", help="A head saved earlier: COUNT:HASH, or a file that `runs head` wrote."),
    ] = None,
    as_json: _Json = False,
    store: _Store = None,
) -> None:
    """Check that no record was edited, removed or reordered.

    A tail that was cut off, a store that was emptied, or one rewritten from some row on, is found
    against the head that is kept beside the store (FILE.head; remove both to begin anew), and against
    one saved elsewhere, which whoever can write to the store cannot reach. Exit code 1 if anything is
    wrong.
    """
    with _open(store) as records:
        head, faults = records.verify(None if saved is None else parse_head(saved))
    if as_json:
        print_json({"ok": not faults, "head": head.to_json(), "faults": [f.to_json() for f in faults]})
    else:
        for fault in faults:
            where = "" if fault.seq is None else f"row {fault.seq}: "
            print(f"{where}{fault.execution_id + ': ' if fault.execution_id else ''}{fault.what}")
        print(f"{head.count} records, head {head.hash}, {len(faults)} faults")
    if faults:
        raise typer.Exit(EXIT_FAILURE)


def head(as_json: _Json = False, store: _Store = None) -> None:
    """The end of the chain, COUNT:HASH: keep it elsewhere, for `engine runs verify --head`."""
    with _open(store) as records:
        found = records.head()
    if as_json:
        print_json(found)
    else:
        print(f"{found['count']}:{found['hash']}")


def export(
    store: _Store = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file instead of stdout.")] = None,
) -> None:
    """Every record with its place in the chain, one line of JSON each, oldest first."""
    with _open(store) as records:
        lines = (line + "\n" for line in records.export())
        if out is None:
            sys.stdout.writelines(lines)
            return
        try:
            with out.open("x", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as cause:
            raise EngineError(
                "not_writable", f"{cause.strerror}", str(out), hint="name a file that does not exist yet"
            ) from cause


def parse_head(text: str) -> RecordHead:
    """``COUNT:HASH``, or the file that holds it; raises ``invalid_head``."""
    import re

    from runtime.control.chain import RecordHead

    path = Path(text)
    word = text
    if ":" not in text and path.is_file():
        word = read_whole(path, 1 << 10).decode(errors="replace").strip()
    match = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", word)
    if match is None:
        raise EngineError(
            "invalid_head",
            f"{text!r} is no saved head",
            path="--head",
            allowed="COUNT:HASH as `engine runs head` prints it, or a file with it",
            exit_code=EXIT_USAGE,
        )
    return RecordHead(int(match[1]), match[2])


def _decision(decision: dict[str, Any]) -> str:
    """A scheduler's decision on a line: when since the arrival, why, and the numbers it rests on."""
    known = {"action", "reason", "at_ms", "step", "steps"}
    numbers = [
        f"{name.removesuffix('_ns')} {value / 1e6:.4g} ms" if name.endswith("_ns") else f"{name} {value}"
        for name, value in decision.items()
        if name not in known and isinstance(value, int | float)
    ]
    at, steps = decision.get("at_ms"), decision.get("steps", 1)
    when = "" if at is None else f"{at:9.1f} ms  "
    times = f", {steps} times" if steps > 1 else ""
    return f"{when}step {decision.get('step')}{times}: {', '.join([decision.get('reason', ''), *numbers])}"


def _value(record: dict[str, Any], path: str) -> Any:
    from runtime.control.compare import lookup

    return lookup(record, path)


def _text(record: dict[str, Any], path: str) -> str:
    value = _value(record, path)
    return "-" if value is None else str(value)


def _number(record: dict[str, Any], path: str) -> str:
    return _shown(_value(record, path))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
