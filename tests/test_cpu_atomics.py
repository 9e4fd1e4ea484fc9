"""Atomic operations on the CPU: what they leave, what they return, and by many lanes and threads at one address."""

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import BFloat16, checked_too, from_bfloat16, run, spread, to_bfloat16

WHOLE = ("int32", "int64", "uint32", "uint64")
ways = pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])


@triton.jit
def atomic_kernel(x, index, o, old, n, B: tl.constexpr):
    i = tl.arange(0, B)
    on = i < n
    value, place = tl.load(x + i), tl.load(index + i)
    tl.store(old + i, tl.atomic_add(o + place, value, mask=on), mask=on)
    tl.store(old + B + i, tl.atomic_max(o + B + place, value, mask=on), mask=on)
    tl.store(old + 2 * B + i, tl.atomic_min(o + 2 * B + place, value, mask=on), mask=on)
    tl.store(old + 3 * B + i, tl.atomic_xchg(o + 3 * B + place, value, mask=on), mask=on)
    # Nobody asks for what was there before.
    tl.atomic_add(o + 4 * B + place, value, mask=on)
    tl.atomic_max(o + 5 * B + place, value)
    tl.atomic_min(o + 6 * B + place, value, mask=on)


@triton.jit
def bitwise_kernel(x, index, o, old, n, B: tl.constexpr):
    i = tl.arange(0, B)
    on = i < n
    value, place = tl.load(x + i), tl.load(index + i)
    tl.store(old + i, tl.atomic_and(o + place, value, mask=on), mask=on)
    tl.store(old + B + i, tl.atomic_or(o + B + place, value, mask=on), mask=on)
    tl.store(old + 2 * B + i, tl.atomic_xor(o + 2 * B + place, value), mask=on)
    tl.atomic_and(o + 3 * B + place, value)
    tl.atomic_or(o + 4 * B + place, value, mask=on)
    tl.atomic_xor(o + 5 * B + place, value, mask=on)
    tl.atomic_xchg(o + 6 * B + place, value, mask=on)


def in_turn(values, index, memory, on, combine):
    """Lane by lane, in order; what was there before each."""
    before = np.zeros_like(values)
    with np.errstate(over="ignore"):
        for lane in range(len(values)):
            if on[lane]:
                before[lane] = memory[index[lane]]
                memory[index[lane]] = combine(memory[index[lane]], values[lane])
    return before


@checked_too
@ways
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        *((kind, 16) for kind in (*WHOLE, "float32", "float64")),
        ("float32", 1),
        ("float64", 128),
        ("int32", 128),
        ("int64", 1),
    ],
)
def test_lanes_take_their_turns(kind, count, exclusive, checked):
    rng = np.random.default_rng(1)
    is_float = kind[0] == "f"
    x = rng.integers(-50, 50, count).astype(kind) if is_float else spread(count, kind, 1)
    index = rng.integers(0, min(count, 4), count).astype(np.int32)
    o = rng.integers(-60, 60, (7, count)).astype(kind) if is_float else spread(7 * count, kind, 2).reshape(7, count)
    want, old = o.copy(), np.zeros((4, count), kind)
    n = max(count - 3, 1)
    run(atomic_kernel, x, index, o, old, n, B=count, checked=checked, how={"exclusive": exclusive})
    on, everywhere = np.arange(count) < n, np.ones(count, bool)
    operations = [np.add, np.maximum, np.minimum, lambda _, new: new, np.add, np.maximum, np.minimum]
    for row, combine in enumerate(operations):
        before = in_turn(x, index, want[row], everywhere if row == 5 else on, combine)
        # Of floating-point numbers Triton makes two operations, first for those above zero.
        if row in (0, 3) or (row < 4 and not is_float):
            np.testing.assert_array_equal(old[row], before, err_msg=str(row))
        np.testing.assert_array_equal(o[row], want[row], err_msg=str(row))


