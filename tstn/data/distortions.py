"""The distortions of Jaderberg et al. 2015, appendix A.4, each one warp of a batch on the images' device.

A distortion takes clean images (N, C, S, S), white on black, and a generator on any device. It draws one row of numbers
for each image, in one call: with a CPU generator a batch gives what its parts give one after the other. What the paper
leaves open is said where it is chosen, and is an argument. None waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tstn.data.draws import draw_uniform, normal
from tstn.data.placement import clutter
from tstn.functional import spatial_transform
from tstn.thin_plate import ThinPlateSpline

Distortion = Callable[[Tensor, torch.Generator], Tensor]
"""Maps clean images (N, C, S, S) to distorted ones (N, C, H, W), drawing from the generator."""

R_MAX_ANGLE = 90.0
RTS_MAX_ANGLE = 45.0
RTS_SCALES = (0.7, 1.2)
SCALES = (0.75, 1.0)
"""Of the distortions P and E."""
CORNER_SIGMA = 5.0
POINT_SIGMA = 1.5
# Of a digit scaled by 0.75 one draw of the corners in thirty is not convex; four in a row are one in a million.
CORNER_DRAWS = 4


class RTS(NamedTuple):
    """What the distortion RTS draws for each image: how the digit lies on the canvas.

    Attributes:
        angle: (N,), degrees; positive turns the digit counter-clockwise as seen.
        scale: (N,), its size relative to the clean image.
        centre: (N, 2), where the clean image's centre comes to lie, (x, y) in [-1, 1] on the canvas.
    """

    angle: Tensor
    scale: Tensor
    centre: Tensor


def draw_rts(count: int, size: int, canvas: int, generator: torch.Generator) -> RTS:
    """Draw rotations to 45 degrees, scales of 0.7 to 1.2, and places where the scaled square fits the canvas.

    Args:
        count: N.
        size: Side of the clean images in pixels.
        canvas: Side of the canvas in pixels.
        generator: Source of randomness; the tensors come to lie on its device.

    Returns:
        The draws, float32.

    Raises:
        ValueError: If the largest scaled image does not fit the canvas.
    """
    low, high = RTS_SCALES
    if high * size > canvas:
        raise ValueError(f"canvas must be at least {high} * {size} pixels wide; got {canvas}")
    uniform = draw_uniform(count, 4, generator)
    scale = low + (high - low) * uniform[:, 1]
    room = 1 - scale * size / canvas
    return RTS(RTS_MAX_ANGLE * (2 * uniform[:, 0] - 1), scale, room[:, None] * (2 * uniform[:, 2:] - 1))


def rts_theta(drawn: RTS, size: int, canvas: int) -> Tensor:
    """The similarity transform that puts each digit on its canvas as drawn.

    The digit's point p lies on the canvas at centre + scale * size / canvas * R p, R the rotation. Theta is
    the inverse of this, target to source.

    Args:
        drawn: What :func:`draw_rts` gives.
        size: Side of the clean images in pixels.
        canvas: Side of the canvas in pixels.

    Returns:
        (N, 4), theta of :class:`~tstn.Similarity`.
    """
    angle = torch.deg2rad(drawn.angle)
    zoom = canvas / (size * drawn.scale)
    # With y down, R = [[cos, sin], [-sin, cos]] turns counter-clockwise as seen; [[a, -b], [b, a]] undoes R.
    a, b = zoom * angle.cos(), zoom * angle.sin()
    x, y = drawn.centre.unbind(1)
    return torch.stack((a, b, b * y - a * x, -b * x - a * y), dim=1)


def rts(images: Tensor, generator: torch.Generator, canvas: int = 42) -> Tensor:
    """Rotate, scale and translate digits on a larger black canvas, in one warp.

    Args:
        images: (N, C, S, S), background 0.
        generator: Source of randomness, on any device.
        canvas: Side of the canvas in pixels.

    Returns:
        (N, C, canvas, canvas), on the images' device.
    """
    size = images.shape[-1]
    theta = rts_theta(draw_rts(len(images), size, canvas, generator), size, canvas)
    return spatial_transform(images, theta.to(images.device), "similarity", (canvas, canvas))


def rotation(images: Tensor, generator: torch.Generator, max_angle: float = R_MAX_ANGLE) -> Tensor:
    """R: turn images about their centre, by up to 90 degrees either way.

    Args:
        images: (N, C, S, S), background 0.
        generator: Source of randomness, on any device.
        max_angle: In degrees.

    Returns:
        (N, C, S, S), on the images' device.
    """
    angle = max_angle * (2 * draw_uniform(len(images), 1, generator)[:, 0] - 1)
    size = images.shape[-1]
    theta = rts_theta(RTS(angle, torch.ones_like(angle), angle.new_zeros(len(angle), 2)), size, size)
    return spatial_transform(images, theta.to(images.device), "similarity")


def corners_theta(corners: Tensor) -> Tensor:
    """The homography that puts an image's corners where they shall lie.

    Args:
        corners: (N, 4, 2), (x, y) in [-1, 1] on the output, of the corners (-1, -1), (1, -1), (1, 1), (-1, 1).

    Returns:
        (N, 3, 3), theta of :class:`~tstn.Projective`, target to source.
    """
    # From the unit square to the quadrilateral in closed form: Heckbert 1989, "Fundamentals of texture mapping".
    first, second, third, fourth = corners.unbind(1)
    a, b, c = second - third, fourth - third, first - second + third - fourth
    area = _cross(a, b)
    g, h = _cross(c, b) / area, _cross(a, c) / area
    columns = [second * (1 + g[:, None]) - first, fourth * (1 + h[:, None]) - first, first]
    bottoms = [g, h, torch.ones_like(g)]
    u, v, w = (torch.cat((xy, z[:, None]), dim=1) for xy, z in zip(columns, bottoms, strict=True))
    # The inverse, but for its scale, has the crossed columns as rows; then [0, 1] becomes [-1, 1].
    rows = [torch.linalg.cross(v, w), torch.linalg.cross(w, u), torch.linalg.cross(u, v)]
    return torch.stack((2 * rows[0] - rows[2], 2 * rows[1] - rows[2], rows[2]), dim=1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def draw_corners(count: int, size: int, generator: torch.Generator, sigma: float = CORNER_SIGMA) -> Tensor:
    """Draw where the distortion P puts the corners of an image: always a convex quadrilateral.

    Args:
        count: N.
        size: Side of the images in pixels.
        generator: Source of randomness; the corners come to lie on its device.
        sigma: Standard deviation of a corner's movement along x and along y, in pixels.

    Returns:
        (N, 4, 2), (x, y) in normalised coordinates: clockwise as seen, from the upper left.
    """
    low, high = SCALES
    uniform = draw_uniform(count, 1 + 16 * CORNER_DRAWS, generator)
    scale = low + (high - low) * uniform[:, :1]
    square = scale[:, :, None] * scale.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    noise = normal(uniform[:, 1:]).view(count, CORNER_DRAWS, 4, 2)
    candidates = square[:, None] + 2 * sigma / size * noise
    sides = candidates.roll(-1, 2) - candidates
    convex = (_cross(sides, sides.roll(-1, 2)) > 0).all(-1)
    chosen = candidates[torch.arange(count, device=convex.device), convex.int().argmax(1)]
    return torch.where(convex.any(1)[:, None, None], chosen, square)


def projection(images: Tensor, generator: torch.Generator, sigma: float = CORNER_SIGMA) -> Tensor:
    """P: shrink images to 0.75 to 1 of their size, then move each corner, and all between by a homography.

    Corners that do not span a convex quadrilateral would tear the image apart: they are drawn anew, of which the
    paper says nothing. (Where four draws fail, once in a million, the corners are only those of the shrunk image.)

    Args:
        images: (N, C, S, S), background 0.
        generator: Source of randomness, on any device.
        sigma: Standard deviation of the corners' movement in pixels.

    Returns:
        (N, C, S, S), on the images' device.
    """
    theta = corners_theta(draw_corners(len(images), images.shape[-1], generator, sigma))
    return spatial_transform(images, theta.to(images.device), "projective")


ELASTIC = ThinPlateSpline((4, 4))


def elastic(images: Tensor, generator: torch.Generator, sigma: float = POINT_SIGMA) -> Tensor:
    """E: shrink images to 0.75 to 1 of their size, then bend them by a thin-plate spline through 16 control points.

    The control points are a regular lattice over the output, and what moves is where each of them looks.

    Args:
        images: (N, C, S, S), background 0.
        generator: Source of randomness, on any device.
        sigma: Standard deviation of a point's movement along x and along y, in pixels of the shrunk image.

    Returns:
        (N, C, S, S), on the images' device.
    """
    count, (low, high) = len(images), SCALES
    uniform = draw_uniform(count, 1 + 64, generator)
    scale = low + (high - low) * uniform[:, :1, None]
    noise = normal(uniform[:, 1:]).view(count, 16, 2)
    points = ELASTIC.identity_parameters().to(noise.device).view(16, 2)
    theta = (points + 2 * sigma / images.shape[-1] * noise) / scale
    return spatial_transform(images, theta.to(images.device), ELASTIC)


DISTORTIONS: dict[str, Distortion] = {"r": rotation, "rts": rts, "p": projection, "e": elastic, "tc": clutter}
"""The distortions of table 1 and of section 4.1, by the paper's names in lower case."""

CANVAS = {"r": 28, "rts": 42, "p": 28, "e": 28, "tc": 60}
"""Side in pixels of what each distortion makes of a digit of 28 x 28."""
