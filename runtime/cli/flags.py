"""Flags that several commands share, in groups: a plan without a file (:class:`Made`), and one run's own
limits and sampling (:class:`Own`).

A command declares a parameter of a group's class and is decorated with :func:`expanded`.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from runtime.bundle.planfields import BY_PATH
from runtime.cli.output import note
from runtime.errors import EXIT_USAGE, EngineError

if TYPE_CHECKING:
    from runtime.bundle.plan import ResolvedPlan
    from runtime.engine.request import Constraint

#: The backend of a plan that flags make.
BACKEND = "cpu_avx2"
PLAN = "Plan"
LIMITS = "Limits and sampling (instead of the plan's)"


Target = Annotated[
    str | None,
    typer.Argument(metavar="[PLAN|BUNDLE|GGUF]", help="A plan's file or name, a bundle, or a model's file."),
]


@dataclass(frozen=True)
class Made:
    """A plan made by flags, without a file."""

    model: Annotated[
        str | None,
        typer.Option(help="Without a plan: a GGUF file, or a name in the model store.", rich_help_panel=PLAN),
    ] = None
    quant: Annotated[
        str | None,
        typer.Option(
            help="With --model: f32, f16, bf16, q8_0, q6_k, q4_k_m, or source (the file's own types). "
            "Default: q4_k_m of a file of floats, source of a quantized one.",
            show_default=False,
            rich_help_panel=PLAN,
        ),
    ] = None
    requantize: Annotated[
        bool,
        typer.Option(
            "--requantize",
            help="With --quant: also what the file holds quantized otherwise.",
            rich_help_panel=PLAN,
        ),
    ] = False
    backend: Annotated[
        str | None, typer.Option(help=f"With --model: the backend; {BACKEND}.", rich_help_panel=PLAN)
    ] = None
    context: Annotated[
        int | None, typer.Option(help="With --model: tokens of context.", rich_help_panel=PLAN)
    ] = None
    kv_cache: Annotated[
        str | None, typer.Option(help="With --model: f32, f16 or q8_0.", rich_help_panel=PLAN)
    ] = None

    def document(self, model: str | None = None) -> dict[str, Any]:
        """The plan's tree; without ``quantization`` where the model's file is to suggest it."""
        model = model or self.model
        if self.requantize and self.quant is None:
            words = f"--model {shlex.quote(str(model))} --quant q4_k_m --requantize"
            raise usage("--requantize goes with --quant", f"engine run {words} --prompt TEXT")
        document: dict[str, Any] = {"model": model, "backend": self.backend or BACKEND}
        if self.quant is not None:
            quantization = {"recipe": self.quant, "requantize": True} if self.requantize else self.quant
            document["quantization"] = quantization
        return document | given(execution=given(context=self.context, kv_cache=self.kv_cache) or None)

    def words(self) -> list[str]:
        """What was given beside the model, as it is written on a command line."""
        options = (("quant", self.quant), ("backend", self.backend), ("context", self.context))
        words = [f"--{name} {shlex.quote(str(v))}" for name, v in options if v is not None]
        words += ["--requantize"] if self.requantize else []
        return words + ([f"--kv-cache {shlex.quote(self.kv_cache)}"] if self.kv_cache is not None else [])


def _own(help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=LIMITS, **more)


@dataclass(frozen=True)
class Decided:
    """What a run says instead of its plan."""

    limits: Mapping[str, Any]
    sampling: Mapping[str, Any]
    threads: int | None = None

    def over(self, plan: ResolvedPlan, has_energy_meter: bool) -> ResolvedPlan:
        """The plan with it in place; raises ``invalid_plan``."""
        return plan.with_overrides(
            self.limits, self.sampling, self.threads, has_energy_meter=has_energy_meter
        )


@dataclass(frozen=True)
class Own:
    """What one run says instead of its plan's ``limits`` and ``sampling``, in fields of their names; and
    what it asks for beside them."""

    max_tokens: Annotated[int | None, _own("Most tokens to generate.", "--max-tokens", "-n")] = None
    min_tokens: Annotated[int | None, _own("No end before so many.")] = None
    max_seconds: Annotated[float | None, _own("Most seconds, reading the prompt included.")] = None
    max_watts: Annotated[float | None, _own("Most watts.")] = None
    max_watts_advisory: Annotated[
        bool | None, _own("Record max_watts where nothing measures it.", "--max-watts-advisory")
    ] = None
    max_joules: Annotated[float | None, _own("Most joules.")] = None
    on_limit: Annotated[str | None, _own("Past max_watts: stop, or pace.")] = None
    temperature: Annotated[float | None, _own("0: greedy.")] = None
    top_k: Annotated[int | None, _own("Keep the k likeliest; 0: all.")] = None
    top_p: Annotated[float | None, _own("Keep the likeliest up to this share.")] = None
    min_p: Annotated[float | None, _own("Keep those at least this likely beside the likeliest.")] = None
    typical_p: Annotated[float | None, _own("Keep those of typical surprise up to this share.")] = None
    repetition_penalty: Annotated[float | None, _own("Divides the logits of tokens seen.")] = None
    presence_penalty: Annotated[float | None, _own("Subtracted for a token seen.")] = None
    frequency_penalty: Annotated[float | None, _own("Subtracted for each time it was seen.")] = None
    dry_multiplier: Annotated[float | None, _own("DRY: weight of the penalty; 0: off.")] = None
    dry_base: Annotated[float | None, _own("DRY: its growth by each token repeated.")] = None
    dry_allowed_length: Annotated[int | None, _own("DRY: tokens that may repeat freely.")] = None
    dry_penalty_last_n: Annotated[int | None, _own("DRY: tokens looked at; -1: all.")] = None
    dry_sequence_breakers: Annotated[
        list[str] | None, _own("DRY: a text that ends a repetition; repeatable.")
    ] = None
    xtc_probability: Annotated[float | None, _own("XTC: how often it applies; 0: never.")] = None
    xtc_threshold: Annotated[float | None, _own("XTC: of those this likely the least stays.")] = None
    seed: Annotated[
        str | None, _own("The same draws the same tokens; random: one is drawn.", metavar="NUMBER|random")
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        _own("Added to a token's logit (-inf forbids it); repeatable.", metavar="ID=BIAS"),
    ] = None
    stop: Annotated[list[str] | None, _own("A text that ends an answer; repeatable.")] = None
    json_schema: Annotated[
        Path | None, _own("The answer is JSON that this file's schema describes.", metavar="FILE")
    ] = None
    regex: Annotated[str | None, _own("The whole answer matches this expression.", metavar="TEXT")] = None
    grammar: Annotated[
        Path | None, _own("The answer follows this file's grammar (llguidance's Lark).", metavar="FILE")
    ] = None
    threads: Annotated[int | None, _own("Threads that compute.", "--threads", "-t")] = None

    @property
    def limits(self) -> dict[str, Any]:
        """The plan's ``limits`` that were given."""
        return self._of("limits")

    @property
    def sampling(self) -> dict[str, Any]:
        """The plan's ``sampling`` that was given; raises ``usage`` for a seed that is none."""
        sampling = self._of("sampling")
        if (seed := self.seed) is not None and seed != "random":
            if not (seed.isascii() and seed.removeprefix("-").isdigit()):
                raise usage(f"{seed[:40]!r} is no seed", path="--seed", allowed="a number, or random")
            sampling["seed"] = int(seed)
        return sampling

    @property
    def decided(self) -> Decided:
        """All of it that is the plan's; errors as :attr:`sampling`."""
        return Decided(self.limits, self.sampling, self.threads)

    def _of(self, group: str) -> dict[str, Any]:
        return given(**{name: v for name, v in vars(self).items() if f"{group}.{name}" in BY_PATH})

    def bias(self) -> dict[int, float]:
        """``--logit-bias`` by id; whether there is such a token is judged with the vocabulary."""
        return logit_bias_of_flags(self.logit_bias)

    def constraint(self) -> Constraint | None:
        """What the answer must look like; reads the files. Raises ``usage``, ``file_error``."""
        from runtime.bundle.files import read_text
        from runtime.engine.request import Constraint

        asked = given(json_schema=self.json_schema, regex=self.regex, grammar=self.grammar)
        if len(asked) > 1:
            names = " and ".join(f"--{name.replace('_', '-')}" for name in asked)
            raise usage(f"{names} both say what the answer must look like; give one of them")
        for kind, value in asked.items():
            try:
                text = value if isinstance(value, str) else read_text(value)
            except (OSError, UnicodeDecodeError) as cause:
                reason = getattr(cause, "strerror", None) or "it is not UTF-8"
                raise EngineError(
                    "file_error", f"cannot be read: {reason}", str(value), exit_code=EXIT_USAGE
                ) from None
            return Constraint(kind, text)  # type: ignore[arg-type]
        return None


