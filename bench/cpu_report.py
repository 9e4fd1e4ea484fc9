"""What the benchmark of the CPU says: the bars, and its figures in tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from bench.bars import PASS, Bar
from bench.cpu_cases import TINY, Case
from bench.cpu_results import Document, Figure, describe, key_of
from bench.plot import TITLES
from bench.tables import bold_loss

# Of geometric means, by direction; of each workload; and of a lone digit.
LEAST_MEANS = {"eager": {"forward": 2.5, "step": 2.5}, "best": {"forward": 2.5, "step": 2.2}}
LEAST_OF_EAGER, LEAST_OF_TINY = 1.2, 1.0
AGAINST = {"eager": "eager", "best": "the better of eager and compiled", "plain": "plain"}


def name_of(threads: int) -> str:
    """As in "1 thread"."""
    return f"{threads} thread{'s' * (threads != 1)}"


def _is_tiny(workload: str) -> bool:
    return workload.split("-")[0] == TINY


def mean_of(figures: Iterable[Figure], against: str) -> tuple[float, int]:
    """The geometric mean of the ratios, without a lone digit's, and how many they are; NaN of none."""
    found = [figure["ratios"][against] for figure in figures if not _is_tiny(figure["workload"])]
    logs = [math.log(ratio) for ratio in found if ratio is not None]
    return (math.exp(statistics.fmean(logs)) if logs else math.nan), len(logs)


def bars(figures: Sequence[Figure], planned: Sequence[Case]) -> list[Bar]:
    """The bars over what was to be measured: each passes only if all of that was, and nothing fell short.

    Where PyTorch is wrong, or cannot do the job, it is no peer, and the workload is in no mean.
    """
    measured = {key_of(figure): figure for figure in figures}
    judged = []
    for threads in dict.fromkeys(case.threads for case in planned):
        cases = [case for case in planned if case.threads == threads]
        judged.append(_right(Bar(f"{name_of(threads)}: the kernels are right"), cases, measured))
        for against, least in LEAST_MEANS.items():
            for direction, bound in least.items():
                chosen = [c for c in cases if c.direction == direction and c.workload.name != TINY]
                name = f"{name_of(threads)}, {direction}: {bound:g}x {AGAINST[against]}, geometric mean"
                judged += [_mean(Bar(name), chosen, measured, against, bound)] * bool(chosen)
        for name, bound, chosen in (
            ("each workload", LEAST_OF_EAGER, [c for c in cases if c.workload.name != TINY]),
            ("1x1x8x8", LEAST_OF_TINY, [c for c in cases if c.workload.name == TINY]),
        ):
            bar = Bar(f"{name_of(threads)}: {name} at least {bound:g}x eager")
            judged += [_each(bar, chosen, measured, bound)] * bool(chosen)
    return judged


def _told(case: Case) -> str:
    return f"{case.workload.id} {case.direction}"


def _split(cases: Sequence[Case], measured: Mapping[tuple[str, str, int], Figure]) -> tuple[list[Figure], list[str]]:
    """Those that the kernels have been timed on, and the names of the others."""
    found = {case: measured.get(case.key) for case in cases}
    timed = [f for f in found.values() if f is not None and f["implementations"]["native"]["times"] is not None]
    keys = {key_of(figure) for figure in timed}
    return timed, [_told(case) for case in cases if case.key not in keys]


def _right(bar: Bar, cases: Sequence[Case], measured: Mapping[tuple[str, str, int], Figure]) -> Bar:
    for case in cases:
        figure = measured.get(case.key)
        problem = figure and figure["implementations"]["native"]["problem"]
        if problem is not None:
            bar.short.append(f"{_told(case)}: {problem}")
    timed, _ = _split(cases, measured)
    return bar.judge(f"{len(timed)} of {len(cases)}", [_told(case) for case in cases if case.key not in measured])


def _mean(
    bar: Bar, cases: Sequence[Case], measured: Mapping[tuple[str, str, int], Figure], against: str, least: float
) -> Bar:
    timed, missing = _split(cases, measured)
    mean, count = mean_of(timed, against)
    if not count:
        return bar
    if not mean >= least:
        bar.short.append(f"{mean:.2f}x, at least {least:g}x")
    compiled = sum("compiled" in figure["implementations"] for figure in timed)
    return bar.judge(f"{mean:.2f}x over {count}" + f", {compiled} of them compiled" * (against == "best"), missing)


def _each(bar: Bar, cases: Sequence[Case], measured: Mapping[tuple[str, str, int], Figure], least: float) -> Bar:
    timed, missing = _split(cases, measured)
    ratios = {f"{f['workload']} {f['direction']}": f["ratios"]["eager"] for f in timed}
    found = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    bar.short += [f"{name}: {ratio:.2f}x" for name, ratio in found.items() if not ratio >= least]
    return bar.judge(f"at least {min(found.values()):.2f}x", missing) if found else bar


def all_pass(judged: Sequence[Bar]) -> bool:
    """Whether no bar is missed, nor left without a figure."""
    return all(bar.verdict == PASS for bar in judged)


