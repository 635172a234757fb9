"""``engine chat``: lines in, answers out, over a bundle whose model answers by rote."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.cli import main
from runtime.errors import EXIT_BUNDLE, EXIT_USAGE
from tests.fakes.bundle import make_bundle, resolved_plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers are eight tokens of what the history hashes to."""
    return make_bundle(tmp_path_factory.mktemp("chat") / "b", plan=resolved_plan(limits__max_tokens=8))


@pytest.fixture(scope="session")
def slow_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 ms a step, 100 tokens an answer."""
    plan = resolved_plan(limits__max_tokens=60)
    return make_bundle(tmp_path_factory.mktemp("chat") / "slow", ("STEP_US=100000",), plan=plan)


class Talk:
    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def __call__(self, lines: str, *arguments: str) -> str:
        self.monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        with pytest.raises(SystemExit) as exit_:
            main(["chat", *arguments])
        self.code = exit_.value.code
        out, self.err = self.capsys.readouterr()
        return out


@pytest.fixture
def talk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Talk:
    return Talk(capsys, monkeypatch)


def messages_of(file: Path) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in json.loads(file.read_text())["messages"]]


def test_an_answer_is_part_of_the_next_prompt_and_of_what_is_saved(
    talk: Talk, bundle: Path, tmp_path: Path
) -> None:
    out = talk(f"Hi\nAnd?\n/save {tmp_path}/talk.json\n", str(bundle), "--system", "Be brief.")
    assert talk.code == 0
    saved = messages_of(tmp_path / "talk.json")
    assert [role for role, _ in saved] == ["system", "user", "assistant", "user", "assistant"]
    assert saved[0][1] == "Be brief."
    assert out == f"{saved[2][1]}\n{saved[4][1]}\n"
    alone = talk("And?\n", str(bundle), "--system", "Be brief.")
    assert alone != f"{saved[4][1]}\n"  # without the history it is another answer


def test_a_saved_conversation_goes_on(talk: Talk, bundle: Path, tmp_path: Path) -> None:
    whole = talk("Hi\nAnd?\n", str(bundle))
    first = talk(f"Hi\n/save {tmp_path}/a\n", str(bundle))
    second = talk("And?\n", str(bundle), "--messages", f"{tmp_path}/a")
    assert first + second == whole


def test_reset_keeps_the_system_prompt(talk: Talk, bundle: Path, tmp_path: Path) -> None:
    out = talk(f"Hi\n/reset\nHi\n/save {tmp_path}/a\n", str(bundle), "--system", "S").splitlines()
    assert len(messages_of(tmp_path / "a")) == 3
    assert "".join(out[: len(out) // 2]) == "".join(out[len(out) // 2 :])
    talk(f"/system T\n/save {tmp_path}/b\n/system\n/save {tmp_path}/c\n", str(bundle), "--system", "S")
    assert messages_of(tmp_path / "b") == [("system", "T")]
    assert messages_of(tmp_path / "c") == []


def test_exit_ends_it_and_help_explains_it(talk: Talk, bundle: Path) -> None:
    assert talk("/help\n/exit\nHi\n", str(bundle)) == ""
    assert talk("/bye\nHi\n", str(bundle)) == ""
    talk("/?\n/sav\n", str(bundle))
    assert "/reset" in talk.err
    assert "did you mean /save?" in talk.err
    assert talk.code == 0


def test_a_line_may_go_on_in_the_next(talk: Talk, bundle: Path, tmp_path: Path) -> None:
    talk(f"one \\\ntwo\n/save {tmp_path}/a\n", str(bundle))
    assert messages_of(tmp_path / "a")[0] == ("user", "one \ntwo")


def test_an_answer_that_was_cut_goes_on_where_it_ended(talk: Talk, bundle: Path, tmp_path: Path) -> None:
    talk(f"Hi\n/save {tmp_path}/a\n/continue\n/save {tmp_path}/b\n", str(bundle))
    assert "/continue goes on" in talk.err
    begun, whole = messages_of(tmp_path / "a"), messages_of(tmp_path / "b")
    assert len(begun) == len(whole) == 2
    assert whole[1][1].startswith(begun[1][1])
    assert len(whole[1][1]) > len(begun[1][1])
    talk("/continue\n/regen\n", str(bundle))
    assert talk.err.count("needs an answer before it") == 2


def test_another_answer_takes_the_place_of_the_last(talk: Talk, bundle: Path, tmp_path: Path) -> None:
    def answers(*words: str) -> list[str]:
        folder = tmp_path / str(len(words))
        folder.mkdir()
        talk(f"Hi\n/save {folder}/a\n/retry\n/save {folder}/b\n", str(bundle), *words)
        said = [messages_of(folder / name) for name in "ab"]
        assert [len(messages) for messages in said] == [2, 2]
        return [messages[1][1] for messages in said]

    first, second = answers("--temperature", "5")
    assert first != second
    first, second = answers()
    assert first == second
    assert "the temperature is 0" in talk.err


def test_a_question_that_was_loaded_is_answered_first(talk: Talk, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_text('[{"role": "user", "content": "Hi"}]')
    assert talk("", str(bundle), "--messages", f"{tmp_path}/a") == talk("Hi\n", str(bundle))


def test_several_lines_stand_between_fences(talk: Talk, bundle: Path, tmp_path: Path) -> None:
    talk(f'"""one\n/help\n\ntwo"""\n /etc is what?\n/save {tmp_path}/a\n', str(bundle))
    users = [text for role, text in messages_of(tmp_path / "a") if role == "user"]
    assert users == ["one\n/help\n\ntwo", "/etc is what?"]


def test_mistakes_do_not_end_the_chat(talk: Talk, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    lines = f"/nonsense\n/save\n/save {tmp_path}/there\n/save {tmp_path}/no/folder\nHi\n"
    assert talk(lines, str(bundle)) != ""
    assert "there is no command /nonsense" in talk.err
    assert "/save needs a file" in talk.err
    assert "exists already" in talk.err
    assert talk.err.count("error:") == 4
    assert (tmp_path / "there").read_text() == "mine"


def test_a_question_too_long_is_refused_and_forgotten(talk: Talk, bundle: Path, tmp_path: Path) -> None:
    talk(f"{'x' * 500}\nHi\n/save {tmp_path}/a\n", str(bundle))
    assert "/reset" in talk.err
    assert messages_of(tmp_path / "a")[0] == ("user", "Hi")


def test_the_command_line_is_checked(talk: Talk, bundle: Path, tmp_path: Path) -> None:
    talk("", str(bundle), "--temperature", "-1")
    assert talk.code not in (0, None)
    assert "temperature" in talk.err
    (tmp_path / "bad.json").write_text('[{"role": "user", "content": 3}]')
    talk("", str(bundle), "--messages", f"{tmp_path}/bad.json")
    assert talk.code == EXIT_USAGE
    talk("", f"{tmp_path}")
    assert talk.code in (EXIT_USAGE, EXIT_BUNDLE)


def test_ctrl_c_stops_an_answer_and_not_the_chat(slow_bundle: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from runtime.cli import main; main()", "chat", str(slow_bundle)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("Hi\n")
        process.stdin.flush()
        process.stdout.read(1)  # the answer has begun
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(f"/save {tmp_path}/a\n/exit\n", timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "(cancelled; /continue goes on)" in err
    saved = messages_of(tmp_path / "a")
    assert [role for role, _ in saved] == ["user", "assistant"]
    assert 0 < len(saved[1][1]) < 60
