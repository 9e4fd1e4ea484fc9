"""The bars that tstn's speed is held to: bars 1 to 5 on an H200, from one results file, bars 6 to 8 without a GPU.

What was not measured is no miss. A bar over a whole suite passes only if all of it was measured; it is missed as soon
as something that was measured falls short.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.aot_cases import COMMON
from bench.schema import Document, Figure
from bench.tables import Row, rows_of
from bench.workloads import WORKLOADS, ZOOMS, Workload

GPU = "H200"
# Bar 1: least share of the copy bandwidth of a forward pass.
LEAST_SHARES = {"hd_identity": 0.85, "hd_rotation15": 0.85, "feature": 0.85, "hd_rotation45": 0.60}
# Bars 2 and 3: a workload that runs at this share of the copy bandwidth need not beat its best peer.
SATURATED = 0.90
# Bar 4: of the results' bytes.
MOST_MEMORY = 1.05
# Bar 6: an sm_90 multiprocessor. Registers are handed out by eights per thread.
SM_REGISTERS, SM_THREADS, WARP = 65536, 2048, 32
LEAST_OCCUPANCY = 0.5
# Bar 7: predicted bytes over the floor. Bar 8: microseconds above a bare launch.
MOST_TRAFFIC = 1.15
MOST_OVERHEAD = {"forward_us": 12.0, "step_us": 30.0}

PASS, MISS, UNMEASURED = "pass", "miss", "unmeasured"


@dataclass
class Bar:
    """One bar and how it went.

    Attributes:
        name: Its number and what it asks.
        verdict: ``PASS``, ``MISS`` or ``UNMEASURED``.
        figure: What was found, in a few words.
        short: What fell short, a line each.
    """

    name: str
    verdict: str = UNMEASURED
    figure: str = "no results"
    short: list[str] = field(default_factory=list)

    def judge(self, figure: str, missing: Sequence[str] = ()) -> Bar:
        """Set the verdict, by what fell short and by what is missing."""
        self.verdict = MISS if self.short else UNMEASURED if missing else PASS
        gap = f"; not measured: {len(missing)}, {missing[0]} for one" if missing else ""
        self.figure = figure + gap
        return self


def gpu_bars(document: Document | None, model: object = None) -> list[Bar]:
    """Bars 1 to 5. Figures of another GPU are told, but judge nothing, nor does what the model says of memory."""
    rows = {} if document is None else rows_of(document["figures"], "gpu")
    bars = [
        _forward_shares(Bar("1 forward at the copy bandwidth"), rows),
        _speed(
            Bar("2 forward+backward: 4x eager, 2.5x compiled, 1.3x best peer"),
            rows,
            ("step", "step_theta"),
            {"eager": 4.0, "compiled": 2.5},
            1.3,
        ),
        _speed(Bar("3 forward: 2x compiled, 1.1x best peer"), rows, ("forward",), {"compiled": 2.0}, 1.1),
        _memory(Bar("4 peak memory at most 1.05x the results"), rows, model),
        _gather(Bar("5 gather beats the best scatter from 1/4 to 4, same bits"), rows),
    ]
    if document is not None and GPU not in document["gpu"]["name"]:
        for bar in bars:
            bar.verdict, bar.figure = UNMEASURED, f"{bar.figure} (not an {GPU})"
    return bars


def _forward_shares(bar: Bar, rows: Mapping[tuple[str, str], Row]) -> Bar:
    shares: dict[str, float] = {}
    missing = []
    for workload in WORKLOADS:
        least = LEAST_SHARES.get(workload.name)
        if least is None or (workload.name == "feature" and workload.layout != "channels_last"):
            continue
        own = rows.get((workload.id, "forward"), {}).get("tstn")
        if own is None or own["share_of_copy"] is None:
            missing.append(workload.id)
            continue
        shares[workload.id] = own["share_of_copy"]
        if not shares[workload.id] >= least:
            bar.short.append(f"{workload.id}: {shares[workload.id]:.0%}, at least {least:.0%}")
    if not shares:
        return bar
    return bar.judge("of copy: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()), missing)


def _speed(
    bar: Bar,
    rows: Mapping[tuple[str, str], Row],
    directions: Sequence[str],
    means: Mapping[str, float],
    least_of_best: float,
) -> Bar:
    """Geometric means against the faster of what goes by a role, and each workload against its best peer."""
    expected = [(w, d) for w in WORKLOADS for d in w.directions if d in directions]
    ratios: dict[str, list[float]] = {role: [] for role in means}
    best: dict[str, float] = {}
    missing = []
    for workload, direction in expected:
        name = f"{workload.id} {direction}"
        row = rows.get((workload.id, direction), {})
        by_role = {role: _fastest(row.values(), (role,)) for role in ("tstn", "eager", "compiled")}
        own, peer = by_role["tstn"], _fastest(row.values(), ("eager", "compiled", "peer"))
        if None in by_role.values() or own is None or peer is None:
            missing.append(name)
        if own is None or peer is None:
            continue
        for role, values in ratios.items():
            other = by_role[role]
            if other is not None:
                values.append(_seconds(other) / _seconds(own))
        best[name] = _seconds(peer) / _seconds(own)
        if not best[name] >= least_of_best and not (own["share_of_copy"] or 0) >= SATURATED:
            bar.short.append(f"{name}: {best[name]:.2f}x of {peer['implementation']}, at least {least_of_best}x")
    if not best:
        return bar
    told = []
    for role, values in ratios.items():
        if values:
            mean = math.exp(statistics.fmean(map(math.log, values)))
            told.append(f"{mean:.2f}x {role}")
            # A mean over part of the suite says nothing yet.
            if not missing and not mean >= means[role]:
                bar.short.append(f"geometric mean {mean:.2f}x {role}, at least {means[role]}x")
    worst = min(best, key=lambda name: best[name])
    return bar.judge(f"geometric mean {', '.join(told)}; worst {best[worst]:.2f}x ({worst})", missing)


def _memory(bar: Bar, rows: Mapping[tuple[str, str], Row], model: object) -> Bar:
    used: dict[str, float] = {}
    missing = []
    for workload in WORKLOADS:
        for direction in workload.directions:
            name = f"{workload.id} {direction}"
            own = rows.get((workload.id, direction), {}).get("tstn")
            if own is None or own["peak_bytes"] is None:
                missing.append(name)
                continue
            used[name] = own["peak_bytes"] / own["result_bytes"]
            if not used[name] <= MOST_MEMORY:
                bar.short.append(f"{name}: {used[name]:.2f}x, at most {MOST_MEMORY}x")
    if used:
        return bar.judge(_most(used), missing)
    planned = {
        f"{row['workload']} {row['direction']}": row["peak_bytes"] / row["result_bytes"]
        for row in _model_rows(model, "workload", "direction", "peak_bytes", "result_bytes")
    }
    if planned:
        above = sum(value > MOST_MEMORY for value in planned.values())
        bar.figure += f"; planned: {_most(planned)}, {above} of {len(planned)} above"
    return bar


def _most(ratios: Mapping[str, float]) -> str:
    worst = max(ratios, key=lambda name: ratios[name])
    return f"at most {ratios[worst]:.2f}x ({worst})"


def _gather(bar: Bar, rows: Mapping[tuple[str, str], Row]) -> Bar:
    ratios: dict[str, float] = {}
    missing = []
    for workload in ZOOMS:
        row = rows.get((workload.id, "grad_input"), {})
        own = row.get("tstn")
        scatter = [figure for name, figure in row.items() if name != "tstn"]
        if own is None or len(scatter) < 2:
            missing.append(workload.id)
            continue
        best = min(scatter, key=_seconds)
        ratios[workload.id] = _seconds(best) / _seconds(own)
        if not ratios[workload.id] > 1:
            bar.short.append(f"{workload.id}: {ratios[workload.id]:.2f}x of {best['implementation']}")
        if not all(own["repeats"].values()):
            bar.short.append(f"{workload.id}: other bits in a second run")
    if not ratios:
        return bar
    worst = min(ratios, key=lambda name: ratios[name])
    return bar.judge(f"at least {ratios[worst]:.2f}x ({worst})", missing)


def _seconds(figure: Figure) -> float:
    return figure["gpu"]["median_s"]


def _fastest(figures: Iterable[Figure], roles: Sequence[str]) -> Figure | None:
    return min((figure for figure in figures if figure["role"] in roles), key=_seconds, default=None)


def code_bar(table: Mapping[str, Any] | None) -> Bar:
    """Bar 6, from the ahead-of-time table's variants."""
    bar = Bar("6 machine code: wide accesses, no spills, 50 % occupancy")
    if not table:
        return bar
    spilling = [name for name, code in table.items() if code["spills"] or code["stack"]]
    bar.short += [f"{name}: spills" for name in spilling]
    narrow, occupancies = 0, {}
    for variant, case, code in _common_kernels(table):
        occupancies[variant] = _occupancy(code["registers"])
        if occupancies[variant] < LEAST_OCCUPANCY:
            bar.short.append(f"{variant}: {code['registers']} registers, occupancy {occupancies[variant]:.0%}")
        faults = _narrow(variant, code) if case.channels_last else []
        narrow += bool(faults)
        bar.short += [f"{variant}: {fault}" for fault in faults]
    if not occupancies:
        bar.short.clear()
        return bar
    worst = min(occupancies, key=lambda name: occupancies[name])
    low = sum(value < LEAST_OCCUPANCY for value in occupancies.values())
    return bar.judge(
        f"{len(spilling)} of {len(table)} spill; of {len(occupancies)} common kernels on sm_90 {narrow} are narrow on "
        f"channels_last and {low} below 50 %, least {occupancies[worst]:.0%} ({worst})"
    )


