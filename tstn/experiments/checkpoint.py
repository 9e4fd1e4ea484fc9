"""Checkpoints: written whole or not at all, with the one before kept until the next."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tstn.experiments.config import ExperimentError

NAME = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"

State = dict[str, Any]


class CheckpointError(ExperimentError):
    """A checkpoint that cannot be read, or is not this run's; the message says what to do about it."""


def save(folder: Path, state: State) -> None:
    """Write ``checkpoint.pt``; what was there becomes ``checkpoint.previous.pt``.

    At every moment one of the two is whole, also if the machine loses its power.
    """
    path = folder / NAME
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        os.replace(path, folder / PREVIOUS)
    os.replace(temporary, path)


def load(path: Path) -> State:
    """Read a checkpoint file, onto the CPU.

    Raises:
        CheckpointError: If it is missing, damaged, or not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: give the {NAME} of a run, or its folder") from None
    # A file cut short fails in one of many ways.
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read, it is damaged or no checkpoint: {error}") from error
    if not isinstance(state, dict) or not {"config", "model", "iteration"} <= state.keys():
        raise CheckpointError(f"{path} is not a checkpoint of a tstn run")
    return state


def latest(folder: Path, warn: Callable[[str], None]) -> State | None:
    """The newest whole checkpoint of a run's folder; None if it has none yet.

    Args:
        folder: The run's.
        warn: Told if the newest one is damaged.

    Raises:
        CheckpointError: If there are checkpoints, but none is whole.
    """
    # Between two renames there is for a moment no checkpoint.pt.
    paths = [path for name in (NAME, PREVIOUS) if (path := folder / name).exists()]
    failures = []
    for path in paths:
        try:
            state = load(path)
        except CheckpointError as error:
            failures.append(str(error))
            continue
        for failure in failures:
            warn(f"{failure}; going on from {path}")
        return state
    if failures:
        raise CheckpointError("\n".join([*failures, "delete them, or give --fresh, to start the run anew"]))
    return None
