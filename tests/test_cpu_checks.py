"""Checked mode on the CPU: an access outside of a tensor is an error that says where, before anything is touched."""

import inspect

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import BFloat16, memory, run
from tstn_cpu import Memory, OutOfBoundsError, launch

GUARD = 77


def guarded(count, kind="float32", step=1):
    """An array with guard bands around it, and, with steps, between its elements."""
    whole = np.full(count * step + 64, GUARD, kind)
    inner = whole[32 : 32 + count * step : step]
    inner[:] = np.arange(count)
    return whole, inner


def line_of(kernel, text):
    """Where in this file a kernel has some text."""
    lines, first = inspect.getsourcelines(kernel.fn)
    return first + next(i for i, line in enumerate(lines) if text in line)


def fails(match, kernel, *arguments, **options):
    with pytest.raises(OutOfBoundsError, match=match):
        run(kernel, *arguments, checked=True, **options)


@triton.jit
def access_kernel(x, shift, lane, B: tl.constexpr, WHAT: tl.constexpr):
    i = tl.arange(0, B)
    place = i + tl.where(i == lane, shift, 0)
    if WHAT == "load":
        tl.store(x + i, tl.load(x + place) + 1)
    elif WHAT == "store":
        tl.store(x + place, i)
    elif WHAT == "add":
        tl.atomic_add(x + place, 1)
    elif WHAT == "fadd":
        tl.atomic_add(x + place, 1.0)
    elif WHAT == "max":
        tl.atomic_max(x + place, 100)
    elif WHAT == "min":
        tl.atomic_min(x + place, -1)
    elif WHAT == "and":
        tl.atomic_and(x + place, 0)
    elif WHAT == "or":
        tl.atomic_or(x + place, 100)
    elif WHAT == "xor":
        tl.atomic_xor(x + place, 100)
    elif WHAT == "exch":
        tl.atomic_xchg(x + place, 100)


ACCESSES = {
    "load": "tl.load",
    "store": "tl.store(x + place",
    "add": "add(x + place, 1)",
    "fadd": "add(x + place, 1.0)",
    **{name: f"tl.atomic_{name}" for name in ("max", "min", "and", "or", "xor")},
    "exch": "tl.atomic_xchg",
}


@pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])
@pytest.mark.parametrize("what", ACCESSES)
def test_every_kind_of_access_is_checked(what, exclusive):
    """In one lane, behind the end or before the begin: nothing is written, not even by the lanes that are inside."""
    kind = "float32" if what == "fadd" else "int32"
    name = what if what in ("load", "store") else f"atomic {what}"
    article = "an" if name[0] == "a" else "a"
    line = line_of(access_kernel, ACCESSES[what])
    for lane, shift in ((7, 1), (0, -1), (3, 20), (0, 2**31 - 1), (5, -(2**31))):
        whole, x = guarded(8, kind)
        before = whole.copy()
        where = rf"byte {4 * (lane + shift)} is outside of the tensor \(line {line} of .*test_cpu_checks\.py\)"
        how = {"exclusive": exclusive}
        match = f"access_kernel: {article} {name} of x at {where}"
        fails(match, access_kernel, x, shift, lane, B=8, WHAT=what, how=how)
        np.testing.assert_array_equal(whole, before)
    run(access_kernel, x, 0, 0, B=8, WHAT=what, checked=True, how={"exclusive": exclusive})
    assert (whole[:32] == GUARD).all()
    assert (whole[40:] == GUARD).all()


@triton.jit
def copy_kernel(x, o, step, n, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i * step, tl.load(x + i * step, mask=i < n, other=-1), mask=i < n)


KINDS = ("bool", "int8", "uint8", "int16", "float16", "bfloat16", "int32", "float32", "int64", "float64")


@pytest.mark.parametrize("kind", KINDS)
def test_elements_of_all_sizes(kind):
    plain = "uint16" if kind == "bfloat16" else kind
    (_, x), (whole, o) = guarded(5, plain), guarded(5, plain)
    size = x.itemsize
    x, o = (BFloat16(x), BFloat16(o)) if kind == "bfloat16" else (x, o)
    fails(f"load of x at byte {5 * size} ", copy_kernel, x, o, 1, 6, B=8)
    run(copy_kernel, x, o, 1, 5, B=8, checked=True)
    assert (whole[37:] == np.full(1, GUARD, plain)).all()


