"""``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``: replies as the OpenAI client reads them.

Beside OpenAI's fields: ``timings`` as llama-server gives them, ``execution_id`` and
``stop_reason`` as this engine records them. ``system_fingerprint`` is the bundle's digest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.api.body import read_json
from runtime.api.errors import error_body, error_response
from runtime.api.follow import EventStream, Following, failure, outcomes_or_gone, submit
from runtime.api.openai_requests import (
    Choice,
    chat_choices,
    completion_choices,
    find_bundle,
    relocated,
)
from runtime.api.runs import sse
from runtime.api.service import Service, service_of
from runtime.control.execution import Execution
from runtime.control.types import BundleInfo, Outcome, RunSpec, ServedBundle, TokenizerLike, TokenOut
from runtime.errors import EngineError

_FINISH = {
    "end_of_sequence": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "max_seconds": "length",
    "energy_limit": "length",
    "cancelled": "stop",
}
DONE = b"data: [DONE]\n\n"


async def chat(request: Request) -> Response:
    """``POST /v1/chat/completions``."""
    return await _complete(request, "chat_completion_request", Chat)


async def completion(request: Request) -> Response:
    """``POST /v1/completions``."""
    return await _complete(request, "completion_request", Completion)


async def _complete(request: Request, schema: str, form: type[Form]) -> Response:
    service = service_of(request)
    body = await read_json(request, schema)
    choices: list[Choice] = []

    def make() -> list[RunSpec]:
        choices.extend(form.choices(service, body))
        return [choice.spec for choice in choices]

    try:
        following = await submit(request, service, make, stream=bool(body.get("stream")))
    except EngineError as fault:
        raise relocated(fault) from None
    bundle = service.plane.bundle(choices[0].spec.bundle)
    replies = [
        form(execution, bundle, choice, place)
        for place, (execution, choice) in enumerate(zip(following.executions, choices, strict=True))
    ]
    if body.get("stream"):
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return EventStream(
            _chunks(service, following, replies, usage),
            service=service,
            following=following,
        )
    outcomes = await outcomes_or_gone(request, service, following)
    headers = {"X-Execution-Id": following.ids}
    for outcome in outcomes:
        if (error := failure(outcome)) is not None:
            return error_response(error, headers=headers)
    tokens = [follower.taken() for follower in following.followers]
    return JSONResponse(whole(replies, outcomes, tokens), headers=headers)


async def _chunks(
    service: Service, following: Following, replies: Sequence[Form], usage: bool
) -> AsyncIterator[bytes]:
    for reply in replies:
        if (opening := reply.opening(usage)) is not None:
            yield sse(opening)
    ended: dict[int, Outcome] = {}
    async for news in following.news(service):
        if news is None:
            yield b": waiting\n\n"
            continue
        place, found = news
        reply = replies[place]
        if isinstance(found, str):
            yield sse(reply.chunk(found, [], usage))
        elif isinstance(found, Outcome):
            if (error := failure(found)) is not None:
                yield sse({**error_body(error), "execution_id": found.id})
                yield DONE
                return
            ended[place] = found
            yield sse(reply.closing(found, usage))
        else:
            yield b"".join(
                sse(reply.chunk(token.text, [token], usage))
                for token in found
                if token.text or reply.wants_logprobs
            )
    if usage:
        outcomes = [ended[place] for place in range(len(replies))]
        head = replies[0].head(replies[0].chunk_name)
        yield sse({**head, "choices": [], "usage": usage_json(replies, outcomes)})
    yield DONE


def whole(
    replies: Sequence[Form], outcomes: Sequence[Outcome], tokens: Sequence[Sequence[TokenOut]]
) -> dict[str, Any]:
    """The whole reply; where there are several executions each choice says which is its own."""
    body = replies[0].head(replies[0].object_name)
    choices = []
    for reply, outcome, taken in zip(replies, outcomes, tokens, strict=True):
        choices.append(reply.whole(outcome, taken) | (_tail(outcome) if len(replies) > 1 else {}))
    body |= {"choices": choices, "usage": usage_json(replies, outcomes)}
    return body | (_tail(outcomes[0]) if len(replies) == 1 else {})


def _tail(outcome: Outcome) -> dict[str, Any]:
    return {"timings": timings(outcome), "execution_id": outcome.id}


class Form:
    """How one of the two APIs spells one choice of its replies."""

    object_name = ""
    chunk_name = ""
    prefix = ""

    def __init__(self, execution: Execution, bundle: ServedBundle, asked: Choice, place: int) -> None:
        self.execution = execution
        self.bundle = bundle
        self.asked = asked
        self.place = place
        self.wants_logprobs = execution.spec.request.logprobs is not None
        self.offset = 0

    @staticmethod
    def choices(service: Service, body: dict[str, Any]) -> list[Choice]:
        raise NotImplementedError

    def head(self, name: str) -> dict[str, Any]:
        return {
            "id": self.prefix + self.execution.id.removeprefix("exec_"),
            "object": name,
            "created": self.execution.created_unix_ns // 1_000_000_000,
            "model": self.bundle.info.name,
            "system_fingerprint": self.bundle.info.digest,
        }

    def opening(self, usage: bool) -> dict[str, Any] | None:
        """A streamed choice's first chunk, where it has one before any token."""
        raise NotImplementedError

    def choice(self, text: str, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        """The part of a streamed choice that carries text."""
        raise NotImplementedError

    def message(self, outcome: Outcome, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        """The part of a whole choice that carries text."""
        raise NotImplementedError

    def chunk(self, text: str, tokens: Sequence[TokenOut], usage: bool) -> dict[str, Any]:
        return self._chunk(self.choice(text, tokens) | {"finish_reason": None}, usage)

    def closing(self, outcome: Outcome, usage: bool) -> dict[str, Any]:
        return self._chunk(self.choice("", []) | finish(outcome), usage) | _tail(outcome)

    def whole(self, outcome: Outcome, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        return {"index": self.place, **self.message(outcome, tokens), **finish(outcome)}

    def _chunk(self, choice: dict[str, Any], usage: bool) -> dict[str, Any]:
        body = self.head(self.chunk_name)
        body["choices"] = [{"index": self.place, **choice}]
        return body | ({"usage": None} if usage else {})


class Chat(Form):
    """``chat.completion``."""

    object_name, chunk_name, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"
    choices = staticmethod(chat_choices)

    def opening(self, usage: bool) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return self._chunk({"delta": delta, "logprobs": None, "finish_reason": None}, usage)

    def choice(self, text: str, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        delta = {"content": text} if text or tokens else {}
        return {"delta": delta, "logprobs": self._logprobs(tokens) if tokens else None}

    def message(self, outcome: Outcome, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        message = {"role": "assistant", "content": outcome.text, "refusal": None}
        return {"message": message, "logprobs": self._logprobs(tokens)}

    def _logprobs(self, tokens: Sequence[TokenOut]) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        return {"content": token_entries(self.bundle.tokenizer, tokens), "refusal": None}


class Completion(Form):
    """``text_completion``."""

    object_name, chunk_name, prefix = "text_completion", "text_completion", "cmpl-"
    choices = staticmethod(completion_choices)

    def opening(self, usage: bool) -> dict[str, Any] | None:
        return self.chunk(self.asked.echo, [], usage) if self.asked.echo else None

    def choice(self, text: str, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        return {"text": text, "logprobs": self._logprobs(tokens) if tokens else None}

    def message(self, outcome: Outcome, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        return {"text": self.asked.echo + outcome.text, "logprobs": self._logprobs(tokens)}

    def _logprobs(self, tokens: Sequence[TokenOut]) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        body: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in tokens:
            text = self._text(token.token)
            body["tokens"].append(text)
            body["token_logprobs"].append(finite(token.logprob))
            body["top_logprobs"].append({self._text(id): finite(value) for id, value in token.top_logprobs})
            body["text_offset"].append(self.offset)
            self.offset += len(text)
        return body

    def _text(self, id: int) -> str:
        return self.bundle.tokenizer.piece(id).decode(errors="replace")


def token_entries(tokenizer: TokenizerLike, tokens: Sequence[TokenOut]) -> list[dict[str, Any]]:
    """The log-probabilities of tokens, each with those of the likeliest beside it."""

    def entry(id: int, logprob: float | None) -> dict[str, Any]:
        piece = tokenizer.piece(id)
        return {"token": piece.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(piece)}

    return [
        {
            **entry(token.token, token.logprob),
            "top_logprobs": [entry(id, logprob) for id, logprob in token.top_logprobs],
        }
        for token in tokens
    ]


def finite(logprob: float | None) -> float | None:
    """A log-probability as JSON can hold it: minus infinity becomes OpenAI's -9999."""
    return None if logprob is None else max(logprob, -9999.0)


def finish(outcome: Outcome) -> dict[str, Any]:
    """Why it ended, in OpenAI's word and in the engine's."""
    return {"finish_reason": _FINISH[str(outcome.stop_reason)], "stop_reason": str(outcome.stop_reason)}


def usage_json(replies: Sequence[Form], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Token counts, a prompt's once, and how many of these came from the prefix cache."""
    firsts = [outcome for reply, outcome in zip(replies, outcomes, strict=True) if reply.asked.first]
    prompts = sum(outcome.prompt_tokens for outcome in firsts)
    generated = sum(len(outcome.token_ids) for outcome in outcomes)
    return {
        "prompt_tokens": prompts,
        "completion_tokens": generated,
        "total_tokens": prompts + generated,
        "prompt_tokens_details": {"cached_tokens": sum(outcome.reused_tokens for outcome in firsts)},
    }


def timings(outcome: Outcome) -> dict[str, Any]:
    """llama-server's ``timings``: what was computed of the prompt up to the first token, the other
    tokens after it (ms), and what of the prompt came from the cache."""
    times = outcome.token_ns
    prompt_ms = (times[0] - outcome.started_ns) / 1e6 if times else None
    predicted_ms = (times[-1] - times[0]) / 1e6 if times else None
    others, computed = len(times) - 1, outcome.prompt_tokens - outcome.reused_tokens
    drafted, kept = outcome.drafted
    return {
        "prompt_n": computed,
        "prompt_ms": prompt_ms,
        "prompt_per_second": computed * 1e3 / prompt_ms if prompt_ms else None,
        "predicted_n": len(times),
        "predicted_ms": predicted_ms,
        "predicted_per_second": others * 1e3 / predicted_ms if predicted_ms and others else None,
        "cache_n": outcome.reused_tokens,
        **({"draft_n": drafted, "draft_n_accepted": kept} if drafted else {}),
    }


# ---- models -----------------------------------------------------------------------------


async def models(request: Request) -> Response:
    """``GET /v1/models``: the served plans."""
    service = service_of(request)
    data = [model_json(info) for info in service.plane.infos()]
    ids = [entry["id"] for entry in data] or [None]
    pages = {"has_more": False, "first_id": ids[0], "last_id": ids[-1]}  # as Anthropic's clients page
    return JSONResponse({"object": "list", "data": data, **pages})


async def model(request: Request) -> Response:
    """``GET /v1/models/{model}``."""
    service = service_of(request)
    return JSONResponse(model_json(find_bundle(service, request.path_params["model"]).info))


def model_json(info: BundleInfo) -> dict[str, Any]:
    """A served plan as a model, for OpenAI's clients and for Anthropic's."""
    return {
        "id": info.name,
        "object": "model",
        "type": "model",
        "display_name": info.model_name,
        "created_at": datetime.fromtimestamp(info.created_unix, UTC).isoformat(),
        "created": info.created_unix,
        "owned_by": "engine",
        "meta": {
            "model": info.plan.model,
            "model_name": info.model_name,
            "architecture": info.architecture,
            "backend": info.backend,
            "quantization": info.quantization,
            "n_params": info.parameters,
            "n_ctx": info.plan.execution.context,
            "size": info.weights_bytes,
        },
    }