@checked_too
@ways
@pytest.mark.parametrize("kind", WHOLE)
def test_bits_take_their_turns(kind, exclusive, checked):
    count, n = 16, 13
    index = np.random.default_rng(3).integers(0, 4, count).astype(np.int32)
    x, o, old = spread(count, kind, 4), spread(7 * count, kind, 5).reshape(7, count), np.zeros((3, count), kind)
    want = o.copy()
    run(bitwise_kernel, x, index, o, old, n, B=count, checked=checked, how={"exclusive": exclusive})
    on, everywhere = np.arange(count) < n, np.ones(count, bool)
    operations = [np.bitwise_and, np.bitwise_or, np.bitwise_xor] * 2 + [lambda _, new: new]
    for row, combine in enumerate(operations):
        before = in_turn(x, index, want[row], everywhere if row in (2, 3) else on, combine)
        if row < 3:
            np.testing.assert_array_equal(old[row][on], before[on], err_msg=str(row))
        np.testing.assert_array_equal(o[row], want[row], err_msg=str(row))


@triton.jit
def half_kernel(x, index, o, old, n, B: tl.constexpr):
    i = tl.arange(0, B)
    on = i < n
    value, place = tl.load(x + i), tl.load(index + i)
    tl.store(old + i, tl.atomic_add(o + place, value, mask=on), mask=on)
    tl.atomic_add(o + B + place, value, mask=on)
    tl.atomic_add(o + 2 * B, tl.load(x + 1))


@checked_too
@ways
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_sums_of_half_types(kind, exclusive, checked):
    """Rounded after each lane."""
    count, n = 32, 30
    rng = np.random.default_rng(6)
    index = rng.integers(0, 4, count).astype(np.int32)
    values, sums = rng.standard_normal(count), rng.standard_normal((3, count))
    if kind == "bfloat16":
        x, o, old = to_bfloat16(values), to_bfloat16(sums), BFloat16(np.zeros(count, np.uint16))

        def rounded(a):
            return from_bfloat16(to_bfloat16(a))
    else:
        x, o, old = values.astype(np.float16), sums.astype(np.float16), np.zeros(count, np.float16)

        def rounded(a):
            return np.asarray(a).astype(np.float16).astype(np.float32)

    run(half_kernel, x, index, o, old, n, B=count, checked=checked, how={"exclusive": exclusive})
    values, want = rounded(values), rounded(sums)
    on = np.arange(count) < n
    before = [in_turn(values, index, want[row], on, lambda a, b: rounded(a + b)) for row in range(2)]
    want[2, 0] = rounded(want[2, 0] + values[1])
    have = [from_bfloat16(a) if kind == "bfloat16" else a for a in (old, o)]
    np.testing.assert_array_equal(have[0], before[0])
    np.testing.assert_array_equal(have[1], want)


@triton.jit
def same_kernel(o, old, one, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M), tl.arange(0, N)
    # All lanes agree in address and value, or all lanes of an axis do.
    tl.atomic_add(o + tl.zeros([N], tl.int32), one)
    tl.atomic_add(o + 1 + i[:, None] * 2 + tl.zeros([M, N], tl.int32), one)
    tl.atomic_add(o + 2 + (j * 0)[None, :] + tl.zeros([M, N], tl.int32), one, mask=(i < 3)[:, None])
    tl.atomic_add(o + 20 + j[None, :] + tl.zeros([M, N], tl.int32), one)
    tl.store(old + j, tl.atomic_add(o + 40 + tl.zeros([N], tl.int32), one))
    tl.atomic_add(o + 41, one)
    tl.atomic_add(o + 42, one, mask=one > 5)
    tl.store(old + N, tl.atomic_add(o + 41, one, mask=one > 0))


@checked_too
@ways
@pytest.mark.parametrize("kind", ["float32", "int32"])
def test_lanes_that_agree_count_each(kind, exclusive, checked):
    m, n = 4, 8
    o, old = np.zeros(64, kind), np.zeros(n + 1, kind)
    one = np.ones(1, kind)
    run(same_scalar_kernel, o, old, one, M=m, N=n, checked=checked, how={"exclusive": exclusive})
    want = np.zeros(64)
    want[0], want[1 : 1 + 2 * m : 2] = n, n
    want[2] += 3 * n
    want[20 : 20 + n], want[40], want[41] = m, n, 2
    np.testing.assert_array_equal(o, want)
    np.testing.assert_array_equal(old, [*range(n), 1])


