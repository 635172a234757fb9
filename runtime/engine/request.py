"""One request: what is asked of an execution, from the door to the record.

Whoever takes requests in (HTTP, the command line, a replay) makes a :class:`Request`;
the run loop runs it, and its record holds it as it is (:meth:`Request.to_json`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from runtime.errors import EXIT_RUN, EngineError

if TYPE_CHECKING:
    from runtime.bundle.plan import ResolvedPlan

#: Most alternatives a request may ask for per token.
MAX_LOGPROBS = 100

#: A bias beyond this always wins or never does.
MAX_BIAS = 1e6


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from a row of logits; the neutral value of each is off.

    The order of the steps is that of ``kernels_c/sampling.c``. The draw depends
    on ``seed`` and the token's position only. Penalties look at the whole
    sequence so far, prompt included.
    """

    temperature: float = 0.0  # 0: greedy
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1  # -1: the whole sequence
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    seed: int = 0  # 0 … 2^64 - 1


@dataclass(frozen=True)
class Limits:
    """What an execution may use.

    ``max_tokens`` and ``max_seconds`` (from admission, prefill included; a server counts
    them from arrival) are kept by the run loop; the energy limits by whoever holds the
    meter, through :meth:`EngineLike.finish` or by waiting between steps (``on_limit: pace``).
    Before ``min_tokens`` no end-of-sequence token is chosen and no stop text ends it.
    """

    max_tokens: int = 512
    min_tokens: int = 0
    max_seconds: float | None = None
    max_watts: float | None = None
    max_joules: float | None = None
    on_limit: str = "stop"  # stop | pace


@dataclass(frozen=True)
class Constraint:
    """``text``: a JSON Schema (as JSON), a regular expression (the Rust crate ``regex``'s syntax, matched
    whole), or a grammar in llguidance's variant of Lark. Recorded as it is."""

    kind: Literal["json_schema", "regex", "grammar"]
    text: str

    @classmethod
    def of_schema(cls, schema: Mapping[str, Any] | bool) -> Constraint:
        """A JSON Schema given as an object; properties keep their order, which is that of the answer."""
        return cls("json_schema", json.dumps(schema, ensure_ascii=False, separators=(",", ":")))

    def to_json(self) -> dict[str, str]:
        """As it stands in a record."""
        return {"kind": self.kind, "text": self.text}


@dataclass(frozen=True)
class Wishes:
    """What a request says beside its prompt and the plan's own fields.

    ``logprobs``: ``None`` for none, else how many of the most likely tokens are
    reported beside each chosen one (0: the chosen one's only).
    ``stop``: texts that end the execution; they are not part of its result.
    ``logit_bias``: added to the logits of tokens by id; ``-inf`` forbids one.
    ``ignore_eos``: go on past an end-of-sequence token (for benchmarks).
    ``constraint``: what the answer must look like; it ends where nothing more can follow.
    ``cache_prompt``: whether keys and values of the same beginnings may be taken from the prefix
    cache and left there; no bit of the result depends on it. ``cache_salt``: prompts share them only
    with prompts of the same salt, so that times tell nobody what others asked.
    """

    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    ignore_eos: bool = False
    constraint: Constraint | None = None
    cache_prompt: bool = True
    cache_salt: str = ""


@dataclass(frozen=True)
class Request:
    """One execution to run, in token ids: see :class:`Wishes` for what is asked beside the prompt."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling = Sampling()
    limits: Limits = Limits()
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    ignore_eos: bool = False
    constraint: Constraint | None = None
    cache_prompt: bool = True
    cache_salt: str = ""

    @classmethod
    def of_plan(cls, plan: ResolvedPlan, prompt_ids: Sequence[int], wishes: Wishes | None = None) -> Request:
        """A request under a plan's own sampling and limits; its seed is a number (see
        :meth:`ResolvedPlan.with_overrides`)."""
        limits = {item.name: getattr(plan.limits, item.name) for item in fields(Limits)}
        sampling = {item.name: getattr(plan.sampling, item.name) for item in fields(Sampling)}
        asked = vars(wishes or Wishes())
        return cls(tuple(prompt_ids), Sampling(**sampling), Limits(**limits), **asked)

    def to_json(self) -> dict[str, Any]:
        """What of it stands in a record beside the plan's sampling and limits."""
        return {
            "stop": list(self.stop),
            "logit_bias": {str(token): bias for token, bias in sorted(self.logit_bias.items())},
            "logprobs": self.logprobs,
            "ignore_eos": self.ignore_eos,
            "constraint": None if self.constraint is None else self.constraint.to_json(),
        }


