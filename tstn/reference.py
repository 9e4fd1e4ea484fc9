"""The op in plain PyTorch: the path of CPU, MPS and machines without Triton, and the base of higher derivatives.

Coordinates are computed in input pixels, padded and rounded here, and then handed to a sampler as ATen has it. Doing
so keeps every rule that the kernels follow: whole-pixel coordinates stay whole, NaN is outside, coordinates are never
half.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tstn import _sampling
from tstn._warp import Operands, Warp, in_memory_format, memory_format
from tstn.transforms import HUGE, Transform, half_extent


def spatial_transform(operands: Operands, transform: Transform, warp: Warp, every_derivative: bool = False) -> Tensor:
    """Warp input (N, C, H, W) by theta (M, *P) and flow (M, H_out, W_out, 2) to (M, C, H_out, W_out).

    ``every_derivative`` asks for PyTorch operators that also have forward-mode derivatives and batching rules, at a
    price in time and memory.
    """
    input, theta, flow, fill, input_index, _ = operands
    height, width = input.shape[2:]
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    flow = None if flow is None else flow.to(dtype)
    numbers = flow if theta is None else theta.to(dtype).flatten(1)
    assert numbers is not None
    x, y = transform.source_pixels(numbers, warp.size, (height, width), warp.align_corners)
    if flow is not None:
        x = x + flow[..., 0] * half_extent(width, warp.align_corners)
        y = y + flow[..., 1] * half_extent(height, warp.align_corners)
    shape = (operands.warps, *warp.size)
    grid = torch.stack(
        (_aten_coordinate(x, width, warp).expand(shape), _aten_coordinate(y, height, warp).expand(shape)), dim=-1
    )

    source = input
    if memory_format(input) == torch.channels_last and not every_derivative:
        source = _KeepChannelsLast.apply(source)
    source = source.to(dtype)
    if input_index is not None:
        source = source.index_select(0, input_index)
    out = _sample(source, grid, warp, every_derivative)
    if fill is not None or warp.fill_value != 0:
        ones = source.new_ones(()).expand(source.shape[0], 1, height, width)
        missing = 1 - _sample(ones, grid, warp, every_derivative)
        out = out + missing * _seen_fill(fill, x, y, operands, warp)
    return in_memory_format(out.to(input.dtype), memory_format(input))


def _seen_fill(fill: Tensor | None, x: Tensor, y: Tensor, operands: Operands, warp: Warp) -> Tensor | float:
    """The fill as each pixel sees it that looks at (x, y), in input pixels.

    Where nothing is missing of the footprint that is 0 in place of NaN and infinity.
    """
    if fill is None and math.isfinite(warp.fill_value):
        return warp.fill_value
    height, width = operands.input.shape[2:]
    values = x.new_full((1,), warp.fill_value) if fill is None else fill.to(x.dtype)
    values = values[:, None, None]
    whole = (_lies_inside(x, width, warp.mode) & _lies_inside(y, height, warp.mode)).unsqueeze(-3)
    return torch.where(whole & ~values.isfinite(), 0.0, values)


def _lies_inside(x: Tensor, size: int, mode: str) -> Tensor:
    """Whether all taps that weigh anything lie inside an axis of ``size``, for coordinates in pixels."""
    if mode == "nearest":
        x = x.round()
    inside = (x >= 0) & (x <= size - 1)
    if mode == "bicubic":
        # Of a whole pixel's taps only itself weighs anything.
        inside = inside & ((x == x.floor()) | ((x >= 1) & (x <= size - 2)))
    return inside


def _sample(source: Tensor, grid: Tensor, warp: Warp, every_derivative: bool) -> Tensor:
    """Sample source (N, C, H, W) at grid (M, H_out, W_out, 2), already padded but for bicubic taps."""
    height, width = warp.size
    batch = source.shape[0]
    # All views of one input become one tall grid over it, so that no view copies the input.
    views = grid.shape[0] // batch if batch else 1
    sample = _sampling.differentiable_grid_sample if every_derivative else _sampling.grid_sample
    padding_mode = warp.padding_mode
    if warp.mode != "bicubic" and padding_mode == "reflection":
        padding_mode = "border"
    grid = grid.reshape(batch, views * height, width, 2)
    out = sample(source, grid, warp.mode, padding_mode, _aten_align_corners(warp))
    return out.unflatten(2, (views, height)).transpose(1, 2).flatten(0, 1)


def _aten_align_corners(warp: Warp) -> bool:
    """Bicubic taps reflect at places that depend on align_corners; everything else is in pixels before ATen sees it."""
    return warp.align_corners and warp.mode == "bicubic" and warp.padding_mode == "reflection"


def _aten_coordinate(x: Tensor, size: int, warp: Warp) -> Tensor:
    """Pixels along an axis of ``size`` to the padded, normalised coordinate at which ATen finds the right taps."""
    if warp.mode == "bicubic":
        x = _near(x, size, warp)
    elif warp.padding_mode != "zeros":
        x = _clipped(x, size, warp)
    if warp.mode == "nearest":
        x = x.round()
    extent = max(half_extent(size, _aten_align_corners(warp)), 0.5)
    normalised = (x - (size - 1) / 2).div_(extent)
    if warp.mode == "bicubic":
        return normalised
    if warp.padding_mode == "zeros":
        # Two pixels outside are as good as infinitely many, and so is NaN; the taps there weigh nothing.
        outside = 1 + 3 / size
        normalised = torch.where(normalised.abs() < outside, normalised, -outside)
    # By rounding, ATen may find a whole pixel just below itself, where the left derivative holds. This is the least
    # that always brings it to the right one's side.
    return normalised + (x == x.floor()).to(x.dtype) * torch.finfo(x.dtype).eps


def _near(x: Tensor, size: int, warp: Warp) -> Tensor:
    """Coordinates in pixels, for bicubic taps: those that see one value only are constant, three pixels outside."""
    if warp.padding_mode == "reflection":
        return torch.where(x.abs() < HUGE, x, _clamped(x, size))
    if warp.padding_mode == "border":
        x = torch.where(x.isnan(), 0.0, x)
    # NaN fails the first comparison.
    return torch.where(x > -3, torch.where(x < size + 2, x, size + 2.0), -3.0)


def _clamped(x: Tensor, size: int) -> Tensor:
    """Coordinates in pixels clamped to the image, NaN to 0; without a derivative."""
    return x.detach().nan_to_num(nan=0.0).clamp(0, size - 1)


def _clipped(x: Tensor, size: int, warp: Warp) -> Tensor:
    """Coordinates in pixels, reflected if asked for, and clipped by ATen's rule: no gradient at or beyond the edge."""
    clipped = _clamped(x, size)
    if warp.padding_mode == "reflection":
        x = _reflected(torch.where(x.abs() < HUGE, x, clipped), size, warp.align_corners)
        clipped = _clamped(x, size)
    return torch.where((x > 0) & (x < size - 1), x, clipped)


def _reflected(x: Tensor, size: int, align_corners: bool) -> Tensor:
    """Coordinates reflected, periodically, at the outermost pixels' centres or edges."""
    low, span = (0.0, size - 1) if align_corners else (-0.5, size)
    if span == 0:
        return x * 0
    distance = (x - low).abs()
    turns = (distance / span).floor()
    rest = distance - turns * span
    return torch.where(turns % 2 == 0, rest, span - rest) + low


class _KeepChannelsLast(torch.autograd.Function):
    """The identity; its gradient keeps the input's memory format, which ATen's sampler drops."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor) -> Tensor:
        return input.view_as(input)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grad_outputs: Tensor) -> Tensor:
        return in_memory_format(grad_outputs[0], torch.channels_last)
