"""``engine tokenize`` and ``engine detokenize``, from the command line to stdout."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from vocabularies import real, vocabulary_file

from runtime.cli import main
from runtime.errors import EXIT_MODEL, EXIT_PLAN, EXIT_USAGE


class Run:
    """Runs a command in this process; ``code``, ``out`` and ``err`` are the last one's."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(list(arguments))
        self.code = exit_.value.code
        self.out, self.err = self.capsys.readouterr()
        return self.out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def gpt2(shared_data: Path) -> str:
    return str(vocabulary_file(shared_data, "gpt-2"))


def test_a_text_and_its_ids(run: Run, gpt2: str) -> None:
    assert run("tokenize", gpt2, "--text", "Hello world") == "15496 995\n"
    assert run("detokenize", gpt2, "--ids", "15496,995") == "Hello world"
    assert run("detokenize", gpt2, "--ids", "[15496, 995]") == "Hello world"


def test_json_has_ids_and_pieces(run: Run, gpt2: str) -> None:
    assert json.loads(run("tokenize", gpt2, "--text", "Hello é", "--json")) == {
        "ids": [15496, 38251],
        "pieces": ["Hello", " é"],
    }
    assert json.loads(run("detokenize", gpt2, "--ids", "15496", "--json")) == {"text": "Hello"}


def test_special_tokens_are_asked_for(run: Run, shared_data: Path) -> None:
    llama = str(vocabulary_file(shared_data, "llama-spm"))
    assert run("tokenize", llama, "--text", "Hello</s>").split()[:2] == ["1", "15043"]
    assert run("tokenize", llama, "--text", "Hello</s>", "--parse-special") == "1 15043 2\n"
    assert run("tokenize", llama, "--text", "Hello", "--no-special") == "15043\n"
    assert run("detokenize", llama, "--ids", "1 15043 2") == "<s>Hello</s>"
    assert run("detokenize", llama, "--ids", "1 15043 2", "--skip-special") == "Hello"


def test_files_and_standard_input(
    run: Run, gpt2: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Zeilen\r\nund  Zeichen: ⟨é🦙⟩\n"
    file = tmp_path / "text"
    file.write_bytes(text.encode())
    ids = run("tokenize", gpt2, "--file", str(file))
    assert [int(i) for i in ids.split()] == real(shared_data, "gpt-2").encode(text)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ids.encode())))
    assert run("detokenize", gpt2, "--file", "-") == text


def test_a_plan_names_its_model(run: Run, gpt2: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"version: 1\nname: p\nmodel: {gpt2}\nbackend: reference\nquantization: f16\n")
    assert run("tokenize", str(plan), "--text", "Hello world") == "15496 995\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("tokenize", "{gpt2}"), EXIT_USAGE, "--text or --file"),
        (("tokenize", "{gpt2}", "--text", "a", "--file", "b"), EXIT_USAGE, "--text or --file"),
        (("tokenize", "{gpt2}", "--file", "/no/such/file"), EXIT_USAGE, "cannot be read"),
        (("tokenize", "/no/such.gguf", "--text", "a"), EXIT_MODEL, "no such file"),
        (("tokenize", "no-such-plan", "--text", "a"), EXIT_PLAN, "no-such-plan"),
        (("detokenize", "{gpt2}"), EXIT_USAGE, "--ids or --file"),
        (("detokenize", "{gpt2}", "--ids", "1 x"), EXIT_USAGE, "'x' is not a token id"),
        (("detokenize", "{gpt2}", "--ids", "-1"), EXIT_USAGE, "'-1' is not a token id"),
        (("detokenize", "{gpt2}", "--ids", "999999"), 8, "outside the vocabulary"),
    ],
)
def test_mistakes_are_named(run: Run, gpt2: str, arguments: tuple[str, ...], code: int, message: str) -> None:
    run(*(argument.format(gpt2=gpt2) for argument in arguments))
    assert run.code == code
    assert message in run.err
    assert run.out == ""


def test_a_damaged_file_is_refused(run: Run, gpt2: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(Path(gpt2).read_bytes()[:5000])
    run("tokenize", str(damaged), "--text", "a")
    assert run.code == EXIT_MODEL
    assert "error:" in run.err
