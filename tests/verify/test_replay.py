"""A record runs again to the same bits, and a difference is found at its token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.bundle.store import remove_tree
from runtime.cli import main
from runtime.cli.target import bundle_of
from runtime.control.record import record_completion, reduce_content
from runtime.control.records import RecordStore
from runtime.engine.loop import Engine, generate
from runtime.engine.request import Request
from runtime.engine.types import Sampling
from runtime.errors import EngineError
from runtime.laboratory.replay import find_bundle, plan_document, replay


@pytest.fixture
def engine(tiny_plan: Path) -> Iterator[Engine]:
    engine = Engine.open(bundle_of(str(tiny_plan), quiet=True).path)
    yield engine
    engine.close()


def run(engine: Engine, **sampling: Any) -> dict[str, Any]:
    """The record of a short execution."""
    request = Request.of_plan(engine.plan, engine.tokenizer.encode("the answer is"))
    request = replace(
        request, sampling=Sampling(**sampling), limits=replace(request.limits, max_tokens=12), ignore_eos=True
    )
    completion = generate(engine, request)
    plan = engine.plan.with_overrides({"max_tokens": 12}, sampling)
    return record_completion(engine.executable.bundle, plan, completion, {"tokens_total": 12}, {})


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.9, "top_k": 20, "seed": 11, "repetition_penalty": 1.2}]
)
def test_an_execution_comes_out_identical(engine: Engine, sampling: dict[str, Any]) -> None:
    record = run(engine, **sampling)
    assert len(record["token_digests"]) == 12
    result = replay(record, engine)
    assert (result.identical, result.tokens, result.notes) == (True, 12, ())
    assert result.replayed_digest == record["logits_digest"]
    assert engine.free_slots == engine.limits.slots


@pytest.mark.parametrize("index", [0, 5, 11])
def test_the_first_token_whose_logits_differ_is_named(engine: Engine, index: int) -> None:
    record = run(engine)
    record["token_digests"][index:] = ["0" * 16] * (12 - index)
    result = replay(record, engine)
    assert (result.first_difference, result.what) == (index, "logits")


def test_another_choice_from_the_same_logits_is_told_apart(engine: Engine) -> None:
    record = run(engine)
    record["token_ids"][3] += 1
    result = replay(record, engine)
    assert (result.first_difference, result.what) == (3, "token")


def test_other_sampling_shows(engine: Engine) -> None:
    record = run(engine)
    record["logit_bias"] = {str(record["token_ids"][0]): -1000.0}
    result = replay(record, engine)
    assert (result.first_difference, result.what) == (0, "token")


def test_a_record_without_ids_needs_its_prompt_and_checks_it(engine: Engine) -> None:
    record = reduce_content(run(engine), "hashes")
    assert record["token_ids"] is None
    assert replay(record, engine, "the answer is").identical
    for prompt, code in ((None, "prompt_needed"), ("another", "prompt_differs")):
        with pytest.raises(EngineError) as caught:
            replay(record, engine, prompt)
        assert caught.value.code == code


def test_an_execution_without_tokens_cannot_be_replayed(engine: Engine) -> None:
    record = run(engine) | {"token_ids": [], "token_digests": [], "logits_digest": None}
    with pytest.raises(EngineError) as caught:
        replay(record, engine)
    assert caught.value.code == "nothing_to_replay"


def test_the_bundle_is_found_by_its_digest_only(engine: Engine) -> None:
    record = run(engine)
    path = engine.executable.bundle.path
    assert find_bundle(record) == path
    with pytest.raises(EngineError) as caught:
        find_bundle(record | {"bundle": {"name": "tiny", "digest": "0" * 64}})
    assert caught.value.code == "bundle_not_found"
    assert "engine compile" in (caught.value.hint or "")


def test_a_lost_bundle_is_compiled_again_from_the_record(
    tiny_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tiny_plan.parent)
    bundle = bundle_of(str(tiny_plan), quiet=True)
    engine = Engine.open(bundle.path)
    record = run(engine)
    engine.close()
    with RecordStore() as store:
        store.append(record)
    remove_tree(bundle.path)

    def command(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return int(ended.value.code or 0)

    assert command("replay", record["execution_id"]) == 5
    capsys.readouterr()
    assert command("replay", record["execution_id"], "--save-plan", str(tmp_path / "again.yaml")) == 0
    document = yaml.safe_load((tmp_path / "again.yaml").read_text())
    assert document == plan_document(record)
    document["model"] = str(tiny_plan.parent / "tiny.gguf")
    again = bundle_of(str(_write(tmp_path / "here.yaml", document)), quiet=True)
    capsys.readouterr()
    assert command("replay", record["execution_id"], "--bundle", str(again.path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["identical"] is True


def _write(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(document))
    return path
