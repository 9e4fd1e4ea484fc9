"""Sine, cosine and tangent on the device: what their docstring claims, with multiply-adds that round once."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from conftest import KERNEL_PLACES
from launches import launch
from tstn_kernels.functions import cosine, sine, tangent

from tstn._backend import INTERPRETED

DEVICES = [pytest.param(place.values[0].device, id=place.id, marks=place.marks) for place in KERNEL_PLACES]
DTYPES = [pytest.param(np.float32, id="float32"), pytest.param(np.float64, id="float64")]
# Errors of sine, cosine and tangent in units of the last place, up to some |x|, and up to the largest.
ULPS = (1.2, 1.2, 3.0)
ULPS_AT_LARGEST = (5.0, 5.0, 6.0)
FAR = {np.float32: 1e6, np.float64: 1e12}
LARGEST = {np.float32: 4e6, np.float64: 1e15}
# The interpreter's cost is per program.
BLOCK = 1 << 14 if INTERPRETED else 64


@triton.jit
def functions_kernel(sine_ptr, cosine_ptr, tangent_ptr, x_ptr, BLOCK: tl.constexpr):
    """The three functions of BLOCK numbers."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + lane)
    tl.store(sine_ptr + lane, sine(x))
    tl.store(cosine_ptr + lane, cosine(x))
    tl.store(tangent_ptr + lane, tangent(x))


