"""An engine without weights, for tests of what drives it: same contract, arithmetic replaced by a hash.

The next token depends on the sequence's ids (and its seed, where it samples), never on
batching, chunking or time, as the real engine promises; so lost, doubled or mixed tokens
show as a text that differs from :func:`expected_text`.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from runtime.bundle.plan import ResolvedPlan
from runtime.control.types import BundleInfo, ServedBundle
from runtime.engine.chat import continues
from runtime.engine.constraint import Grammars
from runtime.engine.memory import SlotMemory
from runtime.engine.types import (
    EngineLimits,
    Phase,
    Request,
    StepReport,
    StopReason,
    TokenEvent,
)
from runtime.errors import EngineError
from runtime.scheduler import CostModel

BOS, EOS, POISON, N_VOCAB = 256, 257, 258, 260
ALPHABET = b"abcdefghijklmnopqrstuvwxyz      "


def next_token(ids: Sequence[int], seed: int, eos: bool) -> int:
    digest = hashlib.blake2b(repr((tuple(ids), seed)).encode(), digest_size=8).digest()
    if eos and digest[0] < 8:
        return EOS
    return ALPHABET[digest[1] % len(ALPHABET)]


def expected_ids(prompt_ids: Sequence[int], count: int, *, eos: bool = False, seed: int = 0) -> list[int]:
    ids = list(prompt_ids)
    for _ in range(count):
        ids.append(next_token(ids, seed, eos))
        if ids[-1] == EOS:
            break
    return ids[len(prompt_ids) :]


def expected_text(prompt: str, count: int, **options: Any) -> str:
    ids = expected_ids(FakeTokenizer().encode(prompt), count, **options)
    return bytes(i for i in ids if i < 256).decode()


class FakeTokenizer:
    """A token a byte; ``<|im_end|>`` and the like are plain text."""

    n_vocab = N_VOCAB
    bos_id = BOS
    eos_ids = frozenset({EOS})
    chat_template = None
    special_ids = frozenset({BOS, EOS})

    @cached_property
    def grammars(self) -> Grammars:
        return Grammars(self)

    def encode(
        self, text: str, add_special: bool = True, parse_special: bool = False, *, continuation: bool = False
    ) -> list[int]:
        return ([BOS] if add_special else []) + list(text.encode())

    def decode(self, ids: Sequence[int], skip_special: bool = False, *, continuation: bool = False) -> str:
        return b"".join(self.piece(i) for i in ids).decode(errors="replace")

    def piece(self, token: int) -> bytes:
        if not 0 <= token < N_VOCAB:
            raise EngineError("token_out_of_range", f"the token id {token} is outside the vocabulary")
        return bytes([token]) if token < 256 else b""


@dataclass(frozen=True)
class FakePrompt:
    text: str
    ids: tuple[int, ...]
    stops: tuple[str, ...] = ()


class FakeTemplate:
    source = "{# fake #}"

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> FakePrompt:
        text = "".join(f"[{name}={value}]" for name, value in (variables or {}).items())
        text += "".join(f"<{m['role']}>{m['content']}\n" for m in messages)
        goes_on = continues([*map(dict, messages)], add_generation_prompt, continue_final_message)
        text = text[:-1] if goes_on else text
        text += "<assistant>" if not goes_on and add_generation_prompt is not False else ""
        return FakePrompt(text, tuple(FakeTokenizer().encode(text)))


@dataclass
class FakeSequence:
    request: Request
    slot: int
    admitted_ns: int
    eos: bool
    phase: Phase = Phase.PREFILL
    done_prefill: int = 0
    reused_tokens: int = 0
    drafted: tuple[int, int] = (0, 0)
    token_ids: list[int] = field(default_factory=list)
    token_ns: list[int] = field(default_factory=list)
    text: str = ""
    held: str = ""
    stop_reason: StopReason | None = None
    error: EngineError | None = None
    finished_ns: int | None = None

    @property
    def remaining_prefill(self) -> int:
        return len(self.request.prompt_ids) - self.done_prefill

    @property
    def logits_digest(self) -> str:
        return hashlib.blake2b(repr((self.request.prompt_ids, self.token_ids)).encode()).hexdigest()[:64]

    def end(self, reason: StopReason, error: EngineError | None = None) -> None:
        self.stop_reason, self.error, self.phase = reason, error, Phase.FINISHED
        self.finished_ns = time.monotonic_ns()


class FakeEngine:
    """``step_seconds`` is how long a step takes; ``broken`` makes the next step raise."""

    def __init__(
        self,
        slots: int = 4,
        step_tokens: int = 32,
        context: int = 512,
        step_seconds: float = 0.0,
        eos: bool = False,
    ) -> None:
        self.limits = EngineLimits(N_VOCAB, 2, context, slots, step_tokens)
        self.step_seconds = step_seconds
        self.tokens_a_decode = 1
        self.eos = eos
        self.broken: Exception | None = None
        self.gate: threading.Event | None = None
        self.closed = False
        self.steps: list[list[tuple[int, int]]] = []
        self.memory = SlotMemory(slots)
        self.draft_tokens = 0
        self._slots: dict[int, FakeSequence] = {}
        self._own: set[int] = set()

    @property
    def free_slots(self) -> int:
        return self.memory.free

    @property
    def sequences(self) -> int:
        return len(self._slots)

    def admit(self, request: Request, slot: int | None = None) -> FakeSequence:
        if not request.prompt_ids:
            raise EngineError("prompt_empty", "the prompt is empty")
        if slot is None:
            slot = self.memory.take()
            self._own.add(slot)
        assert slot in self.memory.held
        assert slot not in self._slots
        sequence = FakeSequence(request, slot, time.monotonic_ns(), self.eos and not request.ignore_eos)
        self._slots[slot] = sequence
        return sequence

    def step(self, work: Sequence[tuple[FakeSequence, int]]) -> StepReport:
        started = time.monotonic_ns()
        assert work
        assert sum(n for _, n in work) <= self.limits.step_tokens
        assert len({id(s) for s, _ in work}) == len(work)
        self.steps.append([(s.slot, n) for s, n in work])
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.step_seconds:
            time.sleep(self.step_seconds)
        if self.broken is not None:
            error, self.broken = self.broken, None
            raise error
        events: list[TokenEvent] = []
        finished: list[FakeSequence] = []
        n_prefill = n_decode = 0
        for sequence, count in work:
            assert self._slots.get(sequence.slot) is sequence
            assert sequence.stop_reason is None
            decodes = sequence.phase is Phase.DECODE
            if not decodes:
                assert 1 <= count <= sequence.remaining_prefill
                sequence.done_prefill += count
                n_prefill += count
                if sequence.remaining_prefill:
                    continue
                sequence.phase = Phase.DECODE
            else:
                assert count == 1
                n_decode += 1
            for _ in range(self.tokens_a_decode if decodes else 1):
                event = self._sample(sequence)
                if event is not None:
                    events.append(event)
                if sequence.stop_reason is not None:
                    break
            if sequence.stop_reason is not None:
                finished.append(sequence)
        ended = time.monotonic_ns()
        return StepReport(
            tuple(events),
            tuple(finished),
            n_prefill,
            n_decode,
            started,
            ended,
            ended - started,
            rows=tuple(count for _, count in work),
        )

    def _sample(self, sequence: FakeSequence) -> TokenEvent | None:
        request = sequence.request
        if POISON in request.prompt_ids:
            sequence.end(
                StopReason.ERROR, EngineError("numeric_error", "a logit is NaN", path="attention, layer 1")
            )
            return None
        seed = request.sampling.seed if request.sampling.temperature > 0 else 0
        token = next_token([*request.prompt_ids, *sequence.token_ids], seed, sequence.eos)
        sequence.token_ids.append(token)
        sequence.token_ns.append(time.monotonic_ns())
        before = sequence.text
        sequence.held += bytes([token]).decode() if token < 256 else ""
        whole = before + sequence.held
        stop = next((s for s in request.stop if s in whole), None)
        if stop is not None:
            sequence.text, sequence.held = whole[: whole.index(stop)], ""
            sequence.end(StopReason.STOP_SEQUENCE)
        elif token == EOS:
            sequence.text, sequence.held = whole, ""
            sequence.end(StopReason.END_OF_SEQUENCE)
        elif len(sequence.token_ids) >= request.limits.max_tokens:
            sequence.text, sequence.held = whole, ""
            sequence.end(StopReason.MAX_TOKENS)
        elif (
            request.limits.max_seconds is not None
            and time.monotonic_ns() - sequence.admitted_ns > request.limits.max_seconds * 1e9
        ):
            sequence.text, sequence.held = whole, ""
            sequence.end(StopReason.MAX_SECONDS)
        else:
            keep = max(
                (n for s in request.stop for n in range(1, len(s)) if whole.endswith(s[:n])), default=0
            )
            keep = min(keep, len(sequence.held))
            cut = len(sequence.held) - keep
            sequence.text, sequence.held = before + sequence.held[:cut], sequence.held[cut:]
        return TokenEvent(
            sequence,
            len(sequence.token_ids) - 1,
            token,
            sequence.text[len(before) :],
            sequence.token_ns[-1],
            -0.5 if request.logprobs is not None else None,
            tuple((token + i, -0.5 - i) for i in range(request.logprobs or 0)),
        )

    def finish(self, sequence: FakeSequence, reason: StopReason, error: EngineError | None = None) -> str:
        if sequence.stop_reason is not None:
            return ""
        held, sequence.held = sequence.held, ""
        sequence.text += held
        sequence.end(reason, error)
        return held

    def release(self, sequence: FakeSequence) -> None:
        self.finish(sequence, StopReason.CANCELLED)
        if self._slots.get(sequence.slot) is sequence:
            del self._slots[sequence.slot]
            if sequence.slot in self._own:
                self._own.remove(sequence.slot)
                self.memory.give(sequence.slot)
        sequence.slot = -1

    def close(self) -> None:
        self.closed = True


def resolved_plan(name: str = "story", **changes: Any) -> ResolvedPlan:
    values: dict[str, Any] = {
        "version": 1,
        "name": name,
        "model": "models/tiny-story.gguf",
        "model_digest": "ab" * 32,
        "backend": "cpu_avx2",
        "quantization.recipe": "q4_k_m",
        "quantization.overrides": [],
        "quantization.requantize": False,
        "quantization.imatrix": None,
        "scheduler_policy": "default",
        "limits.max_tokens": 24,
        "limits.min_tokens": 0,
        "limits.max_seconds": None,
        "limits.max_watts": None,
        "limits.max_watts_advisory": False,
        "limits.max_joules": None,
        "limits.on_limit": "stop",
        "execution.threads": 1,
        "execution.context": 512,
        "execution.slots": 4,
        "execution.step_tokens": 32,
        "execution.kv_cache": "f16",
        "execution.kv_pages": None,
        "execution.prefix_cache": "memory",
        "execution.prefix_cache_mb": 64,
        "speculation.kind": "none",
        "speculation.tokens": 8,
        "sampling.temperature": 0.0,
        "sampling.top_k": 0,
        "sampling.top_p": 1.0,
        "sampling.min_p": 0.0,
        "sampling.typical_p": 1.0,
        "sampling.repetition_penalty": 1.0,
        "sampling.presence_penalty": 0.0,
        "sampling.frequency_penalty": 0.0,
        "sampling.dry_multiplier": 0.0,
        "sampling.dry_base": 1.75,
        "sampling.dry_allowed_length": 2,
        "sampling.dry_penalty_last_n": -1,
        "sampling.dry_sequence_breakers": ["\n", ":", '"', "*"],
        "sampling.xtc_probability": 0.0,
        "sampling.xtc_threshold": 0.1,
        "sampling.seed": 0,
        "observability.op_timing": False,
    } | {key.replace("__", "."): value for key, value in changes.items()}
    return ResolvedPlan.from_values(values, dict.fromkeys(values, "default"))


def served_bundle(name: str = "story", engine: FakeEngine | None = None, **changes: Any) -> ServedBundle:
    plan = resolved_plan(name, **changes)
    digest = hashlib.sha256(name.encode()).hexdigest()
    identity = {
        "bundle": {"name": name, "digest": digest, "builder": "00" * 32},
        "model": {"name": "Tiny Story", "digest": plan.model_digest, "architecture": "llama"},
        "compiler": {"name": "gcc", "version": "12", "flags": ["-O2"]},
    }
    info = BundleInfo(
        name=name,
        digest=digest,
        plan=plan,
        model_name="Tiny Story",
        model_digest=plan.model_digest,
        architecture="llama",
        backend=plan.backend,
        quantization=plan.quantization.recipe,
        identity=identity,
        weights_bytes=1_000_000,
        kv_bytes=100_000,
        arena_bytes=10_000,
        cost=CostModel(flops_per_token=2_000_000, weight_bytes=1_000_000, kv_bytes_per_token=512),
        parameters=1_000_000,
    )
    return ServedBundle(info, engine or FakeEngine(), FakeTokenizer(), FakeTemplate())
