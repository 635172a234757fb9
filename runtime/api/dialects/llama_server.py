"""``/completion``: llama-server's own completion, of a text, ids, both mixed, or a list of such prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runtime.api.body import read_json
from runtime.api.dialects.answering import Reply, Translated, answer, check_repeat_last_n, stop_found
from runtime.api.openai import timings
from runtime.api.runs import sse
from runtime.api.service import Service
from runtime.control.requests import check_text
from runtime.control.types import Outcome, ServedBundle, TokenOut
from runtime.errors import EngineError

#: Fields → fields of a completion; the others have the same name there, or none.
FIELDS = {
    "n_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    "n_cmpl": "n",
    "n_probs": "logprobs",
}
_NAMES = {field: name for name, field in FIELDS.items()}
_STOP_TYPES = {"end_of_sequence": "eos", "stop_sequence": "word", "cancelled": "none"}


async def completion(request: Request) -> Response:
    """``POST /completion`` and ``/completions``."""
    body = await read_json(request, "llama_server_completion_request")
    return await answer(request, body, completion_of, CompletionReply, stream=bool(body.get("stream")))


def completion_of(service: Service, body: Mapping[str, Any]) -> Translated:
    """A completion in OpenAI's words; without a model, of the only plan that is served."""
    bundle = service.bundle(body.get("model"))
    check_repeat_last_n(bundle.info.plan, body)
    asked = {FIELDS.get(name, name): value for name, value in body.items() if value is not None}
    asked |= {"model": bundle.info.name, "logprobs": body.get("n_probs") or None}
    if asked.get("seed", 0) < 0:
        asked["seed"] = "random"
    if asked.get("max_tokens", 1) < 0:
        asked["max_tokens"] = -1
    given = body["prompt"]
    if several(given):
        asked["prompt"] = [_prompt(bundle, prompt, f"prompt[{i}]") for i, prompt in enumerate(given)]
    else:
        asked["prompt"] = _prompt(bundle, given, "prompt")
    return Translated(asked, _NAMES)


def several(prompt: str | Sequence[Any]) -> bool:
    """Whether it is a list of prompts, not one of ids and texts."""
    if isinstance(prompt, str):
        return False
    return any(isinstance(part, list) for part in prompt) or all(isinstance(part, str) for part in prompt)


def _prompt(bundle: ServedBundle, given: str | int | Sequence[int | str], path: str) -> Any:
    """A text as it is, anything else as ids: the first part begins the sequence, the others go on."""
    if isinstance(given, str):
        return given
    if isinstance(given, int):
        return [given]
    ids: list[int] = []
    for index, part in enumerate(given):
        if isinstance(part, str):
            check_text(part, bundle.engine.limits.context, path=f"{path}[{index}]")
            ids += bundle.tokenizer.encode(part, index == 0, True)
        else:
            ids.append(part)
    return ids


class CompletionReply(Reply):
    """One prompt's completion."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._count = 0
        self.every_token = self.every_token or bool(self.body.get("return_tokens"))

    @classmethod
    def together(cls, replies: Sequence[dict[str, Any]]) -> Any:
        """A list where there are several."""
        return replies[0] if len(replies) == 1 else list(replies)

    def said(self, text: str, tokens: Sequence[TokenOut]) -> bytes:
        self._count = max(self._count, *(token.index + 1 for token in tokens)) if tokens else self._count
        chunk = {
            "index": self.place,
            "content": text,
            "tokens": [token.token for token in tokens],
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": self._count,
            "tokens_evaluated": len(self.execution.spec.request.prompt_ids),
        }
        return sse(chunk | self._probabilities(tokens))

    def closing(self, outcome: Outcome) -> bytes:
        return sse({"index": self.place, "content": "", "tokens": [], **self._end(outcome)})

    def failed(self, error: EngineError) -> bytes:
        return sse(self.error(error, "/completion"))

    def whole(self, outcome: Outcome, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        return {
            "index": self.place,
            "content": outcome.text,
            "tokens": list(outcome.token_ids) if self.body.get("return_tokens") else [],
            **self._probabilities(tokens),
            **self._end(outcome),
        }

    def _end(self, outcome: Outcome) -> dict[str, Any]:
        spec = self.execution.spec
        prompt = spec.prompt
        return {
            "stop": True,
            "id_slot": -1,
            "model": self.bundle.info.name,
            "tokens_predicted": len(outcome.token_ids),
            "tokens_evaluated": outcome.prompt_tokens,
            "tokens_cached": outcome.reused_tokens,
            "generation_settings": {
                **vars(spec.plan.sampling),
                "n_predict": spec.plan.limits.max_tokens,
                "min_tokens": spec.plan.limits.min_tokens,
                "n_ctx": spec.plan.execution.context,
                "stop": list(spec.request.stop),
                "ignore_eos": spec.request.ignore_eos,
                "n_probs": spec.request.logprobs or 0,
            },
            "prompt": self.bundle.tokenizer.decode(spec.request.prompt_ids) if prompt is None else prompt,
            "has_new_line": "\n" in outcome.text,
            "truncated": False,
            "stop_type": _STOP_TYPES.get(str(outcome.stop_reason), "limit"),
            "stopping_word": stop_found(self, outcome) or "",
            "timings": timings(outcome),
            "execution_id": outcome.id,
            "stop_reason": str(outcome.stop_reason),
        }

    def _probabilities(self, tokens: Sequence[TokenOut]) -> dict[str, Any]:
        if not self.wants_logprobs or not tokens:
            return {}
        found = []
        for token, entry in zip(tokens, self.logprobs(tokens), strict=True):
            top = zip(token.top_logprobs, entry["top_logprobs"], strict=True)
            found.append(
                {"id": token.token, **entry, "top_logprobs": [{"id": id, **e} for (id, _), e in top]}
            )
        return {"completion_probabilities": found}
