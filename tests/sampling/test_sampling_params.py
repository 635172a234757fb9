"""Sampling parameters: what is allowed, and how a refusal reads."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
from sampling_library import Chain, Library

from runtime.engine.request import Request, check_request, logit_bias_of
from runtime.engine.sampling import BOUNDS, sampling_of, validated_sampling
from runtime.engine.types import Sampling
from runtime.errors import EngineError


def test_every_parameter_has_a_bound_and_the_neutral_set_is_valid() -> None:
    assert set(BOUNDS) | {"dry_sequence_breakers"} == {field.name for field in fields(Sampling)}
    assert validated_sampling(Sampling()) == Sampling()


def test_values_are_put_over_a_base() -> None:
    base = Sampling(temperature=0.5, seed=3)
    assert sampling_of({"top_k": 40}, base) == Sampling(temperature=0.5, seed=3, top_k=40)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", "1"), ("top_k", -1), ("top_k", 1.0),
        ("top_k", True), ("top_p", 1.01), ("min_p", -1), ("typical_p", None), ("repetition_penalty", 0),
        ("seed", 1 << 64), ("seed", -1), ("presence_penalty", math.inf), ("frequency_penalty", [1]),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named_with_what_is_allowed(name: str, value: object) -> None:
    with pytest.raises(EngineError) as error:
        sampling_of({name: value})
    assert error.value.code == "invalid_request"
    assert error.value.path == f"sampling.{name}"
    assert error.value.allowed == BOUNDS[name].allowed


def test_all_faults_are_reported_together_and_a_near_spelling_is_offered() -> None:
    with pytest.raises(EngineError) as error:
        sampling_of({"temprature": 1.0, "top_p": 7})
    hints = [cause.hint for cause in error.value.causes]
    assert hints[0] == "did you mean temperature?"
    assert len(hints) == 2


def test_the_c_sampler_accepts_every_bound(library: Library) -> None:
    row = np.arange(5.0)
    for name, bound in BOUNDS.items():
        for value in (bound.low, bound.high):
            chain = Chain(**{name: int(value) if bound.integer else value})
            assert library.sample(row, chain, 0, (0, 1))[0] == 0, (name, value)


def test_logit_bias_comes_from_json() -> None:
    assert logit_bias_of({"3": -100, 4: 2.5, "0": -math.inf}, 5) == {3: -100.0, 4: 2.5, 0: -math.inf}


@pytest.mark.parametrize(
    ("values", "code"),
    [
        *(({key: 1}, "token_out_of_range") for key in ("5", "-1", "x", None, True, 5)),
        *(({"1": value}, "invalid_request") for value in (math.nan, math.inf, "2", True, 1e7, None)),
        (dict.fromkeys(range(5), -math.inf), "invalid_request"),
    ],
)
def test_a_wrong_logit_bias_is_refused(values: dict[object, object], code: str) -> None:
    with pytest.raises(EngineError) as error:
        logit_bias_of(values, 5)
    assert error.value.code == code


@pytest.mark.parametrize(
    "request_", [Request((1,), Sampling(top_p=2.0)), Request((1,), logit_bias={1: math.nan})]
)
def test_a_request_is_checked_before_it_shares_a_step_with_others(request_: Request) -> None:
    with pytest.raises(EngineError) as error:
        check_request(request_, n_vocab=5, context=8)
    assert error.value.code == "invalid_request"
