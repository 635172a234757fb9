"""``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``: replies as the OpenAI client reads them.

Beside OpenAI's fields: ``timings`` as llama-server gives them, ``execution_id`` and
``stop_reason`` as this engine records them. ``system_fingerprint`` is the bundle's digest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.api.body import read_json
from runtime.api.errors import error_body, error_response
from runtime.api.follow import EventStream, Follower, failure, outcome_or_gone, submit
from runtime.api.openai_requests import chat_spec, completion_spec, find_bundle, relocated
from runtime.api.runs import sse
from runtime.api.service import Service, service_of
from runtime.control.execution import Execution
from runtime.control.types import BundleInfo, Outcome, ServedBundle, TokenOut
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
    try:
        stream = bool(body.get("stream"))
        execution, follower = await submit(request, service, lambda: form.spec(service, body), stream=stream)
    except EngineError as fault:
        raise relocated(fault) from None
    reply = form(execution, service.plane.bundle(execution.spec.bundle))
    if stream:
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return EventStream(
            _chunks(service, follower, reply, usage),
            service=service,
            execution=execution,
            send_seconds=service.settings.send_seconds,
        )
    outcome = await outcome_or_gone(request, service, execution, follower)
    headers = {"X-Execution-Id": execution.id}
    if (error := failure(outcome)) is not None:
        return error_response(error, headers=headers)
    return JSONResponse(reply.whole(outcome, follower.taken()), headers=headers)


async def _chunks(service: Service, follower: Follower, reply: Form, usage: bool) -> AsyncIterator[bytes]:
    if (opening := reply.opening()) is not None:
        yield sse(opening)
    shown = 0
    while True:
        found = await follower.next(service.settings.heartbeat_seconds)
        if found is None:
            yield b": waiting\n\n"
            continue
        if isinstance(found, Outcome):
            break
        chunks = []
        for token in found:
            if token.text or reply.wants_logprobs:
                chunks.append(sse(reply.chunk(token.text, [token], usage)))
                shown += len(token.text)
        if chunks:
            yield b"".join(chunks)
    if (error := failure(found)) is not None:
        yield sse({**error_body(error), "execution_id": found.id})
        yield DONE
        return
    if rest := found.text[shown:]:
        yield sse(reply.chunk(rest, [], usage))
    yield sse(reply.closing(found, usage))
    if usage:
        yield sse(reply.usage_chunk(found))
    yield DONE


class Form:
    """How one of the two APIs spells its replies."""

    object_name = ""
    chunk_name = ""
    prefix = ""

    def __init__(self, execution: Execution, bundle: ServedBundle) -> None:
        self.execution = execution
        self.bundle = bundle
        self.wants_logprobs = execution.spec.request.logprobs is not None
        self.offset = 0

    @staticmethod
    def spec(service: Service, body: dict[str, Any]) -> Any:
        raise NotImplementedError

    def head(self, name: str) -> dict[str, Any]:
        return {
            "id": self.prefix + self.execution.id.removeprefix("exec_"),
            "object": name,
            "created": self.execution.created_unix_ns // 1_000_000_000,
            "model": self.bundle.info.name,
            "system_fingerprint": self.bundle.info.digest,
        }

    def tail(self, outcome: Outcome) -> dict[str, Any]:
        return {"timings": timings(outcome), "execution_id": outcome.id}

    def opening(self) -> dict[str, Any] | None:
        return None

    def choice(self, text: str, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        """The part of a streamed choice that carries text."""
        raise NotImplementedError

    def message(self, outcome: Outcome, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        """The part of a whole choice that carries text."""
        raise NotImplementedError

    def chunk(self, text: str, tokens: Sequence[TokenOut], usage: bool) -> dict[str, Any]:
        body = self.head(self.chunk_name)
        body["choices"] = [{"index": 0, **self.choice(text, tokens), "finish_reason": None}]
        return body | ({"usage": None} if usage else {})

    def closing(self, outcome: Outcome, usage: bool) -> dict[str, Any]:
        body = self.head(self.chunk_name)
        body["choices"] = [{"index": 0, **self.choice("", []), **finish(outcome)}]
        return body | self.tail(outcome) | ({"usage": None} if usage else {})

    def usage_chunk(self, outcome: Outcome) -> dict[str, Any]:
        return {**self.head(self.chunk_name), "choices": [], "usage": usage_json(outcome)}

    def whole(self, outcome: Outcome, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        body = self.head(self.object_name)
        body["choices"] = [{"index": 0, **self.message(outcome, tokens), **finish(outcome)}]
        return body | {"usage": usage_json(outcome)} | self.tail(outcome)


class Chat(Form):
    """``chat.completion``."""

    object_name, chunk_name, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"
    spec = staticmethod(chat_spec)

    def opening(self) -> dict[str, Any]:
        body = self.head(self.chunk_name)
        delta = {"role": "assistant", "content": ""}
        return body | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]}

    def choice(self, text: str, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        delta = {"content": text} if text or tokens else {}
        return {"delta": delta, "logprobs": self._logprobs(tokens) if tokens else None}

    def message(self, outcome: Outcome, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        message = {"role": "assistant", "content": outcome.text, "refusal": None}
        return {"message": message, "logprobs": self._logprobs(tokens)}

    def _logprobs(self, tokens: Sequence[TokenOut]) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        content = []
        for token in tokens:
            top = [self._entry(id, logprob) for id, logprob in token.top_logprobs]
            content.append({**self._entry(token.token, token.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _entry(self, id: int, logprob: float | None) -> dict[str, Any]:
        piece = self.bundle.tokenizer.piece(id)
        return {"token": piece.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(piece)}


class Completion(Form):
    """``text_completion``."""

    object_name, chunk_name, prefix = "text_completion", "text_completion", "cmpl-"
    spec = staticmethod(completion_spec)

    def choice(self, text: str, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        return {"text": text, "logprobs": self._logprobs(tokens) if tokens else None}

    def message(self, outcome: Outcome, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        return {"text": outcome.text, "logprobs": self._logprobs(tokens)}

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


def finite(logprob: float | None) -> float | None:
    """A log-probability as JSON can hold it: minus infinity becomes OpenAI's -9999."""
    return None if logprob is None else max(logprob, -9999.0)


