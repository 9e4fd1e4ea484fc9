"""What a run leaves behind: the form of its results, a check of that form, and the table that people read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SCHEMA_VERSION = 1

Figure = dict[str, Any]
"""One implementation on one workload in one direction, in the form of ``FIGURE``."""

# A type, several types, or None for "or null". Seconds are per call.
_NUMBER = (float, int)
_OR_NUMBER = (float, int, type(None))
_OR_TEXT = (str, type(None))
_TIMES = {"median_s": _NUMBER, "iqr_s": _NUMBER, "min_s": _NUMBER, "rounds": int}

FIGURE = {
    "workload": str,
    "direction": str,
    "implementation": str,
    "dtype": str,
    "layout": str,
    "backend": str,
    "shape": [int],
    "size": [int],
    "errors": {...: _NUMBER},
    # From call to finished result, launches included, by the host's clock.
    "wall": _TIMES,
    # By the GPU's clock, with the launches queued beforehand; null without a GPU, like all that follows from it.
    "gpu": (_TIMES, None),
    "peak_bytes": (int, type(None)),
    "floor_bytes": int,
    "gb_per_s": _OR_NUMBER,
    "copy_gb_per_s": _OR_NUMBER,
    "share_of_copy": _OR_NUMBER,
}

STAGE = {
    "name": str,
    # passed, failed, timed out, or unavailable: the tool is not there or does not work on this machine.
    "status": str,
    "returncode": (int, type(None)),
    "seconds": _NUMBER,
    "limit_s": _NUMBER,
    "counts": {...: int},
    "failures": [str],
}

DOCUMENT = {
    "schema": int,
    "started": str,
    "commit": _OR_TEXT,
    "dirty": (bool, type(None)),
    "versions": {...: _OR_TEXT},
    "gpu": {"name": str, "driver": _OR_TEXT, "clocks_before": {...: str}, "clocks_after": {...: str}},
    "copy_gb_per_s": _OR_NUMBER,
    "stages": [STAGE],
    "figures": [FIGURE],
}


def validate(document: object) -> None:
    """Check a results document.

    Raises:
        ValueError: If its version or its form is not the one described here; the message says where.
    """
    if isinstance(document, dict) and document.get("schema") != SCHEMA_VERSION:
        raise ValueError(f"schema must be {SCHEMA_VERSION}; got {document.get('schema')!r}")
    _require(document, DOCUMENT, "document")


def _require(value: object, form: Any, where: str) -> None:
    if isinstance(form, tuple) and form[-1] is None:
        if value is not None:
            _require(value, form[0], where)
    elif isinstance(form, list):
        _require(value, list, where)
        assert isinstance(value, list)
        for i, item in enumerate(value):
            _require(item, form[0], f"{where}[{i}]")
    elif isinstance(form, dict):
        _require(value, dict, where)
        assert isinstance(value, dict)
        if ... in form:
            form = dict.fromkeys(value, form[...])
        if value.keys() != form.keys():
            raise ValueError(f"{where} must have the keys {sorted(form)}; got {sorted(value)}")
        for key, item in value.items():
            _require(item, form[key], f"{where}.{key}")
    else:
        # bool is an int to Python, but not in results.
        types = form if isinstance(form, tuple) else (form,)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join(t.__name__ for t in types)
            raise ValueError(f"{where} must be {expected}; got {value!r}")


def table(figures: Sequence[Figure], clock: str) -> list[str]:
    """The lines of a table: tstn's median by one clock, "wall" or "gpu", and each peer's as a multiple of it."""
    names = list(dict.fromkeys(f["implementation"] for f in figures if f["implementation"] != "tstn"))
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for figure in figures:
        if figure[clock] is not None:
            times = rows.setdefault((figure["workload"], figure["direction"]), {})
            times[figure["implementation"]] = figure[clock]["median_s"]
    lines = [f"{'workload':<31} {'direction':<10} {'tstn, ms':>9}" + "".join(f" {name:>11}" for name in names)]
    for (workload, direction), times in rows.items():
        own = times.get("tstn")
        line = f"{workload:<31} {direction:<10} " + (f"{own * 1e3:9.3f}" if own else f"{'-':>9}")
        for name in names:
            line += f" {times[name] / own:10.2f}x" if own and name in times else f" {'-':>11}"
        lines.append(line)
    return lines
