"""What a run leaves behind: the form of its results, a check of that form, and where results are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 2
# Why a benchmark that another call may yet run was skipped.
OUT_OF_TIME = "out of time"
RESULTS = Path(__file__).with_name("results")

Figure = dict[str, Any]
"""One implementation on one workload in one direction, in the form of ``FIGURE``."""
Document = dict[str, Any]
"""A run, in the form of ``DOCUMENT``."""

# A type, several types, or None for "or null". Seconds are per call.
_NUMBER = (float, int)
_OR_NUMBER = (float, int, type(None))
_OR_TEXT = (str, type(None))
_TIMES = {"median_s": _NUMBER, "iqr_s": _NUMBER, "min_s": _NUMBER, "rounds": int}

FIGURE = {
    "workload": str,
    "direction": str,
    "implementation": str,
    # tstn, eager, compiled, peer (any other way to do the same job) or reference (starts from a ready grid).
    "role": str,
    "transform": str,
    "dtype": str,
    # The dtype in which the grid's coordinates are computed or given.
    "coordinates": str,
    "layout": str,
    "backend": str,
    "shape": [int],
    "size": [int],
    "views": int,
    # Of each result, relative to float64's in the Euclidean norm.
    "errors": {...: _NUMBER},
    # Of each result, whether a second run gave the same bits.
    "repeats": {...: bool},
    # From call to finished result, launches included, by the host's clock.
    "wall": _TIMES,
    # By the GPU's clock, with the launches queued beforehand; null without a GPU, like all that follows from it.
    "gpu": (_TIMES, None),
    # Above what the caller holds, the results included; and the results alone.
    "peak_bytes": (int, type(None)),
    "result_bytes": int,
    "floor_bytes": int,
    "gb_per_s": _OR_NUMBER,
    "copy_gb_per_s": _OR_NUMBER,
    "share_of_copy": _OR_NUMBER,
}

STAGE = {
    "name": str,
    # passed, failed, timed out, unfinished: there is more to do in another call, or unavailable: the tool is not there
    # or does not work on this machine.
    "status": str,
    "returncode": (int, type(None)),
    "seconds": _NUMBER,
    "limit_s": _NUMBER,
    "counts": {...: int},
    "failures": [str],
}

DOCUMENT = {
    "schema": int,
    "suite": str,
    "started": str,
    "commit": _OR_TEXT,
    "dirty": (bool, type(None)),
    # A digest of the code that ran: where it differs, a run is another run.
    "source": str,
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
    require(document, DOCUMENT, "document")


def require(value: object, form: Any, where: str) -> None:
    """Check a part of a document.

    Raises:
        ValueError: If it does not have this form; the message says where.
    """
    if isinstance(form, tuple) and form[-1] is None:
        if value is not None:
            require(value, form[0], where)
    elif isinstance(form, list):
        require(value, list, where)
        assert isinstance(value, list)
        for i, item in enumerate(value):
            require(item, form[0], f"{where}[{i}]")
    elif isinstance(form, dict):
        require(value, dict, where)
        assert isinstance(value, dict)
        if ... in form:
            form = dict.fromkeys(value, form[...])
        if value.keys() != form.keys():
            raise ValueError(f"{where} must have the keys {sorted(form)}; got {sorted(value)}")
        for key, item in value.items():
            require(item, form[key], f"{where}.{key}")
    else:
        # bool is an int to Python, but not in results.
        types = form if isinstance(form, tuple) else (form,)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join(t.__name__ for t in types)
            raise ValueError(f"{where} must be {expected}; got {value!r}")


def read(path: Path) -> Document:
    """A results file.

    Raises:
        ValueError: If it does not hold a document of the form described here; the message names the file.
    """
    return read_checked(path, validate)


def read_checked(path: Path, validate: Callable[[object], None]) -> Document:
    """What a JSON file holds, if ``validate`` finds nothing wrong with it.

    Raises:
        ValueError: As it does, naming the file.
    """
    try:
        document = json.loads(path.read_text())
        validate(document)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return document


def read_figures(path: Path) -> list[Figure]:
    """The figures of a run under way, one a line; a last line that a kill cut short is left out."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def place(document: Document, results: Path = RESULTS) -> Path:
    """Where a document is kept: ``<tstn version>/<suite>--<gpu>.json``."""
    gpu = re.sub(r"[^a-z0-9]+", "-", document["gpu"]["name"].lower()).strip("-")
    return results / document["versions"]["tstn"] / f"{document['suite']}--{gpu}.json"


def kept(results: Path = RESULTS) -> list[tuple[Path, Document]]:
    """All results of GPUs; a CPU's beside them have another form."""
    return [(path, read(path)) for path in sorted(results.glob("*/warp--*.json"))]


def newest(results: Path = RESULTS, gpu: str = "") -> tuple[Path, Document] | None:
    """The newest results by tstn's version, then on a GPU whose name contains ``gpu`` before others, then by date."""

    def age(item: tuple[Path, Document]) -> tuple[tuple[int, ...], bool, str]:
        _, document = item
        return _version(document["versions"]["tstn"]), gpu in document["gpu"]["name"], document["started"]

    return max(kept(results), key=age, default=None)


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text or ""))