def wishes_of_record(record: Mapping[str, Any]) -> Wishes:
    """The inverse of :meth:`Request.to_json`, from a whole record; fields that it lacks are off.

    Raises ``constraint_needed`` where the record keeps only a digest of the constraint.
    """
    kept = record.get("constraint")
    if kept is not None and kept["text"] is None:
        raise EngineError(
            "constraint_needed",
            "the record keeps only the digest of its constraint",
            path="constraint",
            hint="records keep it where the content is text or ids",
            exit_code=EXIT_RUN,
        )
    return Wishes(
        stop=tuple(record.get("stop") or ()),
        logit_bias={int(token): bias for token, bias in record["logit_bias"].items()},
        logprobs=record.get("logprobs"),
        ignore_eos=bool(record.get("ignore_eos")),
        constraint=None if kept is None else Constraint(kept["kind"], kept["text"]),
    )


def logit_bias_of(values: Mapping[Any, Any], n_vocab: int) -> dict[int, float]:
    """Token id → what is added to its logit, from JSON (whose keys are text).

    ``-inf`` forbids a token; one must be left. Raises EngineError ``invalid_request``,
    ``token_out_of_range``.
    """
    bias: dict[int, float] = {}
    for key, value in values.items():
        try:
            token = int(key)
        except (TypeError, ValueError):
            token = -1
        if isinstance(key, bool) or not 0 <= token < n_vocab:
            raise EngineError(
                "token_out_of_range",
                f"the token id {key!r} is outside the vocabulary",
                path="logit_bias",
                allowed=f"0 to {n_vocab - 1}",
                exit_code=EXIT_RUN,
            )
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (value == -math.inf or abs(value) <= MAX_BIAS):
            allowed = f"numbers from {-MAX_BIAS:.0f} to {MAX_BIAS:.0f}, or -inf"
            path = f"logit_bias.{token}"
            raise EngineError(
                "invalid_request", f"{value!r} is not a bias", path, allowed, exit_code=EXIT_RUN
            )
        bias[token] = float(value)
    if sum(value == -math.inf for value in bias.values()) == n_vocab:
        raise EngineError(
            "invalid_request",
            "it forbids every token",
            "logit_bias",
            "one token that is allowed",
            exit_code=EXIT_RUN,
        )
    return bias


def check_request(request: Request, n_vocab: int, context: int) -> None:
    """Refuses what cannot run, before anything is computed.

    Here, not in the step: what a sampler refuses there would fail the others of the step, too.
    Raises ``prompt_empty``, ``prompt_too_long``, ``token_out_of_range``, ``invalid_request``.
    """
    from runtime.engine.sampling import validated_sampling

    n = len(request.prompt_ids)
    if n == 0:
        raise EngineError(
            "prompt_empty",
            "the prompt has no tokens, and this model has no beginning-of-sequence token to start from",
            path="prompt",
            exit_code=EXIT_RUN,
        )
    if n > context:
        raise EngineError(
            "prompt_too_long",
            f"the prompt has {n} tokens",
            path="prompt",
            allowed=f"at most {context} tokens (execution.context)",
            hint="shorten it, or compile the plan with a larger execution.context",
            exit_code=EXIT_RUN,
        )
    for token in (min(request.prompt_ids), max(request.prompt_ids)):
        check_token(token, n_vocab, "prompt")
    if request.limits.max_tokens < 1:
        raise invalid_request("limits.max_tokens", str(request.limits.max_tokens), "1 or more")
    if request.logprobs is not None and not 0 <= request.logprobs <= MAX_LOGPROBS:
        raise invalid_request("logprobs", str(request.logprobs), f"0 to {MAX_LOGPROBS}")
    validated_sampling(request.sampling)
    logit_bias_of(request.logit_bias, n_vocab)


def check_token(token: int, n_vocab: int, path: str) -> None:
    """Raises ``token_out_of_range`` unless the vocabulary has ``token``."""
    if not 0 <= token < n_vocab:
        raise EngineError(
            "token_out_of_range",
            f"the token id {token} is outside the vocabulary",
            path=path,
            allowed=f"0 to {n_vocab - 1}",
            exit_code=EXIT_RUN,
        )


def invalid_request(path: str, value: str, allowed: str) -> EngineError:
    """The error for one value that a request may not have."""
    return EngineError("invalid_request", f"{value} is out of range", path, allowed, exit_code=EXIT_RUN)
