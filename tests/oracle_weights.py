"""Interpolation weights of one axis, written out tap by tap: where F.grid_sample gives sums, here are their terms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Keys' family of cubic kernels; PyTorch's member of it.
A = -0.75
# About the size of the terms of ATen's polynomials for taps one to two pixels away, which cancel.
FAR_TERMS = 16
TAPS = {"nearest": (0,), "bilinear": (0, 1), "bicubic": (-1, 0, 1, 2)}


def kernel(distance: Tensor, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    """The weight at a signed distance from a tap within its reach, and its first and second derivative."""
    t, zero = distance.abs(), torch.zeros_like(distance)
    if mode == "nearest":
        # A function of the distance to autograd, too.
        return 1 + 0 * t, zero, zero
    if mode == "bilinear":
        return 1 - t, -torch.where(distance < 0, -1.0, 1.0).to(t.dtype), zero
    near, far = t <= 1, t < 2
    weight = torch.where(near, ((A + 2) * t - (A + 3)) * t * t + 1, A * (((t - 5) * t + 8) * t - 4))
    slope = torch.where(near, (3 * (A + 2) * t - 2 * (A + 3)) * t, A * ((3 * t - 10) * t + 8))
    curve = torch.where(near, 6 * (A + 2) * t - 2 * (A + 3), A * (6 * t - 10))
    weight, slope, curve = (torch.where(near | far, v, 0) for v in (weight, slope * distance.sign(), curve))
    return weight, slope, curve


def padded(tap: Tensor, size: int, padding_mode: str, align_corners: bool) -> Tensor:
    """The pixel that a tap (int64) reads, or -1."""
    if padding_mode == "zeros":
        return torch.where((tap >= 0) & (tap < size), tap, -1)
    if padding_mode == "border" or (align_corners and size == 1):
        return tap.clamp(0, size - 1)
    # Mirrors at the outermost pixels' centres show them once, those at their edges twice.
    period = 2 * (size - 1) if align_corners else 2 * size
    tap = tap % period
    return torch.minimum(tap, period - int(not align_corners) - tap)


def axis_weights(
    x: Tensor, size: int, mode: str, padding_mode: str, align_corners: bool, *, absolute: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The weight (..., size) of each pixel of an axis at x (...) in pixels, and its first and second derivative by x.

    With ``absolute`` the sizes of all three; where several taps read one pixel, the sum of the taps' sizes.
    """
    first = x.round() if mode == "nearest" else x.floor()
    weights, slopes, curves = (x.new_zeros(*x.shape, size) for _ in range(3))
    for shift in TAPS[mode]:
        tap = (first + shift).detach()
        pixel = padded(tap.long(), size, padding_mode, align_corners)
        one_hot = (pixel[..., None] == torch.arange(size, device=x.device)).to(x.dtype)
        for total, value in zip((weights, slopes, curves), kernel(x - tap, mode), strict=True):
            total += (value.abs() if absolute else value)[..., None] * one_hot
    return weights, slopes, curves


def sample_by_weights(image: Tensor, at: Tensor, mode: str, padding_mode: str, align_corners: bool) -> Tensor:
    """(M, C, H, W) at ``at`` (M, H_out, W_out, 2) in pixels, with derivatives of any order away from whole pixels.

    Not every PyTorch has a second derivative of F.grid_sample.
    """
    weights_x, weights_y = (
        axis_weights(at[..., axis], image.shape[3 - axis], mode, padding_mode, align_corners)[0] for axis in (0, 1)
    )
    return torch.einsum("mhwi,mhwj,mcij->mchw", weights_y, weights_x, image)


class TermSizes(NamedTuple):
    """Sizes of the summed terms: of the output, of the gradient of each sample's image, of the grid and the fill."""

    output: Tensor
    grad_source: Tensor
    grad_grid: Tensor
    grad_fill: Tensor | None


def term_sizes(
    source: Tensor,
    fill: Tensor | None,
    grad: Tensor,
    at: tuple[Tensor, Tensor],
    mode: str,
    padding_mode: str,
    align_corners: bool,
    rounding: float = 0.0,
) -> TermSizes:
    """From the sizes of the images (M, C, H, W), the fill and the output's gradient.

    ``at`` is the coordinates (M, H_out, W_out, 2) in pixels and by how much each of them is unsure: a term's size
    includes what it may gain by that, and by the ``rounding`` of bicubic weights.
    """
    axes = []
    for axis, size in enumerate((source.shape[3], source.shape[2])):
        position, unsure = (t[..., axis] for t in at)
        weight, slope, curve = axis_weights(position, size, mode, padding_mode, align_corners, absolute=True)
        if mode == "bicubic":
            rounded = rounding * FAR_TERMS * (weight + slope + curve > 0)
            weight, slope = weight + rounded, slope + rounded
        axes.append((weight + unsure[..., None] * slope, slope + unsure[..., None] * curve))
    (weight_x, slope_x), (weight_y, slope_y) = axes

    def total(rows: Tensor, columns: Tensor, image: Tensor) -> Tensor:
        return torch.einsum("mhwi,mhwj,mcij->mchw", rows, columns, image)

    # Slopes are per pixel; a coordinate's unit is half the image, or half of what lies between its outer pixels.
    extent_x, extent_y = ((n - 1) / 2 if align_corners else n / 2 for n in (source.shape[3], source.shape[2]))
    value = source if fill is None else source + fill[:, None, None]
    grad_x = (total(weight_y, slope_x, value) * grad).sum(1) * extent_x
    grad_y = (total(slope_y, weight_x, value) * grad).sum(1) * extent_y
    output = total(weight_y, weight_x, source)
    grad_fill = None
    if fill is not None:
        missing = 1 + weight_y.sum(-1) * weight_x.sum(-1)
        output = output + missing[:, None] * fill[:, None, None]
        grad_fill = torch.einsum("mhw,mchw->c", missing, grad)
    grad_source = torch.einsum("mhwi,mhwj,mchw->mcij", weight_y, weight_x, grad)
    return TermSizes(output, grad_source, torch.stack((grad_x, grad_y), -1), grad_fill)