@triton.jit
def same_scalar_kernel(o, old, one, M: tl.constexpr, N: tl.constexpr):
    same_kernel(o, old, tl.load(one), M, N)


@triton.jit
def rows_kernel(x, o, m, n, stride, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M), tl.arange(0, N)
    a = tl.load(x + i[:, None] * N + j)
    # Rows of contiguous memory, of which some are the same.
    tl.atomic_add(o + i[:, None] * stride + j, a, mask=(i < m)[:, None] & (j < n)[None, :])
    tl.atomic_add(o + 64 + (i // 2)[:, None] * stride + j, a)
    tl.atomic_add(o + 128 + (i // 2)[:, None] * stride + j, a, mask=(i < m)[:, None])
    tl.atomic_add(o + 192 + j, tl.load(x + j), mask=j < n)
    tl.atomic_add(o + 200 + j, 1)


@checked_too
@ways
@pytest.mark.parametrize("kind", ["float32", "float64", "int64"])
def test_rows(kind, exclusive, checked):
    m, n = 4, 8
    x = np.random.default_rng(7).integers(-9, 9, (m, n)).astype(kind)
    o = np.zeros(256, kind)
    run(rows_kernel, x, o, 3, 5, 12, M=m, N=n, checked=checked, how={"exclusive": exclusive})
    want = np.zeros(256, kind)
    for i in range(m):
        if i < 3:
            want[i * 12 : i * 12 + 5] += x[i, :5]
            want[128 + i // 2 * 12 : 128 + i // 2 * 12 + n] += x[i]
        want[64 + i // 2 * 12 : 64 + i // 2 * 12 + n] += x[i]
    want[192:197] += x[0, :5]
    want[200:208] += 1
    np.testing.assert_array_equal(o, want)


@triton.jit
def counter_kernel(x, o, tickets, B: tl.constexpr):
    i = tl.arange(0, B)
    for _ in range(50):
        tl.atomic_add(o + i * 0, tl.load(x))
        tl.atomic_add(o + 1 + i % 2, tl.load(x))
        ticket = tl.atomic_add(tickets, 1)
        tl.atomic_max(tickets + 1, ticket)
        tl.atomic_xor(tickets + 2 + ticket, 1)


@checked_too
@pytest.mark.parametrize("kind", ["int32", "int64", "float32", "float64", "float16", "bfloat16"])
def test_many_threads_at_one_address(kind, checked):
    """No addition is lost, and no two are given the same number."""
    programs, block, turns = 24, 4, 50
    one = 2.0**-4 if kind in ("float16", "bfloat16") else 1
    o, tickets = np.zeros(3, np.uint16 if kind == "bfloat16" else kind), np.zeros(2 + programs * turns, np.int32)
    x = np.array([one])
    given = (to_bfloat16(x), BFloat16(o)) if kind == "bfloat16" else (x.astype(kind), o)
    run(counter_kernel, *given, tickets, B=block, programs=programs, checked=checked, how={"many": 4, "rows": 1})
    sums = from_bfloat16(BFloat16(o)) if kind == "bfloat16" else o
    # Half types stop where a sum is too large for an addition to change it.
    least = 2.0**-3 * 2.0 ** {"float16": 10, "bfloat16": 7}.get(kind, 40)
    assert sums[0] == min(programs * block * turns * one, least)
    np.testing.assert_array_equal(sums[1:], [min(programs * block * turns * one / 2, least)] * 2)
    assert tickets[0] == programs * turns
    assert tickets[1] == programs * turns - 1
    assert (tickets[2:] == 1).all()


@triton.jit
def float_extremes_kernel(x, o, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    a = tl.load(x + i)
    tl.atomic_max(o + 0 * i, a)
    tl.atomic_min(o + 1 + 0 * i, a)
    tl.atomic_max(o + 2, tl.max(a))


@checked_too
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_extremes_of_numbers_of_both_signs(kind, checked):
    x = np.random.default_rng(8).standard_normal(64).astype(kind)
    o = np.array([-np.inf, np.inf, -1], kind)
    run(float_extremes_kernel, x, o, B=8, programs=8, checked=checked, how={"many": 3})
    np.testing.assert_array_equal(o, [x.max(), x.min(), x.max()])
