"""Faults of the command line itself, told as all others are: what, where, what is allowed, a hint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from runtime.bundle.spelling import nearest
from runtime.cli.flags import usage
from runtime.errors import EngineError

#: How options of llama.cpp's programs are called here.
_CALLED_HERE = {
    "--temp": "--temperature",
    "-c": "--context",
    "--ctx-size": "--context",
    "--predict": "--max-tokens",
    "--n-predict": "--max-tokens",
    "--repeat-penalty": "--repetition-penalty",
    "--typical": "--typical-p",
    "--dry-sequence-breaker": "--dry-sequence-breakers",
    "-m": "--model",
    "-ctk": "--kv-cache",
    "-ctv": "--kv-cache",
    "--cache-type-k": "--kv-cache",
    "--cache-type-v": "--kv-cache",
    "-s": "--seed",
    "-l": "--logit-bias",
    "-r": "--stop",
    "--reverse-prompt": "--stop",
    "--file": "--prompt-file",
    "-sys": "--system",
    "--system-prompt": "--system",
    "--api-key": "--api-key-file",
    "--n-prompt-tokens": "--n-prompt",
    "--n-repetitions": "--repetitions",
}
#: What stands for options that no command has.
_ELSEWHERE = {
    "-ngl": "all layers run on the CPU; leave it out",
    "--gpu-layers": "all layers run on the CPU; leave it out",
    "--n-gpu-layers": "all layers run on the CPU; leave it out",
    "-fa": "attention is always computed in blocks; leave it out",
    "--flash-attn": "attention is always computed in blocks; leave it out",
    "-np": "execution.slots in a plan",
    "--parallel": "execution.slots in a plan",
    "-b": "execution.step_tokens in a plan",
    "-ub": "execution.step_tokens in a plan",
    "--batch-size": "execution.step_tokens in a plan",
    "--ubatch-size": "execution.step_tokens in a plan",
    "-cnv": "`engine chat PLAN` holds conversations",
    "--conversation": "`engine chat PLAN` holds conversations",
    "-i": "`engine chat PLAN` holds conversations",
    "--interactive": "`engine chat PLAN` holds conversations",
}


def usage_error(error: Any, arguments: Sequence[str]) -> EngineError | None:
    """click's error as one of ours; None for the help that a group without a command shows."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "NoArgsIsHelpError" in kinds:
        return None
    context = error.ctx
    where = context.command_path if context is not None else "engine"
    options = _options(context)
    if (hint := _as_elsewhere(arguments, options)) is None and "NoSuchOption" in kinds:
        found = nearest(error.option_name, options)
        hint = None if found is None else f"did you mean {found}?"
    return usage(*_said(error, kinds, context, hint), path=where)


def _said(error: Any, kinds: set[str], context: Any, hint: str | None) -> tuple[str, str]:
    """What is wrong, and a hint."""
    where = context.command_path if context is not None else "engine"
    listed = f"`{where} --help` says what there is"
    if "NoSuchOption" in kinds:
        return f"there is no option {error.option_name}", hint or listed
    if "MissingParameter" in kinds:
        return f"{_name(error.param)} is missing", hint or listed
    text = error.message.rstrip(".")
    if "BadParameter" in kinds:
        text = text.removeprefix("Input ").partition(", unable to parse")[0]
        return f"{_name(error.param)} {text}", hint or listed
    if "BadOptionUsage" in kinds:
        return f"{error.option_name} needs a value", hint or listed
    if text.startswith("No such command"):
        word = (re.search(r"""["']([^"']*)["']""", text) or ("", ""))[1]
        groups = getattr(context.command, "commands", {})
        if inner := [name for name, group in groups.items() if word in getattr(group, "commands", ())]:
            meant = " or ".join(f"{where} {name} {word}" for name in inner)
            return f"there is no command {word!r}", f"did you mean {meant}?"
        found = nearest(word, groups)
        return f"there is no command {word!r}", listed if found is None else f"did you mean {found}?"
    if "unexpected extra argument" in text:
        return f"too many arguments: {text.rpartition('(')[2].removesuffix(')')}", hint or listed
    return text, hint or listed


def _options(context: Any) -> list[str]:
    """Every option of the command, as it is written."""
    params = context.command.params if context is not None else ()
    return [name for param in params for name in (*param.opts, *param.secondary_opts) if name[:1] == "-"]


def _name(param: Any) -> str:
    """An option's longest spelling, an argument's name in the usage."""
    if param is None:
        return "a value"
    if param.param_type_name == "option":
        return str(max(param.opts, key=len))
    return str(param.metavar or param.name.upper()).strip("[].")


def _as_elsewhere(arguments: Sequence[str], options: Sequence[str]) -> str | None:
    """A hint for the first word that is an option of llama.cpp's and none of this command."""
    for argument in arguments:
        word = argument.partition("=")[0]
        if word in options:
            continue
        if (here := _CALLED_HERE.get(word)) in options and here is not None:
            return f"{word} is called {here} here"
        if word in _ELSEWHERE:
            return f"{word}: {_ELSEWHERE[word]}"
    return None
