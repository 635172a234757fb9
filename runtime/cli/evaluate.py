"""``engine eval``: what a quantization costs in quality, measured on a text and on the weights."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.bundle import files
from runtime.cli.evaluation import Row, Subject, as_text, to_json
from runtime.cli.flags import usage
from runtime.cli.output import Progress, note, print_json, progress_bars
from runtime.errors import EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from compiler.quantize.error import TensorError
    from runtime.cli.variants import Variants

#: Tokens a window has unless a plan's context is smaller; as llama-perplexity's.
CONTEXT = 512


#: Most bytes of a text that is evaluated: it is held and tokenized whole.
MOST_CORPUS = 1 << 30


def register(app: typer.Typer) -> None:
    """Adds the command ``eval``."""
    app.command("eval")(evaluate)


def evaluate(
    plans: Annotated[list[str], typer.Argument(metavar="PLAN...", help="Plans' files or names.")],
    text: Annotated[Path, typer.Option("--text", "-f", metavar="FILE", help="UTF-8 text, - for stdin.")],
    quants: Annotated[
        str | None, typer.Option(help="Recipes in place of the plans' own, separated by commas.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE|PLAN|none",
            help="What to compare with; default: the first plan's model, unquantized.",
        ),
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", "-c", help="Tokens of a window; default: 512.")
    ] = None,
    chunks: Annotated[int | None, typer.Option(min=1, help="Windows to take; default: all.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", "-t", min=1)] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="Show every tensor's error.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure perplexity, and KL divergence, top-token agreement and weights' error against a reference.

    The text is cut into windows; a window starts from an empty context, its first half is read, the
    predictions in its second half are judged (as llama-perplexity does). The reference is the same model
    with the weights as the file holds them, run through the same backend.
    """
    from runtime.engine.executable import Executable
    from runtime.engine.tokenizer import Tokenizer
    from runtime.laboratory.evaluate import cut, evaluate

    if tensors and reference == "none":
        raise usage("--tensors shows errors against a reference, and --reference is none")
    content = read_text(text)
    with progress_bars() as progress:
        subjects = _subjects(plans, quants)
        notes: list[str] = []
        against = _reference(plans[0], reference, notes)
        everyone = subjects if against is None else [against, *subjects]
        _check_vocabulary(everyone)
        size = _context(context, everyone)
        windows = cut(Tokenizer.from_bundle(everyone[0].bundle), content, size, chunks)
        for line in notes:
            note(f"note: {line}")
        with ExitStack() as stack:
            opened = [stack.enter_context(Executable.open(s.bundle, threads)) for s in everyone]
            found = evaluate(
                opened,
                windows,
                reference=None if against is None else 0,
                progress=None if progress is None else partial(progress, "evaluating"),
            )
        truth = None if against is None else against.model
        judged = found if against is None else found[1:]
        rows = [
            Row(s, quality, _errors(s, truth, progress)) for s, quality in zip(subjects, judged, strict=True)
        ]
    base = None if against is None else Row(against, found[0], None)
    if as_json:
        print_json(to_json(text, windows, base, rows, notes))
    else:
        print(as_text(text, windows, base, rows, tensors))


def read_text(path: Path) -> str:
    """The text of a file (``-``: stdin); EngineError ``text_unreadable`` where there is none or no UTF-8."""
    try:
        return files.read_text(path, MOST_CORPUS)
    except UnicodeDecodeError as cause:
        message = f"byte {cause.start} is not UTF-8 (0x{cause.object[cause.start]:02x})"
    except OSError as cause:
        message = f"cannot be read: {cause.strerror}"
    raise EngineError(
        "text_unreadable", message, path=str(path), allowed="a file of UTF-8 text", exit_code=EXIT_USAGE
    )


def _subjects(plans: list[str], quants: str | None) -> list[Subject]:
    from runtime.cli.variants import Variants

    recipes = None if quants is None else _recipes(quants)
    made: list[Subject] = []
    for name in plans:
        variants = Variants(name)
        if recipes is None:
            made.append(_subject(variants, variants.document()))
            continue
        for recipe in recipes:
            document = variants.document()
            old = document["quantization"]
            kept = {} if isinstance(old, str) else {k: v for k, v in old.items() if k != "overrides"}
            document["quantization"] = {**kept, "recipe": recipe}
            made.append(_subject(variants, document))
    return made


