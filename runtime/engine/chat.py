"""Messages → the prompt a model was trained on, through its chat template.

A model without a template gets one by the turn markers its vocabulary has (ChatML,
Llama 3 or Gemma), or else plain "User: … Assistant:" text; which one was taken is
said in :attr:`ChatFormat.origin`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from runtime.engine.marks import render_guarded, unused_symbol
from runtime.engine.template import RENDERER
from runtime.engine.tokenizer import Tokenizer
from runtime.errors import EXIT_USAGE, EngineError

Message = dict[str, Any]

MAX_MESSAGES = 4096
MAX_MESSAGES_CHARS = 1 << 22
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "thinking")

_TURN = "{{ message['content'] | trim }}"
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' }}" + _TURN + "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' "
    "else 'user' %}{{ '<start_of_turn>' + role + '\n' }}" + _TURN + "{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'system' %}" + _TURN + "{{ '\n\n' }}"
    "{% else %}{{ ('Assistant: ' if message['role'] == 'assistant' else 'User: ') }}" + _TURN + "{{ '\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
#: Fallbacks in the order in which they are tried: name, pieces that must be tokens, template, stops.
_FALLBACKS: tuple[tuple[str, tuple[str, ...], str, tuple[str, ...]], ...] = (
    ("chatml", ("<|im_start|>", "<|im_end|>"), _CHATML, ("<|im_end|>",)),
    ("llama3", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), _LLAMA3, ("<|eot_id|>",)),
    ("gemma", ("<start_of_turn>", "<end_of_turn>"), _GEMMA, ("<end_of_turn>",)),
    ("plain", (), _PLAIN, ("\nUser:",)),
)


@dataclass(frozen=True)
class ChatFormat:
    """How a model is spoken to.

    ``template`` is jinja2; ``origin`` is ``model`` or ``fallback:<name>``; ``stops`` are texts
    that end an answer beside the end-of-generation tokens (fallbacks only).
    """

    template: str
    origin: str
    stops: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChatPrompt:
    """A rendered conversation: ``text`` as the template gave it, ``ids`` to run, ``stops`` to stop at."""

    text: str
    ids: tuple[int, ...]
    stops: tuple[str, ...]


def chat_format(tokenizer: Tokenizer, *, tools: bool = False) -> ChatFormat:
    """The model's own template (its ``tool_use`` one where ``tools`` and it has one), or a fallback."""
    templates = tokenizer.chat_templates
    name = "tool_use" if tools and "tool_use" in templates else "default"
    if name in templates:
        return ChatFormat(templates[name], "model")
    if "default" not in templates and len(templates) == 1:
        return ChatFormat(next(iter(templates.values())), "model")
    for name, markers, template, stops in _FALLBACKS:
        if all(_is_token(tokenizer, marker) for marker in markers):
            return ChatFormat(template, f"fallback:{name}", stops)
    raise AssertionError("the plain fallback needs no markers")


