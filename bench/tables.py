"""Figures as people read them: a text table for the terminal, Markdown for the docs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.schema import Figure

Row = dict[str, Figure]


def rows_of(figures: Iterable[Figure], clock: str) -> dict[tuple[str, str], Row]:
    """The figures that one clock, "wall" or "gpu", has timed, by (workload, direction) and implementation."""
    rows: dict[tuple[str, str], Row] = {}
    for figure in figures:
        if figure[clock] is not None:
            rows.setdefault((figure["workload"], figure["direction"]), {})[figure["implementation"]] = figure
    return rows


def ratios(row: Row, clock: str) -> dict[str, float]:
    """How many times as long as tstn each other implementation takes."""
    if "tstn" not in row:
        return {}
    own = row["tstn"][clock]["median_s"]
    return {name: figure[clock]["median_s"] / own for name, figure in row.items() if name != "tstn"}


def table(figures: Sequence[Figure], clock: str) -> list[str]:
    """The lines of a text table: tstn's median by one clock and each peer's as a multiple of it."""
    rows = rows_of(figures, clock)
    names = list(dict.fromkeys(name for row in rows.values() for name in row if name != "tstn"))
    lines = [f"{'workload':<40} {'direction':<10} {'tstn, ms':>9}" + "".join(f" {name:>12}" for name in names)]
    for (workload, direction), row in rows.items():
        own = f"{row['tstn'][clock]['median_s'] * 1e3:9.3f}" if "tstn" in row else f"{'-':>9}"
        times = {name: f"{ratio:.2f}x" for name, ratio in ratios(row, clock).items()}
        line = f"{workload:<40} {direction:<10} {own}" + "".join(f" {times.get(name, '-'):>12}" for name in names)
        lines.append(line)
    return lines


def markdown(figures: Sequence[Figure], clock: str) -> list[str]:
    """The lines of a Markdown table, with tstn's spread, memory and share of the copy bandwidth, losses in bold."""
    rows = rows_of(figures, clock)
    names = list(dict.fromkeys(name for row in rows.values() for name in row if name != "tstn"))
    titles = ["workload", "direction", "tstn, ms", "IQR, ms", "of copy", "memory", *names]
    lines = [f"| {' | '.join(titles)} |", "|---|---|" + "---:|" * (len(titles) - 2)]
    for (workload, direction), row in rows.items():
        own = row.get("tstn")
        cells = ["-", "-", "-", "-"]
        if own is not None:
            seconds, share, peak = own[clock], own["share_of_copy"], own["peak_bytes"]
            cells = [
                f"{seconds['median_s'] * 1e3:.3f}",
                f"{seconds['iqr_s'] * 1e3:.3f}",
                "-" if share is None else f"{share:.0%}",
                "-" if peak is None else f"{peak / own['result_bytes']:.2f}x",
            ]
        times = ratios(row, clock)
        cells += [bold_loss(times[name]) if name in times else "-" for name in names]
        lines.append(f"| {workload} | {direction} | {' | '.join(cells)} |")
    return lines


def bold_loss(ratio: float) -> str:
    """How many times as long as tstn another takes, in Markdown."""
    return f"{ratio:.2f}x" if ratio >= 1 else f"**{ratio:.2f}x**"
