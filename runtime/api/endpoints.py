"""The table of endpoints: routes and the OpenAPI document both come from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runtime.api import openai, plans, runs, tools
from runtime.api.dialects import anthropic, llama_server, ollama, ollama_models, responses

Handler = Callable[[Request], Awaitable[Response]]

_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}


def _query(name: str, description: str, schema: dict[str, Any], required: bool = False) -> dict[str, Any]:
    return {
        "name": name, "in": "query", "required": required, "description": description, "schema": schema,
    }  # fmt: skip


@dataclass(frozen=True)
class Endpoint:
    """``body``: name of the request's schema. ``statuses``: replies beside those every endpoint has."""

    method: str
    path: str
    handler: Handler
    summary: str
    body: str | None = None
    parameters: tuple[dict[str, Any], ...] = ()
    statuses: tuple[int, ...] = (200,)
    streams: bool = False
    text: bool = False


_EXECUTION = {"type": "string", "pattern": "^exec_[0-9a-f]{4,32}$"}
_EXECUTION_ID = {**_ID, "schema": _EXECUTION}

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("POST", "/v1/runs", runs.create, "Run a prompt under a declared execution", "run_request",
             statuses=(200, 400, 409, 429, 500), streams=True),
    Endpoint("GET", "/v1/runs", runs.listing, "Live executions and records, newest first", parameters=(
        _query("limit", "how many records", {"type": "integer", "minimum": 1, "maximum": runs.MAX_LISTED}),
        _query("before", "an execution: only records older than it", _EXECUTION),
    ), statuses=(200, 400, 404)),
    Endpoint("GET", "/v1/runs/head", runs.head, "The end of the chain of records"),
    Endpoint("GET", "/v1/runs/{id}", runs.show, "A live execution, or a record",
             parameters=(_EXECUTION_ID,), statuses=(200, 404)),
    Endpoint("DELETE", "/v1/runs/{id}", runs.cancel, "Cancel a live execution",
             parameters=(_EXECUTION_ID,), statuses=(202, 404, 409)),
    Endpoint("GET", "/v1/runs/{id}/metrics", runs.metrics, "The official metrics of an execution",
             parameters=(_EXECUTION_ID,), statuses=(200, 404, 409)),
    Endpoint("GET", "/v1/compare", plans.compare, "Two executions, metric by metric", parameters=(
        _query("a", "an execution, or several separated by commas: repetitions", {"type": "string"}, True),
        _query("b", "likewise", {"type": "string"}, True),
    ), statuses=(200, 400, 404, 409)),
    Endpoint("GET", "/v1/plans", plans.listing, "What is compiled and loaded"),
    Endpoint("POST", "/v1/plans", plans.propose, "Propose a plan: validated, memory and cost predicted",
             "plan_request", statuses=(200, 201, 400, 403, 409)),
    Endpoint("DELETE", "/v1/plans/{name}", plans.retire, "Stop serving a plan that was proposed",
             parameters=({**_ID, "name": "name"},), statuses=(200, 403, 404, 409)),
    Endpoint("GET", "/v1/models", openai.models, "The served plans as models"),
    Endpoint("GET", "/v1/models/{model}", openai.model, "One served plan as a model",
             parameters=({**_ID, "name": "model"},), statuses=(200, 404)),
    Endpoint("POST", "/v1/chat/completions", openai.chat, "OpenAI-compatible chat",
             "chat_completion_request", statuses=(200, 400, 404, 429, 500), streams=True),
    Endpoint("POST", "/v1/completions", openai.completion, "OpenAI-compatible completion",
             "completion_request", statuses=(200, 400, 404, 429, 500), streams=True),
    Endpoint("POST", "/v1/responses", responses.create, "OpenAI-compatible response",
             "responses_request", statuses=(200, 400, 404, 429, 500), streams=True),
    Endpoint("POST", "/completion", llama_server.completion, "llama-server's completion",
             "llama_server_completion_request", statuses=(200, 400, 404, 409, 429, 500), streams=True),
    Endpoint("POST", "/completions", llama_server.completion, "The same as /completion",
             "llama_server_completion_request", statuses=(200, 400, 404, 409, 429, 500), streams=True),
    Endpoint("POST", "/v1/messages", anthropic.messages, "Anthropic-compatible message",
             "anthropic_messages_request", statuses=(200, 400, 404, 429, 500), streams=True),
    Endpoint("POST", "/v1/messages/count_tokens", anthropic.count_tokens, "Tokens of a conversation",
             "anthropic_count_tokens_request", statuses=(200, 400, 404)),
    Endpoint("POST", "/api/chat", ollama.chat, "Ollama-compatible chat",
             "ollama_chat_request", statuses=(200, 400, 404, 429, 500), streams=True),
    Endpoint("POST", "/api/generate", ollama.generate, "Ollama-compatible answer to a text",
             "ollama_generate_request", statuses=(200, 400, 404, 429, 500), streams=True),
    Endpoint("POST", "/api/embed", ollama.embed, "Refused: this engine computes no embeddings",
             statuses=(400,)),
    Endpoint("POST", "/api/embeddings", ollama.embed, "Refused: this engine computes no embeddings",
             statuses=(400,)),
    Endpoint("GET", "/api/tags", ollama_models.tags, "The served plans as Ollama lists models"),
    Endpoint("POST", "/api/show", ollama_models.show, "One served plan as Ollama describes a model",
             "ollama_show_request", statuses=(200, 400, 404)),
    Endpoint("GET", "/api/ps", ollama_models.running, "The served plans as Ollama lists what is in memory"),
    Endpoint("GET", "/api/version", ollama_models.version, "The engine's version"),
    Endpoint("POST", "/tokenize", tools.tokenize, "Text to token ids", "tokenize_request",
             statuses=(200, 400, 409)),
    Endpoint("POST", "/detokenize", tools.detokenize, "Token ids to text", "detokenize_request",
             statuses=(200, 400, 409)),
    Endpoint("POST", "/apply-template", tools.apply_template, "Messages to a prompt",
             "apply_template_request", statuses=(200, 400, 409)),
    Endpoint("GET", "/props", tools.props, "What is served, and its defaults",
             parameters=(_query("model", "a served plan", {"type": "string"}),), statuses=(200, 400, 409)),
    Endpoint("GET", "/slots", tools.slots, "Every slot and what is in it"),
    Endpoint("GET", "/health", tools.health, "Whether requests are taken", statuses=(200, 503)),
    Endpoint("GET", "/metrics", tools.metrics, "Prometheus text", statuses=(200, 404), text=True),
)  # fmt: skip
