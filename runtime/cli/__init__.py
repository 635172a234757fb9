"""The command ``engine``: one module a command (or group), registered here.

Data goes to stdout, everything else to stderr. A module of a command exposes
``register(app)``; it imports what its commands need inside them, so that starting
any one of them loads only what that one uses.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from runtime.cli.memory import check_address_space, out_of_memory
from runtime.cli.output import print_error
from runtime.errors import EXIT_INTERRUPTED, EXIT_USAGE, EngineError
from runtime.version import ENGINE_VERSION

#: The modules in the order in which ``engine --help`` lists them, and the commands of each.
COMMANDS = {
    "compile": ("compile",),
    "run": ("run",),
    "chat": ("chat",),
    "inspect": ("inspect",),
    "plan": ("plan",),
    "bench": ("bench",),
    "evaluate": ("eval",),
    "imatrix": ("imatrix",),
    "tokenize": ("tokenize", "detokenize"),
    "logits": ("logits",),
    "verify": ("verify",),
    "quantize": ("quantize",),
    "serve": ("serve",),
    "top": ("top",),
    "runs": ("runs",),
    "replay": ("replay",),
    "models": ("models",),
    "bundles": ("bundles",),
    "cache": ("cache",),
    "kernels": ("kernels",),
    "doctor": ("doctor",),
}

#: click's own error type, wherever this typer keeps its click.
_ClickException: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _version(wanted: bool) -> None:
    if wanted:
        print(ENGINE_VERSION)
        raise typer.Exit


def build_app(command: str | None = None) -> typer.Typer:
    """The application with the commands of every module that is there.

    If ``command`` is one of them, only its module is loaded: the others would cost start-up time.
    """
    wanted = [module for module, names in COMMANDS.items() if command in names] or list(COMMANDS)
    app = typer.Typer(
        name="engine",
        help="Runs language models on CPUs from declared decisions: plan in, readable kernels, tokens out.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def engine(
        version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print it."),
    ) -> None:
        pass

    for name in wanted:
        if importlib.util.find_spec(f"{__name__}.{name}") is not None:
            importlib.import_module(f"{__name__}.{name}").register(app)
    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits with one of the documented codes."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if "imatrix" not in arguments[:1]:
        # Nothing else multiplies matrices in NumPy: its threads would only cost memory.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        check_address_space()
        code = build_app(arguments[0] if arguments else None)(
            arguments, prog_name="engine", standalone_mode=False
        )
        sys.stdout.flush()
    except EngineError as error:
        print_error(error, as_json="--json" in arguments)
        code = error.exit_code
    except _ClickException as fault:
        from runtime.cli.usage import usage_error

        if (told := usage_error(fault, arguments)) is None:
            fault.show()  # the help
        else:
            print_error(told, as_json="--json" in arguments)
        code = EXIT_USAGE
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except (MemoryError, RuntimeError, ImportError) as cause:
        if (told := out_of_memory(cause)) is None:
            raise
        print_error(told, as_json="--json" in arguments)
        code = told.exit_code
    except BrokenPipeError:
        # The reader of our output has left; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)
