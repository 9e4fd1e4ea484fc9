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
from tstn._derivatives import gradients
from tstn._surroundings import as_plain, is_batched, is_dispatched, is_plain, is_transformed
from tstn._warp import Needed, Operands, Warp, memory_format
from tstn.thin_plate import ThinPlateSpline
from tstn.transforms import Transform


def spatial_transform(operands: Operands, transform: Transform, warp: Warp) -> Tensor:
    """Warp input (N, C, H, W) by theta (M, *P) and flow (M, H_out, W_out, 2) to (M, C, H_out, W_out)."""
    compiling = torch.compiler.is_compiling()
    plain = compiling or is_plain(operands)
    if not plain:
        operands = Operands(*map(as_plain, operands))  # pyright: ignore[reportArgumentType]
    if is_transformed():
        return reference.spatial_transform(operands, transform, warp, every_derivative=True)
    if backend_for(operands.input) == "torch":
        return reference.spatial_transform(operands, transform, warp)
    if compiling:
        return _forward_op(*operands, *_flatten(warp))
    run = _dispatched if is_dispatched() or not (plain or is_plain(operands)) else _launched
    input, theta, flow, fill, *_ = operands
    if torch.is_grad_enabled() and (
        input.requires_grad
        or (theta is not None and theta.requires_grad)
        or (flow is not None and flow.requires_grad)
        or (fill is not None and fill.requires_grad)
    ):
        return _SpatialTransform.apply(input, theta, flow, fill, operands, transform, warp, run)
    return run(operands, warp)


def _launched(operands: Operands, warp: Warp) -> Tensor:
    return _launch.forward(*_launch.call_of(operands, warp))


def _dispatched(operands: Operands, warp: Warp) -> Tensor:
    """Through the registered op, which tracers and tensors without memory understand."""
    return _forward_op(*operands, *_flatten(warp))


def lowered(theta: Tensor, transform: Transform, input: Tensor) -> tuple[Tensor, Transform]:
    """``transform.lowered`` for a warp of this input."""
    if not transform._own_map:
        return theta, transform
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    return transform.lowered(theta, dtype, "torch" if is_transformed() else backend_for(input))


def pack(theta: Tensor, transform: Transform, input: Tensor) -> Tensor:
    """``transform.pack`` for a warp of this input; a spline's by one launch where the kernels run."""
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    if not isinstance(transform, ThinPlateSpline) or torch.compiler.is_compiling() or is_transformed():
        return transform.pack(theta, dtype)
    if not is_plain((theta,)) or is_dispatched() or backend_for(input) == "torch":
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
        transform, dtype = ctx.transform, ctx.dtype
        if _is_watched() or _needs_dispatcher((theta, grad)):
            return (*gradients(lambda theta: transform.pack(theta, dtype), (theta,), (True,), grad), None, None, None)
        grad_theta = torch.empty_like(theta, memory_format=torch.contiguous_format)
        _launch.spline_product(grad_theta, grad.unflatten(1, (-1, 2)), ctx.solver[0].t(), None)
        return grad_theta, None, None, None


def _is_watched() -> bool:
    """Whether a backward pass has to be made of PyTorch's own operators, which others go on to transform.

    Grad mode is on in a backward pass only under ``create_graph=True``, which wants derivatives of derivatives.
    """
    return torch.is_grad_enabled() or is_transformed() or is_batched()


def _needs_dispatcher(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether a backward pass goes through the registered op, which tracers and tensors without memory understand."""
    return torch.compiler.is_compiling() or is_dispatched() or not is_plain(tensors)


class _SpatialTransform(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        # PyTorch wants to see what may need a gradient; the rest comes with the operands.
        operands, ctx.transform, ctx.warp, run = arguments[4:]
        # All of them, so that PyTorch notices if one is changed before the backward pass.
        ctx.save_for_backward(*arguments[:4], *operands[4:])
        return run(operands, ctx.warp)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_output,) = grad_outputs
        needed = Needed(*ctx.needs_input_grad[:4])
        operands, transform, warp = Operands(*ctx.saved_tensors), ctx.transform, ctx.warp
        if _is_watched():

            def warped(input: Tensor, theta: Tensor | None, flow: Tensor | None, fill: Tensor | None) -> Tensor:
                separate = Operands(input, theta, flow, fill, *operands[4:])
                return reference.spatial_transform(separate, transform, warp, every_derivative=True)

            grads = gradients(warped, operands[:4], needed, grad_output)
        elif _needs_dispatcher((grad_output, *operands)):
            grads = _needed_gradients(_backward_op(grad_output, *operands, *_flatten(warp), *needed), needed)
        else:
            # The tensors in hand need not look like those of the forward pass: hooks may have put away and restored
            # them, in memory of another layout.
            grads = _launch.backward(grad_output, *_launch.call_of(operands, warp), needed)
        return (*grads, None, None, None, None)


def _needed_gradients(grads: tuple[Tensor, ...], needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """What the op returns, which cannot be None, as autograd wants it."""
    return tuple(grad if need else None for grad, need in zip(grads, needed, strict=True))


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
    grads = _needed_gradients(_backward_op(grad_output, *ctx.saved_tensors, *ctx.options, *needed), needed)
    return (*grads, *([None] * (2 + len(ctx.options))))


_forward_op.register_autograd(_backward, setup_context=_setup_context)
