"""The kernel that finishes a backward pass: sums of parts in a fixed order, and rounding."""

import triton
import triton.language as tl

from tstn_kernels.fixed_point import fixed_sum
from tstn_kernels.rounding import rounded


@triton.jit
def sum_parts(
    total_ptr, parts_ptr, group, block, parts, columns, BLOCK_PARTS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr
):
    """total[group, column] = sum over parts of parts[group, part, column], in a fixed order, for a block of columns."""
    column = block * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    parts_ptr += group.to(tl.int64) * parts * columns
    total = tl.zeros((BLOCK_PARTS, BLOCK_COLUMNS), parts_ptr.dtype.element_ty)
    for start in range(0, parts, BLOCK_PARTS):
        part = start + tl.arange(0, BLOCK_PARTS)
        inside = (part < parts)[:, None] & (column < columns)[None, :]
        total += tl.load(parts_ptr + part[:, None].to(tl.int64) * columns + column[None, :], mask=inside, other=0.0)
    total = rounded(tl.sum(total, 0), total_ptr)
    tl.store(total_ptr + group.to(tl.int64) * columns + column, total, mask=column < columns)


@triton.jit(
    do_not_specialize=[
        "theta_programs",
        "theta_blocks",
        "fill_programs",
        "theta_parts",
        "fill_parts",
        "input_parts",
        "N",
        "P",
        "count_bits",
    ]
)
def finish_backward_kernel(
    grad_input_ptr,
    grad_input_sum_ptr,
    grad_theta_ptr,
    grad_theta_parts_ptr,
    grad_fill_ptr,
    grad_fill_parts_ptr,
    theta_programs,
    theta_blocks,
    fill_programs,
    theta_parts,
    fill_parts,
    input_parts,
    numel,
    N,
    P,
    C,
    count_bits,
    FIXED: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums the parts of grad_theta (M, parts, P), of grad_fill (parts, C) and of grad_input (parts, numel).

    Three jobs, one launch: programs are dealt to them in this order; an unwanted job gets none. With FIXED the input's
    gradient, of N inputs, is a sum in fixed point, and NaN where it says so already.
    """
    program = tl.program_id(0)
    if program < theta_programs:
        group = program // theta_blocks
        block = program % theta_blocks
        sum_parts(grad_theta_ptr, grad_theta_parts_ptr, group, block, theta_parts, P, BLOCK_PARTS, BLOCK_P)
    elif program < theta_programs + fill_programs:
        block = program - theta_programs
        sum_parts(grad_fill_ptr, grad_fill_parts_ptr, program * 0, block, fill_parts, C, BLOCK_PARTS, BLOCK_C)
    else:
        start = (program - theta_programs - fill_programs).to(tl.int64) * BLOCK
        at = start + tl.arange(0, BLOCK)
        inside = at < numel
        if FIXED:
            value = fixed_sum(grad_input_sum_ptr, at, inside, N, numel, count_bits, DTYPE)
            spoilt = tl.load(grad_input_ptr + at, mask=inside, other=0.0).to(tl.float32)
            value = tl.where(spoilt == spoilt, value, float("nan"))
        else:
            value = tl.zeros((BLOCK,), grad_input_sum_ptr.dtype.element_ty)
            for _ in range(input_parts):
                value += tl.load(grad_input_sum_ptr + at, mask=inside, other=0.0)
                grad_input_sum_ptr += numel
        tl.store(grad_input_ptr + at, rounded(value, grad_input_ptr), mask=inside)
