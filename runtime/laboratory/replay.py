"""Running a record again, and finding the first token at which it comes out differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.bundle.reader import is_bundle, read_manifest
from runtime.bundle.store import bundles_dir
from runtime.control.compare import lookup
from runtime.control.record import describe_hardware, ids_digest
from runtime.engine.loop import Engine
from runtime.engine.request import Limits, Request, wishes_of_record
from runtime.engine.sampling import sampling_of
from runtime.engine.sequence import LiveSequence
from runtime.engine.types import Phase, StopReason
from runtime.errors import EXIT_BUNDLE, EXIT_RUN, EXIT_USAGE, EngineError
from runtime.version import ENGINE_VERSION


@dataclass(frozen=True)
class Replay:
    """What came of it. ``first_difference``: index of a generated token, None if there is none.

    ``what`` differs there: ``logits`` (the running digest), or ``token`` (same logits,
    another choice: sampling). ``notes``: what was not as it was then.
    """

    execution_id: str
    tokens: int
    first_difference: int | None
    what: str | None
    recorded_digest: str | None
    replayed_digest: str
    notes: tuple[str, ...]

    @property
    def identical(self) -> bool:
        return self.first_difference is None

    def to_json(self) -> dict[str, object]:
        difference = None if self.identical else {"token": self.first_difference, "what": self.what}
        return {
            "execution_id": self.execution_id,
            "identical": self.identical,
            "tokens": self.tokens,
            "first_difference": difference,
            "logits_digest": {"recorded": self.recorded_digest, "replayed": self.replayed_digest},
            "notes": list(self.notes),
        }


def find_bundle(record: Mapping[str, Any], extra: Sequence[Path] = ()) -> Path:
    """The folder of the very bundle that ran, by its digest; ``extra`` folders are looked at first.

    Raises ``bundle_not_found`` with the commands that compile its plan again.
    """
    wanted = lookup(record, "bundle.digest")
    for path in (*extra, *sorted(bundles_dir().iterdir())):
        if is_bundle(path):
            try:
                if read_manifest(path)[1] == wanted:
                    return path
            except EngineError:
                continue  # a damaged one is not the one that ran
    name = record.get("execution_id")
    raise EngineError(
        "bundle_not_found",
        f"the bundle {lookup(record, 'bundle.name')} with digest {str(wanted)[:16]}… is not here",
        path="bundle.digest",
        hint=f"`engine replay {name} --save-plan plan.yaml && engine compile plan.yaml`, "
        "then --bundle DIR if another engine or compiler built it",
        exit_code=EXIT_BUNDLE,
    )


def plan_document(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record's plan as a plan file's tree: what was decided, without origins."""
    document: dict[str, Any] = {}
    for path, entry in lookup(record, "plan.fields").items():
        *parents, leaf = path.split(".")
        place = document
        for parent in parents:
            place = place.setdefault(parent, {})
        if path not in ("model_digest", "quantization.imatrix"):  # facts about files, not decisions
            place[leaf] = entry["value"]
    return document


def replay(record: Mapping[str, Any], engine: Engine, prompt: str | None = None) -> Replay:
    """Runs the record's prompt again on ``engine`` and compares token by token.

    The recorded number of tokens is generated whatever ended the execution then.
    ``prompt`` is needed where the record keeps only the hash of the prompt's ids.
    Errors: ``nothing_to_replay``, ``prompt_needed``, ``prompt_differs``, and those of a run.
    """
    digests = record.get("token_digests") or []
    ids = record.get("token_ids")
    count = len(ids) if ids is not None else len(digests)
    if not count or not (digests or record.get("logits_digest")):
        raise EngineError(
            "nothing_to_replay", "the execution generated no token", path="token_ids", exit_code=EXIT_USAGE
        )
    wishes = replace(wishes_of_record(record), stop=(), logprobs=None, ignore_eos=True)
    request = Request(
        prompt_ids=_prompt_ids(record, engine, prompt),
        sampling=sampling_of(record["sampling"]),
        limits=Limits(max_tokens=count, min_tokens=min(record["limits"].get("min_tokens", 0), count)),
        **vars(wishes),
    )
    sequence = engine.admit(request)
    try:
        first = _first_difference(record, engine, sequence, count)
        return Replay(
            execution_id=str(record["execution_id"]),
            tokens=len(sequence.token_ids),
            first_difference=None if first is None else first[0],
            what=None if first is None else first[1],
            recorded_digest=record.get("logits_digest"),
            replayed_digest=sequence.logits_digest,
            notes=tuple(_notes(record, engine)),
        )
    finally:
        engine.release(sequence)


def _first_difference(
    record: Mapping[str, Any], engine: Engine, sequence: LiveSequence, count: int
) -> tuple[int, str] | None:
    """Runs the sequence to its end, or to the first token that differs from the record's, and in what."""
    digests, ids = record.get("token_digests") or [], record.get("token_ids")
    first: tuple[int, str] | None = None
    while sequence.phase is not Phase.FINISHED and first is None:
        chunk = min(sequence.remaining_prefill or 1, engine.limits.step_tokens)
        for event in engine.step([(sequence, chunk)]).events:
            i = event.index
            if i < len(digests) and sequence.token_digests[i] != digests[i]:
                first = (i, "logits")
            elif ids is not None and event.token != ids[i]:
                first = (i, "token")
    engine.finish(sequence, StopReason.CANCELLED)
    if sequence.error is not None:
        raise sequence.error
    recorded = record.get("logits_digest")
    if first is None and recorded is not None and sequence.logits_digest != recorded:
        first = (count - 1, "logits")  # without digests of tokens all that is known is the end
    if first is None and ids is None and ids_digest(sequence.token_ids) != record["token_ids_sha256"]:
        first = (count - 1, "token")
    return first


def _prompt_ids(record: Mapping[str, Any], engine: Engine, prompt: str | None) -> tuple[int, ...]:
    kept = record.get("prompt_ids")
    if kept is not None:
        return tuple(kept)
    if prompt is None:
        raise EngineError(
            "prompt_needed",
            "the record keeps only the hash of its prompt",
            path="prompt_ids",
            hint="give the same prompt with --prompt or --prompt-file",
            exit_code=EXIT_USAGE,
        )
    ids = tuple(engine.tokenizer.encode(prompt))
    if ids_digest(ids) != record["prompt_ids_sha256"]:
        raise EngineError(
            "prompt_differs",
            f"this prompt's {len(ids)} tokens are not the {record['prompt_tokens']} that were recorded",
            path="prompt_ids_sha256",
            exit_code=EXIT_RUN,
        )
    return ids


def _notes(record: Mapping[str, Any], engine: Engine) -> Iterator[str]:
    bundle = engine.executable.bundle
    now = {
        "bundle.digest": bundle.digest,
        "model.digest": bundle.manifest.model_digest,
        "engine_version": ENGINE_VERSION,
        "hardware.cpu_model": describe_hardware()["cpu_model"],
        "backend": bundle.manifest.backend,
    }
    for path, value in now.items():
        if (then := lookup(record, path)) != value:
            yield f"{path} was {then}, is {value}"
