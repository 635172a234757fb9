"""OpenAI-style requests → executions. What is left out is the plan's, never another default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from runtime.api.constraints import caching_of, constraint_of
from runtime.api.runs import texts
from runtime.api.service import Service
from runtime.bundle.plan import ResolvedPlan
from runtime.control.requests import Prompt, make_spec
from runtime.control.types import ChatPromptLike, RunSpec, ServedBundle
from runtime.engine.request import MAX_BIAS, Wishes
from runtime.errors import EXIT_RUN, EngineError

#: Executions of one request.
MAX_CHOICES = 128

_SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "typical_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty",
    "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers",
    "xtc_probability", "xtc_threshold", "seed",
)  # fmt: skip

#: How a plan's fields are called in these requests.
_NAMES = {f"limits.{name}": name for name in ("max_tokens", "min_tokens")} | {
    f"sampling.{name}": name for name in _SAMPLING
}

#: What the engine gives a chat template itself.
RESERVED = frozenset(
    {"messages", "tools", "documents", "bos_token", "eos_token", "add_generation_prompt"}
    | {"strftime_now", "raise_exception"}
)


def find_bundle(service: Service, model: str) -> ServedBundle:
    """The served bundle of a model's name; raises ``model_not_found`` as these APIs do."""
    try:
        return service.bundle(model)
    except EngineError as error:
        if error.code == "plan_not_compiled":
            error.code = "model_not_found"
        raise


@dataclass(frozen=True)
class Choice:
    """One execution of a request. ``prompt`` is the number of its prompt; ``first``: no earlier choice
    has that prompt. ``echo`` is what its text begins with."""

    spec: RunSpec
    prompt: int = 0
    first: bool = True
    echo: str = ""


def chat_choices(service: Service, body: Mapping[str, Any]) -> list[Choice]:
    """A chat completion as executions: the conversation through the bundle's chat template."""
    bundle = find_bundle(service, body["model"])
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise EngineError(
            "invalid_request", "top_logprobs needs logprobs", path="top_logprobs", hint='set "logprobs": true'
        )
    count = body.get("max_completion_tokens")
    if count is not None and body.get("max_tokens") not in (None, count):
        raise EngineError(
            "invalid_request",
            "max_tokens and max_completion_tokens say different things",
            path="max_tokens",
            hint="max_completion_tokens is the newer name; give one of them",
        )
    prompt = rendered(bundle, body)
    wishes = _wishes(body, logprobs=(body.get("top_logprobs") or 0) if body.get("logprobs") else None)
    wishes = replace(wishes, stop=(*wishes.stop, *prompt.stops))
    asked = _Asked(service, bundle, body, count if count is not None else body.get("max_tokens"), wishes)
    return [Choice(spec, 0, i == 0) for i, spec in enumerate(asked.specs("chat", prompt.text, prompt.ids))]


def completion_choices(service: Service, body: Mapping[str, Any]) -> list[Choice]:
    """A text completion as executions. Special tokens written in the prompt are parsed,
    as llama-server does: the prompt may come from /apply-template."""
    bundle, n = find_bundle(service, body["model"]), body.get("n") or 1
    if body.get("best_of") not in (None, n):
        raise EngineError(
            "unsupported_field", "best_of other than n: every choice is given", path="best_of", allowed=str(n)
        )
    if body.get("echo") and body.get("logprobs") is not None:
        raise EngineError(
            "unsupported_field",
            "echo with logprobs: those of a prompt's tokens are not computed",
            path="echo",
            hint="leave out one of them",
        )
    asked = _Asked(service, bundle, body, body.get("max_tokens"), _wishes(body, body.get("logprobs")))
    given = body["prompt"]
    several = isinstance(given, list) and not isinstance(given[0], int)
    prompts = given if several else [given]
    if len(prompts) * n > MAX_CHOICES:
        raise EngineError(
            "invalid_request",
            f"{len(prompts)} prompts of {n} choices are too many",
            path="n",
            allowed=f"at most {MAX_CHOICES} choices together",
        )
    choices: list[Choice] = []
    for number, prompt in enumerate(prompts):
        text, ids = (prompt, None) if isinstance(prompt, str) else (None, prompt)
        try:
            specs = asked.specs("completion", text, ids, first=len(choices))
        except EngineError as error:
            if several and error.path is not None and error.path.startswith("prompt"):
                error.path = f"prompt[{number}]" + error.path.removeprefix("prompt")
            raise
        echo = ""
        if body.get("echo"):
            echo = text if text is not None else bundle.tokenizer.decode(prompt)
        choices += [Choice(spec, number, i == 0, echo) for i, spec in enumerate(specs)]
    return choices


