"""Every hint that is a command runs: they are collected from the source, filled in, and run."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from runtime.cli import build_app
from tests.command import Engine
from tests.fakes.bundle import make_bundle, resolved_plan
from tests.tiny_models import write_llama

ROOT = Path(__file__).resolve().parents[2]
#: A whole hint that is a command, or a command in backquotes within one.
_COMMAND = re.compile(r"`(engine [^`]+)`|^(engine (?!chat PLAN)[a-z][^`]*)$")


def literal(node: ast.AST) -> str | None:
    """A string of the source; expressions in an f-string as ``{source}``."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = (p.value if isinstance(p, ast.Constant) else f"{{{ast.unparse(p.value)}}}" for p in node.values)  # type: ignore[attr-defined]
    return "".join(map(str, parts))


def strings(tree: ast.AST) -> Iterator[str]:
    """The strings of a module that are told to users: neither documentation nor the text of --help."""
    for node in ast.iter_child_nodes(tree):
        documentation = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        written = isinstance(node, ast.Assign) and "docs/" in ast.unparse(node)  # a page of docs
        if written or documentation or (isinstance(node, ast.keyword) and node.arg == "help"):
            continue
        if (text := literal(node)) is not None:
            yield text
        else:
            yield from strings(node)


def collected() -> list[str]:
    found = set()
    for path in sorted([*ROOT.glob("runtime/**/*.py"), *ROOT.glob("compiler/**/*.py")]):
        for text in strings(ast.parse(path.read_text("utf-8"))):
            for quoted, whole in _COMMAND.findall(text):
                found.update((quoted or whole).split(" && "))
    return sorted(found)


HINTS = collected()
#: These need a network, minutes, or a terminal: their words are parsed, not run.
PARSED = ("models pull", "verify", "replay", "chat")


def test_hints_are_found() -> None:
    assert len(HINTS) > 15
    assert "engine bundles list" in HINTS


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("hints")
    model = write_llama(folder / "tiny.gguf", layers=1)
    plan = folder / "plan.yaml"
    execution = {"context": 64}
    document = {"version": 1, "model": str(model), "backend": "reference", "quantization": "f16"}
    plan.write_text(yaml.safe_dump({**document, "execution": execution}))
    bundle = make_bundle(folder / "b", plan=resolved_plan(limits__max_tokens=4))
    made = f"--model {model} --quant f16 --backend reference"
    return {
        "{name} --port": f"{plan} --port",
        "{self.plan.name}.yaml": str(plan),
        "{name}": "tiny",
        "{plan.model}": "tiny",
        "{target}": str(bundle),
        "{part}": "graph",
        "{plan}": str(plan),
        '"1 15043"': '"1 150"',
        "{words}": made,
        "{' '.join(words)}": made,
        "{model.path}": str(model),
        "{model} --prompt TEXT --save-plan plan.yaml": f"{model} --prompt a --save-plan {folder}/saved.yaml",
        "{save_plan}": str(plan),
        "{execution}": "1234",
        "{record['execution_id']}": "1234",
        "{reference_tokens}": "4",
        "PLAN": str(plan),
        "plan.yaml": str(plan),
        "FILE": str(model),
        "MODEL": str(model),
        "TEXT": "a",
        "hf:OWNER/REPO": "hf:owner/repo",
    }


@pytest.mark.parametrize("hint", HINTS)
def test_a_hint_that_is_a_command_runs(
    engine: Engine, things: dict[str, str], hint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("runtime.api.server.Server.run", lambda self: self._load())
    if "models remove" in hint or "--replace" in hint:
        assert engine("models", "add", things["FILE"], "--name", "tiny").code == 0
    holes = "|".join(map(re.escape, things))
    hint = re.sub(rf"(?<!\w)(?:{holes})(?!\w)", lambda hole: things[hole[0]], hint)
    assert "{" not in hint, "tell `things` what stands here"
    words = shlex.split(hint, comments=True)[1:]
    if " ".join(words).startswith(PARSED) or words[-1] == "roofline":
        parse(words)
        return
    if words[0] == "serve":
        words += ["--records", str(tmp_path / "records.sqlite")]
    done = engine(*words)
    assert done.code == 0, done.err


def test_the_command_for_a_plan_that_is_not_compiled_runs(
    engine: Engine, things: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from runtime.shelf.proposals import Proposals

    served = Proposals(None, {"a model": Path(things["FILE"])}, None)  # type: ignore[arg-type]
    assert served.command_for("storyteller-q4", None, "q4_k_m") == "engine serve storyteller-q4 --port 0"
    assert served.command_for("unheard of", None, None) is None
    command = served.command_for("a model", "reference", "f16")
    monkeypatch.setattr("runtime.api.server.Server.run", lambda self: self._load())
    tmp_path.chmod(0o700)
    done = engine(*shlex.split(command or "")[1:], "--records", str(tmp_path / "records.sqlite"))
    assert done.code == 0, done.err


def parse(words: list[str]) -> None:
    """Checks the words of a command as the command line does."""
    command = typer.main.get_command(build_app())
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("engine", list(words))
