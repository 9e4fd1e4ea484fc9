"""The rows of a table of launch configurations: read from source, varied, and written back with nothing else changed.

A row is a module-level ``NAME = Config(field=number, ...)``.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

# Bounds of each number; what is None by default may also stay out. Sizes are powers of two for the compiler.
BOUNDS = {"tile_h": (1, 64), "tile_w": (1, 64), "block_c": (1, 256), "num_warps": (1, 8), "samples": (1, 16)}
REGISTERS = (None, 64, 96, 128, 168, 255)
# Values that a lane of 32 per warp may have to work at.
MOST_PER_LANE = 64

Numbers = Mapping[str, int | None]
"""A row's numbers by field."""


class Row(NamedTuple):
    """Where a row stands in the table's source, and what it says."""

    call: ast.Call
    numbers: dict[str, int | None]


def rows(source: str) -> dict[str, Row]:
    """The rows of a table by name.

    Raises:
        ValueError: If a row has anything but numbers, or numbers without names.
    """
    found = {}
    for node in ast.parse(source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id="Config")) as call):
                found[name] = Row(call, _numbers(name, call))
    return found


def _numbers(name: str, call: ast.Call) -> dict[str, int | None]:
    numbers: dict[str, int | None] = {}
    for keyword in call.keywords:
        value = keyword.value.value if isinstance(keyword.value, ast.Constant) else keyword.value
        if keyword.arg is not None and isinstance(value, (int, type(None))) and not isinstance(value, bool):
            numbers[keyword.arg] = value
    if call.args or not numbers or len(numbers) != len(call.keywords):
        raise ValueError(f"{name} must be Config(field=number, ...); got {ast.unparse(call)}")
    return numbers


def rewritten(source: str, changes: Mapping[str, Numbers]) -> str:
    """The table with other numbers in some rows; a number that a row did not spell out comes last in it."""
    text = source.encode()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    edits: list[tuple[int, int, str]] = []
    for name, row in rows(source).items():
        new = dict(changes.get(name, {}))
        end = 0
        for keyword in row.call.keywords:
            where = keyword.value
            assert where.end_lineno is not None
            assert where.end_col_offset is not None
            begin, end = (
                starts[where.lineno - 1] + where.col_offset,
                starts[where.end_lineno - 1] + where.end_col_offset,
            )
            if keyword.arg in new:
                edits.append((begin, end, str(new.pop(keyword.arg))))
        edits.append((end, end, "".join(f", {field}={value}" for field, value in new.items())))
    for begin, end, replacement in sorted(edits, reverse=True):
        text = text[:begin] + replacement.encode() + text[end:]
    return text.decode()


def neighbours(numbers: Numbers) -> Iterator[dict[str, int | None]]:
    """Every row that differs in one number, by one step."""
    for field, value in numbers.items():
        if field == "maxnreg":
            steps: Sequence[int | None] = [limit for limit in REGISTERS if limit != value]
        elif field in BOUNDS and value:
            low, high = BOUNDS[field]
            steps = [step for step in (value * 2, value // 2) if low <= step <= high]
        else:
            continue
        for step in steps:
            candidate = {**numbers, field: step}
            if _fits(candidate):
                yield candidate


def _fits(numbers: Numbers) -> bool:
    """Whether every lane has something to do, and none has too much."""
    values = math.prod(numbers.get(name) or 1 for name in ("tile_h", "tile_w", "block_c", "samples"))
    return 1 <= values / (32 * (numbers.get("num_warps") or 1)) <= MOST_PER_LANE
