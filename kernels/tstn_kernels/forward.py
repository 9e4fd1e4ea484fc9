"""The forward kernel: where each output pixel looks, the look, the store."""

import triton
import triton.language as tl

from tstn_kernels.coords import (
    centred,
    channel_block,
    channel_run,
    first_sample,
    flow_px,
    over_channels,
    program_place,
    program_sample,
    repeated,
    source_image,
    target_frame,
    target_tile,
)
from tstn_kernels.fill import fill_values, filled
from tstn_kernels.interpolation import footprint_tap, source_taps, tap_at, tap_weight
from tstn_kernels.rounding import rounded


@triton.jit(
    do_not_specialize=[
        "N",
        "M",
        "H",
        "W",
        "H_OUT",
        "W_OUT",
        "constants",
        "views",
        "views_by",
        "views_shift",
        "across",
        "across_by",
        "across_shift",
        "tiles",
        "tiles_by",
        "tiles_shift",
        "splits",
        "splits_by",
        "splits_shift",
    ]
)
def sample_forward_kernel(
    output_ptr,
    input_ptr,
    theta_ptr,
    flow_ptr,
    fill_ptr,
    index_ptr,
    constants_ptr,
    fill_value,
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
    C,
    H,
    W,
    H_OUT,
    W_OUT,
    constants,
    channels_per_program,
    scale_xx,
    scale_xy,
    scale_yx,
    scale_yy,
    extent_x,
    extent_y,
    per_x_out,
    per_y_out,
    views,
    views_by,
    views_shift,
    across,
    across_by,
    across_shift,
    tiles,
    tiles_by,
    tiles_shift,
    splits,
    splits_by,
    splits_shift,
    MAP: tl.constexpr,
    SAMPLES: tl.constexpr,
    FLOW: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    FILL: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    INDEXED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PART_BLOCKS: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    DTYPE: tl.constexpr,
    OFFSET: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """output[m, c, p] = sum over taps of weight(T_theta[m](p) + flow[m, p], tap) * input[n(m), c, tap].

    A program has one tile of output pixels of SAMPLES samples in turn, and a run of channels that is a multiple of
    BLOCK_C unless it is the last. Its lanes are pixels. In NCHW a lane goes through the channels, BLOCK_C at a time; in
    channels_last values lie (lane, channel), so that lanes follow memory in both.
    """
    TAPS: tl.constexpr = 1 if MODE == "nearest" else 2 if MODE == "bilinear" else 4
    # Sixteen bicubic taps at a time would not fit into the registers.
    ROWS: tl.constexpr = 1 if MODE == "bicubic" else TAPS
    UNROLL: tl.constexpr = 1 if CHANNELS_LAST else BLOCK_C

    scales = (scale_xx, scale_xy, scale_yx, scale_yy, extent_x, extent_y, per_x_out, per_y_out)
    views = (views, views_by, views_shift)
    across = (across, across_by, across_shift)
    tiles = (tiles, tiles_by, tiles_shift)
    splits = (splits, splits_by, splits_shift)
    group, tile, split = program_place(tiles, splits)
    row, col, inside = target_tile(tile, (H_OUT, W_OUT), across, TILE_H, TILE_W)
    frame = target_frame((H, W, H_OUT, W_OUT), scales, ALIGN_CORNERS, DTYPE)
    first, others = first_sample(group, M, SAMPLES)
    first_m = first.to(tl.int64)
    theta = (theta_ptr + first_m * theta_stride_m, theta_stride_m, theta_stride_p, others)
    x, y = centred(col, W_OUT, DTYPE), centred(row, H_OUT, DTYPE)
    sources = MAP(theta, (constants_ptr, constants), x, y, frame, SAMPLES)
    for sample in tl.static_range(SAMPLES):
        m, here = program_sample(first, others, sample, inside, SAMPLES)
        x_source, y_source = sources[2 * sample], sources[2 * sample + 1]
        if FLOW:
            flow_strides = (flow_stride_m, flow_stride_h, flow_stride_w, flow_stride_xy)
            flow_x, flow_y = flow_px(flow_ptr, m, row, col, here, flow_strides, frame, OFFSET, DTYPE)
            x_source += flow_x
            y_source += flow_y
        first_x, past_x, _ = source_taps(x_source, W, MODE, PADDING, ALIGN_CORNERS, DTYPE)
        first_y, past_y, _ = source_taps(y_source, H, MODE, PADDING, ALIGN_CORNERS, DTYPE)
        corner = (first_x, first_y)

        n, exists = source_image(m, index_ptr, N, M, views, INDEXED)
        input_at = input_ptr + n * input_stride_n
        output_at = output_ptr + m.to(tl.int64) * output_stride_m
        output_offset = row.to(OFFSET) * output_stride_h + col.to(OFFSET) * output_stride_w
        output_at += over_channels(output_offset, CHANNELS_LAST)
        in_tile = over_channels(here, CHANNELS_LAST)
        input_strides = (input_stride_h, input_stride_w)

        run_start, run_end = channel_run(split, channels_per_program, C, ONE_BLOCK)
        for channel_start in range(run_start, run_end, BLOCK_C):
            c = channel_block(channel_start, in_tile, CHANNELS_LAST, BLOCK_C)
            # In NCHW a lane has a sum for each channel of the block, in channels_last the block is one value.
            values = repeated(tl.zeros((in_tile & (c < C)).shape, DTYPE), UNROLL)
            # Weight of the taps outside.
            missing = tl.zeros(in_tile.shape, DTYPE)
            for rows in range(0, TAPS, ROWS):
                for tap in tl.static_range(ROWS * TAPS):
                    i, j = tap % TAPS, rows + tap // TAPS
                    taps, seen = footprint_tap(corner, i, j, (H, W), MODE, PADDING, ALIGN_CORNERS)
                    seen = over_channels(seen, CHANNELS_LAST)
                    if INDEXED:
                        seen = seen & exists
                    at = tap_at(input_at, taps, i, j, input_strides, MODE, CHANNELS_LAST, OFFSET)
                    weight = over_channels(tap_weight(past_x, i, MODE) * tap_weight(past_y, j, MODE), CHANNELS_LAST)
                    if FILL != "none":
                        missing += tl.where(seen, 0.0, weight)
                    sums = ()
                    for channel in tl.static_range(UNROLL):
                        mask = seen & in_tile
                        if PART_BLOCKS:
                            mask = mask & (c + channel < C)
                        at_c = at + (c + channel).to(OFFSET) * input_stride_c
                        value = tl.load(at_c, mask=mask, other=0.0).to(DTYPE)
                        sums = sums + (values[channel] + value * weight,)
                    values = sums
            fills = fill_values(fill_ptr, fill_value, fill_stride, c, C, FILL, DTYPE, UNROLL)
            for channel in tl.static_range(UNROLL):
                value = values[channel]
                if FILL != "none":
                    value = filled(value, fills[channel], missing)
                if INDEXED:
                    value = tl.where(exists, value, float("nan"))
                at_c = output_at + (c + channel).to(OFFSET) * output_stride_c
                tl.store(at_c, rounded(value, output_ptr), mask=in_tile & (c + channel < C) if PART_BLOCKS else in_tile)
