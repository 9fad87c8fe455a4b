"""Plots the speed-up over the baseline on one thread."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

from .case import OPERATIONS
from .report import HEADLINES, README_WORKLOADS, Results, baseline, differs, headline, times

# Okabe and Ito's colours, which the colour-blind can tell apart; the markers differ as well.
LOOKS = {
    "roidl": ("#D55E00", "o"),
    "torchvision": ("#000000", "_"),
    "onnxruntime": ("#0072B2", "s"),
    "openvino": ("#009E73", "D"),
    "tf-crop-and-resize": ("#CC79A7", "^"),
    "jax-gather": ("#56B4E9", "v"),
}


def save(results: Results, file: Path) -> None:
    """Write the PNG.

    Raises
    ------
    SystemExit
        If the results have no baseline.
    """
    peer = baseline(results)
    if peer is None:
        raise SystemExit("the results have no baseline to draw ratios to")
    figure, panels = plt.subplots(
        1, len(HEADLINES), figsize=(9, 3.6), sharey=True, layout="constrained"
    )
    shown = {}
    for panel, (operation, ours) in zip(panels, HEADLINES.items(), strict=True):
        for name, (colour, shape) in LOOKS.items():
            engine = ours if name == "roidl" else name
            for place, workload in enumerate(README_WORKLOADS):
                row = headline(results, engine, operation, workload)
                other = headline(results, peer, operation, workload)
                if row is None or other is None or engine == peer:
                    continue
                ratio = other["min"] / row["min"]
                label = name + " (other definition)" * differs(row)
                shown[label] = panel.scatter(
                    place,
                    ratio,
                    s=70 if name == "roidl" else 32,
                    marker=shape,
                    facecolors="none" if differs(row) else colour,
                    edgecolors=colour,
                    zorder=3,
                )
                if name == "roidl":
                    panel.annotate(
                        times(other, row),
                        (place, ratio),
                        xytext=(0, 7),
                        textcoords="offset points",
                        ha="center",
                        fontsize=9,
                        color=colour,
                        fontweight="bold",
                    )
        panel.axhline(1, color="black", linewidth=1)
        panel.set_yscale("log")
        panel.set_title(OPERATIONS[operation].title, fontsize=11)
        panel.set_xticks(range(len(README_WORKLOADS)), README_WORKLOADS)
        panel.set_xlim(-0.5, len(README_WORKLOADS) - 0.5)
        panel.grid(axis="y", which="major", color="0.85")
        panel.spines[["top", "right"]].set_visible(False)
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low, high * 1.5)  # room for the figures above the highest points
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel(f"times faster than {peer}", fontsize=10)
    figure.legend(
        shown.values(),
        shown.keys(),
        loc="outside lower center",
        ncols=len(shown),
        frameon=False,
        fontsize=10,
    )
    figure.savefig(file, dpi=200)
    plt.close(figure)
