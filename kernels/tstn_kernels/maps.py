"""The coordinate map of each transform and its vector-Jacobian product.

``map(theta, constants, x, y, frame, SAMPLES)`` returns the source coordinates, in input pixels about the input's
centre, of target coordinates ``x, y`` (P,), in output pixels about the output's centre: a tuple of x and y, (P,) each,
of each of SAMPLES samples in turn. What it reads:

- ``theta``: pointer to the first sample's numbers, strides between samples and between numbers, and how many of the
  SAMPLES samples are there for another program. Only a spline takes several samples at a time.
- ``constants``: pointer to what all samples share, and how many rows it has.
- ``frame``: see :func:`tstn_kernels.coords.target_frame`. A normalised target x is ``x * frame[6]``, y is
  ``y * frame[7]``; a normalised source x is ``frame[4]`` times as many pixels, y ``frame[5]`` times.

``map_vjp(theta, x, y, grad_x, grad_y, frame)`` takes the gradient of those source coordinates, (P,), zero for lanes
that are not real, and returns what each lane adds to each of theta's numbers. A spline, which has many numbers,
adds them itself, for SAMPLES samples, from a tuple like the map's. Sums go to ``grads``: pointer to the first
sample's, stride between samples, and whether there is something to add to.
Maps made from a user's PyTorch function have the same form and run in the same kernels.

A matrix family also has ``matrix(theta, frame)``, its numbers in pixel units, and a ``point(matrix, x, y, frame)``
that takes them, for kernels that look at one sample's points again and again; ``about(matrix, x, y, frame)`` turns
them so that ``distance`` tells, in place of ``point``, how far from the source point (x, y) a target looks. Its
inverse is in :mod:`tstn_kernels.preimage`.
"""

import triton
import triton.language as tl

from tstn_kernels.coords import quotients, repeated
from tstn_kernels.padding import HUGE
from tstn_kernels.preimage import (
    TINY,
    affine_boxes,
    affine_corner,
    affine_reaches,
    projective_boxes,
    projective_corner,
    projective_reaches,
)


@triton.jit
def theta_number(theta, i, x):
    """Number i of the program's sample, in x's dtype."""
    return tl.load(theta[0] + i * theta[2]).to(x.dtype)


@triton.jit
def beside_each_other(values, FIRST: tl.constexpr, SIZE: tl.constexpr):
    """SIZE of the values, a power of two up to 16, from FIRST on, in order along new dimensions of 2 at the end."""
    group = ()
    for i in tl.static_range(SIZE):
        group = group + (values[FIRST + i],)
    for level in tl.static_range(4):
        # Joined with what is half a group away, so that at the end they lie in order.
        joined = ()
        for i in tl.static_range(SIZE >> (level + 1)):
            joined = joined + (tl.join(group[i], group[i + (SIZE >> (level + 1))]),)
        if SIZE >> (level + 1) > 0:
            group = joined
    return group[0]


@triton.jit
def add_group(grads, values, FIRST: tl.constexpr, SIZE: tl.constexpr):
    """Add the sums over the tile of SIZE values, 1, 2, 4 or 8, to numbers FIRST and on, in one reduction."""
    sums = tl.sum(beside_each_other(values, FIRST, SIZE), 0)
    at = grads[0] + FIRST
    if SIZE > 1:
        sums = tl.reshape(sums, (SIZE,))
        at += tl.arange(0, SIZE)
    tl.store(at, sums + tl.load(at, mask=grads[2], other=0.0))


