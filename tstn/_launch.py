"""Allocate and launch: tensors meet the kernels here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tstn import _configs, _native, _plan
from tstn._backend import INTERPRETED
from tstn._plan import Call, Step
from tstn._warp import Needed, Operands, Warp, memory_format

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Of input, theta, flow and fill; None where it is not wanted."""
NO_GRADIENTS: Gradients = (None, None, None, None)


def warps(config: _configs.Config, warp_size: int) -> int:
    """How many warps have as many lanes as the configuration asks for."""
    return max(32 * config.num_warps // warp_size, 1)


class Launch(NamedTuple):
    """A step and its tensors."""

    step: Step
    tensors: tuple[Tensor, ...]
    # The scalar fill value, for kernels that take it.
    fill: tuple[float, ...] = ()
    # Whether each of them is known to begin at a multiple of 16 bytes.
    aligned: bool = False

    @property
    def kernel(self) -> str:
        return self.step.kernel

    @property
    def programs(self) -> int:
        return self.step.programs

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The kernel's, in order, up to the constexprs."""
        return (*self.tensors, *self.fill, *self.step.numbers)

    @property
    def constexprs(self) -> Mapping[str, Any]:
        return self.step.constexprs

    @property
    def config(self) -> _configs.Config:
        return self.step.config

    def options(self, backend: str, warp_size: int) -> dict[str, Any]:
        """The compiler's options for Triton's backend, "cuda" or "hip"."""
        options = {"num_warps": warps(self.config, warp_size), "enable_fp_fusion": True}
        if backend == "cuda" and self.config.maxnreg is not None:
            options["maxnreg"] = self.config.maxnreg
        return options

    def run(self, device: torch.device) -> None:
        """Launch on the device's current stream."""
        # The CPU's has no index, and looking it up is quicker than comparing names.
        if device.index is None:
            if INTERPRETED:
                self._run(device)
            else:
                _native.run(self.step, self.tensors, self.fill)
        elif torch.cuda.current_device() != device.index:
            with torch.cuda.device(device):
                self._run(device)
        else:
            self._run(device)

    def _run(self, device: torch.device) -> None:
        # Triton's way from arguments to compiled code costs more than a small warp does. It depends on what a plan is
        # made for and on the alignment of tensors, so that what it leads to can be kept.
        step, tensors, fill, aligned = self
        if aligned or is_aligned(tensors, device):
            key = device.index
        else:
            key = (device.index, *[tensor.data_ptr() & 15 for tensor in tensors])
        ready = step.ready.get(key)
        if ready is not None:
            launch, rest = ready
            launch(*tensors, *fill, *rest)
            return
        import tstn_kernels

        kernel = getattr(tstn_kernels, step.kernel)
        options = {}
        if not INTERPRETED:
            from triton.runtime import driver

            target: Any = driver.active.get_current_target()
            options = self.options(target.backend, target.warp_size)
        compiled = kernel[(step.programs,)](*self.arguments, **step.constexprs, **options)
        # The interpreter compiles nothing.
        if compiled is not None:
            constexprs = [step.constexprs[name] for name in kernel.arg_names[len(self.arguments) :]]
            step.ready[key] = compiled[(step.programs, 1, 1)], (*step.numbers, *constexprs)


def is_aligned(tensors: Iterable[Tensor | None], device: torch.device) -> bool:
    """Whether each is known to begin at a multiple of 16 bytes, as new memory does; on a CPU nobody asks."""
    if device.index is None:
        return False
    bits = 0
    for tensor in tensors:
        if tensor is not None:
            bits |= tensor.data_ptr()
    return not bits & 15


def call_of(operands: Operands, warp: Warp) -> tuple[Call, Operands, float]:
    """The plans for such a call, the operands as these want them, and the scalar fill value."""
    for tensor in operands:
        if tensor is not None and tensor.is_neg():
            operands = Operands(*(t if t is None else t.resolve_neg() for t in operands))  # pyright: ignore
            break
    operands = with_precise_fill(operands, warp)
    call = _plan.call(operands, warp)
    if not call.is_readable:
        _, theta, _, _, index, constants = operands
        operands = operands._replace(
            theta=None if theta is None else theta.contiguous(),
            input_index=None if index is None else index.contiguous(),
            constants=None if constants is None else constants.contiguous(),
        )
        call = _plan.call(operands, warp)
    return call, operands, warp.fill_value


def forward(call: Call, operands: Operands, fill_value: float) -> Tensor:
    """Warp input (N, C, H, W) by theta (M, *P) and flow (M, H_out, W_out, 2) to (M, C, H_out, W_out) in one launch.

    A scalar fill of a float64 input is in memory already, by a second launch.
    """
    output = operands.input.new_empty_strided(call.output.shape, call.output.stride)
    fill_output(output, call, operands, fill_value)
    return output


def fill_output(output: Tensor, call: Call, operands: Operands, fill_value: float) -> None:
    """The same into memory that is there."""
    if output.numel():
        step = call.forward
        tensors = step.pick(_by_role(operands, output, None, NO_GRADIENTS))
        device = output.device
        Launch(step, tensors, (fill_value,), is_aligned((output, *operands), device)).run(device)


def backward(grad_output: Tensor, call: Call, operands: Operands, fill_value: float, needed: Needed) -> Gradients:
    """The gradients of input, theta, flow and fill, those that are needed, in at most three launches.

    When PyTorch is asked for deterministic algorithms, those that scatter the input's take two more. An
    ``input_index`` is sorted first.
    """
    grads = empty_gradients(*operands[:4], needed)
    fill_gradients(grads, grad_output.resolve_neg(), call, operands, fill_value)
    return grads


def fill_gradients(grads: Gradients, grad_output: Tensor, call: Call, operands: Operands, fill_value: float) -> None:
    """The same into memory that is there."""
    grad_input, grad_theta, grad_flow, grad_fill = grads
    if not grad_output.numel() or (grad_input is not None and not grad_input.numel()):
        _zero(*grads)
        return
    if call.warp.mode == "nearest":
        _zero(grad_theta, grad_flow)
    needed = Needed(grad_input is not None, grad_theta is not None, grad_flow is not None, grad_fill is not None)
    strides = (grad_output.stride(), None if grad_flow is None else grad_flow.stride())
    plan = call.backward(strides, needed, torch.are_deterministic_algorithms_enabled())
    tensors = _by_role(operands, None, grad_output, grads)
    if plan.zeroed:
        _zero(grad_input)
    device = grad_output.device
    for role, numel, dtype, zeroed in plan.scratch:
        new = torch.zeros if zeroed else torch.empty
        tensors[role] = new(numel, dtype=dtype, device=device)
    if plan.listed and operands.input_index is not None:
        tensors[-2:] = _listed(operands.input_index, operands.input.shape[0])
    aligned = is_aligned((grad_output, *operands, *grads), device)
    for step in plan.steps:
        Launch(step, step.pick(tensors), (fill_value,) if step.takes_fill else (), aligned).run(device)


def empty_gradients(
    input: Tensor, theta: Tensor | None, flow: Tensor | None, fill: Tensor | None, needed: Needed
) -> Gradients:
    """Memory for the gradients that are needed. The input's keeps its memory format, the flow's its strides."""
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(input, memory_format=memory_format(input)) if needed.input else None,
        torch.empty_like(theta, memory_format=contiguous) if needed.theta and theta is not None else None,
        torch.empty_like(flow) if needed.flow and flow is not None else None,
        torch.empty_like(fill, memory_format=contiguous) if needed.fill and fill is not None else None,
    )