def functions(x: np.ndarray, device: str) -> list[np.ndarray]:
    """Sine, cosine and tangent of any number of numbers."""
    padded = torch.from_numpy(np.pad(x, (0, -x.size % BLOCK))).to(device)
    s, c, t = (torch.full_like(padded, torch.nan) for _ in range(3))
    constexprs: dict[str, Any] = {"BLOCK": BLOCK}
    launch(functions_kernel, padded.numel() // BLOCK, s, c, t, padded, **constexprs)
    return [result.cpu().numpy()[: x.size] for result in (s, c, t)]


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b rounded, and the rounding (Knuth)."""
    total = a + b
    b_part = total - a
    return total, (a - (total - b_part)) + (b - b_part)


def two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a * b rounded, and the rounding (Dekker)."""

    def halves(c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scaled = c * (2.0**27 + 1)
        high = scaled - (scaled - c)
        return high, c - high

    product = a * b
    (a_high, a_low), (b_high, b_low) = halves(a), halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def odd_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b, where it is not exact the neighbour with an odd last bit: rounding that once more does no harm."""
    total, rest = two_sum(a, b)
    is_even = (total.view(np.int64) & 1) == 0
    return np.where((rest != 0) & is_even, np.nextafter(total, np.copysign(np.inf, rest)), total)


def fused_multiply_add(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """x * y + z rounded once (Boldo and Melquiond 2008), away from overflow and underflow."""
    if z.dtype == np.float32:
        return odd_sum(x.astype(np.float64) * y, z.astype(np.float64)).astype(np.float32)
    product, product_rest = two_product(x, y)
    low, lowest = two_sum(z, product_rest)
    high, middle = two_sum(product, low)
    # What is exact anyway keeps the sign of its zero.
    return np.where(product == 0, product + z, high + odd_sum(middle, lowest))


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place; the interpreter with a multiply-add that rounds once, as its own rounds twice."""
    if INTERPRETED:
        from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

        def create_fma(builder: Any, x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
            return TensorHandle(fused_multiply_add(*np.broadcast_arrays(x.data, y.data, z.data)), z.dtype.scalar)

        monkeypatch.setattr(InterpreterBuilder, "create_fma", create_fma)
    return request.param


def arguments(dtype: type[np.floating], largest: float) -> np.ndarray:
    """Numbers of every size up to ``largest``, and those next to multiples of pi / 2, where results are near 0 or 1."""
    generator = np.random.default_rng(0)
    count = 1 << (17 if dtype == np.float32 else 13)
    uniform = generator.uniform(-largest, largest, count)
    small = generator.uniform(-8, 8, count)
    exponents = generator.uniform(-30, np.log10(largest), count)
    n = np.concatenate((np.arange(-100, 101), generator.uniform(-largest, largest, 2000) * 0.63 // 1))
    with mpmath.workprec(200):
        multiples = np.array([float(int(k) * mpmath.pi / 2) for k in n])
    x = np.concatenate((uniform, small, 10**exponents, multiples)).astype(dtype)
    return np.concatenate((x, np.nextafter(x[-n.size :], dtype(0))))


def errors(x: np.ndarray, results: list[np.ndarray]) -> list[float]:
    """The largest error of each function, in units of the last place of the true value."""
    if x.dtype == np.float32:
        sines, cosines = np.sin(x.astype(np.float64)), np.cos(x.astype(np.float64))
        truths = (sines, cosines, sines / cosines)
        off = [result.astype(np.float64) - truth for result, truth in zip(results, truths, strict=True)]
    else:
        with mpmath.workprec(200):
            pairs = [mpmath.cos_sin(mpmath.mpf(float(number))) for number in x]
            exact = zip(*((s, c, s / c if c else mpmath.nan) for c, s in pairs), strict=True)
            truths, off = [], []
            for result, truth in zip(results, exact, strict=True):
                truths.append(np.array([float(t) for t in truth]))
                off.append(np.array([float(float(r) - t) for r, t in zip(result, truth, strict=True)]))
    places = [np.spacing(np.abs(truth).astype(x.dtype)).astype(np.float64) for truth in truths]
    return [float(np.abs(o / place).max()) for o, place in zip(off, places, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_accuracy(dtype: type[np.floating], device: str) -> None:
    x = arguments(dtype, FAR[dtype])
    results = functions(x, device)
    assert all(error <= ulps for error, ulps in zip(errors(x, results), ULPS, strict=True)), errors(x, results)
    assert max(np.abs(result).max() for result in results[:2]) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_accuracy_of_the_largest(dtype: type[np.floating], device: str) -> None:
    x = np.random.default_rng(0).uniform(-LARGEST[dtype], LARGEST[dtype], 1 << 14).astype(dtype)
    found = errors(x, functions(x, device))
    assert all(error <= ulps for error, ulps in zip(found, ULPS_AT_LARGEST, strict=True)), found


@pytest.mark.parametrize("dtype", DTYPES)
def test_beyond_the_largest_the_angle_counts_as_0(dtype: type[np.floating], device: str) -> None:
    x = np.geomspace(LARGEST[dtype] * 1.001, float(np.finfo(dtype).max) * 0.999, 500).astype(dtype)
    for result, value in zip(functions(np.concatenate((x, -x)), device), (0, 1, 0), strict=True):
        assert np.all(result == value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(dtype: type[np.floating], device: str) -> None:
    zeros = np.array([0.0, -0.0], dtype)
    sines, cosines, tangents = functions(zeros, device)
    assert np.signbit(sines).tolist() == np.signbit(tangents).tolist() == [False, True]
    assert not sines.any()
    assert not tangents.any()
    assert np.all(cosines == 1)
    for result in functions(np.array([np.inf, -np.inf, np.nan], dtype), device):
        assert np.isnan(result).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)], ids=["float32", "float64"])
def test_error_where_multiply_adds_round_twice(dtype: type[np.floating], tolerance: float, device: str) -> None:
    x = np.linspace(-100, 100, 1 << 14).astype(dtype)
    for result, truth in zip(functions(x, device), (np.sin, np.cos), strict=False):
        np.testing.assert_allclose(result, truth(x.astype(np.float64)), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply_adds_here_round_once(dtype: type[np.floating]) -> None:
    x, y, z = np.random.default_rng(0).standard_normal((3, 3000)).astype(dtype)
    z[:1000] = -(x * y)[:1000]
    z[1000:2000] *= np.finfo(dtype).eps
    result = fused_multiply_add(x, y, z)
    below, above = np.nextafter(result, dtype(-np.inf)), np.nextafter(result, dtype(np.inf))
    for *terms, found, low, high in zip(x, y, z, result, below, above, strict=True):
        a, b, c = (Fraction(float(term)) for term in terms)
        error, *others = (abs(a * b + c - Fraction(float(number))) for number in (found, low, high))
        assert error <= min(others)
