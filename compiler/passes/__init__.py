"""The passes, in the order they run: each is Graph → Graph, one file a pass.

The graph is verified after every pass. A pass reads the plan's decisions from
:class:`Decisions` and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compiler.graph import Graph
from compiler.graph.ops import verify
from compiler.graph.states import PageGroup


@dataclass(frozen=True)
class Decisions:
    """What the plan decided that shapes the graph.

    ``types``: format of each tensor by name. ``step_tokens``: most tokens of a step. ``context``:
    positions of a sequence. ``kv_cache``: element type of paged states. ``kv_pages``: pages that
    all slots share, of each group of layers; None: what every slot needs at a time, for each.
    """

    types: Mapping[str, str]
    step_tokens: int
    context: int
    slots: int
    kv_cache: str
    kv_pages: int | None = None

    def pages_of(self, group: PageGroup) -> int:
        """Pages that a group's pool has."""
        most = self.slots * group.held
        return most if self.kv_pages is None else min(most, self.kv_pages)


Pass = Callable[[Graph, Decisions], Graph]


def passes() -> tuple[tuple[str, Pass], ...]:
    """Name and function of every pass, in order."""
    from compiler.passes.assign import assign
    from compiler.passes.fuse import fuse
    from compiler.passes.layout import layout
    from compiler.passes.memory import memory
    from compiler.passes.phases import phases
    from compiler.passes.quantize import quantize
    from compiler.passes.states import states

    return (
        ("assign", assign),  # each weight gets the format the plan decided
        ("fuse", fuse),  # projections with their biases, activations and residuals
        ("quantize", quantize),  # activations are quantized once for all that read them
        ("layout", layout),  # where each weight lies in weights.bin
        ("states", states),  # what each layer's state is stored as, and where
        ("phases", phases),  # what runs without a barrier between
        ("memory", memory),  # where each value lies in the arena
    )


def run_passes(graph: Graph, decisions: Decisions) -> Graph:
    """All passes, with verification between them."""
    for _, function in passes():
        graph = verify(function(graph, decisions))
    return graph
