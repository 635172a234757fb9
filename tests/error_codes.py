"""Every error code in the source: what is passed as the ``code`` of an :class:`EngineError`.

Found in the syntax trees: literals given to ``EngineError`` itself, and to functions that
hand one of their parameters on as the code.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent


def error_codes(*rooms: str) -> dict[str, set[str]]:
    """Code → the files (relative) in which it is raised, for all of ``compiler`` and ``runtime``."""
    trees = {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
        for room in rooms or ("compiler", "runtime")
        for path in sorted((ROOT / room).rglob("*.py"))
    }
    makers = {file: {"EngineError": 0} for file in trees}
    while any([_grow(file, trees, makers) for file in trees]):
        pass
    codes: dict[str, set[str]] = defaultdict(set)
    for file, tree in trees.items():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and (given := _code_of(call, makers[file])) is not None:
                for literal in _literals(given):
                    codes[literal].add(file)
        for assignment in ast.walk(tree):
            if isinstance(assignment, ast.Assign):
                for literal in _assigned(assignment):
                    codes[literal].add(file)
    return dict(codes)


def _assigned(assignment: ast.Assign) -> list[str]:
    """What is assigned to a name or an attribute ``code``, alone or among others."""
    (target, *_), value = assignment.targets, assignment.value
    pairs = [(target, value)]
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = list(zip(target.elts, value.elts, strict=False))
    named = [given for name, given in pairs if getattr(name, "id", getattr(name, "attr", None)) == "code"]
    return [literal for given in named for literal in _literals(given)]


def _grow(file: str, trees: dict[str, ast.Module], makers: dict[str, dict[str, int]]) -> bool:
    """Adds to ``file``'s makers the functions defined in it or imported into it; whether any was new."""
    found: dict[str, int] = {}
    for node in ast.walk(trees[file]):
        if isinstance(node, ast.FunctionDef):
            found |= dict(_hands_on(node, makers[file]))
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            base = node.module.replace(".", "/")
            for source in (f"{base}.py", f"{base}/__init__.py"):
                for alias in node.names:
                    if alias.name in makers.get(source, {}):
                        found[alias.asname or alias.name] = makers[source][alias.name]
    new = found.items() - makers[file].items()
    makers[file] |= found
    return bool(new)


def _hands_on(function: ast.FunctionDef, makers: dict[str, int]) -> list[tuple[str, int]]:
    """(name, place) where a parameter of ``function`` becomes the code of an error."""
    parameters = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
    bound = parameters[:1] in (["self"], ["cls"])
    found = []
    for call in ast.walk(function):
        given = _code_of(call, makers) if isinstance(call, ast.Call) else None
        if isinstance(given, ast.Name) and given.id in parameters:
            found.append((function.name, parameters.index(given.id) - bound))
    return found


def _code_of(call: ast.Call, makers: dict[str, int]) -> ast.expr | None:
    name = getattr(call.func, "id", getattr(call.func, "attr", None))
    if name not in makers:
        return None
    if named := [keyword.value for keyword in call.keywords if keyword.arg == "code"]:
        return named[0]
    place = makers[name]
    return call.args[place] if place < len(call.args) else None


def _literals(given: ast.expr) -> list[str]:
    if isinstance(given, ast.IfExp):
        return _literals(given.body) + _literals(given.orelse)
    return [given.value] if isinstance(given, ast.Constant) and isinstance(given.value, str) else []
