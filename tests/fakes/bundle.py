"""A bundle around ``engine.c``: real in everything but the arithmetic.

Its vocabulary is the 256 bytes (id = byte), then <end> and <begin>.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

from compiler.build import build_shared_object
from compiler.vocabulary.serialize import byte_alphabet, tokenizer_json, vocabulary_json
from compiler.vocabulary.vocabulary import TokenType, Vocabulary
from runtime.bundle.format import CompilerEntry, Manifest, TensorEntry
from runtime.bundle.plan import ResolvedPlan
from runtime.bundle.planfields import FIELDS
from runtime.bundle.writer import write_bundle
from runtime.version import ENGINE_VERSION

ROOT = Path(__file__).resolve().parents[2]
END, BEGIN, N_VOCAB = 256, 257, 258
POISON = 13
WEIGHTS = struct.pack("<i", 0x454E4746) + bytes(range(256)) * 15 + bytes(252)
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}assistant:"


def vocabulary() -> Vocabulary:
    pieces = (*byte_alphabet(), "<end>", "<begin>")
    return Vocabulary(
        kind="bpe",
        pre="gpt-2",
        pieces=pieces,
        scores=(),
        merges=(),
        types=(TokenType.NORMAL,) * 256 + (TokenType.CONTROL,) * 2,
        ids={"eos": END, "bos": BEGIN},
        eos_ids=(END,),
        rstrip_ids=(),
        add_bos=False,
        add_eos=False,
        add_space_prefix=False,
        chat_templates={"default": CHAT_TEMPLATE},
    )


@lru_cache(maxsize=32)
def shared_object(defines: tuple[str, ...] = ()) -> bytes:
    """``engine.c`` compiled, with macros like ``STEP_TOKENS=8``."""
    sources = {
        "engine.c": (Path(__file__).parent / "engine.c").read_text(),
        "engine_abi.h": (ROOT / "kernels_c/include/engine_abi.h").read_text(),
        "guard.c": (ROOT / "kernels_c/guard.c").read_text(),
    }
    out = Path(mkdtemp()) / "engine.so"
    build_shared_object(sources, ["-O1", *(f"-D{define}" for define in defines)], out, units=["engine.c"])
    return out.read_bytes()


def resolved_plan(**changes: object) -> ResolvedPlan:
    """A plan as the fake was compiled for; ``changes`` by path with ``__`` for dots."""
    values = {
        "version": 1,
        "name": "fake",
        "model": "fake.gguf",
        "model_digest": "ab" * 32,
        "backend": "reference",
        "quantization.recipe": "q8_0",
        "quantization.overrides": [],
        "quantization.requantize": False,
        "quantization.imatrix": None,
        "scheduler_policy": "default",
        "limits.max_tokens": 16,
        "limits.min_tokens": 0,
        "limits.on_limit": "stop",
        "limits.max_watts_advisory": False,
        "execution.threads": 1,
        "execution.context": 128,
        "execution.slots": 4,
        "execution.step_tokens": 32,
        "execution.kv_cache": "f32",
        "execution.kv_pages": None,
        "execution.prefix_cache": "memory",
        "execution.prefix_cache_mb": 64,
        "speculation.kind": "none",
        "speculation.tokens": 8,
        "sampling.temperature": 0.0,
        "sampling.top_k": 0,
        "sampling.top_p": 1.0,
        "sampling.min_p": 0.0,
        "sampling.typical_p": 1.0,
        "sampling.repetition_penalty": 1.0,
        "sampling.presence_penalty": 0.0,
        "sampling.frequency_penalty": 0.0,
        "sampling.dry_multiplier": 0.0,
        "sampling.dry_base": 1.75,
        "sampling.dry_allowed_length": 2,
        "sampling.dry_penalty_last_n": -1,
        "sampling.dry_sequence_breakers": ["\n", ":", '"', "*"],
        "sampling.xtc_probability": 0.0,
        "sampling.xtc_threshold": 0.1,
        "sampling.seed": 0,
        "observability.op_timing": False,
    }
    values |= {path.replace("__", "."): value for path, value in changes.items()}
    full = {field.path: values.get(field.path) for field in FIELDS}
    return ResolvedPlan.from_values(full, dict.fromkeys(full, "plan"))


def bundle_files(defines: Sequence[str] = (), plan: ResolvedPlan | None = None) -> dict[str, bytes | Path]:
    return {
        "plan.json": (plan or resolved_plan()).to_bytes(),
        "graph.txt": b"the graph\n",
        "kernels/engine.c": (Path(__file__).parent / "engine.c").read_bytes(),
        "kernels/engine_abi.h": (ROOT / "kernels_c/include/engine_abi.h").read_bytes(),
        "engine.so": shared_object(tuple(defines)),
        "weights.bin": WEIGHTS,
        "tokenizer.json": tokenizer_json(vocabulary()),
        "vocabulary.json": vocabulary_json(vocabulary()),
    }


def manifest(plan: ResolvedPlan | None = None, **changes: object) -> Manifest:
    plan = plan or resolved_plan()
    fields: dict[str, object] = {
        "name": plan.name,
        "engine_version": ENGINE_VERSION,
        "builder": "cd" * 32,
        "plan_digest": plan.digest,
        "model_name": "Fake",
        "model_digest": plan.model_digest,
        "architecture": "fake",
        "backend": plan.backend,
        "quantization": plan.quantization.recipe,
        "cpu_features": (),
        "compiler": CompilerEntry("gcc", "12", ("-O1",)),
        "files": {},
        "tensors": (TensorEntry("token_embd.weight", (258, 4), "f16", "q8_0", "the recipe", 0, 4096),),
    }
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def make_bundle(
    path: Path,
    defines: Sequence[str] = (),
    *,
    plan: ResolvedPlan | None = None,
    files: Mapping[str, bytes | Path] | None = None,
    **changes: object,
) -> Path:
    """Writes a bundle; ``defines`` shape the C, ``changes`` the manifest, ``files`` replace files."""
    contents = {**bundle_files(defines, plan), **(files or {})}
    return write_bundle(path, manifest(plan, **changes), contents)
