"""``engine cache``: the pages that ``execution.prefix_cache: disk`` keeps."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from runtime.cli.output import megabytes, note, print_json, table
from runtime.errors import EXIT_FAILURE

cache_app = typer.Typer(help="List, verify and prune the prefix caches on disk.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Adds the group ``cache``."""
    app.add_typer(cache_app, name="cache")


@cache_app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """The prefix caches: MODEL KV BLOCKS TOKENS SIZE USED, one line for each model and KV type."""
    from datetime import UTC, datetime

    from runtime.bundle.store import prefixes_dir
    from runtime.engine.pagestore import caches

    found: list[dict[str, Any]] = []
    for cache in caches(prefixes_dir()):
        used = datetime.fromtimestamp(cache.used_ns / 1e9, UTC).isoformat(timespec="seconds")
        sizes = {"blocks": cache.blocks, "bytes": cache.bytes, "used": used}
        found.append({**cache.about, "key": cache.folder.name, **sizes})
    if as_json:
        print_json({"caches": found})
        return
    rows = [
        (
            str(entry.get("model", "?")),
            str(entry.get("kv_cache", "?")),
            entry["key"][:12],
            str(entry["blocks"]),
            megabytes(entry["bytes"]),
            entry["used"][:16].replace("T", " "),
        )
        for entry in found
    ]
    print(table(rows, ("MODEL", "KV", "KEY", "BLOCKS", "SIZE", "USED (UTC)"), optional=(2, 5)))


@cache_app.command()
def verify(
    target: Annotated[str, typer.Argument(metavar="PLAN", help="A plan, a GGUF file or a bundle.")],
    sample: Annotated[int, typer.Option(min=0, help="Whole blocks that are computed again.")] = 4,
    threads: Annotated[int | None, typer.Option("--threads", "-t", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Check every kept block of a plan's model by its digest, compute a sample again, compare the bits.

    Exit code 1 if a block holds other bits than the computation gives.
    """
    from runtime.cli.target import bundle_of
    from runtime.engine.executable import Executable
    from runtime.engine.pagestore import store_of
    from runtime.laboratory.prefixes import check_prefixes

    with Executable.open(bundle_of(target, quiet=as_json), threads) as executable:
        store = store_of(executable.bundle, executable.page_groups)
        checked = check_prefixes(executable, store, sample)
    if as_json:
        print_json({**vars(checked), "different": list(checked.different)})
    else:
        print(
            f"{checked.blocks} blocks whole, {checked.damaged} damaged and removed, "
            f"{checked.recomputed} computed again, {len(checked.different)} different"
        )
        for path in checked.different:
            print(f"  {path}")
    if checked.different:
        raise typer.Exit(EXIT_FAILURE)


@cache_app.command()
def prune(
    megabytes_kept: Annotated[
        int, typer.Option("--keep-mb", min=0, help="MiB of the most recently used that stay, in all.")
    ] = 0,
) -> None:
    """Remove kept pages, the least recently used first; without --keep-mb, all of them."""
    from runtime.bundle.store import prefixes_dir
    from runtime.engine.pagestore import prune_caches

    freed = prune_caches(prefixes_dir(), megabytes_kept << 20)
    note(f"freed {megabytes(freed)}")
