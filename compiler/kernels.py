"""The registry: one row a kernel.

A row binds a kernel's C name to the template that holds it, to the scalar
reference that defines it, to its packer and to what it costs. Backends list
their rows; emission, tests, benchmarks and the kernel table of the
documentation read them. The meaning of each operation is in
``kernels_c/README.md``; its arithmetic is in the comments of the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: Rows of a packed panel: one lane each.
PANEL_ROWS = 16

#: Weight formats that panels exist for, in the order of the documentation.
FORMATS = ("f32", "f16", "bf16", "q8_0", "q6_k", "q4_k", "q5_0")

#: Element types of the KV cache.
KV_TYPES = ("f32", "f16", "q8_0")


def _round_up(n: int, to: int) -> int:
    return (n + to - 1) // to * to


def _pairs(blocks: int, size: int) -> int:
    """Blocks of ``size`` bytes in pairs, each pair with 64 bytes of scales."""
    return (blocks + 1) // 2 * 64 + blocks * size


#: Bytes of one packed panel (16 rows of k elements); mirrors ``include/packed.h``.
PANEL_BYTES: dict[str, Callable[[int], int]] = {
    "f32": lambda k: k * 64,
    "f16": lambda k: _round_up(k * 32, 64),
    "bf16": lambda k: _round_up(k * 32, 64),
    "q8_0": lambda k: _pairs(k // 32, 512),
    "q6_k": lambda k: _pairs(k // 256, 3328),
    "q4_k": lambda k: k // 256 * 2304,
    "q5_0": lambda k: _pairs(k // 32, 320),
}

#: Activations a format multiplies with: the group its codes share a scale in; 0 for floats.
ACTIVATION_GROUP: dict[str, int] = {
    "f32": 0, "f16": 0, "bf16": 0, "q8_0": 32, "q6_k": 256, "q4_k": 256, "q5_0": 32,
}  # fmt: skip

#: int16 sums a token and group (``ACTIVATION_SUMS_*`` of ``include/activations.h``).
ACTIVATION_SUMS: dict[int, int] = {32: 4, 256: 72}

#: K must be a multiple of this.
K_MULTIPLE: dict[str, int] = {
    "f32": 1, "f16": 1, "bf16": 1, "q8_0": 32, "q6_k": 256, "q4_k": 256, "q5_0": 32,
}  # fmt: skip


def panel_bytes(fmt: str, k: int) -> int:
    """Bytes of one panel of 16 rows of ``k`` elements of ``fmt``."""
    if k <= 0 or k % K_MULTIPLE[fmt]:
        raise ValueError(f"{fmt}: rows of {k} elements are not a multiple of {K_MULTIPLE[fmt]}")
    return PANEL_BYTES[fmt](k)


def packed_bytes(fmt: str, rows: int, k: int) -> int:
    """Bytes of a packed tensor of ``rows`` x ``k``: whole panels, the last one padded with zero rows."""
    return (rows + PANEL_ROWS - 1) // PANEL_ROWS * panel_bytes(fmt, k)


def activation_bytes(group: int, k: int, n_tokens: int) -> tuple[int, int, int]:
    """Bytes of (codes, scales, sums) of ``n_tokens`` rows of ``k`` activations quantized by ``group``."""
    blocks = k // group * n_tokens
    return blocks * group, blocks * 4, blocks * ACTIVATION_SUMS[group] * 2


@dataclass(frozen=True)
class Kernel:
    """One kernel of one backend.

    ``op``         ``panel``, ``dequantize_row``, ``quantize_row``, ``attention``, ``kv_store`` or ``row``.
    ``format``     weight format, KV element type or activation group; None where there is none.
    ``name``       name in C; ``{k}`` stands for K where the kernel is rendered once for each K.
    ``template``   path under ``kernels_c`` of the text that holds it. A ``.j2`` template takes ``name``
                   and ``k`` (StrictUndefined); a ``.c`` file is included once, by the backend's sources.
    ``reference``  path of the scalar definition that it must equal bit for bit.
    ``packer``     C name of the packer of its weights (``tools/pack.c``), or None.
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


def panel_row(fmt: str, template: str, tile: tuple[int, int], k_block: int) -> Kernel:
    """The registry row of a panel kernel."""
    return Kernel(
        op="panel",
        format=fmt,
        name=f"panel_{fmt}_k{{k}}",
        template=template,
        reference=f"reference/panel_{fmt}.c.j2",
        packer=f"pack_{fmt}",
        tile=tile,
        k_block=k_block,
    )


def shared_rows(folder: str, dequantize: str | None = None) -> tuple[Kernel, ...]:
    """Rows of the kernels that are not panels, with their sources in ``folder``.

    ``dequantize``: the folder of ``dequantize_row`` if it is another.
    """

    def row(op: str, fmt: str | None, name: str, stem: str) -> Kernel:
        place = dequantize if op == "dequantize_row" and dequantize else folder
        return Kernel(op, fmt, name, f"{place}/{stem}.c", f"reference/{stem}.c")

    return (
        *(row("dequantize_row", f, f"dequantize_row_{f}", "dequantize_row") for f in FORMATS),
        *(row("quantize_row", g, f"quantize_row_{g}", "quantize_row") for g in ("256", "32")),
        *(row("kv_store", t, f"kv_store_{t}", "attention") for t in KV_TYPES),
        *(row("attention", t, f"attention_{t}", "attention") for t in KV_TYPES),
        *(row("attention", t, f"attention_block_{t}", "attention") for t in KV_TYPES),
        row("attention", None, "attention_combine", "attention"),
        *(row("row", None, name, "rows") for name in ROW_KERNELS),
    )
