"""Loops on the CPU, and what they carry: scalars, tensors, pointers."""

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import checked_too, run


@triton.jit
def scalars_kernel(o, first, last, step):
    total = first * 0
    turns = 0
    at = first * 0 - 1
    for i in range(first, last, step):
        total += i
        turns += 1
        at = i
    tl.store(o, total)
    tl.store(o + 1, turns)
    tl.store(o + 2, at)


@checked_too
@pytest.mark.parametrize(
    ("first", "last", "step"),
    [
        *((0, 10, 1), (0, 0, 1), (5, 3, 2), (-7, 9, 3), (-9, -2, 2), (1, 2, 1), (0, 10, 100)),
        *((2**31 - 10, 2**31 - 2, 3), (-(2**31), -(2**31) + 9, 4), (2**40, 2**40 + 10, 3), (-(2**35), -(2**35) + 3, 1)),
    ],
)
def test_bounds(first, last, step, checked):
    o = np.zeros(3, np.int64)
    run(scalars_kernel, o, first, last, step, checked=checked)
    turns = range(first, last, step)
    # Sums of 32 bits wrap around.
    wide = any(not -(2**31) <= number < 2**31 for number in (first, last, step))
    total = sum(turns) if wide else (sum(turns) + 2**31) % 2**32 - 2**31
    assert o.tolist() == [total, len(turns), turns[-1] if turns else -1]


@triton.jit
def wide_kernel(o, first, last, step):
    total = tl.cast(0, tl.int64)
    for i in range(first, last, step):
        for k in range(i, i + 2):
            total += k - i
        total += i
    tl.store(o, total)


@checked_too
@pytest.mark.parametrize(
    ("first", "last", "step"), [(2**31 - 3, 2**31 + 3, 2), (0, 2**33, 2**31), (-(2**33), 0, 2**32)]
)
def test_bounds_of_32_and_of_64_bits(first, last, step, checked):
    o = np.zeros(1, np.int64)
    run(wide_kernel, o, first, last, step, checked=checked)
    assert o[0] == sum(i + 1 for i in range(first, last, step))


@triton.jit
def counters_kernel(o, n, m):
    # A number that an inner loop gives has the type of its bounds.
    last = tl.cast(7, tl.int64)
    narrow = 50
    for a in range(m):
        for k in range(n, n + a):
            last = k
        for k in tl.range(0, a, step=1):
            for j in range(a, m):
                narrow = j
            narrow += k
    tl.store(o, last)
    tl.store(o + 1, narrow)


@checked_too
@pytest.mark.parametrize("m", [0, 1, 4])
def test_counters_of_inner_loops(m, checked):
    o = np.zeros(2, np.int64)
    run(counters_kernel, o, 2**40, m, checked=checked)
    assert o.tolist() == [2**40 + m - 2 if m > 1 else 7, 3 + 2 if m == 4 else 50]


@triton.jit
def backward_kernel(o, n, S: tl.constexpr):
    place = 0
    for i in range(n, 0, -1):
        tl.store(o + place, i)
        place += 1
    for i in tl.static_range(6, 0, S):
        tl.store(o + place, i)
        place += 1
    for i in tl.range(0, n, num_stages=2):
        tl.store(o + place, i * 10)
        place += 1
    for i in tl.range(0, 8, loop_unroll_factor=4):
        tl.store(o + place, i * 100)
        place += 1


@checked_too
@pytest.mark.parametrize("n", [0, 1, 5])
def test_kinds_of_loops(n, checked):
    o = np.full(32, -1, np.int32)
    run(backward_kernel, o, n, S=-2, checked=checked)
    expected = [*range(n, 0, -1), 6, 4, 2, *range(0, 10 * n, 10), *range(0, 800, 100)]
    assert o.tolist() == expected + [-1] * (32 - len(expected))


