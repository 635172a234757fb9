"""What users, tools and names say is text: it never becomes a control token, whatever it spells.

A chat template joins its own markers (``<|im_start|>``) with the strings of a conversation, and
afterwards nothing tells them apart. So characters of the strings that could be part of a control
token are replaced by *marks* before the template sees them: symbols that occur nowhere in the
conversation or the template, one for one character. The rendered text then exists twice, in equal
length: ``text``, with the marks turned back, is the prompt; ``guarded``, with the marks in it, is
where control tokens are looked for.

Templates look at what they render: they trim, compare, split at ``</think>``, measure lengths. The
text with marks turned back must equal the text rendered without any, and is tried with fewer marks
where it does not:

``every``   the first and last characters of all control tokens wherever they stand, so that no token
            can be formed either by removing what stands between its halves or across the border
            between a string and the template's own text;
``borders`` control tokens that a string spells out whole, and beginnings and ends of them at the
            borders of a string;
``whole``   those spelled out whole. Never left out, and what counts where the template itself reacts
            to a control token in a string.

Three things stay what they are, because conversations mean them: tokens that the vocabulary declares
as user-defined (they are matched in any text), thinking tags in what an assistant said, and tags that
the template names without their being tokens (``<image>``): it may look for them.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from runtime.engine.literals import Literals
from runtime.errors import EXIT_USAGE, EngineError

#: Tags around an assistant's thoughts; templates look for them in earlier answers.
_THINKING = re.compile(r"[<\[]\|?/?(?:[a-z]+:)?think(?:ing)?\|?[>\]]", re.IGNORECASE)
#: A string in a template.
_STRING = re.compile(r"'([^'\\\n]*)'|\"([^\"\\\n]*)\"")
#: Marks come from here first: dominoes, mahjong tiles, alchemy, musical notation.
_SYMBOLS = (
    range(0x1F030, 0x1F094),
    range(0x1F000, 0x1F02C),
    range(0x1F700, 0x1F774),
    range(0x1D100, 0x1D127),
)

#: Renders what is said (``messages``, ``tools`` and further variables by name); raises EngineError.
Render = Callable[[Mapping[str, Any], str], str]


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation. ``guarded`` is as long as ``text`` and differs from it where a
    character of the conversation's strings must not be part of a control token."""

    text: str
    guarded: str


@dataclass(frozen=True)
class ControlTexts:
    """How a vocabulary's control tokens are spelled, and its user-defined ones."""

    control: Literals
    user_defined: Literals

    @cached_property
    def ends(self) -> frozenset[str]:
        """The first and last characters of control tokens, letters and digits left out."""
        return frozenset(
            char for text in self.control.texts for char in (text[0], text[-1])
            if not (char.isalnum() or char.isspace())
        )  # fmt: skip

    def kept(self, template: str, *, of_assistant: bool) -> Literals:
        """What nothing is hidden of unless it is part of a control token: user-defined tokens, tags
        that the template names, and an assistant's thinking tags."""
        strings = (match[1] or match[2] or "" for match in _STRING.finditer(template))
        tags = {text for text in strings if len(text) > 2 and self.ends.issuperset((text[0], text[-1]))}
        kept = self._user_defined | {tag for tag in tags if not self.control.present(tag)}
        return Literals(kept | self._thinking if of_assistant else kept)

    @cached_property
    def _user_defined(self) -> frozenset[str]:
        return frozenset(text for text in self.user_defined.texts if not self.ends.isdisjoint(text))

    @cached_property
    def _thinking(self) -> frozenset[str]:
        return frozenset(text for text in self.control.texts if _THINKING.fullmatch(text))


@dataclass
class Marks:
    """Characters ↔ marks, made when needed; none of them is in ``taken``."""

    taken: set[str]
    _free: Iterator[str] = field(init=False)
    _of: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._free = (char for char in _symbols() if char not in self.taken)

    def new(self) -> str:
        """A symbol that stands for nothing yet; raises ``invalid_messages`` when all are taken."""
        mark = next(self._free, None)
        if mark is None:
            raise EngineError(
                "invalid_messages",
                "the conversation uses every symbol there is",
                path="messages",
                exit_code=EXIT_USAGE,
            )
        return mark

    def hide(self, text: str) -> str:
        """A mark for each character."""
        for char in set(text):
            if ord(char) not in self._of:
                self._of[ord(char)] = self.new()
        return text.translate(self._of)

    def show(self, text: str) -> str:
        """The characters again."""
        return text.translate({ord(mark): char for char, mark in self._of.items()})

    @property
    def all(self) -> str:
        """The marks in use."""
        return "".join(self._of.values())


