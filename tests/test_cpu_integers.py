"""Whole numbers on the CPU: every operation, for every type, against Python's."""

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import INTEGERS, checked_too, run, spread

SIGNED = [kind for kind in INTEGERS if kind[0] == "i"]


@triton.jit
def binary_kernel(x, y, s, o, B: tl.constexpr):
    i = tl.arange(0, B)
    a, b, shift = tl.load(x + i), tl.load(y + i), tl.load(s + i)
    tl.store(o + i, a + b)
    tl.store(o + B + i, a - b)
    tl.store(o + 2 * B + i, a * b)
    tl.store(o + 3 * B + i, a // b)
    tl.store(o + 4 * B + i, a % b)
    tl.store(o + 5 * B + i, a & b)
    tl.store(o + 6 * B + i, a | b)
    tl.store(o + 7 * B + i, a ^ b)
    tl.store(o + 8 * B + i, a << shift)
    tl.store(o + 9 * B + i, a >> shift)
    tl.store(o + 10 * B + i, tl.minimum(a, b))
    tl.store(o + 11 * B + i, tl.maximum(a, b))
    tl.store(o + 12 * B + i, tl.where(a < b, a, b - 1))
    tl.store(o + 13 * B + i, ~a)
    tl.store(o + 14 * B + i, a // 3 + a % 7)
    tl.store(o + 15 * B + i, (a * 5 + 2) >> 1)


def truncated(a, b):
    """How C divides."""
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return quotient, a - quotient * b


def wrap(values, kind):
    bits = np.dtype(kind).itemsize * 8
    return np.array([value % 2**bits for value in values], np.uint64).astype(f"uint{bits}").view(kind)


@checked_too
@pytest.mark.parametrize("kind", INTEGERS)
def test_binary_operations(kind, checked):
    count = 64
    x, y = spread(count, kind, 1), spread(count, kind, 2)
    x[:6] = [np.iinfo(kind).min, np.iinfo(kind).max, 0, 1, np.iinfo(kind).max, np.iinfo(kind).min]
    y[y == 0] = 3
    bits = np.dtype(kind).itemsize * 8
    s = (np.arange(count) % bits).astype(kind)
    o = np.zeros((16, count), kind)
    run(binary_kernel, x, y, s, o, B=count, checked=checked)
    a, b, shift = x.tolist(), y.tolist(), s.tolist()

    def each(function):
        return wrap([function(*numbers) for numbers in zip(a, b, shift, strict=True)], kind)

    expected = [
        each(lambda a, b, _: a + b),
        each(lambda a, b, _: a - b),
        each(lambda a, b, _: a * b),
        each(lambda a, b, _: truncated(a, b)[0]),
        each(lambda a, b, _: truncated(a, b)[1]),
        each(lambda a, b, _: a & b),
        each(lambda a, b, _: a | b),
        each(lambda a, b, _: a ^ b),
        each(lambda a, _, s: a << s),
        each(lambda a, _, s: a >> s),
        each(lambda a, b, _: min(a, b)),
        each(lambda a, b, _: max(a, b)),
        each(lambda a, b, _: a if a < b else b - 1),
        each(lambda a, *_: ~a),
        each(lambda a, *_: truncated(a, 3)[0] + truncated(a, 7)[1]),
        wrap([int(v) >> 1 for v in wrap([v * 5 + 2 for v in a], kind)], kind),
    ]
    for i, (have, want) in enumerate(zip(o, expected, strict=True)):
        np.testing.assert_array_equal(have, want, err_msg=f"operation {i}")


@triton.jit
def comparison_kernel(x, y, o, B: tl.constexpr):
    i = tl.arange(0, B)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(o + i, a < b)
    tl.store(o + B + i, a <= b)
    tl.store(o + 2 * B + i, a > b)
    tl.store(o + 3 * B + i, a >= b)
    tl.store(o + 4 * B + i, a == b)
    tl.store(o + 5 * B + i, a != b)
    tl.store(o + 6 * B + i, (a < b) & (a != 0) | (b == 0))
    tl.store(o + 7 * B + i, (a < b) ^ (b > 2))


@checked_too
@pytest.mark.parametrize("kind", [*INTEGERS, "bool"])
def test_comparisons(kind, checked):
    count = 32
    x, y = spread(count, kind, 3), spread(count, kind, 4)
    y[::4] = x[::4]
    o = np.zeros((8, count), bool)
    run(comparison_kernel, x, y, o, B=count, checked=checked)
    expected = [x < y, x <= y, x > y, x >= y, x == y, x != y, (x < y) & (x != 0) | (y == 0), (x < y) ^ (y > 2)]
    np.testing.assert_array_equal(o, expected)


@triton.jit
def unary_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    a = tl.load(x + i)
    tl.store(o + i, -a)
    tl.store(o + B + i, tl.abs(a))
    tl.store(o + 2 * B + i, tl.clamp(a.to(tl.float64), -3.0, 5.0).to(a.dtype))


@pytest.mark.parametrize("kind", SIGNED)
def test_unary_operations(kind):
    x = spread(32, kind, 5)
    o = np.zeros((3, 32), kind)
    run(unary_kernel, x, o, B=32)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(o, [-x, np.abs(x), np.clip(x, -3, 5)])


@triton.jit
def high_kernel(x, y, o, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, tl.umulhi(tl.load(x + i), tl.load(y + i)))


@checked_too
@pytest.mark.parametrize("size", [1, 4, 16])
@pytest.mark.parametrize("kind", ["int32", "uint32", "int64", "uint64"])
def test_high_half_of_a_product(kind, size, checked):
    bits = int(kind[-2:])
    x, y = spread(size, kind, 6), spread(size, kind, 7)
    x[0] = y[0] = -1 if kind[0] == "i" else 2**bits - 1
    o = np.zeros(size, kind)
    run(high_kernel, x, y, o, B=size, checked=checked)
    want = [(a % 2**bits) * (b % 2**bits) >> bits for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    np.testing.assert_array_equal(o, wrap(want, kind))


@triton.jit
def divide_kernel(x, y, n, o, B: tl.constexpr):
    i = tl.arange(0, B)
    on = i < n
    a, b = tl.load(x + i, mask=on, other=0), tl.load(y + i, mask=on, other=0)
    tl.store(o + i, a // b, mask=on)
    tl.store(o + B + i, a % b, mask=on)
    tl.store(o + 2 * B + i, (a // b).to(tl.float32), mask=on)


@pytest.mark.parametrize("kind", INTEGERS)
def test_lanes_that_are_off_may_divide_by_zero(kind):
    """Which a CPU traps at, as at the least number divided by -1."""
    x, y = np.full(8, np.iinfo(kind).min, kind), np.full(8, 5, kind)
    y[:2] = [0, np.iinfo(kind).max]
    if kind[0] == "i":
        y[1:3] = [-1, -2]
    o = np.zeros((3, 8), kind)
    run(divide_kernel, x, y, 6, o, B=8)
    want = [truncated(a, b) for a, b in zip(x.tolist()[1:6], y.tolist()[1:6], strict=True)]
    np.testing.assert_array_equal(o[0, 1:6], wrap([quotient for quotient, _ in want], kind))
    np.testing.assert_array_equal(o[1, 1:6], wrap([rest for _, rest in want], kind))
    assert not o[:, 6:].any()


@triton.jit
def known_kernel(o, p, q, B: tl.constexpr):
    i = tl.arange(0, B)
    # What is known at compile time wraps around as well.
    narrow = i.to(tl.int8)
    tl.store(o + i, (i * 1103515245 + 12345) >> 16)
    tl.store(o + B + i, narrow.to(tl.int32))
    tl.store(o + 2 * B + i, (narrow * 3).to(tl.int32))
    tl.store(o + 3 * B + i, (i.to(tl.uint8) + 200).to(tl.int32))
    tl.store(o + 4 * B + i, (i << 28) // 7)
    tl.store(o + 5 * B + i, (i - 5) % 3)
    tl.store(o + 6 * B + i, (-i) >> 1)
    tl.store(o + 7 * B + i, ((i & 6) | 1) // 3)
    tl.store(p + i, (i * 1103515245).to(tl.int64))
    tl.store(p + B + i, (i.to(tl.int64) * 1103515245) // 3)
    tl.store(p + 2 * B + i, ((i.to(tl.int64) << 33) + i).to(tl.int32).to(tl.int64))
    tl.store(q + i, i.to(tl.int16).to(tl.float16, bitcast=True))
    tl.store(q + B + i, (i * 1103515245).to(tl.float16))


@checked_too
def test_numbers_that_are_known_wrap_around(checked):
    count = 256
    i = np.arange(count, dtype=np.int32)
    o, p, q = np.zeros((8, count), np.int32), np.zeros((3, count), np.int64), np.zeros((2, count), np.float16)
    run(known_kernel, o, p, q, B=count, checked=checked)
    with np.errstate(over="ignore"):
        hashed = i * np.int32(1103515245)
        o_expected = [
            (hashed + np.int32(12345)) >> 16,
            i.astype(np.int8),
            i.astype(np.int8) * np.int8(3),
            i.astype(np.uint8) + np.uint8(200),
            np.trunc((i << 28) / 7),
            np.fmod(i - 5, 3),
            -i >> 1,
            ((i & 6) | 1) // 3,
        ]
        wide = i.astype(np.int64)
        p_expected = [hashed, wide * 1103515245 // 3, i]
        q_expected = [i.astype(np.int16).view(np.float16).view(np.uint16), hashed.astype(np.float16).view(np.uint16)]
    np.testing.assert_array_equal(o, o_expected)
    np.testing.assert_array_equal(p, p_expected)
    np.testing.assert_array_equal(q.view(np.uint16), q_expected)


@triton.jit
def scalar_kernel(n, m, o):
    pid = tl.program_id(0)
    tl.store(o + 4 * pid, (n + pid) // m)
    tl.store(o + 4 * pid + 1, (n + pid) % m)
    tl.store(o + 4 * pid + 2, tl.minimum(n, pid) * m)
    tl.store(o + 4 * pid + 3, tl.cdiv(n, m) - n)


@checked_too
@pytest.mark.parametrize(("n", "m"), [(-17, 5), (2**30, -3), (2**33, 7), (100, 0), (1, 1), (0, 2**40)])
def test_scalars(n, m, checked):
    """As arguments: 32 or 64 bits, and 1, which is compiled in."""
    o = np.zeros((6, 4), np.int64)
    run(scalar_kernel, n, m, o, programs=6, checked=checked)
    if m == 0:
        assert (o[:, 2] == 0).all()
        return
    for pid, row in enumerate(o):
        quotient, rest = truncated(n + pid, m)
        assert row.tolist() == [quotient, rest, min(n, pid) * m, truncated(n + m - 1, m)[0] - n]
