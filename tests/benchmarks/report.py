"""Tables and plot from the figures of ``compare_llama_cpp.py``.

python tests/benchmarks/report.py results/     reads results.json, writes table.md, plot.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any


def best_peer(rates: dict[str, dict[str, list[float]]], arms: list[str], test: str) -> tuple[str, float]:
    """The peer's configuration with the highest median on this test, and that median."""
    name = max(arms, key=lambda arm: median(rates[arm][test]))
    return name, median(rates[name][test])


def step_bytes(test: dict[str, Any], entry: dict[str, Any]) -> float:
    """Bytes that a step of decode must read: weights once, of each sequence its KV."""
    context = test["depth"] + test["decode"] / 2
    return float(entry["weight_bytes"] + test["sequences"] * context * entry["kv_bytes_per_token"])


def round_shares(arm: str, test: dict[str, Any], entry: dict[str, Any]) -> list[float]:
    """Bytes a second that ``arm`` read in each round of decode, as shares of the bandwidth around it."""
    rounds = zip(entry["rates"][arm][test["name"]], entry["bandwidth"][arm][test["name"]], strict=True)
    return [rate / test["sequences"] * step_bytes(test, entry) / measured for rate, measured in rounds]


def bandwidth_share(arm: str, test: dict[str, Any], entry: dict[str, Any]) -> float | None:
    """The median of :func:`round_shares`; None for prefill, which is bound by arithmetic."""
    return None if test["prefill"] else median(round_shares(arm, test, entry))


def all_bandwidths(result: dict[str, Any]) -> list[float]:
    """Every look at the bandwidth, bytes a second, ascending."""
    return sorted(
        value
        for entry in result["quantizations"]
        for tests in entry["bandwidth"].values()
        for values in tests.values()
        for value in values
    )


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each quantization, test and backend: medians, ratio, share of the limit."""
    out = []
    for entry in result["quantizations"]:
        for test in result["tests"]:
            for backend, arms in result["against"].items():
                samples = entry["rates"][backend][test["name"]]
                ours = median(samples)
                name, peer = best_peer(entry["rates"], arms, test["name"])
                out.append(
                    {
                        "quantization": entry["quantization"],
                        "test": test["name"],
                        "backend": backend,
                        "ours": ours,
                        "spread": (max(samples) - min(samples)) / ours,
                        "peer": peer,
                        "peer_configuration": name.rsplit(f"{backend} ", 1)[1],
                        "ratio": ours / peer,
                        "share": bandwidth_share(backend, test, entry),
                        "peer_share": bandwidth_share(name, test, entry),
                    }
                )
    return out


def table(result: dict[str, Any]) -> str:
    """The markdown that goes into docs/performance.md."""
    versions = ", ".join(sorted({p["version"] for p in result["peer"].values()}))
    bandwidths = all_bandwidths(result)
    lines = [
        f"{result['model']}, {result['threads']} threads, {result['cpu']}; medians of {result['rounds']} "
        f"alternating rounds; read bandwidth, measured around each decode, "
        f"{bandwidths[0] / 1e9:.1f} to {bandwidths[-1] / 1e9:.1f} GB/s; llama-cpp-python {versions}, "
        f"the better of repacked and as stored.",
        "",
        "| weights | test | backend | t/s | spread | llama.cpp t/s | its best | ratio | share of limit |",
        "|---|---|---|---:|---:|---:|---|---:|---:|",
    ]
    for row in rows(result):
        share = "" if row["share"] is None else f"{row['share']:.0%} ({row['peer_share']:.0%})"
        lines.append(
            f"| {row['quantization']} | {row['test']} | {row['backend']} | {row['ours']:.1f} | "
            f"{row['spread']:.0%} | {row['peer']:.1f} | {row['peer_configuration']} | {row['ratio']:.2f} | "
            f"{share} |"
        )
    lines += [
        "",
        "Share of limit: bytes of weights and KV a step reads, times steps a second, over the "
        "bandwidth measured around the same round, the median; llama.cpp's in brackets.",
        "",
    ]
    return "\n".join(lines + rounds_table(result)) + "\n"


def rounds_table(result: dict[str, Any]) -> list[str]:
    """Our decode round by round, by the bandwidth it found, for memory whose speed changes within a run."""
    lines = [
        "Decode round by round: t/s, share of the GB/s measured around it.",
        "",
        "| weights | test | backend |" + " |" * result["rounds"],
        "|---|---|---|" + "---:|" * result["rounds"],
    ]
    for entry in result["quantizations"]:
        for test in result["tests"]:
            if test["prefill"] or test["sequences"] > 1:
                continue
            for backend in result["against"]:
                rounds = zip(
                    entry["bandwidth"][backend][test["name"]],
                    entry["rates"][backend][test["name"]],
                    round_shares(backend, test, entry),
                    strict=True,
                )
                cells = [
                    f"{rate:.1f}, {share:.0%} of {measured / 1e9:.0f}"
                    for measured, rate, share in sorted(rounds)
                ]
                lines.append(f"| {' | '.join([entry['quantization'], test['name'], backend, *cells])} |")
    return lines


def plot(result: dict[str, Any], target: Path) -> bool:
    """Bars of tokens a second (one panel a test) and of the share of the limit; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "engine"  # the same figures give the same file
    from matplotlib import pyplot

    data = rows(result)
    tests = [t["name"] for t in result["tests"]]
    quants = [e["quantization"] for e in result["quantizations"]]
    figure, axes = pyplot.subplots(2, len(tests), figsize=(3.6 * len(tests), 6.4), squeeze=False)
    series = [(b, side) for b in result["against"] for side in ("ours", "peer")]
    width = 0.8 / len(series)
    for column, test in enumerate(tests):
        for n, (backend, side) in enumerate(series):
            mine = [r for r in data if r["test"] == test and r["backend"] == backend]
            x = [i + (n - (len(series) - 1) / 2) * width for i in range(len(quants))]
            label = backend if side == "ours" else f"llama.cpp, for {backend}"
            shares = [r["share" if side == "ours" else "peer_share"] for r in mine]
            axes[0][column].bar(x, [r[side] for r in mine], width, label=label)
            if None not in shares:
                axes[1][column].bar(x, [100 * s for s in shares], width, label=label)
        axes[0][column].set_title(test)
        axes[0][column].set_ylabel("tokens/s")
        for row in (0, 1):
            axes[row][column].set_xticks(range(len(quants)), quants)
        if all(r["share"] is None for r in data if r["test"] == test):
            axes[1][column].set_axis_off()
        else:
            axes[1][column].set_ylabel("% of read bandwidth")
            axes[1][column].axhline(100, linewidth=0.8, color="black")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower left", fontsize="small")
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)
    return True


def write_report(folder: Path) -> None:
    """Writes ``table.md`` and ``plot.svg`` beside ``results.json``."""
    result = json.loads((folder / "results.json").read_text())
    (folder / "table.md").write_text(table(result))
    if not plot(result, folder / "plot.svg"):
        print("no plot: matplotlib is not installed (pip install 'engine[benchmark]')", file=sys.stderr)


if __name__ == "__main__":
    write_report(Path(sys.argv[1]))