@dataclass(frozen=True)
class _Asked:
    """What all executions of a request share. ``max_tokens`` is -1 where a dialect asks for as many as
    the context leaves."""

    service: Service
    bundle: ServedBundle
    body: Mapping[str, Any]
    max_tokens: int | None
    wishes: Wishes

    @cached_property
    def plan(self) -> tuple[ResolvedPlan, tuple[str, ...]]:
        """The plan with the request's wishes in it, and notes. A seed is drawn once."""
        sampling = {name: self.body[name] for name in _SAMPLING if self.body.get(name) is not None}
        most = self.bundle.engine.limits.context if self.max_tokens == -1 else self.max_tokens
        limits = {"max_tokens": most, "min_tokens": self.body.get("min_tokens")}
        limits = {name: value for name, value in limits.items() if value is not None}
        return self.service.override(self.bundle, limits=limits, sampling=sampling)

    def specs(
        self, kind: str, prompt: str | None, ids: Sequence[int] | None, *, first: int = 0
    ) -> list[RunSpec]:
        """``n`` executions of one prompt, its choices from ``first`` on: each with the next seed."""
        plan, notes = self.plan
        seed = plan.sampling.seed
        assert isinstance(seed, int)  # drawn by now, where it was random
        found: list[RunSpec] = []
        for choice in range(first, first + (self.body.get("n") or 1)):
            spec = make_spec(
                self.bundle,
                plan.with_overrides(sampling={"seed": (seed + choice) % 2**63}) if choice else plan,
                Prompt(prompt, ids, kind == "completion", self.body.get("chat_template_kwargs")),
                self.wishes,
                explicit_max_tokens=self.max_tokens not in (None, -1),
                kind=kind,
                notes=notes,
            )
            ids = spec.request.prompt_ids
            found.append(spec)
        return found


def _wishes(body: Mapping[str, Any], logprobs: int | None) -> Wishes:
    return Wishes(
        stop=texts(body.get("stop")),
        logit_bias=_biases(body.get("logit_bias") or {}),
        logprobs=logprobs,
        ignore_eos=bool(body.get("ignore_eos")),
        constraint=constraint_of(body),
        **caching_of(body),
    )


def _biases(given: Mapping[str, float] | Sequence[Sequence[Any]]) -> dict[int, float]:
    """Biases by id: of a map, or of llama-server's pairs, in which ``false`` forbids a token."""
    if isinstance(given, Mapping):
        return {int(token): float(value) for token, value in given.items()}
    for index, (token, value) in enumerate(given):
        path = f"logit_bias[{index}]"
        if isinstance(token, str):
            hint = "POST /tokenize gives the ids of a text"
            raise EngineError("unsupported_field", "a bias is of a token id", f"{path}[0]", "an id", hint)
        if value is True:
            raise EngineError("invalid_request", "true is no bias", f"{path}[1]", "a number, or false: never")
    return {token: -MAX_BIAS if value is False else float(value) for token, value in given}


def rendered(bundle: ServedBundle, body: Mapping[str, Any]) -> ChatPromptLike:
    """The messages of a request through the bundle's chat template."""
    return bundle.template.prompt(
        messages_of(body),
        add_generation_prompt=body.get("add_generation_prompt"),
        continue_final_message=body.get("continue_final_message"),
        variables=template_kwargs_of(body),
    )


def template_kwargs_of(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """``chat_template_kwargs``, as vLLM and llama-server have it: variables of the template, such as
    ``enable_thinking``. Raises ``invalid_request`` for a name that the engine gives the template itself."""
    given: Mapping[str, Any] | None = body.get("chat_template_kwargs")
    for name in given or {}:
        if name in RESERVED:
            raise EngineError(
                "invalid_request",
                f"{name!r} is what the engine gives the template itself",
                path=f"chat_template_kwargs.{name}",
                hint="use the request's own field of that name, where it has one",
                exit_code=EXIT_RUN,
            )
    return given


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages as a chat template wants them: content as text, ``developer`` as ``system``,
    without fields that ask for nothing. Raises ``invalid_request``."""
    messages = []
    for index, message in enumerate(body["messages"]):
        content, role = message.get("content"), message["role"]
        if content is None and role != "assistant":
            raise EngineError("invalid_request", "content is missing", path=f"messages[{index}].content")
        if not isinstance(content, str):
            content = "\n".join(part["text"] for part in content or ())
        said = {key: value for key, value in message.items() if value not in (None, [])}
        messages.append({**said, "role": "system" if role == "developer" else role, "content": content})
    return messages


def relocated(error: EngineError) -> EngineError:
    """The same error with its path as these requests spell it."""
    error.path = _NAMES.get(error.path or "", error.path)
    error.causes = tuple(relocated(cause) for cause in error.causes)
    return error
