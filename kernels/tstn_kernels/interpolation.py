"""Interpolation along one axis: the first tap, and each tap's weight with its derivative.

The two-dimensional footprint is the product of two axes; tap i of an axis is pixel ``first + i``.
"""

import triton
import triton.language as tl

from tstn_kernels.coords import centre_px
from tstn_kernels.padding import padded


@triton.jit
def first_tap(x_px, MODE: tl.constexpr):
    """The leftmost tap's pixel and the position past it: bilinear floor(x), nearest x rounded half to even."""
    below = tl.floor(x_px)
    past = x_px - below
    if MODE == "nearest":
        odd = (below - 2.0 * tl.floor(below * 0.5)) > 0.5
        up = (past > 0.5) | ((past == 0.5) & odd)
        below += tl.where(up, 1.0, 0.0)
    return below.to(tl.int32), past


@triton.jit
def tap_weight(past, TAP: tl.constexpr, MODE: tl.constexpr):
    """Weight of tap TAP: bilinear max(0, 1 - |x - tap|), nearest 1."""
    if MODE == "nearest":
        return tl.full(past.shape, 1.0, past.dtype)
    elif TAP == 0:
        return 1.0 - past
    else:
        return past


@triton.jit
def tap_slope(past, TAP: tl.constexpr, MODE: tl.constexpr):
    """d tap_weight / d x, from the right at whole pixels."""
    if MODE == "nearest":
        return tl.full(past.shape, 0.0, past.dtype)
    elif TAP == 0:
        return tl.full(past.shape, -1.0, past.dtype)
    else:
        return tl.full(past.shape, 1.0, past.dtype)


@triton.jit
def covered_weight(first, past, size, MODE: tl.constexpr):
    """Weight of an axis's taps that lie inside the image; a footprint's is the product of its axes'."""
    weight = tl.where((first >= 0) & (first < size), tap_weight(past, 0, MODE), 0.0)
    if MODE != "nearest":
        weight += tl.where((first >= -1) & (first + 1 < size), tap_weight(past, 1, MODE), 0.0)
    return weight


@triton.jit
def source_taps(
    offset_px,
    size,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """From pixels about an axis's centre: the first tap, the position past it, and d position / d offset_px."""
    x_px, slope = padded(offset_px + centre_px(size, DTYPE), size, PADDING, ALIGN_CORNERS, DTYPE)
    first, past = first_tap(x_px, MODE)
    return first, past, slope
