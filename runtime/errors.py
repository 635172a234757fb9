"""The one error type that people and programs see.

Every failure the engine foresees is an :class:`EngineError`: a stable ``code``
that programs match on, a message that says what happened and where, what would
have been allowed, and a hint. The CLI prints it, the HTTP layer serialises it,
records store it. It lives apart from the rooms because all of them raise it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Process exit codes by the class of the error (documented in README.md).
EXIT_FAILURE = 1  # an error that fits none of the classes below
EXIT_USAGE = 2  # the command line itself
EXIT_PLAN = 3  # the Execution Plan
EXIT_MODEL = 4  # the GGUF file or what it describes
EXIT_BUNDLE = 5  # a bundle that is missing, damaged or not trusted
EXIT_BUILD = 6  # no compiler, or the compiler failed
EXIT_MACHINE = 7  # CPU features, memory, disk
EXIT_RUN = 8  # the execution itself (numeric error, limits that cannot hold)
EXIT_INTERRUPTED = 130


@dataclass
class EngineError(Exception):
    """A foreseen failure.

    ``code``     stable snake_case identifier (``plan_not_compiled``).
    ``message``  one sentence: what is wrong.
    ``path``     where: a path in the plan (``limits.max_watts``), a file, a byte offset.
    ``allowed``  what would be accepted, as text.
    ``hint``     what to do about it.
    ``causes``   further errors of the same kind, reported together.
    """

    code: str
    message: str
    path: str | None = None
    allowed: str | None = None
    hint: str | None = None
    exit_code: int = EXIT_FAILURE
    causes: tuple[EngineError, ...] = field(default=())

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.message}"

    def to_json(self) -> dict[str, object]:
        """The error as the API and ``--json`` show it; absent parts are left out."""
        body: dict[str, object] = {"code": self.code, "message": self.message}
        for key in ("path", "allowed", "hint"):
            if (value := getattr(self, key)) is not None:
                body[key] = value
        if self.causes:
            body["causes"] = [cause.to_json() for cause in self.causes]
        return body
