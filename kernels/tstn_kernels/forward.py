"""The forward kernel: where each output pixel looks, the look, the store."""

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
from tstn_kernels.interpolation import source_taps, tap_pixel, tap_weight
from tstn_kernels.rounding import rounded


@triton.jit(do_not_specialize=["N", "M", "views", "H", "W", "H_OUT", "W_OUT", "constants", "tiles"])
def sample_forward_kernel(
    output_ptr,
    input_ptr,
    theta_ptr,
    flow_ptr,
    fill_ptr,
    index_ptr,
    constants_ptr,
    output_stride_m,
    output_stride_c,
    output_stride_h,
    output_stride_w,
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
    channels_per_program,
    fill_value,
    MAP: tl.constexpr,
    SAMPLES: tl.constexpr,
    FLOW: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    FILL: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    INDEXED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DTYPE: tl.constexpr,
    OFFSET: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """output[m, c, p] = sum over taps of weight(T_theta[m](p) + flow[m, p], tap) * input[n(m), c, tap].

    A program has one tile of output pixels of SAMPLES samples, and a run of channels that is a multiple of BLOCK_C
    unless it is the last. Its lanes are pixels, sample by sample; tiles of values lie (channel, lane) in NCHW and
    (lane, channel) in channels_last, so that lanes follow memory.
    """
    CHANNEL_AXIS: tl.constexpr = 1 if CHANNELS_LAST else 0
    LANE_AXIS: tl.constexpr = 1 - CHANNEL_AXIS
    TAPS: tl.constexpr = 1 if MODE == "nearest" else 2 if MODE == "bilinear" else 4
    # Sixteen bicubic taps at a time would not fit into the registers.
    ROWS: tl.constexpr = 1 if MODE == "bicubic" else TAPS

    group, tile, split, _ = program_place(tiles, C, channels_per_program)
    row, col, inside = target_tile(tile, H_OUT, W_OUT, TILE_H, TILE_W)
    x, y, frame = target_frame(row, col, H, W, H_OUT, W_OUT, ALIGN_CORNERS, DTYPE)
    first_m = group.to(tl.int64) * SAMPLES
    theta = (theta_ptr + first_m * theta_stride_m, theta_stride_m, theta_stride_p, M - group * SAMPLES)
    x_source, y_source = MAP(theta, (constants_ptr, constants), x, y, frame, SAMPLES)
    m, row, col, inside = program_samples(group, row, col, inside, M, SAMPLES)
    if FLOW:
        flow_strides = (flow_stride_m, flow_stride_h, flow_stride_w, flow_stride_xy)
        flow_x, flow_y = flow_px(flow_ptr, m, row, col, inside, flow_strides, frame, OFFSET, DTYPE)
        x_source += flow_x
        y_source += flow_y
    first_x, past_x, _ = source_taps(x_source, W, MODE, PADDING, ALIGN_CORNERS, DTYPE)
    first_y, past_y, _ = source_taps(y_source, H, MODE, PADDING, ALIGN_CORNERS, DTYPE)

    n, exists = source_image(m, index_ptr, N, M, views, INDEXED)
    exists = aligned(exists, SAMPLES, CHANNEL_AXIS)
    input_at = aligned(input_ptr + n * input_stride_n, SAMPLES, CHANNEL_AXIS)
    output_at = aligned(output_ptr + m.to(tl.int64) * output_stride_m, SAMPLES, CHANNEL_AXIS)
    output_offset = tl.expand_dims(row.to(OFFSET) * output_stride_h + col.to(OFFSET) * output_stride_w, CHANNEL_AXIS)
    inside = tl.expand_dims(inside, CHANNEL_AXIS)

    channel_end = tl.minimum((split + 1) * channels_per_program, C)
    for channel_start in range(split * channels_per_program, channel_end, BLOCK_C):
        c = channel_start + tl.arange(0, BLOCK_C)
        c_inside = tl.expand_dims(c < C, LANE_AXIS)
        input_offset_c = tl.expand_dims(c.to(OFFSET) * input_stride_c, LANE_AXIS)
        if FILL == "scalar":
            fill = tl.cast(fill_value, DTYPE)
        elif FILL == "channel":
            fill = tl.load(fill_ptr + c * fill_stride, mask=c < C, other=0.0).to(DTYPE)
            fill = tl.expand_dims(fill, LANE_AXIS)
        value = tl.zeros((inside & c_inside).shape, DTYPE)
        for rows in range(0, TAPS, ROWS):
            for row_of_taps in tl.static_range(ROWS):
                j = rows + row_of_taps
                for i in tl.static_range(TAPS):
                    tap_x = tap_pixel(first_x, i, W, MODE, PADDING, ALIGN_CORNERS)
                    tap_y = tap_pixel(first_y, j, H, MODE, PADDING, ALIGN_CORNERS)
                    weight = tap_weight(past_x, i, MODE) * tap_weight(past_y, j, MODE)
                    covered = (tap_x >= 0) & (tap_x < W) & (tap_y >= 0) & (tap_y < H)
                    covered = tl.expand_dims(covered, CHANNEL_AXIS)
                    if INDEXED:
                        covered = covered & exists
                    offset = tap_y.to(OFFSET) * input_stride_h + tap_x.to(OFFSET) * input_stride_w
                    offset = tl.expand_dims(offset, CHANNEL_AXIS) + input_offset_c
                    tap = tl.load(input_at + offset, mask=covered & inside & c_inside, other=0.0).to(DTYPE)
                    if FILL != "none":
                        tap = tl.where(covered, tap, fill)
                    value += tap * tl.expand_dims(weight, CHANNEL_AXIS)
        if INDEXED:
            value = tl.where(exists, value, float("nan"))
        output_offset_c = tl.expand_dims(c.to(OFFSET) * output_stride_c, LANE_AXIS)
        tl.store(output_at + output_offset + output_offset_c, rounded(value, output_ptr), mask=inside & c_inside)