def _common_kernels(table: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The kernels of common workloads that pass over images, on sm_90: name, case and code."""
    cases = {case.name: case for case in COMMON}
    for name, code in table.items():
        variant, target = name.rsplit(" ", 1)
        case = cases.get(variant.partition("/")[0])
        if target == "sm_90" and case is not None and not variant.endswith(("/finish_backward", "/peak")):
            yield variant, case, code


def _occupancy(registers: int) -> float:
    """The most threads that a multiprocessor's registers allow, of those that it can hold."""
    warps = SM_REGISTERS // (max(-(-registers // 8) * 8, 8) * WARP)
    return min(warps * WARP, SM_THREADS) / SM_THREADS


def _narrow(variant: str, code: Mapping[str, Any]) -> list[str]:
    """What a channels_last kernel lacks: 16-byte loads, and 16-byte stores or vector reductions only."""
    faults = []
    if not _has_wide(code["loads"]):
        faults.append("no 16-byte loads")
    scalar = [form for form in code["reductions"] if not form.endswith(("F32x4", "F16x2", "F16x4", "F16x8"))]
    if scalar:
        faults.append(f"narrow reductions {', '.join(scalar)}")
    # A backward pass that does not scatter writes nothing but theta's sums.
    writes_pixels = not variant.endswith("/sample_backward")
    if writes_pixels and not code["reductions"] and not _has_wide(code["stores"]):
        faults.append("neither 16-byte stores nor vector reductions")
    return faults


def _has_wide(accesses: Mapping[str, int]) -> bool:
    return any(int(width) >= 16 for width in accesses)


def traffic_bar(model: object) -> Bar:
    """Bar 7, from what ``python -m bench.roofline --json`` wrote: rows with workload, direction, bytes, floor_bytes."""
    bar = Bar("7 predicted bytes within 1.15x of the floor, or explained")
    rows = _model_rows(model, "workload", "direction", "bytes", "floor_bytes")
    if not rows:
        return bar
    found: dict[tuple[str, str], tuple[float, str]] = {}
    for row in rows:
        found[row["workload"], row["direction"]] = (row["bytes"] / row["floor_bytes"], row.get("note") or "")
    missing, explained, ratios = [], 0, {}
    for workload, direction in _suite():
        name = f"{workload.id} {direction}"
        if (workload.id, direction) not in found:
            missing.append(name)
            continue
        ratios[name], note = found[workload.id, direction]
        if not ratios[name] <= MOST_TRAFFIC:
            explained += bool(note)
            if not note:
                bar.short.append(f"{name}: {ratios[name]:.2f}x of the floor, at most {MOST_TRAFFIC}x, and no note")
    if not ratios:
        return bar
    return bar.judge(f"{_most(ratios)}; {explained} above 1.15x have a note", missing)


def _model_rows(model: object, *keys: str) -> list[dict[str, Any]]:
    """The rows of what ``python -m bench.roofline --json`` wrote; none if one of them lacks a key."""
    rows = model.get("rows") if isinstance(model, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and set(keys) <= row.keys() for row in rows):
        return []
    return rows


def overhead_bar(overhead: object) -> Bar:
    """Bar 8, from what ``python -m bench.overhead --json`` wrote."""
    bar = Bar("8 Python's overhead: 12 us forward, 30 us forward+backward")
    if not isinstance(overhead, dict) or not all(isinstance(overhead.get(key), (int, float)) for key in MOST_OVERHEAD):
        return bar
    for key, most in MOST_OVERHEAD.items():
        if not overhead[key] <= most:
            bar.short.append(f"{key.removesuffix('_us')}: {overhead[key]:.1f} us, at most {most:.0f} us")
    told = (f"{key.removesuffix('_us')} {overhead[key]:.1f} us" for key in MOST_OVERHEAD)
    return bar.judge(f"above a bare launch: {', '.join(told)}")


def _suite() -> Iterator[tuple[Workload, str]]:
    return ((workload, direction) for workload in WORKLOADS for direction in workload.directions)


def read_json(path: Path) -> Any:
    """What a file holds; None if there is no such file.

    Raises:
        ValueError: If it is not JSON; the message names the file.
    """
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON: {error}") from error
