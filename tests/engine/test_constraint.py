"""Answers kept to a schema, an expression or a grammar."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from compiler.vocabulary.file import vocabulary_of_file
from runtime.engine.constraint import Grammars
from runtime.engine.loop import Engine, generate
from runtime.engine.tokenizer import Tokenizer
from runtime.engine.types import Constraint, Limits, Request, StopReason
from runtime.errors import EngineError
from tests.engine.schemas import random_schema
from tests.fakes.bundle import make_bundle

PERSON = Constraint.of_schema(
    {
        "type": "object",
        "properties": {
            "name": {"enum": ["Ana", "Bo"]},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine.open(make_bundle(tmp_path_factory.mktemp("constraint") / "bundle"))
    yield engine
    engine.close()


@pytest.fixture(scope="module", params=["llama-spm", "llama-bpe"])
def tokenizer(request: pytest.FixtureRequest, shared_data: Path) -> Tokenizer:
    files = vocabulary_of_file(shared_data / "vocab" / f"ggml-vocab-{request.param}.gguf")
    return Tokenizer.from_files(files["tokenizer.json"], files["vocabulary.json"])


def asked(constraint: Constraint | None, seed: int = 0, **limits: Any) -> Request:
    return Request(
        (3, 40 + seed % 200, 41), limits=Limits(**{"max_tokens": 120} | limits), constraint=constraint
    )


def members(mask: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))


def walk(tokenizer: Tokenizer, constraint: Constraint, rng: random.Random, most: int) -> str | None:
    """A random answer that the masks allow; None where it did not end within ``most`` tokens."""
    live, ids = tokenizer.grammars.begin(constraint), []
    for _ in range(most):
        choice = int(rng.choice(members(live.allowed())))
        if choice in tokenizer.eos_ids:
            break
        live.accept(choice)
        ids.append(choice)
        if live.complete:
            break
    else:
        return None
    return tokenizer.decode(ids, continuation=True)


@pytest.mark.parametrize("seed", range(8))
def test_an_answer_is_what_was_asked_for(engine: Engine, seed: int) -> None:
    sequence = generate(engine, asked(PERSON, seed)).sequence
    assert sequence.stop_reason is StopReason.END_OF_SEQUENCE
    jsonschema.validate(json.loads(sequence.text), json.loads(PERSON.text))


def test_an_expression_and_a_grammar_hold(engine: Engine) -> None:
    dates = generate(engine, asked(Constraint("regex", r"20\d\d-[01]\d-[0-3]\d"))).sequence
    assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\d", dates.text)
    lines = generate(engine, asked(Constraint("grammar", 'start: ("yes" | "no") "!"'))).sequence
    assert lines.text in ("yes!", "no!")


def test_the_digest_is_that_of_the_same_tokens_without_a_constraint(engine: Engine) -> None:
    constrained = generate(engine, asked(PERSON, 5)).sequence
    forced: list[int] = []
    free = engine.admit(asked(None, 5))
    engine.step([(free, free.remaining_prefill)])
    digests = [free.logits_digest]
    for token in constrained.token_ids[:-1]:
        free.ids[free.n_prompt + len(forced)] = token  # what it would have chosen is replaced
        forced.append(token)
        engine.step([(free, 1)])
        digests.append(free.logits_digest)
    engine.release(free)
    assert digests[-1] == constrained.logits_digest


def test_a_limit_ends_an_answer_before_it_is_whole(engine: Engine) -> None:
    sequence = generate(engine, asked(PERSON, max_tokens=4)).sequence
    assert (sequence.stop_reason, len(sequence.token_ids)) == (StopReason.MAX_TOKENS, 4)


def test_an_impossible_choice_ends_its_own_sequence_alone(engine: Engine) -> None:
    """The bias forbids what the grammar asks for."""
    bias = dict.fromkeys((ord("y"), ord("n")), float("-inf"))
    doomed = engine.admit(Request((3, 50, 51), constraint=Constraint("regex", "yes|no"), logit_bias=bias))
    beside = engine.admit(asked(PERSON))
    report = engine.step([(doomed, 3), (beside, 3)])
    assert doomed.stop_reason is StopReason.ERROR
    assert [event.sequence for event in report.events] == [beside]
    engine.release(doomed)
    engine.release(beside)


@pytest.mark.parametrize(
    ("constraint", "path"),
    [
        (Constraint("json_schema", '{"properties": {"a": {"not": {}}}}'), "json_schema.properties.a.not"),
        (Constraint("json_schema", '{"type": "number", "minimum": 3, "maximum": 1}'), "json_schema"),
        (Constraint("json_schema", "["), "json_schema"),
        (Constraint("json_schema", "[" * 5000), "json_schema"),
        (Constraint("regex", "(a"), "regex"),
        (Constraint("regex", "(?=a)b"), "regex"),
        (Constraint("grammar", "start: foo"), "grammar"),
        (Constraint("grammar", "x" * (1 << 20 | 1)), "grammar"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_by_path(engine: Engine, constraint: Constraint, path: str) -> None:
    with pytest.raises(EngineError) as caught:
        engine.tokenizer.grammars.check(constraint)
    assert (caught.value.code, caught.value.path) == ("constraint_unsupported", path)


def test_no_mask_allows_what_the_validator_refuses(tokenizer: Tokenizer) -> None:
    """Random walks over generated schemas of all keywords; one in twenty must come to its end."""
    rng, ended = random.Random(11), 0
    for _ in range(60):
        schema = random_schema(rng)
        text = walk(tokenizer, Constraint.of_schema(schema), rng, 120)
        if text is not None:
            jsonschema.validate(json.loads(text), schema)
            ended += 1
    assert ended >= 3


def test_tokens_taken_back_leave_no_trace(tokenizer: Tokenizer) -> None:
    rng, live = random.Random(2), tokenizer.grammars.begin(PERSON)
    for _ in range(3):
        live.accept(int(rng.choice(members(live.allowed()))))
    before = live.allowed().copy()
    for _ in range(2):
        live.accept(int(rng.choice(members(live.allowed()))))
    live.rollback(2)
    assert (live.allowed() == before).all()


def test_a_compiled_grammar_is_shared_and_the_oldest_goes(tokenizer: Tokenizer, monkeypatch: Any) -> None:
    monkeypatch.setattr("runtime.engine.constraint.KEPT", 2)
    grammars = Grammars(tokenizer)
    for text in ("a", "b", "a", "c"):
        grammars.check(Constraint("regex", text))
    assert [constraint.text for constraint in grammars._compiled] == ["a", "c"]


# ---- least lengths, and what else keeps an answer from ending -----------------------


def test_no_end_is_chosen_before_the_least_number_of_tokens(tmp_path: Path) -> None:
    from tests.fakes.bundle import END

    script = "SCRIPT=" + ",".join(map(str, [65, END, END, 66, END]))
    engine = Engine.open(make_bundle(tmp_path / "bundle", (script,)))
    short = generate(engine, Request((1,), limits=Limits(max_tokens=9))).sequence
    longer = generate(engine, Request((1,), limits=Limits(max_tokens=9, min_tokens=4))).sequence
    engine.close()
    assert len(short.token_ids) == 2
    assert END not in longer.token_ids[:4]
    assert longer.stop_reason is StopReason.END_OF_SEQUENCE


def test_no_stop_text_counts_before_the_least_number_of_tokens(engine: Engine) -> None:
    free = generate(engine, Request((2, 60), limits=Limits(max_tokens=12))).sequence
    stop = free.text[2]
    at = generate(engine, Request((2, 60), limits=Limits(max_tokens=12), stop=(stop,))).sequence
    held = generate(
        engine, Request((2, 60), limits=Limits(max_tokens=12, min_tokens=12), stop=(stop,))
    ).sequence
    assert at.stop_reason is StopReason.STOP_SEQUENCE
    assert (held.stop_reason, held.text) == (StopReason.MAX_TOKENS, free.text)
