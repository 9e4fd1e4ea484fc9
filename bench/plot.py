"""Draw results and write their table into the docs, losses included.

    python -m bench.plot                    from the newest results in bench/results
    python -m bench.plot --results FILE     from this file
    python -m bench.plot --docs DIR         into this folder's benchmarks.md (default: docs)

Whatever stands between the two marks in ``benchmarks.md`` is replaced; without results it says that there are none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.bars import GPU, gpu_bars
from bench.report import describe, lines
from bench.schema import RESULTS, Document, Figure, newest, read
from bench.tables import Row, markdown, ratios, rows_of
from bench.workloads import ZOOMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- python -m bench.plot: begin -->", "<!-- python -m bench.plot: end -->"
UNMEASURED = "**No GPU has been measured yet: there are no figures.**"
TITLES = {
    "forward": "forward",
    "step": "forward + backward",
    "step_theta": "forward + backward,\nno gradient of the input",
}
# By role, and what the legend calls it: the fastest implementation of the role is drawn.
MARKS = {
    "eager": ("affine_grid + grid_sample", "o", "tab:blue"),
    "compiled": ("torch.compile of it", "s", "tab:orange"),
    "peer": ("best other way", "D", "tab:green"),
    "reference": ("grid_sample, grid ready (no peer)", "|", "tab:gray"),
}
SCATTERS = {"tstn_scatter": "tstn's", "ready_grid": "PyTorch's"}
LOSS = "#f6dede"


def draw(document: Document) -> Drawing:
    """Times relative to tstn's, a panel for each direction and a line for each workload."""
    from matplotlib.figure import Figure as Drawing

    rows = rows_of(document["figures"], "gpu")
    rows = {key: row for key, row in rows.items() if "tstn" in row and key[1] in TITLES}
    workloads = list(dict.fromkeys(workload for workload, _ in rows))
    directions = [direction for direction in TITLES if any(direction == d for _, d in rows)]
    height = 1.8 + 0.22 * len(workloads)
    drawing = Drawing(figsize=(4 + 3 * len(directions), height), layout="constrained")
    panels = drawing.subplots(1, len(directions), sharey=True, squeeze=False)[0]
    for panel, direction in zip(panels, directions, strict=True):
        _panel(panel, {w: rows[w, direction] for w in workloads if (w, direction) in rows}, workloads)
        panel.set_title(TITLES[direction], fontsize="medium")
    panels[0].set_yticks(range(len(workloads)), workloads, fontsize="small")
    panels[0].set_ylim(len(workloads) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small", frameon=False)
    drawing.suptitle(f"{_machine(document)}: GPU time relative to tstn's", fontsize="medium")
    return drawing


def _panel(panel: Axes, rows: Mapping[str, Row], workloads: Sequence[str]) -> None:
    lines_of = {workload: line for line, workload in enumerate(workloads)}
    for role, (label, marker, colour) in MARKS.items():
        fastest = {w: _fastest(row, role) for w, row in rows.items()}
        places = [(ratio, lines_of[w]) for w, ratio in fastest.items() if ratio is not None]
        x, y = zip(*places, strict=True) if places else ((), ())
        panel.scatter(x, y, marker=marker, s=22, color=colour, label=label, zorder=3)
    ratio_axis(panel)


def ratio_axis(panel: Axes) -> None:
    """Factors along x, with what is a loss on another ground."""
    panel.set_xscale("log", base=2)
    panel.margins(x=0.1)
    left, right = panel.get_xlim()
    panel.set_xlim(min(left, 0.5), max(right, 2))
    panel.axvspan(1e-9, 1, color=LOSS, zorder=0)
    panel.axvline(1, color="black", linewidth=1)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    panel.grid(axis="both", linewidth=0.3, zorder=1)
    panel.tick_params(left=False)


def _fastest(row: Row, role: str) -> float | None:
    times = ratios(row, "gpu")
    return min((ratio for name, ratio in times.items() if row[name]["role"] == role), default=None)


def draw_zooms(document: Document) -> Drawing:
    """How much longer scatters take than the gather, over the zoom."""
    from matplotlib.figure import Figure as Drawing

    rows = rows_of(document["figures"], "gpu")
    zooms = {workload.id: workload for workload in ZOOMS}
    drawing = Drawing(figsize=(7, 4), layout="constrained")
    panel = drawing.subplots()
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (name, _), row in rows.items():
        if name in zooms:
            for implementation, ratio in ratios(row, "gpu").items():
                channels = f"{zooms[name].shape[1]} channels"
                curves.setdefault((channels, implementation), []).append((zooms[name].zoom, ratio))
    for (channels, implementation), points in curves.items():
        x, y = zip(*sorted(points), strict=True)
        panel.plot(x, y, marker="o", markersize=4, label=f"{SCATTERS[implementation]}, {channels}")
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    panel.margins(y=0.1)
    bottom, top = panel.get_ylim()
    panel.set_ylim(min(bottom, 0.5), max(top, 2))
    panel.axhspan(1e-9, 1, color=LOSS, zorder=0)
    panel.axhline(1, color="black", linewidth=1)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}x")
    panel.set_xlabel("zoom")
    panel.set_ylabel("time of a scatter over tstn's gather")
    panel.grid(linewidth=0.3)
    panel.legend(fontsize="small", frameon=False)
    panel.set_title(f"{_machine(document)}: gradient of the input", fontsize="medium")
    return drawing


