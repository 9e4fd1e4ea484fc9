"""What lies outside the image."""

import triton
import triton.language as tl


@triton.jit
def fill_values(fill_ptr, fill_value, stride, c, C, FILL: tl.constexpr, DTYPE: tl.constexpr, UNROLL: tl.constexpr):
    """The fill of UNROLL channels from c on, one value for all or one per channel; an empty tuple without."""
    fills = ()
    for channel in tl.static_range(UNROLL):
        if FILL == "scalar":
            fills = fills + (tl.cast(fill_value, DTYPE),)
        elif FILL == "channel":
            at = fill_ptr + (c + channel) * stride
            fills = fills + (tl.load(at, mask=c + channel < C, other=0.0).to(DTYPE),)
    return fills


@triton.jit
def filled(value, fill, missing):
    """The sum of the taps inside the image, and the fill for what is missing; where nothing is, not even NaN counts."""
    return value + missing * tl.where(missing == 0.0, 0.0, fill)


@triton.jit
def slopes_base(fill):
    """What slopes measure values from: the fill, or 0 if that is not a number."""
    return tl.where(tl.abs(fill) < float("inf"), fill, 0.0)


@triton.jit
def slope_of_fill(fill, whole):
    """What a fill that is not a number makes of a footprint's slopes, unless it lies inside as a whole; else 0."""
    return tl.where(whole, 0.0, fill - slopes_base(fill))
