"""Triton kernels on a CPU: Triton's front end, LLVM's vectors, object code on the disk, and threads.

``launch(kernel, programs, arguments, constexprs)`` runs a ``@triton.jit`` function. Imports neither torch nor tstn, and
Triton and llvmlite only when something is compiled or loaded.
"""

from tstn_cpu.errors import OutOfBoundsError, UnsupportedOperationError
from tstn_cpu.host import why_not
from tstn_cpu.launch import Compiled, Memory, compiled, launch, rows_of_unit

__all__ = [
    "Compiled",
    "Memory",
    "OutOfBoundsError",
    "UnsupportedOperationError",
    "compiled",
    "launch",
    "rows_of_unit",
    "why_not",
]
