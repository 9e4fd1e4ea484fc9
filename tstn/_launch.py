"""Allocate and launch: tensors meet the kernels here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tstn import _configs, _plan
from tstn._backend import INTERPRETED
from tstn._plan import Layouts, Plan, layout
from tstn._warp import Needed, Operands, Warp, memory_format


class Launch(NamedTuple):
    """A kernel by name, how many programs run it, its arguments in order and its constexprs."""

    kernel: str
    programs: int
    arguments: tuple[Any, ...]
    constexprs: Mapping[str, Any]
    config: _configs.Config
    # The tensors among the arguments come first.
    tensors: int
    compiled: dict[Any, Any]

    def options(self, backend: str) -> dict[str, Any]:
        """The compiler's options for Triton's backend, "cuda" or "hip"."""
        options = {"num_warps": self.config.num_warps, "enable_fp_fusion": True}
        if backend == "cuda" and self.config.maxnreg is not None:
            options["maxnreg"] = self.config.maxnreg
        return options

    def run(self, device: torch.device) -> None:
        """Launch on the device's current stream.

        Triton's own way through a launch costs more than a small warp does. It specialises on what a plan is made
        for, and on the alignment of tensors; so what it compiled can be launched at once the next time.
        """
        if device.type == "cuda" and torch.cuda.current_device() != device.index:
            with torch.cuda.device(device):
                self._run(device)
        else:
            self._run(device)

    def _run(self, device: torch.device) -> None:
        key = (device.index, *[tensor.data_ptr() % 16 for tensor in self.arguments[: self.tensors]])
        found = self.compiled.get(key)
        if found is not None:
            compiled, constexprs = found
            compiled[(self.programs, 1, 1)](*self.arguments, *constexprs)
            return
        import tstn_kernels

        kernel = getattr(tstn_kernels, self.kernel)
        options = self.options("cuda" if torch.version.hip is None else "hip")
        compiled = kernel[(self.programs,)](*self.arguments, **self.constexprs, **options)
        if not INTERPRETED:
            names = kernel.arg_names[len(self.arguments) :]
            self.compiled[key] = compiled, [self.constexprs[name] for name in names]


def forward(operands: Operands, warp: Warp) -> Tensor:
    """Warp input (N, C, H, W) by theta (M, P) and flow (M, H_out, W_out, 2) to (M, C, H_out, W_out) in one launch.

    A scalar fill of a float64 input is first put in memory, a second launch.
    """
    input = operands.input
    output = torch.empty(
        (operands.warps, input.shape[1], *warp.size),
        dtype=input.dtype,
        device=input.device,
        memory_format=memory_format(input),
    )
    fill_output(output, operands, warp)
    return output


def fill_output(output: Tensor, operands: Operands, warp: Warp) -> None:
    """The same into memory that is there."""
    if not output.numel():
        return
    operands = _with_precise_fill(operands, warp)
    plan = _plan.forward(Layouts.of(operands), layout(output), warp)
    _run(plan, {"output": output, **operands._asdict()}, operands.input)


def backward(
    grad_output: Tensor, operands: Operands, warp: Warp, needed: Needed
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, theta, flow and fill, those that are needed, in at most three launches.

    When PyTorch is asked for deterministic algorithms, those that scatter the input's take two more.
    """
    grads = empty_gradients(*operands[:4], needed)
    fill_gradients(grads, grad_output, operands, warp)
    return grads


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def fill_gradients(grads: Gradients, grad_output: Tensor, operands: Operands, warp: Warp) -> None:
    """The same into memory that is there; None where nothing is wanted."""
    grad_input, grad_theta, grad_flow, grad_fill = grads
    if not grad_output.numel() or (grad_input is not None and not grad_input.numel()):
        for grad in grads:
            if grad is not None:
                grad.zero_()
        return
    if warp.mode == "nearest":
        for grad in (grad_theta, grad_flow):
            if grad is not None:
                grad.zero_()
    operands = _with_precise_fill(operands, warp)
    deterministic = torch.are_deterministic_algorithms_enabled()
    plan = _plan.backward(
        Layouts.of(operands), layout(grad_output), _plan.Gradients(*map(layout, grads)), warp, deterministic
    )
    tensors = operands._asdict()
    tensors |= {"grad_output": grad_output, "grad_input": grad_input, "grad_theta": grad_theta}
    tensors |= {"grad_flow": grad_flow, "grad_fill": grad_fill}
    if plan.zeroed and grad_input is not None:
        grad_input.zero_()
    for role, scratch in plan.scratch.items():
        new = grad_output.new_zeros if scratch.zeroed else grad_output.new_empty
        tensors[role] = new(scratch.numel, dtype=scratch.dtype)
    if plan.listed and operands.input_index is not None:
        tensors["order"], tensors["starts"] = _listed(operands.input_index, operands.input.shape[0])
    _run(plan, tensors, grad_output)


def empty_gradients(
    input: Tensor, theta: Tensor | None, flow: Tensor | None, fill: Tensor | None, needed: Needed
) -> Gradients:
    """Memory for the gradients that are needed. The input's keeps its memory format, the flow's its strides."""
    return (
        torch.empty_like(input, memory_format=memory_format(input)) if needed.input else None,
        theta.new_empty(theta.shape) if needed.theta and theta is not None else None,
        torch.empty_like(flow) if needed.flow and flow is not None else None,
        fill.new_empty(fill.shape) if needed.fill and fill is not None else None,
    )


def _run(plan: Plan, tensors: Mapping[str, Tensor | None], stand_in: Tensor) -> None:
    """Launch the steps; a role without a tensor gets the stand-in to point at, which no enabled branch follows."""
    for step in plan.steps:
        pointers = [tensors.get(role) for role in step.roles]
        pointers = [stand_in if tensor is None else tensor for tensor in pointers]
        arguments = (*pointers, *step.numbers)
        launch = Launch(
            step.kernel, step.programs, arguments, step.constexprs, step.config, len(pointers), step.compiled
        )
        launch.run(stand_in.device)


def _listed(input_index: Tensor, inputs: int) -> tuple[Tensor, Tensor]:
    """The thetas in the order of the inputs they read, and where in it each input's begin, (inputs + 1,)."""
    ordered, order = input_index.sort(stable=True)
    return order, torch.searchsorted(ordered, torch.arange(inputs + 1, device=ordered.device))


def _with_precise_fill(operands: Operands, warp: Warp) -> Operands:
    """The fill as a tensor where it is one per channel, or where a kernel's float32 argument would not hold it."""
    input = operands.input
    if operands.fill is None and warp.fill_value != 0 and input.dtype == torch.float64:
        fill = torch.full((), warp.fill_value, dtype=input.dtype, device=input.device).expand(input.shape[1])
        return operands._replace(fill=fill)
    return operands
