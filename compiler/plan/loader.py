"""YAML text → plain tree, for text that may mean harm.

Stricter than YAML's safe loading: no aliases or anchors, no tags, no duplicate or
non-text keys, one document, bounded size and depth. Plain scalars follow YAML 1.2's
core schema (section 10.3), so ``on`` and ``no`` are text, ``1e-3`` is a number, and
nothing becomes a date.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from runtime.bundle.files import open_regular
from runtime.errors import EXIT_PLAN, EngineError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16

_CORE_SCHEMA = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]{1,40}", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,4})?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _PlanLoader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars, which refuses what a plan may not hold as it meets it.

    The composer takes one event after the other and goes one level deeper with each
    collection's start, so neither depth nor an alias bomb gets beyond its first event.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def get_event(self) -> Any:
        event: Any = super().get_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refusal(mark, "plan_alias", "aliases and anchors are refused", hint="write it out")
        if isinstance(event, yaml.DocumentStartEvent) and event.tags:
            raise _refusal(mark, "plan_tag", "tags are refused")
        if (tag := getattr(event, "tag", None)) is not None:
            raise _refusal(mark, "plan_tag", f"the tag {tag!r} is refused", hint="remove it")
        if isinstance(event, yaml.CollectionStartEvent):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                most = f"at most {MAX_DEPTH}"
                raise _refusal(mark, "plan_too_deep", f"more than {MAX_DEPTH} levels", allowed=most)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._depth -= 1
        return event


# Without a dictionary of its own the class would keep YAML 1.1's scalars.
_PlanLoader.yaml_implicit_resolvers = {}

for _tag, _pattern, _first in _CORE_SCHEMA:
    _PlanLoader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def _construct_int(_: _PlanLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)


def _construct_mapping(loader: _PlanLoader, node: yaml.MappingNode) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise _refusal(key_node.start_mark, "plan_bad_key", f"the key {key!r} is not text", "text")
        if key in result:
            raise _refusal(
                key_node.start_mark,
                "plan_duplicate_key",
                f"the key {key!r} appears twice",
                hint="keep one of the two",
            )
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_PlanLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_PlanLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def read_yaml(path: Path) -> Any:
    """The tree in the YAML file at ``path``; raises EngineError with file, line and column."""
    try:
        with open(open_regular(path), "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise EngineError(
            "plan_unreadable",
            f"the plan cannot be read: {error.strerror or error}",
            path=str(path),
            hint="name a plan file, or a bundled plan without a path",
            exit_code=EXIT_PLAN,
        ) from error
    return parse_yaml(data, str(path))


def parse_yaml(data: bytes, source: str) -> Any:
    """The tree in YAML text (UTF-8); ``source`` is how errors name it."""
    if data.startswith(b"GGUF"):
        model = shlex.quote(source)
        raise EngineError(
            "plan_not_yaml",
            "this is a model's file, and a plan is needed here",
            path=source,
            hint=f"`engine run --model {model} --prompt TEXT --save-plan plan.yaml` makes one",
            exit_code=EXIT_PLAN,
        )
    if len(data) > MAX_BYTES:
        raise EngineError(
            "plan_too_large",
            f"the plan is larger than {MAX_BYTES} bytes",
            path=source,
            allowed=f"at most {MAX_BYTES} bytes",
            exit_code=EXIT_PLAN,
        )
    try:
        text = data.decode("utf-8-sig")
        return yaml.load(text, _PlanLoader)  # noqa: S506 (_PlanLoader is a SafeLoader)
    except UnicodeDecodeError as error:
        raise EngineError(
            "plan_not_yaml", f"byte {error.start} is not UTF-8", path=source, exit_code=EXIT_PLAN
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise EngineError(
            "plan_not_yaml",
            f"the plan is not YAML: {problem}",
            path=source + _place(mark),
            exit_code=EXIT_PLAN,
        ) from error
    except EngineError as error:
        error.path = source + (error.path or "")
        raise


def _refusal(
    mark: Any, code: str, message: str, allowed: str | None = None, hint: str | None = None
) -> EngineError:
    # The file's name is put before the place by parse_yaml.
    return EngineError(code, message, path=_place(mark), allowed=allowed, hint=hint, exit_code=EXIT_PLAN)


def _place(mark: Any) -> str:
    return f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