def threads_of(figures: Iterable[Figure]) -> dict[int, str]:
    """The numbers of threads and their clocks."""
    return dict(sorted({figure["threads"]: figure["clock"] for figure in figures}.items()))


def _directions(figures: Sequence[Figure]) -> list[str]:
    found = {figure["direction"] for figure in figures}
    return [direction for direction in TITLES if direction in found]


def _notes(figure: Figure) -> list[str]:
    """What a reader of a row has to know: who lost to whom, what stands in for half samplers, and what went wrong."""
    ratios, found = figure["ratios"], figure["implementations"]
    lost = [name for name, ratio in ratios.items() if ratio is not None and ratio < 1]
    # Who loses to eager loses to the better of it and another.
    notes = [f"slower than {AGAINST[name]}" for name in lost if name != "best" or "eager" not in lost]
    notes += ["eager on a float32 copy"] * found["eager"]["float32_copy"]
    return notes + [f"{name} {entry['problem']}" for name, entry in found.items() if entry["problem"] is not None]


def line_of(figure: Figure) -> str:
    """A row of the table."""
    times = figure["implementations"]["native"]["times"]
    own = f"{times['median_s'] * 1e3:10.3f}" if times is not None else f"{'-':>10}"
    ratios = (figure["ratios"][name] for name in AGAINST)
    cells = "".join(f" {'-' if ratio is None else f'{ratio:.2f}x':>8}" for ratio in ratios)
    notes = "; ".join(_notes(figure)).replace("\n", " ")
    return f"{figure['workload']:<37} {figure['direction']:<10} {own}{cells}  {notes[:120]}".rstrip()


def table(figures: Sequence[Figure]) -> list[str]:
    """The lines of the summary: every ratio, losses included, and geometric means."""
    lines = ["Median of the kernels, and how many times as long others take: above 1, the kernels are faster."]
    lines += ["best: the better of eager and compiled, where it was compiled; plain: tstn on plain PyTorch."]
    for threads, clock in threads_of(figures).items():
        chosen = [figure for figure in figures if figure["threads"] == threads]
        lines += ["", f"{name_of(threads)}, {clock} time"]
        lines += [f"{'workload':<37} {'direction':<10} {'native, ms':>10}" + "".join(f" {n:>8}" for n in AGAINST)]
        lines += [line_of(figure) for figure in chosen]
        lines += [f"geometric means, {TINY} left out"] * any(not _is_tiny(figure["workload"]) for figure in chosen)
        for direction in _directions(chosen):
            for kind, some in _kinds([figure for figure in chosen if figure["direction"] == direction]):
                means = [mean_of(some, name) for name in AGAINST]
                cells = "".join(f" {f'{mean:.2f}x' if count else '-':>8}" for mean, count in means)
                lines += [f"{kind:<37} {direction:<10} {f'of {means[0][1]}':>10}{cells}"] * bool(means[0][1])
    return lines


def _kinds(figures: Sequence[Figure]) -> list[tuple[str, Sequence[Figure]]]:
    whole = [figure for figure in figures if figure["dtype"] == "float32"]
    return [("all", figures), ("float32", whole), ("half", [figure for figure in figures if figure not in whole])]


def markdown(document: Document) -> list[str]:
    """The lines of Markdown for the docs: geometric means, then every workload, losses in bold."""
    figures = document["cases"]
    threads = threads_of(figures)
    titles = [f"{title}, {name_of(count)}" for count in threads for title in AGAINST]
    lines = [f"{describe(document)}.", "", f"| geometric mean | {' | '.join(titles)} |"]
    lines += ["|---|" + "---:|" * len(titles)]
    for direction in _directions(figures):
        of_direction = [figure for figure in figures if figure["direction"] == direction]
        chosen = [[figure for figure in of_direction if figure["threads"] == count] for count in threads]
        means = [mean_of(some, name)[0] for some in chosen for name in AGAINST]
        lines.append(f"| {direction} | {' | '.join('-' if math.isnan(m) else bold_loss(m) for m in means)} |")
    titles = [f"{title}, {name_of(count)}" for count in threads for title in ("ms", *AGAINST)]
    lines += ["", f"| workload | direction | {' | '.join(titles)} |", "|---|---|" + "---:|" * len(titles)]
    rows: dict[tuple[str, str], dict[int, Figure]] = {}
    for figure in figures:
        rows.setdefault(key_of(figure)[:2], {})[figure["threads"]] = figure
    for (workload, direction), row in rows.items():
        star = r" \*" * any(figure["implementations"]["eager"]["float32_copy"] for figure in row.values())
        cells = [cell for count in threads for cell in _cells(row.get(count))]
        lines.append(f"| {workload}{star} | {direction} | {' | '.join(cells)} |")
    note = r"\* Eager samples a float32 copy of the half image, because PyTorch's half sampler leaves large images."
    return [*lines, "", note]


def _cells(figure: Figure | None) -> list[str]:
    times = figure and figure["implementations"]["native"]["times"]
    if figure is None or times is None:
        return ["-"] * (1 + len(AGAINST))
    ratios = (figure["ratios"][name] for name in AGAINST)
    return [f"{times['median_s'] * 1e3:.3f}", *("-" if ratio is None else bold_loss(ratio) for ratio in ratios)]
