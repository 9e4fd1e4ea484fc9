"""Forward, and forward with backward, of tstn and of what PyTorch offers.

Each implementation is first checked against a float64 result; one that is wrong fails and is not timed. Compilation
and warm-up are outside the timed region. :mod:`bench.timing` has the clocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import tstn
from bench.peers import Implementation, check, implementations
from bench.schema import Figure
from bench.timing import CUDA, GPU_ROUNDS, clock, copy_gb_per_s, flush, gpu_seconds, peak_bytes, rounds_for, times
from bench.workloads import DIRECTIONS, WORKLOADS, ZOOMS, Problem, Workload, dtype_name, floor_bytes, result_bytes

Case = tuple[Workload, str, Implementation]
# What a deadline takes first: ways that are seldom the best peer.
LAST = ("copies", "loop", "kornia", "broadcast_compiled")


def cases() -> list[Case]:
    """All cases, in the order of their worth: PyTorch as it is used, the zooms, what is compiled, other peers."""
    workloads = (*WORKLOADS, *ZOOMS) if CUDA else tuple(workload.on_cpu() for workload in WORKLOADS)
    listed = [(w, d, i) for w in workloads for d in w.directions for i in implementations(w, CUDA)]

    def later(case: Case) -> tuple[float, float]:
        _, direction, implementation = case
        name = implementation.name
        return (LAST.index(name) + 1 if name in LAST else 0, implementation.compiled + (direction == "grad_input") / 2)

    return sorted(listed, key=later)


def case_id(case: Case) -> str:
    """As in "svhn-float32-step-eager"."""
    workload, direction, implementation = case
    return f"{workload.id}-{direction}-{implementation.name}"


@lru_cache(maxsize=1)
def problem_of(workload: Workload) -> Problem:
    """The tensors on the device that is timed; only those last asked for are held."""
    return Problem.of(workload, "cuda" if CUDA else "cpu")


def same_bits(first: tuple[Tensor, ...], second: tuple[Tensor, ...], names: tuple[str, ...]) -> dict[str, bool]:
    """Whether two runs gave the same, result by result."""
    return {name: torch.equal(a, b) for name, a, b in zip(names, first, second, strict=True)}


# PyTorch's compiler and other libraries may warn; that is no reason not to time them.
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
        "role": implementation.role,
        "transform": workload.family,
        "dtype": dtype_name(workload.dtype),
        "coordinates": dtype_name(implementation.coordinates(workload)),
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
        repeats = same_bits(results, run(), DIRECTIONS[direction])
        del results
        rounds = rounds_for(run, 0.1 if quick else 0.2)
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
            "views": workload.views,
            "errors": errors,
            "repeats": repeats,
            "wall": times(benchmark.stats.stats.data),
            "gpu": gpu,
            "peak_bytes": peak,
            "result_bytes": result_bytes(problem, direction),
            "floor_bytes": floor,
            "gb_per_s": achieved,
            "copy_gb_per_s": copy,
            "share_of_copy": achieved / copy if achieved and copy else None,
        }
    )