def _subject(variants: Variants, document: dict[str, Any], label: str | None = None) -> Subject:
    from runtime.cli.target import bundle_of_document

    quantization = document["quantization"]
    if isinstance(quantization, dict):
        if set(quantization) == {"recipe"}:
            document["quantization"] = quantization["recipe"]
        parts = [quantization["recipe"]]
        if count := len(quantization.get("overrides") or ()):
            parts.append(f"{count} override{'s' * (count != 1)}")
        parts += ["imatrix"] if quantization.get("imatrix") else []
    else:
        parts = [quantization]
    return Subject(
        plan=str(document["name"]),
        label=label or " + ".join(parts),
        document=document,
        model=variants.model_path,
        bundle=bundle_of_document(document),
    )


def _recipes(quants: str) -> list[str]:
    from runtime.bundle.planfields import RECIPES

    names = [name.strip() for name in quants.split(",")]
    if unknown := [name for name in names if name not in RECIPES]:
        raise EngineError(
            "unknown_recipe",
            f"there is no recipe {unknown[0]!r}",
            path="--quants",
            allowed=", ".join(RECIPES),
            exit_code=EXIT_USAGE,
        )
    return list(dict.fromkeys(names))


def _reference(plan: str, wanted: str | None, notes: list[str]) -> Subject | None:
    """The subject that the others are compared with; what it is worth knowing of it goes to ``notes``."""
    from compiler.formats import FORMATS
    from compiler.workflows.measure import are_floats, stored_types
    from runtime.bundle.planfields import RECIPES
    from runtime.cli.variants import Variants

    if wanted == "none":
        return None
    if wanted is not None and wanted not in RECIPES:
        variants = Variants(wanted)
        return _subject(variants, variants.document())
    variants = Variants(plan)
    stored = stored_types(variants.model_path)
    listed = ", ".join(f"{count} {kind}" for kind, count in stored.items())
    document = variants.document()
    if not are_floats(stored):
        notes.append(
            f"{variants.model_path.name} holds quantized weights ({listed}): the reference is those weights "
            "decoded, and what their quantization lost is not seen; --reference PLAN names a plan of the "
            "unquantized file"
        )
        # Of quantized weights, only f32 holds every decoded value.
        document["quantization"] = {"recipe": wanted or "f32", "requantize": True}
        return _subject(variants, document)
    recipe = wanted or ("source" if FORMATS.keys() >= stored.keys() else "f32")
    document["quantization"] = recipe
    return _subject(variants, document, f"source ({listed})" if recipe == "source" else None)


def _check_vocabulary(subjects: list[Subject]) -> None:
    """Raises ``vocabularies_differ`` where a token id does not mean the same to all."""
    from runtime.engine.tokenizer import Tokenizer

    first, *others = subjects
    mine: Tokenizer | None = None
    for other in others:
        files = [(s.bundle.manifest.files["tokenizer.json"].sha256) for s in (first, other)]
        if files[0] == files[1]:
            continue
        mine = mine or Tokenizer.from_bundle(first.bundle)
        theirs = Tokenizer.from_bundle(other.bundle)
        same = mine.n_vocab == theirs.n_vocab and all(
            mine.piece(i) == theirs.piece(i) for i in range(mine.n_vocab)
        )
        if not same:
            raise EngineError(
                "vocabularies_differ",
                f"{other.plan} and {first.plan} have different vocabularies",
                allowed="plans of models with one vocabulary",
                exit_code=EXIT_USAGE,
            )


def _context(wanted: int | None, subjects: list[Subject]) -> int:
    most = min(subject.bundle.plan.execution.context for subject in subjects)
    if wanted is not None and wanted > most:
        raise EngineError(
            "invalid_option",
            f"a window of {wanted} tokens does not fit the plan's context",
            path="--context",
            allowed=f"at most {most} (execution.context)",
            exit_code=EXIT_USAGE,
        )
    return wanted or min(CONTEXT, most)


def _errors(
    subject: Subject, truth: Path | None, progress: Progress | None
) -> tuple[TensorError, ...] | None:
    from compiler.workflows.measure import plan_errors

    report = None if progress is None else partial(progress, f"weights of {subject.label}")
    try:
        return plan_errors(subject.document, truth, report)
    except EngineError as error:
        if error.code != "models_differ":
            raise
        note(f"note: no error of the weights of {subject.plan}: {error}")
        return None
