"""``engine logits``: the logits of given token ids, for conformance and debugging."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from runtime.bundle.files import read_text
from runtime.cli.output import note, print_json
from runtime.errors import EXIT_USAGE, EngineError


def register(app: typer.Typer) -> None:
    """Adds the command ``logits``."""
    app.command()(logits)


def logits(
    target: Annotated[str, typer.Argument(metavar="PLAN|BUNDLE", help="A plan's file or name, or a bundle.")],
    tokens: Annotated[Path, typer.Option(help="A file of token ids, separated by commas or spaces.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The .npy to write: float32, tokens x vocabulary.")
    ],
    threads: Annotated[int | None, typer.Option("--threads", "-t")] = None,
    step_tokens: Annotated[
        int | None, typer.Option(help="Tokens a step takes; the plan's at most. Changes no bit.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print shape and digest as JSON.")] = False,
) -> None:
    """Run token ids through a plan and write the logits of every position to a NumPy file."""
    from hashlib import blake2b

    import numpy as np

    from runtime.bundle.store import file_error
    from runtime.cli.target import bundle_of
    from runtime.engine.executable import Executable

    ids = read_ids(tokens)
    with Executable.open(bundle_of(target, quiet=as_json), threads) as executable:
        limits = executable.limits
        _check(ids, limits.context, limits.n_vocab)
        chunk = min(step_tokens or limits.step_tokens, limits.step_tokens)
        if chunk < 1:
            raise _usage("--step-tokens is out of range", f"1 to {limits.step_tokens}")
        rows = np.empty((len(ids), limits.n_vocab), np.float32)
        for begin in range(0, len(ids), chunk):
            part = ids[begin : begin + chunk]
            positions = list(range(begin, begin + len(part)))
            rows[begin : begin + len(part)] = executable.forward(
                [0] * len(part), positions, part, [True] * len(part)
            )
    try:
        with out.open("wb") as file:
            np.save(file, rows)
    except OSError as cause:
        raise file_error(cause, out) from cause
    digest = blake2b(rows.data, digest_size=32).hexdigest()
    if as_json:
        print_json({"file": str(out), "shape": list(rows.shape), "logits_digest": digest})
    else:
        note(f"{out}: float32 {rows.shape[0]} x {rows.shape[1]}, digest {digest[:16]}")


def read_ids(path: Path) -> list[int]:
    """Token ids from a file: integers separated by commas, spaces or lines, brackets allowed."""
    try:
        text = read_text(path).strip().removeprefix("[").removesuffix("]")
        ids = [int(word) for word in re.split(r"[\s,]+", text.strip()) if word]
    except (OSError, ValueError) as cause:
        raise _usage(
            f"{path} is not a file of token ids: {cause}", "integers separated by commas or spaces"
        ) from None
    if not ids:
        raise _usage(f"{path} holds no token ids", "integers separated by commas or spaces")
    return ids


def _check(ids: list[int], context: int, n_vocab: int) -> None:
    if len(ids) > context:
        raise _usage(f"{len(ids)} tokens are more than the context", f"at most {context} (execution.context)")
    if min(ids) < 0 or max(ids) >= n_vocab:
        raise _usage("a token id is outside the vocabulary", f"0 to {n_vocab - 1}")


def _usage(message: str, allowed: str) -> EngineError:
    return EngineError("usage", message, path="--tokens", allowed=allowed, exit_code=EXIT_USAGE)
