"""Loops and branches on the CPU, and what they carry: scalars, tensors, pointers."""

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


@triton.jit
def branch_kernel(x, y, o, n, B: tl.constexpr):
    i = tl.arange(0, B)
    value = tl.load(x + i)
    pointer = x + i
    one = x
    place = i
    scalar = 1.5
    if n > 2:
        value = value * 2
        pointer = y + i
        one = y + 1
        place = B - 1 - i
        scalar = tl.load(y)
    tl.store(o + i, value)
    tl.store(o + B + i, tl.load(pointer))
    tl.store(o + 2 * B + i, tl.load(one))
    tl.store(o + 3 * B + place, tl.load(x + place))
    if n % 2 == 0:
        tl.store(o + 4 * B + i, scalar)
        chosen = x + i * 2
    else:
        tl.store(o + 4 * B + i, -scalar)
        chosen = y + (i * 3) % B
    tl.store(o + 5 * B + i, tl.load(chosen))
    tl.store(o + 6 * B + i, place.to(tl.float32))
    if n == 0:
        pass
    elif n == 1:
        tl.store(o + 7 * B + i, 7.0)
    elif n == 3:
        tl.store(o + 7 * B + i, i.to(tl.float32))
    base = y if n > 1 else x
    tl.store(o + 8 * B + i, tl.load(base + i))


@checked_too
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
def test_branches(n, checked):
    """On a scalar; yielding tensors, and pointers of one argument or another."""
    rng = np.random.default_rng(3)
    x, y = (rng.standard_normal(16).astype(np.float32) for _ in range(2))
    o, i = np.zeros((9, 8), np.float32), np.arange(8)
    run(branch_kernel, x, y, o, n, B=8, checked=checked)
    taken, scalar = n > 2, y[0] if n > 2 else 1.5
    expected = [
        *(x[:8] * (2 if taken else 1), (y if taken else x)[:8], np.full(8, y[1] if taken else x[0]), x[:8]),
        *(np.full(8, scalar if n % 2 == 0 else -scalar), y[i * 3 % 8] if n % 2 else x[::2]),
        *(i[::-1] if taken else i, {1: np.full(8, 7), 3: i}.get(n, np.zeros(8)), (y if n > 1 else x)[:8]),
    ]
    np.testing.assert_array_equal(o, np.array(expected, np.float32))


@triton.jit
def chosen_kernel(x, y, o, n, far):
    pointer = x
    if n > 2:
        pointer = y
    tl.store(o, tl.load(pointer + far))


def test_checks_follow_a_pointer_that_was_chosen():
    x, y, o = np.arange(4, dtype=np.float32), np.arange(10, 18, dtype=np.float32), np.zeros(1, np.float32)
    run(chosen_kernel, x, y, o, 3, 7, checked=True)
    assert o[0] == 17
    with pytest.raises(IndexError, match="load of x at byte 28"):
        run(chosen_kernel, x, y, o, 2, 7, checked=True)
    with pytest.raises(IndexError, match="load of y at byte 32"):
        run(chosen_kernel, x, y, o, 3, 8, checked=True)


@triton.jit
def swap_kernel(x, y, o, n):
    one, other = x, y
    for k in range(n):
        tl.store(o + k, tl.load(one))
        one, other = other, one


def test_checks_follow_pointers_that_change_places():
    x, y, o = np.full(1, 3, np.float32), np.full(1, 4, np.float32), np.zeros(4, np.float32)
    run(swap_kernel, x, y, o, 4, checked=True)
    assert o.tolist() == [3, 4, 3, 4]
    with pytest.raises(IndexError, match="load of y at byte 0"):
        run(swap_kernel, x, y[:0], o, 4, checked=True)


@triton.jit
def renamed_kernel(x, o, n, m, B: tl.constexpr):
    # Triton calls its arguments by these names.
    count = n
    o_row = o
    start = m
    i = tl.arange(0, B)
    tl.store(o_row + i, tl.load(x + start + i, mask=i < count, other=0.0))


@checked_too
def test_arguments_with_other_names(checked):
    x, o = np.arange(12, dtype=np.float32), np.zeros(8, np.float32)
    run(renamed_kernel, x, o, 3, 4, B=8, checked=checked)
    assert o.tolist() == [4, 5, 6, 0, 0, 0, 0, 0]


@triton.jit
def assigned_kernel(o, n, B: tl.constexpr, WIDE: tl.constexpr):
    i = tl.arange(0, B)
    if WIDE:
        value = i.to(tl.int64) << 40
    else:
        value = i.to(tl.int64)
    assert B > 1
    tl.assume(n >= 0)
    tl.static_assert(B == 4)
    while_like = 0
    for k in range(n):
        while_like = k if k < 3 else while_like
    tl.store(o + i, value + while_like)


@checked_too
@pytest.mark.parametrize("wide", [True, False])
def test_branches_on_what_is_known(wide, checked):
    o = np.zeros(4, np.int64)
    run(assigned_kernel, o, 7, B=4, WIDE=wide, checked=checked)
    np.testing.assert_array_equal(o, (np.arange(4) << (40 if wide else 0)) + 2)
