"""From lowered plan to files: the shared object, the weights, the bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compiler.build import build_shared_object
from compiler.build.toolchain import find_toolchain
from compiler.lower import Lowered
from compiler.model.description import ModelDescription
from compiler.plan import Plan, locate_imatrix
from compiler.quantize.imatrix import ImportanceMatrix, read_importance
from compiler.quantize.weights import weights_key, write_weights
from compiler.vocabulary import build_vocabulary
from runtime.bundle import format, store
from runtime.bundle.format import CompilerEntry, Manifest, TensorEntry
from runtime.bundle.plan import ResolvedPlan
from runtime.bundle.reader import is_bundle, open_bundle
from runtime.bundle.shortcut import builder_digest
from runtime.bundle.writer import write_bundle
from runtime.errors import EngineError
from runtime.version import ENGINE_VERSION

#: ``progress(stage, done, total)`` of long work.
Progress = Callable[[str, int, int], None]


def write_sources(folder: Path, plan: ResolvedPlan, lowered: Lowered) -> Path:
    """Writes what can be reviewed without a compiler: the plan, the graph and the C; returns the folder."""
    files = {format.PLAN: plan.to_bytes(lowered.types), format.GRAPH: lowered.graph.to_text().encode()}
    files |= {f"{format.KERNELS_DIR}/{name}": text.encode() for name, text in lowered.emitted.sources.items()}
    try:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    except OSError as cause:
        raise store.file_error(cause, folder) from cause
    return folder


def ensure_bundle(
    declared: Plan,
    plan: ResolvedPlan,
    model: ModelDescription,
    lowered: Lowered,
    out: Path | None,
    progress: Progress | None,
) -> Path:
    """The bundle of ``plan``: an earlier one of this very builder, or a new one.

    ``out``: its folder, or None for the store. One process builds a bundle while others
    wait for it. Raises what building, quantizing and writing raise.
    """
    final = out if out is not None else store.bundle_path(plan.name, plan.digest)
    with store.locked(final):
        if _is_current(final, plan):
            return final
        # What can fail early does so before the weights are quantized.
        find_toolchain()
        vocabulary = build_vocabulary(model)
        importance = _importance(declared, model)
        weights = _weights(model, plan, lowered, importance, progress)
        with store.temporary_dir(store.cache_root()) as work:
            built = build_shared_object(
                lowered.emitted.sources,
                lowered.backend.cflags,
                work / format.SHARED_OBJECT,
                units=lowered.emitted.units,
            )
            files: dict[str, bytes | Path] = {
                format.PLAN: plan.to_bytes(lowered.types),
                format.GRAPH: lowered.graph.to_text().encode(),
                format.SHARED_OBJECT: work / format.SHARED_OBJECT,
                format.WEIGHTS: weights,
                **vocabulary,
            }
            for name, text in lowered.emitted.sources.items():
                files[f"{format.KERNELS_DIR}/{name}"] = text.encode()
            compiler = CompilerEntry(built.compiler, built.version, built.flags)
            return write_bundle(final, _manifest(plan, model, lowered, compiler), files)


def _is_current(final: Path, plan: ResolvedPlan) -> bool:
    """Whether ``final`` is a whole bundle of this plan made by this builder."""
    if not is_bundle(final):
        return False
    try:
        bundle = open_bundle(final)
    except EngineError:
        return False  # damaged, or of a CPU this is not: building again mends the first, explains the second
    manifest = bundle.manifest
    return manifest.plan_digest == plan.digest and manifest.builder == builder_digest()


def _importance(declared: Plan, model: ModelDescription) -> ImportanceMatrix | None:
    path = locate_imatrix(declared)
    if path is None:
        return None
    importance = read_importance(path)
    importance.check(model)
    return importance


def _weights(
    model: ModelDescription,
    plan: ResolvedPlan,
    lowered: Lowered,
    importance: ImportanceMatrix | None,
    progress: Progress | None,
) -> Path:
    key = weights_key(model, lowered.tensors, plan.quantization.imatrix)

    def report(done: int, total: int, name: str) -> None:
        if progress is not None:
            progress(f"quantizing to {plan.quantization.recipe}", done, total)

    return store.stored_weights(
        key, lambda path: write_weights(model, lowered.tensors, path, report, importance=importance)
    )


def _manifest(
    plan: ResolvedPlan, model: ModelDescription, lowered: Lowered, compiler: CompilerEntry
) -> Manifest:
    packed = {tensor.name: tensor for tensor in lowered.tensors}
    tensors = tuple(
        TensorEntry(
            name=decided.name,
            shape=model.tensors[decided.name].shape,
            source_type=decided.source_type,
            type=packed[decided.name].format,
            reason=decided.reason,
            offset=packed[decided.name].offset,
            nbytes=packed[decided.name].nbytes,
        )
        for decided in lowered.types
        if decided.name in packed
    )
    return Manifest(
        name=plan.name,
        engine_version=ENGINE_VERSION,
        builder=builder_digest(),
        plan_digest=plan.digest,
        model_name=model.name,
        model_digest=model.digest,
        architecture=model.architecture,
        backend=plan.backend,
        quantization=plan.quantization.recipe,
        cpu_features=lowered.backend.cpu_features,
        compiler=compiler,
        files={},
        tensors=tensors,
        details=lowered.details(),
    )
