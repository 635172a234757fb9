"""``engine run``: one prompt through a plan, streamed, with its metrics at the end."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.bundle.files import read_text
from runtime.cli import flags
from runtime.cli.output import note, on_terminal, print_error, print_json
from runtime.errors import EXIT_INTERRUPTED, EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from runtime.bundle.plan import ResolvedPlan
    from runtime.bundle.reader import Bundle
    from runtime.cli.report import Report
    from runtime.engine.loop import Engine
    from runtime.engine.request import Request, Wishes
    from runtime.engine.types import StopReason, TokenEvent

    #: Gives the prompt's ids, and the texts that end an answer to it.
    PromptSource = Callable[[Engine], tuple[Sequence[int], Sequence[str]]]

_PROMPT = "Prompt"
_OUTPUT = "Output"


def register(app: typer.Typer) -> None:
    """Adds the command ``run``."""
    app.command()(run)


@flags.expanded
def run(
    target: flags.Target = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The text to continue.", rich_help_panel=_PROMPT)
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option("--prompt-file", "-f", help="… from a file, - for stdin.", rich_help_panel=_PROMPT),
    ] = None,
    messages: Annotated[
        Path | None,
        typer.Option(
            help="A conversation (JSON list of role and content) for the chat template.",
            rich_help_panel=_PROMPT,
        ),
    ] = None,
    continue_final_message: Annotated[
        bool | None,
        typer.Option(
            "--continue/--new-turn",
            help="With --messages: go on with the last message. Default: if it is an assistant's.",
            rich_help_panel=_PROMPT,
        ),
    ] = None,
    made: flags.Made = flags.Made(),  # noqa: B008 (replaced by its flags)
    save_plan: Annotated[
        Path | None, typer.Option(help="Keep the plan that the flags make.", rich_help_panel=flags.PLAN)
    ] = None,
    own: flags.Own = flags.Own(),  # noqa: B008
    ignore_eos: Annotated[
        bool,
        typer.Option(
            "--ignore-eos", help="Go on past the end of the sequence.", rich_help_panel=flags.LIMITS
        ),
    ] = False,
    logprobs: Annotated[
        int | None,
        typer.Option(
            help="With --json: each token's log-probability, and the N likeliest beside it.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print result, metrics and diagnostics as JSON.", rich_help_panel=_OUTPUT
        ),
    ] = False,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Print the text when it is complete.", rich_help_panel=_OUTPUT)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No metrics table, no progress.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Run a prompt: tokens on stdout as they come, then the metrics on stderr.

    PLAN is a plan's file or the name of a bundled plan; it is compiled if it has not been yet. Without
    one, --model makes a plan, with --quant, --backend and the like.
    """
    from runtime.cli.target import Named
    from runtime.engine.request import Wishes

    named = Named.of(target, made, "run")
    if save_plan is not None and named.document is None:
        raise flags.usage("--save-plan keeps a plan made by flags; this one exists already")
    if logprobs is not None and not as_json:
        raise flags.usage("--logprobs is shown with --json")
    if continue_final_message is not None and messages is None:
        raise flags.usage("--continue and --new-turn are about --messages")
    wishes = Wishes(tuple(own.stop or ()), own.bias(), logprobs, ignore_eos, own.constraint())
    decided = own.decided  # faults of the command line come before anything is compiled
    say = prompt_source(prompt, prompt_file, messages, continue_final_message)
    bundle = named.bundle(quiet=quiet)
    if save_plan is not None:
        _save_plan(save_plan, named.declared())
    report = execute(bundle, say, wishes, decided, stream=not (as_json or no_stream), quiet=quiet)
    if as_json:
        print_json(report.to_json())
    elif no_stream:
        print(report.completion.sequence.text)
    if not (quiet or as_json):
        note(("\n" if on_terminal() else "") + report.to_text())
    finish(report, as_json)


def execute(
    bundle: Bundle,
    say: PromptSource,
    wishes: Wishes,
    decided: flags.Decided,
    *,
    stream: bool,
    quiet: bool,
) -> Report:
    """One execution with what the run says for itself: from a checked bundle to its report."""
    from dataclasses import replace

    from runtime.bundle.machine import Machine
    from runtime.engine.executable import Executable
    from runtime.engine.loop import Engine
    from runtime.engine.request import Request
    from runtime.engine.tokenizer import Tokenizer

    machine = Machine.probe()
    plan = decided.over(bundle.plan, machine.has_energy_meter)
    if not quiet:
        flags.note_unused(plan, decided.sampling)
    tokenizer = Tokenizer.from_bundle(bundle)
    engine = Engine(Executable.open(bundle, plan.execution.threads, machine=machine), tokenizer)
    try:
        ids, stops = say(engine)
        request = Request.of_plan(plan, ids, replace(wishes, stop=(*wishes.stop, *stops)))
        return run_request(engine, plan, request, stream, quiet)
    finally:
        engine.close()


