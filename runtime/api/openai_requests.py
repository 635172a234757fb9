"""OpenAI-style requests → executions. What is left out is the plan's, never another default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from runtime.api.runs import texts
from runtime.api.service import Service
from runtime.bundle.plan import ResolvedPlan
from runtime.control.requests import make_spec
from runtime.control.types import RunSpec, ServedBundle
from runtime.engine.request import Wishes
from runtime.errors import EngineError

_SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "typical_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip

#: How a plan's fields are called in these requests.
_NAMES = {"limits.max_tokens": "max_tokens"} | {f"sampling.{name}": name for name in _SAMPLING}


def find_bundle(service: Service, model: str) -> ServedBundle:
    """The served bundle of a model's name; raises ``model_not_found`` as these APIs do."""
    try:
        return service.bundle(model)
    except EngineError as error:
        if error.code == "plan_not_compiled":
            error.code = "model_not_found"
        raise


def chat_spec(service: Service, body: Mapping[str, Any]) -> RunSpec:
    """A chat completion as an execution: the conversation through the bundle's chat template."""
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
    prompt = bundle.template.prompt(messages_of(body))
    return _spec(
        service,
        bundle,
        body,
        max_tokens=count if count is not None else body.get("max_tokens"),
        logprobs=(body.get("top_logprobs") or 0) if body.get("logprobs") else None,
        make=lambda plan, rest: make_spec(
            bundle,
            plan,
            prompt=prompt.text,
            prompt_ids=prompt.ids,
            kind="chat",
            **{**rest, "wishes": replace(rest["wishes"], stop=(*rest["wishes"].stop, *prompt.stops))},
        ),
    )


def completion_spec(service: Service, body: Mapping[str, Any]) -> RunSpec:
    """A text completion as an execution. Special tokens written in the prompt are parsed,
    as llama-server does: the prompt may come from /apply-template."""
    bundle = find_bundle(service, body["model"])
    prompt = body["prompt"]
    ids: list[int] | None = None
    if isinstance(prompt, list):
        ids, prompt = (None, prompt[0]) if isinstance(prompt[0], str) else (prompt, None)
    return _spec(
        service,
        bundle,
        body,
        max_tokens=body.get("max_tokens"),
        logprobs=body.get("logprobs"),
        make=lambda plan, rest: make_spec(
            bundle, plan, prompt=prompt, prompt_ids=ids, parse_special=True, kind="completion", **rest
        ),
    )


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages as a chat template wants them: content as text, ``developer`` as ``system``."""
    messages = []
    for message in body["messages"]:
        content = message["content"]
        if not isinstance(content, str):
            content = "\n".join(part["text"] for part in content)
        role = "system" if message["role"] == "developer" else message["role"]
        messages.append({**message, "role": role, "content": content})
    return messages


def _spec(
    service: Service,
    bundle: ServedBundle,
    body: Mapping[str, Any],
    *,
    max_tokens: int | None,
    logprobs: int | None,
    make: Callable[[ResolvedPlan, dict[str, Any]], RunSpec],
) -> RunSpec:
    sampling = {name: body[name] for name in _SAMPLING if body.get(name) is not None}
    limits = {} if max_tokens is None else {"max_tokens": max_tokens}
    plan, notes = service.override(bundle, limits=limits, sampling=sampling)
    bias = {int(token): float(value) for token, value in (body.get("logit_bias") or {}).items()}
    return make(
        plan,
        {
            "explicit_max_tokens": max_tokens is not None,
            "wishes": Wishes(
                stop=texts(body.get("stop")),
                logit_bias=bias,
                logprobs=logprobs,
                ignore_eos=bool(body.get("ignore_eos")),
            ),
            "notes": notes,
        },
    )


def relocated(error: EngineError) -> EngineError:
    """The same error with its path as these requests spell it."""
    error.path = _NAMES.get(error.path or "", error.path)
    error.causes = tuple(relocated(cause) for cause in error.causes)
    return error