@triton.jit
def add_sums(grads, values, COUNT: tl.constexpr):
    """Add the sums over the tile of COUNT values to theta's numbers, in few reductions.

    Each of them takes a trip through shared memory.
    """
    for eight in tl.static_range(COUNT // 8):
        add_group(grads, values, 8 * eight, 8)
    for power in tl.static_range(2, -1, -1):
        if (COUNT >> power) % 2 == 1:
            add_group(grads, values, (COUNT >> (power + 1)) << (power + 1), 1 << power)


@triton.jit
def normalised(x, y, frame):
    """The target's normalised coordinates."""
    return x * frame[6], y * frame[7]


@triton.jit
def pixel_matrix(a, b, c, d, e, f, frame):
    """A and t of (x, y) -> A (x, y) + t, brought from normalised to pixel units, row by row."""
    return a * frame[0], b * frame[1], c * frame[4], d * frame[2], e * frame[3], f * frame[5]


@triton.jit
def affine_point(matrix, x, y, frame):
    """A (x, y) + t"""
    return matrix[0] * x + (matrix[1] * y + matrix[2]), matrix[3] * x + (matrix[4] * y + matrix[5])


@triton.jit
def affine_about(matrix, x, y, frame):
    """A and t - (x, y)"""
    return matrix[0], matrix[1], matrix[2] - x, matrix[3], matrix[4], matrix[5] - y


@triton.jit
def translation_matrix(theta, frame):
    """(1, 0, tx), (0, 1, ty)"""
    tx = theta_number(theta, 0, frame[0])
    ty = theta_number(theta, 1, frame[0])
    return pixel_matrix(1.0, 0.0, tx, 0.0, 1.0, ty, frame)


@triton.jit
def translation_map(theta, constants, x, y, frame, SAMPLES: tl.constexpr):
    """(x + tx, y + ty)"""
    return affine_point(translation_matrix(theta, frame), x, y, frame)


@triton.jit
def translation_map_vjp(theta, x, y, grad_x, grad_y, frame):
    """grad_x, grad_y"""
    return grad_x * frame[4], grad_y * frame[5]


@triton.jit
def attention_matrix(theta, frame):
    """(s, 0, tx), (0, s, ty)"""
    s = theta_number(theta, 0, frame[0])
    tx = theta_number(theta, 1, frame[0])
    ty = theta_number(theta, 2, frame[0])
    return pixel_matrix(s, 0.0, tx, 0.0, s, ty, frame)


@triton.jit
def attention_map(theta, constants, x, y, frame, SAMPLES: tl.constexpr):
    """(s x + tx, s y + ty)"""
    return affine_point(attention_matrix(theta, frame), x, y, frame)


@triton.jit
def attention_map_vjp(theta, x, y, grad_x, grad_y, frame):
    """grad_x x + grad_y y, grad_x, grad_y"""
    return grad_x * x * frame[0] + grad_y * y * frame[3], grad_x * frame[4], grad_y * frame[5]


@triton.jit
def similarity_matrix(theta, frame):
    """(a, -b, tx), (b, a, ty)"""
    a = theta_number(theta, 0, frame[0])
    b = theta_number(theta, 1, frame[0])
    tx = theta_number(theta, 2, frame[0])
    ty = theta_number(theta, 3, frame[0])
    return pixel_matrix(a, -b, tx, b, a, ty, frame)


@triton.jit
def similarity_map(theta, constants, x, y, frame, SAMPLES: tl.constexpr):
    """(a x - b y + tx, b x + a y + ty)"""
    return affine_point(similarity_matrix(theta, frame), x, y, frame)


@triton.jit
def similarity_map_vjp(theta, x, y, grad_x, grad_y, frame):
    """grad_x x + grad_y y, grad_y x - grad_x y, grad_x, grad_y"""
    of_a = grad_x * x * frame[0] + grad_y * y * frame[3]
    of_b = grad_y * x * frame[2] - grad_x * y * frame[1]
    return of_a, of_b, grad_x * frame[4], grad_y * frame[5]


@triton.jit
def affine_matrix(theta, frame):
    """theta"""
    a = theta_number(theta, 0, frame[0])
    b = theta_number(theta, 1, frame[0])
    c = theta_number(theta, 2, frame[0])
    d = theta_number(theta, 3, frame[0])
    e = theta_number(theta, 4, frame[0])
    f = theta_number(theta, 5, frame[0])
    return pixel_matrix(a, b, c, d, e, f, frame)


@triton.jit
def affine_map(theta, constants, x, y, frame, SAMPLES: tl.constexpr):
    """theta @ (x, y, 1)"""
    return affine_point(affine_matrix(theta, frame), x, y, frame)


@triton.jit
def affine_map_vjp(theta, x, y, grad_x, grad_y, frame):
    """(grad_x, grad_y)^T (x, y, 1)"""
    row_x = (grad_x * x * frame[0], grad_x * y * frame[1], grad_x * frame[4])
    return row_x + (grad_y * x * frame[2], grad_y * y * frame[3], grad_y * frame[5])


@triton.jit
def projective_matrix(theta, frame):
    """theta, the last row in normalised units"""
    a, b, c, d, e, f = affine_matrix(theta, frame)
    g = theta_number(theta, 6, frame[0])
    h = theta_number(theta, 7, frame[0])
    i = theta_number(theta, 8, frame[0])
    return a, b, c, d, e, f, g, h, i


@triton.jit
def homogeneous(matrix, x, y, frame):
    """w of (u, v, w) = theta @ (x, y, 1)"""
    x_norm, y_norm = normalised(x, y, frame)
    return matrix[6] * x_norm + (matrix[7] * y_norm + matrix[8])


@triton.jit
def projective_point(matrix, x, y, frame):
    """(u / w, v / w), (u, v, w) = theta @ (x, y, 1); NaN at w = 0"""
    u, v = affine_point(matrix, x, y, frame)
    return quotients(u, v, homogeneous(matrix, x, y, frame))


@triton.jit
def projective_about(matrix, x, y, frame):
    """theta less (x, y)^T times its last row"""
    a, b, c, d, e, f, g, h, i = matrix
    g_px, h_px = normalised(g, h, frame)
    return a - x * g_px, b - x * h_px, c - x * i, d - y * g_px, e - y * h_px, f - y * i, g, h, i


@triton.jit
def projective_distance(about, x, y, frame):
    """(u / w, v / w) of a matrix about a point; infinite at w = 0"""
    u, v = affine_point(about, x, y, frame)
    w = homogeneous(about, x, y, frame)
    seen = tl.abs(w) >= TINY
    inverse = 1.0 / w
    return tl.where(seen, u * inverse, float("inf")), tl.where(seen, v * inverse, float("inf"))


@triton.jit
def projective_map(theta, constants, x, y, frame, SAMPLES: tl.constexpr):
    """(u / w, v / w), (u, v, w) = theta @ (x, y, 1); NaN at w = 0"""
    return projective_point(projective_matrix(theta, frame), x, y, frame)


@triton.jit
def projective_map_vjp(theta, x, y, grad_x, grad_y, frame):
    """(grad_u, grad_v, grad_w)^T (x, y, 1), grad_u = grad_x / w, grad_w = -(grad_x u / w + grad_y v / w) / w"""
    matrix = projective_matrix(theta, frame)
    x_source, y_source = projective_point(matrix, x, y, frame)
    w = homogeneous(matrix, x, y, frame)
    # Near w = 0 nothing is seen, and 0 times infinity would spoil the sums.
    seen = (tl.abs(x_source) < HUGE) & (tl.abs(y_source) < HUGE)
    grad_u, grad_v = quotients(grad_x, grad_y, w)
    grad_u, grad_v = tl.where(seen, grad_u, 0.0), tl.where(seen, grad_v, 0.0)
    grad_w = -(grad_u * tl.where(seen, x_source, 0.0) + grad_v * tl.where(seen, y_source, 0.0))
    x_norm, y_norm = normalised(x, y, frame)
    of_w = (grad_w * x_norm, grad_w * y_norm, grad_w)
    return affine_map_vjp(theta, x, y, grad_u, grad_v, frame) + of_w


@triton.jit
def half_logarithm(x):
    """log(x) / 2 for x from 1e-30 to 1e30, to 1e-7 in float32"""
    if x.dtype == tl.float64:
        return 0.5 * tl.log(x)
    else:
        # x = 2^e (1 + f), f from -1/3 to 1/3.
        bits = x.to(tl.int32, bitcast=True)
        exponent = (bits - 0x3F2AAAAB) & -0x800000
        f = (bits - exponent).to(tl.float32, bitcast=True) - 1.0
        # (log(1 + f) - f) / f^2, by least squares with weights that make the largest error least.
        tail = 0.14584635 * f - 0.15629026
        tail = tail * f + 0.13867122
        tail = tail * f - 0.16365299
        tail = tail * f + 0.20020440
        tail = tail * f - 0.25011015
        tail = tail * f + 0.33332995
        tail = tail * f - 0.49999881
        return exponent.to(tl.float32) * (0.5 * 0.6931471805599453 / 2**23) + (0.5 * (f * f) * tail + 0.5 * f)


@triton.jit
def radial_basis(from_x, from_y):
    """r^2 log (r / 2) at the distance r = |(from_x, from_y)|"""
    squared = from_x * from_x + from_y * from_y
    return squared * half_logarithm(tl.maximum(0.25 * squared, 1e-30))


@triton.jit
def add_basis(moves, at, strides, basis, SAMPLES: tl.constexpr):
    """Add a basis function, with each sample's two numbers at ``at``, to each sample's displacement, x and y."""
    sums = ()
    for i in tl.static_range(2 * SAMPLES):
        number = tl.load(at + i // 2 * strides[0] + i % 2 * strides[1]).to(basis.dtype)
        sums = sums + (moves[i] + number * basis,)
    return sums


@triton.jit
def thin_plate_spline_map(theta, constants, x, y, frame, SAMPLES: tl.constexpr):
    """(x, y) + sum over k of w_k U(|(x, y) - c_k|) + a_0 + a_1 x + a_2 y: a displacement of the identity

    The basis is computed once and used for every sample.
    """
    x_norm, y_norm = normalised(x, y, frame)
    strides = theta[1], theta[2]
    moves = repeated(tl.zeros(x.shape, x.dtype), 2 * SAMPLES)
    affine_at = theta[0] + 2 * constants[1] * theta[2]
    for row in tl.static_range(3):
        basis = (tl.full(x.shape, 1.0, x.dtype), x_norm, y_norm)[row]
        moves = add_basis(moves, affine_at + 2 * row * theta[2], strides, basis, SAMPLES)
    at, centre_at = theta[0], constants[0]
    for _ in range(constants[1]):
        from_x = x_norm - tl.load(centre_at).to(x.dtype)
        from_y = y_norm - tl.load(centre_at + 1).to(x.dtype)
        moves = add_basis(moves, at, strides, radial_basis(from_x, from_y), SAMPLES)
        at += 2 * theta[2]
        centre_at += 2
    sources = ()
    for sample in tl.static_range(SAMPLES):
        x_source = frame[0] * x + moves[2 * sample] * frame[4]
        y_source = frame[3] * y + moves[2 * sample + 1] * frame[5]
        sources = sources + (x_source, y_source)
    return sources


@triton.jit
def thin_plate_spline_map_vjp(grads, theta, constants, x, y, grad_sources, frame, SAMPLES: tl.constexpr):
    """(sum grad U(|(x, y) - c_k|) for each k, sum grad, sum grad x, sum grad y), for x and y in turn

    A product of matrices.
    """
    x_norm, y_norm = normalised(x, y, frame)
    in_norm = ()
    for i in tl.static_range(2 * SAMPLES):
        in_norm = in_norm + (grad_sources[i] * frame[4 + i % 2],)
    grad = tl.reshape(beside_each_other(in_norm, 0, 2 * SAMPLES), (x.shape[0], 2 * SAMPLES))
    grad = tl.permute(grad, (1, 0))
    column = tl.arange(0, 2 * SAMPLES)[:, None]
    at = grads[0] + (column // 2).to(tl.int64) * grads[1] + column % 2
    real = column // 2 >= theta[3]
    # Basis functions at a time, so many that from four samples on each lane has a number of the product; of 64 bits as
    # many as registers hold.
    BLOCK_K: tl.constexpr = 8 if SAMPLES >= 8 or x.dtype == tl.float64 else 16
    for first in tl.range(0, constants[1] + 3, BLOCK_K, num_stages=1):
        k = first + tl.arange(0, BLOCK_K)
        row = (k - constants[1])[None, :]
        basis = tl.where(row == 0, 1.0, tl.where(row == 1, x_norm[:, None], y_norm[:, None]))
        if first < constants[1]:
            centre_at = constants[0] + 2 * tl.minimum(k, constants[1] - 1)
            from_x = x_norm[:, None] - tl.load(centre_at).to(x.dtype)[None, :]
            from_y = y_norm[:, None] - tl.load(centre_at + 1).to(x.dtype)[None, :]
            basis = tl.where(row < 0, radial_basis(from_x, from_y), basis)
        if x.dtype == tl.float64:
            # Triton's product of such small float64 matrices does not compile.
            sums = tl.sum(grad[:, :, None] * basis[None, :, :], 1)
        else:
            sums = tl.dot(grad, basis, input_precision="ieee")
        inside = real & (row < 3)
        sums += tl.load(at + 2 * k[None, :], mask=inside & grads[2], other=0.0)
        tl.store(at + 2 * k[None, :], sums, mask=inside)


@triton.jit
def flow_map(theta, constants, x, y, frame, SAMPLES: tl.constexpr):
    """(x, y), to which the field is added"""
    return frame[0] * x, frame[3] * y


@triton.jit
def grid_map(theta, constants, x, y, frame, SAMPLES: tl.constexpr):
    """(0, 0), to which the field is added"""
    return tl.zeros_like(x), tl.zeros_like(y)


MAPS = {
    "translation": (translation_map, translation_map_vjp),
    "attention": (attention_map, attention_map_vjp),
    "similarity": (similarity_map, similarity_map_vjp),
    "affine": (affine_map, affine_map_vjp),
    "projective": (projective_map, projective_map_vjp),
    "thin_plate_spline": (thin_plate_spline_map, thin_plate_spline_map_vjp),
    "flow": (flow_map, None),
    "grid": (grid_map, None),
}

AFFINE = {
    "POINT": affine_point,
    "ABOUT": affine_about,
    "DISTANCE": affine_point,
    "REACHES": affine_reaches,
    "BOXES": affine_boxes,
    "CORNER": affine_corner,
}
# What gather_backward_kernel takes, for the families whose maps have an inverse.
MATRICES = {
    "translation": {"MATRIX": translation_matrix, **AFFINE},
    "attention": {"MATRIX": attention_matrix, **AFFINE},
    "similarity": {"MATRIX": similarity_matrix, **AFFINE},
    "affine": {"MATRIX": affine_matrix, **AFFINE},
    "projective": {
        "MATRIX": projective_matrix,
        "POINT": projective_point,
        "ABOUT": projective_about,
        "DISTANCE": projective_distance,
        "REACHES": projective_reaches,
        "BOXES": projective_boxes,
        "CORNER": projective_corner,
    },
}
