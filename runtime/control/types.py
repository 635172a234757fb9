"""What the control plane takes, gives and needs; one thing each, frozen where it can be.

The control plane owns executions from the request to the record. It drives an
:class:`~runtime.engine.types.EngineLike` per served bundle and never computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.bundle.plan import ResolvedPlan
from runtime.engine.constraint import Grammars
from runtime.engine.request import Request
from runtime.engine.types import EngineLike, StopReason
from runtime.errors import EngineError
from runtime.scheduler import CostModel, Decision

#: What an execution id looks like; nothing else is looked up anywhere.
EXECUTION_ID = r"^exec_[0-9a-f]{4,32}$"


class TokenizerLike(Protocol):
    """The part of :class:`runtime.engine.tokenizer.Tokenizer` the service uses."""

    @property
    def n_vocab(self) -> int: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_ids(self) -> frozenset[int]: ...
    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> Sequence[int]: ...
    def decode(
        self, ids: Sequence[int], skip_special: bool = False, *, continuation: bool = False
    ) -> str: ...
    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; not always whole UTF-8 characters."""

    @property
    def grammars(self) -> Grammars:
        """The constraints compiled for this vocabulary so far."""


class ChatPromptLike(Protocol):
    """A rendered conversation (:class:`runtime.engine.chat.ChatPrompt`)."""

    @property
    def text(self) -> str: ...
    @property
    def ids(self) -> tuple[int, ...]: ...
    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer beside the end-of-generation tokens."""


class ChatTemplateLike(Protocol):
    """The bundle's chat template, or the documented fallback."""

    @property
    def source(self) -> str:
        """The template's text."""

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> ChatPromptLike:
        """With neither switch given, an assistant's message at the end is continued. ``variables``: what
        the template is given beside the messages.
        Errors: ``invalid_messages``, ``chat_template_…``."""


@dataclass(frozen=True)
class BundleInfo:
    """What is known of a served bundle; the identity that records and replies carry.

    ``digest`` is the bundle's; ``identity`` is what a record says of it (see
    :func:`runtime.control.record.bundle_identity`). Byte counts are the compiled object's.
    """

    name: str
    digest: str
    plan: ResolvedPlan
    model_name: str
    model_digest: str
    architecture: str
    backend: str
    quantization: str
    identity: Mapping[str, Any]
    weights_bytes: int
    kv_bytes: int
    arena_bytes: int
    cost: CostModel
    parameters: int | None = None
    created_unix: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plan_digest(self) -> str:
        """Digest of the resolved plan that was compiled."""
        return self.plan.digest

    @property
    def labels(self) -> tuple[str, ...]:
        """Every name a request may call it by: the plan's, the model's as the plan, its file and
        the model itself name it."""
        stem = self.plan.model.rpartition("/")[2].removesuffix(".gguf")
        return tuple(dict.fromkeys((self.name, self.plan.model, stem, self.model_name)))


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

    ``bundle`` names a served bundle; ``plan`` is its plan with the request's own limits,
    sampling and policy in it, from which those of ``request`` follow.
    ``prompt`` is the text as it was tokenized (None if the client sent token ids);
    ``notes`` say what of the request could not be kept. ``kind``: ``run``, ``chat``,
    ``completion``. ``template_kwargs``: what a chat template was given beside the messages.
    """

    bundle: str
    request: Request
    plan: ResolvedPlan
    prompt: str | None = None
    kind: str = "run"
    notes: tuple[str, ...] = ()
    template_kwargs: Mapping[str, Any] | None = None

    @property
    def policy(self) -> str:
        return self.plan.scheduler_policy


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
    ``token_ns`` are the tokens' times and ``started_ns`` that of admission, on the monotonic
    clock. ``record_hash`` is the hash of its row in the store. ``reused_tokens``: of the prompt, those
    whose keys and values came from the prefix cache. ``drafted``: tokens drafted, and kept.
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
    logits_digest: str | None = None
    token_ns: tuple[int, ...] = ()
    started_ns: int = 0
    record_hash: str | None = None
    reused_tokens: int = 0
    drafted: tuple[int, int] = (0, 0)


class Listener(Protocol):
    """Whoever follows an execution. Called on threads of the control plane; must not block."""

    def token(self, token: TokenOut) -> None: ...
    def done(self, outcome: Outcome) -> None: ...


class RecordStoreLike(Protocol):
    """Where finished executions go: :class:`runtime.control.records.RecordStore`."""

    def append(self, record: Mapping[str, Any]) -> str:
        """Writes a complete record durably; returns its row's hash. Raises EngineError."""

    def get(self, execution_id: str) -> Mapping[str, Any] | None: ...
    def list(self, *, limit: int = 100, before: str | None = None) -> Sequence[Mapping[str, Any]]:
        """Newest first. Raises ``run_not_found`` for an unknown ``before``."""

    def head(self) -> Mapping[str, Any]:
        """``{"count", "hash"}`` of the last row."""
