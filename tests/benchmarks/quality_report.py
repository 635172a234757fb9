"""Table and plot from the figures of ``quality.py``.

    python tests/benchmarks/quality_report.py build/quality [docs/quality.md]

reads ``results.json``, writes ``table.md`` and ``plot.svg``. With a page, what stands between its
lines BEGIN and END is replaced by the table, and the plot is copied beside it.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from statistics import median
from typing import Any

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def paired(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, float]:
    """Our mean KL divergence less theirs, and the standard error of that over the text's windows."""
    a, b = ours["kl_divergence"]["by_window"], theirs["kl_divergence"]["by_window"]
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / max(1, len(gaps) - 1))
    return mean, spread / math.sqrt(len(gaps))


def tensor_ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> list[tuple[str, float]]:
    """Each tensor's root mean square error, ours over theirs; of tensors that both round."""
    peer = {tensor["name"]: tensor for tensor in theirs["weights_error"]["tensors"]}
    found = []
    for tensor in ours["weights_error"]["tensors"]:
        other = peer[tensor["name"]]
        if tensor["type"] != other["type"]:
            raise ValueError(f"{tensor['name']}: {tensor['type']} here, {other['type']} there")
        if other["rmse"] > 0:
            found.append((tensor["name"], tensor["rmse"] / other["rmse"]))
    return found


