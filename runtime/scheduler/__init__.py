"""Which tokens run next: a queue, slots, and declared policies over integers.

The scheduler knows no backend and no weights; it sees token counts, deadlines
and the static cost of the graph.
"""

from runtime.scheduler import policies as _shipped  # registers the shipped policies
from runtime.scheduler.cost import CostModel
from runtime.scheduler.policy import Policy, Prefilling, View, Waiting, get, names, register
from runtime.scheduler.scheduler import Scheduler
from runtime.scheduler.types import Decision, Hold, Part, Phase, Step, Ticket

__all__ = [
    "CostModel",
    "Decision",
    "Hold",
    "Part",
    "Phase",
    "Policy",
    "Prefilling",
    "Scheduler",
    "Step",
    "Ticket",
    "View",
    "Waiting",
    "get",
    "names",
    "register",
]

SHIPPED_POLICIES = tuple(policy.name for policy in _shipped.SHIPPED)
