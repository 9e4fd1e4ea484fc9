"""What a call puts on the GPU: tstn's own launches and PyTorch's, recorded without a GPU and without large tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import tstn
from bench.workloads import DIRECTIONS, LAYOUTS, Problem
from tstn import _checks, _launch, ops
from tstn.transforms import as_transform

# Operators that look at no value of the tensors they are given.
FILLS = {"zero_", "fill_", "new_zeros", "new_full", "zeros_like", "ones_like", "full_like"}


class Step(NamedTuple):
    """One launch: tstn's, or an operator of PyTorch that reads and writes tensors once."""

    name: str
    launch: _launch.Launch | None
    reads: tuple[Tensor, ...] = ()
    writes: tuple[Tensor, ...] = ()


class Call(NamedTuple):
    """A call's launches in order, and the bytes that it allocates, none of them freed before its end."""

    steps: list[Step]
    allocated: int


def call(problem: Problem, direction: str) -> Call:
    """The call that computes the results of a direction.

    Images and what has their size are without memory; theta, or a flow, keeps its values.
    """
    wanted = DIRECTIONS[direction]
    workload = problem.workload
    input = torch.empty(problem.input.shape, dtype=workload.dtype, device="meta")
    input = input.contiguous(memory_format=LAYOUTS[workload.layout]).requires_grad_("grad_input" in wanted)
    theta = problem.theta.detach().requires_grad_("grad_theta" in wanted)
    transform = as_transform(workload.transform)

    def warp() -> Tensor:
        return tstn.spatial_transform(input, theta, transform, workload.size, align_corners=workload.align_corners)

    with Recorder(transform) as recorder:
        # What a transform computes once and keeps is not a call's work, nor its memory.
        warp()
        before = recorder.steps.copy()
        recorder.steps.clear()
        output = warp()
        if "output" not in wanted:
            recorder.steps.clear()
        grad_output = torch.empty_like(output)
        if leaves := [t for t in (input, theta) if t.requires_grad]:
            torch.autograd.grad(output, leaves, grad_output)
    held = {*_storages(before), _storage(grad_output)}
    sizes = _storages(recorder.steps)
    return Call(recorder.steps, sum(size for storage, size in sizes.items() if storage not in held))


class Recorder(TorchDispatchMode):
    """Records tstn's launches instead of making them, and PyTorch's operators beside making them.

    Calls take the kernels' way on every device, and the tensors of one may be on several: those whose values matter to
    a kernel's addresses on the CPU, the others without memory.
    """

    def __init__(self, transform: tstn.Transform) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._patches = contextlib.ExitStack()
        self._transform = transform

    def __enter__(self) -> Recorder:
        kind, steps, spline_product = type(self._transform), self.steps, _launch.spline_product
        constants = self._transform.constants(torch.device("cpu"))

        def run(launch: _launch.Launch, device: torch.device) -> None:
            steps.append(Step(launch.kernel, launch))

        def product(out: Tensor, vectors: Tensor, matrix: Tensor, centres: Tensor | None) -> Tensor:
            # The numbers that kernels read later.
            spline_product(out, vectors, matrix, centres)
            with _disable_current_modes():
                displacement = vectors.to(matrix.dtype) - (0 if centres is None else centres)
                return out.copy_(matrix @ displacement)

        for patch in (
            mock.patch.object(_launch.Launch, "run", run),
            mock.patch.object(_launch, "spline_product", product),
            mock.patch.object(ops, "backend_for", return_value="triton"),
            # Else this mode would be shown the registered op, and not what it launches.
            mock.patch.object(ops, "is_dispatched", return_value=False),
            mock.patch.object(_checks, "require_device"),
            mock.patch.object(kind, "constants", return_value=constants),
        ):
            self._patches.enter_context(patch)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        given = _tensors(args)
        changed = [
            a for a, s in zip(args, func._schema.arguments, strict=False) if s.alias_info and s.alias_info.is_write
        ]
        fresh = [t for t in _tensors((out,)) if _storage(t) not in map(_storage, given)]
        writes = (*_tensors(changed), *fresh)
        if writes and "empty" not in name:
            reads = [] if name in FILLS else given
            self.steps.append(Step(name, None, tuple(reads), writes))
        return out


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    flat = [item for value in values for item in (value if isinstance(value, (list, tuple)) else (value,))]
    return [item for item in flat if isinstance(item, Tensor)]


def _storages(steps: Sequence[Step]) -> dict[int, int]:
    """The bytes of all memory that launches are given."""
    tensors = [t for step in steps for t in (*step.reads, *step.writes)]
    tensors += [t for step in steps if step.launch for t in _tensors(step.launch.arguments)]
    return {_storage(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}


def _storage(tensor: Tensor) -> int:
    """Which memory a tensor has, also without memory."""
    return tensor.untyped_storage()._cdata
