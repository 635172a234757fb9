"""``engine inspect``: everything that was decided, read out of a bundle."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.output import megabytes, note, print_json, table
from runtime.errors import EXIT_BUILD, EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from runtime.bundle.reader import Bundle


class Part(StrEnum):
    """What can be looked at."""

    SUMMARY = "summary"
    PLAN = "plan"
    GRAPH = "graph"
    KERNELS = "kernels"
    MEMORY = "memory"
    ASM = "asm"
    TENSORS = "tensors"
    ROOFLINE = "roofline"


def register(app: typer.Typer) -> None:
    """Adds the command ``inspect``."""
    app.command()(inspect)


def inspect(
    target: Annotated[str, typer.Argument(metavar="PLAN|BUNDLE", help="A plan's file or name, or a bundle.")],
    part: Annotated[
        str, typer.Argument(metavar="|".join(Part), help="What to show; may come first.")
    ] = Part.SUMMARY,
    name: Annotated[
        str | None, typer.Argument(help="kernels: the file to print; asm: the function (part of its name).")
    ] = None,
    n_prompt: Annotated[
        int | None, typer.Option("--n-prompt", "-p", min=0, help="roofline: prompt tokens; default 256.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option("--n-depth", "-d", min=0, help="roofline: tokens already in the KV cache.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", min=1, max=1024, help="roofline; default: the plan's.")
    ] = None,
    repetitions: Annotated[
        int | None,
        typer.Option("--repetitions", "-r", min=1, max=1000, help="roofline: the median of so many; 5."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the plan, graph, C, memory, assembly or tensors of a bundle (a plan is compiled first).

    roofline runs it: bytes, multiply-adds and time of each op, and its share of what memory or
    arithmetic allow, measured in the same run; timers are compiled in for that.
    """
    from runtime.cli.target import bundle_of

    if target in list(Part) and part not in list(Part):
        target, part = part, target
    if part not in list(Part):
        raise EngineError(
            "unknown_part", f"there is no {part!r} to show", allowed=", ".join(Part), exit_code=EXIT_USAGE
        )
    if name is not None and part not in (Part.KERNELS, Part.ASM):
        raise EngineError(
            "invalid_option",
            f"{name!r}: of {part} there is nothing to name",
            hint=f"engine inspect {target} {part}",
            exit_code=EXIT_USAGE,
        )
    if part == Part.ROOFLINE:
        from runtime.cli.roofline import roofline

        count = 256 if n_prompt is None else n_prompt
        roofline(target, count, depth or 0, threads, repetitions or 5, as_json=as_json)
        return
    if any(option is not None for option in (n_prompt, depth, threads, repetitions)):
        raise EngineError(
            "invalid_option",
            "-p, -d, -t and -r belong to roofline",
            hint=f"engine inspect {target} roofline",
            exit_code=EXIT_USAGE,
        )
    bundle = bundle_of(target, quiet=as_json)
    match Part(part):
        case Part.SUMMARY:
            _summary(bundle, as_json)
        case Part.PLAN:
            _plan(bundle, as_json)
        case Part.GRAPH:
            _text(bundle.read("graph.txt").decode(), as_json, "graph")
        case Part.KERNELS:
            _kernels(bundle, name, as_json)
        case Part.MEMORY:
            _memory(bundle, as_json)
        case Part.ASM:
            _text(_assembly(bundle, name), as_json, "asm")
        case Part.TENSORS:
            _tensors(bundle, as_json)


def _text(text: str, as_json: bool, key: str) -> None:
    if as_json:
        print_json({key: text})
    else:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")


def _summary(bundle: Bundle, as_json: bool) -> None:
    manifest = bundle.manifest
    if as_json:
        print_json({"folder": str(bundle.path), "digest": bundle.digest} | manifest.to_json())
        return
    rows = [
        ("bundle", str(bundle.path)),
        ("digest", bundle.digest),
        ("plan", f"{manifest.name}  {manifest.plan_digest}"),
        ("model", f"{manifest.model_name} ({manifest.architecture})  {manifest.model_digest}"),
        ("backend", f"{manifest.backend}  needs {', '.join(manifest.cpu_features) or 'no CPU feature'}"),
        ("quantization", f"{manifest.quantization}  {_types(bundle)}"),
        ("compiler", f"{manifest.compiler.name} {manifest.compiler.version}"),
        ("flags", " ".join(manifest.compiler.flags)),
        ("engine", f"{manifest.engine_version}  builder {manifest.builder[:12]}"),
    ]
    print(table(rows))
    print()
    files = sorted(manifest.files.items())
    print(
        table([(name, f"{entry.size}", entry.sha256) for name, entry in files], ("FILE", "BYTES", "SHA-256"))
    )


