"""``grid_sample`` in PyTorch operators that have every derivative, and ATen's with that one behind its backward pass.

ATen's sampler is fast, but it has no forward-mode derivative, no deterministic backward pass on CUDA, and before
PyTorch 2.13 no second derivative.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tstn._derivatives import gradients
from tstn._surroundings import is_traced

# Keys' parameter of cubic convolution (1981), as ATen has it.
CUBIC_A = -0.75
ATEN_MODES = {"bilinear": 0, "nearest": 1, "bicubic": 2}
ATEN_PADDING_MODES = {"zeros": 0, "border": 1, "reflection": 2}


def grid_sample(source: Tensor, grid: Tensor, mode: str, padding_mode: str, align_corners: bool) -> Tensor:
    """``F.grid_sample``, fast, with derivatives in reverse mode of any order."""
    if torch.compiler.is_compiling() or is_traced():
        return F.grid_sample(source, grid, mode, padding_mode, align_corners)
    return _GridSample.apply(source, grid, mode, padding_mode, align_corners)


class _GridSample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, grid: Tensor, mode: str, padding_mode: str, align_corners: bool) -> Tensor:
        ctx.save_for_backward(source, grid)
        ctx.options = (mode, padding_mode, align_corners)
        return F.grid_sample(source, grid, mode, padding_mode, align_corners)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        source, grid = ctx.saved_tensors
        mode, padding_mode, align_corners = ctx.options
        needed = list(ctx.needs_input_grad[:2])
        if torch.is_grad_enabled() or (source.is_cuda and torch.are_deterministic_algorithms_enabled()):

            def sampled(source: Tensor, grid: Tensor) -> Tensor:
                return differentiable_grid_sample(source, grid, mode, padding_mode, align_corners)

            return (*gradients(sampled, (source, grid), needed, grad), None, None, None)
        options = (ATEN_MODES[mode], ATEN_PADDING_MODES[padding_mode], align_corners)
        grads = torch.ops.aten.grid_sampler_2d_backward(grad, source, grid, *options, needed)
        return (*(g if need else None for g, need in zip(grads, needed, strict=True)), None, None, None)


def differentiable_grid_sample(
    source: Tensor, grid: Tensor, mode: str, padding_mode: str, align_corners: bool
) -> Tensor:
    """``F.grid_sample`` from gathers: derivatives of any order, in both modes, and batching rules.

    Taps follow ATen. Bilinear and nearest coordinates have to be inside already for "border" and "reflection".
    """
    batch, channels, height, width = source.shape
    columns, weights_x = _taps(grid[..., 0], width, mode, padding_mode, align_corners)
    rows, weights_y = _taps(grid[..., 1], height, mode, padding_mode, align_corners)
    flat = source.flatten(2)
    out = None
    for row, weight_y in zip(rows, weights_y, strict=True):
        for column, weight_x in zip(columns, weights_x, strict=True):
            at = (row * width + column).reshape(batch, 1, -1).expand(-1, channels, -1)
            tap = flat.gather(2, at) * (weight_x * weight_y).reshape(batch, 1, -1)
            out = tap if out is None else out + tap
    assert out is not None
    return out.reshape(batch, channels, *grid.shape[1:3])


def _taps(
    x_norm: Tensor, size: int, mode: str, padding_mode: str, align_corners: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Along one axis: the taps' pixels, in range, and their weights, zero for taps that are outside."""
    x = (x_norm + 1) / 2 * (size - 1) if align_corners else ((x_norm + 1) * size - 1) / 2
    below = x.round() if mode == "nearest" else x.floor()
    past = x - below
    if mode == "nearest":
        first, weights = 0, [1 + 0 * past]
    elif mode == "bilinear":
        first, weights = 0, [1 - past, past]
    else:
        first, weights = -1, [_cubic_far(1 + past), _cubic_near(past), _cubic_near(1 - past), _cubic_far(2 - past)]
    pixels = [below.long() + first + i for i in range(len(weights))]
    if mode == "bicubic" and padding_mode == "reflection":
        pixels = [_reflected_pixel(p, size, align_corners) for p in pixels]
    elif padding_mode == "zeros":
        weights = [torch.where((p >= 0) & (p < size), w, 0.0) for p, w in zip(pixels, weights, strict=True)]
    return [p.clamp(0, size - 1) for p in pixels], weights


def _cubic_near(distance: Tensor) -> Tensor:
    """The cubic convolution kernel at distances up to 1."""
    return (1 - distance) * (1 + distance - (CUBIC_A + 2) * distance * distance)


def _cubic_far(distance: Tensor) -> Tensor:
    """The cubic convolution kernel at distances from 1 to 2."""
    return CUBIC_A * (distance - 1) * (distance - 2).square()


def _reflected_pixel(pixel: Tensor, size: int, align_corners: bool) -> Tensor:
    """Whole pixels mirrored, periodically, at the outermost pixels' edges, or centres with ``align_corners``."""
    if size == 1:
        return pixel * 0
    period = 2 * (size - 1) if align_corners else 2 * size
    rest = pixel.remainder(period)
    return torch.minimum(rest, period - rest if align_corners else period - 1 - rest)
