"""Memory that runs out, told as an error of the machine wherever it happens.

The engine asks for what a plan needs before it takes it (``out_of_memory`` with the figure). What is left
is a limit of the address space (``ulimit -v``) too small for Python, NumPy and the threads themselves.
"""

from __future__ import annotations

import resource

from runtime.errors import EXIT_MACHINE, EngineError

#: Address space that the interpreter, NumPy and the engine's threads take before any model, bytes.
LEAST_ADDRESS_SPACE = 384 << 20

#: How the refusals of C libraries read, by the exception that carries them.
_REFUSALS = {
    ImportError: ("failed to map segment", "cannot allocate memory"),
    RuntimeError: ("can't start new thread",),
}


def check_address_space() -> None:
    """Raises ``out_of_memory`` where the process's limit is below what libraries crash at."""
    limit = _limit()
    if limit is not None and limit < LEAST_ADDRESS_SPACE:
        raise _error(f"the address space is limited to {limit >> 20} MiB")


def out_of_memory(cause: BaseException) -> EngineError | None:
    """``out_of_memory`` if that is what ``cause`` comes from, else None."""
    link: BaseException | None = cause
    while link is not None:
        phrases = next((said for kind, said in _REFUSALS.items() if isinstance(link, kind)), ())
        if isinstance(link, MemoryError) or any(phrase in str(link).lower() for phrase in phrases):
            return _error(f"memory ran out{f': {link}' if str(link) else ''}")
        link = link.__cause__ or link.__context__
    return None


def _limit() -> int | None:
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _error(what: str) -> EngineError:
    limited = _limit() is not None
    return EngineError(
        "out_of_memory",
        what,
        allowed=f"at least {LEAST_ADDRESS_SPACE >> 20} MiB and what the plan needs" if limited else None,
        hint="raise the limit (`ulimit -v unlimited`)"
        if limited
        else "end other programs, or take a smaller context, fewer slots or a smaller quantization",
        exit_code=EXIT_MACHINE,
    )