def chat_prompt(
    tokenizer: Tokenizer,
    messages: object,
    *,
    add_generation_prompt: bool | None = None,
    continue_final_message: bool | None = None,
    tools: list[dict[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> ChatPrompt:
    """The prompt for ``messages`` under the model's format.

    An assistant's message at the end is continued, where neither switch says otherwise (see
    :func:`continues`). BOS is there once where the model wants one, whether the template writes
    it or not. What the messages, tools and variables say is text: a control token that they
    spell out does not become one. Errors as :func:`render_chat`.
    """
    form = chat_format(tokenizer, tools=bool(tools))
    checked = checked_messages(messages)
    said = {**(variables or {}), "messages": checked, "tools": tools or None}
    own = {"bos_token": _piece(tokenizer, tokenizer.bos_id), "eos_token": _piece(tokenizer, tokenizer.eos_id)}
    now = time.time()  # the same for each rendering

    def render(said: Mapping[str, Any], marks: str = "", *, add_generation_prompt: bool = True) -> str:
        scope = {**said, **own, "documents": None, "add_generation_prompt": add_generation_prompt}
        return RENDERER.render(form.template, scope, now=now, marks=marks)

    if continues(checked, add_generation_prompt, continue_final_message):
        end = unused_symbol((form.template, *own.values(), json.dumps(said, ensure_ascii=False)))
        rendering, texts = partial(_open_ended, render, end), (*own.values(), end)
    else:
        rendering = partial(render, add_generation_prompt=add_generation_prompt is not False)
        texts = tuple(own.values())
    rendered = render_guarded(rendering, said, form.template, texts, tokenizer.controls)
    ids = tokenizer.encode(rendered.text, add_special=False, parse_special=True, guarded=rendered.guarded)
    bos = tokenizer.bos_id
    if tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
        ids.insert(0, bos)
    return ChatPrompt(rendered.text, tuple(ids), form.stops)


def continues(
    messages: Sequence[Message], add_generation_prompt: bool | None, continue_final_message: bool | None
) -> bool:
    """Whether the answer goes on with the last message instead of beginning a new one.

    Said by ``continue_final_message``, which excludes ``add_generation_prompt``; where neither
    is given (None), an assistant's text at the end is continued. Raises ``invalid_messages``.
    """
    last = messages[-1]
    text = last["role"] == "assistant" and not last.get("tool_calls") and bool(last["content"].strip())
    if continue_final_message is None:
        return text and add_generation_prompt is None
    if continue_final_message and add_generation_prompt:
        _invalid("continue_final_message", "excludes add_generation_prompt", "one of them")
    if continue_final_message and not text:
        place = f"messages[{len(messages) - 1}]"
        _invalid(place, "cannot be continued", "an assistant's text as the last message")
    return continue_final_message


def _open_ended(render: Callable[..., str], end: str, said: Mapping[str, Any], marks: str) -> str:
    """The conversation up to the last character of its last message: ``end`` is written after it, and
    the text cut there. A template that does not show its end, or refuses such a conversation, gets the
    messages before, and the text follows the generation prompt."""
    *before, last = said["messages"]
    open_ended = [*before, {**last, "content": f"{last['content']}{end} "}]
    try:
        text = render({**said, "messages": open_ended}, marks, add_generation_prompt=False)
    except EngineError:
        if not before:
            raise
        text = ""
    kept, found, after = text.rpartition(end)
    if found:
        return kept if after.startswith(" ") else kept.rstrip()  # a template that trims its messages
    if not before:
        _invalid("messages[0]", "the model's chat template cannot continue it", "a message before it")
    text = render({**said, "messages": before}, marks, add_generation_prompt=True)
    return text + str(last["content"])


def render_chat(
    template_source: str,
    messages: object,
    *,
    bos_token: str,
    eos_token: str,
    add_generation_prompt: bool = True,
    tools: list[dict[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
    **budget: Any,
) -> str:
    """The text that ``template_source`` makes of ``messages`` (JSON; see :func:`checked_messages`).

    The template sees ``messages``, ``bos_token``, ``eos_token``, ``add_generation_prompt``,
    ``tools`` (None without), ``documents`` (None) and ``variables``. ``budget``: ``seconds``,
    ``max_chars`` and ``now`` of :meth:`runtime.engine.template.Renderer.render`, whose errors
    this has beside ``invalid_messages``.
    """
    scope = {
        **(variables or {}),
        "messages": checked_messages(messages),
        "tools": tools or None,
        "documents": None,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "add_generation_prompt": add_generation_prompt,
    }
    return RENDERER.render(template_source, scope, **budget)


def checked_messages(messages: object) -> list[Message]:
    """``messages`` as templates expect them; EngineError ``invalid_messages`` with the place of the fault.

    A non-empty list of objects with a ``role`` and a ``content``: text, a list of text
    parts (``{"type": "text", "text": …}``, joined by newlines), or null beside
    ``tool_calls``. Further keys: ``name``, ``tool_calls``, ``tool_call_id``,
    ``reasoning_content``, ``thinking``.
    """
    if not isinstance(messages, list) or not messages:
        _invalid("messages", "must be a list of at least one message", "[{role, content}, …]")
    if len(messages) > MAX_MESSAGES:
        _invalid("messages", f"{len(messages)} messages", f"at most {MAX_MESSAGES}")
    checked: list[Message] = []
    size = 0
    for i, message in enumerate(messages):
        path = f"messages[{i}]"
        if not isinstance(message, dict):
            _invalid(path, "must be an object", "{role, content}")
        for key in message:
            if key not in _KEYS:
                _invalid(f"{path}.{str(key)[:40]}", "there is no such key", ", ".join(_KEYS))
        role = message.get("role")
        if not isinstance(role, str) or _ROLE.fullmatch(role) is None:
            _invalid(f"{path}.role", f"{role!r:.60} is not a role", "system, user, assistant, tool")
        content = _content(path, message)
        size += len(content)
        checked.append({**message, "content": content})
    if size > MAX_MESSAGES_CHARS:
        _invalid("messages", f"{size} characters of content", f"at most {MAX_MESSAGES_CHARS}")
    return checked


def _content(path: str, message: Message) -> str:
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return ""
    if isinstance(content, list) and content:
        texts = []
        for i, part in enumerate(content):
            text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
            if not isinstance(text, str):
                _invalid(f"{path}.content[{i}]", "is not a text part", '{"type": "text", "text": …}')
            texts.append(text)
        content = "\n".join(texts)
    if not isinstance(content, str):
        _invalid(f"{path}.content", "must be text", "text, or a list of text parts")
    if not content.isascii() and any("\ud800" <= c <= "\udfff" for c in content):
        _invalid(f"{path}.content", "has a lone surrogate", "Unicode text")
    return content


def _invalid(path: str, message: str, allowed: str) -> NoReturn:
    raise EngineError("invalid_messages", message, path=path, allowed=allowed, exit_code=EXIT_USAGE)


def _is_token(tokenizer: Tokenizer, text: str) -> bool:
    ids: Sequence[int] = tokenizer.encode(text, add_special=False, parse_special=True)
    return len(ids) == 1 and tokenizer.piece(ids[0]) == text.encode()


def _piece(tokenizer: Tokenizer, token: int | None) -> str:
    return "" if token is None else tokenizer.piece(token).decode(errors="replace")
