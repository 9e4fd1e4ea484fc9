"""Which output pixels can look at an input pixel: the inverse of each matrix family, as boxes of output pixels.

They take a family's matrix, as :mod:`tstn_kernels.maps` has it; points are in pixels about the input's centre.

``reaches(matrix, tile, H_OUT, W_OUT, frame)`` tells cheaply that nothing looks at a tile of input pixels:
``tile`` is its centre, x and y, and how far from there looks matter, on each axis.

``boxes(matrix, tile, reach, H_OUT, W_OUT, frame)`` returns ``columns, rows, inverse``. Every output pixel that looks
less than ``reach`` pixels beside some pixel of the tile, on both axes, is in that pixel's box, but for those which
rounding puts at the very edge. All boxes of a tile are of one size: that of the whole output where nothing better
is known, empty where nothing looks at the tile.

``corner(inverse, x, y)`` returns where the box of (x, y) begins, counted from the output's first pixel, before it is
rounded down and brought into the output.
"""

import triton
import triton.language as tl

from tstn_kernels.coords import centre_px, quotients

# Stands for infinity where infinity times zero would be in the way.
FAR = tl.constexpr(1e30)
# The smallest normal float32.
TINY = tl.constexpr(2.0**-126)
# What may still be squared.
SMALL = tl.constexpr(2.0**-60)


@triton.jit
def difference_of_products(a, b, c, d):
    """a b - c d, to two units in the last place, however much cancels (Kahan)."""
    product = c * d
    error = tl.fma(c, d, -product)
    return tl.fma(a, b, -product) - error


@triton.jit
def scale_to_one(size):
    """The power of two that brings a size to [1, 2); of nonsense, some power of two."""
    size = tl.minimum(tl.maximum(size, 1e-30), 1e30)
    # The exponent's sign turned, by its bits.
    if size.dtype == tl.float64:
        bits = size.to(tl.int64, bitcast=True) & 0x7FF0000000000000
        return (0x7FE0000000000000 - bits).to(tl.float64, bitcast=True)
    else:
        bits = size.to(tl.int32, bitcast=True) & 0x7F800000
        return (0x7F000000 - bits).to(tl.float32, bitcast=True)


@triton.jit
def first_pixel(corner, count, size):
    """The first of ``count`` pixels of an axis, from a box's corner; all of them are in the output."""
    return tl.maximum(tl.minimum(tl.floor(corner), (size - count).to(corner.dtype)), 0.0)


@triton.jit
def box_size(half, size):
    """How many pixels of an axis the open interval (-half, half) has at most, wherever it is moved to."""
    return tl.minimum(tl.ceil(2.0 * half), size.to(half.dtype)).to(tl.int32)


@triton.jit
def affine_reaches(matrix, tile, H_OUT, W_OUT, frame):
    """False if the box about what A maps the output's rectangle to does not touch the tile."""
    x, y, reach_x, reach_y = tile
    most_x, most_y = centre_px(W_OUT, frame[0].dtype), centre_px(H_OUT, frame[0].dtype)
    span_x = tl.abs(matrix[0]) * most_x + (tl.abs(matrix[1]) * most_y + reach_x)
    span_y = tl.abs(matrix[3]) * most_x + (tl.abs(matrix[4]) * most_y + reach_y)
    sane = (span_x < FAR) & (span_y < FAR)
    return sane & (tl.abs(x - matrix[2]) < span_x) & (tl.abs(y - matrix[5]) < span_y)


