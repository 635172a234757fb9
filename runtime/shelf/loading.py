"""From a checked bundle on disk to one that can be served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.bundle.format import MANIFEST
from runtime.bundle.reader import Bundle
from runtime.control.record import bundle_identity
from runtime.control.types import BundleInfo, ServedBundle
from runtime.engine.chat import ChatPrompt, chat_format, chat_prompt
from runtime.engine.executable import Executable
from runtime.engine.loop import Engine
from runtime.engine.tokenizer import Tokenizer
from runtime.engine.weights import Residence
from runtime.scheduler import CostModel
from runtime.scheduler import get as get_policy


class BundleTemplate:
    """The chat format of a bundle's tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.source = chat_format(tokenizer).template

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> ChatPrompt:
        return chat_prompt(
            self._tokenizer,
            [dict(m) for m in messages],
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
        )


def load_bundle(
    bundle: Bundle, *, threads: int | None = None, residence: Residence = "pages"
) -> ServedBundle:
    """Loads a checked bundle; ``threads`` instead of the plan's.

    Raises ``unknown_scheduler_policy``, ``scheduler_policy_invalid`` (the package that brought the
    plan's policy is not here), ``unsupported_cpu``, ``out_of_memory``, ``bundle_damaged``,
    ``engine_open_failed``.
    """
    get_policy(bundle.plan.scheduler_policy)
    tokenizer = Tokenizer.from_bundle(bundle)
    engine = Engine(Executable.open(bundle, threads, residence=residence), tokenizer)
    return ServedBundle(info_of(bundle, engine), engine, tokenizer, BundleTemplate(tokenizer))


def info_of(bundle: Bundle, engine: Engine) -> BundleInfo:
    """What is known of a bundle, from its manifest and its compiled limits."""
    manifest, limits = bundle.manifest, engine.limits
    cost = manifest.details.get("cost", {})
    parameters = manifest.details.get("parameters")
    return BundleInfo(
        name=manifest.name,
        digest=bundle.digest,
        plan=bundle.plan,
        model_name=manifest.model_name,
        model_digest=manifest.model_digest,
        architecture=manifest.architecture,
        backend=manifest.backend,
        quantization=manifest.quantization,
        identity=bundle_identity(manifest, bundle.digest),
        weights_bytes=limits.weights_bytes,
        kv_bytes=limits.kv_bytes,
        arena_bytes=limits.arena_bytes,
        cost=CostModel(
            flops_per_token=_count(cost, "flops_per_token", 2 * limits.weights_bytes),
            weight_bytes=_count(cost, "weight_bytes", limits.weights_bytes),
            kv_bytes_per_token=_count(
                cost, "kv_bytes_per_token", limits.kv_bytes // max(1, limits.slots * limits.context)
            ),
        ),
        parameters=parameters if isinstance(parameters, int) else None,
        created_unix=_modified(bundle.path),
        details=manifest.details,
    )


def _count(cost: object, key: str, fallback: int) -> int:
    value = cost.get(key) if isinstance(cost, Mapping) else None
    return value if isinstance(value, int) and value > 0 else fallback


def _modified(path: Path) -> int:
    return int((path / MANIFEST).stat().st_mtime)