@pytest.mark.parametrize("step", [2, 3, -1, -3])
def test_what_lies_between_elements_is_outside(step):
    whole, x = guarded(8, "float32", abs(step))
    x = x[::-1] if step < 0 else x
    o = np.zeros_like(x)
    given = [memory(x), memory(o)]
    launch(copy_kernel, 1, [given[0], given[0], step, 8], {"B": 8}, checked=True)
    wrong = step // abs(step) if abs(step) > 1 else 1
    with pytest.raises(OutOfBoundsError, match=f"load of x at byte {4 * wrong} "):
        launch(copy_kernel, 1, [given[0], given[1], wrong, 8], {"B": 8}, checked=True)
    with pytest.raises(OutOfBoundsError, match=f"load of x at byte {4 * step * 8} "):
        launch(copy_kernel, 1, [given[0], given[1], step, 9], {"B": 16}, checked=True)
    with pytest.raises(OutOfBoundsError, match=f"load of x at byte {-4 * step} "):
        launch(copy_kernel, 1, [given[0], given[1], -step, 2], {"B": 2}, checked=True)
    assert (whole[:32] == GUARD).all()


@triton.jit
def table_kernel(x, o, s0, s1, i0, i1):
    tl.store(o, tl.load(x + i0 * s0 + i1 * s1))


@pytest.mark.parametrize("turn", [False, True])
def test_what_lies_between_rows_is_outside(turn):
    base = np.arange(60, dtype=np.float32).reshape(6, 10)
    x = base[:4, 2:9:2]
    x = x.T if turn else x
    o = np.zeros(1, np.float32)
    strides = memory(x).strides
    places = [a * strides[0] + b * strides[1] for a in range(x.shape[0]) for b in range(x.shape[1])]
    for i0 in range(-1, 6):
        for i1 in range(-1, 6):
            offset = i0 * strides[0] + i1 * strides[1]
            if offset in places:
                run(table_kernel, x, o, *strides, i0, i1, checked=True)
                assert o[0] == base.ravel()[2 + offset]
            else:
                fails(f"load of x at byte {4 * offset} ", table_kernel, x, o, *strides, i0, i1)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (2, 0, 3)])
def test_nothing_of_an_empty_tensor_is_inside(shape):
    x, o = np.zeros(shape, np.float32), np.zeros(8, np.float32)
    fails("load of x at byte 0 ", copy_kernel, x, o, 1, 1, B=8)
    run(copy_kernel, x, o, 1, 0, B=8, checked=True)


def test_a_scalar_tensor_has_one_element():
    o = np.zeros(8, np.float32)
    x = np.array(2.5, np.float32)
    run(copy_kernel, x, o, 1, 1, B=8, checked=True)
    assert o[0] == 2.5
    fails("load of x at byte 4 ", copy_kernel, x, o, 1, 2, B=8)


def test_tensors_that_are_expanded_or_overlap():
    base = np.arange(12, dtype=np.float32)
    o = np.zeros(16, np.float32)
    expanded = Memory(base.ctypes.data, "f32", (5, 4), (0, 2))
    windows = Memory(base.ctypes.data, "f32", (4, 6), (2, 1))
    launch(copy_kernel, 1, [windows, memory(o), 1, 12], {"B": 16}, checked=True)
    np.testing.assert_array_equal(o[:12], base)
    launch(copy_kernel, 1, [expanded, memory(o), 2, 4], {"B": 16}, checked=True)
    np.testing.assert_array_equal(o[:8:2], base[:8:2])
    with pytest.raises(OutOfBoundsError, match="load of x at byte 48 "):
        launch(copy_kernel, 1, [windows, memory(o), 1, 13], {"B": 16}, checked=True)
    with pytest.raises(OutOfBoundsError, match="load of x at byte 32 "):
        launch(copy_kernel, 1, [expanded, memory(o), 2, 5], {"B": 16}, checked=True)
    with pytest.raises(OutOfBoundsError, match="load of x at byte 4 "):
        launch(copy_kernel, 1, [expanded, memory(o), 1, 2], {"B": 16}, checked=True)


