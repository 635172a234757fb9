"""Functions stay short and take few parameters; commands, whose options typer reads, are the exception."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINES, PARAMETERS, LONG = 50, 7, 9


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """(place, function, whether it is a command): a module of the command line with ``register`` has one."""
    for room in ("compiler", "runtime"):
        for path in sorted((ROOT / room).rglob("*.py")):
            tree = ast.parse(path.read_text())
            commands = path.parent.name == "cli"
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    annotated = any(
                        "Annotated" in ast.unparse(a.annotation) for a in node.args.args if a.annotation
                    )
                    yield f"{path.relative_to(ROOT)}:{node.name}", node, commands and annotated


def test_few_functions_are_longer_than_fifty_lines() -> None:
    long = [place for place, node, _ in functions() if (node.end_lineno or 0) - node.lineno + 1 > LINES]
    assert len(long) <= LONG, long


def test_only_commands_take_more_than_seven_parameters() -> None:
    many = []
    for place, node, command in functions():
        names = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
        if len([name for name in names if name not in ("self", "cls")]) > PARAMETERS and not command:
            many.append(place)
    assert many == []


def test_a_field_of_a_request_is_named_in_few_files() -> None:
    named = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "runtime").rglob("*.py")
        if "logit_bias" in path.read_text()
    ]
    assert len(named) <= 5, named