def pairs(result: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Ours and theirs of every recipe."""
    rows = {(row["side"], row["recipe"]): row for row in result["rows"]}
    recipes = dict.fromkeys(row["recipe"] for row in result["rows"])
    return [(rows["engine", recipe], rows["llama.cpp", recipe]) for recipe in recipes]


def table(result: dict[str, Any]) -> str:
    """The markdown that goes into docs/quality.md."""
    text, f16 = result["text"], result["f16"]
    lines = [
        f"{result['model']}; {text['file']}: {text['tokens']} tokens, {text['windows']} windows of "
        f"{text['context']}, {text['positions']} positions judged.",
        "",
        "| weights | bytes/weight | perplexity | KL mean, 10⁻³ | KL 99.9 % | same top token | Δp rms "
        "| error of the weights |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    named = [("f16", f16), *((ours["recipe"], ours) for ours, _ in pairs(result))]
    if result["importance"]:
        named += [(f"{row['recipe']} + imatrix", row) for row in result["importance"]["rows"]]
    for name, row in named:
        kl = row["kl_divergence"]
        lines.append(
            f"| {name} | {row['bytes_per_weight']:.3f} "
            f"| {row['perplexity']:.4f} ± {row['perplexity_error']:.4f} "
            f"| {1e3 * kl['mean']:.3f} ± {1e3 * kl['error']:.3f} | {kl['p99_9']:.4f} "
            f"| {100 * row['top_token_agreement']:.2f} % | {100 * row['probability_change_rms']:.2f} % "
            f"| {100 * row['weights_error']['relative_rmse']:.3f} % |"
        )
    if result["importance"]:
        lines += ["", importance_line(result)]
    lines += [
        "",
        f"Beside llama-quantize (llama-cpp-python {result['peer']}), same file, same types:",
        "",
        "| recipe | KL mean, 10⁻³: engine | llama.cpp | difference | both by llama.cpp's own logits "
        "| error of the weights: engine | llama.cpp | tensors where ours is smaller |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for ours, theirs in pairs(result):
        gap, error = paired(ours, theirs)
        ratios = [ratio for _, ratio in tensor_ratios(ours, theirs)]
        means = [row["kl_divergence"]["mean"] for row in (ours, theirs)]
        lines.append(
            f"| {ours['recipe']} | {1e3 * means[0]:.3f} | {1e3 * means[1]:.3f} "
            f"| {100 * gap / means[1]:+.1f} % ± {100 * error / means[1]:.1f} "
            f"| {1e3 * ours['kl_by_peer']:.3f} : {1e3 * theirs['kl_by_peer']:.3f} "
            f"| {100 * ours['weights_error']['relative_rmse']:.3f} % "
            f"| {100 * theirs['weights_error']['relative_rmse']:.3f} % "
            f"| {sum(ratio < 1 for ratio in ratios)} of {len(ratios)} |"
        )
    if result["speed"]:
        lines += ["", speed_line(result["speed"])]
    return "\n".join(lines) + "\n"


def importance_line(result: dict[str, Any]) -> str:
    """What an importance matrix changed, paired by window, in a sentence."""
    plain = {ours["recipe"]: ours for ours, _ in pairs(result)}
    parts = []
    for row in result["importance"]["rows"]:
        gap, error = paired(row, plain[row["recipe"]])
        mean = plain[row["recipe"]]["kl_divergence"]["mean"]
        parts.append(f"{100 * gap / mean:+.1f} % ± {100 * error / mean:.1f} for {row['recipe']}")
    return (
        f"The importance matrix, of {result['importance']['tokens']} tokens the model was trained on, "
        f"changes the mean KL divergence by {', '.join(parts)}."
    )


def speed_line(speed: dict[str, Any]) -> str:
    """Seconds of both quantizers, medians, in a sentence."""
    parts = []
    for entry in speed["recipes"]:
        ours, theirs = (median(entry["seconds"][side]) for side in ("engine", "llama.cpp"))
        parts.append(f"{entry['recipe']} {ours:.1f} s against {theirs:.1f} s ({theirs / ours:.1f} x)")
    return (
        f"Time to quantize a file of {speed['bytes'] / 1e9:.2f} GB on {speed['threads']} threads, engine "
        f"against llama-quantize: {', '.join(parts)}."
    )


def plot(result: dict[str, Any], target: Path) -> bool:
    """KL divergence over bytes a weight, and each tensor's error relative to the peer's; False
    without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "engine"  # the same figures give the same file
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2))
    both = pairs(result)
    for index, (side, mark) in enumerate((("engine", "o-"), ("llama.cpp", "s--"))):
        rows = [pair[index] for pair in both]
        left.errorbar(
            [row["bytes_per_weight"] for row in rows],
            [row["kl_divergence"]["mean"] for row in rows],
            yerr=[row["kl_divergence"]["error"] for row in rows],
            fmt=mark,
            capsize=3,
            label=side,
        )
    for ours, _ in both:
        left.annotate(
            ours["recipe"],
            (ours["bytes_per_weight"], ours["kl_divergence"]["mean"]),
            textcoords="offset points",
            xytext=(6, 6),
        )
    left.set_yscale("log")
    left.margins(x=0.12, y=0.1)
    left.set_xlabel("bytes per weight")
    left.set_ylabel("KL divergence to f16, mean, nats")
    left.set_title(
        f"f16 itself: {result['f16']['kl_divergence']['mean']:g} at "
        f"{result['f16']['bytes_per_weight']:.2f} bytes",
        fontsize="medium",
    )
    left.grid(alpha=0.3)
    left.legend()
    for place, (ours, theirs) in enumerate(both):
        ratios = [ratio for _, ratio in tensor_ratios(ours, theirs)]
        spread = [place + 0.6 * (i / max(1, len(ratios) - 1) - 0.5) for i in range(len(ratios))]
        right.plot(spread, ratios, ".")
    right.axhline(1, linewidth=0.8, color="black")
    right.set_xticks(range(len(both)), [ours["recipe"] for ours, _ in both])
    right.set_ylabel("rms error of each tensor, engine / llama.cpp")
    right.set_title("below 1: ours is smaller", fontsize="medium")
    right.grid(alpha=0.3, axis="y")
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)
    return True


def replace_between(page: str, text: str) -> str:
    """The page with ``text`` between its two marks; ``ValueError`` where it lacks them."""
    head, begun, rest = page.partition(BEGIN)
    _, ended, tail = rest.partition(END)
    if not begun or not ended:
        raise ValueError(f"the page lacks the lines {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{text}\n{END}{tail}"


def write_report(folder: Path, docs: Path | None = None) -> None:
    """Writes ``table.md`` and ``plot.svg`` beside ``results.json``, and into the page."""
    result = json.loads((folder / "results.json").read_text("utf-8"))
    text = table(result)
    (folder / "table.md").write_text(text, "utf-8")
    drawn = plot(result, folder / "plot.svg")
    if not drawn:
        print("no plot: matplotlib is not installed (pip install 'engine[benchmark]')", file=sys.stderr)
    if docs is not None:
        docs.write_text(replace_between(docs.read_text("utf-8"), text), "utf-8")
        if drawn:
            shutil.copyfile(folder / "plot.svg", docs.with_suffix(".svg"))


if __name__ == "__main__":
    write_report(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
