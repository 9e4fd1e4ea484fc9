"""The input's gradient without atomics: each input pixel looks up the output pixels that looked at it."""

import triton
import triton.language as tl

from tstn_kernels.coords import (
    centre_px,
    centred,
    channel_block,
    channel_run,
    divided,
    over_channels,
    program_place,
    remainder,
    repeated,
    target_frame,
    target_tile,
    tile_centre,
)
from tstn_kernels.interpolation import distance_weight, nearest_weight
from tstn_kernels.preimage import first_pixel
from tstn_kernels.rounding import rounded


@triton.jit(
    do_not_specialize=[
        "views",
        "H",
        "W",
        "H_OUT",
        "W_OUT",
        "shares",
        "shares_by",
        "shares_shift",
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
def gather_backward_kernel(
    grad_input_ptr,
    grad_output_ptr,
    theta_ptr,
    order_ptr,
    starts_ptr,
    grad_input_stride_share,
    grad_input_stride_n,
    grad_input_stride_c,
    grad_input_stride_h,
    grad_input_stride_w,
    grad_output_stride_m,
    grad_output_stride_c,
    grad_output_stride_h,
    grad_output_stride_w,
    theta_stride_m,
    theta_stride_p,
    views,
    C,
    H,
    W,
    H_OUT,
    W_OUT,
    channels_per_program,
    scale_xx,
    scale_xy,
    scale_yx,
    scale_yy,
    extent_x,
    extent_y,
    per_x_out,
    per_y_out,
    shares,
    shares_by,
    shares_shift,
    across,
    across_by,
    across_shift,
    tiles,
    tiles_by,
    tiles_shift,
    splits,
    splits_by,
    splits_shift,
    MATRIX: tl.constexpr,
    POINT: tl.constexpr,
    ABOUT: tl.constexpr,
    DISTANCE: tl.constexpr,
    REACHES: tl.constexpr,
    BOXES: tl.constexpr,
    CORNER: tl.constexpr,
    MODE: tl.constexpr,
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
    """grad_input[n, c, q] = sum over m reading n, p in preimage(q) of weight(T_theta[m](p), q) * grad_output[m, c, p].

    For matrices with "zeros" padding. A program has one tile of pixels of one input, a run of channels, and one of
    ``shares`` shares of the thetas that read the input; thetas are taken in order, so that the sum is always the same.
    With INDEXED the thetas that read n are order[starts[n]:starts[n + 1]]. Tiles lie as in sample_forward_kernel.
    """
    UNROLL: tl.constexpr = 1 if CHANNELS_LAST else BLOCK_C
    # How far an output pixel looks. Nearest: with a margin for rounding, as its weights do not fade out.
    REACH: tl.constexpr = 0.515625 if MODE == "nearest" else 1.0 if MODE == "bilinear" else 2.0

    scales = (scale_xx, scale_xy, scale_yx, scale_yy, extent_x, extent_y, per_x_out, per_y_out)
    shares = (shares, shares_by, shares_shift)
    across = (across, across_by, across_shift)
    tiles = (tiles, tiles_by, tiles_shift)
    splits = (splits, splits_by, splits_shift)
    group, tile, split = program_place(tiles, splits)
    n = divided(group, shares)
    share = remainder(group, n, shares)
    row, col, inside = target_tile(tile, (H, W), across, TILE_H, TILE_W)
    frame = target_frame((H, W, H_OUT, W_OUT), scales, ALIGN_CORNERS, DTYPE)
    x, y = centred(col, W, DTYPE), centred(row, H, DTYPE)
    reach = tl.full((), REACH, DTYPE)
    x_tile, y_tile = tile_centre(tile, (H, W), across, TILE_H, TILE_W, DTYPE)
    tile_box = (x_tile, y_tile, reach + (TILE_W - 1) * 0.5, reach + (TILE_H - 1) * 0.5)
    start = n * views
    stop = start + views
    if INDEXED:
        start = tl.load(starts_ptr + n).to(tl.int32)
        stop = tl.load(starts_ptr + n + 1).to(tl.int32)
    thetas_per_share = divided(stop - start + (shares[0] - 1), shares)
    start += share * thetas_per_share
    stop = tl.minimum(start + thetas_per_share, stop)

    grad_input_ptr += share.to(tl.int64) * grad_input_stride_share + n.to(tl.int64) * grad_input_stride_n
    in_tile = over_channels(inside, CHANNELS_LAST)
    run_start, run_end = channel_run(split, channels_per_program, C, ONE_BLOCK)
    for channel_start in range(run_start, run_end, BLOCK_C):
        c = channel_block(channel_start, in_tile, CHANNELS_LAST, BLOCK_C)
        # In NCHW a lane has a sum for each channel of the block, in channels_last the block is one value.
        values = repeated(tl.zeros((in_tile & (c < C)).shape, DTYPE), UNROLL)
        for place in range(start, stop):
            m = tl.cast(place, tl.int64)
            if INDEXED:
                m = tl.load(order_ptr + place)
            matrix = MATRIX((theta_ptr + m * theta_stride_m, theta_stride_m, theta_stride_p, 1), frame)
            grad_output_at = grad_output_ptr + m * grad_output_stride_m
            if REACHES(matrix, tile_box, H_OUT, W_OUT, frame):
                columns, rows, inverse = BOXES(matrix, tile_box, reach, H_OUT, W_OUT, frame)
                corner_x, corner_y = CORNER(inverse, x, y)
                first_x, first_y = first_pixel(corner_x, columns, W_OUT), first_pixel(corner_y, rows, H_OUT)
                offset = first_y.to(OFFSET) * grad_output_stride_h + first_x.to(OFFSET) * grad_output_stride_w
                x_target, y_target = first_x - centre_px(W_OUT, DTYPE), first_y - centre_px(H_OUT, DTYPE)
                about = ABOUT(matrix, x, y, frame)
                # From the end of a box's row to the start of its next.
                back = columns.to(DTYPE)
                down = grad_output_stride_h - columns.to(OFFSET) * grad_output_stride_w
                for _ in range(rows):
                    for _ in range(columns):
                        if MODE == "nearest":
                            x_source, y_source = POINT(matrix, x_target, y_target, frame)
                            weight = nearest_weight(x_source, col, W) * nearest_weight(y_source, row, H)
                        else:
                            beside_x, beside_y = DISTANCE(about, x_target, y_target, frame)
                            weight = distance_weight(beside_x, MODE) * distance_weight(beside_y, MODE)
                        weight = over_channels(weight, CHANNELS_LAST)
                        target_at = grad_output_at + over_channels(offset, CHANNELS_LAST)
                        sums = ()
                        for channel in tl.static_range(UNROLL):
                            at = target_at + (c + channel).to(OFFSET) * grad_output_stride_c
                            mask = weight != 0.0
                            if PART_BLOCKS:
                                mask = mask & (c + channel < C)
                            grad = tl.load(at, mask=mask, other=0.0).to(DTYPE)
                            sums = sums + (values[channel] + grad * weight,)
                        values = sums
                        x_target += 1.0
                        offset += grad_output_stride_w
                    x_target -= back
                    y_target += 1.0
                    offset += down
        offset = row.to(OFFSET) * grad_input_stride_h + col.to(OFFSET) * grad_input_stride_w
        grad_input_at = grad_input_ptr + over_channels(offset, CHANNELS_LAST)
        for channel in tl.static_range(UNROLL):
            at = grad_input_at + (c + channel).to(OFFSET) * grad_input_stride_c
            tl.store(at, rounded(values[channel], grad_input_ptr), mask=in_tile & (c + channel < C))
