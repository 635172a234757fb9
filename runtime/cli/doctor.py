"""``engine doctor``: what this machine offers, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from dataclasses import asdict
from typing import Annotated, Any

import typer

from runtime.cli.output import megabytes, print_json, table
from runtime.errors import EngineError
from runtime.version import ENGINE_VERSION


def register(app: typer.Typer) -> None:
    """Adds the command ``doctor``."""
    app.command()(doctor)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show CPU features, backends, the C compiler, energy sources, memory and caches."""
    from runtime.bundle.machine import Machine

    machine = Machine.probe()
    body: dict[str, Any] = {
        "engine_version": ENGINE_VERSION,
        "cpu": {
            "model": machine.cpu_model,
            "physical_cores": machine.physical_cores,
            "allowed_cpus": list(machine.cpus),
            "quota": machine.quota,
            "threads": machine.threads,
            "features": sorted(machine.features),
        },
        "memory": {"total": machine.memory_total, "available": machine.memory_available},
        "backends": _backends(machine.features),
        "compiler": _compiler(),
        "energy": _energy(),
        "cache": _cache(),
        "libraries": _libraries(),
    }
    if as_json:
        print_json(body)
        return
    print(table(_rows(body)))


def _backends(features: frozenset[str]) -> list[dict[str, Any]]:
    """Registered backends with the CPU features each lacks here; a broken one with its error."""
    found = []
    for point in sorted(importlib.metadata.entry_points(group="engine.backends"), key=lambda item: item.name):
        entry: dict[str, Any] = {"name": point.name}
        try:
            needs = point.load().cpu_features
            entry["missing_features"] = sorted(set(needs) - features)
            entry["usable"] = not entry["missing_features"]
        except Exception as error:  # a third party's entry point may raise anything
            entry |= {"usable": False, "error": f"cannot be loaded: {error}"}
        found.append(entry)
    return found


def _compiler() -> dict[str, Any]:
    from compiler.build.toolchain import find_toolchain

    try:
        found = find_toolchain()
        return {"name": found.name, "version": found.version, "command": " ".join(found.command)}
    except EngineError as error:
        return {"error": error.to_json()}


def _energy() -> list[dict[str, Any]]:
    from runtime.metrics.energy_probe import describe_energy

    return [asdict(finding) for finding in describe_energy()]


def _cache() -> dict[str, Any]:
    from runtime.bundle import store

    try:
        root = store.cache_root()
        bundles = [
            path for path in store.bundles_dir().iterdir() if not path.name.startswith(store.TEMPORARY)
        ]
        return {"path": str(root), "bundles": len(bundles), "free": shutil.disk_usage(root).free}
    except EngineError as error:
        return {"error": error.to_json()}


def _libraries() -> dict[str, str]:
    names = ("cffi", "numpy", "gguf", "tokenizers", "jinja2", "starlette")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


_INTERESTING = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "sha_ni")


def _rows(body: dict[str, Any]) -> list[tuple[str, str]]:
    cpu, memory = body["cpu"], body["memory"]
    has = [name for name in _INTERESTING if name in cpu["features"]]
    quota = f", cgroup quota {cpu['quota']:g}" if cpu["quota"] is not None else ""
    allowed = f"{cpu['physical_cores']} cores, {len(cpu['allowed_cpus'])} CPUs allowed{quota}"
    rows = [
        ("engine", body["engine_version"]),
        ("cpu", f"{cpu['model']}; {allowed}; plans get {cpu['threads']} threads"),
        ("features", " ".join(has)),
        ("memory", f"{megabytes(memory['available'])} available of {megabytes(memory['total'])}"),
    ]
    for backend in body["backends"]:
        missing = ", ".join(backend.get("missing_features", []))
        state = "usable" if backend["usable"] else backend.get("error") or f"this CPU lacks {missing}"
        rows.append(("backend", f"{backend['name']}: {state}"))
    compiler = body["compiler"]
    if "error" in compiler:
        rows += [("compiler", compiler["error"]["message"]), ("", f"fix: {compiler['error']['hint']}")]
    else:
        rows.append(("compiler", f"{compiler['name']} {compiler['version']} ({compiler['command']})"))
    for finding in body["energy"]:
        rows.append(("energy", f"{finding['source']}: {finding['status']}, {finding['detail']}"))
    if not any(finding["status"] == "ok" for finding in body["energy"]):
        fixes = dict.fromkeys(finding["fix"] for finding in body["energy"] if finding["fix"])
        rows += [("", f"fix: {fix}") for fix in fixes]
    cache = body["cache"]
    if "error" in cache:
        rows.append(("cache", f"{cache['error']['path']}: {cache['error']['message']}"))
    else:
        holds = f"{cache['bundles']} bundles, {megabytes(cache['free'])} free"
        rows.append(("cache", f"{cache['path']}: {holds}"))
    versions = ", ".join(f"{name} {version}" for name, version in body["libraries"].items())
    rows.append(("libraries", versions))
    if os.environ.get("CC"):
        rows.append(("CC", os.environ["CC"]))
    return rows
