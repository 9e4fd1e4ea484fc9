"""What is known of addresses while a kernel is compiled: which lanes are neighbours, and what they all share."""

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import checked_too, run
from tstn_cpu import frontend
from tstn_cpu.host import host
from tstn_cpu.ir import parse
from tstn_cpu.lower import lower
from tstn_cpu.specialize import Pointer, source


def text(kernel, *kinds, exclusive=False, **constexprs):
    """LLVM's, for arguments of such kinds."""
    arguments = [Pointer(kind) if isinstance(kind, str) else kind for kind in kinds]
    module = parse(frontend.ttir(source(kernel, arguments, constexprs)))
    return lower(module, kernel.__name__, host(), leading=0, exclusive=exclusive, checked=False).text


@triton.jit
def tile_kernel(x, o, width, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    lane = tl.arange(0, ROWS * COLUMNS)
    row = tl.program_id(0) * ROWS + lane // COLUMNS
    column = lane % COLUMNS
    at = row * stride + column
    tl.store(o + at, tl.load(x + at, mask=column < width, other=-1))


@checked_too
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (1, 4), (2, 16), (4, 1)])
def test_tiles(rows, columns, checked):
    x = np.arange(6 * rows * columns, dtype=np.float32).reshape(3 * rows, 2 * columns)
    o = np.zeros_like(x)
    width = max(1, columns - 3)
    run(tile_kernel, x, o, width, 2 * columns, programs=3, ROWS=rows, COLUMNS=columns, checked=checked)
    want = np.zeros_like(x)
    want[:, :columns] = np.where(np.arange(columns) < width, x[:, :columns], -1)
    np.testing.assert_array_equal(o, want)


@pytest.mark.parametrize("columns", [4, 32])
def test_a_tile_of_one_row_is_contiguous(columns):
    of = text(tile_kernel, "f32", "f32", 5, 70, ROWS=1, COLUMNS=columns)
    assert "masked.load" in of
    assert "gather" not in of
    assert "scatter" not in of


@triton.jit
def channels_kernel(o, index, value, n, stride, C: tl.constexpr, B: tl.constexpr):
    place = tl.load(index + tl.arange(0, B))
    # In 64 bits, with what is the same in all lanes before, between and after.
    wide = stride.to(tl.int64)
    first = n.to(tl.int64) * 100 + place
    for channel in tl.static_range(C):
        tl.atomic_add(o + (first + channel * wide), value * (channel + 1))
        tl.atomic_add(o + (channel * wide + first + 1), value * (channel + 2))


@checked_too
@pytest.mark.parametrize("exclusive", [False, True])
def test_sums_of_several_channels(exclusive, checked):
    rng = np.random.default_rng(0)
    index = rng.integers(0, 90, 32).astype(np.int32)
    index[3:9] = np.arange(20, 26)
    o, want = np.zeros(1000, np.float32), np.zeros(1000, np.float32)
    for channel in range(3):
        np.add.at(want, 200 + channel * 150 + index, 0.5 * (channel + 1))
        np.add.at(want, 201 + channel * 150 + index, 0.5 * (channel + 2))
    run(channels_kernel, o, index, 0.5, 2, 150, C=3, B=32, how={"exclusive": exclusive}, checked=checked)
    np.testing.assert_array_equal(o, want)


def test_sums_at_the_same_places_are_done_together():
    of = text(channels_kernel, "f32", "i32", 0.5, 2, 150, C=3, B=32, exclusive=True)
    # Pairs of neighbours of all channels, in one loop.
    assert len([line for line in of.splitlines() if line.startswith("every")]) == 1


@triton.jit
def turned_kernel(x, o, n, stride, B: tl.constexpr):
    i = tl.arange(0, B)
    # A sum of 64 bits whose axis is the second of one tensor and the first of another.
    place = i.to(tl.int64) * stride + n.to(tl.int64)
    rows = tl.load(x + place[:, None] + i[None, :])
    columns = tl.load(x + place[None, :] + i[:, None])
    at = i[:, None] * B + i[None, :]
    tl.store(o + at, rows)
    tl.store(o + B * B + at, columns)


@checked_too
def test_sums_whose_axis_moves(checked):
    x, o = np.arange(100, dtype=np.int32), np.zeros((2, 4, 4), np.int32)
    run(turned_kernel, x, o, 7, 10, B=4, checked=checked)
    want = 7 + 10 * np.arange(4)[:, None] + np.arange(4)
    np.testing.assert_array_equal(o, [want, want.T])
