"""Which pixels a program writes, and their coordinates: the one place that knows align_corners."""

import triton
import triton.language as tl


@triton.jit
def half_extent(size, ALIGN_CORNERS: tl.constexpr, DTYPE: tl.constexpr):
    """Pixels per unit of normalised coordinate: size / 2, or (size - 1) / 2 with ALIGN_CORNERS."""
    pixels = tl.cast(size, DTYPE)
    if ALIGN_CORNERS:
        pixels -= 1.0
    return pixels * 0.5


@triton.jit
def centre_px(size, DTYPE: tl.constexpr):
    """The pixel coordinate of normalised 0: (size - 1) / 2 in both conventions."""
    return (tl.cast(size, DTYPE) - 1.0) * 0.5


@triton.jit
def quotient(a, b):
    """a / b, rounded correctly, so that a / a is 1 and a / 1 is a."""
    if a.dtype == tl.float32:
        return tl.div_rn(a, b)
    return a / b


@triton.jit
def program_place(parts, C, channels_per_program):
    """The group of samples, part of the tiles and run of channels that this program has, and the number of runs."""
    splits = tl.cdiv(C, channels_per_program)
    program = tl.program_id(0)
    return program // splits // parts, (program // splits) % parts, program % splits, splits


@triton.jit
def spread(value, SAMPLES: tl.constexpr):
    """(P,) repeated for each sample, (SAMPLES * P,)."""
    return tl.reshape(tl.broadcast_to(value[None, :], (SAMPLES, value.shape[0])), (SAMPLES * value.shape[0],))


@triton.jit
def program_samples(group, row, col, inside, M, SAMPLES: tl.constexpr):
    """The sample, row, column and validity of each lane, for a tile of pixels of SAMPLES samples.

    One sample is a scalar, so that addresses are one base and small offsets.
    """
    if SAMPLES == 1:
        return group, row, col, inside
    else:
        m = group * SAMPLES + tl.arange(0, SAMPLES)
        m = tl.reshape(tl.broadcast_to(m[:, None], (SAMPLES, row.shape[0])), (SAMPLES * row.shape[0],))
        return m, spread(row, SAMPLES), spread(col, SAMPLES), spread(inside, SAMPLES) & (m < M)


@triton.jit
def aligned(value, SAMPLES: tl.constexpr, CHANNEL_AXIS: tl.constexpr):
    """What each sample has, one scalar or one per lane, ready to meet a tile of lanes and channels."""
    if SAMPLES == 1:
        return value
    else:
        return tl.expand_dims(value, CHANNEL_AXIS)


@triton.jit
def target_tile(tile, H_OUT, W_OUT, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Row, column and validity of each output pixel of a tile, (TILE_H * TILE_W,) each, row-major."""
    lane = tl.arange(0, TILE_H * TILE_W)
    tiles_w = tl.cdiv(W_OUT, TILE_W)
    row = (tile // tiles_w) * TILE_H + lane // TILE_W
    col = (tile % tiles_w) * TILE_W + lane % TILE_W
    return row, col, (row < H_OUT) & (col < W_OUT)


@triton.jit
def target_frame(row, col, H, W, H_OUT, W_OUT, ALIGN_CORNERS: tl.constexpr, DTYPE: tl.constexpr):
    """Target pixels about the output's centre, x and y, and the frame of numbers that the maps take.

    The frame: input pixels per output pixel under the identity, xx, xy, yx, yy, first the source's axis, exactly 1
    for equal sizes, so that whole pixels stay whole; then the half extents of the input, x and y, and the output.
    """
    extent_x = half_extent(W, ALIGN_CORNERS, DTYPE)
    extent_y = half_extent(H, ALIGN_CORNERS, DTYPE)
    extent_x_out = tl.maximum(half_extent(W_OUT, ALIGN_CORNERS, DTYPE), 0.5)
    extent_y_out = tl.maximum(half_extent(H_OUT, ALIGN_CORNERS, DTYPE), 0.5)
    frame = (
        quotient(extent_x, extent_x_out),
        quotient(extent_x, extent_y_out),
        quotient(extent_y, extent_x_out),
        quotient(extent_y, extent_y_out),
        extent_x,
        extent_y,
        extent_x_out,
        extent_y_out,
    )
    x = col.to(DTYPE) - centre_px(W_OUT, DTYPE)
    y = row.to(DTYPE) - centre_px(H_OUT, DTYPE)
    return x, y, frame


@triton.jit
def flow_px(flow_ptr, m, row, col, inside, strides, frame, OFFSET: tl.constexpr, DTYPE: tl.constexpr):
    """The displacement field's value at each lane, x and y, in input pixels; strides are those of (m, h, w, xy)."""
    at = flow_ptr + m.to(tl.int64) * strides[0] + (row.to(OFFSET) * strides[1] + col.to(OFFSET) * strides[2])
    x_norm = tl.load(at, mask=inside, other=0.0).to(DTYPE)
    y_norm = tl.load(at + strides[3], mask=inside, other=0.0).to(DTYPE)
    return x_norm * frame[4], y_norm * frame[5]


@triton.jit
def source_image(m, index_ptr, N, M, views, INDEXED: tl.constexpr):
    """The input that theta m reads, as int64, and whether there is such an input."""
    if INDEXED:
        n = tl.load(index_ptr + m, mask=m < M, other=-1)
        return n, (n >= 0) & (n < N)
    else:
        n = (m // views).to(tl.int64)
        return n, n >= 0
