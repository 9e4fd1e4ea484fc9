"""Launch a small kernel of a test's own, wherever its tensors are."""

from __future__ import annotations

from typing import Any

import tstn_cpu
from torch import Tensor

from tstn._backend import INTERPRETED
from tstn._native import CHECKED, ELEMENTS


def memory(tensor: Tensor) -> tstn_cpu.Memory:
    """A tensor, as kernels on the CPU see it."""
    return tstn_cpu.Memory(tensor.data_ptr(), ELEMENTS[tensor.dtype], tuple(tensor.shape), tensor.stride())


def launch(kernel: Any, programs: int, *arguments: Any, **constexprs: Any) -> None:
    """``kernel[(programs,)](*arguments, **constexprs)``; on the CPU compiled for it, or interpreted."""
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    if INTERPRETED or not tensors[0].is_cpu:
        kernel[(programs,)](*arguments, **constexprs)
        return
    given = [memory(argument) if isinstance(argument, Tensor) else argument for argument in arguments]
    tstn_cpu.launch(kernel, programs, given, constexprs, checked=CHECKED)
