"""The record of one execution: what it is made of, and how much of the text it keeps.

A record identifies everything that decided the result, so that the execution
can be audited, compared and run again: plan, bundle, model, compiler, engine
version, hardware, seed, token ids, digests of the logits, and what was measured.

How much of a prompt and its answer stays in the record is the operator's choice
(:data:`CONTENT`): ``ids``, the default, keeps token ids, which replay needs; who
holds the model's vocabulary can turn them back into text. ``hashes`` keeps
neither ids nor text: such a record can still be checked, and replayed by whoever
brings the same prompt. ``text`` keeps all.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from runtime.bundle.format import Manifest, sha256_hex
from runtime.bundle.machine import Machine
from runtime.bundle.plan import canonical_json
from runtime.control.types import RunSpec
from runtime.errors import EngineError
from runtime.metrics.energy_sysfs import read_power_limits
from runtime.version import ENGINE_VERSION

if TYPE_CHECKING:
    from runtime.bundle.plan import ResolvedPlan
    from runtime.bundle.reader import Bundle
    from runtime.engine.loop import Completion

RECORD_VERSION = 1

Content = Literal["hashes", "ids", "text"]
CONTENT: tuple[Content, ...] = get_args(Content)


def new_execution_id() -> str:
    """A fresh id, ``exec_`` and 16 hex digits, as ``types.EXECUTION_ID`` wants it."""
    return f"exec_{secrets.token_hex(8)}"


def timestamp(unix_ns: int) -> str:
    """Wall-clock time as RFC 3339 in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(unix_ns / 1e9, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ids_digest(ids: Sequence[int]) -> str:
    """SHA-256 (hex) of token ids as little-endian 32-bit integers, one after the other."""
    return hashlib.sha256(b"".join(token.to_bytes(4, "little") for token in ids)).hexdigest()


@lru_cache(maxsize=4)
def describe_hardware(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Mapping[str, Any]:
    """The machine as records name it. ``features_digest`` stands for the CPU's flags.

    ``governor`` lists the frequency governors in use (empty where the machine
    shows none, as virtual ones do); ``power_limits`` the limits the kernel keeps.
    """
    machine = Machine.probe(proc, sys)
    governors = set()
    for cpu in machine.cpus:
        path = sys / f"devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"
        if path.is_file():
            governors.add(path.read_text().strip())
    return {
        "cpu_model": machine.cpu_model,
        "cpus": len(machine.cpus),
        "physical_cores": machine.physical_cores,
        "cpu_quota": machine.quota,
        "features_digest": sha256_hex(" ".join(sorted(machine.features)).encode())[:16],
        "memory_gib": round(machine.memory_total / 2**30),
        "governor": sorted(governors),
        "kernel": platform.release() if sys == Path("/sys") else None,
        "power_limits": [
            {"zone": limit.zone, "name": limit.name, "watts": limit.watts, "enabled": limit.enabled}
            for limit in read_power_limits(sys)
        ],
    }


def bundle_identity(manifest: Manifest, digest: str) -> dict[str, Any]:
    """What :func:`build_record` wants to know of a bundle, from its manifest and digest."""
    return {
        "bundle": {"name": manifest.name, "digest": digest, "builder": manifest.builder},
        "model": {
            "name": manifest.model_name,
            "digest": manifest.model_digest,
            "architecture": manifest.architecture,
        },
        "backend": manifest.backend,
        "quantization": manifest.quantization,
        "compiler": {
            "name": manifest.compiler.name,
            "version": manifest.compiler.version,
            "flags": list(manifest.compiler.flags),
        },
    }


@dataclass(frozen=True)
class Identity:
    """Which execution it was, and what ran it, as :func:`bundle_identity` gives it.

    ``hardware``: that of this machine unless given.
    """

    execution_id: str
    created_unix_ns: int
    bundle: Mapping[str, Any]
    model: Mapping[str, Any]
    backend: str
    quantization: str
    compiler: Mapping[str, Any]
    hardware: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Result:
    """What came of an execution.

    ``metrics`` and ``diagnostics`` are the published objects, unchanged. ``token_digests[i]``
    is the first 8 bytes (hex) of the running digest of the logits after generated token i;
    replay names the first that differs.
    """

    text: str
    token_ids: Sequence[int]
    logits_digest: str | None
    stop_reason: str
    metrics: Mapping[str, Any]
    diagnostics: Mapping[str, Any]
    token_digests: Sequence[str] = ()
    error: EngineError | None = None
    decisions: Sequence[Mapping[str, Any]] = ()


def build_record(identity: Identity, spec: RunSpec, result: Result) -> dict[str, Any]:
    """The complete record of a finished execution, as JSON values.

    ``spec.plan`` is the resolved plan of this run, its overrides included.
    """
    values, prompt, ids = spec.plan.values(), spec.prompt, spec.request.prompt_ids
    hardware = describe_hardware() if identity.hardware is None else identity.hardware
    return {
        "record_version": RECORD_VERSION,
        "execution_id": identity.execution_id,
        "created": timestamp(identity.created_unix_ns),
        "kind": spec.kind,
        "engine_version": ENGINE_VERSION,
        "bundle": dict(identity.bundle),
        "model": dict(identity.model),
        "backend": identity.backend,
        "quantization": identity.quantization,
        "compiler": dict(identity.compiler),
        "plan": spec.plan.to_json(),
        "plan_digest": spec.plan.digest,
        "hardware": dict(hardware),
        "policy": spec.policy,
        "seed": spec.plan.sampling.seed,
        "sampling": _group(values, "sampling"),
        "limits": _group(values, "limits"),
        **spec.request.to_json(),
        **({"chat_template_kwargs": dict(spec.template_kwargs)} if spec.template_kwargs else {}),
        "prompt_tokens": len(ids),
        "prompt": prompt,
        "prompt_sha256": None if prompt is None else sha256_hex(prompt.encode()),
        "prompt_ids": list(ids),
        "prompt_ids_sha256": ids_digest(ids),
        "text": result.text,
        "text_sha256": sha256_hex(result.text.encode()),
        "token_ids": list(result.token_ids),
        "token_ids_sha256": ids_digest(result.token_ids),
        "token_digests": list(result.token_digests),
        "logits_digest": result.logits_digest,
        "stop_reason": str(result.stop_reason),
        "error": None if result.error is None else result.error.to_json(),
        "metrics": dict(result.metrics),
        "diagnostics": dict(result.diagnostics),
        "decisions": [dict(decision) for decision in result.decisions],
    }


def _group(values: Mapping[str, Any], group: str) -> dict[str, Any]:
    prefix = group + "."
    return {path[len(prefix) :]: value for path, value in values.items() if path.startswith(prefix)}


def reduce_content(record: Mapping[str, Any], content: Content) -> dict[str, Any]:
    """The record with as much of the text as ``content`` allows, its digests kept.

    What is left out becomes None, and ``content`` says which rule was applied. A
    text or list of ids that has no digest beside it gets one first.
    """
    kept = dict(record)
    for key in ("prompt", "text"):
        value = kept.get(key)
        if isinstance(value, str):
            kept.setdefault(f"{key}_sha256", sha256_hex(value.encode()))
            if content != "text":
                kept[key] = None
    if content == "hashes" and kept.get("chat_template_kwargs") is not None:
        said = canonical_json(kept["chat_template_kwargs"])
        kept |= {"chat_template_kwargs": None, "chat_template_kwargs_sha256": sha256_hex(said)}
    for key in ("prompt_ids", "token_ids"):
        ids = kept.get(key)
        if isinstance(ids, Sequence):
            kept.setdefault(f"{key}_sha256", ids_digest(ids))
            kept[key] = None if content == "hashes" else list(ids)
    if content != "text" and kept.get("stop"):
        # Stop texts are the client's words too; replay needs them, so "ids" keeps them.
        kept["stop"] = list(kept["stop"]) if content == "ids" else None
    if kept.get("constraint") is not None:
        # Likewise: a schema may say much of what it is about.
        text = kept["constraint"]["text"]
        kept["constraint"] = {
            "kind": kept["constraint"]["kind"],
            "text": None if content == "hashes" else text,
            "text_sha256": sha256_hex(text.encode()),
        }
    kept["content"] = content
    return kept


def state_root() -> Path:
    """``$XDG_STATE_HOME/engine`` or ``~/.local/state/engine``; a relative variable is ignored."""
    base = Path(os.environ.get("XDG_STATE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".local" / "state") / "engine"


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """Canonical JSON of a record; raises ``record_invalid`` for what JSON cannot hold."""
    try:
        return canonical_json(record)
    except (TypeError, ValueError) as cause:
        raise EngineError("record_invalid", f"the record cannot be written as JSON: {cause}") from cause


def record_completion(
    bundle: Bundle,
    plan: ResolvedPlan,
    completion: Completion,
    metrics: Mapping[str, Any],
    diagnostics: Mapping[str, Any],
    *,
    prompt: str | None = None,
) -> dict[str, Any]:
    """The record of an execution that ran alone, without a scheduler.

    ``plan`` is the run's own, overrides applied; ``metrics`` and ``diagnostics`` as published.
    """
    sequence = completion.sequence
    identity = Identity(
        execution_id=new_execution_id(),
        created_unix_ns=time.time_ns(),
        **bundle_identity(bundle.manifest, bundle.digest),
    )
    spec = RunSpec(plan.name, sequence.request, plan, prompt)
    result = Result(
        text=sequence.text,
        token_ids=sequence.token_ids,
        token_digests=sequence.token_digests,
        logits_digest=sequence.logits_digest if sequence.token_ids else None,
        stop_reason=str(sequence.stop_reason),
        metrics=metrics,
        diagnostics=diagnostics,
        error=sequence.error,
    )
    return build_record(identity, spec, result)
