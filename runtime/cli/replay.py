"""``engine replay``: run a record again; identical, or the first token that differs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.bundle.files import read_text
from runtime.cli.flags import given, usage
from runtime.cli.output import note, print_json
from runtime.errors import EXIT_FAILURE, EXIT_USAGE, EngineError


def register(app: typer.Typer) -> None:
    """Adds the command ``replay``."""
    app.command()(replay)


def replay(
    execution: Annotated[str, typer.Argument(help="An id in the records, or its first digits.")],
    bundle: Annotated[
        Path | None, typer.Option(help="Run on this bundle instead of the one that ran, found by its digest.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The prompt, where the record keeps only its hash.")
    ] = None,
    prompt_file: Annotated[Path | None, typer.Option("--prompt-file", "-f", help="… from a file.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", "-t", min=1, help="Other than then.")] = None,
    save_plan: Annotated[
        Path | None, typer.Option(help="Only write the record's plan to this new file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    store: Annotated[Path | None, typer.Option("--store", help="Another store than this user's.")] = None,
) -> None:
    """Run a recorded execution again and compare its logits token by token.

    Exit code 0 if it came out identical, 1 if not: then the first token whose logits (or whose
    choice) differ is named.
    """
    from runtime.cli.runs import _open
    from runtime.engine.loop import Engine
    from runtime.laboratory.replay import find_bundle, plan_document
    from runtime.laboratory.replay import replay as run_again

    if prompt is not None and prompt_file is not None:
        raise usage("give one of --prompt and --prompt-file")
    if save_plan is not None:
        others = given(bundle=bundle, prompt=prompt, prompt_file=prompt_file, threads=threads)
        if others or as_json:
            words = ", ".join(f"--{name.replace('_', '-')}" for name in (*others, *["json"] * as_json))
            raise usage(f"--save-plan runs nothing: {words} would be ignored", f"engine replay {execution}")
    with _open(store) as records:
        record = records.find(execution)
    if record.get("prompt_ids") is not None and (prompt is not None or prompt_file is not None):
        raise usage("the record keeps its prompt; it needs none", f"engine replay {record['execution_id']}")
    if save_plan is not None:
        _write_plan(save_plan, plan_document(record))
        note(f"wrote {save_plan}; compile it with `engine compile {save_plan}`")
        return
    if prompt_file is not None:
        try:
            prompt = read_text(prompt_file)
        except (OSError, UnicodeDecodeError) as cause:
            reason = getattr(cause, "strerror", None) or "it is not UTF-8"
            raise EngineError(
                "unreadable", f"cannot be read: {reason}", str(prompt_file), exit_code=EXIT_USAGE
            ) from cause
    engine = Engine.open(bundle if bundle is not None else find_bundle(record), threads)
    try:
        result = run_again(record, engine, prompt)
    finally:
        engine.close()
    if as_json:
        print_json(result.to_json())
    else:
        for line in result.notes:
            note(f"note: {line}")
        if result.identical:
            print(f"identical: {result.tokens} tokens, logits {result.replayed_digest[:16]}")
        else:
            print(f"differs from token {result.first_difference} on: its {result.what} differ")
    if not result.identical:
        raise typer.Exit(EXIT_FAILURE)


def _write_plan(path: Path, document: dict[str, object]) -> None:
    import yaml

    try:
        with path.open("x", encoding="utf-8") as file:
            yaml.safe_dump(document, file, sort_keys=False, allow_unicode=True)
    except OSError as cause:
        raise EngineError("not_writable", str(cause.strerror), str(path), exit_code=EXIT_USAGE) from cause
