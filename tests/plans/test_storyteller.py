"""The plans that come with the project: valid, alike but for one word, with their model beside them."""

from __future__ import annotations

import difflib
import random
import sys
from pathlib import Path

import gguf
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from compiler.plan import load_plan

PLANS = Path(__file__).resolve().parents[2] / "plans"
RECIPES = {
    "storyteller-f16": "f16",
    "storyteller-q8": "q8_0",
    "storyteller-q6": "q6_k",
    "storyteller-q4": "q4_k_m",
}
SCRIPTS = PLANS / "models" / "storyteller"


@pytest.mark.parametrize("name", RECIPES)
def test_each_plan_is_valid_and_names_its_recipe(name: str) -> None:
    plan = load_plan(PLANS / f"{name}.yaml")
    assert f"quantization: {RECIPES[name]}\n" in (PLANS / f"{name}.yaml").read_text("utf-8")
    assert plan.name == name


def test_the_plans_differ_in_one_word() -> None:
    texts = [(PLANS / f"{name}.yaml").read_text("utf-8").split() for name in RECIPES]
    for other in texts[1:]:
        changed = [d for d in difflib.ndiff(texts[0], other) if d[0] in "+-"]
        assert len(changed) == 2


def model() -> gguf.GGUFReader:
    return gguf.GGUFReader(PLANS / "models" / "storyteller-f16.gguf")


def test_the_model_is_small_and_every_matrix_row_holds_whole_superblocks() -> None:
    reader = model()
    assert (PLANS / "models" / "storyteller-f16.gguf").stat().st_size <= 12_000_000
    matrices = [t for t in reader.tensors if len(t.shape) == 2]
    assert matrices
    assert all(int(t.shape[0]) % 256 == 0 for t in matrices)
    assert {t.tensor_type.name for t in matrices} == {"F16"}
    assert "output.weight" not in {t.name for t in reader.tensors}  # tied to the embeddings


def tokenizer(reader: gguf.GGUFReader) -> Tokenizer:
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    merges = [tuple(m.split(" ")) for m in reader.get_field("tokenizer.ggml.merges").contents()]
    result = Tokenizer(models.BPE(vocab={t: n for n, t in enumerate(tokens)}, merges=merges))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    return result


def test_the_vocabulary_can_write_any_text() -> None:
    encoder = tokenizer(model())
    rng = random.Random(0)
    for _ in range(200):
        codes = (rng.choice((rng.randrange(32, 127), rng.randrange(0xA0, 0xD7FF))) for _ in range(20))
        text = "".join(map(chr, codes))
        assert encoder.decode(encoder.encode(text).ids) == text


def test_the_heldout_text_is_what_the_grammar_writes_and_training_never_sees() -> None:
    sys.path.insert(0, str(SCRIPTS))
    try:
        import corpus
    finally:
        sys.path.remove(str(SCRIPTS))
    text = (SCRIPTS / "heldout.txt").read_text("utf-8")
    assert text == corpus.heldout("en", 24_000) + "\n" + corpus.heldout("pt", 24_000)
    held = {line for line in text.splitlines() if len(line) > 250}
    trained = {line for n in range(3000) for line in corpus.document(corpus.TRAIN_SEED, n).splitlines()}
    assert len(held) > 60
    assert not held & trained
