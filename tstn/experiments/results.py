"""One JSON file per finished run, with all that one must know to believe it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import tstn
from tstn import data
from tstn.experiments.config import Config, ExperimentError
from tstn.experiments.configs import run_name
from tstn.experiments.history import Outcome

SCHEMA_VERSION = 1
FORM: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "config": dict,
    "error": (float, int),
    "parameters": int,
    "seconds": (float, int),
    "processes": int,
    "device": str,
    "machine": str,
    "backend": str,
    "versions": dict,
    "date": str,
    "commit": (str, type(None)),
    "modified": (bool, type(None)),
    "curve": dict,
}

Result = dict[str, Any]


def record(config: Config, outcome: Outcome, device: torch.device, processes: int) -> Result:
    """What is written of a finished run."""
    commit, modified = _commit()
    return {
        "schema": SCHEMA_VERSION,
        "config": config.to_dict(),
        "error": round(outcome.error, 4),
        "parameters": outcome.parameters,
        "seconds": round(outcome.seconds, 1),
        "processes": processes,
        "device": device.type,
        "machine": machine(device),
        "backend": tstn.backend_for(torch.empty(0, device=device)),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit,
        "modified": modified,
        "curve": {
            name: [round(value, 5) if isinstance(value, float) else value for value in values]
            for name, values in outcome.history.curve().items()
        },
    }


def path_of(folder: Path, config: Config) -> Path:
    """Where a run's result lies."""
    return folder / f"{run_name(config)}.json"


def write(folder: Path, result: Result) -> Path:
    """Add a result to a folder.

    Raises:
        DataError: If it cannot be written.
    """
    path = path_of(folder, Config.from_dict(result["config"]))
    text = json.dumps(result, indent=1)
    # Lists of numbers on one line each.
    text = re.sub(r"\[[^\[\]{}]*\]", lambda match: re.sub(r"\s+", " ", match[0]), text)
    data.write_atomically(path, f"{text}\n".encode())
    return path


def read(path: Path) -> Result:
    """Read a result.

    Raises:
        ExperimentError: If it is not one of this version.
    """
    try:
        result = json.loads(path.read_text())
        if result.keys() != FORM.keys():
            raise ValueError(f"must have the keys {sorted(FORM)}; got {sorted(result)}")
        if result["schema"] != SCHEMA_VERSION:
            raise ValueError(f"schema must be {SCHEMA_VERSION}; got {result['schema']!r}")
        for key, types in FORM.items():
            if not isinstance(result[key], types):
                raise ValueError(f"{key} must not be {result[key]!r}")
        if path.stem != run_name(Config.from_dict(result["config"])):
            raise ValueError("is not the run that the file is named after")
    except (OSError, ValueError, AttributeError) as error:
        raise ExperimentError(f"{path} is not a result: {error}") from error
    return result


def read_all(folder: Path) -> list[Result]:
    """All results of a folder, in the order of their names.

    Raises:
        ExperimentError: If one of its JSON files is not a result.
    """
    return [read(path) for path in sorted(folder.glob("*.json"))]


def versions() -> dict[str, str | None]:
    """Versions of what computed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("triton", "llvmlite", "accelerate"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return {**found, "cuda": torch.version.cuda, "tstn": tstn.__version__}


def machine(device: torch.device) -> str:
    """The hardware, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = os.cpu_count()
    return f"{_processor()}, {cores} core{'s' if cores != 1 else ''}, {torch.get_num_threads()} of them used"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> tuple[str | None, bool | None]:
    """The commit that the package is at and whether it was modified; None if it is not in its own repository."""
    folder = Path(tstn.__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # A virtual environment may lie in somebody else's repository.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return None, None