@triton.jit
def tensors_kernel(x, o, n, m, B: tl.constexpr):
    i = tl.arange(0, B)
    # What begins as one number becomes many; what begins as steps leaves them; two change places.
    total = tl.zeros([B], tl.float32)
    place = i
    left, right = i * 2, i * i
    best = tl.full([B], float("-inf"), tl.float32)
    at = tl.zeros([B], tl.int32)
    same = tl.full([B], 3, tl.int32)
    flag = i < 0
    for k in range(n):
        value = tl.load(x + place % m)
        total += value
        at = tl.where(value > best, k, at)
        best = tl.maximum(best, value)
        place += m - 1
        left, right = right, left
        same += 1
        flag = flag | (value > 2.0)
    tl.store(o + i, total)
    tl.store(o + B + i, place.to(tl.float32))
    tl.store(o + 2 * B + i, (left - right).to(tl.float32))
    tl.store(o + 3 * B + i, best)
    tl.store(o + 4 * B + i, at.to(tl.float32))
    tl.store(o + 5 * B + i, same.to(tl.float32))
    tl.store(o + 6 * B + i, flag.to(tl.float32))


@checked_too
@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_tensors_are_carried(n, checked):
    m, i = 11, np.arange(8)
    x = np.random.default_rng(1).integers(-3, 4, m).astype(np.float32)
    o = np.zeros((7, 8), np.float32)
    run(tensors_kernel, x, o, n, m, B=8, checked=checked)
    taken = np.array([x[(i + k * (m - 1)) % m] for k in range(n)]).reshape(n, 8)
    with_least = np.concatenate([np.full((1, 8), -np.inf), taken])
    expected = [
        *(taken.sum(0), i + n * (m - 1), (2 * i - i * i) * (-1) ** n, with_least.max(0)),
        *(np.maximum(with_least.argmax(0) - 1, 0), np.full(8, 3 + n), (taken > 2).any(0)),
    ]
    np.testing.assert_array_equal(o, expected)


@triton.jit
def pointers_kernel(x, y, o, n, stride, B: tl.constexpr):
    i = tl.arange(0, B)
    rows = x + i
    one, other = x, y
    gathered = x + (i * 7) % B
    wandering = x + i
    total = tl.zeros([B], tl.float32)
    for _ in range(n):
        total += tl.load(rows)
        total += tl.load(one) * 10
        total += tl.load(gathered) * 100
        total += tl.load(wandering) * 1000
        rows += stride
        one, other = other, one
        gathered += stride
        wandering = x + tl.load(wandering).to(tl.int32) % B
    tl.store(o + i, total)
    tl.store(o + B, tl.load(one))
    if n > 0:
        tl.store(rows - stride, total)


@checked_too
@pytest.mark.parametrize("n", [0, 1, 4])
def test_pointers_are_carried(n, checked):
    """Also two that change places, of which only a run tells whose they are."""
    stride, i = 9, np.arange(8)
    x, y = np.random.default_rng(2).integers(0, 9, 48).astype(np.float32), np.full(1, 5, np.float32)
    o, before = np.zeros(9, np.float32), x.copy()
    run(pointers_kernel, x, y, o, n, stride, B=8, checked=checked)
    total, wandering = np.zeros(8), i
    for k in range(n):
        total += before[i + k * stride] + 10 * (y[0] if k % 2 else before[0])
        total += 100 * before[i * 7 % 8 + k * stride] + 1000 * before[wandering]
        wandering = before[wandering].astype(int) % 8
    np.testing.assert_array_equal(o, [*total, y[0] if n % 2 else before[0]])
    if n:
        before[(n - 1) * stride + i] = total
    np.testing.assert_array_equal(x, before)


@triton.jit
def nested_kernel(o, n, m, B: tl.constexpr):
    i = tl.arange(0, B)
    total = tl.zeros([B], tl.int32)
    count = 0
    for a in range(n):
        row = total * 0
        for b in range(a, m):
            row += i * b
            if b % 2 == 0:
                row -= 1
                if a == 1:
                    count += 10
            else:
                for c in tl.static_range(2):
                    row += c
                count += 1
        total += row
        if a > 100:
            total += 1000000
    tl.store(o + i, total)
    tl.store(o + B + i, count)


@checked_too
@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (4, 5), (2, 7)])
def test_loops_within_loops(n, m, checked):
    o, i = np.zeros((2, 8), np.int32), np.arange(8)
    run(nested_kernel, o, n, m, B=8, checked=checked)
    total, count = np.zeros(8, int), 0
    for a in range(n):
        for b in range(a, m):
            total += i * b + (-1 if b % 2 == 0 else 1)
            count += (10 if a == 1 else 0) if b % 2 == 0 else 1
    np.testing.assert_array_equal(o, [total, np.full(8, count)])
