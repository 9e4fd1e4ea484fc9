"""Padding of source coordinates, in pixels, with its derivative."""

import triton
import triton.language as tl


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
        number = tl.where(x_px == x_px, x_px, -2.0)
        return tl.minimum(tl.maximum(number, -2.0), last + 2.0), tl.full(x_px.shape, 1.0, DTYPE)
    else:
        number = tl.where(x_px == x_px, x_px, 0.0)
        clipped = tl.minimum(tl.maximum(number, 0.0), last)
        if PADDING == "reflection":
            # Beyond 2^31 pixels a coordinate says nothing about a place in the image.
            number = tl.where(tl.abs(number) < 2147483648.0, number, clipped)
            mirrored, slope = reflected(number, size, ALIGN_CORNERS, DTYPE)
            slope = tl.where((mirrored > 0.0) & (mirrored < last), slope, 0.0)
            return tl.minimum(tl.maximum(mirrored, 0.0), last), slope
        else:
            return clipped, tl.where((number > 0.0) & (number < last), 1.0, 0.0).to(DTYPE)
