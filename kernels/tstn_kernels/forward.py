"""The forward kernel: where each output pixel looks, the look, the store."""

import triton
import triton.language as tl

from tstn_kernels.coords import program_place, source_image, target_frame, target_tile
from tstn_kernels.interpolation import source_taps, tap_weight
from tstn_kernels.rounding import rounded


@triton.jit(do_not_specialize=["N", "views", "H", "W", "H_OUT", "W_OUT"])
def sample_forward_kernel(
    output_ptr,
    input_ptr,
    theta_ptr,
    fill_ptr,
    index_ptr,
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
    """output[m, c, p] = sum over taps of weight(T_theta[m](p), tap) * input[n(m), c, tap].

    A program has one tile of output pixels of one sample, and a run of channels that is a multiple of BLOCK_C unless
    it is the last. Tiles of values lie
    (channel, pixel) in NCHW and (pixel, channel) in channels_last, so that lanes follow memory.
    """
    CHANNEL_AXIS: tl.constexpr = 1 if CHANNELS_LAST else 0
    PIXEL_AXIS: tl.constexpr = 1 - CHANNEL_AXIS
    TAPS: tl.constexpr = 1 if MODE == "nearest" else 2

    m, tile, split, _ = program_place(H_OUT, W_OUT, C, channels_per_program, TILE_H, TILE_W)
    row, col, inside = target_tile(tile, H_OUT, W_OUT, TILE_H, TILE_W)
    x, y, ratios, extents = target_frame(row, col, H, W, H_OUT, W_OUT, ALIGN_CORNERS, DTYPE)
    theta_ptr += m.to(tl.int64) * theta_stride_m
    pixel = row.to(OFFSET) * W_OUT + col
    x_source, y_source = MAP(theta_ptr, theta_stride_p, pixel, inside, x, y, ratios, extents)
    first_x, past_x, _ = source_taps(x_source, W, MODE, PADDING, ALIGN_CORNERS, DTYPE)
    first_y, past_y, _ = source_taps(y_source, H, MODE, PADDING, ALIGN_CORNERS, DTYPE)

    n, exists = source_image(m, index_ptr, N, views, INDEXED)
    input_ptr += n * input_stride_n
    output_ptr += m.to(tl.int64) * output_stride_m
    output_offset = tl.expand_dims(row.to(OFFSET) * output_stride_h + col.to(OFFSET) * output_stride_w, CHANNEL_AXIS)
    inside = tl.expand_dims(inside, CHANNEL_AXIS)

    channel_end = tl.minimum((split + 1) * channels_per_program, C)
    for channel_start in range(split * channels_per_program, channel_end, BLOCK_C):
        c = channel_start + tl.arange(0, BLOCK_C)
        c_inside = tl.expand_dims(c < C, PIXEL_AXIS)
        input_offset_c = tl.expand_dims(c.to(OFFSET) * input_stride_c, PIXEL_AXIS)
        if FILL == "scalar":
            fill = tl.cast(fill_value, DTYPE)
        elif FILL == "channel":
            fill = tl.load(fill_ptr + c * fill_stride, mask=c < C, other=0.0).to(DTYPE)
            fill = tl.expand_dims(fill, PIXEL_AXIS)
        value = tl.zeros((inside & c_inside).shape, DTYPE)
        for j in tl.static_range(TAPS):
            for i in tl.static_range(TAPS):
                tap_x = first_x + i
                tap_y = first_y + j
                weight = tap_weight(past_x, i, MODE) * tap_weight(past_y, j, MODE)
                covered = (tap_x >= 0) & (tap_x < W) & (tap_y >= 0) & (tap_y < H)
                if INDEXED:
                    covered = covered & exists
                covered = tl.expand_dims(covered, CHANNEL_AXIS)
                offset = tap_y.to(OFFSET) * input_stride_h + tap_x.to(OFFSET) * input_stride_w
                offset = tl.expand_dims(offset, CHANNEL_AXIS) + input_offset_c
                tap = tl.load(input_ptr + offset, mask=covered & inside & c_inside, other=0.0).to(DTYPE)
                if FILL != "none":
                    tap = tl.where(covered, tap, fill)
                value += tap * tl.expand_dims(weight, CHANNEL_AXIS)
        if INDEXED:
            value = tl.where(exists, value, float("nan"))
        output_offset_c = tl.expand_dims(c.to(OFFSET) * output_stride_c, PIXEL_AXIS)
        output_at = output_ptr + output_offset + output_offset_c
        tl.store(output_at, rounded(value, output_ptr), mask=inside & c_inside)
