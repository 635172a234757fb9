"""Builds kernel sets of several backends into one program, for checks and benchmarks.

Each backend becomes one object file that exports a table of its kernels
(``kernels_c/tools/expose.c.j2``); the driver (``kernels_c/tools/check.c``)
runs one against another.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import jinja2

from compiler.backends import COMMON_FLAGS, Backend
from compiler.build import KERNELS
from compiler.build.toolchain import find_toolchain
from compiler.formats import FORMATS
from compiler.kernels import KV_TYPES
from runtime.errors import EXIT_BUILD, EngineError

#: The driver's sources, under ``kernels_c/tools``.
DRIVER = ("check.c", "check_inputs.c", "check_rows.c", "bench.c", "read_loops.c")
#: Those that are compiled for the machine at hand.
DRIVER_FLAGS = {"read_loops.c": ("-march=native",)}


def environment() -> jinja2.Environment:
    """The template environment of the kernels: undefined names are errors."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(KERNELS),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )


def render_panel(backend: Backend, fmt: str, k: int) -> str:
    """The text of ``backend``'s panel kernel for rows of ``k`` elements of ``fmt``."""
    row = backend.kernel("panel", fmt)
    return environment().get_template(row.template).render(name=row.c_name(k), format=fmt, k=k)


def exposed_source(backend: Backend) -> str:
    """One translation unit with all kernels of ``backend`` and its table."""
    lengths = [(fmt, k) for fmt in FORMATS for k in FORMATS[fmt].check_k]
    panels = [render_panel(backend, fmt, k) for fmt, k in lengths]
    table = {
        fmt: [(k, backend.kernel("panel", fmt).c_name(k)) for k in format.check_k]
        for fmt, format in FORMATS.items()
    }
    return (
        environment()
        .get_template("tools/expose.c.j2")
        .render(
            backend=backend.name,
            hooks=backend.hooks,
            sources=backend.sources,
            panels=panels,
            table=table,
            kv_types=KV_TYPES,
        )
    )


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise EngineError(
            "compiler_failed",
            f"{command[0]} ended with {result.returncode}: {result.stderr.strip()[-2000:]}",
            hint=" ".join(command),
            exit_code=EXIT_BUILD,
        )


def build_program(
    backends: Sequence[Backend],
    folder: Path,
    *,
    extra: Sequence[str] = (),
    extra_backend: dict[str, Sequence[str]] | None = None,
    warnings: Sequence[str] = ("-Wall", "-Wextra"),
) -> Path:
    """Compiles the tables of ``backends`` and the driver (``tools/check.c``) into one program.

    A program of its own, because a kernel that leaves its buffers ends the process.

    ``extra``: flags for every file (sanitizers). ``extra_backend``: flags for one backend's file,
    replacing its own (an emulated instruction set). Returns the path of the program in ``folder``.
    Raises EngineError ``compiler_not_found`` or ``compiler_failed``.
    """
    chain = find_toolchain()
    include = [f"-I{folder}", f"-I{KERNELS}", f"-I{KERNELS / 'include'}", f"-I{KERNELS / 'tools'}"]
    warn = [*warnings, "-Wno-unused-function"]

    def compiled(source: Path, flags: Sequence[str]) -> str:
        target = folder / f"{source.stem}.o"
        words = [*chain.flags(flags), *warn, *extra, *include]
        _run([*chain.command, *words, "-c", str(source), "-o", str(target)])
        return str(target)

    for name in ("format_table.h", "format_table.c"):
        template = environment().get_template(f"tools/{name}.j2")
        text = template.render(formats=FORMATS.values(), kv_types=KV_TYPES)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "registry.c").write_text(_registry(backends), encoding="utf-8")
    objects = []
    for backend in backends:
        source = folder / f"{backend.name}.c"
        source.write_text(exposed_source(backend), encoding="utf-8")
        objects.append(compiled(source, (extra_backend or {}).get(backend.name, backend.cflags)))
    packers = [KERNELS / "tools" / format.packer_source for format in FORMATS.values()]
    drivers = [KERNELS / "tools" / name for name in DRIVER]
    for source in (folder / "format_table.c", folder / "registry.c", *packers, *drivers):
        objects.append(compiled(source, (*COMMON_FLAGS, *DRIVER_FLAGS.get(source.name, ()))))
    result = folder / "check"
    _run([*chain.command, *extra, *objects, "-o", str(result), "-lm", "-pthread"])
    return result


def _registry(backends: Sequence[Backend]) -> str:
    """The list of tables that the driver chooses from by name."""
    lines = ['#include "kernel_table.h"', '#include "check.h"']
    lines += [f"extern const kernel_table kernels_{b.name};" for b in backends]
    lines += ["const check_backend check_backends[] = {"]
    lines += [f'    {{"{b.name}", &kernels_{b.name}}},' for b in backends]
    lines += ["    {0, 0},", "};", ""]
    return "\n".join(lines)