@triton.jit
def affine_boxes(matrix, tile, reach, H_OUT, W_OUT, frame):
    """A^-1 ((x, y) - t) +- |A^-1| (reach, reach)

    Where A is singular or nearly so, the adjugate still tells at which tiles nothing looks.
    """
    dtype: tl.constexpr = frame[0].dtype
    a, b, c, d, e, f = matrix
    most_x, most_y = centre_px(W_OUT, dtype), centre_px(H_OUT, dtype)
    # The adjugate, A^-1 up to a factor.
    scale = scale_to_one(tl.maximum(tl.maximum(tl.abs(a), tl.abs(b)), tl.maximum(tl.abs(d), tl.abs(e))))
    xx, xy, yx, yy = e * scale, -b * scale, -d * scale, a * scale
    determinant = difference_of_products(a, xx, d, -xy)
    x, y = tile[0] - c, tile[1] - f
    limit_x = tl.abs(xx) * tile[2] + (tl.abs(xy) * tile[3] + tl.abs(determinant) * most_x)
    limit_y = tl.abs(yx) * tile[2] + (tl.abs(yy) * tile[3] + tl.abs(determinant) * most_y)
    reached = (tl.abs(xx * x + xy * y) <= limit_x) & (tl.abs(yx * x + yy * y) <= limit_y)

    # Not Triton's own division, which is off by two units: at the far end of a large image that is a look missed.
    inverse, _ = quotients(1.0, 1.0, determinant)
    known = tl.abs(inverse) < FAR
    inverse = tl.where(known, inverse, 0.0)
    half_x = (tl.abs(xx) + tl.abs(xy)) * reach * tl.abs(inverse)
    half_y = (tl.abs(yx) + tl.abs(yy)) * reach * tl.abs(inverse)
    columns, rows = box_size(half_x, W_OUT), box_size(half_y, H_OUT)
    columns = tl.where(reached, tl.where(known, columns, W_OUT), 0)
    rows = tl.where(reached, tl.where(known, rows, H_OUT), 0)
    return columns, rows, (xx, xy, c, most_x + 1.0 - half_x, yx, yy, f, most_y + 1.0 - half_y, inverse)


@triton.jit
def affine_corner(inverse, x, y):
    """A^-1 ((x, y) - t) - |A^-1| (reach, reach), and past it by a pixel"""
    xx, xy, c, from_x, yx, yy, f, from_y, factor = inverse
    x -= c
    y -= f
    return (xx * x + xy * y) * factor + from_x, (yx * x + yy * y) * factor + from_y


@triton.jit
def projective_reaches(matrix, tile, H_OUT, W_OUT, frame):
    """True: to know better costs as much as the boxes."""
    return tl.full((), 1, tl.int1)