def _types(bundle: Bundle) -> str:
    counts: dict[str, int] = {}
    for tensor in bundle.manifest.tensors:
        counts[tensor.type] = counts.get(tensor.type, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _plan(bundle: Bundle, as_json: bool) -> None:
    plan = bundle.plan
    if as_json:
        print_json(plan.to_json())
        return
    note(f"digest {plan.digest}")
    rows = [(path, plan.origins[path], str(value)) for path, value in plan.values().items()]
    print(table(rows, ("FIELD", "ORIGIN", "VALUE")))


def _kernels(bundle: Bundle, name: str | None, as_json: bool) -> None:
    files = bundle.names()
    if name is not None:
        chosen = [file for file in files if file in (name, f"kernels/{name}")]
        if not chosen:
            raise _unknown("kernel file", name, files)
        _text(bundle.read(chosen[0]).decode(), as_json, chosen[0])
        return
    rows = [(file, str(bundle.manifest.files[file].size), _first_comment(bundle, file)) for file in files]
    if as_json:
        print_json([{"file": file, "bytes": int(size), "about": about} for file, size, about in rows])
    else:
        print(table(rows, ("FILE", "BYTES", "ABOUT")))


def _first_comment(bundle: Bundle, file: str) -> str:
    """The first line of the comment that a source begins with."""
    found = re.match(rb"\s*/\*+\s*(.+)", bundle.read(file))
    return found.group(1).decode(errors="replace").removesuffix("*/").strip() if found else ""


def _memory(bundle: Bundle, as_json: bool) -> None:
    said: dict[str, Any] = dict(bundle.manifest.details.get("memory", {}))
    said.setdefault("weights_bytes", bundle.manifest.files["weights.bin"].size)
    if as_json:
        print_json(said)
        return
    rows = [
        (key.removesuffix("_bytes").replace("_", " "), megabytes(value), str(value))
        for key, value in said.items()
        if isinstance(value, int)
    ]
    print(table(rows, ("MEMORY", "SIZE", "BYTES")))
    before, after = said.get("arena_unshared_bytes"), said.get("arena_bytes")
    if isinstance(before, int) and isinstance(after, int):
        print(
            f"\narena reduced from {before / 1e6:.2f} to {after / 1e6:.2f} MB by giving buffers that do not"
        )
        print("live at once the same place")


def _tensors(bundle: Bundle, as_json: bool) -> None:
    tensors = bundle.manifest.tensors
    if as_json:
        print_json(bundle.manifest.to_json()["tensors"])
        return
    rows = [
        (t.name, "x".join(map(str, t.shape)), t.source_type, t.type, str(t.nbytes), t.reason) for t in tensors
    ]
    print(table(rows, ("TENSOR", "SHAPE", "SOURCE", "TYPE", "BYTES", "REASON")))


def _assembly(bundle: Bundle, name: str | None) -> str:
    """Disassembly of one function, or the list of functions there are."""
    tool = shutil.which("objdump")
    if tool is None:
        raise EngineError(
            "tool_missing",
            "objdump was not found",
            hint="install binutils with the system's package manager",
            exit_code=EXIT_BUILD,
        )
    functions = _functions(tool, bundle)
    if name is None:
        return "\n".join(f"{size:8d}  {function}" for function, size in sorted(functions.items()))
    chosen = [name] if name in functions else [function for function in sorted(functions) if name in function]
    if not chosen:
        raise _unknown("function", name, sorted(functions))
    return "\n".join(_objdump(tool, bundle, f"--disassemble={function}") for function in chosen)


def _functions(tool: str, bundle: Bundle) -> dict[str, int]:
    """Functions of the shared object and their sizes in bytes."""
    found = {}
    for line in _objdump(tool, bundle, "--syms").splitlines():
        fields = line.split()
        if "F" in fields and ".text" in fields and len(fields) >= 6:
            found[fields[-1]] = int(fields[fields.index(".text") + 1], 16)
    return {function: size for function, size in found.items() if size}


def _objdump(tool: str, bundle: Bundle, option: str) -> str:
    command = [tool, "--no-show-raw-insn", "-M", "intel", option, str(bundle.shared_object)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    if done.returncode != 0:
        raise EngineError(
            "tool_failed", f"objdump failed: {done.stderr.strip()[-300:]}", exit_code=EXIT_BUILD
        )
    return done.stdout


def _unknown(what: str, name: str, known: list[str]) -> EngineError:
    from runtime.bundle.spelling import did_you_mean

    return EngineError(
        "unknown_name",
        f"the bundle has no {what} {name!r}",
        allowed=", ".join(known[:40]) + (", …" if len(known) > 40 else ""),
        hint=did_you_mean(name, known),
        exit_code=EXIT_USAGE,
    )
