"""Sums in 64-bit fixed point, which do not depend on the order of their terms.

A term t becomes the integer round(t * 2^p). p is chosen from the largest term of each input and the number of terms,
so that no sum overflows 2^62; with count_bits bits for the number of terms the rounding is 2^(count_bits - 62) of the
largest term. Terms of float64 have a second integer for what the first one rounds away.

Memory holds the inputs' peaks, then the sums, then the second integers.
"""

import triton
import triton.language as tl

from tstn_kernels.coords import divided, remainder, source_image


@triton.jit
def peak_bits(value):
    """The bit pattern of |value|, as int64; its order is that of the numbers."""
    if value.dtype == tl.float64:
        return tl.abs(value).to(tl.int64, bitcast=True)
    else:
        return tl.abs(value).to(tl.int32, bitcast=True).to(tl.int64)


@triton.jit
def fixed_exponent(bits, count_bits, DTYPE: tl.constexpr):
    """p, from the bits of the largest |term|."""
    # The peak is below 2^exponent.
    if DTYPE == tl.float64:
        exponent = (bits >> 52) - 1022
    else:
        exponent = (bits >> 23) - 126
    return tl.minimum(62 - count_bits - exponent, 1000)


@triton.jit
def power_of_two(exponent):
    """2^exponent as float64, exactly; exponent is int64 and within float64's normal range."""
    return ((exponent + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def add_fixed(sums_ptr, total_ptr, offset, value, mask, scale, DTYPE: tl.constexpr):
    """Add value * 2^exponent at sums_ptr + offset. What is not finite makes total_ptr + offset NaN.

    The scale: exponent, distance of the second integers, count_bits.
    """
    exponent, limb_stride, count_bits = scale
    finite = tl.abs(value) < float("inf")
    tl.store(total_ptr + offset, float("nan"), mask=mask & (finite == 0))
    scaled = tl.where(finite, value, 0.0).to(tl.float64) * power_of_two(exponent)
    whole = tl.floor(scaled + 0.5)
    tl.atomic_add(sums_ptr + offset, whole.to(tl.int64), mask=mask, sem="relaxed")
    if DTYPE == tl.float64:
        rest = tl.floor((scaled - whole) * power_of_two((62 - count_bits).to(tl.int64)) + 0.5)
        tl.atomic_add(sums_ptr + limb_stride + offset, rest.to(tl.int64), mask=mask, sem="relaxed")


@triton.jit
def fixed_sum(fixed_ptr, at, mask, N, limb_stride, count_bits, DTYPE: tl.constexpr):
    """The sum at ``at``, of limb_stride sums of N inputs, as float64."""
    bits = tl.load(fixed_ptr + at // (limb_stride // N), mask=mask, other=0)
    total = tl.load(fixed_ptr + N + at, mask=mask, other=0).to(tl.float64)
    if DTYPE == tl.float64:
        rest = tl.load(fixed_ptr + N + limb_stride + at, mask=mask, other=0).to(tl.float64)
        total += rest * power_of_two((count_bits - 62).to(tl.int64))
    return total * power_of_two(-fixed_exponent(bits, count_bits, DTYPE))


@triton.jit(
    do_not_specialize=[
        "N",
        "M",
        "C",
        "H",
        "W",
        "views",
        "views_by",
        "views_shift",
        "blocks",
        "blocks_by",
        "blocks_shift",
    ]
)
def peak_kernel(
    peak_ptr,
    value_ptr,
    index_ptr,
    stride_m,
    stride_c,
    stride_h,
    stride_w,
    N,
    M,
    C,
    H,
    W,
    views,
    views_by,
    views_shift,
    blocks,
    blocks_by,
    blocks_shift,
    INDEXED: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """peak[n] = max(peak[n], bits of |value|) over the finite values of the (M, C, H, W) that read input n."""
    views = (views, views_by, views_shift)
    blocks = (blocks, blocks_by, blocks_shift)
    m = divided(tl.program_id(0), blocks)
    at = remainder(tl.program_id(0), m, blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    w = at % W
    h = at // W % H
    c = at // W // H
    offset = m.to(tl.int64) * stride_m + c * stride_c + h * stride_h + w * stride_w
    value = tl.load(value_ptr + offset, mask=c < C, other=0.0).to(DTYPE)
    value = tl.where(tl.abs(value) < float("inf"), value, 0.0)
    n, exists = source_image(m, index_ptr, N, M, views, INDEXED)
    tl.atomic_max(peak_ptr + n, tl.max(peak_bits(value)), mask=exists, sem="relaxed")
