"""The picture of the CPU's ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.cpu_report import name_of, threads_of
from bench.cpu_results import Document, Figure
from bench.plot import TITLES, ratio_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

# By implementation, and what the legend calls it.
MARKS = {
    "eager": ("affine_grid + grid_sample", "o", "tab:blue"),
    "compiled": ("torch.compile of it", "s", "tab:orange"),
    "plain": ("tstn on plain PyTorch", "D", "tab:green"),
}


def draw(document: Document) -> Drawing:
    """Times relative to the kernels', a panel for each direction, a line for each workload."""
    from matplotlib.figure import Figure as Drawing

    figures: list[Figure] = [f for f in document["cases"] if f["implementations"]["native"]["times"] is not None]
    workloads = list(dict.fromkeys(figure["workload"] for figure in figures))
    directions = [title for title in TITLES if any(figure["direction"] == title for figure in figures)]
    if not figures:
        raise ValueError("there is nothing to draw: the kernels have no times")
    drawing = Drawing(figsize=(4 + 3 * len(directions), 2 + 0.22 * len(workloads)), layout="constrained")
    panels = drawing.subplots(1, len(directions), sharey=True, squeeze=False)[0]
    for panel, direction in zip(panels, directions, strict=True):
        shown = [figure for figure in figures if figure["direction"] == direction]
        _panel(panel, shown, workloads, threads_of(figures))
        panel.set_title(TITLES[direction], fontsize="medium")
    panels[0].set_yticks(range(len(workloads)), workloads, fontsize="small")
    panels[0].set_ylim(len(workloads) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    columns = len(threads_of(figures))
    drawing.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small", frameon=False)
    machine, versions = document["machine"], document["versions"]
    title = f"{machine['cpu']}, tstn {versions['tstn']}, PyTorch {versions['torch']}: time relative to the kernels'"
    drawing.suptitle(title, fontsize="medium")
    return drawing


def _panel(panel: Axes, figures: Sequence[Figure], workloads: Sequence[str], threads: dict[int, str]) -> None:
    lines_of = {workload: line for line, workload in enumerate(workloads)}
    for place, (count, clock) in enumerate(threads.items()):
        for name, (label, marker, colour) in MARKS.items():
            points = []
            for figure in figures:
                times = figure["implementations"].get(name, {}).get("times")
                if figure["threads"] == count and times is not None:
                    own = figure["implementations"]["native"]["times"]["median_s"]
                    points.append((times["median_s"] / own, lines_of[figure["workload"]]))
            x, y = zip(*points, strict=True) if points else ((), ())
            face = colour if place == 0 else "none"
            legend = f"{label}, {name_of(count)}, {clock} time"
            panel.scatter(x, y, marker=marker, s=22, facecolors=face, edgecolors=colour, label=legend, zorder=3)
    ratio_axis(panel)
