"""Model families: the declarations in ``compiler/architectures``, one YAML file each.

A family says what sets its decoder apart in the vocabulary of
``family.schema.json``; :mod:`compiler.decoder` turns it and a model's metadata
into a graph. Adding an ordinary family is adding a file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import jsonschema
import yaml

from runtime.errors import EXIT_MODEL, EngineError

_FOLDER = resources.files("compiler") / "architectures"


@dataclass(frozen=True)
class Family:
    """One file of ``compiler/architectures``; the fields are explained in ``family.schema.json``."""

    name: str
    norm: str
    norm_placement: str
    qk_norm: str
    parallel_residual: str
    rope_pairing: str
    rope_skip_every: int
    rope_window_base: float | None
    rope_window_unscaled: bool
    rope_switchable: bool
    window_period: int | None
    scale_from_key: bool
    width_per_head_at_layers: tuple[int, ...]
    softcaps: tuple[str, ...]
    embedding_scale: str
    residual_scale: str
    logit_scale: str
    ffn_kind: str
    activation: str
    expert_gating: str | None
    expert_normalize: bool
    expert_shared: str


@cache
def families() -> dict[str, Family]:
    """Every described family by its ``general.architecture`` name.

    Raises ``jsonschema.ValidationError`` where a file breaks the schema: a defect
    of this project, caught by its tests.
    """
    schema = json.loads((_FOLDER / "family.schema.json").read_text())
    found: dict[str, Family] = {}
    for entry in sorted(_FOLDER.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            body = yaml.safe_load(entry.read_text())
            jsonschema.validate(body, schema)
            for name in body["families"]:
                found[name] = _family(name, body)
    return found


def find_family(architecture: str) -> Family:
    """The family of a model's ``general.architecture``.

    Raises :class:`EngineError` ``unknown_architecture`` listing those described.
    """
    known = families()
    if architecture not in known:
        raise EngineError(
            "unknown_architecture",
            f"no model family describes the architecture {architecture[:64]!r}",
            path="general.architecture",
            allowed=", ".join(sorted(known)),
            hint="a family is one YAML file: see 'How to … add a model family' in HACKING.md",
            exit_code=EXIT_MODEL,
        )
    return known[architecture]


def _family(name: str, body: dict[str, Any]) -> Family:
    rope, ffn, experts = body["rope"], body["ffn"], body.get("experts") or {}
    scale, window = body.get("attention_scale", {}), body.get("window")
    base = rope.get("window_base")
    return Family(
        name=name,
        norm=body["norm"],
        norm_placement=body.get("norm_placement", "pre"),
        qk_norm=body.get("qk_norm", "none"),
        parallel_residual=body.get("parallel_residual", "never"),
        rope_pairing=rope["pairing"],
        rope_skip_every=rope.get("skip_every", 0),
        rope_window_base=float(base) if base is not None else None,
        rope_window_unscaled=rope.get("window_unscaled", base is not None),
        rope_switchable=rope.get("switchable", False),
        window_period=window["period"] if window else None,
        scale_from_key=scale.get("from_key", False),
        width_per_head_at_layers=tuple(scale.get("width_per_head_at_layers", ())),
        softcaps=tuple(body.get("softcap", ())),
        embedding_scale=body.get("embedding_scale", "none"),
        residual_scale=body.get("residual_scale", "none"),
        logit_scale=body.get("logit_scale", "none"),
        ffn_kind=ffn.get("kind", "gated"),
        activation=ffn["activation"],
        expert_gating=experts.get("gating"),
        expert_normalize=experts.get("normalize", False),
        expert_shared=experts.get("shared", "none"),
    )
