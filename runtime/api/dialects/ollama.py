"""``/api/chat`` and ``/api/generate``: a line of JSON a token, as Ollama's clients read them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.api.body import read_json
from runtime.api.dialects.answering import Reply, Translated, answer, check_repeat_last_n
from runtime.api.openai_requests import find_bundle
from runtime.api.runs import compact
from runtime.api.service import Service, service_of
from runtime.control.types import Outcome, ServedBundle, TokenOut
from runtime.errors import EngineError

#: Options → fields of a completion.
OPTIONS = {
    "num_predict": "max_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "stop": "stop",
}
_NAMES = {field: f"options.{option}" for option, field in OPTIONS.items()} | {"json_schema": "format"}
_LENGTHS = frozenset({"max_tokens", "max_seconds", "energy_limit"})


async def chat(request: Request) -> Response:
    """``POST /api/chat``."""
    body = await read_json(request, "ollama_chat_request")
    if not body.get("messages"):
        return _loaded(request, body, {"message": {"role": "assistant", "content": ""}})
    return await answer(request, body, chat_of, ChatReply, stream=body.get("stream") is not False)


async def generate(request: Request) -> Response:
    """``POST /api/generate``."""
    body = await read_json(request, "ollama_generate_request")
    if not body.get("prompt"):
        return _loaded(request, body, {"response": ""})
    return await answer(request, body, generate_of, GenerateReply, stream=body.get("stream") is not False)


async def embed(request: Request) -> Response:
    """``POST /api/embed`` and ``/api/embeddings``: refused by name."""
    request.state.unread = True
    raise EngineError(
        "embeddings_unsupported",
        "this engine computes no embeddings",
        hint="/api/chat and /api/generate answer with text",
    )


def _loaded(request: Request, body: Mapping[str, Any], empty: Mapping[str, Any]) -> Response:
    """The reply to a request that asks for nothing but the model in memory, where every plan is."""
    _check_keep_alive(body)
    bundle = served(service_of(request), body["model"])
    head = {"model": bundle.info.name, "created_at": stamp(time.time_ns())}
    return JSONResponse({**head, **empty, "done": True, "done_reason": "load"})


def served(service: Service, model: str) -> ServedBundle:
    """The served bundle of a name, with or without Ollama's tag ``latest``."""
    return find_bundle(service, model.removesuffix(":latest"))


def chat_of(service: Service, body: Mapping[str, Any]) -> Translated:
    """A conversation as a chat completion."""
    messages = [
        {"role": message["role"], "content": message.get("content") or ""} for message in body["messages"]
    ]
    places = [f"messages[{index}]" for index in range(len(messages))]
    return _translated(service, body, {"messages": messages}, places)


def generate_of(service: Service, body: Mapping[str, Any]) -> Translated:
    """A prompt as a conversation of one message, or with ``raw`` as a text to go on with."""
    if body.get("raw"):
        if body.get("system"):
            raise EngineError(
                "conflicting_fields", "raw takes no system message: the prompt is all there is", path="system"
            )
        return _translated(service, body, {"prompt": body["prompt"]}, ())
    said = {name: body[name] for name in ("system", "prompt") if body.get(name)}
    roles = {"system": "system", "prompt": "user"}
    messages = [{"role": roles[name], "content": text} for name, text in said.items()]
    return _translated(service, body, {"messages": messages}, [*said])


def _translated(
    service: Service, body: Mapping[str, Any], asked: dict[str, Any], messages: Sequence[str]
) -> Translated:
    _check_keep_alive(body)
    options = {name: value for name, value in (body.get("options") or {}).items() if value is not None}
    bundle = served(service, body["model"])
    _check_options(bundle, options)
    asked |= {field: options[option] for option, field in OPTIONS.items() if option in options}
    asked["model"] = bundle.info.name
    if options.get("seed", 0) < 0:
        asked["seed"] = "random"
    if options.get("num_predict", 0) < 0:
        asked["max_tokens"] = -1
    asked |= _logprobs(body, chat="messages" in asked)
    if (form := body.get("format")) not in (None, ""):
        asked["json_schema"] = {"type": "object"} if form == "json" else form
    return Translated(asked, _NAMES, messages)


def _logprobs(body: Mapping[str, Any], *, chat: bool) -> dict[str, Any]:
    top = body.get("top_logprobs")
    if not body.get("logprobs"):
        if top:
            raise EngineError(
                "invalid_request", "top_logprobs needs logprobs", "top_logprobs", hint='set "logprobs": true'
            )
        return {}
    return {"logprobs": True, "top_logprobs": top or 0} if chat else {"logprobs": top or 0}


