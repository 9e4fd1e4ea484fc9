"""Runs a custom transform's generated map and VJP by themselves, without sampling."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from launches import launch
from torch import Tensor
from tstn_kernels.maps import add_sums

from tstn._generated import kernel_maps
from tstn._tracing import MapFunction
from tstn.custom import CustomTransform

# Input half extents in pixels, then the output's.
EXTENTS = (2.0, 4.0, 8.0, 0.5)


@triton.jit
def generated_map_kernel(
    x_source_ptr, y_source_ptr, grad_theta_ptr, grad_x_ptr, grad_y_ptr, theta_ptr, x_ptr, y_ptr,
    EXTENT_X: tl.constexpr, EXTENT_Y: tl.constexpr, EXTENT_X_OUT: tl.constexpr, EXTENT_Y_OUT: tl.constexpr,
    MAP: tl.constexpr, MAP_VJP: tl.constexpr, NUMBERS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """The source coordinates of all pixels, and the VJP of (grad_x, grad_y)."""
    lane = tl.arange(0, PIXELS)
    x = tl.load(x_ptr + lane)
    y = tl.load(y_ptr + lane)
    ex = tl.full((), EXTENT_X, x.dtype)
    ey = tl.full((), EXTENT_Y, x.dtype)
    ex_out = tl.full((), EXTENT_X_OUT, x.dtype)
    ey_out = tl.full((), EXTENT_Y_OUT, x.dtype)
    frame = (ex / ex_out, ex / ey_out, ey / ex_out, ey / ey_out, ex, ey, 1.0 / ex_out, 1.0 / ey_out)
    theta = (theta_ptr, 0, 1, 1)
    x_source, y_source = MAP(theta, (theta_ptr, 0), x, y, frame, 1)
    tl.store(x_source_ptr + lane, x_source)
    tl.store(y_source_ptr + lane, y_source)
    grad_x = tl.load(grad_x_ptr + lane)
    grad_y = tl.load(grad_y_ptr + lane)
    add_sums((grad_theta_ptr, 0, False), MAP_VJP(theta, x, y, grad_x, grad_y, frame), NUMBERS)


def run(
    transform: CustomTransform, theta: Tensor, x: Tensor, y: Tensor, grad_x: Tensor, grad_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Source coordinates of the targets (x, y) (P,), normalised, and theta's gradient; P is a power of two."""
    ex, ey, ex_out, ey_out = EXTENTS
    u, v = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
    grad_theta = torch.full_like(theta, torch.nan).contiguous()
    map_function, vjp_function = kernel_maps(transform.kernel)
    constexprs: dict[str, Any] = {"MAP": map_function, "MAP_VJP": vjp_function}
    constexprs |= {"NUMBERS": theta.numel(), "PIXELS": x.numel()}
    constexprs |= dict(zip(("EXTENT_X", "EXTENT_Y", "EXTENT_X_OUT", "EXTENT_Y_OUT"), EXTENTS, strict=True))
    tensors = u, v, grad_theta, grad_x / ex, grad_y / ey, theta.contiguous(), x * ex_out, y * ey_out
    launch(generated_map_kernel, 1, *tensors, **constexprs)
    return u / ex, v / ey, grad_theta


def expected(
    fn: MapFunction, theta: Tensor, x: Tensor, y: Tensor, grad_x: Tensor, grad_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by PyTorch, pixel by pixel."""
    theta = theta.detach().clone().requires_grad_()
    results = [fn(theta, *target) for target in zip(x, y, strict=True)]
    u, v = (torch.stack(part) for part in zip(*results, strict=True))
    pairs = [(result, grad) for result, grad in ((u, grad_x), (v, grad_y)) if result.requires_grad]
    grad_theta = torch.zeros_like(theta)
    if pairs:
        outputs, grads = zip(*pairs, strict=True)
        (grad_theta,) = torch.autograd.grad(outputs, [theta], grads, materialize_grads=True)
    return u.detach(), v.detach(), grad_theta


UNARY = "abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp exp2 expm1 floor log log10 log1p log2 relu"
UNARY += " round rsqrt sigmoid sign sin sinh sqrt tan tanh trunc"
BINARY = "atan2 div fmod hypot maximum minimum pow remainder"


def everything(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Calls every function that there is."""
    u, v = x + theta[0], y + theta[1]
    ones = [getattr(torch, name)(u) for name in UNARY.split()]
    twos = [getattr(torch, name)(u, v) for name in BINARY.split()]
    return torch.stack(ones).sum(), torch.stack(twos).sum()