def render_guarded(
    render: Render, said: Mapping[str, Any], template: str, own: Iterable[str], controls: ControlTexts
) -> Rendered:
    """Renders what is said so that none of it can become a control token.

    ``render(said, marks)`` gives the text; ``own`` are the texts that ``template`` gets beside.
    Errors: those of ``render``, and ``invalid_messages`` where there is no symbol left for a mark.
    """
    own = (template, *own)
    text = render(said, "")
    strings = set(_strings(said))
    tokens = controls.control.present(text)
    within = _within(strings, tokens)
    if not within and not any(_needs_marks(one, controls) for one in strings):
        return Rendered(text, text)

    taken = set().union(*own, text, *strings)
    kept = controls.kept(template, of_assistant=False), controls.kept(template, of_assistant=True)
    formed = _within(strings, {token for token in tokens if not any(token in part for part in own)})
    for changes, inside in ((_every, within), (_every, formed), (_borders, formed)):
        marks = Marks(taken)
        try:
            guarded = render(_Guard(controls, kept, marks, inside, changes).of_all(said), marks.all)
        except EngineError:
            continue  # the template refuses what it does not know; with fewer marks it may not
        if marks.show(guarded) == text:
            return Rendered(text, guarded)
    marks = Marks(taken)
    said = _Guard(controls, kept, marks, frozenset(), _whole).of_all(said)
    guarded = render(said, marks.all)
    return Rendered(marks.show(guarded), guarded)


def unused_symbol(texts: Iterable[str]) -> str:
    """A symbol that occurs in none of ``texts``; raises ``invalid_messages`` where there is none."""
    return Marks(set().union(*texts)).new()


def _within(strings: Iterable[str], tokens: Iterable[str]) -> frozenset[str]:
    """The strings that may stand inside one of the tokens, white space around them left out."""
    tokens = tuple(tokens)
    return frozenset(one for one in strings if (core := one.strip()) and any(core in t for t in tokens))


@dataclass
class _Guard:
    """Puts marks into strings; ``inside`` are those that may lie within a token as a whole, ``kept``
    what stays as it is in what others and what assistants say."""

    controls: ControlTexts
    kept: tuple[Literals, Literals]
    marks: Marks
    inside: frozenset[str]
    changes: Callable[[_Guard, str, Literals], str]

    def of_all(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """The same, with marks. Names of variables and of a message's fields, and roles, stay."""
        guarded = {name: self.of(value) for name, value in said.items() if name != "messages"}
        guarded["messages"] = [
            {
                key: value if key == "role" else self.of(value, message.get("role") == "assistant")
                for key, value in message.items()
            }
            for message in said.get("messages", ())
        ]
        return guarded

    def of(self, value: Any, assistant: bool = False) -> Any:
        """A value of JSON, every string in it changed, names of properties too."""
        if isinstance(value, str):
            return self.text(value, assistant)
        if isinstance(value, list):
            return [self.of(item, assistant) for item in value]
        if isinstance(value, dict):
            return {self.text(key, assistant): self.of(item, assistant) for key, item in value.items()}
        return value

    def text(self, text: str, assistant: bool) -> str:
        """``text``, in which no control token can be found any more."""
        if text in self.inside:
            return self.marks.hide(text)
        if not _needs_marks(text, self.controls):
            return text
        kept = self.kept[assistant]
        guarded = self.changes(self, text, kept)
        if self.controls.control.present(guarded) - kept.texts:  # a kept token reached into one
            guarded = self.changes(self, text, Literals(()))
        return guarded

    def hide_ends(self, text: str) -> str:
        """Marks for the characters with which control tokens begin and end."""
        ends = self.controls.ends.intersection(text)
        for char in sorted(ends):
            text = text.replace(char, self.marks.hide(char))
        return text


def _every(guard: _Guard, text: str, kept: Literals) -> str:
    parts = [part if is_kept else guard.hide_ends(part) for part, is_kept in kept.stretches(text)]
    return _whole(guard, "".join(parts), kept)


def _borders(guard: _Guard, text: str, kept: Literals) -> str:
    control = guard.controls.control
    head, tail = control.head(text), len(text) - control.tail(text)
    if head >= tail:
        return guard.marks.hide(text)
    whole = _whole(guard, text, kept)
    return guard.marks.hide(text[:head]) + whole[head:tail] + guard.marks.hide(text[tail:])


def _whole(guard: _Guard, text: str, kept: Literals) -> str:
    done, parts = 0, []
    for start, token in guard.controls.control.places(text):
        if token not in kept.texts:
            parts += [text[done:start], guard.marks.hide(text[start])]
            done = start + 1
    return "".join((*parts, text[done:]))


def _needs_marks(text: str, controls: ControlTexts) -> bool:
    return not controls.ends.isdisjoint(text) or bool(controls.control.present(text))


def _strings(said: Mapping[str, Any]) -> Iterator[str]:
    """Every string that the conversation says, names of properties as well."""
    todo: list[Any] = [value for name, value in said.items() if name != "messages"]
    todo += [value for message in said["messages"] for key, value in message.items() if key != "role"]
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            todo.extend(value)
        elif isinstance(value, dict):
            todo.extend((*value, *value.values()))


def _symbols() -> Iterator[str]:
    """Printable characters without case that no template treats as white space, letter or digit first."""
    for block in _SYMBOLS:
        yield from (char for char in map(chr, block) if unicodedata.category(char) == "So")
    for char in map(chr, range(0x2190, sys.maxunicode + 1)):
        if unicodedata.category(char) in ("So", "Sm", "Lo") and char.isprintable():
            yield char
