"""Search for better launch configurations on this machine's GPU, and rewrite the frozen table.

    python -m bench.tune                        every row that a workload uses; print what would be gained
    python -m bench.tune --rows PIXELS_4        only these, separated by commas
    python -m bench.tune --write                rewrite the numbers in tstn/_configs.py
    python -m bench.tune --write FILE           write the new table to FILE instead
    python -m bench.tune --seconds 480          begin no candidate after this time

A row is a module-level ``NAME = Config(...)``. The search goes uphill from what the table has: one number of one row is
doubled or halved at a time, and the change kept if every workload that uses the row is still right and they are, in the
geometric mean, faster by more than noise. Comments, order and whatever else the table says stay as they are.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from bench.config_rows import Numbers, neighbours, rewritten, rows
from bench.peers import TSTN, check
from bench.timing import gpu_seconds
from bench.workloads import WORKLOADS, ZOOMS, Problem, Workload
from tstn import _configs, _plan

TABLE = Path(_configs.__file__)
# A candidate has to be faster by this much.
LEAST_GAIN = 1.02
ROUNDS = 15
# Of the jobs that use a row, those that judge a candidate; what they find best has to hold for all.
FEW_JOBS = 6


@dataclass
class Gain:
    """A row that was searched: what it was, what is best, and the seconds of each job before and after."""

    name: str
    before: Numbers
    after: Numbers
    seconds: dict[str, tuple[float, float]]
    tried: int

    @property
    def changes(self) -> Numbers:
        """The numbers that are other than before."""
        return {field: value for field, value in self.after.items() if value != self.before[field]}

    @property
    def ratio(self) -> float:
        """How many times faster, in the geometric mean."""
        return math.exp(statistics.fmean(math.log(then / now) for then, now in self.seconds.values()))


# From a row's name, its numbers and a job to seconds; infinite if the job fails or goes wrong with them.
Timer = Callable[[str, Numbers, str], float]


def search(name: str, numbers: Numbers, jobs: Sequence[str], timer: Timer, out_of_time: Callable[[], bool]) -> Gain:
    """Go uphill from a row, judged by a few of its jobs, and keep what is right and faster for all of them.

    Raises:
        RuntimeError: If a job fails with the numbers that the table has.
    """
    before = {job: timer(name, numbers, job) for job in jobs}
    broken = [job for job, seconds in before.items() if not math.isfinite(seconds)]
    if broken:
        raise RuntimeError(f"{name}, as it is in the table, fails or is wrong on {broken[0]}")
    few = jobs[:: -(-len(jobs) // FEW_JOBS)]
    best, current, seen = {job: before[job] for job in few}, dict(numbers), [dict(numbers)]
    better = True
    while better:
        better = False
        for candidate in neighbours(current):
            if candidate in seen or out_of_time():
                continue
            seen.append(candidate)
            seconds = _seconds(name, candidate, few, timer, best)
            if seconds is not None and _ratio(best, seconds) > LEAST_GAIN:
                current, best, better = candidate, seconds, True
                break
    after = before
    if current != numbers:
        everywhere = {job: best[job] if job in best else timer(name, current, job) for job in jobs}
        if all(map(math.isfinite, everywhere.values())) and _ratio(before, everywhere) > LEAST_GAIN:
            after = everywhere
        else:
            current = dict(numbers)
    return Gain(name, numbers, current, {job: (before[job], after[job]) for job in jobs}, len(seen) - 1)


def _seconds(
    name: str, numbers: Numbers, jobs: Sequence[str], timer: Timer, best: Mapping[str, float]
) -> dict[str, float] | None:
    """The seconds of every job; None as soon as one fails, or a few say that all would be slower."""
    seconds: dict[str, float] = {}
    for job in jobs:
        seconds[job] = timer(name, numbers, job)
        if not math.isfinite(seconds[job]) or (len(seconds) >= 3 and _ratio(best, seconds) < 1):
            return None
    return seconds


def _ratio(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    return math.exp(statistics.fmean(math.log(before[job] / seconds) for job, seconds in after.items()))


class StaleRowError(RuntimeError):
    """A job went on with an earlier row: something keeps what was made from it."""


class Bench:
    """Times jobs with a row of the table changed in place, so that all who hold it see the change."""

    def __init__(
        self,
        jobs: Mapping[str, tuple[Workload, str]],
        device: str = "cuda",
        clock: Callable[[Callable[[], object]], Sequence[float]] = lambda run: gpu_seconds(run, ROUNDS),
        table: Any = _configs,
    ) -> None:
        self.jobs = jobs
        self.clock = clock
        self.table = table
        self.problem_of = lru_cache(maxsize=16)(lambda workload: Problem.of(workload, device))

    def users(self) -> dict[str, list[str]]:
        """The jobs that read each row."""
        found: dict[str, list[str]] = {}
        for job, (workload, direction) in self.jobs.items():
            forget_plans()
            with self._watched() as read:
                TSTN.prepare(self.problem_of(workload), direction)()
            for name, row in vars(self.table).items():
                if id(row) in read:
                    found.setdefault(name, []).append(job)
        return found

    def __call__(self, name: str, numbers: Numbers, job: str) -> float:
        """The median seconds of a job, infinite if it fails or is wrong.

        Raises:
            StaleRowError: If the job does not look at the row.
        """
        row = getattr(self.table, name)
        before = {field: getattr(row, field) for field in numbers}
        workload, direction = self.jobs[job]
        problem = self.problem_of(workload)
        try:
            _change(row, numbers)
            forget_plans()
            with self._watched() as read:
                run = TSTN.prepare(problem, direction)
                results = run()
            if id(row) not in read:
                raise StaleRowError(f"{job} does not read {name}: something keeps what was made from an earlier one")
            check(problem, TSTN, direction, results)
            return statistics.median(self.clock(run))
        except StaleRowError:
            raise
        except Exception as error:
            # After that the device answers nobody.
            if "CUDA error" in str(error):
                raise
            print(f"    {told(numbers)} on {job}: {(str(error).splitlines() or [repr(error)])[0]}", flush=True)
            return math.inf
        finally:
            _change(row, before)
            forget_plans()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[set[int]]:
        """The ids of the rows that are looked at meanwhile."""
        config, read = self.table.Config, set[int]()
        usual = config.__getattribute__

        def watch(row: Any, name: str) -> Any:
            read.add(id(row))
            return usual(row, name)

        config.__getattribute__ = watch
        try:
            yield read
        finally:
            config.__getattribute__ = usual


def _change(row: Any, numbers: Numbers) -> None:
    """Change a frozen row in place."""
    for field, value in numbers.items():
        object.__setattr__(row, field, value)


def forget_plans() -> None:
    """Empty whatever the library keeps from one call to the next."""
    _plan.forget()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "tstn":
            for value in list(vars(module).values()):
                if callable(clear := getattr(value, "cache_clear", None)):
                    clear()


def told(numbers: Numbers) -> str:
    """As a row spells them."""
    return ", ".join(f"{field}={value}" for field, value in numbers.items())


def describe(gain: Gain) -> list[str]:
    """What a search found, in lines."""
    if not gain.changes:
        return [f"{gain.name}: stays, best of {gain.tried + 1} on {len(gain.seconds)} jobs"]
    lines = [f"{gain.name}: {told(gain.changes)} is {gain.ratio:.3f}x as fast, best of {gain.tried + 1}"]
    for job, (then, now) in gain.seconds.items():
        lines.append(f"    {job:<50} {then * 1e6:9.1f} us before {now * 1e6:9.1f} us after {then / now:6.2f}x")
    return lines


def tune(
    source: str,
    users: Mapping[str, Sequence[str]],
    timer: Timer,
    only: Sequence[str] = (),
    out_of_time: Callable[[], bool] = lambda: False,
    defaults: Numbers | None = None,
    keep: Callable[[str], object] = lambda table: None,
) -> list[Gain]:
    """Search the table's rows, those of most jobs first, and hand the new table to ``keep`` after each.

    Raises:
        ValueError: If ``only`` names what is no row.
    """
    table = rows(source)
    unknown = sorted(set(only) - table.keys())
    if unknown:
        raise ValueError(f"rows must be some of {', '.join(table)}; got {', '.join(unknown)}")
    gains = []
    for name in sorted(only or table, key=lambda name: -len(users.get(name, ()))):
        spelled = table[name].numbers
        # What a row leaves to its default is searched as well.
        numbers = {**spelled, **{field: value for field, value in (defaults or {}).items() if field not in spelled}}
        if not users.get(name):
            print(f"{name}: no workload uses it")
        elif not any(True for _ in neighbours(numbers)):
            print(f"{name}: has no numbers to search")
        elif out_of_time():
            print(f"{name}: out of time")
        else:
            gains.append(search(name, numbers, users[name], timer, out_of_time))
            print("\n".join(describe(gains[-1])), flush=True)
            keep(rewritten(source, {gain.name: gain.changes for gain in gains}))
    return gains


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.tune", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", default="", help="names of rows, separated by commas (default: all)")
    parser.add_argument("--jobs", default="", metavar="TEXT", help='only jobs whose "<workload> <direction>" has TEXT')
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no candidate after this time")
    parser.add_argument("--write", type=Path, nargs="?", const=TABLE, metavar="FILE", help="write the new table")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(f"bench.tune needs a GPU; PyTorch {torch.__version__} finds none here", file=sys.stderr)
        return 2
    deadline = time.monotonic() + options.seconds
    suite = {f"{w.id} {d}": (w, d) for w in (*WORKLOADS, *ZOOMS) for d in w.directions}
    bench = Bench({job: what for job, what in suite.items() if options.jobs in job})
    # A spline's samples share its basis; elsewhere there is nothing to share, so that their number stays out.
    defaults = {f.name: f.default for f in fields(_configs.Config) if f.name in ("num_warps", "maxnreg")}
    try:
        gains = tune(
            TABLE.read_text(),
            bench.users(),
            bench,
            [name for name in options.rows.split(",") if name],
            lambda: time.monotonic() > deadline,
            defaults,  # pyright: ignore[reportArgumentType]
            options.write.write_text if options.write is not None else lambda table: None,
        )
    except ValueError as error:
        parser.error(str(error))
    print(f"{sum(bool(gain.changes) for gain in gains)} of {len(gains)} rows change")
    return 0


if __name__ == "__main__":
    sys.exit(main())
