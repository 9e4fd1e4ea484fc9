"""One warp, two surfaces: a plain autograd Function in eager mode, opaque ``torch.library`` ops when compiling.

The Function launches the kernels itself, because going through the dispatcher costs more than a small warp does. The
ops carry the same launches through ``torch.compile`` and ``torch.export``. With the plain backend neither is needed:
PyTorch traces and differentiates :mod:`tstn.reference` as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tstn import _launch, reference
from tstn._backend import backend_for
from tstn._warp import Needed, Operands, Warp, memory_format
from tstn.thin_plate import ThinPlateSpline
from tstn.transforms import Transform

# Types of tensors that have memory which a kernel can read.
PLAIN = (Tensor, torch.nn.Parameter)


def spatial_transform(operands: Operands, transform: Transform, warp: Warp) -> Tensor:
    """Warp input (N, C, H, W) by theta (M, *P) and flow (M, H_out, W_out, 2) to (M, C, H_out, W_out).

    The numbers of one theta lie evenly in memory.
    """
    if _is_transformed():
        return reference.spatial_transform(operands, transform, warp, every_derivative=True)
    if backend_for(operands.input) == "torch":
        return reference.spatial_transform(operands, transform, warp)
    if torch.compiler.is_compiling() or not _is_plain(operands):
        return _forward_op(*operands, *_flatten(warp))
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands[:4]):
        return _SpatialTransform.apply(*operands[:4], operands, transform, warp)
    return _launch.forward(*_launch.call_of(operands, warp))


def pack(theta: Tensor, transform: Transform, input: Tensor) -> Tensor:
    """``transform.pack`` for a warp of this input; a spline's by one launch where the kernels run."""
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    if not isinstance(transform, ThinPlateSpline) or _is_transformed() or torch.compiler.is_compiling():
        return transform.pack(theta, dtype)
    if type(theta) not in PLAIN or backend_for(input) == "torch":
        return transform.pack(theta, dtype)
    solver = transform.solver(theta.device)
    if torch.is_grad_enabled() and theta.requires_grad:
        return _Pack.apply(theta, transform, solver, dtype)
    return _packed(theta, solver, dtype)


