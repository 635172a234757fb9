"""A request in a dialect: translated into a chat or text completion, run, and answered in the dialect.

What follows from a request (conversation, sampling, limits, constraint) is said once, in
:mod:`runtime.api.openai_requests`; a dialect says how its fields are called there, and back.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.api.errors import error_body, error_response
from runtime.api.follow import EventStream, Following, failure, outcomes_or_gone, submit
from runtime.api.openai import token_entries
from runtime.api.openai_requests import Choice, chat_choices, completion_choices, relocated
from runtime.api.service import Service, service_of
from runtime.bundle.plan import ResolvedPlan
from runtime.control.execution import Execution
from runtime.control.types import Outcome, RunSpec, ServedBundle, TokenOut
from runtime.errors import EngineError

_PLACE = re.compile(r"(?P<head>[a-z_]+)(?:\[(?P<index>\d+)\])?(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True)
class Translated:
    """A request as the body of a completion. ``names``: what its fields are called in the dialect;
    ``messages``: where each of its messages stands there."""

    body: dict[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    messages: Sequence[str] = ()

    def choices(self, service: Service) -> list[Choice]:
        """The executions; raises what these do, with the dialect's paths."""
        make = chat_choices if "messages" in self.body else completion_choices
        with self.paths():
            return make(service, self.body)

    def paths(self) -> Respelling:
        """A context in which errors come out with the dialect's paths."""
        return Respelling(self)

    def path(self, path: str | None) -> str | None:
        """A path of the completion as the dialect spells it."""
        found = _PLACE.fullmatch(path or "")
        if found is None:
            return path
        head, index, rest = found["head"], found["index"], found["rest"]
        if head == "messages" and index is not None and int(index) < len(self.messages):
            place = self.messages[int(index)]
            return place + rest if place.endswith("]") else place  # a text of its own has no parts
        place = "" if index is None else f"[{index}]"
        return self.names.get(head, head) + place + rest


class Respelling:
    """Errors that leave this context have the dialect's paths."""

    def __init__(self, translated: Translated) -> None:
        self._translated = translated

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, EngineError):
            self._respell(relocated(error))

    def _respell(self, error: EngineError) -> None:
        error.path = self._translated.path(error.path)
        for cause in error.causes:
            self._respell(cause)


class Reply:
    """How a dialect spells the reply of one execution."""

    media_type: ClassVar[str] = "text/event-stream"

    def __init__(
        self, execution: Execution, bundle: ServedBundle, body: Mapping[str, Any], place: int
    ) -> None:
        self.execution = execution
        self.bundle = bundle
        self.body = body
        self.place = place
        self.wants_logprobs = execution.spec.request.logprobs is not None
        self.every_token = self.wants_logprobs  # also one that shows no text yet

    @classmethod
    def together(cls, replies: Sequence[dict[str, Any]]) -> Any:
        """The reply to a request, of those of its executions."""
        (reply,) = replies
        return reply

    def opening(self) -> bytes:
        """What a stream has before any token."""
        return b""

    def waiting(self) -> bytes:
        """What a stream has where nothing came for a while."""
        return b": waiting\n\n"

    def said(self, text: str, tokens: Sequence[TokenOut]) -> bytes:
        """Text that came; ``tokens`` brought it, none where it was held back until the end."""
        raise NotImplementedError

    def closing(self, outcome: Outcome) -> bytes:
        """The end of a stream."""
        raise NotImplementedError

    def failed(self, error: EngineError) -> bytes:
        """The end of a stream whose execution failed."""
        raise NotImplementedError

    def whole(self, outcome: Outcome, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        """The reply that is no stream."""
        raise NotImplementedError

    def logprobs(self, tokens: Sequence[TokenOut]) -> list[dict[str, Any]]:
        """The log-probabilities of tokens, none where they were not asked for."""
        return token_entries(self.bundle.tokenizer, tokens) if self.wants_logprobs else []

    def error(self, error: EngineError, at: str) -> dict[str, Any]:
        """An error within a stream, with whose it is."""
        return {**error_body(error, at), "execution_id": self.execution.id}


async def answer(
    request: Request,
    body: Mapping[str, Any],
    translate: Callable[[Service, Mapping[str, Any]], Translated],
    form: type[Reply],
    *,
    stream: bool,
) -> Response:
    """Runs a request and gives its reply; ``form`` spells that of each execution."""
    service = service_of(request)

    def make() -> list[RunSpec]:
        return [choice.spec for choice in translate(service, body).choices(service)]

    following = await submit(request, service, make, stream=stream)
    bundle = service.plane.bundle(following.executions[0].spec.bundle)
    replies = [form(execution, bundle, body, place) for place, execution in enumerate(following.executions)]
    if stream:
        events = _events(service, following, replies)
        return EventStream(events, service=service, following=following, media_type=form.media_type)
    outcomes = await outcomes_or_gone(request, service, following)
    headers = {"X-Execution-Id": following.ids}
    for outcome in outcomes:
        if (error := failure(outcome)) is not None:
            return error_response(error, request.url.path, headers=headers)
    parts = zip(replies, outcomes, following.followers, strict=True)
    wholes = [reply.whole(outcome, follower.taken()) for reply, outcome, follower in parts]
    return JSONResponse(form.together(wholes), headers=headers)


async def _events(service: Service, following: Following, replies: Sequence[Reply]) -> AsyncIterator[bytes]:
    yield b"".join(reply.opening() for reply in replies)
    async for news in following.news(service):
        if news is None:
            yield replies[0].waiting()
            continue
        place, found = news
        reply = replies[place]
        if isinstance(found, str):
            yield reply.said(found, [])
        elif not isinstance(found, Outcome):
            yield b"".join(
                reply.said(token.text, [token]) for token in found if token.text or reply.every_token
            )
        elif (error := failure(found)) is not None:
            yield reply.failed(error)
            return
        else:
            yield reply.closing(found)


def check_repeat_last_n(plan: ResolvedPlan, options: Mapping[str, Any], where: str = "") -> None:
    """Refuses llama.cpp's ``repeat_last_n`` where it would change what penalties look at. Raises
    ``unsupported_field``."""
    last = options.get("repeat_last_n")
    penalties = (
        ("repeat_penalty", plan.sampling.repetition_penalty, 1),
        ("presence_penalty", plan.sampling.presence_penalty, 0),
        ("frequency_penalty", plan.sampling.frequency_penalty, 0),
    )
    given = [(own if (said := options.get(name)) is None else said, off) for name, own, off in penalties]
    if last not in (None, -1) and any(value != off for value, off in given):
        raise EngineError(
            "unsupported_field",
            "repeat_last_n: penalties look at the whole sequence",
            path=f"{where}repeat_last_n",
            allowed="-1, or any where no penalty is on",
        )


def stop_found(reply: Reply, outcome: Outcome) -> str | None:
    """The stop text that ended an execution, where one did: the first that follows its text."""
    if str(outcome.stop_reason) != "stop_sequence":
        return None
    whole = reply.bundle.tokenizer.decode(outcome.token_ids, continuation=True)
    rest = whole.removeprefix(outcome.text)
    stops = sorted(reply.execution.spec.request.stop, key=len, reverse=True)
    return next((stop for stop in stops if rest.startswith(stop)), None)
