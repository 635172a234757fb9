"""``engine chat``: a conversation through the model's chat template.

The whole conversation is rendered and run for every answer; nothing is kept in
the engine between answers, so what is saved is exactly what the model saw.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli import flags
from runtime.cli.output import note, on_terminal, print_error
from runtime.errors import EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from runtime.bundle.plan import ResolvedPlan
    from runtime.engine.loop import Engine

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


def chat(
    target: Annotated[
        str | None, typer.Argument(metavar="[PLAN|BUNDLE]", help="A plan's file or name, or a bundle.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="The system prompt.")] = None,
    messages: Annotated[
        Path | None, typer.Option(help="A conversation to go on with, as /save or engine run take it.")
    ] = None,
    model: flags.Model = None,
    quant: flags.Quant = None,
    requantize: flags.Requantize = False,
    backend: flags.Backend = "cpu_avx2",
    context: flags.Context = None,
    kv_cache: flags.KvCache = None,
    max_tokens: flags.MaxTokens = None,
    temperature: flags.Temperature = None,
    top_k: flags.TopK = None,
    top_p: flags.TopP = None,
    min_p: flags.MinP = None,
    typical_p: flags.TypicalP = None,
    repetition_penalty: flags.RepetitionPenalty = None,
    presence_penalty: flags.PresencePenalty = None,
    frequency_penalty: flags.FrequencyPenalty = None,
    seed: flags.Seed = None,
    stop: flags.Stop = None,
    threads: flags.Threads = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Metrics after each answer.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Answers only.")] = False,
) -> None:
    """Talk to a model: a line in, an answer out. /help lists the commands.

    Answers go to stdout, everything else to stderr; lines may come from a pipe. Without a plan or a
    bundle, --model makes a plan, as in engine run.
    """
    if (target is None) == (model is None):
        raise flags.usage("name a plan or a bundle, or give --model (not both)", "engine chat PLAN")
    from runtime.bundle.machine import Machine
    from runtime.cli.run import read_messages
    from runtime.cli.target import bundle_of, bundle_of_document
    from runtime.engine.chat import chat_format, checked_messages
    from runtime.engine.executable import Executable
    from runtime.engine.loop import Engine
    from runtime.engine.tokenizer import Tokenizer

    history = checked_messages(read_messages(messages)) if messages is not None else []
    conversation = Conversation(history)
    if system is not None:
        conversation.set_system(system, keep=True)
    sampling = flags.given(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical_p=typical_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seed=seed,
    )
    limits = flags.given(max_tokens=max_tokens)
    if model is None:
        bundle = bundle_of(str(target), quiet=quiet)
    else:
        document = flags.plan_document(model, quant, requantize, backend, context, kv_cache)
        bundle = bundle_of_document(document, quiet=quiet)
    machine = Machine.probe()
    plan = bundle.plan.with_overrides(limits, sampling, threads, has_energy_meter=machine.has_energy_meter)
    tokenizer = Tokenizer.from_bundle(bundle)
    origin = chat_format(tokenizer).origin
    engine = Engine(Executable.open(bundle, plan.execution.threads, machine=machine), tokenizer)
    try:
        if not quiet:
            template = "its own chat template" if origin == "model" else f"no chat template ({origin})"
            room = f"{plan.execution.context} tokens of context"
            note(f"{plan.model} {plan.quantization.recipe}, {template}, {room}")
            note("/help lists the commands")
        _talk(engine, plan, conversation, stop or (), verbose=verbose, quiet=quiet)
    finally:
        engine.close()


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


def _talk(
    engine: Engine,
    plan: ResolvedPlan,
    conversation: Conversation,
    stop: Sequence[str],
    *,
    verbose: bool,
    quiet: bool,
) -> None:
    """Reads lines and answers them until /exit or the end of input."""
    while (line := _read_line(quiet)) is not None:
        text = line.strip()
        try:
            if text == "/exit":
                return
            if text.startswith("/"):
                _command(text, conversation)
            elif text:
                conversation.messages.append({"role": "user", "content": text})
                _answer(engine, plan, conversation, stop, verbose=verbose, quiet=quiet)
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


def _answer(
    engine: Engine,
    plan: ResolvedPlan,
    conversation: Conversation,
    stop: Sequence[str],
    *,
    verbose: bool,
    quiet: bool,
) -> None:
    """Streams the answer to the last message and puts what was said of it into the conversation."""
    from runtime.cli.run import run_request
    from runtime.engine.chat import chat_prompt
    from runtime.engine.request import Request, Wishes

    prompt = chat_prompt(engine.tokenizer, conversation.messages)
    request = Request.of_plan(plan, prompt.ids, Wishes(stop=(*stop, *prompt.stops)))
    report = run_request(engine, plan, request, stream=True, quiet=quiet)
    sequence = report.completion.sequence
    if sequence.error is not None:
        raise sequence.error
    conversation.messages.append({"role": "assistant", "content": sequence.text})
    reason = str(sequence.stop_reason)
    if reason not in ("end_of_sequence", "stop_sequence") and not quiet:
        note(f"({reason})")
    if verbose:
        note(report.to_text())
