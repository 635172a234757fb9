"""llama.cpp through llama-cpp-python's C API: timings, logits and quantized files to compare with.

Run it with the Python of an environment that has llama-cpp-python (README.md beside it
says how to build one). One command and done:

    python peer.py time model.gguf -p 512 -n 64 -t 2 [--no-repack]
    python peer.py logits model.gguf --tokens ids.txt -o logits.npy [--no-repack]
    python peer.py quantize f16.gguf q4.gguf q4_k_m
    python peer.py info

or ``python peer.py serve``: one JSON command a line on stdin, one JSON reply a line on
stdout, the loaded models staying in memory, so that rounds can alternate with another
program. Commands (``do``): ``load`` (name, model, threads, repack, context, batch,
ubatch, sequences, flash), ``time`` (name, prefill, decode, depth, sequences), ``logits``
(name, tokens, output), ``unload`` (name), ``quantize`` (source, target, type, threads),
``info``, ``quit``. A command that fails answers ``{"error": …}``.

Repacking of weights for the CPU is llama.cpp's default where it has a layout for the
type; ``repack: false`` (``llama_model_params.use_extra_bufts``) keeps the file's layout.
The reply to ``load`` says how many MiB were really repacked, read from the log.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp as api
import numpy as np

QUANTIZED = {
    "q8_0": api.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q6_k": api.LLAMA_FTYPE_MOSTLY_Q6_K,
    "q4_k_m": api.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "f16": api.LLAMA_FTYPE_MOSTLY_F16,
}
CACHE = {"f32": 0, "f16": 1, "q8_0": 8}  # ggml_type
_log: list[str] = []


@api.llama_log_callback
def _keep_log(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """The library's log, kept (the last 2000 lines) instead of printed."""
    _log.append(text.decode("utf-8", "replace"))
    del _log[:-2000]


def _fail(message: str) -> RuntimeError:
    return RuntimeError(f"{message}: " + "".join(_log[-6:]).strip())


