"""Pages on disk: what is read back is what was written, or nothing, whatever happened in between."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle.plan import PAGE
from runtime.engine.loop import Engine, generate
from runtime.engine.pages import PageGroup
from runtime.engine.pagestore import PageStore
from runtime.engine.prefix import name_of, root
from runtime.engine.types import Limits, Request
from tests.engine.test_pages import Model, words
from tests.fakes.bundle import make_bundle, resolved_plan

GROUP = PageGroup(0, 5, 10, 8 * PAGE)
KEY = b"\1" * 16


def store_in(folder: Path, most: int = 1 << 30, key: bytes = KEY) -> PageStore:
    return PageStore(folder / "prefixes", key, [GROUP], most)


def saved(store: PageStore, n: int = PAGE, seed: int = 0) -> tuple[bytes, bytes, np.ndarray]:
    """A written block: its parent, its name, its page."""
    ids, parent = words(n, seed), root("")
    page = np.random.default_rng(seed).integers(0, 256, GROUP.page_bytes).astype(np.uint8)
    name = name_of(parent, ids)
    store.save(parent, name, ids, {0: page})
    store.close()
    return parent, name, page


def test_a_block_is_read_back_by_its_name_and_by_what_it_follows(tmp_path: Path) -> None:
    parent, name, page = saved(store_in(tmp_path), 100)
    other = store_in(tmp_path)
    block = other.load(parent, name)
    assert block is not None
    assert np.array_equal(block.ids, words(100))
    assert np.array_equal(block.pages[0], page)
    assert [b.name for b in other.following(parent, 4)] == [name]
    assert other.load(parent, b"\2" * 16) is None
    assert list(other.following(b"\3" * 16, 4)) == []
    assert (tmp_path / "prefixes").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("at", [0, 13, 30, 900, -1])
def test_a_flipped_bit_is_found_and_the_file_is_gone(tmp_path: Path, at: int) -> None:
    store = store_in(tmp_path)
    parent, name, _ = saved(store)
    (path,) = store.files()
    raw = bytearray(path.read_bytes())
    raw[at] ^= 4
    path.write_bytes(raw)
    assert store.load(parent, name) is None
    assert store.damaged == 1
    assert not path.exists()


@pytest.mark.parametrize("size", [0, 7, 40, -1])
def test_a_cut_file_is_found(tmp_path: Path, size: int) -> None:
    store = store_in(tmp_path)
    parent, name, _ = saved(store)
    (path,) = store.files()
    os.truncate(path, size if size >= 0 else path.stat().st_size - 1)
    assert store.load(parent, name) is None


def test_another_models_file_is_not_believed(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    parent, name, _ = saved(store)
    other = store_in(tmp_path, key=b"\5" * 16)
    target = other.folder / parent.hex()
    target.mkdir(parents=True)
    os.rename(store.files()[0], target / name.hex())
    assert other.load(parent, name) is None


def test_the_least_recently_used_go_where_there_are_too_many_bytes(tmp_path: Path) -> None:
    size = GROUP.page_bytes + 4 * PAGE + 100
    store = store_in(tmp_path, most=4 * size)
    names = []
    for seed in range(8):
        parent, name, _ = saved(store, seed=seed)
        names.append(name)
        time.sleep(0.01)
        store.load(parent, names[0])  # the first is in use all the time
    held = {path.name for path in store.files()}
    assert sum(path.stat().st_size for path in store.files()) <= 4 * size
    assert names[0].hex() in held
    assert names[7].hex() in held
    assert names[1].hex() not in held


@pytest.mark.parametrize("windows", [(0,), (0, 300), (70,)])
def test_a_memory_that_begins_anew_finds_what_another_left(tmp_path: Path, windows: tuple[int, ...]) -> None:
    def memory() -> Model:
        model = Model(2, 10, windows)
        store = PageStore(tmp_path / "prefixes", KEY, model.groups, 1 << 30)
        return Model(2, 10, windows, store=store)

    story = words(5 * PAGE)
    first = memory()
    assert first.run(story[:700], 650) == 700
    first.memory.close()
    second = memory()
    assert second.run(story[:900], 800) == 200
    assert second.memory.check() == []
    assert second.memory.counts.reused == 700
    assert second.run(story[:300], 300) == 1
    second.memory.close()
    assert memory().run(story[:100], 100) == 1  # of a whole block as well, a copy
    assert memory().run(words(400, 3), 400) == 400


def fake(folder: Path) -> Engine:
    os.environ["XDG_CACHE_HOME"] = str(folder)
    plan = resolved_plan(
        execution__prefix_cache="disk", execution__context=1024, execution__step_tokens=64
    )
    path = folder / "bundle"
    if not path.exists():
        make_bundle(path, ("CONTEXT=1024", "STEP_TOKENS=64"), plan=plan)
    return Engine.open(path)


def test_a_restart_gives_the_same_bits_and_computes_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # put back afterwards
    prompt = tuple(20 + i % 90 for i in range(600))
    results = []
    for _ in range(2):
        engine = fake(tmp_path)
        results.append(generate(engine, Request(prompt, limits=Limits(max_tokens=9))))
        engine.close()
    assert results[0].sequence.logits_digest == results[1].sequence.logits_digest
    assert [result.sequence.reused_tokens for result in results] == [0, 599]


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.engine.test_pagestore import fake
from runtime.engine.loop import generate
from runtime.engine.types import Limits, Request
engine = fake(Path({folder!r}))
n = 0
while True:
    prompt = tuple(20 + (i * 7 + n) % 90 for i in range(900))
    generate(engine, Request(prompt, limits=Limits(max_tokens=3)))
    n += 1
    print(n, flush=True)
"""


def test_killed_while_it_writes_nothing_wrong_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fake(tmp_path).close()
    here = str(Path(__file__).resolve().parents[2])
    for kill_after in (1, 3, 6):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD.format(root=here, folder=str(tmp_path))],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        while int(child.stdout.readline() or 99) < kill_after:
            pass
        child.kill()
        child.wait()
    engine = fake(tmp_path)
    for n in range(8):
        prompt = tuple(20 + (i * 7 + n) % 90 for i in range(900))
        warm = generate(engine, Request(prompt, limits=Limits(max_tokens=3)))
        cold = generate(engine, Request(prompt, limits=Limits(max_tokens=3), cache_prompt=False))
        assert warm.sequence.logits_digest == cold.sequence.logits_digest
    assert engine.memory.counts.reused > 0
    engine.close()
