"""What the benchmark of the CPU measures, who does it, and by which clock."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bench.peers import TSTN, Implementation, check, implementations
from bench.workloads import WORKLOADS, Problem, Workload, dtype_name

# A lone digit costs what a call costs: it has a bar of its own, and is in no mean.
TINY = "tiny"
# A sample has as many calls as it takes to be long beside what the clock can tell, and beside the first of them, which
# finds the caches full of what another implementation left there.
LEAST_ROUNDS, LEAST_SAMPLE_S, MOST_CALLS = 5, 2e-3, 1000

Result = tuple[Tensor, ...]
Run = Callable[[], Result]
Clock = Callable[[], float]


def _alone() -> Iterator[Workload]:
    """Single images, and large ones as they are on a GPU."""
    data = ("forward", "step", "step_theta")
    tiny = Workload(TINY, (1, 1, 8, 8), (8, 8), 1)
    photograph = Workload("photograph", (1, 3, 224, 224), (224, 224), 1, directions=data)
    turned = next(w for w in WORKLOADS if w.id == "hd_rotation15-float32")
    full = replace(turned, name="hd_full", shape=(1, *turned.shape[1:]), cpu_shrink=1)
    both = ("nchw", "channels_last")
    for job, layouts in ((tiny, ("nchw",)), (photograph, both), (turned.on_cpu(), ("channels_last",)), (full, both)):
        for layout in layouts:
            yield from (replace(job, dtype=dtype, layout=layout) for dtype in (torch.float32, torch.bfloat16))


SUITE = (*(workload.on_cpu() for workload in WORKLOADS), *_alone())

NATIVE = replace(TSTN, name="native", backend="triton")
PLAIN = replace(TSTN, name="plain", backend="torch")


def contenders(workload: Workload, compiled: bool) -> tuple[Implementation, ...]:
    """The kernels, tstn on plain PyTorch, and PyTorch's own way, which samples a float32 copy of a large half image."""
    eager = next(i for i in implementations(workload, cuda=False) if i.name == "eager")
    found = (NATIVE, PLAIN, eager)
    return (*found, replace(eager, name="compiled", role="compiled", compiled=True)) if compiled else found


@dataclass(frozen=True)
class Case:
    """What is measured in one go, so that whatever else the machine does hits all alike."""

    workload: Workload
    direction: str
    threads: int
    # Whether ``torch.compile`` of eager is among them.
    compiled: bool

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is called in results."""
        return self.workload.id, self.direction, self.threads


def cases(threads: Sequence[int], compiled: str = "some", only: str = "") -> list[Case]:
    """All cases whose "workload direction" contains a text; ``compiled`` is "all", "some" or "none" of them."""
    return [
        Case(workload, direction, count, compiled == "all" or (compiled == "some" and workload.compiled_on_cpu))
        for count in threads
        for workload in SUITE
        for direction in workload.directions
        if only in f"{workload.id} {direction}"
    ]


@lru_cache(maxsize=1)
def problem_of(workload: Workload) -> Problem:
    """The tensors; only those last asked for are held."""
    return Problem.of(workload, "cpu")


def prepared(problem: Problem, direction: str, implementation: Implementation) -> tuple[Run, dict[str, float]]:
    """What is to be timed, compiled, checked and warm, and its errors.

    Raises:
        AssertionError: If its results are wrong.
    """
    with implementation.settings():
        run = implementation.prepare(problem, direction)
        errors = check(problem, implementation, direction, run())
        run()
    return run, errors


def calls_for(run: Callable[[], object], clock: Clock) -> int:
    """How many calls it takes for a sample that is long enough to be told."""
    spent = []
    for _ in range(3):
        start = clock()
        run()
        spent.append(clock() - start)
    return max(1, min(MOST_CALLS, math.ceil(LEAST_SAMPLE_S / max(min(spent), 1e-9))))


@dataclass(frozen=True)
class Timed:
    """A function, the settings under which it runs, and how many calls a sample has."""

    run: Callable[[], object]
    settings: Callable[[], AbstractContextManager[None]]
    calls: int


def interleaved(
    runs: Mapping[str, Timed], clock: Clock, seconds: float, watch: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of a call, a sample of each function in every round, until ``watch`` says that the time is up."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    rounds = 0
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    end = watch() + seconds
    try:
        while order and (rounds < LEAST_ROUNDS or watch() < end):
            for name in order:
                timed = runs[name]
                with timed.settings():
                    run, calls = timed.run, range(timed.calls)
                    start = clock()
                    for _ in calls:
                        run()
                    samples[name].append((clock() - start) / timed.calls)
            # Nobody always finds the cache as the same other left it.
            order.append(order.pop(0))
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return samples


def summed_up(samples: Sequence[float], calls: int) -> dict[str, Any]:
    """Samples in the form of results, in digits that mean something."""
    quarter, median, three_quarters = (
        float(f"{seconds:.6g}") for seconds in statistics.quantiles(samples, n=4, method="inclusive")
    )
    return {
        "median_s": median,
        "quartiles_s": [quarter, three_quarters],
        "min_s": float(f"{min(samples):.6g}"),
        "rounds": len(samples),
        "calls": calls,
    }


def clock_of(threads: int) -> tuple[str, Clock]:
    """One thread's work is processor time, whatever else runs; that of several is what one waits for."""
    return ("processor", time.process_time) if threads == 1 else ("wall", time.perf_counter)


