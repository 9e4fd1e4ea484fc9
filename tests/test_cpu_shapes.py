"""Lanes moved about and brought together on the CPU: reductions, products of matrices, and new shapes."""

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import INTEGERS, BFloat16, checked_too, from_bfloat16, run, spread, to_bfloat16


@triton.jit
def reduce_kernel(x, rows, columns, whole, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M), tl.arange(0, N)
    a = tl.load(x + i[:, None] * N + j)
    tl.store(rows + i, tl.sum(a, axis=1))
    tl.store(rows + M + i, tl.max(a, axis=1))
    tl.store(rows + 2 * M + i, tl.min(a, 1))
    tl.store(columns + j, tl.sum(a, axis=0))
    tl.store(columns + N + j, tl.max(a, axis=0))
    tl.store(columns + 2 * N + j, tl.min(a, 0))
    tl.store(whole, tl.sum(a))
    tl.store(whole + 1, tl.max(a))
    tl.store(whole + 2, tl.min(a))


SHAPES = [(8, 16), (1, 4), (4, 1), (1, 1), (2, 64)]


@checked_too
@pytest.mark.parametrize(
    ("kind", "shape"),
    [*(("float32", shape) for shape in SHAPES), *((kind, (8, 16)) for kind in ("float64", "int32", "int64"))],
)
def test_reductions(kind, shape, checked):
    m, n = shape
    # Whole numbers, whose sums are exact in any order.
    x = np.random.default_rng(1).integers(-1000, 1000, shape).astype(kind)
    rows, columns, whole = np.zeros((3, m), kind), np.zeros((3, n), kind), np.zeros(3, kind)
    run(reduce_kernel, x, rows, columns, whole, M=m, N=n, checked=checked)
    np.testing.assert_array_equal(rows, [x.sum(1), x.max(1), x.min(1)])
    np.testing.assert_array_equal(columns, [x.sum(0), x.max(0), x.min(0)])
    np.testing.assert_array_equal(whole, [x.sum(), x.max(), x.min()])


@triton.jit
def narrow_kernel(x, o, B: tl.constexpr):
    a = tl.load(x + tl.arange(0, B))
    tl.store(o, tl.sum(a))
    tl.store(o + 1, tl.max(a))
    tl.store(o + 2, tl.min(a))
    tl.store(o + 3, tl.xor_sum(a))


@pytest.mark.parametrize("kind", INTEGERS)
def test_reductions_of_narrow_and_unsigned_numbers(kind):
    """Triton adds narrow ones up in 32 bits."""
    x = spread(32, kind, 2)
    wide = np.int64 if kind[0] == "i" else np.uint64
    bits = kind if kind.endswith("64") else kind.replace("16", "32").replace("nt8", "nt32")
    o = np.zeros(4, wide)
    run(narrow_kernel, x, o, B=32)
    with np.errstate(over="ignore"):
        total = x.astype(bits).sum(dtype=bits)
    assert o.tolist() == [int(total), int(x.max()), int(x.min()), int(np.bitwise_xor.reduce(x))]


@triton.jit
def places_kernel(x, o, p, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M), tl.arange(0, N)
    a = tl.load(x + i[:, None] * N + j)
    tl.store(o + i, tl.argmax(a, axis=1))
    tl.store(o + M + i, tl.argmin(a, axis=1))
    tl.store(o + 2 * M + i, tl.argmax(a, axis=1, tie_break_left=False) * 0)
    best, place = tl.max(a, axis=0, return_indices=True)
    tl.store(p + j, best)
    tl.store(p + N + j, place.to(tl.float32))


@checked_too
def test_places_of_extremes(checked):
    x = np.random.default_rng(3).integers(0, 5, (8, 16)).astype(np.float32)
    o, p = np.zeros((3, 8), np.int32), np.zeros((2, 16), np.float32)
    run(places_kernel, x, o, p, M=8, N=16, checked=checked)
    np.testing.assert_array_equal(o[:2], [x.argmax(1), x.argmin(1)])
    np.testing.assert_array_equal(p, [x.max(0), x.argmax(0)])


