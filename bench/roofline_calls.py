"""What a call puts on the GPU: tstn's own launches and PyTorch's, recorded without a GPU and without large tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.workloads import DIRECTIONS, LAYOUTS, Problem
from tstn import _launch, ops
from tstn._warp import Operands, Warp
from tstn.transforms import as_transform

# Operators that look at no value of the tensors they are given.
FILLS = {"zero_", "fill_", "new_zeros", "new_full", "zeros_like", "ones_like", "full_like"}


class Step(NamedTuple):
    """One launch: tstn's, or an operator of PyTorch that reads and writes tensors once."""

    name: str
    launch: _launch.Launch | None
    reads: tuple[Tensor, ...] = ()
    writes: tuple[Tensor, ...] = ()


def steps(problem: Problem, direction: str) -> list[Step]:
    """The launches of a call, in order, that compute the results of a direction.

    Images and what has their size are without memory; theta, or a flow, keeps its values.
    """
    wanted = DIRECTIONS[direction]
    workload = problem.workload
    input = torch.empty(problem.input.shape, dtype=workload.dtype, device="meta")
    input = input.contiguous(memory_format=LAYOUTS[workload.layout]).requires_grad_("grad_input" in wanted)
    theta = problem.theta.detach().requires_grad_("grad_theta" in wanted)
    with _Recorder() as recorder:
        # What a transform computes once and keeps is not a call's work.
        _warp(input, theta, problem)
        recorder.steps.clear()
        output = _warp(input, theta, problem)
        if "output" not in wanted:
            recorder.steps.clear()
        if leaves := [t for t in (input, theta) if t.requires_grad]:
            torch.autograd.grad(output, leaves, torch.empty_like(output))
    return recorder.steps


def _warp(input: Tensor, theta: Tensor, problem: Problem) -> Tensor:
    """As :func:`tstn.spatial_transform`, but theta and what the map needs beside it stay where they have values."""
    workload = problem.workload
    transform = as_transform(workload.transform)
    theta = theta.flatten(0, 1) if workload.views > 1 else theta
    numbers, flow = (None, theta) if transform.is_dense else (transform.pack(theta, torch.float32), None)
    operands = Operands(input, numbers, flow, None, None, transform.constants(torch.device("cpu")))
    warp = Warp(transform.kernel, workload.size, align_corners=workload.align_corners)
    with mock.patch.object(ops, "backend_for", lambda tensor: "triton"):
        return ops.spatial_transform(operands, transform, warp)


class _Recorder(TorchDispatchMode):
    """Records launches instead of making them, and PyTorch's operators beside making them."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._patch = mock.patch.object(_launch.Launch, "run", self._record())

    def __enter__(self) -> _Recorder:
        self._patch.start()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patch.stop()

    def _record(self) -> Any:
        def run(launch: _launch.Launch, device: torch.device) -> None:
            self.steps.append(Step(launch.kernel, launch))

        return run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        given = _tensors(args)
        changed = [a for a, s in zip(args, func._schema.arguments, strict=False) if s.alias_info and s.alias_info.is_write]
        fresh = [t for t in _tensors((out,)) if _storage(t) not in map(_storage, given)]
        writes = (*_tensors(changed), *fresh)
        if writes and "empty" not in name:
            reads = [] if name in FILLS else given
            self.steps.append(Step(name, None, tuple(reads), writes))
        return out


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    flat = [item for value in values for item in (value if isinstance(value, (list, tuple)) else (value,))]
    return [item for item in flat if isinstance(item, Tensor)]


def _storage(tensor: Tensor) -> int:
    """Which memory a tensor has, also without memory."""
    return tensor.untyped_storage()._cdata
