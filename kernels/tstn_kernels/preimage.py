"""Which output pixels can look at an input pixel: the inverse of each matrix family, as a box of output pixels.

``preimage(matrix, x, y, reach, H_OUT, W_OUT, frame)`` takes a family's matrix, as :mod:`tstn_kernels.maps` has it,
and source points (x, y), in pixels about the input's centre. It returns, for each, ``first_x, past_x, first_y,
past_y``: every output pixel that looks less than ``reach`` pixels beside the point, on both axes, has its column in
[first_x, past_x) and its row in [first_y, past_y), but for those which rounding puts at the very edge. Boxes of
points at which nothing looks are empty, unless nothing better than the whole output is known.

``reaches(matrix, x, y, reach_x, reach_y, H_OUT, W_OUT, frame)`` tells cheaply, of one point, that nothing looks
less than that beside it.
"""

import triton
import triton.language as tl

from tstn_kernels.coords import centre_px, quotients

# Stands for infinity where infinity times zero would be in the way.
FAR = tl.constexpr(1e30)
# The smallest normal float32.
TINY = tl.constexpr(2.0**-126)


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
def pixels_between(low, high, reached, size):
    """The first pixel and the one past the last with centred coordinates in the open interval (low, high)."""
    centre = centre_px(size, low.dtype)
    low = tl.where(reached, tl.minimum(tl.maximum(low, -FAR), FAR), FAR)
    high = tl.where(reached, tl.minimum(tl.maximum(high, -FAR), FAR), -FAR)
    first = tl.floor(tl.minimum(tl.maximum(low + centre, -1.0), size)) + 1.0
    past = tl.ceil(tl.minimum(tl.maximum(high + centre, 0.0), size))
    return first.to(tl.int32), past.to(tl.int32)


@triton.jit
def linear_bounds(position, reach, inverse):
    """Bounds on t where |position - t / inverse| < reach; an inverse of 0 stands for an infinite one."""
    flat = inverse == 0.0
    whole = tl.abs(position) <= reach
    low = tl.where(flat, tl.where(whole, -FAR, FAR), (position - reach) * inverse)
    high = tl.where(flat, tl.where(whole, FAR, -FAR), (position + reach) * inverse)
    return low, high


@triton.jit
def affine_span(matrix, reach_x, reach_y, H_OUT, W_OUT, dtype: tl.constexpr):
    """How far from t the output's rectangle looks, and as far as reach beyond, on each axis."""
    most_x, most_y = centre_px(W_OUT, dtype), centre_px(H_OUT, dtype)
    span_x = tl.abs(matrix[0]) * most_x + (tl.abs(matrix[1]) * most_y + reach_x)
    return span_x, tl.abs(matrix[3]) * most_x + (tl.abs(matrix[4]) * most_y + reach_y)


@triton.jit
def affine_reaches(matrix, x, y, reach_x, reach_y, H_OUT, W_OUT, frame):
    """False if nothing looks less than (reach_x, reach_y) beside the point (x, y)."""
    span_x, span_y = affine_span(matrix, reach_x, reach_y, H_OUT, W_OUT, frame[0].dtype)
    return (tl.abs(x - matrix[2]) < span_x) & (tl.abs(y - matrix[5]) < span_y)


@triton.jit
def projective_reaches(matrix, x, y, reach_x, reach_y, H_OUT, W_OUT, frame):
    """True: to know better costs as much as the box."""
    return tl.full((), 1, tl.int1)


@triton.jit
def affine_preimage(matrix, x, y, reach, H_OUT, W_OUT, frame):
    """A^-1 ((x, y) - t) +- |A^-1| (reach, reach), within what A maps the output's rectangle to

    Where A is singular or nearly so, the adjugate still tells at which points nothing looks.
    """
    dtype: tl.constexpr = frame[0].dtype
    a, b, c, d, e, f = matrix
    x -= c
    y -= f
    span_x, span_y = affine_span(matrix, reach, reach, H_OUT, W_OUT, dtype)
    sane = (span_x < FAR) & (span_y < FAR)
    reached = (tl.abs(x) < tl.where(sane, span_x, -1.0)) & (tl.abs(y) < span_y)

    scale = scale_to_one(tl.maximum(tl.maximum(tl.abs(a), tl.abs(b)), tl.maximum(tl.abs(d), tl.abs(e))))
    a, b, d, e = a * scale, b * scale, d * scale, e * scale
    determinant = tl.where(sane, difference_of_products(a, e, b, d), 0.0)
    turned = tl.where(determinant < 0.0, -1.0, 1.0).to(dtype)
    # A determinant without a finite reciprocal moves no look by anything that shows.
    flat = tl.abs(determinant) < TINY
    # Not Triton's own division, which is off by two units: at the far end of a large image that is a look missed.
    inverse, _ = quotients(scale, scale, tl.where(flat, 1.0, tl.abs(determinant)))
    inverse = tl.where(flat, 0.0, inverse)
    low_x, high_x = linear_bounds((e * x - b * y) * turned, (tl.abs(e) + tl.abs(b)) * reach, inverse)
    low_y, high_y = linear_bounds((a * y - d * x) * turned, (tl.abs(a) + tl.abs(d)) * reach, inverse)
    first_x, past_x = pixels_between(low_x, high_x, reached, W_OUT)
    first_y, past_y = pixels_between(low_y, high_y, reached, H_OUT)
    return first_x, past_x, first_y, past_y