def run_request(engine: Engine, plan: ResolvedPlan, request: Request, stream: bool, quiet: bool) -> Report:
    """Runs a request under the plan's energy limits, Ctrl-C ending it cleanly."""
    from runtime.cli.report import logprobs_of, make_report, recorded
    from runtime.engine.loop import generate
    from runtime.engine.types import StopReason
    from runtime.metrics.energy_probe import probe_meters
    from runtime.metrics.limits import EnergyGuard

    chosen: list[TokenEvent] = []  # those that are shown with their probabilities
    emit = _emitter(stream, chosen if request.logprobs is not None else None)
    meter = probe_meters()
    times_before = engine.executable.op_times()
    with interruptible() as interrupted, prefill_line(not quiet) as prefilled:
        guard = EnergyGuard(
            meter,
            max_watts=request.limits.max_watts,
            max_joules=request.limits.max_joules,
            on_limit=request.limits.on_limit,
        )

        def interrupt() -> StopReason | None:
            if not interrupted.is_set():
                if guard.exceeded():
                    return StopReason.ENERGY_LIMIT
                guard.before_step()
            return StopReason.CANCELLED if interrupted.is_set() else None

        try:
            completion = generate(engine, request, emit, interrupt=interrupt, on_prefill=prefilled)
            energy = guard.finish()
        finally:
            meter.close()
    if stream:
        print(flush=True)
    times = {op: ns - times_before[op] for op, ns in engine.executable.op_times().items()}
    report = make_report(
        engine.executable.bundle,
        plan,
        completion,
        energy,
        paced_seconds=guard.paced_seconds,
        op_times_ns=times if plan.observability.op_timing else None,
        logprobs=None if request.logprobs is None else logprobs_of(engine.tokenizer, chosen),
    )
    return recorded(report)


def _emitter(stream: bool, chosen: list[TokenEvent] | None) -> Callable[[TokenEvent], None]:
    """What is done with each token: shown as it comes, and kept in ``chosen``."""

    def emit(event: TokenEvent) -> None:
        if chosen is not None and event.logprob is not None:
            chosen.append(event)
        if stream and event.text:
            sys.stdout.write(event.text)
            sys.stdout.flush()

    return emit


def finish(report: Report, as_json: bool) -> None:
    """The exit code of an execution: its error's, 130 if it was interrupted, else 0."""
    sequence = report.completion.sequence
    if sequence.error is not None:
        if not as_json:  # the JSON on stdout carries it already
            print_error(sequence.error)
        raise typer.Exit(sequence.error.exit_code)
    if sequence.stop_reason == "cancelled":
        raise typer.Exit(EXIT_INTERRUPTED)


def prompt_source(
    prompt: str | None,
    prompt_file: Path | None,
    messages: Path | None,
    continue_final_message: bool | None = None,
) -> PromptSource:
    """How to get the prompt once a tokenizer is there; reads files now, so that errors come early."""
    if sum(source is not None for source in (prompt, prompt_file, messages)) > 1:
        raise flags.usage("give one of --prompt, --prompt-file and --messages", None)
    if messages is not None:
        conversation = read_messages(messages)

        def render(engine: Engine) -> tuple[Sequence[int], Sequence[str]]:
            from runtime.engine.chat import chat_prompt

            prompt = chat_prompt(
                engine.tokenizer, conversation, continue_final_message=continue_final_message
            )
            return prompt.ids, prompt.stops

        return render
    if prompt is not None:
        text = prompt
    elif prompt_file is not None and str(prompt_file) != "-":
        text = _read_text(prompt_file)
    elif prompt_file is not None or not sys.stdin.isatty():
        text = sys.stdin.read()
    else:
        raise flags.usage("there is no prompt", "engine run PLAN --prompt TEXT")
    return lambda engine: (engine.tokenizer.encode(text), ())


def read_messages(path: Path) -> list[dict[str, Any]]:
    """A conversation from a JSON file: a list of messages, or an object with ``messages``."""
    import json

    try:
        body = json.loads(_read_text(path))
    except (ValueError, RecursionError) as cause:
        raise EngineError("invalid_messages", f"not JSON: {cause}", str(path), exit_code=EXIT_USAGE) from None
    body = body.get("messages") if isinstance(body, dict) else body
    if (
        not isinstance(body, list)
        or not body
        or not all(isinstance(item, dict) and isinstance(item.get("role"), str) for item in body)
    ):
        raise EngineError(
            "invalid_messages",
            "not a conversation",
            str(path),
            allowed='[{"role": "user", "content": "…"}, …]',
            exit_code=EXIT_USAGE,
        )
    return body


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one ends the process as usual."""
    event = threading.Event()

    def first(_signal: int, _frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, first)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def prefill_line(enabled: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Shows how far a long prompt is, on a terminal only."""
    if not enabled or not on_terminal():
        yield None
        return

    def show(done: int, total: int) -> None:
        end = "\r\x1b[K" if done == total else ""
        sys.stderr.write(f"\rprompt {done}/{total} tokens{end}")
        sys.stderr.flush()

    yield show


def _save_plan(path: Path, document: dict[str, Any]) -> None:
    """Writes the plan that was made; what a run says for itself is not part of it."""
    from compiler.plan import plan_from_mapping
    from runtime.bundle.store import file_error

    declared = plan_from_mapping(document, Path.cwd(), source="the command line")
    try:
        path.write_text(declared.to_yaml(path.resolve().parent), "utf-8")
    except OSError as cause:
        raise file_error(cause, path) from cause
    note(f"plan saved to {path}")


def _read_text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as cause:
        reason = getattr(cause, "strerror", None) or str(cause)
        raise EngineError(
            "file_error", f"cannot be read: {reason}", str(path), exit_code=EXIT_USAGE
        ) from None
