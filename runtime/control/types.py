"""What the control plane takes, gives and needs; one thing each, frozen where it can be.

The control plane owns executions from the request to the record. It drives an
:class:`~runtime.engine.types.EngineLike` per served bundle and never computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.engine.types import EngineLike, Limits, Sampling, StopReason
from runtime.errors import EngineError
from runtime.scheduler import CostModel, Decision

#: What an execution id looks like; nothing else is looked up anywhere.
EXECUTION_ID = r"^exec_[0-9a-f]{4,32}$"


class TokenizerLike(Protocol):
    """The part of a bundle's tokenizer the service uses."""

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> Sequence[int]: ...
    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str: ...
    def piece_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; empty for a control token."""


class ChatTemplateLike(Protocol):
    """The bundle's chat template, or the documented fallback."""

    @property
    def source(self) -> str:
        """The template's text, empty for the fallback."""

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """Errors: ``chat_template_error`` and others, as EngineError."""


@dataclass(frozen=True)
class BundleInfo:
    """What is known of a served bundle; the identity that records and replies carry.

    ``plan`` is the resolved plan as plain values (no origins). ``digest`` is the
    bundle's, ``plan_digest`` the resolved plan's. Byte counts come from the manifest.
    """

    name: str
    digest: str
    plan: Mapping[str, Any]
    plan_digest: str
    model_name: str
    model_digest: str
    architecture: str
    backend: str
    quantization: str
    compiler: Mapping[str, Any]
    weights_bytes: int
    kv_bytes: int
    arena_bytes: int
    cost: CostModel
    parameters: int | None = None
    created_unix: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def policy(self) -> str:
        return str(self.plan.get("scheduler_policy", "default"))


@dataclass(frozen=True)
class ServedBundle:
    """A bundle that is loaded: who it is and what runs it. ``close`` frees the engine."""

    info: BundleInfo
    engine: EngineLike
    tokenizer: TokenizerLike
    template: ChatTemplateLike

    def close(self) -> None:
        close = getattr(self.engine, "close", None)
        if close is not None:
            close()


@dataclass(frozen=True)
class RunSpec:
    """One execution as asked for, every choice made: nothing is decided after this.

    ``bundle`` names a served bundle. ``prompt`` is the text as it was tokenized
    (None if the client sent token ids). ``kind``: ``run``, ``chat``, ``completion``.
    """

    bundle: str
    prompt_ids: tuple[int, ...]
    prompt: str | None = None
    sampling: Sampling = Sampling()
    limits: Limits = Limits()
    policy: str = "default"
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    ignore_eos: bool = False
    kind: str = "run"


@dataclass(frozen=True)
class TokenOut:
    """A generated token on its way to a client; ``text`` is what became safe to show with it."""

    index: int
    token: int
    text: str
    time_ns: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """A finished execution, after its record was written.

    ``metrics`` is the official object exactly, ``diagnostics`` everything else.
    ``record_hash`` is the hash of its row in the store.
    """

    id: str
    bundle: str
    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    stop_reason: StopReason
    error: EngineError | None
    metrics: Mapping[str, Any]
    diagnostics: Mapping[str, Any]
    decisions: tuple[Decision, ...]
    record_hash: str | None = None


class Listener(Protocol):
    """Whoever follows an execution. Called on threads of the control plane; must not block."""

    def tokens(self, tokens: Sequence[TokenOut]) -> None: ...
    def done(self, outcome: Outcome) -> None: ...


class RecordStoreLike(Protocol):
    """Where finished executions go: append-only, one immutable row each.

    ``append`` gets the complete record (see ``runtime.control.outcome.build_record``),
    texts and token ids included; the store keeps hashes of ``prompt`` and ``text``
    instead unless the operator asked for the text. It returns the row's hash and is
    called from one thread. It raises EngineError if the row could not be made durable.
    """

    def append(self, record: Mapping[str, Any]) -> str: ...
    def get(self, execution_id: str) -> Mapping[str, Any] | None: ...
    def list(self, *, limit: int = 100, before: str | None = None) -> Sequence[Mapping[str, Any]]:
        """Newest first."""

    def head(self) -> Mapping[str, Any]:
        """``{"count", "hash"}`` of the last row."""
