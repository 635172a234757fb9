"""Flags that several commands share: a plan without a file, and one run's own limits and sampling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.cli.output import note
from runtime.errors import EXIT_USAGE, EngineError

PLAN = "Plan"
LIMITS = "Limits and sampling (instead of the plan's)"

Model = Annotated[
    str | None,
    typer.Option(help="Without a plan: a GGUF file, or a name in the model store.", rich_help_panel=PLAN),
]
Quant = Annotated[
    str | None,
    typer.Option(
        help="Without a plan: f32, f16, bf16, q8_0, q6_k, q4_k_m, or source (the file's own types). "
        "Default: q4_k_m of a file of floats, source of a quantized one.",
        show_default=False,
        rich_help_panel=PLAN,
    ),
]
Requantize = Annotated[
    bool,
    typer.Option(
        "--requantize",
        help="With --quant: also what the file holds quantized otherwise.",
        rich_help_panel=PLAN,
    ),
]
Backend = Annotated[str, typer.Option(help="Without a plan: the backend.", rich_help_panel=PLAN)]
Context = Annotated[int | None, typer.Option(help="Without a plan: tokens of context.", rich_help_panel=PLAN)]
KvCache = Annotated[str | None, typer.Option(help="Without a plan: f32, f16 or q8_0.", rich_help_panel=PLAN)]
SavePlan = Annotated[
    Path | None, typer.Option(help="Keep the plan that the flags make.", rich_help_panel=PLAN)
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", "-n", help="Most tokens to generate.", rich_help_panel=LIMITS)
]
Temperature = Annotated[float | None, typer.Option(help="0: greedy.", rich_help_panel=LIMITS)]
TopK = Annotated[int | None, typer.Option(help="Keep the k likeliest; 0: all.", rich_help_panel=LIMITS)]
TopP = Annotated[
    float | None, typer.Option(help="Keep the likeliest up to this share.", rich_help_panel=LIMITS)
]
MinP = Annotated[
    float | None,
    typer.Option(help="Keep those at least this likely beside the likeliest.", rich_help_panel=LIMITS),
]
TypicalP = Annotated[
    float | None,
    typer.Option(help="Keep those of typical surprise up to this share.", rich_help_panel=LIMITS),
]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Divides the logits of tokens seen.", rich_help_panel=LIMITS)
]
PresencePenalty = Annotated[
    float | None, typer.Option(help="Subtracted for a token seen.", rich_help_panel=LIMITS)
]
FrequencyPenalty = Annotated[
    float | None, typer.Option(help="Subtracted for each time it was seen.", rich_help_panel=LIMITS)
]
Seed = Annotated[
    int | None, typer.Option(help="The same seed draws the same tokens.", rich_help_panel=LIMITS)
]
LogitBias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID=BIAS",
        help="Added to a token's logit (-inf forbids it); repeatable.",
        rich_help_panel=LIMITS,
    ),
]
Stop = Annotated[
    list[str] | None, typer.Option(help="A text that ends an answer; repeatable.", rich_help_panel=LIMITS)
]
Threads = Annotated[int | None, typer.Option("--threads", "-t", rich_help_panel=LIMITS)]


def given(**values: Any) -> dict[str, Any]:
    """Those that were given: None is left out."""
    return {name: value for name, value in values.items() if value is not None}


def usage(message: str, hint: str | None = None) -> EngineError:
    """An error of the command line itself."""
    return EngineError("usage", message, hint=hint, exit_code=EXIT_USAGE)


def plan_document(
    model: str,
    quant: str | None,
    requantize: bool,
    backend: str,
    context: int | None = None,
    kv_cache: str | None = None,
) -> dict[str, Any]:
    """The plan that the flags make; without ``quantization`` where the model's file is to suggest it."""
    if requantize and quant is None:
        raise usage("--requantize goes with --quant", "engine run --model FILE --quant q4_k_m --requantize")
    document: dict[str, Any] = {"model": model, "backend": backend}
    if quant is not None:
        document["quantization"] = {"recipe": quant, "requantize": True} if requantize else quant
    return document | given(execution=given(context=context, kv_cache=kv_cache) or None)


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
                hint="engine tokenize MODEL --text TEXT shows ids",
                exit_code=EXIT_USAGE,
            ) from None
    return bias
