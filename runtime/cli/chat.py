"""``engine chat``: a conversation through the model's chat template.

The whole conversation is rendered and run for every answer; nothing is kept in
the engine between answers, so what is saved is exactly what the model saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.bundle.format import bundle_notes
from runtime.bundle.spelling import nearest
from runtime.cli import flags
from runtime.cli.conversation import Conversation, read_entry
from runtime.cli.output import note, print_error
from runtime.errors import EngineError

if TYPE_CHECKING:
    from runtime.bundle.plan import ResolvedPlan
    from runtime.engine.loop import Engine
    from runtime.engine.request import Wishes

HELP = """\
/continue        go on with the last answer
/regen           another answer to the last question (a new seed)
/reset           forget the conversation, keep the system prompt
/system TEXT     change the system prompt (nothing after it: remove it) and reset
/save FILE       write the conversation as JSON, for --messages
/help            this
/exit            leave; so does the end of input (Ctrl-D)
Ctrl-C stops an answer, not the chat. A line that ends in \\ goes on in the next;
\"\"\" begins a text of several lines and ends it."""
COMMANDS = ("/continue", "/regen", "/reset", "/system", "/save", "/help", "/exit")
#: What people who know other programs type.
ALIASES = {
    "/clear": "/reset", "/new": "/reset", "/bye": "/exit", "/quit": "/exit", "/q": "/exit", "/?": "/help",
    "/retry": "/regen", "/regenerate": "/regen",
}  # fmt: skip


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
    if not (quiet or verbose):  # verbose shows them with each answer's metrics
        for text in bundle_notes(bundle.manifest.details):
            note(f"note: {text}")
    machine = Machine.probe()

    def plan(draw: bool = False) -> ResolvedPlan:  # for each answer: a seed may be drawn
        chosen = {**sampling, "seed": "random"} if draw else sampling
        meter = machine.has_energy_meter
        return bundle.plan.with_overrides(limits, chosen, own.threads, has_energy_meter=meter)

    decided = plan()
    tokenizer = Tokenizer.from_bundle(bundle)
    origin = chat_format(tokenizer).origin
    engine = Engine(Executable.open(bundle, decided.execution.threads, machine=machine), tokenizer)
    try:
        wishes = Wishes(tuple(own.stop or ()), bias, constraint=own.constraint())
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
    """What answers: the engine, the plan of each answer (with a seed drawn for it or not), and what is
    asked beside it."""

    engine: Engine
    plan: Callable[[bool], ResolvedPlan]
    wishes: Wishes
    verbose: bool
    quiet: bool


def _talk(speaker: Speaker, conversation: Conversation) -> None:
    """Reads lines and answers them until /exit or the end of input; a question at the end of a
    conversation that was loaded is answered first."""
    pending = conversation.last("user")
    while (line := "" if pending else read_entry(speaker.quiet)) is not None:
        try:
            if pending:
                pending = False
                _answer(speaker, conversation)
            elif line.startswith("/"):
                if not _command(line.strip(), speaker, conversation):
                    return
            elif text := line.strip():
                conversation.messages.append({"role": "user", "content": text})
                _answer(speaker, conversation)
        except EngineError as error:
            # A question that cannot be answered is not part of the conversation.
            if conversation.last("user"):
                conversation.messages.pop()
            print_error(error)
            if error.code == "prompt_too_long":
                note("the conversation fills the context; /reset starts a new one")


def _command(text: str, speaker: Speaker, conversation: Conversation) -> bool:
    """Obeys a command; whether the chat goes on."""
    name, _, argument = text.partition(" ")
    name, argument = ALIASES.get(name, name), argument.strip()
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
    elif name in ("/continue", "/regen") and conversation.last("assistant"):
        _again(speaker, conversation, anew=name == "/regen")
    elif name != "/exit":
        raise _misunderstood(name)
    return name != "/exit"


def _misunderstood(name: str) -> EngineError:
    if name == "/save":
        return flags.usage("/save needs a file", "/help lists the commands")
    if name in ("/continue", "/regen"):
        return flags.usage(f"{name} needs an answer before it", "/help lists the commands")
    near = nearest(name, (*COMMANDS, *ALIASES))
    hint = "/help lists the commands; a space before it makes it a message"
    hint = hint if near is None else f"did you mean {near}? {hint}"
    return flags.usage(f"there is no command {name}", hint)


def _again(speaker: Speaker, conversation: Conversation, *, anew: bool) -> None:
    """Goes on with the last answer, or gives another one; what was there stays if that fails."""
    before = list(conversation.messages)
    try:
        if anew:
            conversation.messages.pop()
        _answer(speaker, conversation, draw=anew)
    except EngineError:
        conversation.messages = before
        raise


def _answer(speaker: Speaker, conversation: Conversation, *, draw: bool = False) -> None:
    """Streams the answer to the last message, or the rest of it where that is an answer, and puts what
    was said of it into the conversation. ``draw``: with a seed of its own."""
    from runtime.cli.run import run_request
    from runtime.engine.chat import chat_prompt
    from runtime.engine.request import Request

    plan, wishes, engine = speaker.plan(draw), speaker.wishes, speaker.engine
    if draw and plan.sampling.temperature == 0 and not speaker.quiet:
        note("note: the temperature is 0, so the answer is the same; --temperature 0.7 samples")
    prompt = chat_prompt(engine.tokenizer, conversation.messages)
    request = Request.of_plan(plan, prompt.ids, replace(wishes, stop=(*wishes.stop, *prompt.stops)))
    report = run_request(engine, plan, request, stream=True, quiet=speaker.quiet)
    sequence = report.completion.sequence
    if sequence.error is not None:
        raise sequence.error
    conversation.answered(sequence.text)
    reason = str(sequence.stop_reason)
    if reason not in ("end_of_sequence", "stop_sequence") and not speaker.quiet:
        note(f"({reason}; /continue goes on)")
    if speaker.verbose:
        note(report.to_text())
