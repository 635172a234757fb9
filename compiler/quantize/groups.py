"""Which activations a weight format is multiplied with."""

from __future__ import annotations

#: Codes of a group share one scale. Formats that are not here take float activations.
ACTIVATION_GROUPS = {"q4_k": 256, "q6_k": 256, "q8_0": 32, "q5_0": 32}


def activation_group(format: str) -> int | None:
    """256, 32, or None for float activations."""
    return ACTIVATION_GROUPS.get(format)
