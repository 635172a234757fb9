"""What a layer remembers between steps: declared in the graph, read and written by its ops.

Two kinds. ``paged``: a row a position (keys and values of attention), in pages of
:data:`PAGE` positions that a slot's table names; what lies at a position is written before it is
read, so nothing is cleared, and a sequence is rewound by positions, as far as it still holds them.
``fixed``: the same bytes whatever the position (a short convolution's last inputs, a delta
net's or an SSM's state); zero before the first position, and rewound only by a snapshot, if at
all.

The text form stands in the grammar of :mod:`compiler.graph`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: Positions of a page: one block of attention (ATTENTION_BLOCK of ``include/activations.h``).
PAGE = 256
ALIGNMENT = 64
KINDS = ("paged", "fixed")
REWINDS = ("positions", "snapshot", "no")


@dataclass(frozen=True)
class ElementType:
    """How a state's numbers are stored: bytes of one, and whether each row of a position has a scale."""

    name: str
    bytes: int
    scaled: bool = False


#: Element types of paged states, as plans name them; a fixed state is f32.
ELEMENT_TYPES: Mapping[str, ElementType] = MappingProxyType(
    {type.name: type for type in (ElementType("f32", 4), ElementType("f16", 2), ElementType("q8_0", 1, True))}
)
_SCALE_BYTES = 4


@dataclass(frozen=True)
class Part:
    """An array of a state: ``rows`` x ``columns`` numbers, for each position or for all."""

    name: str
    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{self.name}[{self.rows},{self.columns}]"


