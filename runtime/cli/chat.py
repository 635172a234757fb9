"""``engine chat``: a conversation through the model's chat template.

The whole conversation is rendered and run for every answer; nothing is kept in
the engine between answers, so what is saved is exactly what the model saw.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli import flags
from runtime.cli.output import note, on_terminal, print_error
from runtime.errors import EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from runtime.bundle.plan import ResolvedPlan
    from runtime.engine.loop import Engine
    from runtime.engine.request import Wishes

HELP = """\
/reset           forget the conversation, keep the system prompt
/system TEXT     change the system prompt (nothing after it: remove it) and reset
/save FILE       write the conversation as JSON, for --messages
/help            this
/exit            leave; so does the end of input (Ctrl-D)
Ctrl-C stops an answer, not the chat. A line that ends in \\ goes on in the next."""


def register(app: typer.Typer) -> None:
    """Adds the command ``chat``."""
    app.command()(chat)


@flags.expanded
def chat(
    target: flags.Target = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="The system prompt.")] = None,
    messages: Annotated[
        Path | None, typer.Option(help="A conversation to go on with, as /save or engine run take it.")
    ] = None,
    made: flags.Made = flags.Made(),  # noqa: B008 (replaced by its flags)
    own: flags.Own = flags.Own(),  # noqa: B008
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Metrics after each answer.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Answers only.")] = False,
) -> None:
    """Talk to a model: a line in, an answer out. /help lists the commands.

    Answers go to stdout, everything else to stderr; lines may come from a pipe. Without a plan or a
    bundle, --model makes a plan, as in engine run.
    """
    from runtime.bundle.machine import Machine
    from runtime.cli.run import read_messages
    from runtime.cli.target import Named
    from runtime.engine.chat import chat_format, checked_messages
    from runtime.engine.executable import Executable
    from runtime.engine.loop import Engine
    from runtime.engine.request import Wishes
    from runtime.engine.tokenizer import Tokenizer

    named = Named.of(target, made, "chat")
    if verbose and quiet:
        raise flags.usage("--verbose and --quiet exclude each other")
    history = checked_messages(read_messages(messages)) if messages is not None else []
    conversation = Conversation(history)
    if system is not None:
        conversation.set_system(system, keep=True)
    limits, sampling, bias = own.limits, own.sampling, own.bias()
    bundle = named.bundle(quiet=quiet)
    machine = Machine.probe()

    def plan() -> ResolvedPlan:  # for each answer: a seed may be drawn
        meter = machine.has_energy_meter
        return bundle.plan.with_overrides(limits, sampling, own.threads, has_energy_meter=meter)

    decided = plan()
    tokenizer = Tokenizer.from_bundle(bundle)
    origin = chat_format(tokenizer).origin
    engine = Engine(Executable.open(bundle, decided.execution.threads, machine=machine), tokenizer)
    try:
        wishes = Wishes(tuple(own.stop or ()), bias)
        if not quiet:
            flags.note_unused(decided, sampling)
            template = "its own chat template" if origin == "model" else f"no chat template ({origin})"
            room = f"{decided.execution.context} tokens of context"
            note(f"{decided.model} {decided.quantization.recipe}, {template}, {room}")
            note("/help lists the commands")
        _talk(Speaker(engine, plan, wishes, verbose=verbose, quiet=quiet), conversation)
    finally:
        engine.close()


@dataclass(frozen=True)
class Speaker:
    """What answers: the engine, the plan of each answer, and what is asked beside it."""

    engine: Engine
    plan: Callable[[], ResolvedPlan]
    wishes: Wishes
    verbose: bool
    quiet: bool


@dataclass
class Conversation:
    """Messages so far, an optional system message first."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    saved: set[Path] = field(default_factory=set)

    @property
    def system(self) -> list[dict[str, Any]]:
        """The system message, in a list, or an empty one."""
        return [message for message in self.messages[:1] if message["role"] == "system"]

    def reset(self) -> None:
        """Forgets all but the system message."""
        self.messages = self.system

    def set_system(self, text: str, *, keep: bool = False) -> None:
        """Puts a system message in place of the one there is; forgets the rest unless ``keep``."""
        rest = self.messages[len(self.system) :] if keep else []
        self.messages = [*([{"role": "system", "content": text}] if text else []), *rest]

    def save(self, path: Path) -> None:
        """Writes ``{"messages": […]}``; an existing file that this chat did not write is left alone."""
        from runtime.bundle.store import file_error

        document = json.dumps({"messages": self.messages}, ensure_ascii=False, indent=2) + "\n"
        try:
            with path.open("w" if path.absolute() in self.saved else "x", encoding="utf-8") as file:
                file.write(document)
        except FileExistsError:
            raise EngineError(
                "file_exists", "the file exists already", str(path), hint="/save under another name",
                exit_code=EXIT_USAGE,
            ) from None  # fmt: skip
        except OSError as cause:
            raise file_error(cause, path) from cause
        self.saved.add(path.absolute())


