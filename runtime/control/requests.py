"""From what a client asked for to a :class:`RunSpec` in which every choice is made.

A request may choose among the bundles that are served, and change limits, sampling
and the scheduler policy; whatever needs other code or memory is another plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from runtime.bundle.format import bundle_notes
from runtime.bundle.plan import Origin, ResolvedPlan
from runtime.bundle.planfields import RECIPES
from runtime.bundle.spelling import did_you_mean
from runtime.control.types import BundleInfo, RunSpec, ServedBundle
from runtime.engine.request import Request, Wishes, check_token, logit_bias_of
from runtime.errors import EXIT_PLAN, EXIT_RUN, EngineError
from runtime.scheduler import policy as policies

#: Path of a field in a request where it differs from its path in a plan.
_REQUEST_PATHS = {"scheduler_policy": "execution.scheduler_policy"}


def match_bundle(
    infos: Sequence[BundleInfo],
    model: str,
    *,
    backend: str | None = None,
    quantization: str | None = None,
) -> BundleInfo:
    """The one served bundle that a request means.

    ``model`` is a plan's name or a name of its model; ``backend`` and ``quantization``
    narrow the choice. Raises ``unknown_backend`` and ``unknown_recipe`` for what no engine has,
    ``plan_not_compiled`` with what is served (whoever knows the files adds the command), or
    ``ambiguous_model`` where several fit: none is picked silently.
    """
    backends = {*_installed_backends(), *(info.backend for info in infos)}
    _known("backend", backend, sorted(backends), "unknown_backend")
    recipes = dict.fromkeys((*RECIPES, *(info.quantization for info in infos)))
    _known("quantization", quantization, tuple(recipes), "unknown_recipe")
    named = [info for info in infos if model in info.labels]
    fitting = [
        info
        for info in named
        if backend in (None, info.backend) and quantization in (None, info.quantization)
    ]
    exact = [info for info in fitting if info.name == model]
    if len(exact) == 1 or len(fitting) == 1:
        return (exact or fitting)[0]
    if fitting:
        names = ", ".join(info.name for info in fitting)
        raise EngineError(
            "ambiguous_model",
            f"{len(fitting)} served plans run {model!r}",
            path="model",
            allowed=names,
            hint="name one of these plans, or give execution.backend and execution.quantization",
            exit_code=EXIT_RUN,
        )
    raise _not_served(infos, named, model, backend, quantization)


def _not_served(
    infos: Sequence[BundleInfo],
    named: Sequence[BundleInfo],
    model: str,
    backend: str | None,
    quantization: str | None,
) -> EngineError:
    """``plan_not_compiled``, at the word of the request for which nothing is served."""
    if not named:
        path, what = "model", f"no compiled plan for the model {model!r} is served"
        known = [label for info in infos for label in info.labels]
    else:
        wrong = backend is not None and backend not in {info.backend for info in named}
        path = "execution.backend" if wrong else "execution.quantization"
        how = f"{quantization or 'any quantization'} on {backend or 'any backend'}"
        what = f"no compiled plan for {model!r} with {how} is served"
        known = [f"{info.name} ({info.quantization}, {info.backend})" for info in named]
    return EngineError(
        "plan_not_compiled",
        what,
        path=path,
        allowed=", ".join(dict.fromkeys(known)) or None,
        hint=None if named else did_you_mean(model, known),
        exit_code=EXIT_PLAN,
    )


@cache
def _installed_backends() -> tuple[str, ...]:
    return tuple(point.name for point in entry_points(group="engine.backends"))


def _known(what: str, value: str | None, choices: Sequence[str], code: str) -> None:
    if value is not None and value not in choices:
        raise EngineError(
            code,
            f"there is no {what} {value!r:.80}",
            path=f"execution.{what}",
            allowed=", ".join(choices),
            hint=did_you_mean(value, choices),
            exit_code=EXIT_PLAN,
        )


def overridden(
    plan: ResolvedPlan,
    *,
    limits: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] | None = None,
    policy: str | None = None,
    has_energy_meter: bool,
    keep_watts: bool,
    energy_reason: str | None = None,
) -> tuple[ResolvedPlan, tuple[str, ...]]:
    """The bundle's plan with a request's own wishes in it, and what of them cannot be kept.

    Without a meter ``limits.max_watts`` is refused if ``keep_watts``; otherwise it is
    recorded as advisory (``limits.max_watts_advisory``, origin ``override``) and said so
    in the notes. A seed that is ``random`` is drawn. Raises
    ``unknown_scheduler_policy``, and ``invalid_plan`` with all faults as causes.
    """
    limits = dict(limits or {})
    notes: list[str] = []
    watts = limits.get("max_watts", plan.limits.max_watts)
    if watts is not None and not has_energy_meter:
        if not keep_watts:
            limits["max_watts_advisory"] = True
        notes.append(f"limits.max_watts is not kept: {energy_reason or 'there is no energy meter'}")
    if limits.get("max_joules", plan.limits.max_joules) is not None and not has_energy_meter:
        notes.append(f"limits.max_joules is not kept: {energy_reason or 'there is no energy meter'}")
    changed = plan
    if limits or sampling or plan.sampling.seed == "random":
        changed = plan.with_overrides(limits, sampling, has_energy_meter=has_energy_meter)
    if policy is not None and policy != changed.scheduler_policy:
        policies.get(policy)
        origins: dict[str, Origin] = {**changed.origins, "scheduler_policy": "override"}
        changed = ResolvedPlan.from_values({**changed.values(), "scheduler_policy": policy}, origins)
    return changed, tuple(notes)


@dataclass(frozen=True)
class Prompt:
    """What is to be answered or continued: a text to tokenize, or ids (then ``text`` is what they
    stand for, where that is known). ``parse_special``: control tokens in the text are tokens.
    ``template_kwargs``: what the chat template that wrote it was given beside the messages."""

    text: str | None
    ids: Sequence[int] | None = None
    parse_special: bool = False
    template_kwargs: Mapping[str, Any] | None = None

    def tokenized(self, bundle: ServedBundle) -> tuple[int, ...]:
        """The ids; raises ``prompt_empty``, ``prompt_too_long``, ``token_out_of_range``, ``text_invalid``."""
        context, ids = bundle.engine.limits.context, self.ids
        if ids is None:
            assert self.text is not None
            check_text(self.text, context)
            ids = bundle.tokenizer.encode(self.text, True, self.parse_special)
            # A prompt made by hand may hold the beginning-of-sequence token that the tokenizer adds.
            bos = bundle.tokenizer.bos_id
            if bos is not None and list(ids[:2]) == [bos, bos]:
                ids = ids[1:]
        if not ids:
            raise EngineError("prompt_empty", "the prompt has no tokens", path="prompt", exit_code=EXIT_RUN)
        check_ids(ids, n_vocab=bundle.tokenizer.n_vocab, context=context)
        return tuple(ids)


def make_spec(
    bundle: ServedBundle,
    plan: ResolvedPlan,
    prompt: Prompt,
    wishes: Wishes,
    *,
    explicit_max_tokens: bool,
    kind: str = "run",
    notes: Sequence[str] = (),
) -> RunSpec:
    """The execution to run. Tokenizes the prompt (which may take a while: not on the event loop).

    A ``max_tokens`` that nobody asked for is cut to what the context leaves, and a note
    says so; one that was asked for must fit. Raises as :meth:`Prompt.tokenized`, and
    ``context_exceeded``, ``token_out_of_range`` of a bias, ``constraint_unsupported``.
    """
    ids = prompt.tokenized(bundle)
    logit_bias_of(wishes.logit_bias, bundle.tokenizer.n_vocab)
    if wishes.constraint is not None:
        bundle.tokenizer.grammars.check(wishes.constraint)
    context = bundle.engine.limits.context
    room = context - len(ids) + 1
    extra = [*bundle_notes(bundle.info.details), *notes]
    if plan.limits.max_tokens > room:
        if explicit_max_tokens:
            raise EngineError(
                "context_exceeded",
                f"{len(ids)} prompt tokens and max_tokens {plan.limits.max_tokens} "
                f"do not fit the context of {context}",
                path="limits.max_tokens",
                allowed=f"1 to {room}",
                hint="ask for fewer tokens, shorten the prompt, or compile a plan with a larger context, "
                "if the model was trained for one",
                exit_code=EXIT_RUN,
            )
        extra.append(f"limits.max_tokens is {room}: what the context leaves after the prompt")
        plan = plan.with_overrides({"max_tokens": room})
    request = Request.of_plan(plan, ids, wishes)
    return RunSpec(
        bundle.info.name, request, plan, prompt.text, kind, tuple(extra), prompt.template_kwargs
    )


def request_path(path: str | None) -> str | None:
    """Where a fault of a plan lies in a Run Request (``limits`` → ``execution.limits``)."""
    if path is None:
        return None
    if path.startswith("limits."):
        return f"execution.{path}"
    return _REQUEST_PATHS.get(path, path)


def check_text(text: str, context: int, *, path: str = "prompt") -> None:
    """Spares the tokenizer a text that no context holds. Raises ``prompt_too_long``."""
    if len(text) > 64 * context + 4096:  # no token stands for so much
        raise _too_long(f"at least {len(text) // 64}", context, path)


def check_ids(ids: Sequence[int], *, n_vocab: int, context: int, path: str = "prompt") -> None:
    """Raises ``prompt_too_long`` and ``token_out_of_range`` (with the place of the first such id)."""
    if len(ids) > context:
        raise _too_long(str(len(ids)), context, path)
    for index, token in enumerate(ids):
        check_token(token, n_vocab, f"{path}[{index}]")


def _too_long(tokens: str, context: int, path: str) -> EngineError:
    return EngineError(
        "prompt_too_long",
        f"the {'prompt' if path == 'prompt' else path} has {tokens} tokens",
        path=path,
        allowed=f"at most {context} tokens",
        hint="shorten it, or compile the plan with a larger execution.context, "
        "if the model was trained for one",
        exit_code=EXIT_RUN,
    )