class Model:
    """A model and a context of it. ``sequences`` share nothing; each may hold ``context`` tokens."""

    def __init__(
        self,
        model: str,
        threads: int = 2,
        repack: bool = True,
        context: int = 1024,
        batch: int = 512,
        ubatch: int = 512,
        sequences: int = 1,
        flash: bool | None = None,
        cache: str = "f16",
    ) -> None:
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = repack
        mark = len(_log)
        self.model = api.llama_model_load_from_file(model.encode(), params)
        if not self.model:
            raise _fail(f"cannot load {model}")
        settings = api.llama_context_default_params()
        settings.n_ctx = context * sequences
        settings.n_batch, settings.n_ubatch = batch, min(ubatch, batch)
        settings.n_seq_max = sequences
        settings.n_threads = settings.n_threads_batch = threads
        settings.type_k = settings.type_v = CACHE[cache]
        settings.no_perf = True
        if flash is not None:
            settings.flash_attn_type = 1 if flash else 0
        self.context = api.llama_init_from_model(self.model, settings)
        if not self.context:
            raise _fail("cannot make a context")
        text = "".join(_log[mark:])
        self.repacked_mib = sum(
            float(m[1]) for m in re.finditer(r"CPU_REPACK model buffer size\s*=\s*([\d.]+) MiB", text)
        )
        self.batch_size = batch
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.memory = api.llama_get_memory(self.context)
        self.batch = api.llama_batch_init(batch, 0, 1)

    def close(self) -> None:
        api.llama_batch_free(self.batch)
        api.llama_free(self.context)
        api.llama_model_free(self.model)

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], want: Sequence[bool]
    ) -> None:
        """One llama_decode of at most ``batch`` tokens, finished when this returns."""
        b = self.batch
        b.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(
            zip(tokens, positions, sequences, want, strict=True)
        ):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, position, 1, wanted
            b.seq_id[i][0] = sequence
        status = api.llama_decode(self.context, b)
        if status != 0:
            raise _fail(f"llama_decode returned {status}")
        api.llama_synchronize(self.context)

    def fill(self, tokens: Sequence[int], start: int, sequence: int) -> None:
        """Process tokens of one sequence from position ``start`` on; logits of the last one only."""
        for begin in range(0, len(tokens), self.batch_size):
            part = tokens[begin : begin + self.batch_size]
            last = begin + len(part) == len(tokens)
            self.decode(
                part,
                range(start + begin, start + begin + len(part)),
                [sequence] * len(part),
                [False] * (len(part) - 1) + [last],
            )

    def time(self, prefill: int, decode: int, depth: int = 0, sequences: int = 1) -> dict[str, float]:
        """Seconds of ``prefill`` tokens after ``depth`` others, then of ``decode`` steps in which
        each of ``sequences`` gets a token. As llama-bench: random tokens, no sampling."""
        rng = np.random.default_rng(prefill + decode)

        def draw(n: int) -> list[int]:
            return [int(t) for t in rng.integers(0, min(self.vocabulary, 100_000), n)]

        api.llama_memory_clear(self.memory, False)
        for sequence in range(sequences):
            if depth:
                self.fill(draw(depth), 0, sequence)
        tokens = draw(prefill)
        begin = time.perf_counter()
        if prefill:
            self.fill(tokens, depth, 0)
        middle = time.perf_counter()
        starts = [depth + (prefill if s == 0 else 0) for s in range(sequences)]
        drawn = [draw(sequences) for _ in range(decode)]
        again = time.perf_counter()
        for step in range(decode):
            self.decode(drawn[step], [p + step for p in starts], range(sequences), [True] * sequences)
        return {"prefill_s": middle - begin, "decode_s": time.perf_counter() - again}

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 (tokens, vocabulary): the logits after each of the tokens."""
        api.llama_memory_clear(self.memory, True)
        rows = np.empty((len(tokens), self.vocabulary), np.float32)
        for begin in range(0, len(tokens), self.batch_size):
            part = tokens[begin : begin + self.batch_size]
            self.decode(part, range(begin, begin + len(part)), [0] * len(part), [True] * len(part))
            pointer = api.llama_get_logits(self.context)
            rows[begin : begin + len(part)] = np.ctypeslib.as_array(pointer, (len(part), self.vocabulary))
        return rows


def quantize(source: str, target: str, type: str, threads: int = 2) -> dict[str, float]:
    """llama-quantize: the time it took, and the size of the result."""
    params = api.llama_model_quantize_default_params()
    params.nthread, params.ftype = threads, QUANTIZED[type]
    begin = time.perf_counter()
    if api.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) != 0:
        raise _fail(f"cannot quantize {source}")
    return {"seconds": time.perf_counter() - begin, "bytes": Path(target).stat().st_size}


def info() -> dict[str, Any]:
    return {"version": api.__version__, "system": api.llama_print_system_info().decode()}


class Server:
    """Carries out commands; the models it has loaded are known by name."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}

    def load(self, name: str, **settings: Any) -> dict[str, Any]:
        if name in self.models:
            raise RuntimeError(f"{name} is loaded already")
        self.models[name] = Model(**settings)
        return {"repacked_mib": self.models[name].repacked_mib, "vocabulary": self.models[name].vocabulary}

    def unload(self, name: str) -> dict[str, Any]:
        self.models.pop(name).close()
        return {}

    def time(self, name: str, **settings: Any) -> dict[str, float]:
        return self.models[name].time(**settings)

    def logits(self, name: str, tokens: list[int], output: str) -> dict[str, Any]:
        rows = self.models[name].logits(tokens)
        np.save(output, rows)
        return {"shape": rows.shape}

    def answer(self, line: str) -> dict[str, Any]:
        commands: dict[str, Callable[..., dict[str, Any]]] = {
            "load": self.load,
            "unload": self.unload,
            "time": self.time,
            "logits": self.logits,
            "quantize": quantize,
            "info": info,
        }
        try:
            command = json.loads(line)
            return commands[command.pop("do")](**command)
        except Exception as error:  # a wrong command must not end the process that holds the models
            return {"error": f"{type(error).__name__}: {error}"}

    def run(self) -> None:
        for line in sys.stdin:
            if line.strip() == '{"do": "quit"}':
                break
            print(json.dumps(self.answer(line)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve")
    commands.add_parser("info")
    timing, scores = commands.add_parser("time"), commands.add_parser("logits")
    for sub in (timing, scores):
        sub.add_argument("model")
        sub.add_argument("-t", "--threads", type=int, default=2)
        sub.add_argument("-ub", "--ubatch", type=int, default=512)
        sub.add_argument("--no-repack", action="store_true")
        sub.add_argument("--kv-cache", choices=CACHE, default="f16")
        sub.add_argument("--flash", choices=("on", "off"), help="default: the library decides")
    timing.add_argument("-p", "--prefill", type=int, default=512)
    timing.add_argument("-n", "--decode", type=int, default=64)
    timing.add_argument("-d", "--depth", type=int, default=0)
    timing.add_argument("-s", "--sequences", type=int, default=1)
    timing.add_argument("-r", "--rounds", type=int, default=5)
    scores.add_argument("--tokens", type=Path, required=True, help="ids separated by commas or spaces")
    scores.add_argument("-o", "--output", required=True)
    making = commands.add_parser("quantize")
    making.add_argument("source")
    making.add_argument("target")
    making.add_argument("type", choices=sorted(QUANTIZED))
    making.add_argument("-t", "--threads", type=int, default=2)
    a = parser.parse_args()
    api.llama_log_set(_keep_log, ctypes.c_void_p(0))
    api.llama_backend_init()
    if a.command == "serve":
        Server().run()
        return
    if a.command == "info":
        print(json.dumps(info()))
        return
    if a.command == "quantize":
        print(json.dumps(quantize(a.source, a.target, a.type, a.threads)))
        return
    settings: dict[str, Any] = {
        "threads": a.threads,
        "repack": not a.no_repack,
        "ubatch": a.ubatch,
        "cache": a.kv_cache,
        "flash": None if a.flash is None else a.flash == "on",
    }
    if a.command == "logits":
        ids = [int(t) for t in re.split(r"[,\s]+", a.tokens.read_text().strip())]
        model = Model(a.model, context=len(ids), **settings)
        np.save(a.output, model.logits(ids))
        print(json.dumps({"tokens": len(ids), "repacked_mib": model.repacked_mib}))
        return
    model = Model(a.model, context=a.depth + a.prefill + a.decode, sequences=a.sequences, **settings)
    model.time(min(a.prefill, 64), 2, 0, a.sequences)
    rounds = [model.time(a.prefill, a.decode, a.depth, a.sequences) for _ in range(a.rounds)]
    print(
        json.dumps(
            {
                "repacked_mib": model.repacked_mib,
                "rounds": rounds,
                "prefill_tokens_per_s": [a.prefill / r["prefill_s"] for r in rounds],
                "decode_tokens_per_s": [a.decode * a.sequences / r["decode_s"] for r in rounds],
            }
        )
    )


if __name__ == "__main__":
    main()
