"""The float64 oracle: formulas written out here, then ``F.grid_sample`` on the CPU, independent of the library."""

from __future__ import annotations

import functools
import math
import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from oracle_weights import sample_by_weights, term_sizes
from torch import Tensor


class Spline(NamedTuple):
    """A thin-plate spline's control points, as they look when nothing moves, and its smoothing."""

    points: tuple[tuple[float, float], ...]
    regularization: float


# Coordinates that float32 holds exactly, so that every precision has the same points.
LATTICE = tuple((float(x), float(y)) for y in (-1, 0, 1) for x in (-1, 0, 1))
FIVE = ((-0.75, -0.875), (0.8125, -0.625), (0.125, 0.0625), (-0.9375, 0.75), (0.6875, 0.9375))
TWELVE = (
    *((-1.0, -0.875), (-0.25, -0.9375), (0.4375, -0.75), (1.125, -1.0)),
    *((-0.8125, -0.125), (-0.125, -0.3125), (0.5, 0.0625), (0.9375, 0.1875)),
    *((-1.0625, 0.875), (-0.375, 0.5625), (0.25, 1.0), (0.875, 0.8125)),
)
SPLINES = {
    "spline_lattice": Spline(LATTICE, 0.0),
    "spline_lattice_smooth": Spline(LATTICE, 0.1),
    "spline_five": Spline(FIVE, 0.0),
    "spline_five_smooth": Spline(FIVE, 0.1),
    "spline_twelve": Spline(TWELVE, 0.0),
    "spline_twelve_smooth": Spline(TWELVE, 0.1),
}
DENSE = ("flow", "grid")


def _lens(k1: Tensor, k2: Tensor, p1: Tensor, p2: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Brown's model as textbooks have it."""
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2), y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y