def _talk(speaker: Speaker, conversation: Conversation) -> None:
    """Reads lines and answers them until /exit or the end of input."""
    while (line := _read_line(speaker.quiet)) is not None:
        text = line.strip()
        try:
            if text == "/exit":
                return
            if text.startswith("/"):
                _command(text, conversation)
            elif text:
                conversation.messages.append({"role": "user", "content": text})
                _answer(speaker, conversation)
        except EngineError as error:
            # A question that cannot be answered is not part of the conversation.
            if conversation.messages and conversation.messages[-1]["role"] == "user":
                conversation.messages.pop()
            print_error(error)
            if error.code == "prompt_too_long":
                note("the conversation fills the context; /reset starts a new one")


def _read_line(quiet: bool) -> str | None:
    """The next line, continuations joined; None at the end of input. Ctrl-C discards a line."""
    lines: list[str] = []
    while True:
        if sys.stdin.isatty() and on_terminal() and not quiet:
            sys.stderr.write("... " if lines else "> ")
            sys.stderr.flush()
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            note("\n/exit or Ctrl-D leaves")
            lines.clear()
            continue
        if not line:
            return "\n".join(lines) if lines else None
        line = line.rstrip("\n")
        if not line.endswith("\\"):
            return "\n".join([*lines, line])
        lines.append(line[:-1])


def _command(text: str, conversation: Conversation) -> None:
    name, _, argument = text.partition(" ")
    argument = argument.strip()
    if name == "/help":
        note(HELP)
    elif name == "/reset":
        conversation.reset()
        note("the conversation is empty")
    elif name == "/system":
        conversation.set_system(argument)
        note("system prompt set" if argument else "no system prompt")
    elif name == "/save" and argument:
        conversation.save(Path(argument).expanduser())
        note(f"saved to {argument}")
    else:
        wrong = "/save needs a file" if name == "/save" else f"there is no command {name}"
        raise EngineError("usage", wrong, hint="/help lists the commands", exit_code=EXIT_USAGE)


def _answer(speaker: Speaker, conversation: Conversation) -> None:
    """Streams the answer to the last message and puts what was said of it into the conversation."""
    from runtime.cli.run import run_request
    from runtime.engine.chat import chat_prompt
    from runtime.engine.request import Request

    plan, wishes, engine = speaker.plan(), speaker.wishes, speaker.engine
    prompt = chat_prompt(engine.tokenizer, conversation.messages)
    request = Request.of_plan(plan, prompt.ids, replace(wishes, stop=(*wishes.stop, *prompt.stops)))
    report = run_request(engine, plan, request, stream=True, quiet=speaker.quiet)
    sequence = report.completion.sequence
    if sequence.error is not None:
        raise sequence.error
    conversation.messages.append({"role": "assistant", "content": sequence.text})
    reason = str(sequence.stop_reason)
    if reason not in ("end_of_sequence", "stop_sequence") and not speaker.quiet:
        note(f"({reason})")
    if speaker.verbose:
        note(report.to_text())
