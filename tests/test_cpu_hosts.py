"""Code for CPUs that can do less than this one: without instructions that gather and scatter, or with gathers only."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import BFloat16, run, spread

HOSTS = {
    "plain": {"gathers": False, "scatters": False, "attributes": ""},
    "gathers": {"gathers": True, "scatters": False, "attributes": ""},
}


@pytest.fixture(params=HOSTS)
def host(request, tmp_path, monkeypatch):
    """What code is made for; it runs here all the same."""
    launch = importlib.import_module("tstn_cpu.launch")
    other = replace(launch.host(), **HOSTS[request.param])
    monkeypatch.setattr(launch, "host", lambda: other)
    monkeypatch.setenv("TSTN_CPU_CACHE", str(tmp_path / "kept"))


@triton.jit
def places_kernel(x, index, o, p, n, B: tl.constexpr):
    i = tl.arange(0, B)
    on = i < n
    place = tl.load(index + i)
    tl.store(o + i, tl.load(x + place))
    tl.store(o + B + i, tl.load(x + place, mask=on, other=tl.load(x)))
    # Neighbours, of which some lanes have only one.
    tl.store(o + 2 * B + i, tl.load(x + place, mask=place > 3, other=0))
    tl.store(o + 3 * B + i, tl.load(x + place + 1, mask=place > 3, other=0))
    tl.store(o + 4 * B + i, tl.load(x + place, mask=place > 3, other=0))
    tl.store(o + 5 * B + i, tl.load(x + place + 1, mask=on, other=0))
    tl.store(p + place, tl.load(x + i))
    tl.store(p + 3 * B + place, tl.load(x + i), mask=on)
    tl.store(p + 6 * B + 2 * i, tl.load(x + 3 * i), mask=on)


KINDS = ("bool", "int8", "uint16", "float16", "bfloat16", "int32", "float32", "int64", "float64")


@pytest.mark.parametrize(("kind", "block"), [*((kind, 8) for kind in KINDS), ("float32", 64), ("int8", 64)])
def test_lanes_that_lie_anywhere(kind, block, host):
    x = spread(3 * block + 1, "uint16" if kind == "bfloat16" else kind, 1)
    index = np.random.default_rng(2).permutation(3 * block)[:block].astype(np.int32)
    index[0] = 3 if 3 not in index else index[0]
    o, p, n = np.zeros(6 * block, x.dtype), np.zeros(9 * block, x.dtype), block - 3
    arrays = [BFloat16(a) if kind == "bfloat16" else a for a in (x, o, p)]
    run(places_kernel, arrays[0], index, *arrays[1:], n, B=block)
    i = np.arange(block)
    on, some, zero = i < n, index > 3, np.zeros(block, x.dtype)
    one, two = x[index], x[index + 1]
    expected = [one, np.where(on, one, x[0]), np.where(some, one, zero), np.where(some, two, zero)]
    expected += [np.where(some, one, zero), np.where(on, two, zero)]
    want = np.zeros((3, 3 * block), x.dtype)
    want[0, index], want[1, index[on]] = x[:block], x[:block][on]
    want[2, : 2 * n : 2] = x[: 3 * n : 3]
    for have, values in ((o, np.concatenate(expected)), (p, want.ravel())):
        np.testing.assert_array_equal(have.view(f"V{x.itemsize}"), values.astype(x.dtype).view(f"V{x.itemsize}"))


@triton.jit
def sums_kernel(x, index, o, n, B: tl.constexpr):
    i = tl.arange(0, B)
    place, value = tl.load(index + i), tl.load(x + i)
    tl.atomic_add(o + place, value, mask=i < n)
    tl.atomic_add(o + B + i, value)
    tl.atomic_add(o + 2 * B, tl.sum(value))


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("kind", ["int32", "float32", "float64"])
def test_sums(kind, exclusive, host):
    block, n = 16, 13
    x = np.random.default_rng(3).integers(-9, 9, block).astype(kind)
    index = np.random.default_rng(4).integers(0, 4, block).astype(np.int32)
    o = np.zeros(2 * block + 1, kind)
    run(sums_kernel, x, index, o, n, B=block, how={"exclusive": exclusive})
    want = np.zeros(2 * block + 1, kind)
    np.add.at(want, index[:n], x[:n])
    want[block : 2 * block], want[-1] = x, x.sum()
    np.testing.assert_array_equal(o, want)
