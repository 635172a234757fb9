"""``engine doctor``: what this machine offers, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from dataclasses import asdict
from typing import Annotated, Any

import typer

from runtime.bundle.machine import Machine
from runtime.cli.output import megabytes, print_json, table
from runtime.errors import EngineError
from runtime.version import ENGINE_VERSION


def register(app: typer.Typer) -> None:
    """Adds the command ``doctor``."""
    app.command()(doctor)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show CPU features, what threads bring, backends, the C compiler, energy sources, memory and caches."""
    machine = Machine.probe()
    body: dict[str, Any] = {
        "engine_version": ENGINE_VERSION,
        "cpu": {
            "model": machine.cpu_model,
            "physical_cores": machine.physical_cores,
            "allowed_cpus": list(machine.cpus),
            "quota": machine.quota,
            "threads": machine.threads,
            "threads_because": machine.threads_because,
            "features": sorted(machine.features),
        },
        "threads": _threads(machine),
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


def _threads(machine: Machine) -> dict[str, Any]:
    """The way between CPUs, steps by count of threads, and the counts that pay, beside what else runs now."""
    from compiler.workbench.threads import measure_threads

    try:
        found = measure_threads(machine)
    except EngineError as error:
        return {"error": error.to_json()}
    return {
        "load_average": os.getloadavg()[0],
        "round_trips": [
            {"cpus": list(pair), "ns": None if ns is None else round(ns, 1)}
            for pair, ns in found.round_trips_ns.items()
        ],
        "steps": [
            {
                "shape": shape,
                "us_by_threads": {str(count): round(us, 1) for count, us in times.items()},
                "advised_threads": found.advised(shape),
            }
            for shape, times in found.steps_us.items()
        ],
    }


def _backends(features: frozenset[str]) -> list[dict[str, Any]]:
    """Registered backends with the CPU features each lacks here; a broken one with its error."""
    from compiler.workbench.selftest import obstacle

    found = []
    for point in sorted(importlib.metadata.entry_points(group="engine.backends"), key=lambda item: item.name):
        entry: dict[str, Any] = {"name": point.name}
        try:
            backend = point.load()
            entry["missing_features"] = sorted(set(backend.cpu_features) - features)
            entry["usable"] = not entry["missing_features"]
            if entry["usable"] and (reason := obstacle(backend)):
                entry |= {"usable": False, "error": f"cannot run here: {reason}"}
        except EngineError as error:  # there is no C compiler to test it with, or it failed
            entry |= {"usable": False, "error": f"cannot be tested: {error.message}"}
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


def _thread_rows(threads: dict[str, Any], default: int) -> list[tuple[str, str]]:
    if "error" in threads:
        return [("", f"not timed: {threads['error']['message']}")]
    trips = ", ".join(
        f"CPU {trip['cpus'][0]} to {trip['cpus'][1]} "
        + ("not known: one of them is taken" if trip["ns"] is None else f"{trip['ns']:.0f} ns")
        for trip in threads["round_trips"]
    )
    rows = [("round trip", trips)] if trips else []
    for step in threads["steps"]:
        times = ", ".join(f"{count}: {us:.0f} us" for count, us in step["us_by_threads"].items())
        text = f"{step['shape']} model, by threads {times}; advisable now: {step['advised_threads']}"
        rows.append(("step", text))
    if any(step["advised_threads"] < default for step in threads["steps"]):
        reason = "something else uses the CPUs now, or two of these are one core, or steps are too short"
        rows.append(
            ("", f"fewer threads than the default do as well: {reason} (load {threads['load_average']:.1f})")
        )
        rows.append(
            (
                "",
                "fix: time `engine bench PLAN -p 32 -n 32 -t 1,2` and say execution.threads in the plan",
            )
        )
    return rows


_INTERESTING = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8")


def _rows(body: dict[str, Any]) -> list[tuple[str, str]]:
    cpu, memory = body["cpu"], body["memory"]
    has = [name for name in _INTERESTING if name in cpu["features"]]
    quota = f", cgroup quota {cpu['quota']:g}" if cpu["quota"] is not None else ""
    allowed = f"{cpu['physical_cores']} cores, {len(cpu['allowed_cpus'])} CPUs allowed{quota}"
    rows = [
        ("engine", body["engine_version"]),
        ("cpu", f"{cpu['model']}; {allowed}"),
        ("threads", f"{cpu['threads']} by default: {cpu['threads_because']}"),
        *_thread_rows(body["threads"], cpu["threads"]),
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