#: Steps after the one in which a temperature of 0 takes the likeliest.
_AFTER_GREEDY = ("top_k", "top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold", "seed")


def note_unused(plan: ResolvedPlan, sampling: Mapping[str, Any]) -> None:
    """Says which of the sampling that was asked for changes nothing."""
    unused = [f"--{name.replace('_', '-')}" for name in _AFTER_GREEDY if name in sampling]
    if unused and plan.sampling.temperature == 0:
        note(f"note: the temperature is 0, so {', '.join(unused)} changes nothing; --temperature 0.7 samples")


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with each parameter of a group's class replaced by that group's flags."""
    hints = get_type_hints(command, include_extras=True)
    declared = inspect.signature(command).parameters
    groups = {name: hints[name] for name in declared if hints[name] in (Made, Own)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in declared.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        types = get_type_hints(groups[name], include_extras=True)
        parameters += [
            parameter.replace(name=flag.name, default=flag.default, annotation=types[flag.name])
            for flag in fields(groups[name])
        ]

    @wraps(command)
    def called(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in fields(group)})
        command(**values)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def given(**values: Any) -> dict[str, Any]:
    """Those that were given: None is left out."""
    return {name: value for name, value in values.items() if value is not None}


def usage(
    message: str, hint: str | None = None, *, path: str | None = None, allowed: str | None = None
) -> EngineError:
    """An error of the command line itself."""
    return EngineError("usage", message, path=path, allowed=allowed, hint=hint, exit_code=EXIT_USAGE)


def with_quantization(document: Mapping[str, Any], *, quiet: bool = False) -> dict[str, Any]:
    """The plan with the quantization that its model's file suggests, unless it names one."""
    if "quantization" in document:
        return dict(document)
    from compiler.plan import locate_model, plan_from_mapping
    from compiler.quantize.choice import suggested_quantization

    asked = plan_from_mapping({**document, "quantization": "source"}, Path.cwd(), source="the command line")
    quantization, said = suggested_quantization(locate_model(asked))
    if said is not None and not quiet:
        note(f"note: {said}")
    return {**document, "quantization": quantization}


def logit_bias_of_flags(entries: list[str] | None) -> dict[int, float]:
    """``ID=BIAS`` entries by id; whether there is such a token is judged with the vocabulary."""
    bias: dict[int, float] = {}
    for entry in entries or ():
        token, equals, value = entry.rpartition("=")
        try:
            if not equals:
                raise ValueError
            bias[int(token)] = float(value)
        except ValueError:
            raise EngineError(
                "usage",
                f"--logit-bias {entry[:40]!r} is not a token's id and a number",
                allowed="ID=BIAS, such as 1234=-2.5 or 1234=-inf",
                hint="`engine tokenize MODEL --text TEXT` shows ids",
                exit_code=EXIT_USAGE,
            ) from None
    return bias