@triton.jit
def _mean_of(total, count, other_total, other_count):
    return total + other_total, count + other_count


@triton.jit
def several_kernel(x, o, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M), tl.arange(0, N)
    a = tl.load(x + i[:, None] * N + j)
    total, count = tl.reduce((a, (a > 0).to(tl.int32)), 1, _mean_of)
    tl.store(o + i, total)
    tl.store(o + M + i, count.to(tl.float32))
    # What is the same in all lanes of an axis counts as often.
    tl.store(o + 2 * M + i, tl.sum(tl.broadcast_to(i[:, None], [M, N]), axis=1).to(tl.float32))
    tl.store(o + 3 * M + i, tl.sum(tl.broadcast_to(j[None, :], [M, N]), axis=1).to(tl.float32))
    tl.store(o + 4 * M + i, tl.sum(tl.full([M, N], 2.0, tl.float32), axis=1))


@checked_too
def test_reductions_of_several_and_of_what_is_repeated(checked):
    x = np.random.default_rng(4).integers(-9, 9, (4, 8)).astype(np.float32)
    o = np.zeros((5, 4), np.float32)
    run(several_kernel, x, o, M=4, N=8, checked=checked)
    np.testing.assert_array_equal(o, [x.sum(1), (x > 0).sum(1), np.arange(4) * 8, [28] * 4, [16] * 4])


