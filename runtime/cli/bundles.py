"""``engine bundles``: what is compiled, how large it is, and getting rid of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.cli.output import megabytes, note, print_json, table
from runtime.errors import EXIT_BUNDLE, EngineError

bundles_app = typer.Typer(help="List, verify and remove compiled bundles.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Adds the group ``bundles``."""
    app.add_typer(bundles_app, name="bundles")


@bundles_app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """The bundles of the store: NAME ID SIZE MODIFIED, and what stored weights are unused."""
    from datetime import UTC, datetime

    from runtime.bundle import store
    from runtime.bundle.reader import read_manifest

    found: list[dict[str, Any]] = []
    for path in sorted(store.bundles_dir().iterdir()):
        if path.name.startswith(store.TEMPORARY):
            continue
        modified = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
        entry: dict[str, Any] = {"name": path.name, "path": str(path), "modified": modified}
        try:
            manifest, digest = read_manifest(path)
            entry |= {
                "plan": manifest.name,
                "digest": digest,
                "model": manifest.model_name,
                "backend": manifest.backend,
                "quantization": manifest.quantization,
                "engine_version": manifest.engine_version,
                "bytes": sum(file.size for file in manifest.files.values()),
            }
        except EngineError as error:
            entry["error"] = error.to_json()
        found.append(entry)
    unused = store.unused_weights()
    if as_json:
        print_json({"bundles": found, "unused_weights": [str(path) for path in unused]})
        return
    rows = [
        (
            entry["name"],
            entry["digest"][:12] if "digest" in entry else "damaged",
            megabytes(entry["bytes"]) if "bytes" in entry else "-",
            f"{entry['backend']} {entry['quantization']}" if "backend" in entry else "-",
            entry["modified"][:16].replace("T", " "),
        )
        for entry in found
    ]
    print(table(rows, ("NAME", "ID", "SIZE", "KIND", "MODIFIED (UTC)"), optional=(1, 4)))
    if unused:
        size = sum(path.stat().st_size for path in unused)
        what = f"{len(unused)} stored weights ({megabytes(size)}) are of no bundle"
        note(f"{what}: `engine bundles prune` removes them")


@bundles_app.command()
def remove(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Names as `list` shows them, or folders.")
    ],
) -> None:
    """Remove bundles. Weights that other bundles share stay; `prune` removes those that none does."""
    from runtime.bundle import store

    for path in [_path(name) for name in names]:
        with store.locked(path):
            store.remove_tree(path)
        note(f"removed {path.name}")


@bundles_app.command()
def prune() -> None:
    """Remove stored weights that no bundle is linked to, and leftovers of interrupted work."""
    from runtime.bundle import store

    freed = 0
    for folder in (store.bundles_dir(), store.weights_dir(), store.tools_dir(), store.cache_root()):
        store.sweep(folder)
    for path in store.unused_weights():
        with store.locked(path):
            if path.exists() and path.stat().st_nlink == 1:
                freed += path.stat().st_size
                path.unlink()
                path.with_suffix(".sha256").unlink(missing_ok=True)
    note(f"freed {megabytes(freed)}")


@bundles_app.command()
def verify(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Names as `list` shows them, or folders.")
    ],
) -> None:
    """Read every byte of bundles again and compare it with the manifest's digests."""
    from runtime.bundle.reader import open_bundle

    for name in names:
        bundle = open_bundle(_path(name), reread=True)
        print(f"{bundle.path.name}: {len(bundle.manifest.files)} files, digest {bundle.digest}")


def _path(name: str) -> Path:
    from runtime.bundle import store
    from runtime.bundle.reader import is_bundle

    stored = store.bundles_dir() / name
    for path in (Path(name).expanduser(), stored):
        if is_bundle(path) or (path == stored and "/" not in name and path.is_dir()):
            return path
    known = sorted(path.name for path in store.bundles_dir().iterdir())
    raise EngineError(
        "bundle_not_found",
        "there is no such bundle",
        path=name,
        allowed=", ".join(known) or None,
        hint="engine bundles list",
        exit_code=EXIT_BUNDLE,
    )
