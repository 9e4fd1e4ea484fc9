"""What a call costs in Python: everything but the kernels, on a machine that needs no GPU.

    python -m bench.overhead              print it
    python -m bench.overhead --json FILE  and write it down

Triton's launcher runs as on a GPU up to the last step, which a stub takes: the kernels are compiled for one, and what
would start them returns at once. Timed are a forward pass, and a forward and a backward pass, of a small affine warp,
from the call to the last launch: checks, memory, autograd and launches. Beside them stand bare launches of the same
kernels with the same arguments through Triton's own ``kernel[grid](...)``, which is what anybody who writes a kernel
pays. Their difference may be negative: a plan keeps what Triton would look up again for every launch.

What only a GPU has is not in it: asking for the current device and stream, CUDA's allocator, and the thread in which
the backward pass runs there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver

import tstn
from tstn import _backend, _launch
from tstn._backend import INTERPRETED

SHAPE = (256, 1, 28, 28)
ROUNDS, CALLS = 400, 25


class StubDriver:
    """Names a GPU and a stream, and nothing more."""

    def get_current_device(self) -> int:
        """The only device."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default stream."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """Of the H100 and the H200."""
        return GPUTarget("cuda", 90, 32)


def _stub_handles(kernel: Any) -> None:
    """In place of loading the machine code: a launch that does nothing."""
    kernel.module = kernel
    kernel._run = lambda *arguments: None


@contextlib.contextmanager
def stub() -> Iterator[None]:
    """CPU tensors go through the kernels' launches, and nothing is launched."""
    before = driver._active
    driver.set_active(StubDriver())  # pyright: ignore[reportArgumentType]
    try:
        with (
            mock.patch.object(CompiledKernel, "_init_handles", _stub_handles),
            # What lets CPU tensors be those of a GPU, and costs a call nothing that it would not cost there.
            mock.patch.object(_backend, "INTERPRETED", True),
            tstn.backend("triton"),
        ):
            yield
    finally:
        driver._active = before


def microseconds(call: Callable[[], object]) -> float:
    """The least processor time of a call, over many rounds of some: whatever else runs only adds to it."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(CALLS):
            call()
        rounds.append((time.process_time() - start) / CALLS * 1e6)
    return min(rounds)


def launches_of(call: Callable[[], object]) -> list[_launch.Launch]:
    """What a call launches."""
    recorded: list[_launch.Launch] = []
    with mock.patch.object(_launch.Launch, "run", lambda launch, device: recorded.append(launch)):
        call()
    return recorded


def bare(launches: list[_launch.Launch]) -> Callable[[], None]:
    """The same launches through Triton alone."""
    import tstn_kernels

    prepared = []
    for launch in launches:
        kernel = getattr(tstn_kernels, launch.kernel)[(launch.programs,)]
        prepared.append((kernel, launch.arguments, {**launch.constexprs, **launch.options("cuda", 32)}))

    def run() -> None:
        for kernel, arguments, keywords in prepared:
            kernel(*arguments, **keywords)

    return run


def measure() -> dict[str, Any]:
    """Microseconds of each, and what the rest of the machine is."""
    torch.set_num_threads(1)
    x = torch.rand(SHAPE, requires_grad=True)
    theta = torch.eye(2, 3).repeat(SHAPE[0], 1, 1).requires_grad_()
    grad = torch.rand(SHAPE)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return tstn.spatial_transform(x, theta)

    def step() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(tstn.spatial_transform(x, theta), (x, theta), grad)

    figures: dict[str, Any] = {}
    with stub():
        for name, call in (("forward", forward), ("step", step)):
            launches = launches_of(call)
            call()
            total, alone = microseconds(call), microseconds(bare(launches))
            figures |= {
                f"{name}_launches": len(launches),
                f"{name}_total_us": round(total, 2),
                f"{name}_bare_us": round(alone, 2),
                f"{name}_us": round(total - alone, 2),
            }
    return {
        **figures,
        "shape": list(SHAPE),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__},
        "machine": platform.machine(),
        "tstn": tstn.__version__,
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    if INTERPRETED:
        print("TRITON_INTERPRET=1 has no launcher to measure: unset it", file=sys.stderr)
        return 2
    figures = measure()
    print(f"{'us per call':<12} {'tstn':>8} {'bare launches':>14} {'difference':>11}")
    for name in ("forward", "step"):
        total, alone, rest = (figures[f"{name}{part}"] for part in ("_total_us", "_bare_us", "_us"))
        print(f"{name:<12} {total:8.1f} {alone:14.1f} {rest:11.1f}   ({figures[f'{name}_launches']} launches)")
    if options.json is not None:
        unfinished = options.json.with_suffix(".part")
        unfinished.write_text(json.dumps(figures, indent=1) + "\n")
        os.replace(unfinished, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
