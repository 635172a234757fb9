"""No option is ignored; what is wrong on the command line is told as everything else is."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from runtime.bundle.planfields import BY_PATH
from runtime.cli import build_app
from runtime.cli.flags import Made, Own
from tests.command import Engine
from tests.fakes.bundle import make_bundle, resolved_plan
from tests.tiny_models import write_llama


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = resolved_plan(limits__max_tokens=8)
    return make_bundle(tmp_path_factory.mktemp("options") / "b", plan=plan)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("options") / "tiny.gguf", layers=1)


# ---- all options of all commands -----------------------------------------------

_OWN = " ".join(field.name.replace("_", "-") for field in fields(Own))
_MADE = "quant requantize backend context kv-cache"

#: Options that count whatever else is said; a new option stands here or in ``SOMETIMES``.
ALWAYS = {
    "bench": "n-prompt n-gen pg n-depth repetitions threads output no-warmup sample no-bandwidth",
    "bundles list": "json",
    "bundles prune": "",
    "bundles remove": "",
    "bundles verify": "",
    "cache list": "json",
    "cache prune": "keep-mb",
    "cache verify": "sample threads json",
    "chat": f"system messages model {_OWN}",
    "compile": "out emit-only json",
    "detokenize": "ids file skip-special json",
    "doctor": "json",
    "eval": "text quants reference context chunks threads json",
    "imatrix": "text out context chunks process-output json",
    "inspect": "json",
    "kernels bench": "backend threads rounds megabytes json",
    "kernels check": "backend cases seed emulate json",
    "kernels list": "json",
    "logits": "tokens out threads step-tokens json",
    "models add": "name replace json",
    "models list": "json",
    "models pull": "name replace revision json",
    "models remove": "json",
    "models show": "json",
    "plan explain": "json",
    "plan schema": "",
    "plan validate": "json",
    "quantize": "out errors json",
    "replay": "store",
    "run": f"prompt-file model {_OWN} ignore-eos json no-stream quiet",
    "runs compare": "json store",
    "runs export": "store out",
    "runs head": "json store",
    "runs list": "limit before json store",
    "runs show": "json store",
    "runs verify": "head json store",
    "serve": "model host port api-key-file allow-host allow-origin allow-compile queue threads drain-seconds "
    "keep-watts records record-content",
    "tokenize": "no-special parse-special pieces json",
    "top": "url every count json",
    "verify": "threads chunks tokens compilers json",
}
_PLAN = {
    "quant": "q8_0", "requantize": None, "backend": "reference", "context": "64", "kv-cache": "f32",
}  # fmt: skip
#: Options that mean nothing beside others: the command line that shows it. It is refused.
SOMETIMES: dict[str, dict[str, list[str]]] = {
    "chat": {
        "verbose": ["{plan}", "--verbose", "--quiet"],
        "quiet": ["{plan}", "--verbose", "--quiet"],
        **{name: ["{plan}", f"--{name}", *([value] if value else [])] for name, value in _PLAN.items()},
    },
    "run": {
        "prompt": ["{plan}", "--prompt", "a", "--prompt-file", "f"],
        "messages": ["{plan}", "--prompt", "a", "--messages", "f"],
        "continue": ["{plan}", "--prompt", "a", "--continue"],
        "save-plan": ["{plan}", "--prompt", "a", "--save-plan", "p.yaml"],
        "logprobs": ["{plan}", "--prompt", "a", "--logprobs", "2"],
        **{name: ["{plan}", f"--{name}", *([value] if value else [])] for name, value in _PLAN.items()},
    },
    "serve": {
        "max-plans": ["{plan}", "{plan}", "--max-plans", "1"],
        **{name: ["{plan}", f"--{name}", *([value] if value else [])] for name, value in _PLAN.items()},
    },
    "eval": {"tensors": ["{plan}", "--text", "f", "--tensors", "--reference", "none"]},
    "inspect": {
        name: ["{plan}", "graph", f"--{name}", "1"]
        for name in ("n-prompt", "n-depth", "threads", "repetitions")
    },
    "kernels list": {
        "markdown": ["--markdown", "--json"],
        "backend": ["--markdown", "--backend", "reference"],
    },
    "replay": {
        "bundle": ["1234", "--save-plan", "p", "--bundle", "b"],
        "prompt": ["1234", "--prompt", "a", "--prompt-file", "f"],
        "prompt-file": ["1234", "--save-plan", "p", "--prompt-file", "f"],
        "threads": ["1234", "--save-plan", "p", "--threads", "1"],
        "json": ["1234", "--save-plan", "p", "--json"],
        "save-plan": ["1234", "--save-plan", "p", "--json"],
    },
    "tokenize": {name: ["{plan}", "--text", "a", "--file", "f"] for name in ("text", "file")},
    "verify": {
        "backends": ["{plan}", "--backends", "cpu_avx2", "--emulate"],
        "emulate": ["{plan}", "--backends", "cpu_avx2", "--emulate"],
        "reference-tokens": ["{plan}", "--backends", "cpu_avx2", "--reference-tokens", "9"],
    },
}


def commands(group: Any, path: str = "") -> Iterator[tuple[str, set[str]]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            options = (p for p in command.params if p.param_type_name == "option" and p.name != "help")
            yield path + name, {max(p.opts, key=len).lstrip("-") for p in options}


def test_every_option_of_every_command_is_known_here() -> None:
    found = dict(commands(typer.main.get_command(build_app())))
    assert found == {name: {*always.split(), *SOMETIMES.get(name, {})} for name, always in ALWAYS.items()}


CASES = [(name, words) for name, options in SOMETIMES.items() for words in options.values()]


@pytest.mark.parametrize(("command", "words"), CASES, ids=lambda part: "" if isinstance(part, list) else part)
def test_what_would_be_ignored_is_refused(
    engine: Engine, bundle: Path, command: str, words: list[str]
) -> None:
    done = engine(*command.split(), *(word.replace("{plan}", str(bundle)) for word in words))
    assert (done.code, done.out) == (2, "")
    told = done.err.partition("hint:")[0]
    short = "-p, -d, -t and -r"  # how inspect calls its own
    assert short in told or any(word in told for word in words if word.startswith("--"))


def test_a_flag_that_makes_a_plan_is_refused_beside_one_with_the_command_that_does_it(
    engine: Engine, model: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "p.yaml"
    document = {"version": 1, "model": str(model), "backend": "reference", "quantization": "f16"}
    plan.write_text(yaml.safe_dump(document))
    done = engine("run", plan, "--quant", "q8_0", "-p", "x")
    assert done.code == 2
    assert f"engine run --model {model} --quant q8_0 --prompt TEXT" in done.err
    for wrong in (("--quant", "nonsense"), ("--backend", "cuda"), ("--context", 0)):
        done = engine("run", plan, *wrong, "-p", "x")  # a command with it would not work
        assert (done.code, "--model" in done.err) == (3, False)
        assert "allowed: " in done.err
    done = engine("run", plan, "--quant", "f16", "--backend", "reference", "--context", 64)
    command = done.err.partition("hint: engine ")[2].strip()
    assert engine(*command.split(), "-n", 1).code == 0


def test_sampling_that_changes_nothing_is_said(engine: Engine, bundle: Path) -> None:
    words = ("run", bundle, "-p", "a", "-n", 1, "--top-p", "0.5", "--seed", "1")
    assert "the temperature is 0, so --top-p, --seed" in engine(*words).err
    assert "changes nothing" not in engine(*words, "--temperature", 1).err


# ---- the flags of a run ----------------------------------------------------------


def test_a_run_may_say_every_limit_and_sampling_of_a_plan() -> None:
    named = {path.partition(".")[2] for path in BY_PATH if path.startswith(("limits.", "sampling."))}
    assert named == {field.name for field in fields(Own)} - {
        "logit_bias", "stop", "threads", "json_schema", "regex", "grammar",
    }  # fmt: skip


def test_run_chat_and_serve_have_the_flags_of_their_groups() -> None:
    found = dict(commands(typer.main.get_command(build_app())))
    groups = {"run": (Made, Own), "chat": (Made, Own), "serve": (Made,)}
    for name, kinds in groups.items():
        assert {f.name.replace("_", "-") for kind in kinds for f in fields(kind)} <= found[name]


def test_a_random_seed_is_drawn_and_replays(engine: Engine, bundle: Path, tmp_path: Path) -> None:
    words = ("run", bundle, "-p", "a", "-n", 8, "--temperature", 1, "--json")
    first, second = (engine(*words, "--seed", "random").json for _ in range(2))
    seeds = [engine("runs", "list", "-n", 2, "--json").json[i]["seed"] for i in (1, 0)]
    assert seeds[0] != seeds[1]
    for body, seed in zip((first, second), seeds, strict=True):
        assert engine(*words, "--seed", seed).json["token_ids"] == body["token_ids"]
    record = engine("runs", "list", "-n", 1, "--json").json[0]
    assert engine("replay", record["execution_id"], "--bundle", bundle).code == 0
    for wrong in ("-1", "1.5", "Random", str(2**63)):
        assert engine(*words, "--seed", wrong).code in (2, 3)


def test_what_is_saved_is_what_the_plan_declares(engine: Engine, model: Path, tmp_path: Path) -> None:
    plan = tmp_path / "p.yaml"
    flags = ("--quant", "f16", "--backend", "reference", "--context", 64)
    own = ("-p", "a", "-n", 2, "--seed", 7, "-t", 1)
    done = engine("run", "--model", model, *flags, *own, "--save-plan", plan)
    assert done.code == 0, done.err
    declared = yaml.safe_load(plan.read_text())
    assert declared["execution"] == {"context": 64}
    assert not {"limits", "sampling"} & set(declared)
    missing = tmp_path / "q.yaml"
    done = engine("run", "--model", tmp_path / "no.gguf", "-p", "a", "--save-plan", missing)
    assert done.code not in (0, 2)
    assert not missing.exists()


def test_a_models_file_is_named_like_a_plan(
    engine: Engine, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--quant", "f16", "--backend", "reference", "--context", 64, "-n", 2, "-q")
    named = engine("run", model, *words, "-p", "a")
    assert named.code == 0, named.err
    assert named.out == engine("run", "--model", model, *words, "-p", "a").out
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\n"))
    assert engine("chat", model, *words).code == 0


# ---- the voice -------------------------------------------------------------------

WRONG = {
    "an option that llama.cpp has": (["run", "--temp", "1"], "--temp is called --temperature here"),
    "its short form": (["run", "x", "-c", "9"], "-c is called --context here"),
    "one that clings to ours": (["run", "x", "-ngl", "99"], "all layers run on the CPU"),
    "with an equals sign": (["serve", "x", "--ctx-size=9"], "--ctx-size is called --context here"),
    "a misspelt option": (["run", "x", "--jsn"], "did you mean --json?"),
    "a misspelt command": (["compil"], "did you mean compile?"),
    "a command of another group": (["compare", "a", "b"], "did you mean engine runs compare?"),
    "a command of several groups": (["list"], "did you mean engine runs list or engine models list or "),
    "a misspelt command of a group": (["runs", "lst"], "did you mean list?"),
    "no plan": (["compile"], "PLAN is missing"),
    "no option that is needed": (["eval", "x"], "--text is missing"),
    "no number": (["run", "-n", "many"], "--max-tokens should be a valid integer"),
    "a number out of range": (["bench", "x", "-r", "0"], "--repetitions should be"),
    "an option at the end": (["run", "x", "--prompt"], "--prompt needs a value"),
    "too many arguments": (["run", "x", "y", "z"], "too many arguments: y z"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_faults_of_the_command_line_are_errors_like_all_others(engine: Engine, fault: str) -> None:
    words, says = WRONG[fault]
    done = engine(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: engine")
    assert "hint: " in done.err
    assert says in done.err
    error = json.loads(engine(words[0], "--json", *words[1:]).err)["error"]
    assert error["code"] == "usage"
    assert set(error) >= {"message", "path", "hint"}