def finish(outcome: Outcome) -> dict[str, Any]:
    """Why it ended, in OpenAI's word and in the engine's."""
    return {"finish_reason": _FINISH[str(outcome.stop_reason)], "stop_reason": str(outcome.stop_reason)}


def usage_json(outcome: Outcome) -> dict[str, Any]:
    """Token counts. No state is kept between executions, so nothing is ever cached."""
    generated = len(outcome.token_ids)
    return {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": outcome.prompt_tokens + generated,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def timings(outcome: Outcome) -> dict[str, Any]:
    """llama-server's ``timings``: prompt up to the first token, the other tokens after it (ms)."""
    times = outcome.token_ns
    prompt_ms = (times[0] - outcome.started_ns) / 1e6 if times else None
    predicted_ms = (times[-1] - times[0]) / 1e6 if times else None
    others = len(times) - 1
    return {
        "prompt_n": outcome.prompt_tokens,
        "prompt_ms": prompt_ms,
        "prompt_per_second": outcome.prompt_tokens * 1e3 / prompt_ms if prompt_ms else None,
        "predicted_n": len(times),
        "predicted_ms": predicted_ms,
        "predicted_per_second": others * 1e3 / predicted_ms if predicted_ms and others else None,
        "cache_n": 0,
    }


# ---- models -----------------------------------------------------------------------------


async def models(request: Request) -> Response:
    """``GET /v1/models``: the served plans."""
    service = service_of(request)
    return JSONResponse({"object": "list", "data": [model_json(info) for info in service.plane.infos()]})


async def model(request: Request) -> Response:
    """``GET /v1/models/{model}``."""
    service = service_of(request)
    return JSONResponse(model_json(find_bundle(service, request.path_params["model"]).info))


def model_json(info: BundleInfo) -> dict[str, Any]:
    """A served plan as a model."""
    return {
        "id": info.name,
        "object": "model",
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
