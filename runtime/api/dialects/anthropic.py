"""``/v1/messages`` and its ``count_tokens``, as Anthropic's clients speak them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.api.body import read_json
from runtime.api.dialects.answering import Reply, Translated, answer, stop_found
from runtime.api.openai_requests import find_bundle, rendered
from runtime.api.runs import sse
from runtime.api.service import Service, service_of
from runtime.control.types import Outcome, TokenOut
from runtime.errors import EngineError

_STOP = {"max_tokens": "max_tokens", "max_seconds": "max_tokens", "energy_limit": "max_tokens"}
_SAMPLING = ("temperature", "top_k", "top_p")
_NAMES = {"stop": "stop_sequences", "prompt": "messages"}


async def messages(request: Request) -> Response:
    """``POST /v1/messages``."""
    body = await read_json(request, "anthropic_messages_request")
    return await answer(request, body, message_of, MessageReply, stream=bool(body.get("stream")))


async def count_tokens(request: Request) -> Response:
    """``POST /v1/messages/count_tokens``: of the conversation as the bundle's chat template renders it."""
    service = service_of(request)
    body = await read_json(request, "anthropic_count_tokens_request")

    def reply() -> Response:
        translated = message_of(service, body)
        with translated.paths():
            ids = rendered(find_bundle(service, body["model"]), translated.body).ids
        return JSONResponse({"input_tokens": len(ids)})

    return await service.intake.work(request.state.body_bytes, reply)


def message_of(service: Service, body: Mapping[str, Any]) -> Translated:
    """A conversation as a chat completion; its system text is the first message."""
    said: list[dict[str, Any]] = []
    places = []
    if body.get("system"):
        said.append({"role": "system", "content": _content(body["system"])})
        places.append("system")
    for index, message in enumerate(body["messages"]):
        role, content = message["role"], _content(message["content"])
        if said and said[-1]["role"] == role != "system":  # turns of one role are one turn
            said[-1]["content"] += content
            continue
        said.append({"role": role, "content": content})
        places.append(f"messages[{index}]")
    asked: dict[str, Any] = {"model": body["model"], "messages": said}
    asked |= {name: body[name] for name in (*_SAMPLING, "max_tokens") if body.get(name) is not None}
    asked["stop"] = body.get("stop_sequences") or []
    names = dict(_NAMES)
    formats = {
        "output_config.format": (body.get("output_config") or {}).get("format"),
        "output_format": body.get("output_format"),
    }
    given = [(name, form) for name, form in formats.items() if form is not None]
    if len(given) > 1:
        raise EngineError(
            "invalid_request",
            "output_config.format and output_format both say what the answer must look like",
            path="output_format",
            hint="output_config.format is the newer name; give one of them",
        )
    for name, form in given:
        asked["json_schema"] = form["schema"]
        names["json_schema"] = f"{name}.schema"
    return Translated(asked, names, places)


def _content(given: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The blocks of text, without what has no effect; a text is one."""
    texts = [given] if isinstance(given, str) else [block["text"] for block in given]
    return [{"type": "text", "text": text} for text in texts]


class MessageReply(Reply):
    """A message of one block of text."""

    def opening(self) -> bytes:
        block = {"type": "text", "text": "", "citations": None}
        return self._events(
            {"type": "message_start", "message": {**self._head(), "content": [], **self._end(None)}},
            {"type": "content_block_start", "index": 0, "content_block": block},
        )

    def waiting(self) -> bytes:
        return self._events({"type": "ping"})

    def said(self, text: str, tokens: Sequence[TokenOut]) -> bytes:
        delta = {"type": "text_delta", "text": text}
        return self._events({"type": "content_block_delta", "index": 0, "delta": delta})

    def closing(self, outcome: Outcome) -> bytes:
        end = self._end(outcome)
        usage = end.pop("usage")
        return self._events(
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": end, "usage": usage},
            {"type": "message_stop"},
        )

    def failed(self, error: EngineError) -> bytes:
        return sse(self.error(error, "/v1/messages"), "error")

    def whole(self, outcome: Outcome, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        content = [{"type": "text", "text": outcome.text, "citations": None}]
        return {**self._head(), "content": content, **self._end(outcome), "execution_id": outcome.id}

    def _head(self) -> dict[str, Any]:
        return {
            "id": "msg_" + self.execution.id.removeprefix("exec_"),
            "type": "message",
            "role": "assistant",
            "model": self.bundle.info.name,
        }

    def _end(self, outcome: Outcome | None) -> dict[str, Any]:
        """Why it ended and what it took; None: it has not ended."""
        prompt, cached = len(self.execution.spec.request.prompt_ids), outcome.reused_tokens if outcome else 0
        usage = {
            "input_tokens": prompt - cached,
            "output_tokens": len(outcome.token_ids) if outcome else 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
        }
        if outcome is None:
            return {"stop_reason": None, "stop_sequence": None, "usage": usage}
        stop = stop_found(self, outcome)
        stop = stop if stop in (self.body.get("stop_sequences") or ()) else None  # the template has its own
        reason = _STOP.get(str(outcome.stop_reason), "end_turn") if stop is None else "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": stop, "usage": usage}

    @staticmethod
    def _events(*events: Mapping[str, Any]) -> bytes:
        return b"".join(sse(event, event["type"]) for event in events)