@dataclass(frozen=True)
class State:
    """A layer's state, of every slot.

    ``name``      ``s.<layer>.<content>``: ``s.12.kv``.
    ``parts``     its arrays, one after the other.
    ``window``    positions that its readers look back, their own included; 0: all. Paged only.
    ``rewind``    how a sequence goes back: by ``positions``, to a ``snapshot``, or ``no``.
    ``type``      element type, once the states pass ran; then ``positions`` that a slot holds at a
                  time (a multiple of :data:`PAGE`; 0 if fixed) and ``offset``: from the start of each
                  page of its group (:func:`page_groups`), or where slot 0 begins if fixed.
    """

    name: str
    kind: str
    parts: tuple[Part, ...]
    window: int = 0
    rewind: str = "positions"
    type: str = "f32"
    positions: int = 0
    offset: int | None = None

    @property
    def content(self) -> str:
        """What it is: ``kv``, ``conv`` …"""
        return self.name.rpartition(".")[2]

    @property
    def cleared(self) -> str:
        """How a slot becomes a new sequence's: ``overwritten`` position by position, or set to ``zero``."""
        return "overwritten" if self.kind == "paged" else "zero"

    @property
    def token_bytes(self) -> int:
        """Bytes that one position takes; 0 of a fixed state."""
        return self._bytes(1) if self.kind == "paged" else 0

    @property
    def page_bytes(self) -> int:
        """Bytes of a page of :data:`PAGE` positions; 0 of a fixed state."""
        return self.token_bytes * PAGE

    @property
    def slot_stride(self) -> int:
        """Bytes from one slot to the next of a fixed state; 0 of a paged one."""
        return 0 if self.kind == "paged" else -(-self._bytes(1) // ALIGNMENT) * ALIGNMENT

    @property
    def slack(self) -> int:
        """Positions that a sequence may be rewound by without anything being restored."""
        if self.rewind != "positions":
            return 0
        return self.positions - self.window

    def part_bytes(self, name: str) -> int:
        """Bytes of one part of a page (of a slot if fixed), its scales left out."""
        part = next(part for part in self.parts if part.name == name)
        return part.rows * part.columns * self._rows * ELEMENT_TYPES[self.type].bytes

    def scale_bytes(self, name: str) -> int:
        """Bytes of the scales of one part of a page."""
        part = next(part for part in self.parts if part.name == name)
        return part.rows * self._rows * _SCALE_BYTES if ELEMENT_TYPES[self.type].scaled else 0

    @property
    def _rows(self) -> int:
        return PAGE if self.kind == "paged" else 1

    def _bytes(self, positions: int) -> int:
        element = ELEMENT_TYPES[self.type]
        return positions * sum(
            part.rows * (part.columns * element.bytes + (_SCALE_BYTES if element.scaled else 0))
            for part in self.parts
        )

    def geometry(self) -> tuple[object, ...]:
        """What two layers' states have in common where their code is the same."""
        return (self.content, self.kind, self.parts, self.type, self.positions, self.window)

    def __str__(self) -> str:
        text = f"state {self.name}: {self.kind} {' '.join(map(str, self.parts))}"
        if self.window:
            text += f" window {self.window}"
        text += f" rewind {self.rewind}"
        if self.offset is not None:
            held = f" holds {self.positions}" if self.kind == "paged" else ""
            text += f" as {self.type}{held} at {self.offset:#x}"
        return text


def kv_state(layer: int, heads: int, head_dim: int, head_dim_v: int, window: int) -> State:
    """Keys and values of ``heads`` heads."""
    parts = (Part("k", heads, head_dim), Part("v", heads, head_dim_v))
    return State(f"s.{layer}.kv", "paged", parts, window)


@dataclass(frozen=True)
class PageGroup:
    """Paged states that look back equally far: their pages are taken and given back together.

    ``window``      positions that they look back; 0: all.
    ``page_bytes``  of a page: :data:`PAGE` positions of all of them, one state after the other.
    ``held``        pages that a slot holds at a time, at most, where the block of the oldest
                    position in reach and that of a step's last are two.
    """

    window: int
    page_bytes: int
    held: int


def page_groups(states: Mapping[str, State], context: int) -> tuple[PageGroup, ...]:
    """The groups of placed states, those that look back furthest first."""
    windows = {state.window for state in states.values() if state.kind == "paged"}
    blocks = -(-context // PAGE)
    groups = []
    for window in sorted(windows, key=lambda window: (window > 0, -window)):
        members = [s for s in states.values() if s.kind == "paged" and s.window == window]
        # A ring of n whole pages may begin and end within one: in pages by number that is one more.
        held = members[0].positions // PAGE + (1 if window else 0)
        groups.append(PageGroup(window, sum(s.page_bytes for s in members), min(blocks, held)))
    return tuple(groups)


def fixed_bytes(states: Mapping[str, State], slots: int) -> int:
    """Bytes of the fixed states of ``slots`` slots."""
    return sum(state.slot_stride * slots for state in states.values())


def rewindable(states: Mapping[str, State], most: int) -> int:
    """Positions that every state can be rewound by, at most ``most``."""
    bounded = (s.slack for s in states.values() if s.window or s.rewind != "positions")
    return min([most, *bounded])


_STATE = re.compile(
    r"state (?P<name>s\.\d+\.\w+): (?P<kind>\w+) (?P<parts>\w+\[\d+,\d+\](?: \w+\[\d+,\d+\])*)"
    r"(?: window (?P<window>\d+))? rewind (?P<rewind>\w+)"
    r"(?: as (?P<type>\w+)(?: holds (?P<positions>\d+))? at (?P<at>0x[0-9a-f]+))?"
)
_PART = re.compile(r"(\w+)\[(\d+),(\d+)\]")


def parse_state(line: str) -> State | None:
    """Reads a state's line; None where it is none. Raises ValueError for a kind or rewind that is none."""
    match = _STATE.fullmatch(line)
    if match is None:
        return None
    if match["kind"] not in KINDS or match["rewind"] not in REWINDS:
        raise ValueError(f"{match['name']}: one of {', '.join(KINDS)}, rewound by {', '.join(REWINDS)}")
    parts = tuple(
        Part(name, int(rows), int(columns)) for name, rows, columns in _PART.findall(match["parts"])
    )
    placed = match["at"] is not None
    return State(
        match["name"],
        match["kind"],
        parts,
        int(match["window"] or 0),
        match["rewind"],
        match["type"] if placed else "f32",
        int(match["positions"] or 0),
        int(match["at"], 16) if placed else None,
    )
