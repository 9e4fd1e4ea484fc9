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
def quotients(a, b, divisor):
    """a / divisor and b / divisor by one reciprocal, within an ulp, and exact where the quotient is a number.

    NaN at 0, and at divisors so small that their reciprocal is infinite.
    """
    divisor = tl.where(divisor == 0.0, float("nan"), divisor)
    reciprocal = 1.0 / divisor
    reciprocal = tl.fma(tl.fma(-reciprocal, divisor, 1.0), reciprocal, reciprocal)
    a_over, b_over = a * reciprocal, b * reciprocal
    # What is left over, divided in turn.
    a_over = tl.fma(tl.fma(-a_over, divisor, a), reciprocal, a_over)
    return a_over, tl.fma(tl.fma(-b_over, divisor, b), reciprocal, b_over)


@triton.jit
def divided(n, divisor):
    """n // d for 0 <= n < 2^31, by multiplication; divisor is d, its scaled reciprocal and the shift that undoes it.

    GPUs divide integers in some twenty instructions.
    """
    twice = n.to(tl.uint32) << 1
    return (tl.umulhi(twice, divisor[1].to(tl.uint32, bitcast=True)) >> divisor[2].to(tl.uint32)).to(tl.int32)


@triton.jit
def remainder(n, quotient, divisor):
    """n % d, from n // d."""
    return n - quotient * divisor[0]


@triton.jit
def program_place(parts, splits):
    """The group of samples, part of the tiles and run of channels that this program has."""
    program = tl.program_id(0)
    rest = divided(program, splits)
    group = divided(rest, parts)
    return group, remainder(rest, group, parts), remainder(program, rest, splits)


@triton.jit
def first_sample(group, M, SAMPLES: tl.constexpr):
    """The first of the SAMPLES samples that a program goes through, and how many of these are another program's."""
    if SAMPLES == 1:
        return group, 0
    else:
        # The last group goes back to be whole.
        first = tl.minimum(group * SAMPLES, M - SAMPLES)
        return first, group * SAMPLES - first


@triton.jit
def program_sample(first, others, sample, inside, SAMPLES: tl.constexpr):
    """One of a program's samples, and which pixels of a tile are real and this program's."""
    if SAMPLES == 1:
        return first, inside
    else:
        return first + sample, inside & (sample >= others)


@triton.jit
def over_channels(value, CHANNELS_LAST: tl.constexpr):
    """What each lane has, ready to meet a block of channels: lanes are rows of it in channels_last, else all of it."""
    if CHANNELS_LAST:
        return tl.expand_dims(value, 1)
    else:
        return value


@triton.jit
def channel_block(first, lanes, CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr):
    """Channels from the first on: a row of BLOCK_C in channels_last, else one, for all lanes."""
    if CHANNELS_LAST:
        return first + tl.arange(0, BLOCK_C)[None, :]
    else:
        return tl.full(lanes.shape, first, tl.int32)


@triton.jit
def channel_run(split, run, C, ONE_BLOCK: tl.constexpr):
    """Where a program's channels begin and end. One block of them needs no loop, which the compiler then sees."""
    if ONE_BLOCK:
        return 0, 1
    else:
        return split * run, tl.minimum((split + 1) * run, C)


@triton.jit
def repeated(value, count: tl.constexpr):
    """A tuple of the same value."""
    values = ()
    for i in tl.static_range(count):
        values = values + (value,)
    return values


@triton.jit
def queued(queue, values):
    """A tuple without its first values, as many as there are new ones, which follow at the end."""
    rest = ()
    for i in tl.static_range(len(values), len(queue)):
        rest = rest + (queue[i],)
    return rest + values


@triton.jit
def within(pixel, size):
    """0 <= pixel < size"""
    return pixel.to(tl.uint32, bitcast=True) < size.to(tl.uint32)


@triton.jit
def target_tile(tile, size, across, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Row, column and validity of each pixel of a tile, (TILE_H * TILE_W,) each, row-major; ``across`` tiles side by
    side, of an image of ``size`` (height, width).
    """
    lane = tl.arange(0, TILE_H * TILE_W)
    tile_row = divided(tile, across)
    row = tile_row * TILE_H + lane // TILE_W
    # By bits: where the compiler sees that columns follow each other, it lays out stores unlike loads, and carries
    # values from one to the other through shared memory.
    col = remainder(tile, tile_row, across) * TILE_W + (lane & (TILE_W - 1))
    return row, col, (row < size[0]) & (col < size[1])


@triton.jit
def tile_centre(tile, size, across, TILE_H: tl.constexpr, TILE_W: tl.constexpr, DTYPE: tl.constexpr):
    """The centre of a tile, x and y, in pixels about the image's centre."""
    tile_row = divided(tile, across)
    x = (remainder(tile, tile_row, across) * TILE_W).to(DTYPE) + ((TILE_W - 1) * 0.5 - centre_px(size[1], DTYPE))
    y = (tile_row * TILE_H).to(DTYPE) + ((TILE_H - 1) * 0.5 - centre_px(size[0], DTYPE))
    return x, y


@triton.jit
def target_frame(sizes, scales, ALIGN_CORNERS: tl.constexpr, DTYPE: tl.constexpr):
    """The frame of numbers that the maps take, from the sizes (H, W, H_OUT, W_OUT).

    Input pixels per output pixel under the identity, xx, xy, yx, yy, first the source's axis, exactly 1 for equal
    sizes, so that whole pixels stay whole; then the half extents of the input, x and y, and one over the output's.
    ``scales`` are the same in float32.
    """
    if DTYPE == tl.float32:
        # In the interpreter a kernel's float arguments are Python's.
        xx, xy, yx, yy = scales[0], scales[1], scales[2], scales[3]
        xx, xy, yx, yy = tl.cast(xx, DTYPE), tl.cast(xy, DTYPE), tl.cast(yx, DTYPE), tl.cast(yy, DTYPE)
        extent_x, extent_y = tl.cast(scales[4], DTYPE), tl.cast(scales[5], DTYPE)
        return xx, xy, yx, yy, extent_x, extent_y, tl.cast(scales[6], DTYPE), tl.cast(scales[7], DTYPE)
    else:
        extent_x = half_extent(sizes[1], ALIGN_CORNERS, DTYPE)
        extent_y = half_extent(sizes[0], ALIGN_CORNERS, DTYPE)
        extent_x_out = tl.maximum(half_extent(sizes[3], ALIGN_CORNERS, DTYPE), 0.5)
        extent_y_out = tl.maximum(half_extent(sizes[2], ALIGN_CORNERS, DTYPE), 0.5)
        one = tl.full((), 1.0, DTYPE)
        return (
            quotient(extent_x, extent_x_out),
            quotient(extent_x, extent_y_out),
            quotient(extent_y, extent_x_out),
            quotient(extent_y, extent_y_out),
            extent_x,
            extent_y,
            quotient(one, extent_x_out),
            quotient(one, extent_y_out),
        )


@triton.jit
def centred(pixel, size, DTYPE: tl.constexpr):
    """Pixels along an axis, counted from its centre."""
    return pixel.to(DTYPE) - centre_px(size, DTYPE)


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
        n = divided(m, views).to(tl.int64)
        return n, n >= 0
