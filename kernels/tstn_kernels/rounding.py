"""Rounding of results to the dtype they are stored in."""

import triton
import triton.language as tl


@triton.jit
def rounded(value, pointer):
    """value in the dtype that pointer points at; float64 goes to a half type by way of float32, as hardware has it."""
    DTYPE: tl.constexpr = pointer.dtype.element_ty
    if DTYPE.primitive_bitwidth == 16:
        return value.to(tl.float32).to(DTYPE)
    else:
        return value.to(DTYPE)
