"""The registry: one row a kernel.

A row binds a kernel's C name to the template that holds it, to the scalar
reference that defines it, to its packer and to what it costs. Backends list
their rows; emission, tests, benchmarks and the kernel table of the
documentation read them. The meaning of each operation is in
``kernels_c/README.md``; its arithmetic is in the comments of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.formats import FORMATS, Format, panel_bytes
from compiler.formats.parts.record import Panel
from compiler.graph.states import ELEMENT_TYPES

#: Element types of the KV cache.
KV_TYPES = tuple(ELEMENT_TYPES)


@dataclass(frozen=True)
class Kernel:
    """One kernel of one backend.

    ``op``         ``panel``, ``dequantize_row``, ``quantize_row``, ``attention``, ``kv_store`` or ``row``.
    ``format``     weight format, KV element type or activation group; None where there is none.
    ``name``       name in C; ``{k}`` stands for K where the kernel is rendered once for each K.
    ``template``   path under ``kernels_c`` of the text that holds it. A ``.j2`` template takes ``name``,
                   ``format`` and ``k`` (StrictUndefined); a ``.c`` file is included once, by the backend's
                   sources.
    ``reference``  path of the scalar definition that it must equal bit for bit.
    ``packer``     C name of the packer of its weights (``tools/pack_<format>.c``), or None.
    ``tile``       (rows, tokens) that it holds in registers at a time.
    ``k_block``    K is taken in blocks of this many elements.
    ``alignment``  bytes: of panels, of ``acc`` and of scratch.
    ``flops``      floating-point or integer operations per weight element and token (2: multiply, add).
    """

    op: str
    format: str | None
    name: str
    template: str
    reference: str
    packer: str | None = None
    tile: tuple[int, int] = (1, 1)
    k_block: int = 1
    alignment: int = 64
    flops: int = 2

    @property
    def rendered(self) -> bool:
        """True when the template is rendered for each K rather than included once."""
        return self.template.endswith(".j2")

    def c_name(self, k: int) -> str:
        """Name of the function for rows of ``k`` elements."""
        return self.name.format(k=k)

    def bytes(self, k: int) -> int:
        """Bytes that one call of a panel kernel reads of its weights."""
        if self.op != "panel" or self.format is None:
            raise ValueError(f"{self.name} reads no panel")
        return panel_bytes(self.format, k)


#: Row operations: (C name, source file stem under ``reference/`` and ``simd/``).
ROW_KERNELS: tuple[str, ...] = (
    "rms_norm", "layer_norm", "softmax_row", "rope_row",
    "act_silu", "act_gelu", "act_gelu_tanh", "act_relu2", "act_tanh", "act_sigmoid",
    "glu_silu", "glu_gelu", "glu_gelu_tanh", "glu_relu2",
    "softcap", "add_rows", "scale_row",
)  # fmt: skip


#: What every kernel set includes of the formats: packed layouts, and rows of them as floats.
PACKED_HEADERS: tuple[str, ...] = tuple(f"include/{format.packed_header}" for format in FORMATS.values())
DEQUANTIZERS: tuple[str, ...] = tuple(f"reference/dequantize_row_{name}.c" for name in FORMATS)


def panel_row(format: Format, panel: Panel) -> Kernel:
    """The registry row of a panel kernel."""
    return Kernel(
        op="panel",
        format=format.name,
        name=f"panel_{format.name}_k{{k}}",
        template=panel.template,
        reference=f"reference/panel_{format.name}.c.j2",
        packer=f"pack_{format.name}",
        tile=panel.tile,
        k_block=panel.k_block,
    )


def reference_panels() -> tuple[Kernel, ...]:
    """Rows of the scalar definitions of all formats' panels."""
    return tuple(
        panel_row(f, Panel("", f"reference/panel_{f.name}.c.j2", (1, 1), f.group or 256))
        for f in FORMATS.values()
    )


def panel_rows(isa: str) -> tuple[Kernel, ...]:
    """Rows of the panels that formats bring for an instruction set."""
    return tuple(panel_row(f, f.panels[isa]) for f in FORMATS.values() if isa in f.panels)


def panel_sources(isa: str) -> tuple[str, ...]:
    """The files that the panels of an instruction set are written in."""
    return tuple(f.panels[isa].source for f in FORMATS.values() if isa in f.panels)


def shared_rows(folder: str) -> tuple[Kernel, ...]:
    """Rows of the kernels that are not panels, with their sources in ``folder``; single rows of weights
    become floats by the reference's code everywhere."""

    def row(op: str, fmt: str | None, name: str, stem: str) -> Kernel:
        return Kernel(op, fmt, name, f"{folder}/{stem}.c", f"reference/{stem}.c")

    dequantizers = (
        Kernel("dequantize_row", name, f"dequantize_row_{name}", source, source)
        for name, source in zip(FORMATS, DEQUANTIZERS, strict=True)
    )
    return (
        *dequantizers,
        *(row("quantize_row", g, f"quantize_row_{g}", "quantize_row") for g in ("256", "32")),
        *(row("kv_store", t, f"kv_store_{t}", "attention") for t in KV_TYPES),
        *(row("attention", t, f"attention_{t}", "attention") for t in KV_TYPES),
        *(row("attention", t, f"attention_block_{t}", "attention") for t in KV_TYPES),
        row("attention", None, "attention_combine", "attention"),
        *(row("row", None, name, "rows") for name in ROW_KERNELS),
    )