@triton.jit
def rows_kernel(x, o, m, n, stride, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    on = (i < m) & (j < n)
    tl.store(o + i * stride + j, tl.load(x + i * stride + j, mask=on), mask=on)
    tl.atomic_add(o + i * stride + j, 1.0, mask=on)


@pytest.mark.parametrize("exclusive", [False, True])
def test_rows_are_checked_lane_by_lane(exclusive):
    x = np.ones((3, 8), np.float32)[:, :5]
    whole = np.full((5, 8), GUARD, np.float32)
    o = whole[1:4, :5]
    how = {"exclusive": exclusive}
    run(rows_kernel, x, o, 3, 5, 8, M=4, N=8, checked=True, how=how)
    assert (o == 2).all()
    for m, n, byte in ((4, 5, 96), (3, 6, 20), (1, 8, 20)):
        before = whole.copy()
        fails(f"load of x at byte {byte} ", rows_kernel, x, o, m, n, 8, M=4, N=8, how=how)
        fails(f"store of o at byte {byte} ", rows_kernel, np.zeros(32, np.float32), o, m, n, 8, M=4, N=8, how=how)
        np.testing.assert_array_equal(whole, before)


@triton.jit
def programs_kernel(x, o, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    for k in range(3):
        tl.store(o + i, tl.load(x + i) + k)


@pytest.mark.parametrize("many", [1, 4])
def test_some_programs_are_outside(many):
    """The first that is found is told; what the others do stays inside."""
    whole, o = guarded(30)
    x = np.arange(100, dtype=np.float32)
    with pytest.raises(OutOfBoundsError, match="store of o at byte") as caught:
        run(programs_kernel, x, o, B=4, programs=20, checked=True, how={"many": many, "rows": 1})
    byte = int(str(caught.value).split("byte ")[1].split()[0])
    assert byte == 120 or (byte > 120 and byte % 16 == 0 and byte < 320)
    assert (whole[:32] == GUARD).all()
    assert (whole[62:] == GUARD).all()


@triton.jit
def wide_kernel(x, o, n, WIDER: tl.constexpr):
    other = x.to(tl.pointer_type(tl.int32 if WIDER else tl.int8))
    tl.store(o, tl.load(other + n).to(tl.int32))


def test_pointers_to_other_types():
    """An access is as wide as what is loaded, whatever the tensor's elements are."""
    x, o = np.arange(1, 6, dtype=np.int16), np.zeros(1, np.int32)
    run(wide_kernel, x, o, 1, WIDER=True, checked=True)
    assert o[0] == 3 + (4 << 16)
    fails("load of x at byte 8 ", wide_kernel, x, o, 2, WIDER=True)
    run(wide_kernel, x, o, 9, WIDER=False, checked=True)
    assert o[0] == 0
    fails("load of x at byte 10 ", wide_kernel, x, o, 10, WIDER=False)


def test_too_many_axes_are_refused():
    x, o = np.zeros((2,) * 9, np.float32), np.zeros(8, np.float32)
    with pytest.raises(ValueError, match="at most 8 axes; got 9"):
        run(copy_kernel, x, o, 1, 1, B=8, checked=True)
    run(copy_kernel, x[:, :, 0, 0], o, 1, 1, B=8, checked=True)


def test_a_launch_that_failed_leaves_nothing_behind():
    """Without checked mode nothing is checked, and nothing is kept of a launch that failed."""
    x, o = np.arange(16, dtype=np.float32), np.zeros(8, np.float32)
    fails("load of x at byte 32 ", copy_kernel, x[:8], o, 1, 9, B=16)
    run(copy_kernel, x[:8], o, 1, 8, B=16, checked=True)
    run(access_kernel, x[:4].astype(np.int32), 0, 0, B=4, WHAT="load", checked=True)
    o = np.zeros(16, np.float32)
    run(copy_kernel, x[:4], o[:4], 1, 16, B=16)
    np.testing.assert_array_equal(o, x)
