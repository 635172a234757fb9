"""What each recipe costs in quality, and our quantizers beside llama-quantize's: one command.

    python tests/benchmarks/quality.py --peer /path/to/peer/bin/python --out build/quality \\
        [--characters 300000] [--calibrate 400] [--speed larger-f16.gguf] [--docs docs/quality.md]

The model (default: the project's own) is quantized to every recipe by ``engine quantize`` and by
llama-quantize's own code, from the same F16 file. Both files of a recipe are then run by the same
judge, ``engine eval`` with ``quantization: source``, against the F16 file: KL divergence over a text,
error of each tensor. The peer judges too, by its own logits for the same windows. ``--characters``
lets the storyteller's grammar write a longer held-out text, that many in each language, for smaller
standard errors. ``--calibrate`` judges also the recipes with an importance matrix, which ``engine
imatrix`` makes from so many documents that the model was trained on. ``--speed`` times both quantizers
on another, larger model. ``--only`` does one of the three and keeps the others' earlier results.
Writes ``results.json``, ``table.md`` and, with matplotlib, ``plot.svg``; ``--docs`` puts the table
between the marks of that page and the plot beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STORYTELLER = ROOT / "plans" / "models"
sys.path[:0] = [str(HERE), str(ROOT), str(STORYTELLER / "storyteller")]

from compare_llama_cpp import Peer  # noqa: E402
from quality_report import write_report  # noqa: E402

RECIPES = ("q8_0", "q6_k", "q4_k_m")
IMPORTANCE = ("q6_k", "q4_k_m")
SIDES = ("engine", "llama.cpp")
PLAN = """\
version: 1
name: {name}
model: {model}
backend: {backend}
quantization: {quantization}
execution: {{threads: {threads}, context: {context}, slots: 1, step_tokens: 256, kv_cache: f16}}
"""


class Comparison:
    """Files, plans and results of one run, in a folder."""

    def __init__(self, a: argparse.Namespace) -> None:
        self.a, self.folder = a, a.out.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.peer = Peer(a.peer)

    def plan(self, name: str, model: Path, quantization: str) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(
            PLAN.format(
                name=name,
                model=model.resolve(),
                backend=self.a.backend,
                quantization=quantization,
                threads=self.a.threads,
                context=self.a.context,
            )
        )
        return path

    def engine(self, *arguments: object) -> dict[str, Any]:
        """The JSON of a command of the engine, in a process of its own."""
        command = [sys.executable, "-m", "runtime.cli", *map(str, arguments), "--json"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        return dict(json.loads(done.stdout))

    def quantize(self, side: str, source: Path, recipe: str, target: Path) -> float:
        """Seconds, in a process that is warm: ours in this one, the peer's in its own."""
        if side == "llama.cpp":
            return float(
                self.peer.ask(
                    do="quantize",
                    source=str(source.resolve()),
                    target=str(target),
                    type=recipe,
                    threads=self.a.threads,
                )["seconds"]
            )
        from runtime.cli.quantize import quantize

        plan = self.plan(f"make-{recipe}", source, recipe)
        begin = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            quantize(str(plan), target, errors=False, as_json=True)
        return time.perf_counter() - begin

    def files(self) -> dict[tuple[str, str], Path]:
        made = {}
        for recipe in RECIPES:
            for side in SIDES:
                made[side, recipe] = target = self.folder / f"{side}-{recipe}.gguf"
                self.quantize(side, self.a.model, recipe, target)
        return made

    def speed(self) -> dict[str, Any]:
        """Seconds of both quantizers on a larger model, in alternating rounds."""
        found = []
        target = self.folder / "speed.gguf"
        for recipe in RECIPES:
            seconds: dict[str, list[float]] = {side: [] for side in SIDES}
            for round in range(self.a.rounds + 1):
                for side in SIDES:
                    taken = self.quantize(side, self.a.speed, recipe, target)
                    if round:  # the first brings the files into the page cache
                        seconds[side].append(taken)
            found.append({"recipe": recipe, "seconds": seconds})
        target.unlink()
        return {"bytes": self.a.speed.stat().st_size, "threads": self.a.threads, "recipes": found}

    def judge(self, files: dict[tuple[str, str], Path]) -> dict[str, Any]:
        """The engine's judgement of all files, and of the recipes compiled from the F16 file."""
        original = self.plan("f16", self.a.model, "f16")
        plans = [
            self.plan(f"{side}-{recipe}".replace(".", ""), path, "source")
            for (side, recipe), path in files.items()
        ]
        options = ("--text", self.a.text, "--context", self.a.context, "--reference", original)
        return self.engine("eval", original, *plans, *options)

    def importance(self) -> dict[str, Any]:
        """Our recipes with an importance matrix made by the engine, judged as the others are."""
        text, matrix = self.folder / "calibration.txt", self.folder / "imatrix.gguf"
        text.write_text(training_text(self.a.calibrate), "utf-8")
        options = ("--text", text, "--context", self.a.context, "--out", matrix, "--process-output")
        made = self.engine("imatrix", self.a.model, *options)
        plans = [
            self.plan(f"importance-{recipe}", self.a.model, f"{{recipe: {recipe}, imatrix: {matrix}}}")
            for recipe in IMPORTANCE
        ]
        original = self.plan("f16", self.a.model, "f16")
        judged = self.engine(
            "eval", *plans, "--text", self.a.text, "--context", self.a.context, "--reference", original
        )
        rows = [
            {"recipe": recipe, **row} for recipe, row in zip(IMPORTANCE, judged["evaluations"], strict=True)
        ]
        return {"tokens": made["tokens"], "rows": rows}

    def judge_by_peer(self, files: dict[tuple[str, str], Path]) -> list[float]:
        """Mean KL divergence of each file by the peer's own logits, against its F16 logits."""
        from runtime.cli.tokenize import tokenizer_of
        from runtime.laboratory.evaluate import cut
        from runtime.metrics.quality import Scores, score_rows

        windows = cut(tokenizer_of(str(self.a.model)), self.a.text.read_text("utf-8"), self.a.context)
        models = [self.a.model.resolve(), *files.values()]
        for number, model in enumerate(models):
            self.peer.ask(
                do="load", name=str(number), model=str(model), threads=self.a.threads, context=self.a.context
            )
        scores = [Scores() for _ in models]
        judged = slice(windows.first, windows.context - 1)
        for window in windows.ids:
            rows = []
            for number in range(len(models)):
                output = self.folder / f"peer-{number}.npy"
                self.peer.ask(do="logits", name=str(number), tokens=window.tolist(), output=str(output))
                rows.append(np.load(output)[judged])
            score_rows(rows, window[windows.first + 1 :], scores, reference=0)
        for number in range(len(models)):
            self.peer.ask(do="unload", name=str(number))
            (self.folder / f"peer-{number}.npy").unlink()
        found = [score.quality(windows.per_window).kl_divergence for score in scores[1:]]
        return [kl.mean for kl in found if kl is not None]

    def quality(self) -> dict[str, Any]:
        """What both judges say of all files."""
        files = self.files()
        judged = self.judge(files)
        by_peer = self.judge_by_peer(files)
        original, *others = judged["evaluations"]
        rows = [
            {"side": side, "recipe": recipe, "kl_by_peer": mean, **row}
            for (side, recipe), mean, row in zip(files, by_peer, others, strict=True)
        ]
        return {
            "model": self.a.model.name,
            "text": {**judged["text"], "file": self.a.text.name},
            "peer": self.peer.ask(do="info")["version"],
            "f16": original,
            "rows": rows,
        }