@triton.jit
def touches_image(matrix, tile, H_OUT, W_OUT):
    """Whether a tile touches the box about the images of the output's corners."""
    a, b, c, d, e, f, g, h, i = matrix
    dtype: tl.constexpr = a.dtype
    least_x = tl.full((), FAR, dtype)
    most_x, least_y, most_y = -least_x, least_x, -least_x
    for corner in tl.static_range(4):
        corner_x = (corner % 2 * 2.0 - 1.0) * centre_px(W_OUT, dtype)
        corner_y = (corner // 2 * 2.0 - 1.0) * centre_px(H_OUT, dtype)
        inverse = 1.0 / (g * corner_x + (h * corner_y + i))
        x = (a * corner_x + (b * corner_y + c)) * inverse
        y = (d * corner_x + (e * corner_y + f)) * inverse
        least_x, most_x = tl.minimum(least_x, x), tl.maximum(most_x, x)
        least_y, most_y = tl.minimum(least_y, y), tl.maximum(most_y, y)
    beside_x = (tile[0] > least_x - tile[2]) & (tile[0] < most_x + tile[2])
    return beside_x & (tile[1] > least_y - tile[3]) & (tile[1] < most_y + tile[3])


@triton.jit
def projective_boxes(matrix, tile, reach, H_OUT, W_OUT, frame):
    """The preimage of (x, y), and as far about it as the inverse's slopes in the tile say

    With (X, Y, W) the adjugate's image of (x, y, 1), the inverse is (X / W, Y / W), and its derivatives are
    det (e - h y, h x - b; g y - d, a - g x) / W^2. Where the line comes near that it sends to infinity, W = 0, a
    box is the whole output.
    """
    dtype: tl.constexpr = frame[0].dtype
    a, b, c, d, e, f, g, h, i = matrix
    g *= frame[6]
    h *= frame[7]
    size = tl.maximum(tl.maximum(tl.abs(a) + tl.abs(b) + tl.abs(c), tl.abs(d) + tl.abs(e) + tl.abs(f)), tl.abs(i))
    size = tl.maximum(size, tl.abs(g) + tl.abs(h))
    sane = size < FAR
    scale = tl.where(sane, scale_to_one(size), 0.0)
    a, b, c, d, e, f = a * scale, b * scale, c * scale, d * scale, e * scale, f * scale
    g, h, i = g * scale, h * scale, i * scale
    # The rows of the adjugate, which is the inverse up to scale.
    xx = difference_of_products(e, i, f, h)
    xy = difference_of_products(c, h, b, i)
    xt = difference_of_products(b, f, c, e)
    yx = difference_of_products(f, g, d, i)
    yy = difference_of_products(a, i, c, g)
    yt = difference_of_products(c, d, a, f)
    wx = difference_of_products(d, h, e, g)
    wy = difference_of_products(b, g, a, h)
    wt = difference_of_products(a, e, b, d)

    # To rounding, which matters where A is nearly singular.
    terms = tl.abs(a * xx) + tl.abs(b * yx) + tl.abs(c * wx)
    determinant = tl.abs(a * xx + b * yx + c * wx) + terms * 2.0**-20

    # Wider by a little, as here no box is exact.
    margin = 1.015625
    reach *= margin
    x, y, reach_x, reach_y = tile[0], tile[1], tile[2] * margin, tile[3] * margin
    most_x, most_y = centre_px(W_OUT, dtype), centre_px(H_OUT, dtype)
    w = wx * x + (wy * y + wt)
    around_w = tl.abs(wx) * reach_x + tl.abs(wy) * reach_y
    least_w = tl.abs(w) - around_w
    known = least_w > SMALL
    columns, rows = W_OUT, H_OUT
    from_x, from_y = tl.full((), 0.0, dtype), tl.full((), 0.0, dtype)
    if known:
        factor = determinant / (least_w * least_w)
        slope_xx = (tl.abs(e - h * y) + tl.abs(h) * reach_y) * factor
        slope_xy = (tl.abs(b - h * x) + tl.abs(h) * reach_x) * factor
        slope_yx = (tl.abs(d - g * y) + tl.abs(g) * reach_y) * factor
        slope_yy = (tl.abs(a - g * x) + tl.abs(g) * reach_x) * factor
        far_x = tl.abs((xx * x + (xy * y + xt)) / w) - (slope_xx * reach_x + slope_xy * reach_y)
        far_y = tl.abs((yx * x + (yy * y + yt)) / w) - (slope_yx * reach_x + slope_yy * reach_y)
        reached = (far_x <= most_x) & (far_y <= most_y)
        half_x, half_y = (slope_xx + slope_xy) * reach, (slope_yx + slope_yy) * reach
        columns, rows = box_size(half_x, W_OUT), box_size(half_y, H_OUT)
        from_x, from_y = most_x + 1.0 - half_x, most_y + 1.0 - half_y
    else:
        # What the output looks at has |W| = |det / w|.
        around_pole = tl.abs(g) * most_x + tl.abs(h) * most_y
        reached = sane & ((tl.abs(w) + around_w) * (tl.abs(i) + around_pole) >= tl.abs(a * xx + b * yx + c * wx))
        if tl.abs(i) > around_pole:
            box = (x, y, reach_x, reach_y)
            reached = reached & touches_image((a, b, c, d, e, f, g, h, i), box, H_OUT, W_OUT)
    columns, rows = tl.where(reached, columns, 0), tl.where(reached, rows, 0)
    # Where it is the whole output, a corner is of no account, but must be a number.
    wx, wy, wt = tl.where(known, wx, 0.0), tl.where(known, wy, 0.0), tl.where(known, wt, 1.0)
    return columns, rows, (xx, xy, xt, yx, yy, yt, wx, wy, wt, from_x, from_y)


@triton.jit
def projective_corner(inverse, x, y):
    """(X / W, Y / W), brought to where the box begins"""
    xx, xy, xt, yx, yy, yt, wx, wy, wt, from_x, from_y = inverse
    factor = 1.0 / (wx * x + (wy * y + wt))
    return (xx * x + (xy * y + xt)) * factor + from_x, (yx * x + (yy * y + yt)) * factor + from_y
