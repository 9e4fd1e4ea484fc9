"""Carry out a plan: every run in a process of its own, one after the other or several at once."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tstn.experiments import results
from tstn.experiments.config import Config, ExperimentError
from tstn.experiments.configs import run_name
from tstn.experiments.options import arguments_of

UNFINISHED = 75
"""Exit status of what stopped because its time was over: sysexits' "try again later"."""
POLL_SECONDS = 0.2


@dataclass
class _Job:
    config: Config
    process: subprocess.Popen[bytes]
    output: IO[bytes] | None


def listing(configs: list[Config], folder: Path) -> str:
    """The commands of runs, and the errors of those that are done."""
    lines = []
    for config in configs:
        path = results.path_of(folder, config)
        done = f"{results.read(path)['error']:6.2f} %" if path.exists() else "        "
        lines.append(f"{done}  tstn {shlex.join(arguments_of(config))}")
    return "\n".join(lines)


def carry_out(configs: list[Config], args: argparse.Namespace) -> int:
    """Train what has no result yet.

    Args:
        configs: The runs.
        args: Options of ``tstn reproduce``.

    Returns:
        Exit status: 0 if all have a result, 75 if the time was over before.

    Raises:
        ExperimentError: If a run failed; the others were carried out.
    """
    from tqdm import tqdm

    # The last first: popped from the end.
    waiting = [c for c in configs if args.fresh or not results.path_of(args.results, c).exists()][::-1]
    deadline = None if args.max_seconds is None else time.monotonic() + args.max_seconds
    running: list[_Job] = []
    failed: list[str] = []
    unfinished = False
    bar = tqdm(total=len(configs), initial=len(configs) - len(waiting), unit="run", desc=args.plan, disable=None)
    try:
        while waiting or running:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0 and waiting:
                unfinished = True
                waiting.clear()
            while waiting and len(running) < args.jobs:
                running.append(_start(waiting.pop(), args, left))
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                status = _finish(job)
                bar.update(status == 0)
                unfinished |= status == UNFINISHED
                if status not in (0, UNFINISHED):
                    failed.append(f"{run_name(job.config)} (exit status {status})")
            time.sleep(POLL_SECONDS)
    finally:
        # Interrupted: the runs go on from their checkpoints next time.
        for job in running:
            job.process.terminate()
            _finish(job)
        bar.close()
    if failed:
        raise ExperimentError(
            "\n  ".join([f"{len(failed)} of {len(configs)} runs failed:", *failed])
            + ("\nwhat they said is in output.txt in their folders" if args.jobs > 1 else "")
        )
    return UNFINISHED if unfinished else 0


def _start(config: Config, args: argparse.Namespace, left: float | None) -> _Job:
    command = [sys.executable, "-m", "tstn", *arguments_of(config)]
    command += ["--runs", str(args.runs), "--results", str(args.results), "--device", args.device]
    command += ["--checkpoint-seconds", str(args.checkpoint_seconds), "--workers", str(args.workers)]
    if args.data_root is not None:
        command += ["--data-root", str(args.data_root)]
    if left is not None:
        command += ["--max-seconds", str(max(left, 0.001))]
    command += ["--fresh"] * args.fresh + ["--tensorboard"] * args.tensorboard
    if args.jobs == 1:
        return _Job(config, subprocess.Popen(command), None)
    folder = args.runs / run_name(config)
    folder.mkdir(parents=True, exist_ok=True)
    output = (folder / "output.txt").open("wb")
    return _Job(config, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT), output)


def _finish(job: _Job) -> int:
    status = job.process.wait()
    if job.output is not None:
        job.output.close()
    return status
