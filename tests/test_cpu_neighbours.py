"""Loads and sums of lanes that lie anywhere, several at the same places: as interpolation has them."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import checked_too, from_bfloat16, run, to_bfloat16

W, SIZE = 13, 13 * 9


@triton.jit
def taps_kernel(x, index, o, W: tl.constexpr, SIZE: tl.constexpr, B: tl.constexpr):
    i = tl.arange(0, B)
    place = tl.load(index + tl.program_id(0) * B + i)
    o += tl.program_id(0) * B * 10
    first = (place >= 0) & (place < SIZE)
    second = (place + 1 >= 0) & (place + 1 < SIZE)
    below = (place + W >= 0) & (place + W < SIZE)
    beside = (place + W + 1 >= 0) & (place + W + 1 < SIZE)
    # Four taps in two channels, in no order.
    for channel in tl.static_range(2):
        here = x + channel * SIZE
        d = tl.load(here + W + 1 + place, mask=beside, other=0.0)
        a = tl.load(here + place, mask=first, other=0.0)
        c = tl.load(here + W + place, mask=below, other=0.0)
        b = tl.load(here + 1 + place, mask=second, other=0.0)
        tl.store(o + (4 * channel + 0) * B + i, a)
        tl.store(o + (4 * channel + 1) * B + i, b)
        tl.store(o + (4 * channel + 2) * B + i, c)
        tl.store(o + (4 * channel + 3) * B + i, d)
    # The same lanes for both, and for nobody.
    e = tl.load(x + place, mask=first & second)
    f = tl.load(x + 1 + place, mask=first & second)
    tl.store(o + 8 * B + i, tl.where(first & second, e, f * 0))
    tl.store(o + 9 * B + i, tl.load(x + place, mask=place > 1000000, other=0.0))


@triton.jit
def sums_kernel(x, index, o, scale, W: tl.constexpr, SIZE: tl.constexpr, B: tl.constexpr):
    i = tl.arange(0, B)
    place = tl.load(index + tl.program_id(0) * B + i)
    value = tl.load(x + tl.program_id(0) * B + i) * scale
    first = (place >= 0) & (place < SIZE)
    second = (place + 1 >= 0) & (place + 1 < SIZE)
    below = (place + W >= 0) & (place + W < SIZE)
    beside = (place + W + 1 >= 0) & (place + W + 1 < SIZE)
    for channel in tl.static_range(2):
        here = o + channel * SIZE
        tl.atomic_add(here + place, value, mask=first)
        tl.atomic_add(here + 1 + place, value * 2, mask=second)
        tl.atomic_add(here + W + place, value * 3, mask=below)
        tl.atomic_add(here + W + 1 + place, value * 4, mask=beside)


def places(block):
    """Smooth, still, backward, far apart, and all of these in turns; some outside."""
    rng, i = np.random.default_rng(1), np.arange(block)
    rows = [i, i - 5, i // 2 + 7, 20 - i, 0 * i + 3, 0 * i - 1, SIZE - 2 - i, i + SIZE - 9, i * 3 - 4, i % 5 + 10]
    rows += [rng.integers(-20, SIZE + 5, block) for _ in range(6)]
    rows += [np.where(rng.integers(0, 2, block), i + 2, 40 - i), np.where(i % 7 < 5, i, 500), i + (i >= 3) * W]
    return np.array(rows).astype(np.int32)


HOSTS = {
    "this": {},
    "gathers": {"gathers": True, "scatters": False, "attributes": ""},
    "plain": {"gathers": False, "scatters": False, "attributes": ""},
}


@pytest.fixture(params=HOSTS)
def host(request, tmp_path, monkeypatch):
    """This CPU, or one that can do less."""
    if not HOSTS[request.param]:
        return
    launch = importlib.import_module("tstn_cpu.launch")
    other = replace(launch.host(), **HOSTS[request.param])
    monkeypatch.setattr(launch, "host", lambda: other)
    monkeypatch.setenv("TSTN_CPU_CACHE", str(tmp_path / "kept"))


@pytest.mark.parametrize(
    ("kind", "block"),
    [("float32", 32), ("float64", 16), ("float16", 32), ("bfloat16", 16), ("float32", 64), ("float32", 2)],
)
def test_taps(kind, block, host):
    index = places(block)
    values = np.random.default_rng(2).integers(1, 99, 2 * SIZE)
    x, o = (
        (to_bfloat16(values), to_bfloat16(np.zeros((len(index), 10, block))))
        if kind == "bfloat16"
        else (values.astype(kind), np.zeros((len(index), 10, block), kind))
    )
    run(taps_kernel, x, index, o, W=W, SIZE=SIZE, B=block, programs=len(index))
    have = from_bfloat16(o) if kind == "bfloat16" else o
    padded = np.concatenate([values.reshape(2, SIZE), np.zeros((2, 1))], 1)
    at = [np.where((index + step >= 0) & (index + step < SIZE), index + step, SIZE) for step in (0, 1, W, W + 1)]
    want = [padded[channel][places] for channel in range(2) for places in at]
    want += [np.where(at[1] < SIZE, padded[0][at[0]], 0), 0 * at[0]]
    np.testing.assert_array_equal(have, np.array(want).transpose(1, 0, 2))


def test_taps_are_checked_and_stay_inside():
    """In checked mode each tap is, by its own mask; what its neighbour reads beside it is inside as well."""
    index = places(32)
    x, o = np.ones(2 * SIZE, np.float32), np.zeros((len(index), 10, 32), np.float32)
    run(taps_kernel, x, index, o, W=W, SIZE=SIZE, B=32, programs=len(index), checked=True)
    with pytest.raises(IndexError, match="load of x at byte"):
        run(taps_kernel, x[: 2 * SIZE - 1], index, o, W=W, SIZE=SIZE, B=32, programs=len(index), checked=True)


@pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])
@pytest.mark.parametrize(("kind", "block"), [("float32", 32), ("float64", 16), ("float32", 64), ("float32", 2)])
def test_sums_of_taps(kind, block, exclusive, host):
    index = places(block)
    x = np.random.default_rng(3).integers(-9, 9, index.shape).astype(kind)
    o = np.zeros((2, SIZE), kind)
    how = {"exclusive": exclusive}
    run(sums_kernel, x, index, o, 2.0, W=W, SIZE=SIZE, B=block, programs=len(index), how=how)
    want = np.zeros(SIZE + 1)
    for factor, step in enumerate((0, 1, W, W + 1), 1):
        place = index + step
        np.add.at(want, np.where((place >= 0) & (place < SIZE), place, SIZE), 2 * factor * x)
    np.testing.assert_array_equal(o, [want[:SIZE]] * 2)


@triton.jit
def masks_kernel(x, index, masks, o, p, B: tl.constexpr):
    i = tl.arange(0, B)
    place = tl.load(index + tl.program_id(0) * B + i)
    masks += tl.program_id(0) * B * 3
    one, two, three = tl.load(masks + i), tl.load(masks + B + i), tl.load(masks + 2 * B + i)
    o += tl.program_id(0) * B * 3
    a = tl.load(x + place, mask=one, other=0.0)
    b = tl.load(x + 1 + place, mask=two, other=0.0)
    c = tl.load(x + 2 + place, mask=three, other=0.0)
    tl.store(o + i, a)
    tl.store(o + B + i, b)
    tl.store(o + 2 * B + i, c)
    tl.atomic_add(p + place, b + 1, mask=one)
    tl.atomic_add(p + 1 + place, c + 2, mask=two)
    tl.atomic_add(p + 2 + place, a + 3, mask=three)


@pytest.mark.parametrize("block", [32, 64])
def test_masks_that_have_nothing_in_common(block, host):
    index = np.clip(places(block), 0, SIZE - 3)
    masks = np.random.default_rng(5).random((len(index), 3, block)) < 0.7
    x = np.random.default_rng(6).integers(1, 99, SIZE).astype(np.float32)
    o, p = np.zeros((len(index), 3, block), np.float32), np.zeros(SIZE, np.float32)
    run(masks_kernel, x, index, masks, o, p, B=block, programs=len(index), how={"exclusive": True})
    taken = np.stack([x[index + step] for step in range(3)], 1) * masks
    np.testing.assert_array_equal(o, taken)
    want = np.zeros(SIZE, np.float32)
    for step in range(3):
        np.add.at(want, (index + step)[masks[:, step]], (taken[:, (step + 1) % 3] + step + 1)[masks[:, step]])
    np.testing.assert_array_equal(p, want)


@triton.jit
def turns_kernel(o, old, index, B: tl.constexpr):
    i = tl.arange(0, B)
    place = tl.load(index + i)
    tl.atomic_add(o + place, 1.0)
    tl.atomic_xchg(o + place, 10.0)
    tl.atomic_add(o + place, 2.0)
    before = tl.atomic_add(o + place, 4.0)
    tl.atomic_add(o + place, 8.0)
    tl.store(old + i, before)
    tl.store(old + B + i, tl.load(o + place))
    tl.atomic_add(o + place, 16.0)
    tl.store(o + place, tl.load(o + place) * 2)


@checked_too
@pytest.mark.parametrize("exclusive", [False, True])
def test_operations_on_one_address_stay_in_order(exclusive, checked):
    """Of each lane; here no two lanes have the same."""
    index = np.random.default_rng(4).permutation(16)[:8].astype(np.int32)
    o, old = np.zeros(16, np.float32), np.zeros((2, 8), np.float32)
    run(turns_kernel, o, old, index, B=8, checked=checked, how={"exclusive": exclusive})
    assert (old[0] == 12).all()
    assert (old[1] == 24).all()
    assert (o[index] == 80).all()
    assert o.sum() == 8 * 80
