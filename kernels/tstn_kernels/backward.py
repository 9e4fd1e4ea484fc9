"""The backward kernel: one pass over the output's gradient."""

import triton
import triton.language as tl

from tstn_kernels.coords import (
    aligned,
    flow_px,
    program_place,
    program_samples,
    source_image,
    target_frame,
    target_tile,
)
from tstn_kernels.fixed_point import add_fixed
from tstn_kernels.interpolation import covered_weight, source_taps, tap_pixel, tap_slope, tap_weight
from tstn_kernels.rounding import rounded


@triton.jit(
    do_not_specialize=["N", "M", "views", "H", "W", "H_OUT", "W_OUT", "constants", "tiles", "parts", "count_bits"]
)
def sample_backward_kernel(
    grad_input_ptr,
    grad_input_fixed_ptr,
    grad_theta_ptr,
    grad_flow_ptr,
    grad_fill_ptr,
    grad_output_ptr,
    input_ptr,
    theta_ptr,
    flow_ptr,
    fill_ptr,
    index_ptr,
    constants_ptr,
    grad_input_stride_n,
    grad_input_stride_c,
    grad_input_stride_h,
    grad_input_stride_w,
    grad_theta_stride_m,
    grad_theta_stride_part,
    grad_flow_stride_m,
    grad_flow_stride_h,
    grad_flow_stride_w,
    grad_flow_stride_xy,
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
    flow_stride_m,
    flow_stride_h,
    flow_stride_w,
    flow_stride_xy,
    fill_stride,
    N,
    M,
    views,
    C,
    H,
    W,
    H_OUT,
    W_OUT,
    constants,
    tiles,
    parts,
    channels_per_program,
    fill_value,
    limb_stride,
    count_bits,
    MAP: tl.constexpr,
    MAP_VJP: tl.constexpr,
    SAMPLES: tl.constexpr,
    FLOW: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    FILL: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    INDEXED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    INPUT_GRAD: tl.constexpr,
    THETA_GRAD: tl.constexpr,
    FLOW_GRAD: tl.constexpr,
    FILL_GRAD: tl.constexpr,
    LOOPED: tl.constexpr,
    DTYPE: tl.constexpr,
    OFFSET: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """grad_input[n, c, tap] += weight * grad_output; grad_theta = VJP(sum over c, tap of slope * input * grad_output).

    Programs as in sample_forward_kernel, but LOOPED each goes through every ``parts``-th tile. grad_input is zeroed
    beforehand and in DTYPE, or summed in fixed point: INPUT_GRAD is "none", "atomic" or "fixed". grad_theta and
    grad_fill receive one part per program, summed in a fixed order by finish_backward_kernel; grad_flow each lane's
    own value. THETA_GRAD and FLOW_GRAD need a MODE with a slope.
    """
    CHANNEL_AXIS: tl.constexpr = 1 if CHANNELS_LAST else 0
    LANE_AXIS: tl.constexpr = 1 - CHANNEL_AXIS
    TAPS: tl.constexpr = 1 if MODE == "nearest" else 2 if MODE == "bilinear" else 4
    # Sixteen bicubic taps at a time would not fit into the registers.
    ROWS: tl.constexpr = 1 if MODE == "bicubic" else TAPS

    group, part, split, splits = program_place(parts, C, channels_per_program)
    first_m = group.to(tl.int64) * SAMPLES
    theta = (theta_ptr + first_m * theta_stride_m, theta_stride_m, theta_stride_p, M - group * SAMPLES)
    part_of_theta = (part * splits + split).to(tl.int64)
    grad_theta_ptr += first_m * grad_theta_stride_m + part_of_theta * grad_theta_stride_part
    channel_end = tl.minimum((split + 1) * channels_per_program, C)
    turns = 1
    if LOOPED:
        turns = tl.cdiv(tiles, parts)
    for turn in range(turns):
        tile = part + turn * parts
        row, col, inside = target_tile(tile, H_OUT, W_OUT, TILE_H, TILE_W)
        x, y, frame = target_frame(row, col, H, W, H_OUT, W_OUT, ALIGN_CORNERS, DTYPE)
        x_source, y_source = MAP(theta, (constants_ptr, constants), x, y, frame, SAMPLES)
        m, row, col, in_tile = program_samples(group, row, col, inside, M, SAMPLES)
        if FLOW:
            flow_strides = (flow_stride_m, flow_stride_h, flow_stride_w, flow_stride_xy)
            flow_x, flow_y = flow_px(flow_ptr, m, row, col, in_tile, flow_strides, frame, OFFSET, DTYPE)
            x_source += flow_x
            y_source += flow_y
        first_x, past_x, slope_x = source_taps(x_source, W, MODE, PADDING, ALIGN_CORNERS, DTYPE)
        first_y, past_y, slope_y = source_taps(y_source, H, MODE, PADDING, ALIGN_CORNERS, DTYPE)

        n, exists = source_image(m, index_ptr, N, M, views, INDEXED)
        exists = aligned(exists, SAMPLES, CHANNEL_AXIS)
        input_at = aligned(input_ptr + n * input_stride_n, SAMPLES, CHANNEL_AXIS)
        grad_input_base = aligned(n * grad_input_stride_n, SAMPLES, CHANNEL_AXIS)
        grad_output_at = aligned(grad_output_ptr + m.to(tl.int64) * grad_output_stride_m, SAMPLES, CHANNEL_AXIS)
        grad_output_offset = row.to(OFFSET) * grad_output_stride_h + col.to(OFFSET) * grad_output_stride_w
        grad_output_offset = tl.expand_dims(grad_output_offset, CHANNEL_AXIS)
        inside = tl.expand_dims(in_tile, CHANNEL_AXIS)

        if FILL_GRAD:
            missing = 1.0 - covered_weight(first_x, past_x, W, TAPS, MODE) * covered_weight(
                first_y, past_y, H, TAPS, MODE
            )
        c_lane = tl.expand_dims(tl.arange(0, BLOCK_C), LANE_AXIS)
        grad_x = tl.zeros((inside & (c_lane >= 0)).shape, DTYPE)
        grad_y = tl.zeros(grad_x.shape, DTYPE)
        for channel_start in range(split * channels_per_program, channel_end, BLOCK_C):
            c = channel_start + tl.arange(0, BLOCK_C)
            c_inside = tl.expand_dims(c < C, LANE_AXIS)
            offset_c = tl.expand_dims(c.to(OFFSET) * grad_output_stride_c, LANE_AXIS)
            grad = tl.load(grad_output_at + grad_output_offset + offset_c, mask=inside & c_inside, other=0.0).to(DTYPE)
            input_offset_c = tl.expand_dims(c.to(OFFSET) * input_stride_c, LANE_AXIS)
            grad_input_offset_c = tl.expand_dims(c.to(OFFSET) * grad_input_stride_c, LANE_AXIS)
            if FILL == "scalar":
                fill = tl.cast(fill_value, DTYPE)
            elif FILL == "channel":
                fill = tl.load(fill_ptr + c * fill_stride, mask=c < C, other=0.0).to(DTYPE)
                fill = tl.expand_dims(fill, LANE_AXIS)
            for rows in range(0, TAPS, ROWS):
                for row_of_taps in tl.static_range(ROWS):
                    j = rows + row_of_taps
                    for i in tl.static_range(TAPS):
                        tap_x = tap_pixel(first_x, i, W, MODE, PADDING, ALIGN_CORNERS)
                        tap_y = tap_pixel(first_y, j, H, MODE, PADDING, ALIGN_CORNERS)
                        weight_x = tap_weight(past_x, i, MODE)
                        weight_y = tap_weight(past_y, j, MODE)
                        covered = (tap_x >= 0) & (tap_x < W) & (tap_y >= 0) & (tap_y < H)
                        seen = tl.expand_dims(covered, CHANNEL_AXIS) & inside & c_inside
                        if INDEXED:
                            seen = seen & exists
                        if INPUT_GRAD != "none":
                            offset = tap_y.to(OFFSET) * grad_input_stride_h + tap_x.to(OFFSET) * grad_input_stride_w
                            offset = tl.expand_dims(offset, CHANNEL_AXIS) + grad_input_offset_c
                            addend = grad * tl.expand_dims(weight_x * weight_y, CHANNEL_AXIS)
                            if INPUT_GRAD == "atomic":
                                tl.atomic_add(
                                    grad_input_ptr + grad_input_base + offset, addend, mask=seen, sem="relaxed"
                                )
                            else:
                                add_fixed(
                                    grad_input_fixed_ptr,
                                    grad_input_ptr,
                                    grad_input_base + offset,
                                    addend,
                                    seen,
                                    limb_stride,
                                    count_bits,
                                    DTYPE,
                                )
                        if THETA_GRAD or FLOW_GRAD:
                            offset = tap_y.to(OFFSET) * input_stride_h + tap_x.to(OFFSET) * input_stride_w
                            offset = tl.expand_dims(offset, CHANNEL_AXIS) + input_offset_c
                            tap = tl.load(input_at + offset, mask=seen, other=0.0).to(DTYPE)
                            if FILL != "none":
                                # The slopes add up to zero: measured from the fill, taps outside add nothing, exactly.
                                tap = tl.where(seen, tap - fill, 0.0)
                            tap *= grad
                            grad_x += tap * tl.expand_dims(tap_slope(past_x, i, MODE) * weight_y, CHANNEL_AXIS)
                            grad_y += tap * tl.expand_dims(weight_x * tap_slope(past_y, j, MODE), CHANNEL_AXIS)
            if FILL_GRAD:
                grad_fill = tl.sum(grad * tl.expand_dims(missing, CHANNEL_AXIS), LANE_AXIS)
                at = grad_fill_ptr + (tl.program_id(0) // splits).to(tl.int64) * C + c
                grad_fill += tl.load(at, mask=(c < C) & (turn > 0), other=0.0)
                tl.store(at, grad_fill, mask=c < C)

        if THETA_GRAD or FLOW_GRAD:
            grad_x = tl.where(in_tile, tl.sum(grad_x, CHANNEL_AXIS) * slope_x, 0.0)
            grad_y = tl.where(in_tile, tl.sum(grad_y, CHANNEL_AXIS) * slope_y, 0.0)
        if FLOW_GRAD:
            at = grad_flow_ptr + m.to(tl.int64) * grad_flow_stride_m
            at += row.to(OFFSET) * grad_flow_stride_h + col.to(OFFSET) * grad_flow_stride_w
            tl.store(at, rounded(grad_x * frame[4], grad_flow_ptr), mask=in_tile)
            tl.store(at + grad_flow_stride_xy, rounded(grad_y * frame[5], grad_flow_ptr), mask=in_tile)
        if THETA_GRAD:
            grads = (grad_theta_ptr, grad_theta_stride_m, turn > 0)
            MAP_VJP(grads, theta, (constants_ptr, constants), x, y, grad_x, grad_y, frame, SAMPLES)