def _polar(cx: Tensor, cy: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """From the origin to radius 1 along x; once around along y."""
    turned = torch.polar((x + 1) / 2, math.pi * (y + 1))
    return cx + turned.real, cy + turned.imag


def _moebius(*numbers: Tensor) -> tuple[Tensor, Tensor]:
    """(a z + b) / (c z + d)."""
    a, b, c, d, z = (torch.complex(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True))
    source = (a * z + b) / (c * z + d)
    return source.real, source.imag


# The library's example transforms: functions of theta's numbers, x and y, element by element.
CUSTOM = {"lens": _lens, "polar": _polar, "moebius": _moebius}
# Beyond, float32 may round a coordinate by so much that 1e-3 px no longer tells on which side of an edge it is.
LIMIT_PX = 500.0


def matrix(transform: str, theta: Tensor) -> Tensor:
    """(M, 2, 3) of the affine families, written out from the definitions."""
    if transform == "affine":
        return theta
    p = theta.unbind(-1)
    zero, one = torch.zeros_like(p[0]), torch.ones_like(p[0])
    rows = {
        "translation": lambda tx, ty: (one, zero, tx, zero, one, ty),
        "attention": lambda s, tx, ty: (s, zero, tx, zero, s, ty),
        "similarity": lambda a, b, tx, ty: (a, -b, tx, b, a, ty),
    }[transform](*p)
    return torch.stack(rows, -1).unflatten(-1, (2, 3))


def affine_grid(theta: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    with warnings.catch_warnings():
        # PyTorch warns of axes of size 1, whose rule is the one wanted here: coordinate 0.
        warnings.filterwarnings("ignore", message=".*affine_grid behavior has changed for unit-size grids")
        return F.affine_grid(theta, (theta.shape[0], 1, *size), align_corners=align_corners)


def targets(size: tuple[int, int], align_corners: bool) -> Tensor:
    """The target coordinates (H_out, W_out, 2), x before y."""
    return affine_grid(torch.eye(2, 3, dtype=torch.float64)[None], size, align_corners)[0]


def spline_system(spline: Spline) -> tuple[Tensor, Tensor]:
    """The points (K, 2) and the matrix (K + 3, K + 3) of the interpolation conditions.

    As in scipy's ``RBFInterpolator(points, theta, smoothing, kernel="thin_plate_spline", degree=1)``.
    """
    points = torch.tensor(spline.points, dtype=torch.float64)
    count = len(points)
    system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
    system[:count] = _spline_basis(points, points)
    system[:count, :count] += spline.regularization * torch.eye(count, dtype=torch.float64)
    system[:, :count] = system[:count].mT
    return points, system


def _spline_coefficients(spline: Spline, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The points and the coefficients (M, K + 3, 2) of the spline through theta."""
    points, system = spline_system(spline)
    values = torch.cat((theta, theta.new_zeros(theta.shape[0], 3, 2)), -2)
    return points, torch.linalg.solve(system, values)


def _spline_basis(points: Tensor, at: Tensor) -> Tensor:
    """(..., K + 3): r^2 log r about each of the K points, then 1, x and y."""
    square = (at[..., None, :] - points).square().sum(-1)
    radial = 0.5 * torch.special.xlogy(square, square)
    return torch.cat((radial, torch.ones_like(at[..., :1]), at), -1)


def grid(transform: str, theta: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """The normalised source coordinates (M, H_out, W_out, 2) of theta (M, ...)."""
    if transform == "grid":
        return theta
    if transform in ("translation", "attention", "similarity", "affine"):
        return affine_grid(matrix(transform, theta), size, align_corners)
    target = targets(size, align_corners)
    if transform == "flow":
        return target + theta
    if transform == "projective":
        u, v, w = _homogeneous(theta, target).unbind(-1)
        # A pole has no source; it is left out by whoever compares.
        w = torch.where(w == 0, 1, w)
        return torch.stack((u / w, v / w), -1)
    if transform in CUSTOM:
        numbers = theta.flatten(1)[..., None, None].expand(-1, -1, *size).unbind(1)
        source = torch.stack(CUSTOM[transform](*(n.detach() for n in numbers), *target.unbind(-1)), -1)
        # At a pole there is no gradient, and 0 times infinity is none.
        seen = source.isfinite().all(-1)
        numbers = (torch.where(seen, n, n.detach()) for n in numbers)
        return torch.stack(CUSTOM[transform](*numbers, *target.unbind(-1)), -1)
    points, coefficients = _spline_coefficients(SPLINES[transform], theta)
    return torch.einsum("hwk,mkc->mhwc", _spline_basis(points, target), coefficients)


def _homogeneous(theta: Tensor, target: Tensor) -> Tensor:
    """theta (M, rows, 3) @ (x, y, 1), in the last axis of (M, H_out, W_out, rows)."""
    return torch.einsum("mij,hwj->mhwi", theta, torch.cat((target, torch.ones_like(target[..., :1])), -1))


def coordinate_scale(transform: str, theta: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Size (M, H_out, W_out, 2) of the terms that a coordinate is summed from, which its rounding follows."""
    target = targets(size, align_corners)
    if transform in DENSE:
        return theta.abs() + (target.abs() if transform == "flow" else 0)
    if transform == "projective":
        # Rounding of u, and of w by how far it moves the quotient.
        exact, terms = _homogeneous(theta, target), _homogeneous(theta.abs(), target.abs())
        source, w = exact[..., :2] / exact[..., 2:], exact[..., 2:].abs()
        return (terms[..., :2] + source.abs() * terms[..., 2:]) / w
    if transform in SPLINES:
        points, coefficients = _spline_coefficients(SPLINES[transform], theta)
        return torch.einsum("hwk,mkc->mhwc", _spline_basis(points, target).abs(), coefficients.abs())
    if transform in CUSTOM:
        by_theta, by_target = _custom_slopes(transform, theta, target)
        through_theta = torch.einsum("mphwc,mp->mhwc", by_theta.abs(), theta.flatten(1).abs())
        return through_theta + torch.einsum("mphwc,hwp->mhwc", by_target.abs(), target.abs() + 1)
    return _homogeneous(matrix(transform, theta).abs(), target.abs())


def _custom_slopes(transform: str, theta: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """d source / d theta's numbers (M, P, H_out, W_out, 2) and d source / d target (M, 2, H_out, W_out, 2)."""
    numbers = theta.detach().flatten(1)[..., None, None].expand(-1, -1, *target.shape[:2])
    values = torch.cat((numbers, target.movedim(-1, 0).expand(len(theta), -1, -1, -1)), 1).requires_grad_()
    source = CUSTOM[transform](*values.unbind(1))
    slopes = [torch.autograd.grad(axis.sum(), values, retain_graph=True)[0] for axis in source]
    both = torch.stack(slopes, -1)
    return both[:, :-2], both[:, -2:]


def _spline_influence(transform: str, size: tuple[int, int], align_corners: bool) -> Tensor:
    """(H_out, W_out, K): by how much each control point moves a pixel, all terms taken as positive."""
    points, system = spline_system(SPLINES[transform])
    basis = _spline_basis(points, targets(size, align_corners))
    return basis.abs() @ torch.linalg.inv(system)[:, : len(points)].abs()


class Result(NamedTuple):
    """Values and gradients, with for each the size of the terms that were summed, which rounding follows."""

    output: Tensor
    output_scale: Tensor
    grad_input: Tensor
    grad_input_scale: Tensor
    grad_theta: Tensor
    grad_theta_scale: Tensor
    grad_fill: Tensor | None
    grad_fill_scale: Tensor | None
    grad_flow: Tensor
    grad_flow_scale: Tensor
    # (M, 1, H_out, W_out): where a rounding of the coordinate may change the value or the slope by a step.
    on_edge: Tensor
    # (M, 1, H_out, W_out): where a rounding of the coordinate may change the value itself.
    vague: Tensor


def pixels(grid: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """(..., 2) source coordinates in pixels, x before y."""
    wh = grid.new_tensor([size[1], size[0]])
    return (grid + 1) / 2 * (wh - 1) if align_corners else ((grid + 1) * wh - 1) / 2


def _located(
    input: Tensor, theta: Tensor, transform: str, size: tuple[int, int], align_corners: bool, flow: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Source coordinates; the same in pixels, detached; and the size of the terms that these are summed from."""
    coordinates = grid(transform, theta, size, align_corners)
    terms = coordinate_scale(transform, theta.detach(), size, align_corners)
    if flow is not None:
        coordinates = coordinates + flow.double()
        terms = terms + flow.detach().double().abs()
    image_size = (input.shape[2], input.shape[3])
    at = pixels(coordinates.detach(), image_size, align_corners)
    # From the first pixel's centre.
    return coordinates, at, (terms + 1) * terms.new_tensor([image_size[1] / 2, image_size[0] / 2])


def _unsure(at: Tensor, terms: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Which pixels (M, 1, H_out, W_out) are at a step of the value or the slope, and which may be anywhere."""
    past = at - at.floor() if mode == "bilinear" else at + 0.5 - (at + 0.5).floor()
    stepped = ((past < 1e-3) | (past > 1 - 1e-3)).any(-1, keepdim=True)
    if mode == "bicubic":
        # Its slope is continuous everywhere: padding extends the image tap by tap and clips no coordinate.
        stepped = torch.zeros_like(stepped)
    vague = ~(terms <= LIMIT_PX).all(-1, keepdim=True)
    return stepped.movedim(-1, 1), vague.movedim(-1, 1)


def edges(
    input: Tensor,
    theta: Tensor,
    transform: str,
    size: tuple[int, int],
    mode: str,
    align_corners: bool,
    flow: Tensor | None,
) -> Tensor:
    """``Result.on_edge``: the pixels whose output gradient is not compared."""
    _, at, terms = _located(input, theta.double(), transform, size, align_corners, flow)
    return functools.reduce(torch.logical_or, _unsure(at, terms, mode))


def warp(
    input: Tensor,
    theta: Tensor,
    transform: str,
    size: tuple[int, int],
    index: Tensor,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    fill: Tensor | None,
    flow: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The values alone, for operands in float64 and with derivatives of first and second order.

    Also (M, 1, H_out, W_out): where the second derivative may change by a step, or rounding is not known.
    """
    coordinates, at, terms = _located(input, theta, transform, size, align_corners, flow)
    # Bicubic's second derivative has steps at whole pixels; reflection turns around at halves.
    unsure = functools.reduce(torch.logical_or, (*_unsure(at, terms, "bilinear"), *_unsure(at, terms, "nearest")))
    coordinates = torch.where(_unsure(at, terms, mode)[1].movedim(1, -1), 0, coordinates)
    at = pixels(coordinates, (input.shape[2], input.shape[3]), align_corners)
    out = sample_by_weights(input[index], at, mode, padding_mode, align_corners)
    if fill is not None:
        ones = torch.ones_like(input[:1, :1]).expand(len(index), -1, -1, -1)
        out = out + (1 - sample_by_weights(ones, at, mode, padding_mode, align_corners)) * fill[:, None, None]
    return out, unsure


def evaluate(
    input: Tensor,
    theta: Tensor,
    transform: str,
    size: tuple[int, int],
    index: Tensor,
    grad_output: Tensor,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    fill: Tensor | None,
    flow: Tensor | None = None,
    rounding: float = 0.0,
) -> Result:
    """Values and gradients; ``index`` (M,) says which input each theta reads. Edges get no output gradient.

    A coordinate rounds too, in proportion to the terms that it is summed from. ``rounding`` is that proportion over
    the tolerance that the scales are for: they include what so moved a coordinate does to the result. Pixels whose
    terms are larger than LIMIT_PX, as those of a projective map near its pole, are left out like edges.
    """
    input = input.double().requires_grad_()
    theta = theta.double().requires_grad_()
    fill = None if fill is None else fill.double().requires_grad_()
    coordinates, at, terms = _located(input, theta, transform, size, align_corners, flow)
    stepped, vague = _unsure(at, terms, mode)
    on_edge = stepped | vague
    grad_output = torch.where(on_edge, 0, grad_output.double())
    at, terms, coordinates = (torch.where(vague.movedim(1, -1), 0, t) for t in (at, terms, coordinates))
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    output = F.grid_sample(input[index], coordinates, **options)
    if fill is not None:
        ones = torch.ones_like(input[:1, :1]).expand(len(index), -1, -1, -1)
        output = output + (1 - F.grid_sample(ones, coordinates, **options)) * fill[:, None, None]
    wanted = [input, theta, coordinates] + ([] if fill is None else [fill])
    grads = torch.autograd.grad(output, wanted, grad_output, retain_graph=True, allow_unused=True)
    grads = [torch.zeros_like(t) if g is None else g for g, t in zip(grads, wanted, strict=True)]
    scales = term_sizes(
        input.detach().abs()[index],
        None if fill is None else fill.detach().abs(),
        grad_output.abs(),
        (at, rounding * terms),
        mode,
        padding_mode,
        align_corners,
        rounding,
    )
    return Result(
        output.detach(),
        scales.output,
        grads[0],
        torch.zeros_like(input).index_add(0, index, scales.grad_source),
        grads[1],
        _theta_scale(transform, theta.detach(), scales.grad_grid, size, align_corners),
        grads[3] if fill is not None else None,
        scales.grad_fill,
        grads[2],
        scales.grad_grid,
        on_edge,
        on_edge if mode == "nearest" else vague,
    )


def _theta_scale(
    transform: str, theta: Tensor, grad_grid: Tensor, size: tuple[int, int], align_corners: bool
) -> Tensor:
    """Sum over pixels of |d loss / d coordinate| |d coordinate / d theta|."""
    if transform in DENSE:
        return grad_grid
    if transform in SPLINES:
        return torch.einsum("mhwc,hwk->mkc", grad_grid, _spline_influence(transform, size, align_corners))
    target = targets(size, align_corners)
    if transform in CUSTOM:
        by_theta, _ = _custom_slopes(transform, theta, target)
        through = (by_theta.abs() * grad_grid[:, None]).nan_to_num(0, 0, 0)
        return through.sum((2, 3, 4)).reshape(theta.shape)
    homogeneous = torch.cat((target, torch.ones_like(target[..., :1])), -1).abs()
    if transform == "projective":
        exact = _homogeneous(theta, target)
        source, w = exact[..., :2] / exact[..., 2:], exact[..., 2:]
        through = torch.cat((grad_grid, (grad_grid * source.abs()).sum(-1, keepdim=True)), -1) / w.abs()
        # At a pole there is no gradient, and 0 / 0 is none.
        return torch.einsum("mhwi,hwj->mij", through.nan_to_num(0, 0, 0), homogeneous)
    full = torch.einsum("mhwi,hwj->mij", grad_grid, homogeneous)
    (a, b, c), (d, e, f) = (row.unbind(-1) for row in full.unbind(1))
    if transform == "affine":
        return full
    return torch.stack(
        {
            "translation": (c, f),
            "attention": (a + e, c, f),
            "similarity": (a + e, b + d, c, f),
        }[transform],
        -1,
    )
