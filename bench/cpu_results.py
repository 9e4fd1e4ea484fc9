"""What the benchmark of the CPU leaves behind: the form of its results, and how a run goes on with those of another."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import tstn
from bench.cpu_cases import SUITE
from bench.gpu import ROOT, installed, revision, source_digest
from bench.schema import read_checked, require

SCHEMA_VERSION = 1
# Each implementation's ``problem`` says why it has no times; ``ratios`` are over the kernels' median.
_NUMBER, _OR_NUMBER, _OR_TEXT = (float, int), (float, int, type(None)), (str, type(None))
_TIMES = {"median_s": _NUMBER, "quartiles_s": [_NUMBER], "min_s": _NUMBER, "rounds": int, "calls": int}
_IMPLEMENTATION = {
    "coordinates": str,
    # Whether it samples a float32 copy of a half image, because PyTorch's half sampler cannot do this job.
    "float32_copy": bool,
    "problem": _OR_TEXT,
    "errors": {...: _NUMBER},
    "times": (_TIMES, None),
}
CASE = {
    "workload": str,
    "direction": str,
    "threads": int,
    # "processor" or "wall".
    "clock": str,
    # How long its rounds were to take.
    "seconds": _NUMBER,
    # The machine's load average before, this run included: above the number of threads, others were at work.
    "load": _NUMBER,
    "transform": str,
    "dtype": str,
    "layout": str,
    "shape": [int],
    "size": [int],
    "views": int,
    "implementations": {...: _IMPLEMENTATION},
    "ratios": {"eager": _OR_NUMBER, "best": _OR_NUMBER, "plain": _OR_NUMBER},
}
DOCUMENT = {
    "schema": int,
    "suite": str,
    "started": str,
    "commit": _OR_TEXT,
    "dirty": (bool, type(None)),
    "source": str,
    "versions": {...: _OR_TEXT},
    "machine": {"cpu": str, "architecture": str, "capability": str, "cores": int, "threads": int},
    "cases": [CASE],
}
Figure = dict[str, Any]
Document = dict[str, Any]


def validate(document: object) -> None:
    """Check a results document.

    Raises:
        ValueError: If its version or its form is not the one described here; the message says where.
    """
    if isinstance(document, dict) and (document.get("suite"), document.get("schema")) != ("cpu", SCHEMA_VERSION):
        raise ValueError(f"suite and schema must be 'cpu' and {SCHEMA_VERSION}")
    require(document, DOCUMENT, "document")


def read(path: Path) -> Document:
    """A results file.

    Raises:
        ValueError: If it does not hold a document of the form described here; the message names the file.
    """
    return read_checked(path, validate)


def write(path: Path, document: Document) -> None:
    """Put a document in place in one step, a line for each case."""
    validate(document)
    text = json.dumps({**document, "cases": []}, indent=1)
    lines = ",\n".join(f"  {json.dumps(case)}" for case in document["cases"])
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text.replace('"cases": []', f'"cases": [\n{lines}\n ]') + "\n")
    unfinished.replace(path)


def describe(document: Document) -> str:
    """Where figures come from, in a line."""
    machine, versions = document["machine"], document["versions"]
    revision = (document["commit"] or f"source {document['source']}")[:16] + " with changes" * bool(document["dirty"])
    return (
        f"{machine['cpu']} ({machine['architecture']}, {machine['capability']}), {machine['cores']} cores, "
        f"tstn {versions['tstn']} ({revision}), PyTorch {versions['torch']}, Triton {versions['triton']}, "
        f"llvmlite {versions['llvmlite']}, Python {versions['python']}, {document['started']}"
    )


def key_of(figure: Figure) -> tuple[str, str, int]:
    """As :attr:`bench.cpu_cases.Case.key`."""
    return figure["workload"], figure["direction"], figure["threads"]


# What has to be the same for figures to stand beside each other.
SAME = ("source", "versions", "machine")


def document() -> Document:
    """Results of this machine without figures."""
    commit, dirty = revision(ROOT)
    cpu, cores = processors()
    versions = {package: installed(package) for package in ("torch", "triton", "llvmlite")}
    return {
        "schema": SCHEMA_VERSION,
        "suite": "cpu",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": dirty,
        "source": source_digest(ROOT, ("bench", "kernels", "tstn")),
        "versions": {**versions, "python": platform.python_version(), "tstn": tstn.__version__},
        "machine": {
            "cpu": cpu,
            "architecture": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cores": cores,
            # That the machine has; each case has those that it ran on.
            "threads": os.cpu_count() or 1,
        },
        "cases": [],
    }


def processors(path: Path = Path("/proc/cpuinfo")) -> tuple[str, int]:
    """The model and the number of cores, as Linux tells them; on arm64 it does not."""
    text = path.read_text() if path.exists() else ""
    fields = [dict(re.findall(r"^(.+?)\s*: (.*)$", block, re.MULTILINE)) for block in text.split("\n\n")]
    model = fields[0].get("model name") or platform.processor() or platform.machine()
    cores = {(f["physical id"], f["core id"]) for f in fields if "core id" in f and "physical id" in f}
    return model, len(cores) or os.cpu_count() or 1


def resumed(path: Path | None, fresh: Document) -> Document:
    """The results in a file, to go on with, or fresh ones if there is no such file.

    Raises:
        ValueError: If the file holds something else, or results of other code, versions or another machine.
    """
    if path is None or not path.exists():
        return fresh
    found = read(path)
    for what in SAME:
        if found[what] != fresh[what]:
            raise ValueError(
                f"{path} has figures of another {what}, {found[what]}; this is {fresh[what]}. Delete it, or name "
                "another file"
            )
    return found


def covers(figure: Figure, names: Iterable[str], seconds: float) -> bool:
    """Whether a case needs no other measurement: it has these implementations, and no less time was spent."""
    return set(names) <= figure["implementations"].keys() and figure["seconds"] >= seconds


def put(document: Document, figure: Figure) -> None:
    """Add a case's figures, instead of those that it has, in the order of the suite."""
    places = {(w.id, d): i for i, (w, d) in enumerate((w, d) for w in SUITE for d in w.directions)}
    others = [other for other in document["cases"] if key_of(other) != key_of(figure)]
    document["cases"] = sorted([*others, figure], key=lambda f: (f["threads"], places.get(key_of(f)[:2], len(places))))