def _packed(theta: Tensor, solver: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
    matrix, centres = solver
    # Neighbours in memory are a number's values for successive samples.
    numbers = torch.empty((len(matrix), 2, len(theta)), dtype=dtype, device=theta.device).permute(2, 0, 1)
    return _launch.spline_product(numbers, theta, matrix, centres).flatten(1)


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        theta, ctx.transform, ctx.solver, ctx.dtype = arguments
        ctx.save_for_backward(theta)
        return _packed(theta, ctx.solver, ctx.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (theta,) = grad_outputs, ctx.saved_tensors
        if torch.is_grad_enabled():
            numbers = ctx.transform.pack(theta, ctx.dtype)
            return (*torch.autograd.grad(numbers, theta, grad, create_graph=True), None, None, None)
        grad_theta = torch.empty_like(theta, memory_format=torch.contiguous_format)
        _launch.spline_product(grad_theta, grad.unflatten(1, (-1, 2)), ctx.solver[0].t(), None)
        return grad_theta, None, None, None


def _is_transformed() -> bool:
    """Whether torch.func or forward-mode AD is at work, which PyTorch's own operators know how to follow."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _is_plain(operands: Operands) -> bool:
    """Whether these have memory that a kernel can read; fake tensors and other subclasses need the dispatcher."""
    return all(t is None or type(t) in PLAIN for t in operands)


class _SpatialTransform(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        # PyTorch wants to see what may need a gradient; the rest comes with the operands.
        operands, transform, warp = arguments[4:]
        ctx.call, operands = _launch.call_of(operands, warp)
        ctx.save_for_backward(*arguments[:4])
        ctx.rest, ctx.transform, ctx.warp = operands[4:], transform, warp
        return _launch.forward(ctx.call, operands)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        needed = Needed(*ctx.needs_input_grad[:4])
        operands = Operands(*ctx.saved_tensors, *ctx.rest)
        # Grad mode is on in a backward pass only under create_graph=True, which wants derivatives of derivatives.
        if torch.is_grad_enabled():
            grads = _differentiable_backward(grad_outputs[0], operands, ctx.transform, ctx.warp, needed)
        else:
            operands = _launch.with_precise_fill(operands, ctx.warp)
            grads = _launch.backward(grad_outputs[0], ctx.call, operands, needed)
        return (*grads, None, None, None)


def _differentiable_backward(
    grad_output: Tensor, operands: Operands, transform: Transform, warp: Warp, needed: Needed
) -> tuple[Tensor | None, ...]:
    """The gradients as differentiable functions of ``grad_output`` and the operands."""
    out = reference.spatial_transform(operands, transform, warp, every_derivative=True)
    wanted = [t for t, need in zip(operands, needed, strict=False) if need and t is not None]
    grads = iter(torch.autograd.grad(out, wanted, grad_output, create_graph=True))
    return tuple(next(grads) if need else None for need in needed)


# The schemas spell out the fields of Operands, Warp and Needed, in their order.


def _flatten(warp: Warp) -> tuple[Any, ...]:
    return (warp.kernel, *warp.size, *warp[2:])


def _unflatten(kernel: str, height: int, width: int, *options: Any) -> Warp:
    return Warp(kernel, (height, width), *options)


@torch.library.custom_op("tstn::spatial_transform", mutates_args=())
def _forward_op(
    input: Tensor,
    theta: Tensor | None,
    flow: Tensor | None,
    fill: Tensor | None,
    input_index: Tensor | None,
    constants: Tensor | None,
    kernel: str,
    height: int,
    width: int,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    fill_value: float,
) -> Tensor:
    if forward_ad._current_level >= 0:
        # PyTorch would take the tangent for zero, without a word. Only an exported program gets here.
        raise NotImplementedError(
            "torch.ops.tstn.spatial_transform has no forward-mode derivative; call tstn.spatial_transform"
        )
    operands = Operands(input, theta, flow, fill, input_index, constants)
    warp = _unflatten(kernel, height, width, mode, padding_mode, align_corners, fill_value)
    return _launch.forward(*_launch.call_of(operands, warp))


@_forward_op.register_fake
def _(input, theta, flow, fill, input_index, constants, kernel, height, width, *options):  # pyright: ignore
    warps = (flow if theta is None else theta).shape[0]
    shape = (warps, input.shape[1], height, width)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))


@torch.library.custom_op("tstn::spatial_transform_backward", mutates_args=())
def _backward_op(
    grad_output: Tensor,
    input: Tensor,
    theta: Tensor | None,
    flow: Tensor | None,
    fill: Tensor | None,
    input_index: Tensor | None,
    constants: Tensor | None,
    kernel: str,
    height: int,
    width: int,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    fill_value: float,
    need_input: bool,
    need_theta: bool,
    need_flow: bool,
    need_fill: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    operands = Operands(input, theta, flow, fill, input_index, constants)
    warp = _unflatten(kernel, height, width, mode, padding_mode, align_corners, fill_value)
    needed = Needed(need_input, need_theta, need_flow, need_fill)
    grads = _launch.backward(grad_output, *_launch.call_of(operands, warp), needed)
    # An op cannot return None: an unwanted gradient is empty.
    a, b, c, d = (input.new_empty(0) if grad is None else grad for grad in grads)
    return a, b, c, d


@_backward_op.register_fake
def _(grad_output, input, theta, flow, fill, input_index, constants, *options):  # pyright: ignore
    grads = _launch.empty_gradients(input, theta, flow, fill, Needed(*options[-4:]))
    a, b, c, d = (input.new_empty(0) if grad is None else grad for grad in grads)
    return a, b, c, d


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.options = inputs[6:]


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:4]
    grads = _backward_op(grad_output, *ctx.saved_tensors, *ctx.options, *needed)
    wanted = (grad if need else None for grad, need in zip(grads, needed, strict=True))
    return (*wanted, *([None] * (2 + len(ctx.options))))


_forward_op.register_autograd(_backward, setup_context=_setup_context)
