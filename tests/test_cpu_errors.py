"""What cannot be run on the CPU says so, with the operation and the kernel's line; what Triton refuses, Triton says."""

import inspect

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import printed, python, run
from triton.compiler.errors import CompilationError
from triton.language.extra import libdevice
from tstn_cpu import UnsupportedOperationError


@triton.jit
def _sum(a, b):
    return a + b


@triton.jit(noinline=True)
def _called(x, n):
    return tl.load(x + n) * 2


@triton.jit
def _helper(a, B: tl.constexpr):
    return tl.gather(a, tl.arange(0, B), 0)  # in a function


@triton.jit
def scan_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, tl.associative_scan(tl.load(x + i), 0, _sum))  # here


@triton.jit
def running_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, tl.cumsum(tl.load(x + i), 0))  # here


@triton.jit
def histogram_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, tl.histogram(tl.load(x + i).to(tl.int32), B).to(tl.float32))  # here


@triton.jit
def gather_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    for _ in range(3):
        tl.store(o + i, tl.gather(tl.load(x + i), B - 1 - i, 0))  # here


@triton.jit
def helper_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, _helper(tl.load(x + i), B))


@triton.jit
def assembly_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    value = tl.load(x + i)
    value = tl.inline_asm_elementwise("mov $0, $1;", "=r,r", [value], dtype=tl.float32, is_pure=True, pack=1)  # here
    tl.store(o + i, value)


@triton.jit
def exchange_kernel(x, o, B: tl.constexpr):
    place = o.to(tl.pointer_type(tl.int32))
    tl.atomic_cas(place, 0, 1)  # here
    tl.store(o + tl.arange(0, B), tl.load(x))


@triton.jit
def while_kernel(x, o, B: tl.constexpr):
    k = 0
    while tl.load(x + k) > 0:  # here
        k += 1
    tl.store(o + tl.arange(0, B), k)


@triton.jit
def return_kernel(x, o, B: tl.constexpr):
    if tl.load(x) > 0:  # here
        return
    tl.store(o + tl.arange(0, B), 1.0)


@triton.jit
def print_kernel(x, o, B: tl.constexpr):
    tl.device_print("x", tl.load(x))  # here
    tl.store(o + tl.arange(0, B), 1.0)


@triton.jit
def call_kernel(x, o, B: tl.constexpr):
    tl.store(o + tl.arange(0, B), _called(x, B // 2))  # here


@triton.jit
def choice_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, tl.load(tl.where(i % 2 == 0, x + i, o + i)))  # here


@triton.jit
def number_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, ((x + i).to(tl.int64) % 64).to(tl.float32))  # here


REFUSED = {
    scan_kernel: "tt.scan",
    running_kernel: "tt.scan",
    histogram_kernel: "tt.histogram",
    gather_kernel: "tt.gather",
    helper_kernel: "tt.gather",
    assembly_kernel: "tt.elementwise_inline_asm",
    exchange_kernel: "tt.atomic_cas",
    while_kernel: "scf.while",
    return_kernel: "cf.cond_br",
    print_kernel: "tt.print",
    call_kernel: "tt.call",
    choice_kernel: "arith.select",
    number_kernel: "tt.ptr_to_int",
}


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("kernel", REFUSED, ids=lambda kernel: kernel.__name__)
def test_operations_that_cannot_be_run(kernel, checked):
    function = _helper if kernel is helper_kernel else kernel
    lines, first = inspect.getsourcelines(function.fn)
    line = first + next(i for i, line in enumerate(lines) if "# here" in line or "# in a function" in line)
    match = rf"^{kernel.__name__}: {REFUSED[kernel]} cannot be run on a CPU \(line {line} of .*test_cpu_errors\.py\)$"
    x, o = np.ones(8, np.float32), np.zeros(8, np.float32)
    with pytest.raises(UnsupportedOperationError, match=match):
        run(kernel, x, o, B=8, checked=checked)
    assert not o.any()


@triton.jit
def wrong_kernel(x, o, B: tl.constexpr):
    tl.store(o + tl.arange(0, B), tl.load(x + undefined))  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


@triton.jit
def odd_kernel(x, o, B: tl.constexpr):
    tl.store(o + tl.arange(0, B + 1), 1.0)


@triton.jit
def bessel_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, libdevice.j0(tl.load(x + i)))


@pytest.mark.parametrize(
    ("kernel", "match"),
    [
        (wrong_kernel, "undefined is not defined"),
        (odd_kernel, "power of 2"),
        (bessel_kernel, "libdevice.j0 cannot be run on a CPU"),
    ],
)
def test_what_triton_refuses(kernel, match):
    x = np.zeros(8, np.float32)
    with pytest.raises(CompilationError, match=match):
        run(kernel, x, x, B=8)


@triton.jit
def barrier_kernel(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, tl.load(x + i))
    tl.debug_barrier()
    tl.device_assert(i < 100, "small")
    tl.store(o + i, tl.load(o + B - 1 - i) + 1)


def test_a_program_waits_for_nobody():
    x, o = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    run(barrier_kernel, x, o, B=8)
    np.testing.assert_array_equal(o, x[::-1] + 1)


IMPORTS = """
import sys
import tstn_cpu
loaded = [name for name in ("torch", "tstn", "numpy", "triton", "llvmlite") if name in sys.modules]
assert not loaded, loaded
import triton
from triton.backends import backends
from triton.runtime import driver
known, active = dict(backends), driver._active
from cpu_kernel_alone import works
assert works()
assert backends == known and driver._active is active
loaded = [name for name in ("torch", "tstn", "numpy") if name in sys.modules]
assert not loaded, loaded
"""


def test_nothing_is_imported_or_registered(tmp_path):
    """Neither torch nor NumPy; Triton and llvmlite when they are needed; Triton knows nothing of this package."""
    printed(python(tmp_path, IMPORTS))
