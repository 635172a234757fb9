"""``engine cache``: what is kept is listed, held against the computation, and removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.bundle.store import prefixes_dir, private_dir
from runtime.engine.executable import Executable
from runtime.engine.loop import Engine, generate
from runtime.engine.pagestore import store_of
from runtime.engine.request import Request
from runtime.laboratory.prefixes import check_prefixes
from tests.command import Engine as Command

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "kept.yaml"
    path.write_text(f"""\
version: 1
model: {ROOT / "plans/models/storyteller-f16.gguf"}
backend: cpu_avx2
quantization: q8_0
limits: {{max_tokens: 8}}
execution: {{context: 1024, slots: 1, step_tokens: 256, threads: 1, prefix_cache: disk}}
""")
    return path


def test_kept_blocks_are_listed_verified_and_pruned(
    plan: Path, engine: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from compiler import compile_plan
    from runtime.bundle.machine import Machine

    if "avx2" not in Machine.probe().features:
        pytest.skip("this CPU has no AVX2")
    bundle = compile_plan(plan)
    kept = tmp_path / "prefixes"  # no other test's
    for room in ("runtime.bundle.store", "runtime.engine.pagestore", __name__):
        monkeypatch.setattr(f"{room}.prefixes_dir", lambda: private_dir(kept))
    text = "Once upon a time there was a little dog who loved to run in the park. " * 40
    runs = []
    for _ in range(2):  # the second opens the bundle anew
        opened = Engine.open(bundle)
        ids = opened.tokenizer.encode(text)[:600]
        runs.append(generate(opened, Request.of_plan(opened.plan, ids)).sequence)
        opened.close()
    assert runs[0].logits_digest == runs[1].logits_digest
    assert (runs[0].reused_tokens, runs[1].reused_tokens) == (0, 599)

    listed = json.loads(engine("cache", "list", "--json").out)["caches"]
    assert [(entry["model"], entry["kv_cache"], entry["blocks"]) for entry in listed] == [
        (listed[0]["model"], "f16", 3)
    ]
    assert listed[0]["model"] in engine("cache", "list").out
    checked = json.loads(engine("cache", "verify", str(plan), "--json").out)
    assert checked == {"blocks": 3, "damaged": 0, "recomputed": 2, "different": []}

    with Executable.open(opened.executable.bundle, 1) as executable:
        store = store_of(executable.bundle, executable.page_groups)
        # Bits that nobody computed, under a digest that is right: only computing them again tells.
        first = next(path for path in store.files() if path.stat().st_size > 4096)
        block = store.load(bytes.fromhex(first.parent.name), bytes.fromhex(first.name))
        assert block is not None
        pages = {g: page.copy() for g, page in block.pages.items()}
        pages[0][1000] ^= 1
        first.unlink()
        store.save(bytes.fromhex(first.parent.name), block.name, block.ids, pages)
        store.close()
        wrong = check_prefixes(executable, store, 4)
        assert wrong.damaged == 0
        assert (len(block.ids) < 256) != (wrong.different == (str(first),))

    assert "freed" in engine("cache", "prune").err
    assert json.loads(engine("cache", "list", "--json").out)["caches"] == []
    assert list(prefixes_dir().iterdir()) == []
