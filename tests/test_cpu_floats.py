"""Floating-point arithmetic on the CPU: NaN, rounding, and functions to the last bits."""

import math

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import BFloat16, checked_too, from_bfloat16, run, spread, to_bfloat16, ulps


@triton.jit
def binary_kernel(x, y, o, B: tl.constexpr):
    i = tl.arange(0, B)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(o + i, a + b)
    tl.store(o + B + i, a - b)
    tl.store(o + 2 * B + i, a * b)
    tl.store(o + 3 * B + i, a / b)
    tl.store(o + 4 * B + i, -a)
    tl.store(o + 5 * B + i, tl.where(a < b, a, b))
    tl.store(o + 6 * B + i, tl.abs(a))
    tl.store(o + 7 * B + i, a % b)


@checked_too
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_binary_operations(kind, checked):
    x, y = spread(128, kind, 1), spread(128, kind, 2)
    o = np.zeros((8, 128), kind)
    run(binary_kernel, x, y, o, B=128, checked=checked)
    with np.errstate(all="ignore"):
        expected = [x + y, x - y, x * y, x / y, -x, np.where(x < y, x, y), np.abs(x), np.fmod(x, y)]
    np.testing.assert_array_equal(o, expected)


@checked_too
def test_binary_operations_of_half_types(checked):
    """Each one by way of float32, rounded after each."""
    rng = np.random.default_rng(3)
    x, y = (rng.standard_normal(128).astype(np.float16) for _ in range(2))
    o = np.zeros((8, 128), np.float16)
    run(binary_kernel, x, y, o, B=128, checked=checked)
    np.testing.assert_array_equal(o, [x + y, x - y, x * y, x / y, -x, np.where(x < y, x, y), np.abs(x), np.fmod(x, y)])
    x, y = (to_bfloat16(rng.standard_normal(128)) for _ in range(2))
    a, b = from_bfloat16(x), from_bfloat16(y)
    o = BFloat16(np.zeros((8, 128), np.uint16))
    run(binary_kernel, x, y, o, B=128, checked=checked)
    expected = [a + b, a - b, a * b, a / b, -a, np.where(a < b, a, b), np.abs(a), np.fmod(a, b)]
    np.testing.assert_array_equal(o.bits, [to_bfloat16(values).bits for values in expected])


@triton.jit
def nan_kernel(x, y, o, p, B: tl.constexpr):
    i = tl.arange(0, B)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(o + i, tl.minimum(a, b))
    tl.store(o + B + i, tl.maximum(a, b))
    tl.store(o + 2 * B + i, tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL))
    tl.store(o + 3 * B + i, tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL))
    # One operand is known not to be NaN, on either side.
    tl.store(o + 4 * B + i, tl.minimum(a, 2.0))
    tl.store(o + 5 * B + i, tl.maximum(2.0, a))
    tl.store(o + 6 * B + i, tl.maximum(tl.minimum(a, i.to(a.dtype)), b))
    tl.store(o + 7 * B + i, tl.clamp(a, -1.0, 1.0))
    tl.store(o + 8 * B + i, tl.clamp(a, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL))
    tl.store(p + i, a < b)
    tl.store(p + B + i, a <= b)
    tl.store(p + 2 * B + i, a > b)
    tl.store(p + 3 * B + i, a >= b)
    tl.store(p + 4 * B + i, a == b)
    tl.store(p + 5 * B + i, a != b)
    tl.store(p + 6 * B + i, a == a)
    tl.store(p + 7 * B + i, not (a < b))


@checked_too
@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
def test_nan(kind, checked):
    special = np.array([np.nan, 1.0, -np.inf, np.inf, -2.5, np.nan, 3.0, 0.0])
    x, y = np.repeat(special, 8), np.tile(special, 8)
    o, p = np.zeros((9, 64)), np.zeros((8, 64), bool)
    if kind == "bfloat16":
        bits = BFloat16(np.zeros((9, 64), np.uint16))
        run(nan_kernel, to_bfloat16(x), to_bfloat16(y), bits, p, B=64, checked=checked)
        o = from_bfloat16(bits)
    else:
        o = o.astype(kind)
        run(nan_kernel, x.astype(kind), y.astype(kind), o, p, B=64, checked=checked)
    with np.errstate(invalid="ignore"):
        expected = [
            *(np.fmin(x, y), np.fmax(x, y), np.minimum(x, y), np.maximum(x, y), np.fmin(x, 2), np.fmax(x, 2)),
            *(np.fmax(np.fmin(x, np.arange(64)), y), np.fmin(np.fmax(x, -1), 1), np.clip(x, -1, 1)),
        ]
        np.testing.assert_array_equal(o, expected)
        np.testing.assert_array_equal(p, [x < y, x <= y, x > y, x >= y, x == y, x != y, x == x, ~(x < y)])


