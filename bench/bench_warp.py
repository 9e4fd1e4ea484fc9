"""Forward, and forward with backward, of tstn and of what PyTorch offers.

Each implementation is first checked against a float64 result; one that is wrong fails and is not timed. Compilation
and warm-up are outside the timed region. On a GPU, caches are cold and each time is taken twice: by the host's clock
from call to result, which is what a lone call costs, and by the GPU's clock with the launches queued beforehand, which
is what the kernels cost.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import tstn
from bench.report import Figure
from bench.workloads import (
    WORKLOADS,
    Implementation,
    Problem,
    Workload,
    check,
    dtype_name,
    floor_bytes,
    implementations,
)

CUDA = torch.cuda.is_available()
# Larger than any GPU's last cache.
FLUSH_BYTES = 2**28
COPY_BYTES = 2**30
# Some milliseconds: more than it takes to launch any of these.
QUEUE_CYCLES = 5_000_000
GPU_ROUNDS = 30

Case = tuple[Workload, str, Implementation]


def clock() -> float:
    """The time when the GPU has done all it was given."""
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


def cases() -> list[Case]:
    """All cases; those that have to be compiled come last, so that a deadline takes them first."""
    workloads = WORKLOADS if CUDA else [workload.on_cpu() for workload in WORKLOADS]
    listed = [(w, d, i) for w in workloads for d in w.directions for i in implementations(w, CUDA)]
    return sorted(listed, key=lambda case: case[2].compiled)


def case_id(case: Case) -> str:
    """As in "svhn-float32-step-eager"."""
    workload, direction, implementation = case
    return f"{workload.id}-{direction}-{implementation.name}"


@lru_cache(maxsize=1)
def problem_of(workload: Workload) -> Problem:
    """The tensors on the device that is timed; only those last asked for are held."""
    return Problem.of(workload, "cuda" if CUDA else "cpu")


@lru_cache(maxsize=1)
def flush_buffer() -> Tensor:
    """Memory that pushes everything else out of the cache when it is written."""
    return torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")


def flush() -> None:
    """Leave nothing of use in the cache."""
    flush_buffer().zero_()


def gpu_seconds(run: Callable[[], object], rounds: int) -> list[float]:
    """Time on the GPU alone: while it flushes its cache and sleeps, the host queues the launches."""
    durations: list[float] = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush()
        torch.cuda._sleep(QUEUE_CYCLES)
        start.record()
        run()
        end.record()
        end.synchronize()
        durations.append(start.elapsed_time(end) * 1e-3)
    return durations


@lru_cache(maxsize=1)
def copy_gb_per_s() -> float:
    """The bandwidth of a large copy, bytes read plus bytes written: what a memory-bound kernel can hope for."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / statistics.median(gpu_seconds(lambda: target.copy_(source), GPU_ROUNDS)) * 1e-9


def peak_bytes(run: Callable[[], object]) -> int:
    """The most memory that a call holds, its results included, above what was held before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def times(durations: Sequence[float]) -> Figure:
    """Durations summed up."""
    quarter, median, three_quarters = statistics.quantiles(durations, n=4, method="inclusive")
    return {
        "median_s": median,
        "iqr_s": three_quarters - quarter,
        "min_s": min(durations),
        "rounds": len(durations),
    }


def rounds_for(run: Callable[[], object], seconds: float) -> int:
    """As many rounds as fit, judged by one that is already warm."""
    start = clock()
    run()
    return max(5, min(200, int(seconds / (clock() - start))))


# PyTorch's compiler may warn; that is no reason not to time it.
@pytest.mark.filterwarnings("default")
@pytest.mark.benchmark(timer=clock)
@pytest.mark.parametrize("case", cases(), ids=case_id)
def test_warp(
    case: Case, benchmark: BenchmarkFixture, record: Callable[[Figure], None], request: pytest.FixtureRequest
) -> None:
    """Check one implementation, then time it."""
    workload, direction, implementation = case
    quick = bool(request.config.getoption("quick"))
    if quick and implementation.compiled:
        pytest.skip("not in a quick run")
    problem = problem_of(workload)
    about: Figure = {
        "workload": workload.id,
        "direction": direction,
        "implementation": implementation.name,
        "dtype": dtype_name(workload.dtype),
        "layout": workload.layout,
        "backend": tstn.backend_for(problem.input),
    }
    benchmark.group = f"{workload.id} {direction}"
    benchmark.extra_info.update(about)

    with implementation.settings():
        run = implementation.prepare(problem, direction)
        try:
            results = run()
        except RuntimeError as error:
            if implementation.cudnn and "cudnn" in str(error).lower():
                pytest.skip(f"cuDNN cannot do this: {error}")
            raise
        errors = check(problem, implementation, direction, results)
        del results
        rounds = rounds_for(run, 0.1 if quick else 0.4)
        benchmark.pedantic(run, setup=flush if CUDA else None, rounds=rounds, warmup_rounds=min(rounds, 10))
        gpu = times(gpu_seconds(run, 5 if quick else GPU_ROUNDS)) if CUDA else None
        peak = peak_bytes(run) if CUDA else None
    if benchmark.stats is None:
        return

    floor = floor_bytes(problem, direction)
    copy = copy_gb_per_s() if CUDA else None
    achieved = floor / gpu["median_s"] * 1e-9 if gpu else None
    record(
        {
            **about,
            "shape": list(workload.shape),
            "size": list(workload.size),
            "errors": errors,
            "wall": times(benchmark.stats.stats.data),
            "gpu": gpu,
            "peak_bytes": peak,
            "floor_bytes": floor,
            "gb_per_s": achieved,
            "copy_gb_per_s": copy,
            "share_of_copy": achieved / copy if achieved and copy else None,
        }
    )
