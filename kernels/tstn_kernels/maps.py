"""The coordinate map of each transform and its vector-Jacobian product.

Every map has the signature ``map(theta_ptr, stride, pixel, inside, x, y, ratios, extents)`` and returns the source
coordinates in input pixels about the input's centre. ``theta_ptr`` points at the sample's theta, whose numbers are
``stride`` apart; ``pixel`` numbers the output's pixels and ``inside`` says which are real; ``x, y`` are the target
coordinates in output pixels about the output's centre. ``extents`` holds the input's half extents (x, y): pixels per
unit of normalised coordinate; ``ratios`` the input's over the output's: xx, xy, yx, yy, first the source's axis.

``map_vjp(grad_ptr, pixel, inside, x, y, grad_x, grad_y, ratios, extents)`` takes the gradient of those source
coordinates, zero where not inside, and stores theta's: the sum over the tile of each of its numbers, or for a dense
theta each pixel's own.
"""

import triton
import triton.language as tl

from tstn_kernels.rounding import rounded


@triton.jit
def matrix_map(a, b, c, d, e, f, x, y, ratios, extents):
    """(x, y) -> A (x, y) + t, with A and t brought from normalised to pixel units."""
    x_source = (a * ratios[0]) * x + ((b * ratios[1]) * y + c * extents[0])
    y_source = (d * ratios[2]) * x + ((e * ratios[3]) * y + f * extents[1])
    return x_source, y_source


@triton.jit
def matrix_map_vjp(x, y, grad_x, grad_y, ratios, extents):
    """The gradients of the matrix's six entries, row by row, summed over the tile."""
    grad_a = tl.sum(grad_x * x) * ratios[0]
    grad_b = tl.sum(grad_x * y) * ratios[1]
    grad_c = tl.sum(grad_x) * extents[0]
    grad_d = tl.sum(grad_y * x) * ratios[2]
    grad_e = tl.sum(grad_y * y) * ratios[3]
    grad_f = tl.sum(grad_y) * extents[1]
    return grad_a, grad_b, grad_c, grad_d, grad_e, grad_f


@triton.jit
def translation_map(theta_ptr, stride, pixel, inside, x, y, ratios, extents):
    """(x + tx, y + ty)"""
    tx = tl.load(theta_ptr).to(x.dtype)
    ty = tl.load(theta_ptr + stride).to(x.dtype)
    return ratios[0] * x + tx * extents[0], ratios[3] * y + ty * extents[1]


@triton.jit
def translation_map_vjp(grad_ptr, pixel, inside, x, y, grad_x, grad_y, ratios, extents):
    """(sum grad_x, sum grad_y)"""
    tl.store(grad_ptr, tl.sum(grad_x) * extents[0])
    tl.store(grad_ptr + 1, tl.sum(grad_y) * extents[1])


@triton.jit
def attention_map(theta_ptr, stride, pixel, inside, x, y, ratios, extents):
    """(s x + tx, s y + ty)"""
    s = tl.load(theta_ptr).to(x.dtype)
    tx = tl.load(theta_ptr + stride).to(x.dtype)
    ty = tl.load(theta_ptr + 2 * stride).to(x.dtype)
    return (s * ratios[0]) * x + tx * extents[0], (s * ratios[3]) * y + ty * extents[1]


@triton.jit
def attention_map_vjp(grad_ptr, pixel, inside, x, y, grad_x, grad_y, ratios, extents):
    """(sum grad_x x + grad_y y, sum grad_x, sum grad_y)"""
    tl.store(grad_ptr, tl.sum(grad_x * x * ratios[0] + grad_y * y * ratios[3]))
    tl.store(grad_ptr + 1, tl.sum(grad_x) * extents[0])
    tl.store(grad_ptr + 2, tl.sum(grad_y) * extents[1])


@triton.jit
def similarity_map(theta_ptr, stride, pixel, inside, x, y, ratios, extents):
    """(a x - b y + tx, b x + a y + ty)"""
    a = tl.load(theta_ptr).to(x.dtype)
    b = tl.load(theta_ptr + stride).to(x.dtype)
    tx = tl.load(theta_ptr + 2 * stride).to(x.dtype)
    ty = tl.load(theta_ptr + 3 * stride).to(x.dtype)
    return matrix_map(a, -b, tx, b, a, ty, x, y, ratios, extents)


@triton.jit
def similarity_map_vjp(grad_ptr, pixel, inside, x, y, grad_x, grad_y, ratios, extents):
    """(sum grad_x x + grad_y y, sum grad_y x - grad_x y, sum grad_x, sum grad_y)"""
    grad_a, grad_b, grad_c, grad_d, grad_e, grad_f = matrix_map_vjp(x, y, grad_x, grad_y, ratios, extents)
    tl.store(grad_ptr, grad_a + grad_e)
    tl.store(grad_ptr + 1, grad_d - grad_b)
    tl.store(grad_ptr + 2, grad_c)
    tl.store(grad_ptr + 3, grad_f)


@triton.jit
def affine_map(theta_ptr, stride, pixel, inside, x, y, ratios, extents):
    """theta @ (x, y, 1)"""
    a = tl.load(theta_ptr).to(x.dtype)
    b = tl.load(theta_ptr + stride).to(x.dtype)
    c = tl.load(theta_ptr + 2 * stride).to(x.dtype)
    d = tl.load(theta_ptr + 3 * stride).to(x.dtype)
    e = tl.load(theta_ptr + 4 * stride).to(x.dtype)
    f = tl.load(theta_ptr + 5 * stride).to(x.dtype)
    return matrix_map(a, b, c, d, e, f, x, y, ratios, extents)


@triton.jit
def affine_map_vjp(grad_ptr, pixel, inside, x, y, grad_x, grad_y, ratios, extents):
    """sum (grad_x, grad_y)^T (x, y, 1)"""
    grad_a, grad_b, grad_c, grad_d, grad_e, grad_f = matrix_map_vjp(x, y, grad_x, grad_y, ratios, extents)
    tl.store(grad_ptr, grad_a)
    tl.store(grad_ptr + 1, grad_b)
    tl.store(grad_ptr + 2, grad_c)
    tl.store(grad_ptr + 3, grad_d)
    tl.store(grad_ptr + 4, grad_e)
    tl.store(grad_ptr + 5, grad_f)


@triton.jit
def grid_map(theta_ptr, stride, pixel, inside, x, y, ratios, extents):
    """theta[pixel]"""
    at = theta_ptr + pixel * 2 * stride
    x_norm = tl.load(at, mask=inside, other=0.0).to(x.dtype)
    y_norm = tl.load(at + stride, mask=inside, other=0.0).to(x.dtype)
    return x_norm * extents[0], y_norm * extents[1]


@triton.jit
def grid_map_vjp(grad_ptr, pixel, inside, x, y, grad_x, grad_y, ratios, extents):
    """(grad_x, grad_y) at pixel"""
    tl.store(grad_ptr + pixel * 2, rounded(grad_x * extents[0], grad_ptr), mask=inside)
    tl.store(grad_ptr + pixel * 2 + 1, rounded(grad_y * extents[1], grad_ptr), mask=inside)


MAPS = {
    "translation": (translation_map, translation_map_vjp),
    "attention": (attention_map, attention_map_vjp),
    "similarity": (similarity_map, similarity_map_vjp),
    "affine": (affine_map, affine_map_vjp),
    "grid": (grid_map, grid_map_vjp),
}