@triton.jit
def made_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    a = tl.load(x + i)
    tl.store(o + i, tl.minimum(2.0, tl.sqrt(a)))
    tl.store(o + B + i, tl.maximum(tl.log(a), 0.5))
    tl.store(o + 2 * B + i, tl.maximum(0.5, tl.floor(a) * 0))
    tl.store(o + 3 * B + i, tl.minimum(tl.minimum(tl.abs(a), 3.0), tl.sqrt(a)))


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_nan_that_was_made(kind):
    x = np.array([-1, np.inf, -np.inf, np.nan, 9, 0.25, -0.0, 100], kind)
    o = np.zeros((4, 8), kind)
    run(made_kernel, x, o, B=8)
    with np.errstate(all="ignore"):
        expected = [np.fmin(2, np.sqrt(x)), np.fmax(np.log(x), 0.5), np.fmax(0.5, np.floor(x) * 0)]
        expected.append(np.fmin(np.fmin(np.abs(x), 3), np.sqrt(x)))
    np.testing.assert_allclose(o, np.array(expected).astype(kind), rtol=1e-6)


@triton.jit
def exact_kernel(x, y, z, o, B: tl.constexpr):
    i = tl.arange(0, B)
    a, b, c = tl.load(x + i), tl.load(y + i), tl.load(z + i)
    tl.store(o + i, tl.fma(a, b, c))
    tl.store(o + B + i, tl.floor(a))
    tl.store(o + 2 * B + i, tl.ceil(a))
    tl.store(o + 3 * B + i, tl.sqrt(tl.abs(a)))
    tl.store(o + 4 * B + i, 1 / tl.rsqrt(tl.abs(a)))


@triton.jit
def rounded_kernel(x, y, o, B: tl.constexpr):
    i = tl.arange(0, B)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(o + i, tl.sqrt_rn(tl.abs(a)))
    tl.store(o + B + i, tl.div_rn(a, b))
    tl.store(o + 2 * B + i, tl.fdiv(a, b, ieee_rounding=True))


@checked_too
@pytest.mark.parametrize("size", [1, 16])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_exact_functions(kind, size, checked):
    rng = np.random.default_rng(4)
    x, y, z = (rng.standard_normal(size).astype(kind) * 10 for _ in range(3))
    o = np.zeros((5, size), kind)
    run(exact_kernel, x, y, z, o, B=size, checked=checked)
    if kind == "float32":
        # float64 holds the product, and long double the sum.
        fused = (x.astype(np.longdouble) * y.astype(np.longdouble) + z.astype(np.longdouble)).astype(np.float32)
        np.testing.assert_array_equal(o[0], fused)
        rounded = np.zeros((3, size), kind)
        run(rounded_kernel, x, y, rounded, B=size, checked=checked)
        np.testing.assert_array_equal(rounded, [np.sqrt(np.abs(x)), x / y, x / y])
    else:
        np.testing.assert_allclose(o[0], x * y + z, rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(o[1:4], [np.floor(x), np.ceil(x), np.sqrt(np.abs(x))])
    np.testing.assert_allclose(o[4], np.sqrt(np.abs(x)), rtol=4 * np.finfo(kind).eps)


@triton.jit
def fused_kernel(x, y, z, o, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, tl.fma(tl.load(x + i), tl.load(y + i), tl.load(z + i)))


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_fma_rounds_once(kind):
    few = np.array(1 + np.finfo(kind).eps, kind)
    x, o = np.full(4, few), np.zeros(4, kind)
    run(fused_kernel, x, x, -(x * x), o, B=4)
    assert (o == np.finfo(kind).eps ** 2).all()


@triton.jit
def function_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    a = tl.load(x + i)
    tl.store(o + i, tl.exp(a))
    tl.store(o + B + i, tl.log(tl.abs(a)))
    tl.store(o + 2 * B + i, tl.sin(a))
    tl.store(o + 3 * B + i, tl.cos(a))
    tl.store(o + 4 * B + i, tl.exp2(a))
    tl.store(o + 5 * B + i, tl.log2(tl.abs(a)))
    tl.store(o + 6 * B + i, tl.erf(a))
    tl.store(o + 7 * B + i, tl.sigmoid(a))


@checked_too
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_functions(kind, checked):
    x = np.random.default_rng(5).standard_normal(64).astype(kind) * 4
    x[:4] = [0, np.inf, -np.inf, np.nan]
    o = np.zeros((8, 64), kind)
    run(function_kernel, x, o, B=64, checked=checked)
    exact = x.astype(np.longdouble)
    with np.errstate(all="ignore"):
        error_function = np.array([math.erf(v) for v in x.tolist()])
        wanted = [
            *(np.exp(exact), np.log(np.abs(exact)), np.sin(exact), np.cos(exact), np.exp2(exact)),
            *(np.log2(np.abs(exact)), error_function, 1 / (1 + np.exp(-exact))),
        ]
    for name, have, want in zip(["exp", "log", "sin", "cos", "exp2", "log2", "erf", "sigmoid"], o, wanted, strict=True):
        assert ulps(have, want, kind) <= (3 if name == "sigmoid" else 1.5), name


@triton.jit
def half_kernel(x, y, o, B: tl.constexpr):
    i = tl.arange(0, B)
    a = tl.load(x + i)
    tl.store(o + i, tl.fma(a, a, tl.load(y + i)))


def test_fma_of_half_types():
    """By way of float32, which holds the product."""
    x, y = (np.random.default_rng(seed).standard_normal(32).astype(np.float16) for seed in (7, 8))
    o = np.zeros(32, np.float16)
    run(half_kernel, x, y, o, B=32)
    np.testing.assert_array_equal(o, (x.astype(np.float32) ** 2 + y).astype(np.float16))
