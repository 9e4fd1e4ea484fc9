"""Run small kernels on the CPU with NumPy's arrays: what tests of ``tstn_cpu`` share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tstn_cpu
from tstn_cpu import Memory, launch

# Not where kernels do not run, nor where Triton makes others of them.
UNABLE = tstn_cpu.why_not() or ("Triton interprets kernels" if os.environ.get("TRITON_INTERPRET") == "1" else None)
if UNABLE:
    pytest.skip(UNABLE, allow_module_level=True)

ELEMENTS = {
    "bool": "i1",
    "float16": "f16",
    "float32": "f32",
    "float64": "f64",
    **{f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits}" for bits in (8, 16, 32, 64)},
}
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

# Every kernel's test is one of checked mode too.
checked_too = pytest.mark.parametrize("checked", [False, True], ids=["plain", "checked"])


class BFloat16(NamedTuple):
    """Bits of bfloat16 numbers, which NumPy does not have."""

    bits: np.ndarray


def memory(array: np.ndarray | BFloat16) -> Memory:
    """An array as a kernel sees it."""
    element = "bf16" if isinstance(array, BFloat16) else ELEMENTS[array.dtype.name]
    array = array.bits if isinstance(array, BFloat16) else array
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Memory(array.ctypes.data, element, array.shape, strides)


def run(
    kernel: Any,
    *arguments: Any,
    programs: int = 1,
    checked: bool = False,
    how: dict[str, Any] | None = None,
    **constexprs: Any,
) -> None:
    """Launch a kernel; arrays become memory, ``how`` has options of the launch."""
    given = [memory(a) if isinstance(a, (np.ndarray, BFloat16)) else a for a in arguments]
    launch(kernel, programs, given, constexprs, checked=checked, **(how or {}))


# A kernel, and its launch, in a module that needs neither NumPy nor this one.
ALONE = """
import array
import triton
import triton.language as tl
from tstn_cpu import Memory, launch


@triton.jit
def add_kernel(x, y, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(x + i, tl.load(x + i, mask=i < n) + y, mask=i < n)


def works(block=4, many=2, y=1.5):
    numbers = array.array("f", range(8))
    memory = Memory(numbers.buffer_info()[0], "f32", (8,), (1,))
    launch(add_kernel, -(-8 // block), [memory, y, 7], {"B": block}, many=many)
    assert list(numbers) == [i + y for i in range(7)] + [7], numbers
    return True
"""


def python(folder: Path, code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A process that has a kernel in ``cpu_kernel_alone``, in the middle of its run."""
    module = folder / "cpu_kernel_alone.py"
    if not module.exists():
        module.write_text(ALONE)
    paths = [str(folder), str(Path(tstn_cpu.__file__).parent.parent)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def printed(process: subprocess.Popen[str]) -> str:
    """What a process says, which has to end well."""
    try:
        out, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, error
    return out


def to_bfloat16(values: np.ndarray) -> BFloat16:
    """Rounded to nearest, ties to even: to the last bit, from float64 too."""
    with np.errstate(all="ignore"):
        wide = np.asarray(values).astype(np.float64)
    size = np.abs(wide)
    # All of them in order; what infinity stands for is as far from the last as that is from the one before.
    known = from_bfloat16(BFloat16(np.arange(0x7F81, dtype=np.uint16))).astype(np.float64)
    known[-1] = 2.0**128
    low = np.clip(np.searchsorted(known, size, "right") - 1, 0, 0x7F7F)
    middle = (known[low] + known[low + 1]) / 2
    bits = low + ((size > middle) | ((size == middle) & (low % 2 == 1)))
    bits = np.where(np.isnan(wide), 0x7FC0, bits) | np.where(np.signbit(wide), 0x8000, 0)
    return BFloat16(bits.astype(np.uint16))


def from_bfloat16(values: BFloat16) -> np.ndarray:
    """Exactly, as float32."""
    return (values.bits.astype(np.uint32) << 16).view(np.float32)


def spread(count: int, kind: str, seed: int = 0) -> np.ndarray:
    """Numbers of a type, of all sizes that it has."""
    rng = np.random.default_rng(seed)
    if kind == "bool":
        return rng.integers(0, 2, count).astype(bool)
    bits = np.dtype(kind).itemsize * 8
    raw = rng.integers(0, 2**63, count, np.uint64) * 2 + rng.integers(0, 2, count, np.uint64)
    if kind in INTEGERS:
        # Of few bits and of many.
        return (raw >> rng.integers(0, 64, count, np.uint64)).astype(f"uint{bits}").view(kind)
    return raw.astype(f"uint{bits}").view(kind)


def ulps(have: np.ndarray, want: np.ndarray, kind: str) -> float:
    """How far apart, in steps of a type; ``want`` is more exact than it."""
    want = np.asarray(want)
    with np.errstate(all="ignore"):
        rounded = np.abs(want.astype(kind))
        step = np.spacing(np.where(np.isfinite(rounded), rounded, 1)).astype(want.dtype)
        same = (have == want.astype(kind)) | (np.isnan(have) & np.isnan(want))
        return np.where(same, 0, np.abs(have.astype(want.dtype) - want) / step).max()