@triton.jit
def cube_kernel(x, o, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    i, j, k = tl.arange(0, A)[:, None, None], tl.arange(0, B)[None, :, None], tl.arange(0, C)
    a = tl.load(x + (i * B + j) * C + k)
    tl.store(o + tl.reshape(i * C + k, [A, C]), tl.sum(a, axis=1))
    tl.store(o + A * C + tl.arange(0, B), tl.sum(tl.max(a, axis=2), axis=0))
    tl.store(o + A * C + B + tl.arange(0, C), tl.max(tl.sum(a, 0, keep_dims=True), 1).reshape(C))


def test_reductions_of_three_axes():
    x = np.random.default_rng(5).integers(-9, 9, (2, 4, 8)).astype(np.float32)
    o = np.zeros(28, np.float32)
    run(cube_kernel, x, o, A=2, B=4, C=8)
    expected = [x.sum(1).ravel(), x.max(2).sum(0), x.sum(0).max(0)]
    np.testing.assert_array_equal(o, np.concatenate(expected))


@triton.jit
def dot_kernel(x, y, z, o, M: tl.constexpr, K: tl.constexpr, N: tl.constexpr, KIND: tl.constexpr):
    i, j, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(x + i[:, None] * K + k)
    b = tl.load(y + k[:, None] * N + j)
    c = tl.load(z + i[:, None] * N + j)
    tl.store(o + i[:, None] * N + j, tl.dot(a, b, c, out_dtype=KIND))


KINDS = [("float32", "float32"), ("float64", "float64"), ("float16", "float32"), ("bfloat16", "float32")]
PRODUCTS = [(16, 16, 16), (1, 1, 1), (1, 4, 1), (4, 1, 8), (1, 16, 4)]


@checked_too
@pytest.mark.parametrize(
    ("kind", "total", "shape"),
    [
        *((*kinds, (4, 8, 2)) for kinds in (*KINDS, ("float16", "float16"), ("int8", "int32"))),
        *(("float32", "float32", shape) for shape in PRODUCTS),
        ("int8", "int32", (1, 1, 1)),
    ],
)
def test_products_of_matrices(kind, total, shape, checked):
    m, k, n = shape
    rng = np.random.default_rng(6)
    # Small whole numbers, so that sums are exact in any order.
    x, y = rng.integers(-8, 8, (m, k)), rng.integers(-8, 8, (k, n))
    if kind == "int8":
        x[0, 0], y[0, 0] = -128, 127
    z = rng.integers(-50, 50, (m, n)).astype(total)
    o = np.zeros((m, n), total)
    given = [to_bfloat16(a) if kind == "bfloat16" else a.astype(kind) for a in (x, y)]
    run(dot_kernel, *given, z, o, M=m, K=k, N=n, KIND=getattr(tl, total), checked=checked)
    np.testing.assert_array_equal(o, x @ y + z)


@triton.jit
def batch_kernel(x, y, o, A: tl.constexpr, M: tl.constexpr):
    i = (tl.arange(0, A)[:, None, None] * M + tl.arange(0, M)[None, :, None]) * M + tl.arange(0, M)
    tl.store(o + i, tl.dot(tl.load(x + i), tl.load(y + i)))


def test_products_of_several_matrices():
    x, y = (np.random.default_rng(seed).integers(-8, 8, (4, 2, 2)).astype(np.float32) for seed in (7, 8))
    o = np.zeros((4, 2, 2), np.float32)
    run(batch_kernel, x, y, o, A=4, M=2)
    np.testing.assert_array_equal(o, x @ y)


@triton.jit
def move_kernel(x, o, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M), tl.arange(0, N)
    a = tl.load(x + i[:, None] * N + j)
    turned = tl.trans(a)
    tl.store(o + j[:, None] * M + i, turned)
    flat = tl.arange(0, M * N)
    tl.store(o + M * N + flat, tl.reshape(a, [M * N]))
    tl.store(o + 2 * M * N + flat, tl.ravel(turned))
    narrow = tl.reshape(a, [M * N // 2, 2])
    left, right = tl.split(narrow)
    half = tl.arange(0, M * N // 2)
    tl.store(o + 3 * M * N + half, left - right)
    joined = tl.join(right, left)
    tl.store(o + 4 * M * N + 2 * half[:, None] + tl.arange(0, 2), joined)
    tl.store(o + 5 * M * N + flat, tl.cat(left, right, can_reorder=True))
    tl.store(o + 6 * M * N + flat, tl.interleave(left, right))


# The only kind of it that there is up to Triton 3.8.
@pytest.mark.filterwarnings("ignore:.*can_reorder:UserWarning")
@checked_too
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *((kind, (4, 8)) for kind in ("float32", "int8", "bool", "float16", "int64", "bfloat16")),
        *(("float32", shape) for shape in ((1, 2), (2, 1), (16, 16))),
        ("bool", (2, 1)),
    ],
)
def test_lanes_that_move(kind, shape, checked):
    m, n = shape
    raw = spread(m * n, "uint16" if kind == "bfloat16" else kind, 7).reshape(shape)
    x, o = raw, np.zeros((7, m * n), raw.dtype)
    if kind in ("bfloat16", "float16"):
        # Numbers whose difference is exact.
        whole = np.random.default_rng(8).integers(-50, 50, shape).astype(np.float32)
        raw = to_bfloat16(whole).bits if kind == "bfloat16" else whole.astype(kind)
        x = raw
    elif kind == "float32":
        x = raw = np.random.default_rng(8).standard_normal(shape).astype(kind)
    given = [BFloat16(a) for a in (x, o)] if kind == "bfloat16" else [x, o]
    run(move_kernel, *given, M=m, N=n, checked=checked)
    left, right = raw.reshape(-1, 2).T
    plain = [from_bfloat16(BFloat16(a)) for a in (left, right)] if kind == "bfloat16" else (left, right)
    with np.errstate(over="ignore"):
        difference = left ^ right if kind == "bool" else plain[0] - plain[1]
    difference = to_bfloat16(difference).bits if kind == "bfloat16" else difference
    expected = [
        *(raw.T.ravel(), raw.ravel(), raw.T.ravel(), np.concatenate([difference, 0 * difference])),
        *(np.stack([right, left], 1).ravel(), np.concatenate([left, right]), raw.ravel()),
    ]
    np.testing.assert_array_equal(o, expected)


@triton.jit
def permute_kernel(x, o, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    i, j, k = tl.arange(0, A)[:, None, None], tl.arange(0, B)[None, :, None], tl.arange(0, C)[None, None, :]
    a = tl.load(x + (i * B + j) * C + k)
    flat = tl.arange(0, A * B * C)
    tl.store(o + flat, tl.ravel(tl.permute(a, (2, 0, 1))))
    tl.store(o + A * B * C + flat, tl.ravel(tl.permute(a, (1, 2, 0))))
    # What is the same along axes, and what is known.
    tl.store(o + 2 * A * B * C + flat, tl.ravel(tl.permute(tl.broadcast_to(j * 3 + k, [A, B, C]), (1, 0, 2))))


@checked_too
def test_axes_that_change_places(checked):
    x = spread(64, "int32", 9).reshape(2, 4, 8)
    o = np.zeros((3, 64), np.int32)
    run(permute_kernel, x, o, A=2, B=4, C=8, checked=checked)
    known = np.broadcast_to(np.arange(4)[:, None] * 3 + np.arange(8), (2, 4, 8))
    expected = [x.transpose(2, 0, 1), x.transpose(1, 2, 0), known.transpose(1, 0, 2)]
    np.testing.assert_array_equal(o, [a.ravel() for a in expected])


@triton.jit
def mask_kernel(x, o, m, n, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M), tl.arange(0, N)
    rows, columns = i < m, j < n
    a = tl.load(x + i[:, None] * N + j, mask=rows[:, None] & columns[None, :], other=-1)
    tl.store(o + i[:, None] * N + j, a)
    tl.store(o + M * N + i[:, None] * N + j, a, mask=tl.broadcast_to(rows[:, None], [M, N]))
    tl.store(o + 2 * M * N + i[:, None] * N + j, tl.where(columns[None, :], a, i[:, None]), mask=columns[None, :])
    tl.store(o + 3 * M * N + i[:, None] * N + j, a * 2, mask=m > 2)
    b = tl.load(x + i[:, None] * N + j, mask=n > 100, other=j[None, :])
    tl.store(o + 4 * M * N + i[:, None] * N + j, b)


@checked_too
@pytest.mark.parametrize(("m", "n"), [(3, 5), (4, 8), (0, 0), (1, 7), (4, 1)])
def test_masks_that_are_repeated(m, n, checked):
    x = np.arange(1, 33, dtype=np.int32).reshape(4, 8)
    o = np.zeros((5, 4, 8), np.int32)
    run(mask_kernel, x, o, m, n, M=4, N=8, checked=checked)
    rows, columns = np.arange(4)[:, None] < m, np.arange(8)[None, :] < n
    a = np.where(rows & columns, x, -1)
    zero = np.zeros_like(a)
    expected = [
        *(a, np.where(rows, a, 0), np.where(columns, a, zero), 2 * a if m > 2 else zero),
        np.broadcast_to(np.arange(8), (4, 8)),
    ]
    np.testing.assert_array_equal(o, expected)


@triton.jit
def small_kernel(x, o):
    one = tl.arange(0, 1)
    a = tl.load(x + one)
    tl.store(o + one, a + one)
    tl.store(o + 1 + tl.arange(0, 2), tl.ravel(tl.join(a, a * 2)))
    tl.store(o + 3, tl.sum(a))
    tl.store(o + 4 + one[:, None], a[:, None])
    tl.store(o + 5 + tl.arange(0, 4), tl.broadcast_to(a, [4]))
    tl.store(o + 9, tl.max(tl.arange(3, 4), 0))


@checked_too
def test_tensors_of_one_lane(checked):
    o = np.zeros(10, np.float32)
    run(small_kernel, np.array([3.5], np.float32), o, checked=checked)
    assert o.tolist() == [3.5, 3.5, 7, 3.5, 3.5, 3.5, 3.5, 3.5, 3.5, 3]
