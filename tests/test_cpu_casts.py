"""Conversions on the CPU, between all types."""

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import INTEGERS, BFloat16, checked_too, from_bfloat16, run, spread, to_bfloat16

FLOATS = ["float16", "float32", "float64"]
KINDS = [*INTEGERS, "bool", *FLOATS, "bfloat16"]


@triton.jit
def cast_kernel(x, o0, o1, o2, o3, o4, o5, o6, o7, o8, o9, o10, o11, o12, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    a = tl.load(x + i)
    tl.store(o0 + i, a.to(tl.int8))
    tl.store(o1 + i, a.to(tl.int16))
    tl.store(o2 + i, a.to(tl.int32))
    tl.store(o3 + i, a.to(tl.int64))
    tl.store(o4 + i, a.to(tl.uint8))
    tl.store(o5 + i, a.to(tl.uint16))
    tl.store(o6 + i, a.to(tl.uint32))
    tl.store(o7 + i, a.to(tl.uint64))
    tl.store(o8 + i, a.to(tl.int1))
    tl.store(o9 + i, a.to(tl.float16))
    tl.store(o10 + i, a.to(tl.float32))
    tl.store(o11 + i, a.to(tl.float64))
    tl.store(o12 + i, a.to(tl.bfloat16))


def numbers(kind, count):
    """Of a type; floating-point ones that all integers hold, as others have no meaning there."""
    if kind in INTEGERS or kind == "bool":
        values = spread(count, kind, 8)
        if kind.endswith("int64"):
            # What float64 rounds to the middle between two numbers of bfloat16.
            ties = [(257 << shift) + few for shift in range(46, 54) for few in (-1, 1, 4095)]
            values[:48] = 2 * ties
            values[24:48] = -values[24:48]
        return values
    rng = np.random.default_rng(9)
    values = np.concatenate([rng.uniform(0, 127, count - 4), [0.0, -0.0, 126.99, 0.5]])
    return to_bfloat16(values) if kind == "bfloat16" else values.astype(kind)


def same_bits(have, want):
    """NaN and the sign of zero included, but not which NaN."""
    if isinstance(have, BFloat16):
        have, want = from_bfloat16(have), from_bfloat16(want)
    np.testing.assert_array_equal(have, want)
    np.testing.assert_array_equal(np.signbit(have), np.signbit(want))


@checked_too
@pytest.mark.parametrize("kind", KINDS)
def test_between_all_types(kind, checked):
    count = 256
    x = numbers(kind, count)
    outputs = [BFloat16(np.zeros(count, np.uint16)) if to == "bfloat16" else np.zeros(count, to) for to in KINDS]
    run(cast_kernel, x, *outputs, B=32, programs=count // 32, checked=checked)
    plain = from_bfloat16(x) if kind == "bfloat16" else x
    for to, have in zip(KINDS, outputs, strict=True):
        with np.errstate(over="ignore"):
            if to == "bfloat16":
                want = exact_bfloat16(plain)
            else:
                want = plain.astype(to)
        same_bits(have, want)


def exact_bfloat16(values):
    """Of integers of 64 bits, which float64 does not hold: rounded to odd there, and then to nearest."""
    wide = values.astype(np.float64)
    if values.dtype.itemsize == 8 and values.dtype.kind in "iu":
        exact = [int(v) for v in values]
        bits = wide.view(np.int64)
        error = np.array([(int(w) > v) - (int(w) < v) for w, v in zip(wide, exact, strict=True)])
        toward_zero = bits - (error * np.sign(wide).astype(int) > 0)
        wide = np.where(error != 0, toward_zero | 1, bits).view(np.float64)
    return to_bfloat16(wide)


@triton.jit
def from_floats_kernel(x, half, bfloat, single, double, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    a = tl.load(x + i)
    tl.store(half + i, a.to(tl.float16))
    tl.store(bfloat + i, a.to(tl.bfloat16))
    tl.store(single + i, a.to(tl.float32))
    tl.store(double + i, a.to(tl.float64))


def patterns(kind):
    """Of all sizes; ties and their neighbours; subnormal numbers, the largest ones, infinity and NaN."""
    if kind == "float16":
        return np.arange(2**16, dtype=np.uint16).view(np.float16)
    if kind == "bfloat16":
        return BFloat16(np.arange(2**16, dtype=np.uint16))
    rng = np.random.default_rng(10)
    with np.errstate(all="ignore"):
        halves = np.arange(0, 2**15, 7, dtype=np.uint16).view(np.float16).astype(kind)
        brain = from_bfloat16(BFloat16(np.arange(0, 2**15, 7, dtype=np.uint16))).astype(kind)
        singles = rng.integers(0, 2**32, 4000, np.uint32).view(np.float32).astype(kind)
        known = [halves[np.isfinite(halves)], brain[np.isfinite(brain)]]
        between = [(a[1:] + a[:-1]) / 2 for a in (np.sort(a) for a in known)]
        bounds = [65504, 65519.99, 65520, 65536, 3.38953139e38, 3.3961e38, 2.0**-134, 3.5e38, 1e-45, 1e-50]
        values = np.concatenate([*known, *between, singles, np.array([*bounds, np.inf, np.nan], kind)])
        values = np.concatenate([values, np.nextafter(values, np.inf, dtype=kind), np.nextafter(values, 0, dtype=kind)])
        values = np.concatenate([values, -values])
    return np.concatenate([values, np.zeros(-len(values) % 512, kind)])


@pytest.mark.parametrize("kind", [*FLOATS, "bfloat16"])
def test_floating_point_numbers_are_rounded_to_nearest(kind):
    """Once, to even where two are as near, subnormal numbers as others."""
    x = patterns(kind)
    plain = from_bfloat16(x) if kind == "bfloat16" else x
    count = len(plain)
    half, single, double = (np.zeros(count, to) for to in FLOATS)
    bfloat = BFloat16(np.zeros(count, np.uint16))
    run(from_floats_kernel, x, half, bfloat, single, double, B=64, programs=count // 64)
    with np.errstate(all="ignore"):
        same_bits(half, plain.astype(np.float16))
        same_bits(bfloat, to_bfloat16(plain))
        same_bits(single, plain.astype(np.float32))
        same_bits(double, plain.astype(np.float64))


@triton.jit
def bits_kernel(x, same, back, B: tl.constexpr):
    i = tl.arange(0, B)
    a = tl.load(x + i)
    bits = a.to(same.dtype.element_ty, bitcast=True)
    tl.store(same + i, bits)
    tl.store(back + i, (bits ^ 1).to(a.dtype, bitcast=True))


@checked_too
@pytest.mark.parametrize("count", [1, 32])
@pytest.mark.parametrize(
    ("kind", "bits"),
    [("float16", "int16"), ("bfloat16", "uint16"), ("float32", "int32"), ("float64", "uint64"), ("int8", "uint8")],
)
def test_bits(kind, bits, count, checked):
    raw = spread(count, bits, 11)
    x = BFloat16(raw.view(np.uint16)) if kind == "bfloat16" else raw.view(kind)
    same, back = np.zeros(count, bits), np.zeros(count, bits)
    target = BFloat16(back) if kind == "bfloat16" else back.view(kind)
    run(bits_kernel, x, same, target, B=count, checked=checked)
    np.testing.assert_array_equal(same, raw)
    np.testing.assert_array_equal(back, raw ^ 1)


@triton.jit
def out_of_range_kernel(x, o, n, B: tl.constexpr):
    i = tl.arange(0, B)
    a = tl.load(x + i)
    # Numbers that no integer is: the lanes have no meaning, but which lanes are on does.
    place = tl.floor(a).to(tl.int32)
    on = (a >= 0) & (a < n) & (place >= 0) & (place < n)
    tl.store(o + place, a, mask=on)


@checked_too
def test_numbers_that_no_integer_is_do_no_harm(checked):
    x = np.array([np.nan, 2.5, np.inf, -np.inf, 1e30, 0.25, -1e30, 3.75], np.float32)
    o = np.zeros(4, np.float32)
    run(out_of_range_kernel, x, o, 4, B=8, checked=checked)
    np.testing.assert_array_equal(o, [0.25, 0, 2.5, 3.75])


@triton.jit
def toward_zero_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, tl.load(x + i).to(tl.float16, fp_downcast_rounding="rtz"))


def test_rounding_toward_zero():
    x = np.random.default_rng(12).standard_normal(64).astype(np.float32)
    o = np.zeros(64, np.float16)
    run(toward_zero_kernel, x, o, B=64)
    near = x.astype(np.float16)
    over = np.abs(near.astype(np.float32)) > np.abs(x)
    np.testing.assert_array_equal(o, np.where(over, np.nextafter(near, np.float16(0)), near))
