"""Predict what each workload does to memory and the time it needs at least, on a machine without a GPU.

    python -m bench.roofline                      every workload and direction, on an H200
    python -m bench.roofline --card h100          on another card
    python -m bench.roofline --only hd_rotation   workloads whose "<workload> <direction>" contains this
    python -m bench.roofline --direction step     one direction only
    python -m bench.roofline --json FILE          also write all figures, launch by launch
    python -m bench.roofline --check              exit 1 if traffic exceeds 1.15x of the floor without a note

The kernels that would run are compiled; a sample of their programs is simulated access by access, with the real
coordinates; docs/roofline.md states the model. Where bench/results holds times of such a card they stand beside.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import triton

import tstn
from bench.bars import MOST_TRAFFIC
from bench.roofline_cards import CARDS, CEILINGS, Card
from bench.roofline_model import Model, Prediction
from bench.roofline_notes import note
from bench.schema import RESULTS, Document, kept
from bench.workloads import DIRECTIONS, WORKLOADS
from tstn._backend import INTERPRETED

# Microseconds, but for these.
COLUMNS = (
    ("workload", 31),
    ("direction", 10),
    ("floor MB", 9),
    ("DRAM MB", 9),
    ("ratio", 6),
    *((name, 8) for name in CEILINGS if name != "fp64"),
    ("bound", 16),
    ("of copy", 7),
    ("launches", 8),
    ("measured", 9),
)


def main(arguments: Sequence[str] | None = None, results: Path = RESULTS) -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.roofline",
        description="Predict DRAM traffic and the least time of each workload by simulating the compiled kernels.",
        epilog="docs/roofline.md states the model, its cards and what it leaves out.",
    )
    parser.add_argument("--card", choices=CARDS, default="h200", help="the GPU to predict for (default: h200)")
    parser.add_argument("--only", default="", metavar="TEXT", help='only where "<workload> <direction>" contains TEXT')
    parser.add_argument("--direction", choices=DIRECTIONS, help="only this: a forward pass, or with gradients of what")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure of every launch to FILE")
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit 1 if a call moves over {MOST_TRAFFIC}x of its floor and bench/roofline_notes.py does not say why",
    )
    options = parser.parse_args(arguments)
    if INTERPRETED:
        print("TRITON_INTERPRET=1 keeps kernels from being compiled: unset it", file=sys.stderr)
        return 2
    chosen = [
        (workload, direction)
        for workload in WORKLOADS
        for direction in workload.directions
        if options.only in f"{workload.id} {direction}" and options.direction in (None, direction)
    ]
    if not chosen:
        print("no workload has this: see python -m bench.roofline --help", file=sys.stderr)
        return 2
    card = CARDS[options.card]
    try:
        document = measured_document(results, card)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(heading(card, document)))
    times = measured_seconds(document)
    rows: list[Prediction] = []
    model = None
    for workload, direction in chosen:
        if model is None or model.workload != workload:
            model = Model(workload, card)
        row = model.predict(direction)
        rows.append(row)
        print(line(row, card, times.get((row.workload, row.direction))), flush=True)
    if options.json is not None:
        write(options.json, rows, card)
    return verdict(rows, options.check)


def heading(card: Card, document: Document | None) -> list[str]:
    """What the table is about."""
    lines = [
        f"tstn {tstn.__version__}, Triton {triton.__version__}, {card.name}: {card.multiprocessors} multiprocessors at "
        f"{card.clock * 1e-9:.2f} GHz, {card.dram * 1e-12:.2f} TB/s, a copy {card.copy * 1e-12:.2f} TB/s",
        "Microseconds by each ceiling, all launches together; bound: each launch's slowest, added up. Not in it: "
        f"{card.launch * 1e6:.1f} us from launch to launch.",
    ]
    if document is not None:
        lines.append(f"measured: {document['gpu']['name']}, {document['started']}, GPU clock, median")
    else:
        lines.append(f"measured: no results of an {card.name} are kept")
    titles = (name.ljust(size) if i < 2 else name.rjust(size) for i, (name, size) in enumerate(COLUMNS))
    return [*lines, "", " ".join(titles)]


def line(row: Prediction, card: Card, measured: float | None) -> str:
    """A row of the table."""
    cells = [
        row.workload,
        row.direction,
        f"{row.floor_bytes * 1e-6:.1f}",
        f"{row.bytes * 1e-6:.1f}",
        f"{row.ratio:.2f}{'*' if row.ratio > MOST_TRAFFIC and note(row.workload, row.direction) else ' '}",
        *(f"{row.ceilings[name] * 1e6:.1f}" for name in CEILINGS if name != "fp64"),
        f"{row.seconds * 1e6:.1f} {row.bound}",
        f"{row.floor_bytes / row.seconds / card.copy:.0%}",
        str(row.launches),
        "-" if measured is None else f"{measured * 1e6:.1f}",
    ]
    return " ".join(
        cell.ljust(size) if i < 2 else cell.rjust(size)
        for i, (cell, (_, size)) in enumerate(zip(cells, COLUMNS, strict=True))
    )


def verdict(rows: Sequence[Prediction], check: bool) -> int:
    """Print the notes of what exceeds the bar, and what has none; return the exit code."""
    over = [(row, note(row.workload, row.direction)) for row in rows if row.ratio > MOST_TRAFFIC]
    missing = [row for row, text in over if text is None]
    print()
    for text in dict.fromkeys(text for _, text in over if text):
        names = ", ".join(f"{row.workload} {row.direction}" for row, found in over if found == text)
        print(f"* {names}: {text}")
    for row in missing:
        print(f"{row.workload} {row.direction}: {row.ratio:.2f}x of the floor, at most {MOST_TRAFFIC}x, and no note")
    print(
        f"{len(rows) - len(over)} of {len(rows)} within {MOST_TRAFFIC}x of the floor, "
        f"{len(over) - len(missing)} explained, {len(missing)} not"
    )
    return int(check and bool(missing))


def measured_document(results: Path, card: Card) -> Document | None:
    """The newest results of such a card."""
    found = [document for _, document in kept(results) if card.name in document["gpu"]["name"]]
    return max(found, key=lambda document: document["started"], default=None)


def measured_seconds(document: Document | None) -> dict[tuple[str, str], float]:
    """Medians of tstn by the GPU's clock."""
    figures = [] if document is None else document["figures"]
    return {
        (figure["workload"], figure["direction"]): figure["gpu"]["median_s"]
        for figure in figures
        if figure["implementation"] == "tstn" and figure["gpu"]
    }


def write(path: Path, rows: Sequence[Prediction], card: Card) -> None:
    """All figures, a line for each call, for :mod:`bench.report` and for people."""
    head = {
        "card": asdict(card),
        "versions": {"tstn": tstn.__version__, "triton": triton.__version__, "torch": torch.__version__},
    }
    lines = []
    for row in rows:
        text = note(row.workload, row.direction) if row.ratio > MOST_TRAFFIC else None
        lines.append(json.dumps(_rounded({**asdict(row), "note": text})))
    path.write_text(json.dumps(head)[:-1] + ', "rows": [\n' + ",\n".join(lines) + "\n]}\n")


def _rounded(value: Any) -> Any:
    """Floats to what they are worth."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
