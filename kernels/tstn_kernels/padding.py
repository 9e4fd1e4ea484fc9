"""Padding of source coordinates, in pixels, with its derivative."""

import triton
import triton.language as tl

# Beyond this many pixels a coordinate says nothing about a place in the image; it is treated as infinite.
HUGE = tl.constexpr(2147483648.0)


@triton.jit
def reflected(x_px, size, ALIGN_CORNERS: tl.constexpr, DTYPE: tl.constexpr):
    """x_px mirrored, periodically, at the outermost pixels' edges (centres with ALIGN_CORNERS), and d/dx."""
    span = tl.cast(size, DTYPE)
    low = -0.5
    if ALIGN_CORNERS:
        span -= 1.0
        low = 0.0
    span = tl.maximum(span, 0.5)
    offset = x_px - low
    distance = tl.abs(offset)
    turns = tl.floor(distance / span)
    rest = distance - turns * span
    odd = (turns - 2.0 * tl.floor(turns * 0.5)) > 0.5
    slope = tl.where(odd == (offset < 0), 1.0, -1.0).to(DTYPE)
    return tl.where(odd, span - rest, rest) + low, slope


@triton.jit
def padded(x_px, size, PADDING: tl.constexpr, ALIGN_CORNERS: tl.constexpr, DTYPE: tl.constexpr):
    """x_px brought to where taps are safe to compute, and d padded / d x_px; NaN counts as outside.

    "zeros" leaves what can matter and stops two pixels outside, where every tap is outside. "border" clips to the
    outermost pixels' centres; "reflection" mirrors first. Both have derivative 0 at and beyond the clipping edge.
    """
    last = tl.cast(size, DTYPE) - 1.0
    if PADDING == "zeros":
        # NaN fails the comparison.
        return tl.minimum(tl.where(x_px > -2.0, x_px, -2.0), last + 2.0), tl.full(x_px.shape, 1.0, DTYPE)
    else:
        number = tl.where(x_px == x_px, x_px, 0.0)
        clipped = tl.minimum(tl.maximum(number, 0.0), last)
        if PADDING == "reflection":
            number = tl.where(tl.abs(number) < HUGE, number, clipped)
            mirrored, slope = reflected(number, size, ALIGN_CORNERS, DTYPE)
            slope = tl.where((mirrored > 0.0) & (mirrored < last), slope, 0.0)
            return tl.minimum(tl.maximum(mirrored, 0.0), last), slope
        else:
            return clipped, tl.where((number > 0.0) & (number < last), 1.0, 0.0).to(DTYPE)


@triton.jit
def bicubic_padded(x_px, size, PADDING: tl.constexpr, ALIGN_CORNERS: tl.constexpr, DTYPE: tl.constexpr):
    """x_px brought to where its four taps are small integers, and d / d x_px; the taps themselves are padded later.

    "zeros" and "border" stop three pixels outside, where all taps see the same; "reflection" goes back by whole
    periods.
    """
    size_px = tl.cast(size, DTYPE)
    if PADDING == "reflection":
        period = 2.0 * (size_px - 1.0) if ALIGN_CORNERS else 2.0 * size_px
        period = tl.maximum(period, 1.0)
        near = tl.abs(x_px) < HUGE
        number = tl.where(x_px == x_px, x_px, 0.0)
        number = tl.where(near, number, tl.minimum(tl.maximum(number, 0.0), size_px - 1.0))
        return number - period * tl.floor(number / period), tl.where(near, 1.0, 0.0).to(DTYPE)
    else:
        number = tl.where(x_px == x_px, x_px, -3.0)
        near = (number > -3.0) & (number < size_px + 2.0)
        return tl.minimum(tl.maximum(number, -3.0), size_px + 2.0), tl.where(near, 1.0, 0.0).to(DTYPE)


@triton.jit
def padded_pixel(pixel, size, PADDING: tl.constexpr, ALIGN_CORNERS: tl.constexpr):
    """The pixel that stands for one outside; "zeros" leaves it there. No more than a period below zero."""
    if PADDING == "border":
        return tl.minimum(tl.maximum(pixel, 0), size - 1)
    elif PADDING == "reflection":
        if ALIGN_CORNERS:
            period = tl.maximum(2 * (size - 1), 1)
            rest = (pixel + period) % period
            return tl.minimum(rest, period - rest)
        else:
            period = 2 * size
            rest = (pixel + period) % period
            return tl.minimum(rest, period - 1 - rest)
    else:
        return pixel
