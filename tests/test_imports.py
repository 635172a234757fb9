"""Who may import whom, and what may not be imported at all: read from the sources, not from running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for room in ("compiler", "runtime") for path in (ROOT / room).rglob("*.py"))

#: Rooms of the runtime, each with those it may import beside itself, ``errors`` and ``version``.
ROOMS = {
    "bundle": set(),
    "metrics": set(),
    "engine": {"bundle", "metrics"},
    "scheduler": {"bundle", "metrics", "engine"},
    "control": {"bundle", "metrics", "engine", "scheduler"},
    "laboratory": {"bundle", "metrics", "engine", "control"},
    "shelf": {"bundle", "engine", "scheduler", "control"},
    "api": {"bundle", "metrics", "engine", "scheduler", "control", "shelf"},
    "cli": {"bundle", "metrics", "engine", "scheduler", "control", "laboratory", "shelf", "api"},
}
#: Rooms of the compiler, each with those it may import beside itself.
COMPILER_ROOMS: dict[str, set[str]] = {
    "build": set(),
    "formats": set(),
    "model": set(),
    "graph": set(),
    "vocabulary": {"model"},
    "kernels": {"formats", "graph"},
    "backends": {"kernels"},
    "passes": {"formats", "graph"},
    "decoder": {"model", "graph"},
    "quantize": {"build", "formats", "model", "graph", "passes"},
    "plan": {"formats", "model", "backends", "quantize"},
    "emit": {"build", "formats", "graph", "passes", "kernels", "backends"},
    "workbench": {"build", "formats", "kernels", "backends"},
    "workflows": {"formats", "model", "graph", "decoder", "quantize", "plan"},
}
#: The spine, which calls every room: the way down, the bundle, and the door.
SPINE = {"__init__", "lower", "bundling"}
#: What the compiler may import of the runtime: the bundle's format, errors, the version.
LEAVES = ("runtime.errors", "runtime.version", "runtime.bundle")
#: What a process that reads hostile input has no business with.
FORBIDDEN_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec"}
#: Where the one function that calls the compiler may be imported, inside functions only.
COMPILER_CALLERS = {"cli", "api", "shelf"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether at its top level (where importing it imports that)."""
    tree = ast.parse(path.read_text("utf-8"))
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    typing_only = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test).endswith("TYPE_CHECKING")
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((name, node not in inner and node not in typing_only) for name in names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_there_is_something_to_read() -> None:
    assert len(SOURCES) > 50


def test_imports_follow_the_rooms() -> None:
    wrong = []
    for path in SOURCES:
        wrong += [f"{path.relative_to(ROOT)}: {why}" for why in broken_rules(path)]
    assert wrong == []


def broken_rules(path: Path) -> Iterator[str]:
    room, *rest = path.relative_to(ROOT).with_suffix("").parts
    for name, at_top in imports(path):
        if room == "compiler":
            if within(name, "runtime") and not within(name, *LEAVES):
                yield f"the compiler may not import {name}"
            other = name.split(".")[1] if within(name, "compiler") and "." in name else ""
            may = COMPILER_ROOMS if rest[0] in SPINE else {rest[0], *COMPILER_ROOMS[rest[0]]}
            if other in COMPILER_ROOMS and other not in may:
                yield f"{rest[0]} may not import {other}"
            continue
        if within(name, "gguf", "torch"):
            yield f"the runtime may not import {name}"
        if within(name, "compiler") and (rest[0] not in COMPILER_CALLERS or at_top):
            yield f"{name} may be imported by those who compile only, inside the function that does"
        other = name.split(".")[1] if within(name, "runtime") and "." in name else ""
        if other in ROOMS and rest[0] in ROOMS and other not in {rest[0], *ROOMS[rest[0]]}:
            yield f"{rest[0]} may not import {other}"


def test_every_room_of_the_compiler_has_its_rule_and_no_file_lies_loose() -> None:
    folder = ROOT / "compiler"
    assert {path.parent.name for path in folder.glob("*/__init__.py")} == set(COMPILER_ROOMS)
    assert {path.stem for path in folder.glob("*.py")} == SPINE


def test_no_rooms_of_the_compiler_import_each_other_in_a_circle() -> None:
    done: set[str] = set()
    while ready := {room for room, others in COMPILER_ROOMS.items() if room not in done and others <= done}:
        done |= ready
    assert done == set(COMPILER_ROOMS)


def test_nothing_turns_data_into_code() -> None:
    wrong = []
    for path in SOURCES:
        wrong += [f"{path.relative_to(ROOT)}: {why}" for why in dangers(path)]
    assert wrong == []


def dangers(path: Path) -> Iterator[str]:
    yield from (name for name, _ in imports(path) if name.split(".")[0] in FORBIDDEN_MODULES)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        text = ast.unparse(node)
        if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            yield f"line {node.lineno}: {text}"
        if text.startswith("yaml.load(") and "Loader" not in text:
            yield f"line {node.lineno}: {text}"
        if "allow_pickle=True" in text or "shell=True" in text:
            yield f"line {node.lineno}: {text}"


def test_every_room_of_the_runtime_has_its_rule() -> None:
    rooms = {path.name for path in (ROOT / "runtime").iterdir() if (path / "__init__.py").is_file()}
    assert rooms == set(ROOMS)


def test_files_of_models_and_plans_hold_no_code() -> None:
    data = [path for folder in ("plans", "kernels_c") for path in (ROOT / folder).rglob("*.py")]
    scripts = {"agents", "storyteller"}  # clients of the HTTP API, and the model's own training script
    assert [path for path in data if not scripts & set(path.parts)] == []
