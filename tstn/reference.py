"""The op in plain PyTorch: the path of CPU, MPS and machines without Triton, and the base of higher derivatives.

Coordinates are computed in input pixels, padded and rounded here, and then handed to ATen's sampler. Doing so keeps
every rule that the kernels follow: whole-pixel coordinates stay whole, NaN is outside, coordinates are never half.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tstn._warp import Warp, is_channels_last, memory_format

# Beyond this many pixels a coordinate says nothing about a place in the image; it is treated as infinite.
HUGE_PX = 2.0**31


def spatial_transform(
    input: Tensor, theta: Tensor, fill: Tensor | None, input_index: Tensor | None, warp: Warp
) -> Tensor:
    """Warp input (N, C, H, W) by theta (M, P) to (M, C, H_out, W_out); M is a multiple of N unless indexed."""
    height, width = input.shape[2:]
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    theta = theta.to(dtype).unflatten(1, warp.transform.shape_for(warp.size))
    x, y = warp.transform.source_pixels(theta, warp.size, (height, width), warp.align_corners)
    grid = torch.stack((_aten_coordinate(x, width, warp), _aten_coordinate(y, height, warp)), dim=-1)

    source = input
    if is_channels_last(input):
        source = _KeepChannelsLast.apply(source)
    source = source.to(dtype)
    if input_index is not None:
        source = source.index_select(0, input_index)
    out = _sample(source, grid, warp)
    if fill is not None or warp.fill_value != 0:
        ones = source.new_ones(()).expand(source.shape[0], 1, height, width)
        missing = 1 - _sample(ones, grid, warp)
        out = out + missing * (warp.fill_value if fill is None else fill.to(dtype)[:, None, None])
    return out.to(input.dtype).contiguous(memory_format=memory_format(input))


def _sample(source: Tensor, grid: Tensor, warp: Warp) -> Tensor:
    """Sample source (N, C, H, W) at grid (M, H_out, W_out, 2), already padded."""
    height, width = warp.size
    batch = source.shape[0]
    # All views of one input become one tall grid over it, so that no view copies the input.
    views = grid.shape[0] // batch if batch else 1
    out = F.grid_sample(
        source,
        grid.reshape(batch, views * height, width, 2),
        mode=warp.mode,
        padding_mode="zeros" if warp.padding_mode == "zeros" else "border",
        align_corners=False,
    )
    return out.unflatten(2, (views, height)).transpose(1, 2).flatten(0, 1)


def _aten_coordinate(x: Tensor, size: int, warp: Warp) -> Tensor:
    """Pixels along an axis of ``size`` to the padded, normalised coordinate at which ATen finds the right taps."""
    if warp.padding_mode != "zeros":
        x = _clipped(x, size, warp)
    if warp.mode == "nearest":
        x = x.round()
    normalised = (x - (size - 1) / 2).div_(size / 2)
    if warp.padding_mode == "zeros":
        # Two pixels outside are as good as infinitely many, and so is NaN; the taps there weigh nothing.
        outside = 1 + 3 / size
        normalised = torch.where(normalised.abs() < outside, normalised, -outside)
    # By rounding, ATen may find a whole pixel just below itself, where the left derivative holds. This is the least
    # that always brings it to the right one's side.
    on_lattice = (x == x.floor()).to(x.dtype)
    return normalised.add_(on_lattice, alpha=torch.finfo(x.dtype).eps)


def _clipped(x: Tensor, size: int, warp: Warp) -> Tensor:
    """Coordinates in pixels, reflected if asked for, and clipped by ATen's rule: no gradient at or beyond the edge."""
    clipped = x.detach().nan_to_num(nan=0.0).clamp(0, size - 1)
    if warp.padding_mode == "reflection":
        x = _reflected(torch.where(x.abs() < HUGE_PX, x, clipped), size, warp.align_corners)
        clipped = x.detach().clamp(0, size - 1)
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
        return grad_outputs[0].contiguous(memory_format=torch.channels_last)
