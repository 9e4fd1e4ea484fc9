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
