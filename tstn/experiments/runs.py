"""Runs on disk: trained once, gone on with after whatever ended them, and never by two processes at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from tstn.experiments import checkpoint, results
from tstn.experiments.config import Config, ExperimentError
from tstn.experiments.configs import run_name
from tstn.experiments.engine import Setup, train
from tstn.experiments.results import Result

try:
    import fcntl
except ModuleNotFoundError:  # Windows: there it is for the user to start a run only once
    fcntl = None


def carry_out(
    config: Config, setup: Setup, results_folder: Path, accelerator: Accelerator, fresh: bool = False
) -> Result | None:
    """Train a run unless it has a result already; go on from its last checkpoint if it has one.

    Args:
        config: What to train.
        setup: How; its folder is the one that the runs' folders lie in.
        results_folder: Where results are collected.
        accelerator: Where to train.
        fresh: Forget the run's checkpoints and result, and start anew.

    Returns:
        The result; None if the time was over before the run was finished.

    Raises:
        ExperimentError: If it cannot go on; the message says what to do.
    """
    setup = dataclasses.replace(setup, folder=setup.folder / run_name(config))
    main = accelerator.is_main_process
    path = results.path_of(results_folder, config)
    with locked(setup.folder) if main else nullcontext():
        if main and fresh:
            for stale in (path, setup.folder / checkpoint.NAME, setup.folder / checkpoint.PREVIOUS):
                stale.unlink(missing_ok=True)
        result = results.read(path) if main and path.exists() else None
        if accelerator.num_processes > 1:
            result = broadcast_object_list([result])[0]
        if result is not None:
            return result
        outcome = train(config, setup, accelerator)
        if outcome is None:
            return None
        result = results.record(config, outcome, accelerator.device, accelerator.num_processes)
        if main:
            results.write(results_folder, result)
        return result


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder. The system lifts the lock when the process ends, however it ends.

    Raises:
        ExperimentError: If another process is there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise ExperimentError(f"cannot write to {folder}: {error}") from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ExperimentError(f"{folder} is in use: another process is training this very run") from None
        yield
