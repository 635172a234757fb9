"""What ``engine_sample`` and ``engine_top_logprobs`` promise."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import sampling_twin as twin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampling_library import Chain, Library

OK, ARGUMENT, NUMERIC = 0, 1, 4

CHAINS = [
    Chain(),
    Chain(temperature=0),
    Chain(temperature=0.3, top_k=5),
    Chain(temperature=1.7, top_p=0.8),
    Chain(min_p=0.1),
    Chain(typical_p=0.6),
    Chain(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05),
    Chain(top_k=20, typical_p=0.9, top_p=0.9, min_p=0.02, temperature=2.5),
    Chain(repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2, top_k=12),
    Chain(temperature=1e-30),
    Chain(xtc_probability=0.5, xtc_threshold=0.01, min_p=0.02),
    Chain(dry_multiplier=0.8, dry_allowed_length=1, temperature=0.7),
    Chain(top_k=1),
    Chain(top_p=0.0),
]


def rows() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    normal = rng.standard_normal(1000).astype(np.float32)
    return {
        "normal": normal * 4,
        "flat": np.zeros(257, np.float32),
        "ties": np.round(normal),
        "peaked": normal * 60,
        "huge": np.float32(1e30) * normal,
        "one token": np.array([-3.5], np.float32),
        "far apart": np.array([3.4e38, -3.4e38, 0, 0], np.float32),
        "signed zeros": np.array([0.0, -0.0, 0.0, -0.0], np.float32),
        "large vocabulary": (rng.standard_normal(70001) * 3).astype(np.float32),
    }


@pytest.mark.parametrize("name", rows())
@pytest.mark.parametrize("chain", CHAINS, ids=lambda c: ",".join(f"{k}={v}" for k, v in vars(c).items()))
def test_the_token_and_its_logprob_equal_the_oracles(library: Library, name: str, chain: Chain) -> None:
    row = rows()[name]
    history = tuple(t for t in (0, 3, 3, 9, 9, 9) if t < len(row))
    for position in (0, 1, 5, 1 << 40):
        for seed in (0, 42, (1 << 64) - 1):
            c = replace(chain, seed=seed)
            with np.errstate(over="ignore"):
                expected = twin.sample(row, c, position, history)
            assert library.sample(row, c, position, history) == (OK, *expected)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    logits=st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=60),
    chain=st.builds(
        Chain,
        temperature=st.floats(0, 5, width=32),
        top_k=st.integers(0, 70),
        top_p=st.floats(0, 1, width=32),
        min_p=st.floats(0, 1, width=32),
        typical_p=st.floats(0, 1, width=32),
        repetition_penalty=st.floats(0.5, 2, width=32),
        presence_penalty=st.floats(-2, 2, width=32),
        frequency_penalty=st.floats(-2, 2, width=32),
        xtc_probability=st.sampled_from([0.0, 0.5, 1.0]),
        xtc_threshold=st.floats(0, 1, width=32),
        dry_multiplier=st.sampled_from([0.0, 0.5, 4.0]),
        dry_base=st.floats(1, 3, width=32),
        dry_allowed_length=st.integers(1, 4),
        dry_penalty_last_n=st.integers(-1, 12),
        seed=st.integers(0, (1 << 64) - 1),
    ),
    position=st.integers(0, (1 << 63)),
    data=st.data(),
)
def test_any_chain_over_any_row_equals_the_oracle(
    library: Library, logits: list[float], chain: Chain, position: int, data: st.DataObject
) -> None:
    ids = st.integers(0, len(logits) - 1)
    history = tuple(data.draw(st.lists(ids, max_size=12)))
    bias = data.draw(st.dictionaries(ids, st.floats(-100, 100, width=32), max_size=4))
    allowed = data.draw(st.none() | st.frozensets(ids, min_size=1))
    breakers = data.draw(st.frozensets(ids, max_size=2))
    row = np.array(logits, np.float32)
    sets = {"allowed": allowed, "breakers": breakers}
    expected = twin.sample(row, chain, position, history, bias, **sets)
    assert library.sample(row, chain, position, history, bias, **sets) == (OK, *expected)


def test_a_repetition_counts_up_to_fifty_tokens(library: Library) -> None:
    """Sixty tokens said twice over: what comes next would prolong it, and costs base^(50 - 2)."""
    history = (*range(60), *range(60))
    row = np.zeros(64, np.float32)
    for base, length in ((1.05, 50), (1.1, 50)):
        chain = Chain(temperature=0, dry_multiplier=1.0, dry_base=base)
        penalty = float(np.float32(base)) ** (length - chain.dry_allowed_length)
        for lead, wins in ((0.99, False), (1.01, True)):
            row[0] = penalty * lead  # the token that followed, ahead of all others by a little less or more
            assert (library.sample(row, chain, 0, history)[1] == 0) is wins


def test_no_repetition_costs_more_than_is_left_to_order_others_by(library: Library) -> None:
    """Ninety to the nineteenth power would be 1.4e37; the penalty ends at 1e30."""
    row = np.full(32, -1e31, np.float32)
    row[0] = 0
    chain = Chain(temperature=0, dry_multiplier=1.0, dry_base=90.0, dry_allowed_length=1)
    assert library.sample(row, chain, 0, (*range(20), *range(20)))[:2] == (OK, 0)
    row[1] = -9e29
    assert library.sample(row, chain, 0, (*range(20), *range(20)))[:2] == (OK, 1)


def test_what_is_forbidden_has_no_part_in_what_is_typical(library: Library) -> None:
    rng = np.random.default_rng(3)
    row = (rng.standard_normal(64) * 2).astype(np.float32)
    allowed = frozenset(range(1, 64, 2))
    for typical_p in (0.2, 0.5, 0.9):
        chain = Chain(typical_p=typical_p)
        drawn = [library.sample(row, chain, i, allowed=allowed) for i in range(200)]
        assert drawn == [(OK, *twin.sample(row, chain, i, allowed=allowed)) for i in range(200)]
        assert {token for _, token, _ in drawn} <= allowed


def test_the_draw_follows_the_probabilities(library: Library) -> None:
    """χ² with 9 degrees of freedom over 20,000 positions; 27.9 is its 0.999 quantile."""
    row = np.log(np.array([0.3, 0.2, 0.15, 0.1, 0.08, 0.07, 0.04, 0.03, 0.02, 0.01])).astype(np.float32)
    for temperature in (1.0, 0.7):
        p = np.exp(row.astype(np.float64) / temperature)
        p /= p.sum()
        n = 20000
        chain = Chain(temperature=temperature, seed=11)
        counts = np.bincount([library.sample(row, chain, i)[1] for i in range(n)], minlength=10)
        assert np.sum((counts - n * p) ** 2 / (n * p)) < 27.9


def test_each_seed_and_position_draws_anew(library: Library) -> None:
    row = np.zeros(64, np.float32)
    by_position = [library.sample(row, Chain(seed=5), i)[1] for i in range(400)]
    by_seed = [library.sample(row, Chain(seed=s), 5)[1] for s in range(400)]
    assert len(set(by_position)) > 60
    assert len(set(by_seed)) > 60
    assert by_position != by_seed


def test_a_draw_depends_on_nothing_but_its_own_arguments(library: Library) -> None:
    """Other rows sampled in between, and what they left in scratch, change nothing."""
    rng = np.random.default_rng(5)
    row = (rng.standard_normal(500) * 3).astype(np.float32)
    chain = Chain(temperature=0.9, top_p=0.95, repetition_penalty=1.2, seed=9)
    alone = [library.sample(row, chain, i, (1, 2, 2)) for i in range(30)]
    beside = []
    for i in range(30):
        library.sample(rng.standard_normal(500) * 9, Chain(seed=i), i, (4, 4, 4), {7: 5.0})
        beside.append(library.sample(row, chain, i, (1, 2, 2)))
    assert alone == beside


def test_the_row_is_not_written(library: Library) -> None:
    row = np.arange(50, dtype=np.float32)
    before = row.tobytes()
    for chain in CHAINS:
        library.sample(row, chain, 3, (1, 2), {4: 1.0})
    assert row.tobytes() == before


def test_nothing_outside_the_scratch_is_written(library: Library) -> None:
    for row, chain in itertools.product(rows().values(), CHAINS):
        n = len(row)
        guarded = np.full(4 * n + 64, 7.25, np.float32)
        library.scratch[n] = guarded[32:-32]
        assert library.sample(row, chain, 3, (0,) * 5, {0: 0.5})[0] == OK
        assert (guarded[:32] == 7.25).all()
        assert (guarded[-32:] == 7.25).all()
        del library.scratch[n]


@pytest.mark.parametrize("flags", [("-O0",), ("-O2", "-mavx2", "-mfma"), ("-O3", "-march=native")])
def test_compiler_flags_do_not_change_a_bit(
    library: Library, build: Callable[..., Library], flags: tuple[str, ...]
) -> None:
    other = build(*flags)
    for row, chain in itertools.product(rows().values(), CHAINS):
        assert other.sample(row, chain, 17, (0,)) == library.sample(row, chain, 17, (0,))


def test_sanitizers_find_nothing(build: Callable[..., Library]) -> None:
    """Undefined behaviour traps, which would end this process."""
    checked = build("-O1", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")
    for row, chain in itertools.product(rows().values(), CHAINS):
        assert checked.sample(row, chain, 3, (0, 0))[0] == OK
        assert checked.top(row, min(5, len(row)))[0] == OK


# ---- single steps, seen from outside ----------------------------------------


def drawn(library: Library, row: list[float], chain: Chain, **more: object) -> set[int]:
    return {library.sample(np.array(row), replace(chain, seed=s), 0, **more)[1] for s in range(300)}


def test_greedy_takes_the_lowest_id_of_equals(library: Library) -> None:
    assert library.sample(np.array([1, 5, 5, 5.0]), Chain(temperature=0))[1] == 1
    assert library.sample(np.array([-0.0, 0.0]), Chain(temperature=0))[1] == 0


def test_top_k_keeps_exactly_k_and_the_lowest_ids_of_equals(library: Library) -> None:
    assert drawn(library, [2, 1, 1, 1, 3], Chain(top_k=3)) == {0, 1, 4}


def test_top_p_keeps_the_shortest_run_that_reaches_it(library: Library) -> None:
    row = list(np.log([0.5, 0.3, 0.15, 0.05]))
    assert drawn(library, row, Chain(top_p=0.5)) <= {0, 1}
    assert drawn(library, row, Chain(top_p=0.7)) == {0, 1}
    assert drawn(library, row, Chain(top_p=0.9)) == {0, 1, 2}


def test_min_p_is_relative_to_the_most_likely(library: Library) -> None:
    row = list(np.log([0.5, 0.3, 0.15, 0.05]))
    assert drawn(library, row, Chain(min_p=0.25)) == {0, 1, 2}
    assert drawn(library, row, Chain(min_p=1.0)) == {0}


def test_typical_drops_what_is_less_surprising_than_the_rest(library: Library) -> None:
    """Entropy 1.9 nats: the most likely token (0.9 nats) is the least typical one."""
    row = list(np.log([0.4] + [0.06] * 10))
    assert 0 not in drawn(library, row, Chain(typical_p=0.5))


def test_penalties_see_the_whole_history(library: Library) -> None:
    row = [2.0, 1.9, -1.0]
    greedy = Chain(temperature=0)
    assert library.sample(np.array(row), replace(greedy, repetition_penalty=1.1), 0, (0,))[1] == 1
    assert library.sample(np.array(row), replace(greedy, presence_penalty=0.2), 0, (0, 0))[1] == 1
    # frequency counts occurrences: 2 * 0.06 > 0.1, 1 * 0.06 is not
    assert library.sample(np.array(row), replace(greedy, frequency_penalty=0.06), 0, (0,))[1] == 0
    assert library.sample(np.array(row), replace(greedy, frequency_penalty=0.06), 0, (0, 0))[1] == 1
    # a negative logit is multiplied: it falls
    falls = library.sample(np.array([-1.0, -1.05]), replace(greedy, repetition_penalty=1.1), 0, (0,))
    assert falls[1] == 1


def test_bias_lifts_and_forbids(library: Library) -> None:
    row = np.array([1.0, 2.0, 3.0])
    assert library.sample(row, Chain(temperature=0), bias={0: 10.0})[1] == 0
    assert 2 not in drawn(library, [1, 2, 30], Chain(), bias={2: -np.inf})
    assert library.sample(row, Chain(), bias=dict.fromkeys(range(3), -np.inf))[0] == ARGUMENT


def test_only_what_is_allowed_is_chosen(library: Library) -> None:
    row = np.array([1.0, 2.0, 3.0])
    assert library.sample(row, Chain(temperature=0), allowed=frozenset({0, 1}))[1] == 1
    assert drawn(library, [1, 2, 30], Chain(top_k=3), allowed=frozenset({0, 1})) == {0, 1}
    # A token that is forced keeps the model's own probability.
    status, _, logprob = library.sample(row, Chain(), allowed=frozenset({0}))
    assert (status, logprob) == (OK, pytest.approx(row[0] - np.log(np.exp(row).sum()), rel=1e-6))
    assert library.sample(row, Chain(), allowed=frozenset())[0] == ARGUMENT


def test_xtc_leaves_the_last_of_the_probable(library: Library) -> None:
    row = list(np.log([0.4, 0.3, 0.2, 0.1]))
    always = Chain(xtc_probability=1.0, xtc_threshold=0.15)
    assert drawn(library, row, always) == {2, 3}
    assert drawn(library, row, replace(always, xtc_threshold=0.35)) == {0, 1, 2, 3}, "one alone stays"
    assert drawn(library, [0.0, 0.0, -9.0], always) <= {1, 2}, "of equals the lowest ids go"
    assert drawn(library, row, replace(always, xtc_probability=0.5)) == {0, 1, 2, 3}


def test_dry_penalises_what_prolongs_a_repetition(library: Library) -> None:
    row, dry = np.array([0.0, 0, 0, 0, 0.5]), Chain(temperature=0, dry_multiplier=1.0, dry_base=2.0)
    seen = (1, 2, 4, 3, 1, 2)  # "1 2" stood before, and 4 followed
    assert library.sample(row, dry, 0, seen)[1] == 0
    assert library.sample(row, replace(dry, dry_multiplier=0.4), 0, seen)[1] == 4, "1 2 is allowed: 0.5 - 0.4"
    assert library.sample(row, replace(dry, dry_allowed_length=3), 0, seen)[1] == 4
    assert library.sample(row, replace(dry, dry_penalty_last_n=4), 0, seen)[1] == 4, "out of sight"
    assert library.sample(row, dry, 0, seen, breakers=frozenset({1}))[1] == 4, "a breaker ends it"
    longer = (0, 1, 2, 4, 3, 0, 1, 2)  # a token more doubles the penalty
    assert library.sample(np.array([0.0, 0, 0, 0, 1.5]), dry, 0, longer)[1] == 0


def test_the_logprob_is_of_the_raw_row(library: Library) -> None:
    row = np.array([1.0, 2.0, 3.0])
    expected = row[0] - np.log(np.exp(row).sum())
    status, token, logprob = library.sample(row, Chain(temperature=0.1), bias={0: 50.0})
    assert (status, token) == (OK, 0)
    assert logprob == pytest.approx(expected, rel=1e-6)


# ---- refusals ----------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 17, 99])
def test_a_row_that_is_not_finite_is_never_a_token(library: Library, value: float, at: int) -> None:
    row = np.zeros(100, np.float32)
    row[at] = value
    assert library.sample(row, Chain())[0] == NUMERIC
    assert library.sample(row, Chain(temperature=0))[0] == NUMERIC
    assert library.top(row, 3)[0] == NUMERIC


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": -1.0}, {"temperature": np.nan}, {"temperature": np.inf}, {"top_k": -1},
        {"top_p": 1.1}, {"top_p": np.nan}, {"min_p": -0.1}, {"typical_p": 2.0}, {"repetition_penalty": 0.0},
        {"repetition_penalty": np.nan}, {"presence_penalty": np.inf}, {"frequency_penalty": np.nan},
        {"xtc_probability": 1.5}, {"xtc_threshold": np.nan}, {"dry_multiplier": -1.0},
        {"dry_multiplier": 1.0, "dry_base": 0.5}, {"dry_multiplier": 1.0, "dry_allowed_length": 0},
        {"dry_multiplier": 1.0, "dry_penalty_last_n": -2},
    ],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(library: Library, change: dict[str, float]) -> None:
    assert library.sample(np.zeros(8), replace(Chain(), **change))[0] == ARGUMENT


def test_ids_out_of_range_are_refused(library: Library) -> None:
    row = np.zeros(8)
    for token in (-1, 8):
        assert library.sample(row, Chain(), 0, (1, token))[0] == ARGUMENT
        assert library.sample(row, Chain(), 0, (), {token: 1.0})[0] == ARGUMENT
    for value in (np.nan, np.inf):
        assert library.sample(row, Chain(), 0, (), {1: value})[0] == ARGUMENT
    for n in (0, -1, (1 << 23) + 1):
        assert library.sample(row, Chain(), n_vocab=n)[0] == ARGUMENT


# ---- top_logprobs --------------------------------------------------------------


@pytest.mark.parametrize("name", rows())
def test_top_logprobs_are_the_most_likely_in_order(library: Library, name: str) -> None:
    row = rows()[name]
    for n in {0, 1, min(5, len(row)), min(300, len(row)), min(len(row), 1000)}:
        status, tokens, logprobs = library.top(row, n)
        assert status == OK
        expected = np.argsort(-row, kind="stable")[:n]
        assert tokens.tolist() == expected.tolist()
        x = row.astype(np.float64)
        log_sum = x.max() + np.log(np.exp(x - x.max()).sum())
        likely = np.maximum(x - log_sum, -float(np.finfo(np.float32).max))[expected]
        np.testing.assert_allclose(logprobs, likely, rtol=1e-5, atol=1e-6)


def test_top_logprobs_agree_with_the_sampled_tokens_logprob(library: Library) -> None:
    row = rows()["normal"]
    _, tokens, logprobs = library.top(row, 1)
    assert library.sample(row, Chain(temperature=0))[1:] == (tokens[0], logprobs[0])


@pytest.mark.parametrize("n", [-1, 9])
def test_top_logprobs_refuses_counts_outside_the_row(library: Library, n: int) -> None:
    assert library.top(np.zeros(8), n)[0] == ARGUMENT
