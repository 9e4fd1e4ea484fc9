"""Interpolation along one axis: the first tap, and each tap's pixel and weight with its derivative.

The two-dimensional footprint is the product of two axes. Nearest has one tap, bilinear two, bicubic four.
"""

import triton
import triton.language as tl

from tstn_kernels.coords import centre_px
from tstn_kernels.padding import bicubic_padded, padded, padded_pixel

# Keys' parameter of cubic convolution (1981), as ATen has it.
CUBIC_A = tl.constexpr(-0.75)


@triton.jit
def first_tap(x_px, MODE: tl.constexpr):
    """The leftmost tap's pixel, and how far x is past the pixel at or below it; nearest rounds half to even."""
    below = tl.floor(x_px)
    past = x_px - below
    if MODE == "nearest":
        odd = (below - 2.0 * tl.floor(below * 0.5)) > 0.5
        up = (past > 0.5) | ((past == 0.5) & odd)
        below += tl.where(up, 1.0, 0.0)
    first = below.to(tl.int32)
    if MODE == "bicubic":
        first -= 1
    return first, past


@triton.jit
def tap_pixel(first, tap, size, MODE: tl.constexpr, PADDING: tl.constexpr, ALIGN_CORNERS: tl.constexpr):
    """The pixel that a tap reads. Bicubic taps are padded one by one, as ATen does; others have been already."""
    if MODE == "bicubic":
        return padded_pixel(first + tap, size, PADDING, ALIGN_CORNERS)
    else:
        return first + tap


@triton.jit
def tap_weight(past, tap, MODE: tl.constexpr):
    """Weight of a tap: nearest 1, bilinear max(0, 1 - |x - tap|), bicubic the cubic convolution kernel."""
    if MODE == "nearest":
        return tl.full(past.shape, 1.0, past.dtype)
    elif MODE == "bilinear":
        return tl.where(tap == 0, 1.0 - past, past)
    else:
        distance = tl.abs(past + (1 - tap))
        near = ((CUBIC_A + 2.0) * distance - (CUBIC_A + 3.0)) * distance * distance + 1.0
        far = ((CUBIC_A * distance - 5.0 * CUBIC_A) * distance + 8.0 * CUBIC_A) * distance - 4.0 * CUBIC_A
        return tl.where((tap == 1) | (tap == 2), near, far)


@triton.jit
def tap_slope(past, tap, MODE: tl.constexpr):
    """d tap_weight / d x, from the right at whole pixels."""
    if MODE == "nearest":
        return tl.full(past.shape, 0.0, past.dtype)
    elif MODE == "bilinear":
        return tl.where(tap == 0, -1.0, 1.0).to(past.dtype)
    else:
        distance = tl.abs(past + (1 - tap))
        near = (3.0 * (CUBIC_A + 2.0) * distance - 2.0 * (CUBIC_A + 3.0)) * distance
        far = (3.0 * CUBIC_A * distance - 10.0 * CUBIC_A) * distance + 8.0 * CUBIC_A
        slope = tl.where((tap == 1) | (tap == 2), near, far)
        # x moves towards the taps on the right.
        return tl.where(tap < 2, slope, -slope)


@triton.jit
def covered_weight(first, past, size, TAPS: tl.constexpr, MODE: tl.constexpr):
    """Weight of an axis's taps that lie inside the image; a footprint's is the product of its axes'."""
    weight = tl.zeros(past.shape, past.dtype)
    for tap in tl.static_range(TAPS):
        inside = (first + tap >= 0) & (first + tap < size)
        weight += tl.where(inside, tap_weight(past, tap, MODE), 0.0)
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
    x_px = offset_px + centre_px(size, DTYPE)
    if MODE == "bicubic":
        x_px, slope = bicubic_padded(x_px, size, PADDING, ALIGN_CORNERS, DTYPE)
    else:
        x_px, slope = padded(x_px, size, PADDING, ALIGN_CORNERS, DTYPE)
    first, past = first_tap(x_px, MODE)
    return first, past, slope
