"""A bundle made runnable: its shared object loaded, its weights mapped, its buffers allocated.

Everything a step needs is allocated once in :meth:`Executable.open`; a step copies
a few integers into place and makes one call into the compiled code, during which
the GIL is released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import cffi
import numpy as np
import numpy.typing as npt

from runtime.bundle.format import SHARED_OBJECT
from runtime.bundle.machine import Machine
from runtime.bundle.reader import Bundle
from runtime.bundle.sharedobject import load_shared_object
from runtime.engine.pages import PageGroup, PageTables, whole_slots
from runtime.engine.tokensets import TokenSet
from runtime.engine.types import EngineLimits, Sampling
from runtime.engine.weights import Residence, Weights, hold_weights
from runtime.errors import EXIT_BUNDLE, EXIT_MACHINE, EXIT_RUN, EngineError

ABI_VERSION = 5
_HEADER = Path(__file__).resolve().parents[2] / "kernels_c" / "include" / "engine_abi.h"

_OK, _E_ARGUMENT, _E_MEMORY, _E_THREADS, _E_NUMERIC, _E_MACHINE = range(6)

Floats = npt.NDArray[np.float32]


#: What to do about logits that are not finite.
NUMERIC_HINT = "the model or its quantization is at fault; try another quantization, or q8_0/f32"


@dataclass
class NumericError(EngineError):
    """``numeric_error``: logits of a step are NaN or infinite.

    ``token_index``: the token of the step at which it arose, -1 unknown; ``op`` the
    kind of op, ``layer`` -1 outside the layers; ``logits`` all rows of the step (those
    of other sequences are good).
    """

    token_index: int = -1
    op: str | None = None
    layer: int = -1
    logits: Floats | None = None


@dataclass(frozen=True)
class Choice:
    """A sampled token and the log of its probability under the raw logits."""

    token: int
    logprob: float


@lru_cache(maxsize=1)
def abi() -> Any:
    """cffi with the declarations of ``engine_abi.h``: the text between its markers.

    (``Any``: the types of C objects are not Python's to check.)
    """
    text = _HEADER.read_text("utf-8")
    ffi = cffi.FFI()
    ffi.cdef(text.split("/* cdef-begin */")[1].split("/* cdef-end */")[0])
    return ffi


class Executable:
    """One loaded bundle. Driven by one thread at a time; :meth:`close` when done."""

    def __init__(
        self, bundle: Bundle, lib: Any, limits: EngineLimits, weights: Weights, threads: int
    ) -> None:
        self.bundle = bundle
        self.limits = limits
        self.threads = threads
        self._lib = lib
        self._weights: Weights | None = weights
        ffi = abi()
        self._weights_pointer = ffi.from_buffer(weights.memory)
        weights.guard(lib, self._weights_pointer)
        handle = ffi.new("engine **")
        status = lib.engine_open(self._weights_pointer, limits.weights_bytes, threads, handle)
        if status != _OK:
            ffi.release(self._weights_pointer)
            weights.check()
            raise _open_error(status, limits, threads, bundle.manifest.backend)
        self._engine: Any = handle[0]
        self.page_groups = _page_groups(lib, limits)
        self.use_tables(whole_slots(self.page_groups, limits.slots, limits.page_blocks))
        n = limits.step_tokens
        self._slot, self._position, self._token = (np.zeros(n, np.int32) for _ in range(3))
        self._want = np.zeros(n, np.uint8)
        self._inputs = (
            ffi.cast("int32_t *", self._slot.ctypes.data),
            ffi.cast("int32_t *", self._position.ctypes.data),
            ffi.cast("int32_t *", self._token.ctypes.data),
            ffi.cast("uint8_t *", self._want.ctypes.data),
        )
        self._reserve_logits(min(limits.slots, limits.step_tokens))
        self._scratch = np.zeros(4 * limits.n_vocab, np.float32)
        self._scratch_pointer = ffi.cast("float *", self._scratch.ctypes.data)
        self._choice = ffi.new("engine_choice *")
        self._no_ids = ffi.cast("int32_t *", 0)
        self._no_floats = ffi.cast("float *", 0)
        self._no_bits = ffi.cast("uint32_t *", 0)
        self._params: dict[Sampling, Any] = {}
        self._forward = lib.engine_forward
        self._sample = lib.engine_sample

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        threads: int | None = None,
        *,
        residence: Residence = "pages",
        machine: Machine | None = None,
    ) -> Executable:
        """Loads a checked bundle; ``threads`` defaults to the plan's.

        Raises ``unsupported_cpu`` (before anything is loaded), ``out_of_memory``
        (before anything is allocated), ``bundle_damaged``, ``engine_open_failed``.
        """
        machine = machine or Machine.probe()
        machine.require_features(bundle.manifest.backend, bundle.manifest.cpu_features)
        lib, limits = _load(bundle)
        _check_memory(limits, machine)
        room = machine.memory_available - limits.arena_bytes - limits.kv_bytes
        weights = hold_weights(bundle, limits.weights_bytes, residence, room)
        try:
            return cls(bundle, lib, limits, weights, threads or bundle.plan.execution.threads)
        except BaseException:
            weights.close()
            raise

    # ---- pages ----------------------------------------------------------------

    def use_tables(self, tables: PageTables) -> None:
        """Has steps find each slot's positions by ``tables``, which their owner changes between steps.

        int32 ``[slots][page_groups][page_blocks]``. Until this is called, every slot has pages of
        its own, as many slots as there are pages for.
        """
        shape = (self.limits.slots, self.limits.page_groups, self.limits.page_blocks)
        if tables.shape != shape or tables.dtype != np.int32 or not tables.flags.c_contiguous:
            raise ValueError(f"tables of shape {tables.shape}, not int32 {shape}")
        self._tables = tables
        self._tables_pointer = abi().cast("int32_t *", tables.ctypes.data)

    def page(self, group: int, page: int) -> npt.NDArray[np.uint8]:
        """The bytes of a page, to be read or written between steps; ValueError where there is none."""
        pointer = self._lib.engine_page(self._engine, group, page)
        if not pointer:
            raise ValueError(f"page {page} of group {group}")
        return np.frombuffer(abi().buffer(pointer, self.page_groups[group].page_bytes), np.uint8)

    def resume(self, slot: int, length: int) -> None:
        """Says that the pages of ``slot`` hold its first ``length`` positions already."""
        if self._lib.engine_resume(self._engine, slot, length) != _OK:
            raise ValueError(f"slot {slot} with {length} positions")

    # ---- a step ---------------------------------------------------------------

    def forward(
        self,
        slots: Sequence[int] | npt.NDArray[np.int32],
        positions: Sequence[int] | npt.NDArray[np.int32],
        tokens: Sequence[int] | npt.NDArray[np.int32],
        want: Sequence[bool] | npt.NDArray[np.uint8],
    ) -> Floats:
        """Runs one step; see ``engine_forward`` in ``engine_abi.h`` for what may be in it.

        The four have one length, 1 … ``limits.step_tokens``. Returns float32
        ``[count of want][n_vocab]``, rows in the order of the tokens: a view that the next
        step overwrites. Raises ``weights_changed``, ``weights_lost``, ``engine_argument``, or
        :class:`NumericError`.
        """
        n = len(tokens)
        if not 1 <= n <= self.limits.step_tokens:
            raise _argument_error(f"a step of {n} tokens", f"1 to {self.limits.step_tokens} tokens")
        self._slot[:n] = slots
        self._position[:n] = positions
        self._token[:n] = tokens
        self._want[:n] = want
        rows = int(np.count_nonzero(self._want[:n]))
        if rows > len(self._logits):
            self._reserve_logits(rows)
        if self._engine is None or self._weights is None:
            raise _argument_error("a step on a closed executable", "an open one")
        self._weights.check()
        status = self._forward(self._engine, n, *self._inputs, self._tables_pointer, self._logits_pointer)
        self._weights.check()  # what a step has computed from other weights is worth nothing
        logits = self._logits[:rows]
        if status == _OK:
            return logits
        if status == _E_NUMERIC:
            raise self._numeric_error(logits)
        if status == _E_ARGUMENT:
            raise _argument_error(
                "a slot, position or token of the step",
                f"slots below {self.limits.slots}, positions "
                f"below {self.limits.context} without gaps and in pages that the slot holds, "
                f"tokens below {self.limits.n_vocab}",
            )
        raise EngineError("engine_failed", f"the compiled step failed with code {status}", exit_code=EXIT_RUN)

    def sample(
        self,
        logits: Floats,
        sampling: Sampling,
        position: int,
        history: npt.NDArray[np.int32] | None = None,
        bias: tuple[npt.NDArray[np.int32], Floats] | None = None,
        allowed: TokenSet | None = None,
        breakers: TokenSet | None = None,
    ) -> Choice:
        """Chooses a token from one row of logits ``[n_vocab]``, contiguous.

        ``position``: of the token being chosen (the draw depends on it and on the
        seed only). ``history``: int32 ids that penalties look at. ``bias``: ids and what
        is added to their logits. ``allowed``: the tokens that may be chosen; ``breakers``:
        those that end a repetition for DRY.
        """
        ffi = abi()
        params = self._params.get(sampling)
        if params is None:
            if len(self._params) > 256:
                self._params.clear()
            params = ffi.new("engine_sampling *", {name: getattr(sampling, name) for name in _SAMPLING})
            self._params[sampling] = params
        n_history, n_bias = 0 if history is None else len(history), 0 if bias is None else len(bias[0])
        status = self._sample(
            ffi.cast("float *", logits.ctypes.data),
            self.limits.n_vocab,
            params,
            ffi.cast("int32_t *", history.ctypes.data) if history is not None else self._no_ids,
            n_history,
            ffi.cast("int32_t *", bias[0].ctypes.data) if bias is not None else self._no_ids,
            ffi.cast("float *", bias[1].ctypes.data) if bias is not None else self._no_floats,
            n_bias,
            ffi.cast("uint32_t *", allowed.ctypes.data) if allowed is not None else self._no_bits,
            ffi.cast("uint32_t *", breakers.ctypes.data) if breakers is not None else self._no_bits,
            position,
            self._scratch_pointer,
            self._choice,
        )
        if status != _OK:
            raise _argument_error(f"sampling parameters {sampling}", "see the plan's schema")
        return Choice(self._choice.token, self._choice.logprob)

    def top_logprobs(self, logits: Floats, n: int) -> tuple[tuple[int, float], ...]:
        """The ``n`` most likely tokens of a row and their log-probabilities, descending."""
        ffi = abi()
        n = min(n, self.limits.n_vocab)
        tokens, logprobs = ffi.new("int32_t[]", max(n, 1)), ffi.new("float[]", max(n, 1))
        row = ffi.cast("float *", logits.ctypes.data)
        if self._lib.engine_top_logprobs(row, self.limits.n_vocab, n, tokens, logprobs) != _OK:
            raise _argument_error(f"{n} most likely tokens", f"0 to {self.limits.n_vocab}")
        return tuple((tokens[i], logprobs[i]) for i in range(n))

    # ---- what it knows of itself ----------------------------------------------

    @property
    def op_names(self) -> tuple[str, ...]:
        """The ops that are told apart, in the order of the C ABI: ``linear attn_output``, ``rms_norm``."""
        ffi = abi()
        return tuple(
            ffi.string(self._lib.engine_op_name(i)).decode("ascii", "replace")
            for i in range(self.limits.n_ops)
        )

    def op_times(self) -> dict[str, int]:
        """Nanoseconds in each kind of op since opening, waiting for other threads as ``barrier``; all
        zero unless the plan has op_timing."""
        kinds: dict[str, int] = {}
        for name, ns in self.detailed_op_times().items():
            kind = name.split(" ")[0]
            kinds[kind] = kinds.get(kind, 0) + ns
        return kinds

    def detailed_op_times(self) -> dict[str, int]:
        """The same by every op of :attr:`op_names`; waiting after ``x`` as ``barrier x``."""
        times = abi().new("uint64_t[]", max(self.limits.n_ops, 1))
        self._lib.engine_op_times(self._engine, times)
        return {name: int(times[i]) for i, name in enumerate(self.op_names)}

    @property
    def forward_ns(self) -> int:
        """Nanoseconds inside the compiled forward since opening."""
        return int(self._lib.engine_forward_ns(self._engine))

    @property
    def wait_ns(self) -> int:
        """Of these, nanoseconds in which the calling thread waited for the others."""
        return int(self._lib.engine_wait_ns(self._engine))

    def close(self) -> None:
        """Stops the threads and lets go of weights and memory. Harmless when repeated."""
        if self._engine is not None:
            self._lib.engine_close(self._engine)
            self._engine = None
        if self._weights is not None:
            abi().release(self._weights_pointer)
            self._weights.close()
            self._weights = None

    def __del__(self) -> None:
        # Threads that outlived the last reference would be running code that is about to be unloaded.
        if getattr(self, "_engine", None) is not None:
            self._lib.engine_close(self._engine)
            self._engine = None

    def __enter__(self) -> Executable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reserve_logits(self, rows: int) -> None:
        self._logits: Floats = np.empty((rows, self.limits.n_vocab), np.float32)
        self._logits_pointer = abi().cast("float *", self._logits.ctypes.data)

    def _numeric_error(self, logits: Floats) -> NumericError:
        fault = abi().new("engine_fault *", {"op": -1, "layer": -1, "token_index": -1})
        self._lib.engine_locate_fault(self._engine, fault)
        op = self.op_names[fault.op].split(" ")[0] if 0 <= fault.op < self.limits.n_ops else None
        place = f" in op {op}" if op else ""
        place += f" of layer {fault.layer}" if fault.layer >= 0 else ""
        return NumericError(
            "numeric_error",
            f"a value became NaN or infinite{place}",
            hint=NUMERIC_HINT,
            exit_code=EXIT_RUN,
            token_index=int(fault.token_index),
            op=op,
            layer=int(fault.layer),
            logits=logits,
        )


#: Named as in the C struct; texts are turned into sets of tokens before they get there.
_SAMPLING = tuple(name for name in Sampling.__dataclass_fields__ if name != "dry_sequence_breakers")


def _load(bundle: Bundle) -> tuple[Any, EngineLimits]:
    """The shared object, opened, and what it was compiled for; ``bundle_damaged``, ``bundle_format``."""
    ffi = abi()
    where = str(bundle.shared_object)
    try:
        lib = load_shared_object(ffi, bundle.read(SHARED_OBJECT), f"{bundle.path.name}/{SHARED_OBJECT}")
        raw = ffi.new("engine_limits *")
        lib.engine_describe(raw)
    except (OSError, AttributeError) as cause:
        raise EngineError(
            "bundle_damaged",
            f"the shared object cannot be loaded: {cause}",
            path=where,
            hint="compile the plan again on this machine",
            exit_code=EXIT_BUNDLE,
        ) from cause
    if raw.abi_version != ABI_VERSION:
        raise EngineError(
            "bundle_format",
            f"the shared object has ABI version {raw.abi_version}",
            path=where,
            allowed=f"ABI version {ABI_VERSION}",
            hint="compile the plan again with this engine",
            exit_code=EXIT_BUNDLE,
        )
    limits = EngineLimits(
        **{
            name: int(getattr(raw, name))
            for name in EngineLimits.__dataclass_fields__  # named as in the C struct
        }
    )
    return lib, limits


def _page_groups(lib: Any, limits: EngineLimits) -> tuple[PageGroup, ...]:
    """The groups of layers that have pages of their own."""
    raw, groups = abi().new("engine_page_group *"), []
    for i in range(limits.page_groups):
        lib.engine_describe_pages(i, raw)
        groups.append(PageGroup(int(raw.window), int(raw.held), int(raw.pages), int(raw.page_bytes)))
    return tuple(groups)


def _check_memory(limits: EngineLimits, machine: Machine) -> None:
    """Refuses, with the figures, what cannot fit. The page cache counts as available."""
    need = limits.weights_bytes + limits.arena_bytes + limits.kv_bytes
    if machine.memory_available and need > machine.memory_available:
        mib = 1 << 20
        raise EngineError(
            "out_of_memory",
            f"the plan needs {need / mib:.0f} MiB (weights {limits.weights_bytes / mib:.0f}, KV cache "
            f"{limits.kv_bytes / mib:.0f}, arena {limits.arena_bytes / mib:.0f}) and "
            f"{machine.memory_available / mib:.0f} MiB are available",
            path="execution",
            hint="lower execution.context, execution.slots or execution.kv_cache, or quantize further",
            exit_code=EXIT_MACHINE,
        )


def _argument_error(what: str, allowed: str) -> EngineError:
    return EngineError("engine_argument", f"{what} is out of range", allowed=allowed, exit_code=EXIT_RUN)


def _open_error(status: int, limits: EngineLimits, threads: int, backend: str) -> EngineError:
    if status == _E_MACHINE:
        return EngineError(
            "unsupported_cpu",
            f"the self-test of backend {backend!r} failed: its kernels do not work on this machine",
            path="backend",
            hint="`engine doctor` says why, and which backends are usable",
            exit_code=EXIT_MACHINE,
        )
    if status == _E_MEMORY:
        need = (limits.arena_bytes + limits.kv_bytes) / (1 << 20)
        return EngineError(
            "out_of_memory",
            f"{need:.0f} MiB for the KV cache and the arena could not be mapped",
            path="execution",
            hint="lower execution.context or execution.slots",
            exit_code=EXIT_MACHINE,
        )
    if status == _E_THREADS:
        return EngineError(
            "threads_unavailable",
            f"{threads} threads could not be started",
            path="execution.threads",
            hint="lower execution.threads (`engine doctor` shows what this machine grants)",
            exit_code=EXIT_MACHINE,
        )
    return EngineError(
        "engine_open_failed",
        f"the compiled code refused its weights or its {threads} threads (code {status})",
        hint="compile the plan again",
        exit_code=EXIT_BUNDLE,
    )
