"""Branches on the CPU, what they yield, and whose the pointers are that they choose."""

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import checked_too, run


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
