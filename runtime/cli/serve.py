"""``engine serve``: plans behind the HTTP API."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.bundle.files import read_text
from runtime.cli import flags
from runtime.cli.output import note
from runtime.errors import EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from runtime.bundle.reader import Bundle
    from runtime.cli.target import Named
    from runtime.control.plane import ControlPlane

_NETWORK = "Network and safety"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
#: A shorter switch interval lets the thread that runs steps take the interpreter back at once.
SWITCH_SECONDS = 0.0005


def register(app: typer.Typer) -> None:
    """Adds the command ``serve``."""
    app.command()(serve)


@flags.expanded
def serve(
    plans: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PLAN|BUNDLE|GGUF]...",
            help="Plans, bundles or models' files; each is compiled if it is not yet.",
        ),
    ] = None,
    made: flags.Made = flags.Made(),  # noqa: B008 (replaced by its flags)
    host: Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=_NETWORK)] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, rich_help_panel=_NETWORK)] = 8080,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the bearer key (or set ENGINE_API_KEY); required beyond loopback.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A further name in the Host header to accept.", rich_help_panel=_NETWORK),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Pages of this origin may call (https://…).", rich_help_panel=_NETWORK),
    ] = None,
    allow_compile: Annotated[
        bool,
        typer.Option(
            "--allow-compile", help="Requests may compile proposed plans.", rich_help_panel=_NETWORK
        ),
    ] = False,
    max_plans: Annotated[int, typer.Option(min=1, max=64, help="Most plans served at once.")] = 8,
    queue: Annotated[int, typer.Option(min=1, max=100_000, help="Executions that may wait, a plan.")] = 64,
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", min=1, help="Instead of the plans'.")
    ] = None,
    drain_seconds: Annotated[
        float, typer.Option(min=0, max=3600, help="Time for executions to end after SIGTERM.")
    ] = 30.0,
    keep_watts: Annotated[
        bool,
        typer.Option(
            "--keep-watts",
            help="Refuse a request's max_watts where there is no meter, instead of recording it as advisory.",
        ),
    ] = False,
    records: Annotated[Path | None, typer.Option(help="The file of records, instead of this user's.")] = None,
    record_content: Annotated[
        str, typer.Option(help="What records keep of prompts and answers: hashes, ids or text.")
    ] = "ids",
) -> None:
    """Serve plans over HTTP until SIGTERM or Ctrl-C.

    Loopback only, unless --host says otherwise and there is a key. Without a plan, --model makes one, as
    in engine run. What cannot be served is refused before the port is opened.
    """
    named = _named(plans or [], made)
    if len(named) > max_plans:
        raise flags.usage(f"{len(named)} plans are more than --max-plans {max_plans}")
    key = _key(api_key_file)
    if host not in _LOOPBACK and key is None:
        raise EngineError(
            "key_required",
            f"listening on {host} reaches beyond this machine",
            path="--host",
            hint="give --api-key-file FILE or set ENGINE_API_KEY, or listen on 127.0.0.1",
            exit_code=EXIT_USAGE,
        )
    import logging
    import sys

    from runtime.api.server import Server
    from runtime.api.service import Service, Settings
    from runtime.api.telemetry import Telemetry
    from runtime.control.plane import ControlPlane
    from runtime.control.record import CONTENT
    from runtime.control.records import RecordStore
    from runtime.metrics.energy_probe import probe_meters

    content = next((choice for choice in CONTENT if choice == record_content), None)
    if content is None:
        raise EngineError(
            "invalid_option",
            f"{record_content!r} is not a choice",
            path="--record-content",
            allowed=", ".join(CONTENT),
            exit_code=EXIT_USAGE,
        )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    sys.setswitchinterval(SWITCH_SECONDS)
    telemetry = Telemetry()
    settings = Settings(
        api_key=key,
        allowed_hosts=(*_LOOPBACK, host, *(name.lower() for name in allow_host or ())),
        allowed_origins=tuple(allow_origin or ()),
        keep_watts=keep_watts,
        allow_compile=allow_compile,
        max_plans=max_plans,
    )
    bundles = [one.bundle() for one in named]
    with RecordStore(records, content=content) as store:
        plane = ControlPlane(
            records=store,
            meter=probe_meters(),
            queue_limit=queue,
            settled=telemetry.settled,
            stepped=telemetry.stepped,
        )
        service = Service(plane, settings, telemetry)
        if plane.meter.reason is not None:
            note(f"note: no energy is measured: {plane.meter.reason}")
        Server(
            service,
            host=host,
            port=port,
            drain_seconds=drain_seconds,
            load=lambda: _load(service, named, bundles, threads),
            announce=lambda url: note(f"listening on {url}"),
        ).run()
    note("stopped")


def _named(plans: list[str], made: flags.Made) -> list[Named]:
    """What is to be served; raises ``usage`` where nothing is named, or flags stand beside plans only."""
    from runtime.cli.target import Named, is_gguf

    here = replace(made, model=None)
    files = any(is_gguf(plan) for plan in plans)
    if made.model is None and not files:
        Named.of(plans[0] if plans else None, made, "serve")
    named = [Named.of(plan, here if is_gguf(plan) else flags.Made(), "serve") for plan in plans]
    return named if made.model is None else [*named, Named.of(None, made, "serve")]


def _load(service: object, named: list[Named], bundles: list[Bundle], threads: int | None) -> None:
    """Loads the bundles in order, and takes proposals."""
    from runtime.api.service import Service
    from runtime.bundle.format import bundle_notes
    from runtime.bundle.reader import open_bundle
    from runtime.shelf.loading import load_bundle
    from runtime.shelf.proposals import Proposals

    assert isinstance(service, Service)
    plane = service.plane
    for one, opened in zip(named, bundles, strict=True):
        note(f"loading {one.target}")
        bundle = load_bundle(opened, threads=threads)
        plane.serve(bundle)
        limits = bundle.engine.limits
        note(
            f"serving {bundle.info.name}: {bundle.info.quantization} on {bundle.info.backend}, "
            f"{limits.slots} slots of {limits.context} tokens"
        )
        for text in bundle_notes(bundle.info.details):
            note(f"note: {text}")
    service.proposals = Proposals(
        plane,
        _models(plane, named),
        lambda path: load_bundle(open_bundle(path), threads=threads),
    )
    note("ready")


def _models(plane: ControlPlane, named: list[Named]) -> dict[str, Path]:
    """The served models' names with their files, for proposals; nothing for bundles given as folders."""
    found: dict[str, Path] = {}
    try:
        from compiler.plan import load_plan, locate_model, plan_from_mapping
    except ImportError:  # a machine that only runs bundles
        return found
    by_name = {info.name: info for info in plane.infos()}
    for one in named:
        try:
            if one.document is None:
                plan = load_plan(one.target)
            else:
                plan = plan_from_mapping(one.declared(), Path.cwd(), source="the command line")
            path = locate_model(plan)
        except EngineError:
            continue
        info = by_name.get(plan.name)
        for label in (*(info.labels if info is not None else ()), plan.model_label):
            found.setdefault(label, path)
    return found


def _key(path: Path | None) -> str | None:
    """The bearer key from a file or ENGINE_API_KEY; never from the command line, which others can read."""
    if path is None:
        text = os.environ.get("ENGINE_API_KEY")
        source = "ENGINE_API_KEY"
    else:
        source = str(path)
        try:
            text = read_text(path, 1 << 16)
        except (OSError, UnicodeDecodeError) as cause:
            raise EngineError(
                "key_unreadable",
                f"the key cannot be read: {getattr(cause, 'strerror', None) or 'it is not UTF-8'}",
                path=source,
                exit_code=EXIT_USAGE,
            ) from cause
    if text is None:
        return None
    key = text.strip()
    if len(key) < 16 or not key.isascii() or not key.isprintable() or " " in key:
        raise EngineError(
            "key_weak",
            "the key is too short or holds blanks",
            path=source,
            allowed="16 or more printable ASCII characters without blanks",
            hint="openssl rand -hex 32 makes one",
            exit_code=EXIT_USAGE,
        )
    return key
