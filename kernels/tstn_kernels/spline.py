"""The linear map from a spline's control points to its coefficients, and its transpose, which takes gradients back."""

import triton
import triton.language as tl

from tstn_kernels.rounding import rounded


@triton.jit(do_not_specialize=["M", "rows", "columns", "blocks"])
def spline_product_kernel(
    out_ptr,
    vectors_ptr,
    matrix_ptr,
    centres_ptr,
    out_stride_m,
    out_stride_row,
    out_stride_xy,
    vectors_stride_m,
    vectors_stride_column,
    vectors_stride_xy,
    matrix_stride_row,
    matrix_stride_column,
    M,
    rows,
    columns,
    blocks,
    CENTRED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """out[m, row, xy] = sum over columns of matrix[row, column] * (vectors[m, column, xy] - centres[column, xy])

    In the matrix's dtype, column by column; centres only if CENTRED. A program has a block of rows, of which there are
    ``blocks``, and of samples.
    """
    dtype: tl.constexpr = matrix_ptr.dtype.element_ty
    program = tl.program_id(0)
    row = program % blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    m = program // blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    in_rows, in_samples = row < rows, m < M
    matrix_at = matrix_ptr + row * matrix_stride_row
    vectors_at = vectors_ptr + m.to(tl.int64) * vectors_stride_m
    total_x = tl.zeros((BLOCK_ROWS, BLOCK_M), dtype)
    total_y = tl.zeros((BLOCK_ROWS, BLOCK_M), dtype)
    for _ in range(columns):
        weight = tl.load(matrix_at, mask=in_rows, other=0.0)[:, None]
        x = tl.load(vectors_at, mask=in_samples, other=0.0).to(dtype)
        y = tl.load(vectors_at + vectors_stride_xy, mask=in_samples, other=0.0).to(dtype)
        if CENTRED:
            x -= tl.load(centres_ptr)
            y -= tl.load(centres_ptr + 1)
            centres_ptr += 2
        total_x += weight * x[None, :]
        total_y += weight * y[None, :]
        matrix_at += matrix_stride_column
        vectors_at += vectors_stride_column
    out_at = out_ptr + m.to(tl.int64)[None, :] * out_stride_m + row[:, None] * out_stride_row
    inside = in_rows[:, None] & in_samples[None, :]
    tl.store(out_at, rounded(total_x, out_ptr), mask=inside)
    tl.store(out_at + out_stride_xy, rounded(total_y, out_ptr), mask=inside)
