"""What each field of each dialect becomes, as docs/dialects.md shows it: read from the schemas.

``python -m runtime.api.dialects.table > docs/dialects.md`` writes it anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from runtime.api.checking import schema

#: Schema → what takes it.
DIALECTS = {
    "responses_request": "OpenAI: `POST /v1/responses`",
    "anthropic_messages_request": "Anthropic: `POST /v1/messages`",
    "anthropic_count_tokens_request": "Anthropic: `POST /v1/messages/count_tokens`",
    "ollama_chat_request": "Ollama: `POST /api/chat`",
    "ollama_generate_request": "Ollama: `POST /api/generate`",
    "ollama_show_request": "Ollama: `POST /api/show`",
    "llama_server_completion_request": "llama-server: `POST /completion`, `/completions`",
}

_HEAD = """\
# Dialects

What the fields of requests become, besides those of OpenAI's chat and text completions (which take
a plan's own names; docs/service.md). A request in any dialect is translated into one of these two and so
into one `Request`, which its record holds. Names on the right are fields of a plan or of that request;
what is left out is the plan's. A field of which only some values are accepted is refused by name
for any other, and so is a field that is not listed.

Written by `python -m runtime.api.dialects.table`.
"""


def markdown() -> str:
    """The whole document."""
    parts = [_HEAD]
    for name, title in DIALECTS.items():
        parts.append(f"\n## {title}\n\n| field | becomes | |\n|---|---|---|\n")
        parts += [f"| `{path}` | {becomes} | {note} |\n" for path, becomes, note in _rows(schema(name), "")]
    return "".join(parts)


def _rows(rule: Mapping[str, Any], before: str) -> Iterator[tuple[str, str, str]]:
    for name, what in rule["properties"].items():
        path, inner = before + name, what.get("items", {})
        note, only = what.get("description", ""), what.get("x-unsupported-value")
        if only is not None:
            values = ", ".join(f"`{json.dumps(value)}`" for value in what["enum"] if value is not None)
            note = f"{values or 'null'} only: {only}"
        if only is not None or "x-becomes" in what:
            yield path, what.get("x-becomes", "nothing"), note.replace("|", "\\|")
        if "properties" in what:
            yield from _rows(what, f"{path}.")
        for kind in (inner.get("then", {}), inner):
            if "properties" in kind:
                yield from _rows(kind, f"{path}[].")
                break


if __name__ == "__main__":
    print(markdown(), end="")
