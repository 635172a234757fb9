"""Train the storyteller: a small llama on the stories of ``corpus.py``. Needs PyTorch.

    python train.py --work DIR --steps 3000 [--threads 2]
    python export.py DIR ../storyteller-f16.gguf

Every batch is a function of the seed and of what came before, and a checkpoint holds all
state, so a run that was stopped goes on where it was when started again with the same
DIR. Learning rate: a short warm-up, constant, then linear to zero over the last part;
a run may be cut short by resuming with fewer steps.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import corpus
import torch
import torch.nn.functional as F
from model import Llama, Shape
from muon import Muon
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = (corpus.START, corpus.END, corpus.IM_START, corpus.IM_END)
BATCH_TOKENS, WARMUP, DECAY_SHARE, WINDOW = 2048, 60, 0.25, 512
#: Tokens of a row from a share of the run on. Attention learns to find a name among few
#: tokens sooner than among many, so rows start short.
ROW_TOKENS = ((0.0, 128), (0.8, 512), (0.92, Shape.context))
MATRIX_RATE, VECTOR_RATE = 0.015, 0.002


def make_tokenizer(path: Path, size: int) -> Tokenizer:
    """The byte-level BPE of the corpus: trained once, then read from ``path``."""
    if path.exists():
        return Tokenizer.from_file(str(path))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator((corpus.document(corpus.TRAIN_SEED, n) for n in range(8000)), trainer)
    tokenizer.save(str(path))
    return tokenizer


class Stream:
    """An endless row of tokens, document after document; its state is two values."""

    def __init__(self, tokenizer: Tokenizer, next_document: int = 0, rest: list[int] | None = None) -> None:
        self.tokenizer, self.next_document, self.rest = tokenizer, next_document, rest or []

    def take(self, rows: int, tokens: int) -> torch.Tensor:
        """The next ``rows`` x ``tokens`` + 1 ids, each row ending with the first of the next."""
        need = rows * tokens + 1
        while len(self.rest) < need:
            texts = [corpus.document(corpus.TRAIN_SEED, self.next_document + n) for n in range(64)]
            self.next_document += len(texts)
            for encoding in self.tokenizer.encode_batch(texts):
                self.rest.extend(encoding.ids)
        ids = torch.tensor(self.rest[:need])
        self.rest = self.rest[need - 1 :]
        return torch.stack([ids[r * tokens : (r + 1) * tokens + 1] for r in range(rows)])


def heldout_loss(model: Llama, tokenizer: Tokenizer, characters: int = 24_000) -> dict[str, float]:
    """Mean negative log-likelihood (nats) a token, by language, in windows of WINDOW tokens."""
    result = {}
    for language in ("en", "pt"):
        ids = torch.tensor(tokenizer.encode(corpus.START + corpus.heldout(language, characters)).ids)
        windows = (len(ids) - 1) // WINDOW
        total = 0.0
        with torch.no_grad():
            for w in range(windows):
                row = ids[w * WINDOW : (w + 1) * WINDOW + 1]
                total += F.cross_entropy(model(row[None, :-1])[0], row[1:], reduction="sum").item()
        result[language] = total / (windows * WINDOW)
    return result


def sample(model: Llama, tokenizer: Tokenizer, prompt: str, tokens: int = 160) -> str:
    """The most likely continuation of the prompt, up to an end token."""
    ids = tokenizer.encode(corpus.START + prompt).ids
    ends = {tokenizer.token_to_id(corpus.END), tokenizer.token_to_id(corpus.IM_END)}
    with torch.no_grad():
        for _ in range(tokens):
            best = int(model(torch.tensor([ids]))[0, -1].argmax())
            if best in ends:
                break
            ids.append(best)
    return str(tokenizer.decode(ids))


def rate(step: int, steps: int) -> float:
    """Share of the full learning rate at a step of a run of so many steps."""
    return min((step + 1) / WARMUP, 1.0, (steps - step) / (DECAY_SHARE * steps))


def make_optimizers(model: Llama) -> list[torch.optim.Optimizer]:
    """Muon (orthogonalized momentum) for the layers' matrices, AdamW for embeddings and norms."""
    matrices = [p for p in model.blk.parameters() if p.dim() == 2]
    others = [p for n, p in model.named_parameters() if p.dim() < 2 or n.startswith("token_embd")]
    return [
        Muon(matrices, lr=MATRIX_RATE),
        torch.optim.AdamW(others, lr=VECTOR_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


@torch.no_grad()
def center(embeddings: torch.Tensor, ids: torch.Tensor) -> None:
    """Take the mean of the rows in use from every row.

    Tied embeddings drift: each step pushes the rows of all wrong tokens the same way, until
    as inputs they look alike and attention cannot tell names apart. Adding one vector to
    every row adds one number to all logits of a position, so probabilities stay.
    """
    embeddings -= embeddings[ids.unique()].mean(0)


def batches(stream: Stream, step: int, steps: int) -> Iterator[torch.Tensor]:
    """The batches of the remaining steps, in rows of ROW_TOKENS."""
    for n in range(step, steps):
        tokens = max(length for share, length in ROW_TOKENS if n >= share * steps)
        yield stream.take(BATCH_TOKENS // tokens, tokens)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write beside and rename, so that a checkpoint is always whole."""
    beside = path.with_suffix(".part")
    torch.save(state, beside)
    os.replace(beside, path)


def train(work: Path, steps: int, save_every: int) -> None:
    work.mkdir(parents=True, exist_ok=True)
    shape = Shape()
    tokenizer = make_tokenizer(work / "tokenizer.json", shape.vocabulary)
    torch.manual_seed(corpus.TRAIN_SEED)
    model = Llama(shape)
    optimizers = make_optimizers(model)
    stream, first = Stream(tokenizer), 0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        stream, first = Stream(tokenizer, state["next_document"], state["rest"]), state["step"]
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, from step {first}", flush=True)
    begin, mean = time.monotonic(), float("nan")
    for step, batch in enumerate(batches(stream, first, steps), first):
        for optimizer, full in zip(optimizers, (MATRIX_RATE, VECTOR_RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = full * rate(step, steps)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        center(model.token_embd.weight, batch)
        mean = loss.item() if math.isnan(mean) else 0.95 * mean + 0.05 * loss.item()
        done = step + 1
        if done % 20 == 0:
            speed = (done - first) * BATCH_TOKENS / (time.monotonic() - begin)
            print(f"step {done}  loss {mean:.4f}  {speed:.0f} tokens/s", flush=True)
        if done % save_every == 0 or done == steps:
            losses = heldout_loss(model, tokenizer)
            perplexity = {k: round(math.exp(v), 3) for k, v in losses.items()}
            print(
                f"step {done}  held out " + json.dumps(perplexity),
                *(sample(model, tokenizer, start) for start in ("Once upon a time", "Era uma vez")),
                sep="\n",
                flush=True,
            )
            save(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                    "next_document": stream.next_document,
                    "rest": stream.rest,
                    "step": done,
                    "shape": asdict(shape),
                    "heldout": losses,
                },
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="directory of tokenizer and checkpoint")
    parser.add_argument("--steps", type=int, default=3000, help=f"of {BATCH_TOKENS} tokens each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.work, arguments.steps, arguments.save_every)


if __name__ == "__main__":
    main()
