"""The backward kernels: one pass over the output's gradient, and the sums and casts that finish its results."""

import triton
import triton.language as tl

from tstn_kernels.coords import program_place, source_image, target_frame, target_tile
from tstn_kernels.interpolation import covered_weight, source_taps, tap_slope, tap_weight
from tstn_kernels.rounding import rounded


@triton.jit(do_not_specialize=["N", "views", "H", "W", "H_OUT", "W_OUT"])
def sample_backward_kernel(
    grad_input_ptr,
    grad_theta_ptr,
    grad_fill_ptr,
    grad_output_ptr,
    input_ptr,
    theta_ptr,
    fill_ptr,
    index_ptr,
    grad_input_stride_n,
    grad_input_stride_c,
    grad_input_stride_h,
    grad_input_stride_w,
    grad_theta_stride_m,
    grad_theta_stride_part,
    grad_output_stride_m,
    grad_output_stride_c,
    grad_output_stride_h,
    grad_output_stride_w,
    input_stride_n,
    input_stride_c,
    input_stride_h,
    input_stride_w,
    theta_stride_m,
    theta_stride_p,
    fill_stride,
    N,
    views,
    C,
    H,
    W,
    H_OUT,
    W_OUT,
    channels_per_program,
    fill_value,
    MAP: tl.constexpr,
    MAP_VJP: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    FILL: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    INDEXED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    INPUT_GRAD: tl.constexpr,
    THETA_GRAD: tl.constexpr,
    FILL_GRAD: tl.constexpr,
    DTYPE: tl.constexpr,
    OFFSET: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """grad_input[n, c, tap] += weight * grad_output; grad_theta = VJP(sum over c, tap of slope * input * grad_output).

    Programs as in sample_forward_kernel. grad_input is zeroed beforehand and in DTYPE. grad_theta and grad_fill
    receive one part per program, summed in a fixed order by finish_backward_kernel. THETA_GRAD needs a MODE with
    a slope.
    """
    CHANNEL_AXIS: tl.constexpr = 1 if CHANNELS_LAST else 0
    PIXEL_AXIS: tl.constexpr = 1 - CHANNEL_AXIS
    TAPS: tl.constexpr = 1 if MODE == "nearest" else 2

    m, tile, split, splits = program_place(H_OUT, W_OUT, C, channels_per_program, TILE_H, TILE_W)
    row, col, in_tile = target_tile(tile, H_OUT, W_OUT, TILE_H, TILE_W)
    x, y, ratios, extents = target_frame(row, col, H, W, H_OUT, W_OUT, ALIGN_CORNERS, DTYPE)
    theta_ptr += m.to(tl.int64) * theta_stride_m
    pixel = row.to(OFFSET) * W_OUT + col
    x_source, y_source = MAP(theta_ptr, theta_stride_p, pixel, in_tile, x, y, ratios, extents)
    first_x, past_x, slope_x = source_taps(x_source, W, MODE, PADDING, ALIGN_CORNERS, DTYPE)
    first_y, past_y, slope_y = source_taps(y_source, H, MODE, PADDING, ALIGN_CORNERS, DTYPE)

    n, exists = source_image(m, index_ptr, N, views, INDEXED)
    input_ptr += n * input_stride_n
    grad_input_ptr += n * grad_input_stride_n
    grad_output_ptr += m.to(tl.int64) * grad_output_stride_m
    grad_output_offset = row.to(OFFSET) * grad_output_stride_h + col.to(OFFSET) * grad_output_stride_w
    grad_output_offset = tl.expand_dims(grad_output_offset, CHANNEL_AXIS)
    inside = tl.expand_dims(in_tile, CHANNEL_AXIS)

    if FILL_GRAD:
        missing = 1.0 - covered_weight(first_x, past_x, W, MODE) * covered_weight(first_y, past_y, H, MODE)
    c_lane = tl.expand_dims(tl.arange(0, BLOCK_C), PIXEL_AXIS)
    grad_x = tl.zeros((inside & (c_lane >= 0)).shape, DTYPE)
    grad_y = tl.zeros(grad_x.shape, DTYPE)
    channel_end = tl.minimum((split + 1) * channels_per_program, C)
    for channel_start in range(split * channels_per_program, channel_end, BLOCK_C):
        c = channel_start + tl.arange(0, BLOCK_C)
        c_inside = tl.expand_dims(c < C, PIXEL_AXIS)
        offset_c = tl.expand_dims(c.to(OFFSET) * grad_output_stride_c, PIXEL_AXIS)
        grad = tl.load(grad_output_ptr + grad_output_offset + offset_c, mask=inside & c_inside, other=0.0).to(DTYPE)
        input_offset_c = tl.expand_dims(c.to(OFFSET) * input_stride_c, PIXEL_AXIS)
        grad_input_offset_c = tl.expand_dims(c.to(OFFSET) * grad_input_stride_c, PIXEL_AXIS)
        if FILL == "scalar":
            fill = tl.cast(fill_value, DTYPE)
        elif FILL == "channel":
            fill = tl.load(fill_ptr + c * fill_stride, mask=c < C, other=0.0).to(DTYPE)
            fill = tl.expand_dims(fill, PIXEL_AXIS)
        for j in tl.static_range(TAPS):
            for i in tl.static_range(TAPS):
                tap_x = first_x + i
                tap_y = first_y + j
                weight_x = tap_weight(past_x, i, MODE)
                weight_y = tap_weight(past_y, j, MODE)
                covered = (tap_x >= 0) & (tap_x < W) & (tap_y >= 0) & (tap_y < H)
                if INDEXED:
                    covered = covered & exists
                seen = tl.expand_dims(covered, CHANNEL_AXIS) & inside & c_inside
                if INPUT_GRAD:
                    offset = tap_y.to(OFFSET) * grad_input_stride_h + tap_x.to(OFFSET) * grad_input_stride_w
                    offset = tl.expand_dims(offset, CHANNEL_AXIS) + grad_input_offset_c
                    weight = tl.expand_dims(weight_x * weight_y, CHANNEL_AXIS)
                    tl.atomic_add(grad_input_ptr + offset, grad * weight, mask=seen, sem="relaxed")
                if THETA_GRAD:
                    offset = tap_y.to(OFFSET) * input_stride_h + tap_x.to(OFFSET) * input_stride_w
                    offset = tl.expand_dims(offset, CHANNEL_AXIS) + input_offset_c
                    tap = tl.load(input_ptr + offset, mask=seen, other=0.0).to(DTYPE)
                    if FILL != "none":
                        # The slopes add up to zero: measured from the fill, taps outside add nothing, exactly.
                        tap = tl.where(seen, tap - fill, 0.0)
                    tap *= grad
                    grad_x += tap * tl.expand_dims(tap_slope(past_x, i, MODE) * weight_y, CHANNEL_AXIS)
                    grad_y += tap * tl.expand_dims(weight_x * tap_slope(past_y, j, MODE), CHANNEL_AXIS)
        if FILL_GRAD:
            grad_fill = tl.sum(grad * tl.expand_dims(missing, CHANNEL_AXIS), PIXEL_AXIS)
            at = grad_fill_ptr + (tl.program_id(0) // splits).to(tl.int64) * C + c
            tl.store(at, grad_fill, mask=c < C)

    if THETA_GRAD:
        grad_x = tl.where(in_tile, tl.sum(grad_x, CHANNEL_AXIS) * slope_x, 0.0)
        grad_y = tl.where(in_tile, tl.sum(grad_y, CHANNEL_AXIS) * slope_y, 0.0)
        part = (tile * splits + split).to(tl.int64)
        grad_theta_ptr += m.to(tl.int64) * grad_theta_stride_m + part * grad_theta_stride_part
        MAP_VJP(grad_theta_ptr, pixel, in_tile, x, y, grad_x, grad_y, ratios, extents)


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


@triton.jit(do_not_specialize=["theta_programs", "fill_programs", "theta_parts", "fill_parts", "P"])
def finish_backward_kernel(
    grad_input_ptr,
    grad_input_sum_ptr,
    grad_theta_ptr,
    grad_theta_parts_ptr,
    grad_fill_ptr,
    grad_fill_parts_ptr,
    theta_programs,
    fill_programs,
    theta_parts,
    fill_parts,
    numel,
    P,
    C,
    BLOCK: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums the parts of grad_theta (M, parts, P) and of grad_fill (parts, C), and rounds the input's gradient.

    Three jobs, one launch: programs are dealt to them in this order; an unwanted job gets none.
    """
    program = tl.program_id(0)
    if program < theta_programs:
        sum_parts(grad_theta_ptr, grad_theta_parts_ptr, program, 0, theta_parts, P, BLOCK_PARTS, BLOCK_P)
    elif program < theta_programs + fill_programs:
        block = program - theta_programs
        sum_parts(grad_fill_ptr, grad_fill_parts_ptr, program * 0, block, fill_parts, C, BLOCK_PARTS, BLOCK_C)
    else:
        start = (program - theta_programs - fill_programs).to(tl.int64) * BLOCK
        at = start + tl.arange(0, BLOCK)
        value = tl.load(grad_input_sum_ptr + at, mask=at < numel)
        tl.store(grad_input_ptr + at, rounded(value, grad_input_ptr), mask=at < numel)
