"""``engine tokenize`` and ``engine detokenize``: text to ids and back, without running a model."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.bundle.files import read_text
from runtime.cli.output import print_json
from runtime.errors import EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from runtime.engine.tokenizer import Tokenizer

_Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A GGUF file, a plan, a bundle, or a name in the model store.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

#: More ids than any context holds.
MAX_IDS = 1 << 24


def register(app: typer.Typer) -> None:
    """Adds the commands ``tokenize`` and ``detokenize``."""
    app.command()(tokenize)
    app.command()(detokenize)


def tokenize(
    model: _Model,
    text: Annotated[str | None, typer.Option("--text", "-t", help="The text.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="… from a file, - for stdin.")] = None,
    no_special: Annotated[
        bool, typer.Option("--no-special", help="Do not add beginning- and end-of-sequence tokens.")
    ] = False,
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help="Control tokens written in the text count as such.")
    ] = False,
    pieces: Annotated[bool, typer.Option("--pieces", help="One token a line, with its text.")] = False,
    as_json: _Json = False,
) -> None:
    """Print the token ids of a text, separated by spaces (--json: "ids" and "pieces")."""
    if (text is None) == (file is None):
        raise _usage("give either --text or --file", "engine tokenize MODEL --text TEXT")
    content = text if text is not None else _read(file)
    tokenizer = tokenizer_of(model)
    ids = tokenizer.encode(content, add_special=not no_special, parse_special=parse_special)
    if as_json:
        print_json({"ids": ids, "pieces": tokenizer.pieces(ids)})
    elif pieces:
        for token, piece in zip(ids, tokenizer.pieces(ids), strict=True):
            print(f"{token}\t{piece!r}")
    else:
        print(*ids)


def detokenize(
    model: _Model,
    ids: Annotated[str | None, typer.Option("--ids", help="Ids, separated by commas or spaces.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="… from a file, - for stdin.")] = None,
    skip_special: Annotated[
        bool, typer.Option("--skip-special", help="Leave control tokens out of the text.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Print the text of token ids, and nothing after it (--json: "text")."""
    if (ids is None) == (file is None):
        raise _usage("give either --ids or --file", 'engine detokenize MODEL --ids "1 15043"')
    tokens = parse_ids(ids if ids is not None else _read(file))
    text = tokenizer_of(model).decode(tokens, skip_special)
    if as_json:
        print_json({"text": text})
    else:
        sys.stdout.write(text + ("\n" if sys.stdout.isatty() else ""))


def tokenizer_of(model: str) -> Tokenizer:
    """The tokenizer of a bundle, a GGUF file, a plan's model or one in the store; compiles no weights."""
    from runtime.bundle import store
    from runtime.bundle.reader import is_bundle, open_bundle
    from runtime.engine.tokenizer import Tokenizer

    path = Path(model).expanduser()
    for place in (path, *([] if "/" in model else [store.bundles_dir() / model])):
        if is_bundle(place):
            return Tokenizer.from_bundle(open_bundle(place))
    from compiler.vocabulary.file import vocabulary_of_file

    files = vocabulary_of_file(model_file(model))
    return Tokenizer.from_files(files["tokenizer.json"], files["vocabulary.json"])


def model_file(model: str) -> Path:
    """The GGUF that ``model`` names: a file, a plan's model, or a name in the model store."""
    path = Path(model).expanduser()
    return path if _is_gguf(path) else _model_of(model)


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF" or path.suffix == ".gguf"
    except OSError:
        return path.suffix == ".gguf"  # its absence is then the error


def _model_of(name: str) -> Path:
    """The GGUF file of a plan, or of a name in the model store."""
    from compiler.plan import load_plan, locate_model
    from runtime.bundle.modelindex import stored_model

    if not Path(name).exists() and (stored := stored_model(name)) is not None:
        return stored.path
    return locate_model(load_plan(name))


def parse_ids(text: str) -> list[int]:
    """Ids separated by commas, white space or both, with or without brackets; EngineError ``usage``."""
    words = re.split(r"[\s,]+", text.strip().strip("[]").strip())
    words = [word for word in words if word]
    if len(words) > MAX_IDS:
        raise _usage(f"there are {len(words)} ids", f"at most {MAX_IDS}")
    for word in words:
        if re.fullmatch(r"[0-9]{1,9}", word) is None:
            hint = 'ids separated by commas or spaces: "1, 15043 29871"'
            raise _usage(f"{word[:40]!r} is not a token id", hint)
    return [int(word) for word in words]


def _read(file: Path | None) -> str:
    try:
        return read_text(Path(str(file)))
    except (OSError, UnicodeDecodeError) as cause:
        reason = getattr(cause, "strerror", None) or "it is not UTF-8"
        message = f"cannot be read: {reason}"
        raise EngineError("file_error", message, str(file), exit_code=EXIT_USAGE) from None


def _usage(message: str, hint: str) -> EngineError:
    return EngineError("usage", message, hint=hint, exit_code=EXIT_USAGE)
