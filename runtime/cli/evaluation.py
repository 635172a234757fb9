"""What ``engine eval`` measured, for people and for programs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.bundle.reader import Bundle
from runtime.cli.output import table
from runtime.metrics.quality import Estimate, Quality

if TYPE_CHECKING:
    from compiler.quantize.error import TensorError
    from runtime.laboratory.evaluate import Windows


@dataclass(frozen=True)
class Subject:
    """A plan with a quantization: one row of the table. ``document`` is the plan as a tree."""

    plan: str
    label: str
    document: dict[str, Any]
    model: Path
    bundle: Bundle

    @property
    def bytes_per_weight(self) -> float:
        """Of the packed weights that a run of it reads."""
        tensors = self.bundle.manifest.tensors
        return sum(t.nbytes for t in tensors) / sum(math.prod(t.shape) for t in tensors)


@dataclass(frozen=True)
class Row:
    """What was measured of a subject; ``errors`` None where its weights have nothing to be compared with."""

    subject: Subject
    quality: Quality
    errors: tuple[TensorError, ...] | None


def as_text(text: Path, windows: Windows, base: Row | None, rows: list[Row], tensors: bool) -> str:
    """For people: what was read, a table of all rows, a table of the weights' errors by type.

    ``base``: the reference's row; ``tensors``: every tensor's error as well.
    """
    parts = [
        f"{text}: {windows.tokens} tokens, {len(windows.ids)} windows of {windows.context}, "
        f"{windows.scored} positions judged (the second half of each window)",
        _summary(base, rows),
    ]
    if any(row.errors for row in rows):
        parts.append(f"error of the weights\n{_error_table(rows, tensors)}")
    return "\n\n".join(parts)


def _name(row: Row, rows: list[Row]) -> str:
    plans = {r.subject.plan for r in rows}
    return row.subject.label if len(plans) == 1 else f"{row.subject.plan}: {row.subject.label}"


def _summary(base: Row | None, rows: list[Row]) -> str:
    header = ("quantization", "bytes/weight", "perplexity", "ratio", "KL mean", "KL 99.9 %", "KL max")
    header_end = ("same top", "Δp rms", "weights' error")
    named = [] if base is None else [(f"{base.subject.label}, reference", base)]
    named += [(_name(row, rows), row) for row in rows]
    lines = [_line(name, row, compared=row is not base) for name, row in named]
    return table(lines, (*header, *header_end))


def _line(name: str, row: Row, compared: bool) -> tuple[str, ...]:
    from compiler.quantize.error import together

    q = row.quality
    left = (name, f"{row.subject.bytes_per_weight:.3f}", _pm(q.perplexity, 4))
    right = _percent(together(row.errors)) if row.errors else "-"
    if not compared or q.kl_divergence is None or q.perplexity_ratio is None:
        return (*left, *["-"] * 6, right)
    kl = q.kl_divergence
    return (
        *left,
        _pm(q.perplexity_ratio, 5),
        _pm(Estimate(kl.mean, kl.error), 6),
        f"{kl.p99_9:.6f}",
        f"{kl.largest:.6f}",
        f"{100 * (q.top_token_agreement or 0):.2f} %",
        f"{100 * (q.probability_change_rms or 0):.3f} %",
        right,
    )


def _pm(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} ± {estimate.error:.{digits}f}"


def _percent(error: TensorError) -> str:
    return f"{100 * error.relative:.3f} %"


def _error_table(rows: list[Row], tensors: bool) -> str:
    from compiler.quantize.error import by_type, together

    lines: list[tuple[str, ...]] = []
    for row in rows:
        if not row.errors:
            continue
        kinds = by_type(row.errors)
        whole = [together(row.errors, f"{len(row.errors)} tensors")] if len(kinds) > 1 else []
        for e in [*(row.errors if tensors else ()), *kinds, *whole]:
            cells = (_name(row, rows), e.name, e.type, f"{e.weights}", f"{e.bits_per_weight:.3f}")
            lines.append((*cells, f"{e.rmse:.3e}", _percent(e), f"{e.largest:.3e}"))
    header = ("quantization", "tensors", "type", "weights", "bits/weight", "rmse", "relative", "largest")
    return table(lines, header)


def to_json(
    text: Path, windows: Windows, base: Row | None, rows: list[Row], notes: list[str]
) -> dict[str, object]:
    """For programs: everything that was measured, every tensor's error included."""
    return {
        "text": {"file": str(text), **windows.to_json()},
        "reference": None if base is None else _row_json(base),
        "evaluations": [_row_json(row) for row in rows],
        "notes": notes,
    }


def _row_json(row: Row) -> dict[str, object]:
    from compiler.quantize.error import by_type, together

    manifest = row.subject.bundle.manifest
    body: dict[str, object] = {
        "plan": row.subject.plan,
        "model": manifest.model_name,
        "quantization": row.subject.label,
        "backend": manifest.backend,
        "bytes_per_weight": row.subject.bytes_per_weight,
        **row.quality.to_json(),
    }
    if row.errors:
        body["weights_error"] = {
            "relative_rmse": together(row.errors).relative,
            "by_type": [_error_json(error) for error in by_type(row.errors)],
            "tensors": [_error_json(error) for error in row.errors],
        }
    return body


def _error_json(error: TensorError) -> dict[str, object]:
    return {
        "name": error.name,
        "type": error.type,
        "weights": error.weights,
        "bits_per_weight": error.bits_per_weight,
        "rmse": error.rmse,
        "relative_rmse": error.relative,
        "largest_error": error.largest,
    }
