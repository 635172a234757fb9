"""``engine imatrix``: which columns of a model's matrices matter, measured on a text."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli.output import megabytes, note, print_json, progress_bars


def register(app: typer.Typer) -> None:
    """Adds the command ``imatrix``."""
    app.command("imatrix")(imatrix)


def imatrix(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A GGUF file, a plan, or a name in the model store.")
    ],
    text: Annotated[
        Path, typer.Option("--text", "-f", metavar="FILE", help="UTF-8 text to calibrate with, - for stdin.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The GGUF to write.")],
    context: Annotated[int, typer.Option("--context", "-c", help="Tokens of a window.")] = 512,
    chunks: Annotated[int | None, typer.Option(min=1, help="Windows to take; default: all.")] = None,
    process_output: Annotated[
        bool, typer.Option("--process-output", help="Measure the output projection as well.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write an importance matrix, for a plan's quantization.imatrix; GGUF in llama-imatrix's form.

    The text runs through the model with the file's own weights, window by window, in NumPy; the squares
    of what each matrix takes in are summed. Take a text like those the model will see, and another one
    to evaluate with.
    """
    from compiler.model.reader import read_model
    from compiler.quantize.imatrix import write_importance
    from compiler.workflows.calibrate import collect
    from runtime.cli.evaluate import read_text
    from runtime.cli.tokenize import model_file, tokenizer_of
    from runtime.laboratory.evaluate import cut

    content = read_text(text)
    with progress_bars() as progress:
        described = read_model(model_file(model))
        windows = cut(tokenizer_of(model), content, context, chunks)
        report = None if progress is None else partial(progress, "calibrating")
        sums = collect(described, list(windows.ids), output=process_output, progress=report)
    size = write_importance(
        out, sums, datasets=[text.name], chunks=len(windows.ids), chunk_size=windows.context
    )
    tokens = int(windows.ids.size)
    if as_json:
        body = {"file": str(out), "bytes": size, "windows": len(windows.ids), "tokens": tokens}
        unseen = {name: int((seen.counts == 0).sum()) for name, seen in sums.items()}
        never = {name: count for name, count in unseen.items() if count}
        print_json({**body, "tensors": list(sums), "experts_never_chosen": never})
    else:
        note(f"{out}: {megabytes(size)}, {len(sums)} tensors, {tokens} tokens of {text}")
