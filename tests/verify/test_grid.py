"""The grid finds one digest on a bundle that is deterministic, and says where one is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.cli import main
from runtime.cli.target import bundle_of
from runtime.engine.executable import Executable
from runtime.errors import EngineError
from runtime.laboratory.verify import Backend, Cell, Way, Workload, disagreements, grid, run_cell, ways

WORK = Workload(tokens=24, prompt_tokens=20)


@pytest.fixture
def executable(tiny_plan: Path) -> Iterator[Executable]:
    with Executable.open(bundle_of(str(tiny_plan), quiet=True), 1) as executable:
        yield executable


def test_every_way_is_listed_once_and_fits_the_bundle() -> None:
    listed = ways([1, 2], [1, 7, 64, 256], slots=4, step_tokens=64)
    assert len(listed) == len(set(listed)) == 2 * 3 * (4 + 3)  # no slot is left to move to beside three
    assert {way.companions for way in listed} == {0, 3}
    assert all(way.chunk + way.companions <= 64 for way in listed)
    assert {way.companions for way in ways([1], [1], slots=1, step_tokens=8)} == {0}


def test_chunks_companions_threads_and_a_used_slot_change_no_bit(tiny_plan: Path) -> None:
    bundle = bundle_of(str(tiny_plan), quiet=True)
    short = Workload(tokens=12, prompt_tokens=9)
    every = ways([1, 2], [1, 7], slots=2, step_tokens=32)
    cells = list(grid([Backend("reference", lambda n: Executable.open(bundle, n), every, short)]))
    assert len(cells) == len(every) == 28
    assert len({cell.digest for cell in cells}) == 1
    assert disagreements(cells) == []


def test_a_shorter_cell_is_compared_over_its_positions(executable: Executable) -> None:
    way = Way(1, 7, 0, "cold")
    whole = run_cell(executable, "a", way, WORK, [10, 24])
    part = run_cell(executable, "b", way, replace(WORK, tokens=10, prompt_tokens=8), [10, 24])
    assert part.digest == whole.prefix_digests[10] != whole.digest
    assert disagreements([whole, part]) == []


class Flawed:
    """An executable whose logits depend on the size of the step, in one last place."""

    def __init__(self, executable: Executable) -> None:
        self.limits, self._executable = executable.limits, executable

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executable, name)

    def forward(self, slots: Any, positions: Any, tokens: Any, want: Any) -> Any:
        rows = self._executable.forward(slots, positions, tokens, want).copy()
        if len(tokens) > 7:
            rows[-1, 3] = np.nextafter(rows[-1, 3], np.float32(9e9))
        return rows


def test_one_bit_in_one_way_is_found(executable: Executable) -> None:
    flawed: Any = Flawed(executable)
    cells = [run_cell(flawed, "x", Way(1, chunk, 0, "cold"), WORK, [24]) for chunk in (1, 7, 16)]
    assert [cell.way.chunk for cell in disagreements(cells)] == [16]


def test_a_page_that_is_shared_before_it_holds_all_is_found(executable: Executable) -> None:
    class Forgetful(Flawed):
        """The page that is copied from is read with other bits."""

        asked = 0

        def page(self, group: int, page: int) -> Any:
            self.asked += 1
            found = self._executable.page(group, page)
            if self.asked % 2:
                return found  # the one that is written
            changed = found.copy()
            changed[:64] ^= 1
            return changed

        def forward(self, *step: Any) -> Any:
            return self._executable.forward(*step)

    flawed: Any = Forgetful(executable)
    cells = [run_cell(flawed, "x", Way(1, 5, 0, kv), WORK, [24]) for kv in ("cold", "warm", "moved")]
    assert [cell.way.kv for cell in disagreements(cells)] == ["moved"]


def test_other_tokens_give_another_digest(executable: Executable) -> None:
    way = Way(1, 7, 0, "cold")
    digests = {run_cell(executable, "x", way, replace(WORK, seed=seed)).digest for seed in (1, 2, 3)}
    assert len(digests) == 3


def test_a_sequence_longer_than_the_context_is_refused(executable: Executable) -> None:
    with pytest.raises(EngineError) as caught:
        run_cell(executable, "x", Way(1, 7, 0, "cold"), Workload(999, 900))
    assert caught.value.code == "workload_too_long"


def test_a_difference_past_the_shortest_cell_is_found() -> None:
    def cell(backend: str, tokens: int, digest: str, prefix: str) -> Cell:
        return Cell(backend, Way(1, 1, 0, "cold"), tokens, digest, {8: prefix})

    cells = [
        cell("a", 24, "x", "p"),
        cell("b", 24, "y", "p"),
        cell("c", 24, "x", "p"),
        cell("r", 8, "p", "p"),
    ]
    assert [c.backend for c in disagreements(cells)] == ["b"]


def test_the_command_shows_the_grid(tiny_plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["verify", str(tiny_plan), "--tokens", "12", *arguments])
        return int(ended.value.code or 0)

    assert command("--backends", "reference", "--chunks", "1,5", "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["deterministic"] is True
    assert len({cell["digest"] for cell in body["cells"]}) == 1
    assert command("--backends", "reference", "--chunks", "4", "--threads", "1") == 0
    assert "7 cells, 0 disagree" in capsys.readouterr().out
    assert command("--chunks", "0") == 2
    assert command("--backends", "no_such") == 3