def heldout_text(characters: int) -> str:
    """Of the storyteller's grammar, from the seed that training never uses; so many in each language."""
    import corpus

    return "\n".join(corpus.heldout(language, characters) for language in ("en", "pt"))


def training_text(documents: int) -> str:
    """The first documents that the storyteller was trained on, without the marks between turns."""
    import corpus

    text = "\n\n".join(corpus.document(corpus.TRAIN_SEED, number) for number in range(documents))
    for mark in (corpus.START, corpus.END, corpus.IM_START, corpus.IM_END):
        text = text.replace(mark, "\n")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--model", type=Path, default=STORYTELLER / "storyteller-f16.gguf")
    parser.add_argument("--text", type=Path, default=STORYTELLER / "storyteller" / "heldout.txt")
    parser.add_argument("--characters", type=int, help="of a longer held-out text, in each language")
    parser.add_argument("--only", choices=("quality", "importance", "speed"), help="keep the others")
    parser.add_argument("--calibrate", type=int, default=0, help="documents for an importance matrix")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--backend", default="cpu_avx2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--speed", type=Path, help="a larger F16 model to time both quantizers on")
    parser.add_argument("--rounds", type=int, default=3, help="of the timing")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, help="the page whose table is to be replaced")
    a = parser.parse_args()
    if (a.only == "speed" and not a.speed) or (a.only == "importance" and not a.calibrate):
        parser.error("--only speed needs --speed MODEL, --only importance --calibrate DOCUMENTS")
    comparison, path = Comparison(a), a.out / "results.json"
    result: dict[str, Any] = {"speed": None, "importance": None}
    if a.only:
        result |= json.loads(path.read_text("utf-8"))
    if a.characters:
        a.text = a.out / f"heldout-{a.characters}.txt"
        a.text.write_text(heldout_text(a.characters), "utf-8")
    if a.only in (None, "quality"):
        result |= {"importance": None, **comparison.quality()}
    if a.calibrate and a.only in (None, "importance"):
        result["importance"] = comparison.importance()
    if a.speed and a.only in (None, "speed"):
        result["speed"] = comparison.speed()
    comparison.peer.close()
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    write_report(a.out, a.docs)


if __name__ == "__main__":
    main()
