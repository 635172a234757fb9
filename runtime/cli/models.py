"""``engine models``: names for GGUF files, and models from a hub."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.bundle.modelindex import StoredModel, is_store_name
from runtime.cli.output import megabytes, note, print_json, progress_bars, table

models_app = typer.Typer(help="The model store: names for GGUF files.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str | None, typer.Option("--name", help="Name in the store; by default the file's.")]
Replace = Annotated[bool, typer.Option("--replace", help="Let the name stand for other content from now on.")]


def register(app: typer.Typer) -> None:
    """Adds the group ``models``."""
    app.add_typer(models_app, name="models")


@models_app.command()
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A GGUF file, or any part of a split one.")],
    name: Name = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Check a GGUF file and give it a name."""
    _print_added(_add(file, name, None, replace, quiet=as_json), as_json)


@models_app.command()
def pull(
    reference: Annotated[str, typer.Argument(metavar="hf:OWNER/REPO[:FILE|QUANT]", help="What to fetch.")],
    name: Name = None,
    replace: Replace = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a model from a hub into its cache and give it a name.

    Where no file or quantization is named, BF16 or F16 is preferred: plans quantize.
    HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_CACHE count. An interrupted pull goes on
    where it stopped.
    """
    from runtime.shelf.hub import pull_model

    pulled = pull_model(reference, revision)
    note(f"fetched {pulled.source}")
    _print_added(_add(pulled.path, name, pulled.source, replace, quiet=as_json), as_json)


@models_app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the models of the store."""
    from runtime.shelf.models import is_present, list_models

    models = list_models()
    if as_json:
        print_json([_to_json(model) for model in models])
        return
    now = time.time_ns()
    rows: list[tuple[str, ...]]
    rows = [(m.name, m.digest[:12], megabytes(m.size), ago(now - m.modified)) for m in models]
    print(table(rows, ("NAME", "ID", "SIZE", "MODIFIED")))
    for model in models:
        if not is_present(model):
            note(f"note: {model.name}: {model.path} is gone or was changed")


@models_app.command()
def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name in the store, or a GGUF file.")],
    as_json: AsJson = False,
) -> None:
    """Show what is known of a model, by sections."""
    from runtime.shelf.models import get_model

    if is_store_name(model) and not Path(model).is_file():
        body = _to_json(get_model(model))
    else:
        digest, first, about = _describe(Path(model), quiet=as_json)
        size = sum(part["size"] for part in about["files"])
        body = {"path": str(first.absolute()), "digest": digest, "size": size, "about": about}
    if as_json:
        print_json(body)
    else:
        _print_sections(body)


@models_app.command()
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names in the store.")],
    as_json: AsJson = False,
) -> None:
    """Forget names; the files stay where they are."""
    from runtime.shelf.models import remove_model

    removed = []
    for name in names:
        entry = remove_model(name)
        removed.append({"name": name, "path": str(entry.path) if entry is not None else None})
        if not as_json:
            kept = f"; its file stays at {entry.path}" if entry is not None else ""
            print(f"removed {name}{kept}")
    if as_json:
        print_json(removed)


def _describe(path: Path, *, quiet: bool) -> tuple[str, Path, dict[str, Any]]:
    """Digest, first file and summary of a GGUF model; the compiler reads it."""
    from compiler.model.about import about_model
    from compiler.model.reader import read_model

    with progress_bars(not quiet) as progress:
        model = read_model(path, progress and partial(progress, "reading the model"))
    return model.digest, model.path, about_model(model)


def _add(path: Path, name: str | None, source: str | None, overwrite: bool, *, quiet: bool) -> StoredModel:
    from runtime.shelf.models import add_model, store_name

    store_name(path, name)  # a bad name is told before gigabytes are read
    digest, first, about = _describe(path, quiet=quiet)
    return add_model(first, digest, about, name=name, source=source, overwrite=overwrite)


def _print_added(model: StoredModel, as_json: bool) -> None:
    if as_json:
        print_json(_to_json(model))
    else:
        print(f"{model.name}  {model.digest[:12]}  {megabytes(model.size)}  {model.path}")


def _to_json(model: StoredModel) -> dict[str, Any]:
    from runtime.shelf.models import is_present

    return {**model.to_json(), "id": model.digest[:12], "present": is_present(model)}


def ago(nanoseconds: int) -> str:
    """A span of time as people say it: ``3 days ago``."""
    seconds = max(0, nanoseconds // 10**9)
    for unit, length in (("year", 31_536_000), ("month", 2_592_000), ("week", 604_800), ("day", 86_400)):
        if seconds >= 2 * length or (unit == "day" and seconds >= length):
            count = seconds // length
            return f"{count} {unit}{'s' * (count != 1)} ago"
    for unit, length in (("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}{'s' * (seconds // length != 1)} ago"
    return "just now"


def parameter_count(count: int) -> str:
    """A number of parameters as models are named by: ``1.24B``, ``135M``."""
    for suffix, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{suffix}"
    return str(count)


_LABELS = {
    "architecture": "architecture",
    "parameters": "parameters",
    "context_length": "context length",
    "embedding_length": "embedding length",
    "layers": "layers",
    "heads": "heads",
    "kv_heads": "KV heads",
    "feed_forward_length": "feed-forward length",
    "experts": "experts",
    "experts_used": "experts used",
    "vocabulary": "vocabulary",
    "tokenizer": "tokenizer",
    "pre_tokenizer": "pre-tokenizer",
    "chat_template": "chat template",
}


def _print_sections(body: dict[str, Any]) -> None:
    about = body["about"]
    facts = {**about, "parameters": parameter_count(about["parameters"])}
    facts["chat_template"] = "yes" if about["chat_template"] else "no"
    _section("Model", [(label, str(facts[key])) for key, label in _LABELS.items() if key in facts])
    _section(
        "Tensors",
        [
            (kind, f"{entry['tensors']} tensors", megabytes(entry["bytes"]))
            for kind, entry in about["tensor_types"].items()
        ],
    )
    files: list[tuple[str, ...]] = [("name", body["name"])] if "name" in body else []
    files += [("path", body["path"]), ("size", megabytes(body["size"])), ("digest", body["digest"])]
    files += [("parts", str(len(about["files"])))] if len(about["files"]) > 1 else []
    files += [("source", body["source"])] if body.get("source") else []
    files += [("present", "no: gone or changed since it was added")] if body.get("present") is False else []
    _section("File", files)
    if "license" in about:
        _section("License", [(about["license"],)])


def _section(title: str, rows: list[tuple[str, ...]]) -> None:
    if rows:
        print(f"{title}")
        print("\n".join(f"  {line}" for line in table(rows).splitlines()))
        print()
