"""The registry as a page of the documentation: ``engine kernels list --markdown > docs/kernels.md``."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Sequence
from importlib import import_module

from compiler import backends
from compiler.backends import Backend
from compiler.formats import FORMATS
from compiler.kernels import Kernel

_HEAD = """# Kernels

Made by `engine kernels list --markdown > docs/kernels.md` from the registry (`compiler/formats/`,
`compiler/kernels/`, `compiler/backends/`). Every kernel equals its definition in `kernels_c/reference/`
bit for bit: `engine kernels check` shows it, `engine kernels bench` how fast it is. What a kernel computes
and how weights are packed is in `kernels_c/README.md`.
"""


def kernel_table() -> str:
    """Markdown: the packed formats, then each backend of this package with its kernels."""
    parts = [_HEAD, "## Packed formats\n", _formats()]
    for backend in own_backends():
        needs = ", ".join(backend.cpu_features) or "nothing"
        about = f"{backend.summary[0].upper()}{backend.summary[1:]}. Needs of the CPU: {needs}.\n"
        parts += [f"## {backend.name}\n", about, _kernels(backend)]
    return "\n".join(parts)


def own_backends() -> list[Backend]:
    """The backends of this package, ``reference`` first, whatever else is installed."""
    names = sorted(module.name for module in pkgutil.iter_modules(backends.__path__))
    found = [import_module(f"{backends.__name__}.{name}").BACKEND for name in names]
    return sorted(found, key=lambda backend: backend.name != "reference")


def _formats() -> str:
    rows = []
    for name, format in FORMATS.items():
        activations = f"int8, a scale per {format.group}" if format.group else "f32"
        size = format.panel_bytes(2048)
        bits = f"{size * 8 / (16 * 2048):g}"
        rows.append((f"`{name}`", bits, str(size), activations, str(format.block)))
    header = ("format", "bits a weight", "bytes of 16 rows x 2048", "multiplied with", "row is a multiple of")
    return _table(header, rows, right=(1, 2, 4))


def _kernels(backend: Backend) -> str:
    header = ("op", "format", "kernel", "tile", "K block", "packer", "written in", "defined in")
    return _table(header, [_cells(row) for row in backend.kernels], right=(4,))


def _cells(row: Kernel) -> tuple[str, ...]:
    panel = row.op == "panel"
    return (
        row.op,
        row.format or "",
        f"`{row.name}`",
        f"{row.tile[0]} x {row.tile[1]}" if panel else "",
        str(row.k_block) if panel else "",
        f"`{row.packer}`" if row.packer else "",
        f"`{row.template}`",
        f"`{row.reference}`",
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int]) -> str:
    rule = ["--:" if i in right else "---" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows)) + "\n"
