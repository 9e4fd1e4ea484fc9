"""Clocks, caches and memory: how one function is measured on this machine.

On a GPU, caches are cold and there are two clocks: the host's, from call to result, which is what a lone call costs;
and the GPU's, with the launches queued beforehand, which is what the kernels cost.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

CUDA = torch.cuda.is_available()
# Larger than any GPU's last cache.
FLUSH_BYTES = 2**28
COPY_BYTES = 2**30
# Some milliseconds: more than it takes to launch most things. Whatever takes longer gets longer.
QUEUE_CYCLES = 5_000_000
MOST_QUEUE_CYCLES = 80_000_000
GPU_ROUNDS = 30


def clock() -> float:
    """The time when the GPU has done all it was given."""
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


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
    cycles = QUEUE_CYCLES
    while len(durations) < rounds:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush()
        torch.cuda._sleep(cycles)
        start.record()
        run()
        end.record()
        # Awake before everything was queued, the GPU has waited for the host.
        late = start.query()
        end.synchronize()
        if late and cycles < MOST_QUEUE_CYCLES:
            cycles *= 2
        else:
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


def times(durations: Sequence[float]) -> dict[str, Any]:
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
    return max(5, min(100, int(seconds / (clock() - start))))
