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
from tstn._warp import Warp, memory_format
from tstn.transforms import as_transform


def spatial_transform(
    input: Tensor, theta: Tensor, fill: Tensor | None, input_index: Tensor | None, warp: Warp
) -> Tensor:
    """Warp input (N, C, H, W) by theta (M, P) to (M, C, H_out, W_out); M is a multiple of N unless indexed."""
    if backend_for(input) == "torch" or _is_transformed():
        return reference.spatial_transform(input, theta, fill, input_index, warp)
    if torch.compiler.is_compiling() or not _is_plain(input, theta):
        return _forward_op(input, theta, fill, input_index, *_flatten(warp))
    needs_grad = input.requires_grad or theta.requires_grad or (fill is not None and fill.requires_grad)
    if needs_grad and torch.is_grad_enabled():
        return _SpatialTransform.apply(input, theta, fill, input_index, warp)
    return _launch.forward(input, theta, fill, input_index, warp)


def _is_transformed() -> bool:
    """Whether torch.func or forward-mode AD is at work, which PyTorch's own operators know how to follow."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _is_plain(*tensors: Tensor) -> bool:
    """Whether these have memory that a kernel can read; fake tensors and other subclasses need the dispatcher."""
    return all(type(t) is Tensor or type(t) is torch.nn.Parameter for t in tensors)


class _SpatialTransform(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, theta: Tensor, fill: Tensor | None, input_index: Tensor | None, warp: Warp
    ) -> Tensor:
        ctx.save_for_backward(input, theta, fill, input_index)
        ctx.warp = warp
        return _launch.forward(input, theta, fill, input_index, warp)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[:3]
        # Grad mode is on in a backward pass only under create_graph=True, which wants derivatives of derivatives.
        run = _differentiable_backward if torch.is_grad_enabled() else _launch.backward
        input, theta, fill, input_index = ctx.saved_tensors
        return (*run(grad_outputs[0], input, theta, fill, input_index, ctx.warp, needed), None, None)


def _differentiable_backward(
    grad_output: Tensor,
    input: Tensor,
    theta: Tensor,
    fill: Tensor | None,
    input_index: Tensor | None,
    warp: Warp,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """The gradients as differentiable functions of ``grad_output`` and the inputs."""
    out = reference.spatial_transform(input, theta, fill, input_index, warp)
    wanted = [t for t, need in zip((input, theta, fill), needed, strict=True) if need and t is not None]
    grads = iter(torch.autograd.grad(out, wanted, grad_output, create_graph=True))
    return tuple(next(grads) if need else None for need in needed)


# The schemas spell out Warp's fields, in its order.


def _flatten(warp: Warp) -> tuple[Any, ...]:
    return (warp.transform.name, *warp.size, warp.mode, warp.padding_mode, warp.align_corners, warp.fill_value)


def _unflatten(
    transform: str, height: int, width: int, mode: str, padding_mode: str, align_corners: bool, fill_value: float
) -> Warp:
    return Warp(as_transform(transform), (height, width), mode, padding_mode, align_corners, fill_value)


@torch.library.custom_op("tstn::spatial_transform", mutates_args=())
def _forward_op(
    input: Tensor,
    theta: Tensor,
    fill: Tensor | None,
    input_index: Tensor | None,
    transform: str,
    height: int,
    width: int,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    fill_value: float,
) -> Tensor:
    warp = _unflatten(transform, height, width, mode, padding_mode, align_corners, fill_value)
    return _launch.forward(input, theta, fill, input_index, warp)


@_forward_op.register_fake
def _(input, theta, fill, input_index, transform, height, width, *options):  # pyright: ignore
    shape = (theta.shape[0], input.shape[1], height, width)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))


@torch.library.custom_op("tstn::spatial_transform_backward", mutates_args=())
def _backward_op(
    grad_output: Tensor,
    input: Tensor,
    theta: Tensor,
    fill: Tensor | None,
    input_index: Tensor | None,
    transform: str,
    height: int,
    width: int,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    fill_value: float,
    need_input: bool,
    need_theta: bool,
    need_fill: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    warp = _unflatten(transform, height, width, mode, padding_mode, align_corners, fill_value)
    needed = (need_input, need_theta, need_fill)
    grads = _launch.backward(grad_output, input, theta, fill, input_index, warp, needed)
    # An op cannot return None: an unwanted gradient is empty.
    a, b, c = (input.new_empty(0) if grad is None else grad for grad in grads)
    return a, b, c


@_backward_op.register_fake
def _(grad_output, input, theta, fill, input_index, *options):  # pyright: ignore
    need_input, need_theta, need_fill = options[-3:]
    nothing = input.new_empty(0)
    grad_input = torch.empty_like(input, memory_format=memory_format(input)) if need_input else nothing
    grad_theta = theta.new_empty(theta.shape) if need_theta else input.new_empty(0)
    grad_fill = fill.new_empty(fill.shape) if need_fill else input.new_empty(0)
    return grad_input, grad_theta, grad_fill


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:3]
    grads = _backward_op(grad_output, *ctx.saved_tensors, *ctx.options, *needed)
    wanted = (grad if need else None for grad, need in zip(grads, needed, strict=True))
    return (*wanted, *([None] * (1 + len(ctx.options))))


_forward_op.register_autograd(_backward, setup_context=_setup_context)