def _check_keep_alive(body: Mapping[str, Any]) -> None:
    given = body.get("keep_alive")
    if given is not None and not set("123456789").intersection(str(given)):
        raise EngineError(
            "unsupported_field",
            f"keep_alive {given!r} asks to unload: a served plan stays in memory",
            path="keep_alive",
            allowed='a duration other than 0, such as 300, -1 or "5m"',
            hint="leave it out",
        )


def _check_options(bundle: ServedBundle, options: Mapping[str, Any]) -> None:
    """Refuses options that are decisions of the plan, and not this plan's."""
    plan = bundle.info.plan
    for name, most in (("num_ctx", plan.execution.context), ("num_keep", plan.execution.context)):
        if options.get(name, 0) > most:
            raise EngineError(
                "out_of_range",
                f"{name} {options[name]} is more than the plan's context",
                path=f"options.{name}",
                allowed=f"at most {most}",
                hint="compile the plan with a larger execution.context",
            )
    for name, field, own in (
        ("num_thread", "threads", plan.execution.threads),
        ("num_batch", "step_tokens", plan.execution.step_tokens),
    ):
        if options.get(name, 0) not in (0, own):
            raise EngineError(
                "not_overridable",
                f"{name} is the plan's execution.{field}, {own}",
                path=f"options.{name}",
                allowed=f"{own}, or 0 for the plan's",
                hint=f"compile a plan with another execution.{field}",
            )
    check_repeat_last_n(plan, options, "options.")


def stamp(unix_ns: int) -> str:
    """A time as Ollama writes it: RFC 3339, UTC."""
    whole = datetime.fromtimestamp(unix_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{unix_ns % 1_000_000_000:09d}Z"


class LineReply(Reply):
    """What replies of both kinds share: NDJSON, and the counts at the end."""

    media_type = "application/x-ndjson"

    def text(self, text: str) -> dict[str, Any]:
        """The part that carries text."""
        raise NotImplementedError

    def waiting(self) -> bytes:
        return self._line(self.text(""), {"done": False})  # a line must be an object

    def said(self, text: str, tokens: Sequence[TokenOut]) -> bytes:
        return self._line(self.text(text), self._logprobs(tokens), {"done": False})

    def closing(self, outcome: Outcome) -> bytes:
        return self._line(self.text(""), self._end(outcome))

    def failed(self, error: EngineError) -> bytes:
        return compact(self.error(error, "/api/")).encode() + b"\n"

    def whole(self, outcome: Outcome, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        return {
            **self._head(time.time_ns()),
            **self.text(outcome.text),
            **self._logprobs(tokens),
            **self._end(outcome),
        }

    def _line(self, *parts: Mapping[str, Any]) -> bytes:
        body = self._head(time.time_ns())
        for part in parts:
            body |= part
        return compact(body).encode() + b"\n"

    def _head(self, now_ns: int) -> dict[str, Any]:
        return {"model": self.bundle.info.name, "created_at": stamp(now_ns)}

    def _end(self, outcome: Outcome) -> dict[str, Any]:
        """Counts, and durations in nanoseconds; as in Ollama, one of zero is left out."""
        times = outcome.token_ns
        ended = times[-1] if times else time.monotonic_ns()
        durations = {
            "total_duration": ended - self.execution.created_ns,
            "load_duration": 0,  # the plan was loaded before
            "prompt_eval_duration": times[0] - outcome.started_ns if times else 0,
            "eval_duration": ended - times[0] if times else 0,
        }
        return {
            "done": True,
            "done_reason": "length" if str(outcome.stop_reason) in _LENGTHS else "stop",
            **{name: ns for name, ns in durations.items() if ns > 0},
            "prompt_eval_count": outcome.prompt_tokens,
            "eval_count": len(outcome.token_ids),
            "execution_id": outcome.id,
            "stop_reason": str(outcome.stop_reason),
        }

    def _logprobs(self, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        found = self.logprobs(tokens)
        return {"logprobs": found} if found else {}


class ChatReply(LineReply):
    """Of ``/api/chat``."""

    def text(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}


class GenerateReply(LineReply):
    """Of ``/api/generate``."""

    def text(self, text: str) -> dict[str, Any]:
        return {"response": text}
