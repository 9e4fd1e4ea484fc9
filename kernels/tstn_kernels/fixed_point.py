"""Sums in 64-bit fixed point, which do not depend on the order of their terms.

A term t becomes the integer round(t * 2^p). p is chosen from the largest term and the number of terms, so that no sum
overflows 2^62; with count_bits bits for the number of terms the rounding is 2^(count_bits - 62) of the largest term.
Terms of float64 have a second integer for what the first one rounds away.
"""

import triton
import triton.language as tl


@triton.jit
def peak_bits(value):
    """The bit pattern of |value|, as int64; its order is that of the numbers."""
    if value.dtype == tl.float64:
        return tl.abs(value).to(tl.int64, bitcast=True)
    else:
        return tl.abs(value).to(tl.int32, bitcast=True).to(tl.int64)


@triton.jit
def fixed_exponent(peak_ptr, count_bits, DTYPE: tl.constexpr):
    """p, from the bits of the largest |term|."""
    bits = tl.load(peak_ptr)
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
def add_fixed(fixed_ptr, total_ptr, offset, value, mask, limb_stride, count_bits, DTYPE: tl.constexpr):
    """Add value in fixed point at fixed_ptr + 1 + offset; the scale's peak lies before. What is not finite makes
    total_ptr + offset NaN.
    """
    finite = tl.abs(value) < float("inf")
    tl.store(total_ptr + offset, float("nan"), mask=mask & (finite == 0))
    scaled = tl.where(finite, value, 0.0).to(tl.float64) * power_of_two(fixed_exponent(fixed_ptr, count_bits, DTYPE))
    whole = tl.floor(scaled + 0.5)
    tl.atomic_add(fixed_ptr + 1 + offset, whole.to(tl.int64), mask=mask, sem="relaxed")
    if DTYPE == tl.float64:
        rest = tl.floor((scaled - whole) * power_of_two((62 - count_bits).to(tl.int64)) + 0.5)
        tl.atomic_add(fixed_ptr + 1 + limb_stride + offset, rest.to(tl.int64), mask=mask, sem="relaxed")


@triton.jit
def fixed_sum(fixed_ptr, at, mask, limb_stride, count_bits, DTYPE: tl.constexpr):
    """The sum at ``at``, as float64."""
    total = tl.load(fixed_ptr + 1 + at, mask=mask, other=0).to(tl.float64)
    if DTYPE == tl.float64:
        rest = tl.load(fixed_ptr + 1 + limb_stride + at, mask=mask, other=0).to(tl.float64)
        total += rest * power_of_two((count_bits - 62).to(tl.int64))
    return total * power_of_two(-fixed_exponent(fixed_ptr, count_bits, DTYPE))


@triton.jit(do_not_specialize=["C", "H", "W"])
def peak_kernel(
    peak_ptr,
    value_ptr,
    stride_m,
    stride_c,
    stride_h,
    stride_w,
    C,
    H,
    W,
    numel,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """peak = max(peak, bits of |value|) over the finite values of (M, C, H, W)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numel
    w = at % W
    h = at // W % H
    c = at // W // H % C
    m = at // W // H // C
    offset = m * stride_m + c * stride_c + h * stride_h + w * stride_w
    value = tl.load(value_ptr + offset, mask=inside, other=0.0).to(DTYPE)
    value = tl.where(tl.abs(value) < float("inf"), value, 0.0)
    tl.atomic_max(peak_ptr, tl.max(peak_bits(value)), sem="relaxed")