@triton.jit
def corner_signs(corner: tl.constexpr):
    """-1 or 1 for x and for y."""
    return corner % 2 * 2.0 - 1.0, corner // 2 * 2.0 - 1.0


@triton.jit
def projective_preimage(matrix, x, y, reach, H_OUT, W_OUT, frame):
    """The box about the images, under the inverse, of the corners of (x, y) +- reach

    Where the line that the inverse sends to infinity comes in between, it is the whole output.
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
    # Wider by a little, as here no box is exact.
    reach = reach * 1.015625

    # Nothing looks outside the images of the output's corners, if w has one sign there.
    least_w = tl.full((), FAR, dtype)
    least_x, most_x, least_y, most_y, most_w = least_w, -least_w, least_w, -least_w, -least_w
    for corner in tl.static_range(4):
        sign_x, sign_y = corner_signs(corner)
        corner_x = sign_x * centre_px(W_OUT, dtype)
        corner_y = sign_y * centre_px(H_OUT, dtype)
        w = g * corner_x + (h * corner_y + i)
        seen = w != 0.0
        w_or_one = tl.where(seen, w, 1.0)
        source_x = (a * corner_x + (b * corner_y + c)) / w_or_one
        source_y = (d * corner_x + (e * corner_y + f)) / w_or_one
        least_x = tl.minimum(least_x, tl.where(seen, source_x, FAR))
        most_x = tl.maximum(most_x, tl.where(seen, source_x, -FAR))
        least_y = tl.minimum(least_y, tl.where(seen, source_y, FAR))
        most_y = tl.maximum(most_y, tl.where(seen, source_y, -FAR))
        least_w = tl.minimum(least_w, w)
        most_w = tl.maximum(most_w, w)
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
    # Of rank 1, everything looks at one point.
    point = tl.abs(xx) + tl.abs(xy) + tl.abs(xt) + tl.abs(yx) + tl.abs(yy) + tl.abs(yt) == 0.0
    point = point & (tl.abs(wx) + tl.abs(wy) + tl.abs(wt) == 0.0)
    one_sign = (least_w > 0.0) | (most_w < 0.0)
    known = one_sign | point
    least_x = tl.where(sane, tl.where(known, least_x, -FAR), FAR)
    most_x, least_y, most_y = (
        tl.where(known, most_x, FAR),
        tl.where(known, least_y, -FAR),
        tl.where(known, most_y, FAR),
    )
    reached = (x > least_x - reach) & (x < most_x + reach) & (y > least_y - reach) & (y < most_y + reach)

    target_w = wx * x + (wy * y + wt)
    bounded = tl.abs(target_w) > (tl.abs(wx) + tl.abs(wy)) * reach
    low_x = tl.full(x.shape, FAR, dtype)
    high_x, low_y, high_y = -low_x, low_x, -low_x
    for corner in tl.static_range(4):
        sign_x, sign_y = corner_signs(corner)
        corner_x = x + sign_x * reach
        corner_y = y + sign_y * reach
        w = tl.where(bounded, wx * corner_x + (wy * corner_y + wt), 1.0)
        inverse = 1.0 / tl.where(w == 0.0, 1.0, w)
        target_x = (xx * corner_x + (xy * corner_y + xt)) * inverse
        target_y = (yx * corner_x + (yy * corner_y + yt)) * inverse
        low_x, high_x = tl.minimum(low_x, target_x), tl.maximum(high_x, target_x)
        low_y, high_y = tl.minimum(low_y, target_y), tl.maximum(high_y, target_y)
    first_x, past_x = pixels_between(tl.where(bounded, low_x, -FAR), tl.where(bounded, high_x, FAR), reached, W_OUT)
    first_y, past_y = pixels_between(tl.where(bounded, low_y, -FAR), tl.where(bounded, high_y, FAR), reached, H_OUT)
    return first_x, past_x, first_y, past_y
