"""What the prefix cache and drafts are worth on one plan, each against the same plan without them.

    python tests/benchmarks/conversation.py PLAN [--rounds 5] [--system 1500] [--turns 6]

Rounds alternate; medians and ratios are printed as one JSON object, with the CPU. Every pair gives
the same ``logits_digest``, or the run fails.

turns    a conversation of several turns: time to the first token of each, cache off and on
shared   8 sequences with one system prompt, one after the other in one engine: time to all first tokens
drafts   decoding with lookup drafts over without, on a text that repeats itself and on one that does not
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from runtime.bundle.machine import Machine
from runtime.cli.variants import Variants
from runtime.engine.loop import Completion, Engine, generate
from runtime.engine.request import Request, Wishes

SENTENCE = "Answer in one short sentence, be polite, and never invent facts about people or places. "
QUESTION = " Question {}: what should one do on a rainy day? Answer:"
REPEATING = "The cat sat on the mat. The dog sat on the log. The hen sat in the pen. " * 6
PLAIN = "Once upon a time, in a village by the sea,"


def ask(engine: Engine, ids: list[int], tokens: int, *, cached: bool, ignore_eos: bool = True) -> Completion:
    request = Request.of_plan(engine.plan, ids, Wishes(ignore_eos=ignore_eos, cache_prompt=cached))
    return generate(engine, replace(request, limits=replace(request.limits, max_tokens=tokens)))


def first_ms(done: Completion) -> float:
    return (done.sequence.token_ns[0] - done.sequence.admitted_ns) / 1e6


def system_ids(engine: Engine, tokens: int) -> list[int]:
    return list(engine.tokenizer.encode(SENTENCE * (tokens // 8)))[:tokens]


def turns(engine: Engine, system: int, count: int, rounds: int) -> dict[str, Any]:
    """Milliseconds to the first token of each turn, off and on; a round's conversation begins afresh."""
    times: dict[bool, list[list[float]]] = {False: [], True: []}
    for _ in range(rounds):
        digests = {}
        for cached in (False, True):
            engine.memory.forget()
            ids, found = system_ids(engine, system), []
            for turn in range(count):
                ids += engine.tokenizer.encode(QUESTION.format(turn))
                done = ask(engine, ids, 16, cached=cached)
                found.append(first_ms(done))
                digests.setdefault(turn, set()).add(done.sequence.logits_digest)
                ids += done.sequence.token_ids
            times[cached].append(found)
        assert all(len(found) == 1 for found in digests.values()), "a digest differs"
    off, on = ([round(median(column), 2) for column in zip(*times[c], strict=True)] for c in (False, True))
    return {"prompt": system, "off_ms": off, "on_ms": on, "second_over_first": round(on[1] / on[0], 4)}


def shared(engine: Engine, system: int, rounds: int) -> dict[str, Any]:
    """Milliseconds to the first tokens of 8 prompts that begin the same, off and on."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for cached in (False, True):
            engine.memory.forget()
            begin = system_ids(engine, system)
            prompts = [begin + list(engine.tokenizer.encode(QUESTION.format(i))) for i in range(8)]
            times[cached].append(sum(first_ms(ask(engine, ids, 1, cached=cached)) for ids in prompts))
    off, on = median(times[False]), median(times[True])
    return {"prompt": system, "off_ms": round(off, 1), "on_ms": round(on, 1), "ratio": round(off / on, 2)}


def drafts(open_engine: Callable[[str], Engine], rounds: int) -> dict[str, Any]:
    """Tokens a second with drafts over without, median of the rounds' own ratios."""
    plain, lookup = open_engine("none"), open_engine("lookup")
    found: dict[str, Any] = {}
    for name, text in (("repeating", REPEATING), ("plain", PLAIN)):
        ids, ratios, rates, counts = list(plain.tokenizer.encode(text)), [], [], (0, 0)
        for _ in range(rounds):
            rate, digests = {}, set()
            for engine in (plain, lookup):
                sequence = ask(engine, ids, 200, cached=True).sequence
                rate[engine] = 199e9 / (sequence.token_ns[-1] - sequence.token_ns[0])
                digests.add(sequence.logits_digest)
                counts = sequence.drafted
            assert len(digests) == 1, "a digest differs"
            ratios.append(rate[lookup] / rate[plain])
            rates.append(rate[plain])
        drafted, kept = counts
        found[name] = {
            "plain_tokens_per_sec": round(median(rates), 1),
            "ratio": round(median(ratios), 3),
            "drafted": drafted,
            "kept": kept,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("plan")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--system", type=int, default=1500)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--threads", type=int, default=None)
    asked = parser.parse_args()
    variants = Variants(asked.plan, quiet=True)

    def open_engine(kind: str) -> Engine:
        bundle = variants.bundle(speculation={"kind": kind, "tokens": 8})
        return Engine.open(bundle.path, asked.threads)

    engine = open_engine("none")
    result = {
        "cpu": Machine.probe().cpu_model,
        "plan": asked.plan,
        "turns": turns(engine, asked.system, asked.turns, asked.rounds),
        "shared": shared(engine, asked.system, asked.rounds),
        "drafts": drafts(open_engine, asked.rounds),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
