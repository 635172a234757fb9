"""``/v1/responses``: OpenAI's newer API, without state between requests."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runtime.api.body import read_json
from runtime.api.dialects.answering import Reply, Translated, answer
from runtime.api.openai import timings
from runtime.api.runs import sse
from runtime.api.service import Service
from runtime.control.types import Outcome, TokenOut
from runtime.errors import EngineError

_LOGPROBS = "message.output_text.logprobs"
_STATUS = {
    "end_of_sequence": "completed",
    "stop_sequence": "completed",
    "max_tokens": "incomplete",
    "max_seconds": "incomplete",
    "energy_limit": "incomplete",
    "cancelled": "cancelled",
}
_NAMES = {
    "max_tokens": "max_output_tokens",
    "prompt": "input",
    "messages": "input",
    "json_schema": "text.format.schema",
}


async def create(request: Request) -> Response:
    """``POST /v1/responses``."""
    body = await read_json(request, "responses_request")
    return await answer(request, body, response_of, ResponseReply, stream=bool(body.get("stream")))


def response_of(service: Service, body: Mapping[str, Any]) -> Translated:
    """A response as a chat completion; instructions are the first message."""
    said, places = [], []
    if body.get("instructions"):
        said.append({"role": "system", "content": body["instructions"]})
        places.append("instructions")
    given = body["input"]
    if isinstance(given, str):
        said.append({"role": "user", "content": given})
        places.append("input")
    else:
        said += [{"role": item["role"], "content": _content(item["content"])} for item in given]
        places += [f"input[{index}]" for index in range(len(given))]
    asked: dict[str, Any] = {
        "model": body["model"],
        "messages": said,
        "max_tokens": body.get("max_output_tokens"),
    }
    asked |= {name: body.get(name) for name in ("temperature", "top_p")}
    if _LOGPROBS in (body.get("include") or ()) or body.get("top_logprobs"):
        asked |= {"logprobs": True, "top_logprobs": body.get("top_logprobs") or 0}
    if (schema := _schema(body)) is not None:
        asked["json_schema"] = schema
    return Translated(asked, _NAMES, places)


def _content(given: str | Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    return given if isinstance(given, str) else [{"type": "text", "text": part["text"]} for part in given]


def _format(body: Mapping[str, Any]) -> dict[str, Any]:
    return (body.get("text") or {}).get("format") or {"type": "text"}


def _schema(body: Mapping[str, Any]) -> Any:
    form = _format(body)
    if form["type"] == "json_schema" and form.get("schema") is None:
        raise EngineError("invalid_request", "the schema is missing", path="text.format.schema")
    return {"text": None, "json_object": {"type": "object"}}.get(form["type"], form.get("schema"))


class ResponseReply(Reply):
    """A response whose output is one message of one text."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._number = 0
        self._text = ""
        self._logprobs: list[dict[str, Any]] = []
        self._id = self.execution.id.removeprefix("exec_")

    def opening(self) -> bytes:
        begun = self._response("in_progress", [], None)
        part = {"item_id": "msg_" + self._id, "content_index": 0, "part": self._part("", [])}
        return (
            self._event("response.created", response=begun)
            + self._event("response.in_progress", response=begun)
            + self._event("response.output_item.added", output_index=0, item=self._item("in_progress", []))
            + self._event("response.content_part.added", output_index=0, **part)
        )

    def said(self, text: str, tokens: Sequence[TokenOut]) -> bytes:
        logprobs = self.logprobs(tokens)
        self._text += text
        self._logprobs += logprobs
        return self._event("response.output_text.delta", **self._at(), delta=text, logprobs=logprobs)

    def closing(self, outcome: Outcome) -> bytes:
        status = _STATUS[str(outcome.stop_reason)]
        part = self._part(outcome.text, self._logprobs)
        item = self._item(status, [part])
        text = {"text": outcome.text, "logprobs": self._logprobs}
        response = self._response(status, [item], outcome)
        return (
            self._event("response.output_text.done", **self._at(), **text)
            + self._event("response.content_part.done", **self._at(), part=part)
            + self._event("response.output_item.done", output_index=0, item=item)
            + self._event(f"response.{status}", response=response)
        )

    def failed(self, error: EngineError) -> bytes:
        response = self._response("failed", [], None)
        response["error"] = self.error(error, "/v1/responses")["error"]
        return self._event("response.failed", response=response)

    def whole(self, outcome: Outcome, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        status = _STATUS[str(outcome.stop_reason)]
        item = self._item(status, [self._part(outcome.text, self.logprobs(tokens))])
        return self._response(status, [item], outcome)

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return sse(event, kind)

    def _at(self) -> dict[str, Any]:
        return {"item_id": "msg_" + self._id, "output_index": 0, "content_index": 0}

    def _part(self, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        status = "incomplete" if status == "cancelled" else status
        head = {"id": "msg_" + self._id, "type": "message", "status": status}
        return {**head, "role": "assistant", "content": content}

    def _response(self, status: str, output: list[dict[str, Any]], outcome: Outcome | None) -> dict[str, Any]:
        """The response object; what the plan decided stands where the request said nothing."""
        plan, body = self.execution.spec.plan, self.body
        response = {
            "id": "resp_" + self._id,
            "object": "response",
            "created_at": self.execution.created_unix_ns // 1_000_000_000,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.get("instructions"),
            "max_output_tokens": plan.limits.max_tokens,
            "model": self.bundle.info.name,
            "output": output,
            "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": plan.sampling.temperature,
            "text": {"format": _format(body)},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": [],
            "top_logprobs": body.get("top_logprobs") or 0,
            "top_p": plan.sampling.top_p,
            "truncation": "disabled",
            "usage": None,
            "metadata": {},
            "execution_id": self.execution.id,
        }
        if outcome is not None:
            response["usage"] = usage_json(outcome)
            response |= {"timings": timings(outcome), "stop_reason": str(outcome.stop_reason)}
        return response


def usage_json(outcome: Outcome) -> dict[str, Any]:
    """Token counts, and how many of the prompt's came from the prefix cache."""
    generated = len(outcome.token_ids)
    return {
        "input_tokens": outcome.prompt_tokens,
        "input_tokens_details": {"cached_tokens": outcome.reused_tokens, "cache_write_tokens": 0},
        "output_tokens": generated,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": outcome.prompt_tokens + generated,
    }
