"""The backward kernel: one pass over the output's gradient."""

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
    queued,
    repeated,
    source_image,
    target_frame,
    target_tile,
)
from tstn_kernels.fill import fill_values, slope_of_fill, slopes_base
from tstn_kernels.fixed_point import add_fixed, fixed_exponent
from tstn_kernels.interpolation import (
    covered_weight,
    footprint_tap,
    lies_inside,
    source_taps,
    tap_at,
    tap_slope,
    tap_weight,
)
from tstn_kernels.maps import add_sums
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
        "turns",
        "count_bits",
        "views",
        "views_by",
        "views_shift",
        "across",
        "across_by",
        "across_shift",
        "parts",
        "parts_by",
        "parts_shift",
        "splits",
        "splits_by",
        "splits_shift",
    ]
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
    fill_value,
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
    C,
    H,
    W,
    H_OUT,
    W_OUT,
    constants,
    turns,
    channels_per_program,
    limb_stride,
    count_bits,
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
    parts,
    parts_by,
    parts_shift,
    splits,
    splits_by,
    splits_shift,
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
    PART_BLOCKS: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    INPUT_GRAD: tl.constexpr,
    THETA_GRAD: tl.constexpr,
    NUMBERS: tl.constexpr,
    FLOW_GRAD: tl.constexpr,
    FILL_GRAD: tl.constexpr,
    LOOPED: tl.constexpr,
    SIDE_BY_SIDE: tl.constexpr,
    CARRIED: tl.constexpr,
    DTYPE: tl.constexpr,
    OFFSET: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """grad_input[n, c, tap] += weight * grad_output; grad_theta = VJP(sum over c, tap of slope * input * grad_output).

    Programs as in sample_forward_kernel, but LOOPED each goes through every ``parts``-th tile, or SIDE_BY_SIDE through
    tiles that follow each other; CARRIED its lanes sum theta's gradient over these by themselves. grad_input is zeroed
    beforehand and in DTYPE, or summed in fixed point: INPUT_GRAD is "none", "atomic" or "fixed". grad_theta and
    grad_fill receive one part per program, summed in a fixed order by finish_backward_kernel; grad_flow each lane's own
    value. THETA_GRAD and FLOW_GRAD need a MODE with a slope; NUMBERS is how many theta has, or 0 where MAP_VJP adds
    them itself.
    """
    TAPS: tl.constexpr = 1 if MODE == "nearest" else 2 if MODE == "bilinear" else 4
    # Sixteen bicubic taps at a time would not fit into the registers.
    ROWS: tl.constexpr = 1 if MODE == "bicubic" else TAPS
    UNROLL: tl.constexpr = 1 if CHANNELS_LAST else BLOCK_C

    scales = (scale_xx, scale_xy, scale_yx, scale_yy, extent_x, extent_y, per_x_out, per_y_out)
    views = (views, views_by, views_shift)
    across = (across, across_by, across_shift)
    parts = (parts, parts_by, parts_shift)
    splits = (splits, splits_by, splits_shift)
    group, part, split = program_place(parts, splits)
    first, others = first_sample(group, M, SAMPLES)
    first_m = first.to(tl.int64)
    theta = (theta_ptr + first_m * theta_stride_m, theta_stride_m, theta_stride_p, others)
    frame = target_frame((H, W, H_OUT, W_OUT), scales, ALIGN_CORNERS, DTYPE)
    part_of_theta = (part * splits[0] + split).to(tl.int64)
    grad_theta_ptr += first_m * grad_theta_stride_m + part_of_theta * grad_theta_stride_part
    part_of_fill = (group * parts[0] + part).to(tl.int64)
    run_start, run_end = channel_run(split, channels_per_program, C, ONE_BLOCK)
    input_strides = (input_stride_h, input_stride_w)
    grad_input_strides = (grad_input_stride_h, grad_input_stride_w)
    if LOOPED == 0:
        turns = 1
    if CARRIED:
        carried = repeated(tl.zeros((TILE_H * TILE_W,), DTYPE), NUMBERS)
    for turn in range(turns):
        tile = part * turns + turn if SIDE_BY_SIDE else part + turn * parts[0]
        row, col, inside = target_tile(tile, (H_OUT, W_OUT), across, TILE_H, TILE_W)
        x, y = centred(col, W_OUT, DTYPE), centred(row, H_OUT, DTYPE)
        # A queue: each sample's coordinates leave it, and their gradients enter.
        sources = MAP(theta, (constants_ptr, constants), x, y, frame, SAMPLES)
        for sample in range(SAMPLES):
            m, here = program_sample(first, others, sample, inside, SAMPLES)
            x_source, y_source = sources[0], sources[1]
            if FLOW:
                flow_strides = (flow_stride_m, flow_stride_h, flow_stride_w, flow_stride_xy)
                flow_x, flow_y = flow_px(flow_ptr, m, row, col, here, flow_strides, frame, OFFSET, DTYPE)
                x_source += flow_x
                y_source += flow_y
            first_x, past_x, slope_x = source_taps(x_source, W, MODE, PADDING, ALIGN_CORNERS, DTYPE)
            first_y, past_y, slope_y = source_taps(y_source, H, MODE, PADDING, ALIGN_CORNERS, DTYPE)
            corner = (first_x, first_y)

            n, exists = source_image(m, index_ptr, N, M, views, INDEXED)
            input_at = input_ptr + n * input_stride_n
            grad_input_base = n * grad_input_stride_n
            if INPUT_GRAD == "fixed":
                peak = tl.load(grad_input_fixed_ptr + n, mask=(n >= 0) & (n < N), other=0)
                exponent = fixed_exponent(peak, count_bits, DTYPE)
            grad_output_at = grad_output_ptr + m.to(tl.int64) * grad_output_stride_m
            grad_output_offset = row.to(OFFSET) * grad_output_stride_h + col.to(OFFSET) * grad_output_stride_w
            grad_output_at += over_channels(grad_output_offset, CHANNELS_LAST)
            in_tile = over_channels(here, CHANNELS_LAST)
            real = in_tile & exists if INDEXED else in_tile

            if FILL_GRAD:
                covered_x = covered_weight(first_x, past_x, W, TAPS, MODE)
                covered_y = covered_weight(first_y, past_y, H, TAPS, MODE)
                missing = over_channels(1.0 - covered_x * covered_y, CHANNELS_LAST)
            grad_x = tl.zeros((in_tile & (channel_block(0, in_tile, CHANNELS_LAST, BLOCK_C) >= 0)).shape, DTYPE)
            grad_y = tl.zeros(grad_x.shape, DTYPE)
            for channel_start in range(run_start, run_end, BLOCK_C):
                c = channel_block(channel_start, in_tile, CHANNELS_LAST, BLOCK_C)
                fills = fill_values(fill_ptr, fill_value, fill_stride, c, C, FILL, DTYPE, UNROLL)
                grads = ()
                for channel in tl.static_range(UNROLL):
                    mask = in_tile & (c + channel < C) if PART_BLOCKS else in_tile
                    at_c = grad_output_at + (c + channel).to(OFFSET) * grad_output_stride_c
                    grads = grads + (tl.load(at_c, mask=mask, other=0.0).to(DTYPE),)
                if FILL != "none" and (THETA_GRAD or FLOW_GRAD):
                    whole = lies_inside(first_x, past_x, W, TAPS, MODE) & lies_inside(first_y, past_y, H, TAPS, MODE)
                    whole = over_channels(whole, CHANNELS_LAST)
                    bases = ()
                    for channel in tl.static_range(UNROLL):
                        slope = grads[channel] * slope_of_fill(fills[channel], whole)
                        grad_x += slope
                        grad_y += slope
                        bases = bases + (slopes_base(fills[channel]),)
                for rows in range(0, TAPS, ROWS):
                    # First what is read, then what is added: an addition in between would hold up the reads after it.
                    if THETA_GRAD or FLOW_GRAD:
                        for tap in tl.static_range(ROWS * TAPS):
                            i, j = tap % TAPS, rows + tap // TAPS
                            taps, seen = footprint_tap(corner, i, j, (H, W), MODE, PADDING, ALIGN_CORNERS)
                            seen = over_channels(seen, CHANNELS_LAST) & real
                            at = tap_at(input_at, taps, i, j, input_strides, MODE, CHANNELS_LAST, OFFSET)
                            # The gradient of this tap's weight.
                            grad_weight = tl.zeros(grad_x.shape, DTYPE)
                            for channel in tl.static_range(UNROLL):
                                mask = seen & (c + channel < C) if PART_BLOCKS else seen
                                at_c = at + (c + channel).to(OFFSET) * input_stride_c
                                value = tl.load(at_c, mask=mask, other=0.0).to(DTYPE)
                                if FILL != "none":
                                    # The slopes add up to zero: measured from the fill, taps outside add exactly
                                    # nothing.
                                    value = tl.where(mask, value - bases[channel], 0.0)
                                grad_weight += value * grads[channel]
                            slopes_x = tap_slope(past_x, i, MODE) * tap_weight(past_y, j, MODE)
                            slopes_y = tap_weight(past_x, i, MODE) * tap_slope(past_y, j, MODE)
                            grad_x += grad_weight * over_channels(slopes_x, CHANNELS_LAST)
                            grad_y += grad_weight * over_channels(slopes_y, CHANNELS_LAST)
                    if INPUT_GRAD != "none":
                        for tap in tl.static_range(ROWS * TAPS):
                            i, j = tap % TAPS, rows + tap // TAPS
                            taps, seen = footprint_tap(corner, i, j, (H, W), MODE, PADDING, ALIGN_CORNERS)
                            seen = over_channels(seen, CHANNELS_LAST) & real
                            into = tap_at(grad_input_base, taps, i, j, grad_input_strides, MODE, CHANNELS_LAST, OFFSET)
                            weight = tap_weight(past_x, i, MODE) * tap_weight(past_y, j, MODE)
                            weight = over_channels(weight, CHANNELS_LAST)
                            for channel in tl.static_range(UNROLL):
                                mask = seen & (c + channel < C) if PART_BLOCKS else seen
                                into_c = into + (c + channel).to(OFFSET) * grad_input_stride_c
                                addend = grads[channel] * weight
                                if INPUT_GRAD == "atomic":
                                    tl.atomic_add(grad_input_ptr + into_c, addend, mask=mask, sem="relaxed")
                                else:
                                    sums_ptr = grad_input_fixed_ptr + N
                                    scale = (exponent, limb_stride, count_bits)
                                    add_fixed(sums_ptr, grad_input_ptr, into_c, addend, mask, scale, DTYPE)
                if FILL_GRAD:
                    for channel in tl.static_range(UNROLL):
                        # In NCHW every lane has the same channel, which the first stands for.
                        grad_fill = tl.sum(grads[channel] * missing, 0, keep_dims=True)
                        c_one = tl.max(c + channel, 0, keep_dims=True)
                        at_c = grad_fill_ptr + part_of_fill * C + c_one
                        grad_fill += tl.load(at_c, mask=(c_one < C) & ((turn > 0) | (sample > 0)), other=0.0)
                        tl.store(at_c, grad_fill, mask=c_one < C)

            if CHANNELS_LAST:
                grad_x = tl.sum(grad_x, 1)
                grad_y = tl.sum(grad_y, 1)
            if THETA_GRAD or FLOW_GRAD:
                grad_x = tl.where(here, grad_x * slope_x, 0.0)
                grad_y = tl.where(here, grad_y * slope_y, 0.0)
            if FLOW_GRAD:
                at = grad_flow_ptr + m.to(tl.int64) * grad_flow_stride_m
                at += row.to(OFFSET) * grad_flow_stride_h + col.to(OFFSET) * grad_flow_stride_w
                tl.store(at, rounded(grad_x * frame[4], grad_flow_ptr), mask=here)
                tl.store(at + grad_flow_stride_xy, rounded(grad_y * frame[5], grad_flow_ptr), mask=here)
            sources = queued(sources, (grad_x, grad_y))
        if THETA_GRAD:
            grads = (grad_theta_ptr, grad_theta_stride_m, turn > 0)
            if NUMBERS == 0:
                # Anew, and with a zero that the compiler can't tell: it would keep what is made of them all along.
                again = tile + tl.minimum(others, 0)
                row, col, _ = target_tile(again, (H_OUT, W_OUT), across, TILE_H, TILE_W)
                x, y = centred(col, W_OUT, DTYPE), centred(row, H_OUT, DTYPE)
                MAP_VJP(grads, theta, (constants_ptr, constants), x, y, sources, frame, SAMPLES)
            else:
                values = MAP_VJP(theta, x, y, sources[0], sources[1], frame)
                if CARRIED:
                    sums = ()
                    for i in tl.static_range(NUMBERS):
                        sums = sums + (carried[i] + values[i],)
                    carried = sums
                else:
                    add_sums(grads, values, NUMBERS)
    if CARRIED:
        add_sums((grad_theta_ptr, grad_theta_stride_m, False), carried, NUMBERS)