def measure(case: Case, seconds: float, no_compiler: str | None = None) -> dict[str, Any]:
    """One case in the form of results; ``no_compiler`` says why ``torch.compile`` cannot run."""
    torch.set_num_threads(case.threads)
    workload, problem = case.workload, problem_of(case.workload)
    load = round(os.getloadavg()[0], 2)
    clock_name, clock = clock_of(case.threads)
    found: dict[str, dict[str, Any]] = {}
    runs: dict[str, Timed] = {}
    for implementation in contenders(workload, case.compiled):
        entry: dict[str, Any] = {
            "coordinates": dtype_name(implementation.coordinates(workload)),
            "float32_copy": implementation.float32 and workload.dtype != torch.float32,
            "problem": None,
            "errors": {},
            "times": None,
        }
        found[implementation.name] = entry
        if implementation.compiled and no_compiler is not None:
            entry["problem"] = f"skipped: {no_compiler}"
            continue
        try:
            run, entry["errors"] = prepared(problem, case.direction, implementation)
            with implementation.settings():
                runs[implementation.name] = Timed(run, implementation.settings, calls_for(run, clock))
        except AssertionError as error:
            entry["problem"] = f"wrong: {error}"
        except Exception as error:
            entry["problem"] = f"failed: {type(error).__name__}: {error}"
    for name, samples in interleaved(runs, clock, seconds).items():
        found[name]["times"] = summed_up(samples, runs[name].calls)
    return {
        "workload": workload.id,
        "direction": case.direction,
        "threads": case.threads,
        "clock": clock_name,
        "seconds": seconds,
        "load": load,
        "transform": workload.family,
        "dtype": dtype_name(workload.dtype),
        "layout": workload.layout,
        "shape": list(workload.shape),
        "size": list(workload.size),
        "views": workload.views,
        "implementations": found,
        "ratios": ratios(found),
    }


def ratios(implementations: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """How many times as long as the kernels PyTorch takes: eager, the better of eager and compiled, tstn's plain."""

    def seconds(*names: str) -> float | None:
        times = [implementations[name]["times"] for name in names if name in implementations]
        return min((t["median_s"] for t in times if t is not None), default=None)

    own = seconds("native")
    others = {"eager": seconds("eager"), "best": seconds("eager", "compiled"), "plain": seconds("plain")}
    return {name: None if own is None or time is None else time / own for name, time in others.items()}