def _machine(document: Document) -> str:
    versions = document["versions"]
    return f"{document['gpu']['name']}, tstn {versions['tstn']}, PyTorch {versions['torch']}"


def save(drawing: Drawing, path: Path) -> None:
    """Write an SVG that is the same for the same figures."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "tstn", "svg.fonttype": "none"}):
        drawing.savefig(path, metadata={"Date": None})


def section(source: str, document: Document, pictures: Sequence[str]) -> list[str]:
    """What the docs say of a run, in lines of Markdown."""
    figures: list[Figure] = document["figures"]
    gpu = any(figure["gpu"] for figure in figures)
    out = [f"{source}.", "", *(f"![{Path(picture).stem}]({picture})" for picture in pictures)]
    out += ["", "```", *lines(gpu_bars(document)), "```", ""]
    out += [
        "Median times; each other implementation as a multiple of tstn's. Below 1x, in bold, tstn is slower. `of copy`",
        "is the least traffic over the time, as a share of the bandwidth of a large copy; `memory` is the peak above",
        "what the caller holds, over the results' size.",
    ]
    for clock, title in (("gpu", "GPU time, cold cache, launches queued"), ("wall", "Time from call to result")):
        if clock == "wall" or gpu:
            out += ["", f"### {title}", "", *markdown(figures, clock)]
    return out


def replaced(text: str, section: Sequence[str]) -> str:
    """The text with another section between the marks.

    Raises:
        ValueError: If it does not have each mark once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"benchmarks.md must have the lines {BEGIN} and {END} once, in this order")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return "\n".join((before + BEGIN, "", *section, "", END + after))


def main(arguments: Sequence[str] | None = None, results: Path = RESULTS) -> int:
    """Write what the command line asks for and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.plot", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--results", type=Path, metavar="FILE", help="instead of the newest in bench/results")
    parser.add_argument("--docs", type=Path, metavar="DIR", default=DOCS, help="folder of benchmarks.md")
    options = parser.parse_args(arguments)
    page = options.docs / "benchmarks.md"
    try:
        found = (options.results, read(options.results)) if options.results is not None else newest(results, gpu=GPU)
        pictures = []
        if found is not None:
            for name, picture in (("benchmarks.svg", draw), ("benchmarks-zoom.svg", draw_zooms)):
                save(picture(found[1]), options.docs / name)
                pictures.append(name)
        text = replaced(page.read_text(), section(describe(*found), found[1], pictures) if found else [UNMEASURED])
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    page.write_text(text)
    print(
        f"wrote {page}{''.join(f' and {picture}' for picture in pictures)}" if found else f"no results: {page} says so"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
