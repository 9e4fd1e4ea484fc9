"""Loads and stores on the CPU, of all types: contiguous, strided, gathered, masked, and far away."""

import mmap

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import ELEMENTS, BFloat16, checked_too, memory, run, spread
from tstn_cpu import Memory, launch

KINDS = [*ELEMENTS, "bfloat16"]


def array(kind, count, seed=0):
    """Numbers and, beside them, how a kernel gets them."""
    values = spread(count, "uint16" if kind == "bfloat16" else kind, seed)
    # Bits are compared: which NaN a number is does not matter to a copy.
    return values, (BFloat16(values) if kind == "bfloat16" else values)


def given(values, kind):
    return BFloat16(values) if kind == "bfloat16" else values


def same(have, want):
    np.testing.assert_array_equal(have.view(f"V{have.itemsize}"), want.view(f"V{want.itemsize}"))


@triton.jit
def add_kernel(x, y, o, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    on = i < n
    tl.store(o + i, tl.load(x + i, mask=on) + tl.load(y + i, mask=on), mask=on)


@checked_too
@pytest.mark.parametrize("block", [1, 2, 4, 8, 16, 32, 64, 128, 256])
def test_sum_of_vectors(block, checked):
    """Of sizes that are no multiples of a block, with what is behind them left as it is."""
    for count in (1, 7, 251, 1003):
        x, y, o = (np.random.default_rng(seed).standard_normal(count + 2).astype(np.float32) for seed in range(3))
        behind = o[count:].copy()
        run(add_kernel, x[:count], y[:count], o[:count], count, B=block, programs=-(-count // block), checked=checked)
        same(o[:count], x[:count] + y[:count])
        same(o[count:], behind)


@triton.jit
def copy_kernel(x, index, o, p, q, r, n, step, B: tl.constexpr):
    i = tl.arange(0, B)
    on = i < n
    place = tl.load(index + i)
    tl.store(o + i, tl.load(x + i))
    tl.store(o + B + i, tl.load(x + i, mask=on, other=tl.load(x + 1)), mask=i >= 0)
    tl.store(p + i, tl.load(x + i * step))
    tl.store(p + B + i, tl.load(x + i * step, mask=on, other=tl.load(x)))
    tl.store(p + 2 * B + i, tl.load(x + place))
    tl.store(p + 3 * B + i, tl.load(x + place, mask=on, other=tl.load(x + 2 * i)))
    tl.store(p + 4 * B + i, tl.load(x + i * 3))
    tl.store(p + 5 * B + i, tl.load(x + B - 1 - i))
    tl.store(q + i * step, tl.load(x + i))
    tl.store(q + 3 * B + place, tl.load(x + i))
    tl.store(q + 6 * B + place, tl.load(x + i), mask=on)
    tl.store(q + 9 * B + (B - 1 - i) * 2, tl.load(x + i), mask=on)
    tl.store(r, tl.load(x + n))
    tl.store(r + 1, tl.load(x + 1, mask=n > 2, other=tl.load(x)))
    tl.store(r + 2, tl.load(x + 1, mask=n > 200, other=tl.load(x)))
    tl.store(r + 3, tl.load(x), mask=n > 200)
    tl.store(r + 4 + i, tl.load(x + 3), mask=i == 2)


@checked_too
@pytest.mark.parametrize(("kind", "block"), [*((kind, 8) for kind in KINDS), ("float32", 128), ("uint8", 64)])
def test_copies(kind, block, checked):
    """From addresses that are a multiple of nothing but an element's size."""
    x = array(kind, 3 * block + 1, 1)[0][1:]
    index = np.random.default_rng(2).permutation(3 * block)[:block].astype(np.int32)
    o, p, q, r = (np.zeros(count, x.dtype) for count in (2 * block, 6 * block, 12 * block, 4 + block))
    n, step = block - 1, 3
    memories = [given(a, kind) for a in (o, p, q, r)]
    run(copy_kernel, given(x, kind), index, *memories, n, step, B=block, checked=checked)
    i = np.arange(block)
    on = i < n
    same(o, np.concatenate([x[:block], np.where(on, x[:block], x[1])]))
    strided, gathered = x[: 3 * block : 3], x[index]
    expected = [strided, np.where(on, strided, x[0]), gathered, np.where(on, gathered, x[2 * i]), strided]
    same(p, np.concatenate([*expected, x[:block][::-1]]))
    want = np.zeros((4, 3 * block), x.dtype)
    want[0, : 3 * block : 3] = want[1, index] = x[:block]
    want[2, index[on]], want[3, 2 * (block - 1 - i)[on]] = x[:n], x[:n]
    same(q, want.ravel())
    rest = np.zeros(block, x.dtype)
    rest[2] = x[3]
    same(r, np.concatenate([[x[n], x[1], x[0]], np.zeros(1, x.dtype), rest]).astype(x.dtype))


@triton.jit
def rows_kernel(x, o, m, n, stride, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    a = tl.load(x + i * stride + j)
    tl.store(o + i * N + j, a)
    tl.store(o + M * N + i * N + j, tl.load(x + i * stride + j, mask=(i < m) & (j < n), other=tl.load(x)))
    tl.store(o + 2 * M * N + i * N + j, tl.load(x + i * stride + j, mask=i < m, other=tl.load(x)))
    tl.store(o + 3 * M * N + i * N + j, a, mask=(i < m) & (j < n))
    tl.store(o + 4 * M * N + i * N + j, a, mask=i < m)
    tl.store(o + 5 * M * N + i * N + j, tl.load(x + i), mask=j < n)
    tl.store(o + 6 * M * N + (M - 1 - i) * N + (N - 1 - j), tl.load(x + (M - 1 - i) * stride + j))


@checked_too
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *((kind, (4, 8)) for kind in ("float32", "int8", "float16", "float64", "bool")),
        *(("float32", shape) for shape in ((1, 16), (8, 1), (2, 2))),
    ],
)
def test_rows(kind, shape, checked):
    (m, n), stride = shape, shape[1] + 3
    x = array(kind, m * stride, 3)[0]
    o = np.zeros((7, m, n), x.dtype)
    rows, columns = max(m - 1, 1), max(n - 1, 1)
    run(rows_kernel, given(x, kind), given(o, kind), rows, columns, stride, M=m, N=n, checked=checked)
    a = x.reshape(m, stride)[:, :n]
    zero = np.zeros((m, n), x.dtype)
    i, j = np.arange(m)[:, None] < rows, np.arange(n)[None, :] < columns
    expected = [
        *(a, np.where(i & j, a, x[0]), np.where(i, a, x[0]), np.where(i & j, a, zero), np.where(i, a, zero)),
        *(np.where(j, x[:m, None], zero), a[:, ::-1]),
    ]
    same(o, np.array(expected))


@triton.jit
def order_kernel(x, y, o, index, B: tl.constexpr):
    i = tl.arange(0, B)
    place = tl.load(index + i)
    before = tl.load(x + i)
    gathered = tl.load(x + place)
    tl.store(x + i, before + 1)
    after = tl.load(x + place)
    tl.store(y + place, after)
    last = tl.load(x + i)
    tl.store(o + i, before)
    tl.store(o + B + i, gathered)
    tl.store(o + 2 * B + i, after)
    tl.store(o + 3 * B + i, last)
    tl.atomic_add(o + i, 100)
    tl.store(o + 4 * B + i, tl.load(o + i))


@checked_too
def test_memory_is_read_and_written_in_order(checked):
    """Also if two arguments are the same memory."""
    index = np.random.default_rng(4).permutation(16).astype(np.int32)
    x = np.arange(16, dtype=np.int32)
    o = np.zeros((5, 16), np.int32)
    run(order_kernel, x, x, o, index, B=16, checked=checked)
    i = np.arange(16)
    written = np.zeros(16, np.int32)
    written[index] = index + 1
    np.testing.assert_array_equal(o, [i + 100, index, index + 1, written, i + 100])


@pytest.fixture(scope="module")
def large():
    """Five GiB of bytes that are there where they are touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
    return np.frombuffer(mmap.mmap(-1, 5 << 30, flags=flags), np.int8)


@triton.jit
def far_kernel(x, o, stride, a, b, index, B: tl.constexpr):
    i = tl.arange(0, B)
    # An offset of 64 bits for each lane, a scalar one, two of 32 bits, and steps beside one.
    tl.store(o + i, tl.load(x + (i % 2) * stride))
    tl.store(o + B + i, tl.load(x + stride + i))
    tl.store(o + 2 * B + i, tl.load(x + a + b + i))
    places = tl.load(index + i)
    tl.store(o + 3 * B + i, tl.load(x + places + places))
    tl.store(o + 4 * B + i, tl.load(x + places + i))
    tl.store(o + 5 * B + i, tl.load(x + i + places))
    tl.store(o + 6 * B + i, tl.load(x + a + places))
    tl.store(x + places + places + 1, i.to(tl.int8))


@checked_too
def test_offsets_beyond_32_bits(checked, large):
    stride, a, b, block = 2**31 + 8, 2**31 - 1, 2**31 - 2, 8
    index = (2**31 - 1 - np.arange(8)[::-1] % 5).astype(np.int32)
    index[::3] = 7
    wide = index.astype(np.int64)
    i = np.arange(block)
    places = [i % 2 * stride, stride + i, a + b + i, 2 * wide, wide + i, i + wide, a + wide]
    for values, place in enumerate(places):
        large[place] = values * 10 + place % 7
    o, want = np.zeros((7, block), np.int8), np.array([large[place] for place in places])
    run(far_kernel, large, o, stride, a, b, index, B=block, checked=checked)
    np.testing.assert_array_equal(o, want)
    expected = np.zeros(8, np.int8)
    for lane, place in enumerate(wide.tolist()):
        expected[wide == place] = lane
    np.testing.assert_array_equal(large[2 * wide + 1], expected)


@triton.jit
def absent_kernel(x, o, far, B: tl.constexpr):
    i = tl.arange(0, B)
    # Addresses that are nowhere, and are not touched.
    lost = tl.where(i % 2 == 0, i.to(tl.int64), far)
    a = tl.load(x + lost, mask=i % 2 == 0, other=-1)
    tl.store(x + B + lost, a + 1, mask=i % 2 == 0)
    tl.store(o + i, a)
    tl.atomic_add(x + lost, 10, mask=i % 2 == 0)
    rows = tl.load(x + far + i, mask=far == 0, other=-2)
    tl.store(x + far + i, rows, mask=far == 0)
    tl.store(o + B + i, rows)
    one = tl.load(x + far, mask=far == 0, other=-3)
    tl.store(x + far, one, mask=far == 0)
    tl.atomic_max(x + far, one, mask=far == 0)
    tl.store(o + 2 * B + i, one)


@checked_too
@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "float32", "float64", "float16"])
def test_lanes_that_are_off_touch_nothing(kind, checked):
    if kind in ("int8", "int16", "float16"):
        kernel, add = narrow_absent_kernel, 0
    else:
        kernel, add = absent_kernel, 10
    x, o = np.arange(1, 33).astype(kind), np.zeros((3, 8), kind)
    run(kernel, x, o, 2**44, B=8, checked=checked)
    i = np.arange(8)
    even = i % 2 == 0
    np.testing.assert_array_equal(o, [np.where(even, i + 1, -1), np.full(8, -2), np.full(8, -3)])
    expected = np.arange(1, 33)
    expected[8:16] = np.where(even, i + 2, expected[8:16])
    expected[:8] += add * even
    np.testing.assert_array_equal(x, expected)


@triton.jit
def narrow_absent_kernel(x, o, far, B: tl.constexpr):
    i = tl.arange(0, B)
    lost = tl.where(i % 2 == 0, i.to(tl.int64), far)
    a = tl.load(x + lost, mask=i % 2 == 0, other=-1)
    tl.store(x + B + lost, a + 1, mask=i % 2 == 0)
    tl.store(o + i, a)
    rows = tl.load(x + far + i, mask=far == 0, other=-2)
    tl.store(x + far + i, rows, mask=far == 0)
    tl.store(o + B + i, rows)
    one = tl.load(x + far, mask=far == 0, other=-3)
    tl.store(x + far, one, mask=far == 0)
    tl.store(o + 2 * B + i, one)


@triton.jit
def pointers_kernel(x, o, back, B: tl.constexpr):
    i = tl.arange(0, B)
    ends = x + B * 2 - 1 - i
    tl.store(o + i, tl.load(ends))
    tl.store(o + B + i, tl.load(ends - B))
    start = x + B
    start += -back
    tl.store(o + 2 * B + i, tl.load(start + i * -1))
    tl.store(o + 3 * B + i, tl.load((x + 2 * i) + (1 - i)))
    other = x.to(tl.pointer_type(tl.int32))
    tl.store(o + 4 * B + i, tl.load(other + i).to(tl.float32, bitcast=True))
    tl.store((o + 5 * B + i).to(tl.pointer_type(tl.int32)), tl.load(other + B + i))


@checked_too
def test_pointers_go_backward_and_change_their_type(checked):
    x = np.random.default_rng(5).standard_normal(16).astype(np.float32)
    o = np.zeros((6, 8), np.float32)
    run(pointers_kernel, x, o, 1, B=8, checked=checked)
    same(o, np.array([x[8:][::-1], x[:8][::-1], x[:8][::-1], x[1:9], x[:8], x[8:]]))


@triton.jit
def mixed_kernel(n, x, m, o, scale, flag, B: tl.constexpr):
    i = tl.arange(0, B)
    value = tl.load(x + i, mask=i < n, other=0.0) * scale + m
    tl.store(o + i, tl.where(flag, value, -value))


@checked_too
@pytest.mark.parametrize("flag", [True, False])
def test_arguments_in_any_order(flag, checked):
    x, o = np.ones(8, np.float32), np.zeros(8, np.float32)
    run(mixed_kernel, 5, x, -7, o, 2.5, flag, B=8, checked=checked)
    expected = np.where(np.arange(8) < 5, 2.5, 0) - 7
    np.testing.assert_array_equal(o, expected if flag else -expected)


@triton.jit
def reverse_kernel(x, o, sx, so, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i * so, tl.load(x + i * sx))


@checked_too
def test_strides_below_zero(checked):
    """The first element's address is what counts."""
    x, o = np.arange(8, dtype=np.float32)[::-1], np.zeros(16, np.float32)[::-2]
    assert memory(x) == Memory(x.ctypes.data, "f32", (8,), (-1,))
    launch(reverse_kernel, 1, [memory(x), memory(o), -1, -2], {"B": 8}, checked=checked)
    np.testing.assert_array_equal(o, x)
