"""Made-up results in the form of real ones."""

from __future__ import annotations

from typing import Any

from bench.schema import SCHEMA_VERSION
from bench.workloads import WORKLOADS, ZOOMS, Workload, dtype_name

COPY = 4000.0


def seconds(median: float) -> dict[str, Any]:
    return {"median_s": median, "iqr_s": median / 10, "min_s": median * 0.9, "rounds": 9}


def figure(
    workload: Workload, direction: str, implementation: str, role: str, gpu_s: float | None = 1e-3, **changes: Any
) -> dict[str, Any]:
    """One implementation on one workload; ``changes`` replace what is not told by the rest."""
    share = None if gpu_s is None else 0.5
    return {
        "workload": workload.id,
        "direction": direction,
        "implementation": implementation,
        "role": role,
        "transform": workload.family,
        "dtype": dtype_name(workload.dtype),
        "coordinates": "float32",
        "layout": workload.layout,
        "backend": "triton",
        "shape": list(workload.shape),
        "size": list(workload.size),
        "views": workload.views,
        "errors": {"output": 1e-7},
        "repeats": {"output": True},
        "wall": seconds(2e-3),
        "gpu": None if gpu_s is None else seconds(gpu_s),
        "peak_bytes": 1000,
        "result_bytes": 1000,
        "floor_bytes": 12,
        "gb_per_s": None if share is None else share * COPY,
        "copy_gb_per_s": None if share is None else COPY,
        "share_of_copy": share,
    } | changes


def document(figures: list[dict[str, Any]] | None = None, gpu: str = "NVIDIA H200") -> dict[str, Any]:
    return {
        "schema": SCHEMA_VERSION,
        "suite": "warp",
        "started": "2000-01-01T00:00:00+00:00",
        "commit": None,
        "dirty": None,
        "source": "0123456789abcdef",
        "versions": {"torch": "2.11.0", "triton": None, "tstn": "0.1.0"},
        "gpu": {"name": gpu, "driver": None, "clocks_before": {}, "clocks_after": {}},
        "copy_gb_per_s": COPY,
        "stages": [],
        "figures": figures or [],
    }


def fast_run() -> dict[str, Any]:
    """A run of the whole suite that meets every bar of a GPU."""
    figures = []
    for workload in WORKLOADS:
        for direction in workload.directions:
            figures += [
                figure(workload, direction, "tstn", "tstn", share_of_copy=0.86),
                figure(workload, direction, "eager", "eager", 5e-3),
                figure(workload, direction, "compiled", "compiled", 3e-3),
                figure(workload, direction, "broadcast", "peer", 2e-3),
                figure(workload, direction, "ready_grid", "reference", 0.5e-3),
            ]
    for workload in ZOOMS:
        figures += [
            figure(workload, "grad_input", "tstn", "tstn"),
            figure(workload, "grad_input", "tstn_scatter", "tstn", 2e-3),
            figure(workload, "grad_input", "ready_grid", "reference", 1.5e-3),
        ]
    return document(figures)
