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
def extent_ratio(extent, extent_out, DTYPE: tl.constexpr):
    """Input pixels per output pixel under the identity; exactly 1 for equal sizes, so that whole pixels stay whole."""
    extent_out = tl.maximum(extent_out, 0.5)
    if DTYPE == tl.float32:
        return tl.div_rn(extent, extent_out)
    return extent / extent_out


@triton.jit
def program_place(H_OUT, W_OUT, C, channels_per_program, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """The sample, tile of output pixels and run of channels that this program has, and the number of runs."""
    tiles = tl.cdiv(H_OUT, TILE_H) * tl.cdiv(W_OUT, TILE_W)
    splits = tl.cdiv(C, channels_per_program)
    program = tl.program_id(0)
    return program // splits // tiles, (program // splits) % tiles, program % splits, splits


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
    """Target pixels about the output's centre, x and y, and the ratios and extents that the maps take."""
    extent_x = half_extent(W, ALIGN_CORNERS, DTYPE)
    extent_y = half_extent(H, ALIGN_CORNERS, DTYPE)
    extent_x_out = half_extent(W_OUT, ALIGN_CORNERS, DTYPE)
    extent_y_out = half_extent(H_OUT, ALIGN_CORNERS, DTYPE)
    ratios = (
        extent_ratio(extent_x, extent_x_out, DTYPE),
        extent_ratio(extent_x, extent_y_out, DTYPE),
        extent_ratio(extent_y, extent_x_out, DTYPE),
        extent_ratio(extent_y, extent_y_out, DTYPE),
    )
    x = col.to(DTYPE) - centre_px(W_OUT, DTYPE)
    y = row.to(DTYPE) - centre_px(H_OUT, DTYPE)
    return x, y, ratios, (extent_x, extent_y)


@triton.jit
def source_image(m, index_ptr, N, views, INDEXED: tl.constexpr):
    """The input that theta m reads, as int64, and whether there is such an input."""
    if INDEXED:
        n = tl.load(index_ptr + m)
        return n, (n >= 0) & (n < N)
    else:
        n = (m // views).to(tl.int64)
        return n, n >= 0
