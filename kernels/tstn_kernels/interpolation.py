"""Interpolation along one axis: the first tap, and each tap's pixel and weight with its derivative.

The two-dimensional footprint is the product of two axes. Nearest has one tap, bilinear two, bicubic four.
"""

import triton
import triton.language as tl

from tstn_kernels.coords import centre_px, over_channels, within
from tstn_kernels.padding import bicubic_padded, padded, padded_pixel

# Keys' parameter of cubic convolution (1981), as ATen has it.
CUBIC_A = tl.constexpr(-0.75)


@triton.jit
def nearest_pixel(x_px):
    """x rounded to the nearest integer, half to even."""
    below = tl.floor(x_px)
    past = x_px - below
    odd = (below - 2.0 * tl.floor(below * 0.5)) > 0.5
    return below + tl.where((past > 0.5) | ((past == 0.5) & odd), 1.0, 0.0)


@triton.jit
def first_tap(x_px, MODE: tl.constexpr):
    """The leftmost tap's pixel, and how far x is past the pixel at or below it."""
    below = tl.floor(x_px)
    past = x_px - below
    if MODE == "nearest":
        below = nearest_pixel(x_px)
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
def footprint_tap(corner, i, j, size, MODE: tl.constexpr, PADDING: tl.constexpr, ALIGN_CORNERS: tl.constexpr):
    """The pixels of a footprint's corner, its first tap, and of its tap (i, j), (corner_x, corner_y, x, y), and whether
    the tap lies in an image of ``size`` (height, width).
    """
    x = tap_pixel(corner[0], i, size[1], MODE, PADDING, ALIGN_CORNERS)
    y = tap_pixel(corner[1], j, size[0], MODE, PADDING, ALIGN_CORNERS)
    return (corner[0], corner[1], x, y), within(x, size[1]) & within(y, size[0])


@triton.jit
def tap_at(at, taps, i, j, strides, MODE: tl.constexpr, CHANNELS_LAST: tl.constexpr, OFFSET: tl.constexpr):
    """The pointer to a footprint's tap (i, j), as footprint_tap has it, given the strides of (h, w). Bilinear taps are
    neighbours, so that they share an address but for a constant.
    """
    if MODE == "bicubic":
        offset = taps[3].to(OFFSET) * strides[0] + taps[2].to(OFFSET) * strides[1]
        return at + over_channels(offset, CHANNELS_LAST)
    else:
        first = taps[1].to(OFFSET) * strides[0] + taps[0].to(OFFSET) * strides[1]
        return (at + over_channels(first, CHANNELS_LAST)) + (j * strides[0] + i * strides[1])


@triton.jit
def tap_weight(past, tap, MODE: tl.constexpr):
    """Weight of a tap: nearest 1, bilinear max(0, 1 - |x - tap|), bicubic the cubic convolution kernel."""
    if MODE == "nearest":
        return tl.full(past.shape, 1.0, past.dtype)
    elif MODE == "bilinear":
        return tl.where(tap == 0, 1.0 - past, past)
    else:
        distance = tl.abs(past + (1 - tap))
        return tl.where((tap == 1) | (tap == 2), cubic_near(distance), cubic_far(distance))


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
        far = CUBIC_A * (3.0 * distance - 4.0) * (distance - 2.0)
        slope = tl.where((tap == 1) | (tap == 2), near, far)
        # x moves towards the taps on the right.
        return tl.where(tap < 2, slope, -slope)


@triton.jit
def cubic_near(distance):
    """The cubic convolution kernel at distances up to 1, by its zeros, so that small weights have small errors."""
    return (1.0 - distance) * (1.0 + distance - (CUBIC_A + 2.0) * distance * distance)


@triton.jit
def cubic_far(distance):
    """The cubic convolution kernel at distances from 1 to 2."""
    return CUBIC_A * (distance - 1.0) * (distance - 2.0) * (distance - 2.0)


@triton.jit
def nearest_weight(source, pixel, size):
    """1 if this is the pixel nearest to a source coordinate about the axis's centre, else 0, also for NaN."""
    # Rounded as the taps are, whole pixels from the first.
    nearest = nearest_pixel(source + centre_px(size, source.dtype))
    return tl.where(nearest == pixel.to(source.dtype), 1.0, 0.0).to(source.dtype)


@triton.jit
def distance_weight(offset, MODE: tl.constexpr):
    """Weight, along an axis, of a pixel from which a source coordinate is this far: what the taps there have."""
    distance = tl.abs(offset)
    if MODE == "bilinear":
        return tl.maximum(1.0 - distance, 0.0)
    else:
        far = tl.where(distance < 2.0, cubic_far(distance), 0.0)
        return tl.where(distance < 1.0, cubic_near(distance), far)


@triton.jit
def covered_weight(first, past, size, TAPS: tl.constexpr, MODE: tl.constexpr):
    """Weight of an axis's taps that lie inside the image; a footprint's is the product of its axes'."""
    weight = tl.zeros(past.shape, past.dtype)
    for tap in tl.static_range(TAPS):
        weight += tl.where(within(first + tap, size), tap_weight(past, tap, MODE), 0.0)
    return weight


@triton.jit
def lies_inside(first, past, size, TAPS: tl.constexpr, MODE: tl.constexpr):
    """Whether all of an axis's taps that weigh anything lie inside the image."""
    inside = (first >= 0) & (first + (TAPS - 1) < size)
    if MODE == "nearest":
        return inside
    else:
        # At a whole pixel only its own tap weighs anything.
        return inside | ((past == 0.0) & within(first + (TAPS // 2 - 1), size))


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