def spline_product(out: Tensor, vectors: Tensor, matrix: Tensor, centres: Tensor | None) -> Tensor:
    """``out`` (M, rows, 2), filled with matrix (rows, columns) @ (vectors (M, columns, 2) - centres (columns, 2))."""
    if out.numel():
        vectors = vectors.resolve_neg()
        layouts = map(_plan.layout, (out, vectors, matrix))
        step = _plan.spline_product(out.is_cpu, *layouts, centres is not None)
        Launch(step, (out, vectors, matrix, matrix if centres is None else centres)).run(out.device)
    return out


def _by_role(operands: Operands, output: Tensor | None, grad_output: Tensor | None, grads: Gradients) -> list[Tensor]:
    """Tensors in the order of ``_plan.ROLES``; the input stands in where there is none."""
    input, theta, flow, fill, index, constants = operands
    grad_input, grad_theta, grad_flow, grad_fill = grads
    # Written out because every call comes by here: a loop takes three times as long.
    return [
        input,
        input,
        input if theta is None else theta,
        input if flow is None else flow,
        input if fill is None else fill,
        input if index is None else index,
        input if constants is None else constants,
        input if output is None else output,
        input if grad_output is None else grad_output,
        input if grad_input is None else grad_input,
        input if grad_theta is None else grad_theta,
        input if grad_flow is None else grad_flow,
        input if grad_fill is None else grad_fill,
        *[input] * 5,
    ]


def _zero(*tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None:
            tensor.zero_()


def _listed(input_index: Tensor, inputs: int) -> tuple[Tensor, Tensor]:
    """The thetas in the order of the inputs they read, and where in it each input's begin, (inputs + 1,)."""
    ordered, order = input_index.sort(stable=True)
    return order, torch.searchsorted(ordered, torch.arange(inputs + 1, device=ordered.device))


def with_precise_fill(operands: Operands, warp: Warp) -> Operands:
    """The fill as a tensor where it is one per channel, or where a kernel's float32 argument would not hold it."""
    input = operands.input
    if warp.fill_value != 0 and operands.fill is None and input.dtype == torch.float64:
        fill = torch.full((), warp.fill_value, dtype=input.dtype, device=input.device).expand(input.shape[1])
        return operands._replace(fill=fill)
    return operands
