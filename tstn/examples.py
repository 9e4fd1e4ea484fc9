"""Ready custom transforms, and examples of how to write one: lens distortion, polar coordinates, Moebius maps.

All map target to source, in normalised coordinates. On images that are not square these are not isotropic: a circle
in them is an ellipse in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tstn import _checks
from tstn.custom import CustomTransform


def brown_conrady(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Radial and tangential lens distortion (Brown 1966), theta (4,) = k1, k2, p1, p2.

    With r^2 = x^2 + y^2::

        x_source = x (1 + k1 r^2 + k2 r^4) + 2 p1 x y + p2 (r^2 + 2 x^2)
        y_source = y (1 + k1 r^2 + k2 r^4) + p1 (r^2 + 2 y^2) + 2 p2 x y
    """
    k1, k2, p1, p2 = theta.unbind()
    xx, xy, yy = x * x, x * y, y * y
    rr = xx + yy
    radial = rr * (k1 + rr * k2)
    return (
        x + (x * radial + (2 * p1 * xy + p2 * (rr + 2 * xx))),
        y + (y * radial + (p1 * (rr + 2 * yy) + 2 * p2 * xy)),
    )


@dataclass(frozen=True)
class LensMap:
    """:func:`brown_conrady` about a lens's axis, in units of its focal length, theta (4,) = k1, k2, p1, p2.

    With u = (x - cx) / fx and v = (y - cy) / fy, and (u', v') where brown_conrady maps them::

        x_source = fx u' + cx
        y_source = fy v' + cy

    Attributes:
        focal: fx, fy, in normalised units.
        centre: cx, cy, the principal point, normalised.
    """

    focal: tuple[float, float] = (1.0, 1.0)
    centre: tuple[float, float] = (0.0, 0.0)

    def __call__(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The source of the target (x, y)."""
        (fx, fy), (cx, cy) = self.focal, self.centre
        u, v = (x - cx) / fx, (y - cy) / fy
        u_source, v_source = brown_conrady(theta, u, v)
        # By what it moves, so that nothing is rounded where it moves nothing.
        return x + fx * (u_source - u), y + fy * (v_source - v)


def lens_distortion(
    focal: tuple[float, float] = (1.0, 1.0), centre: tuple[float, float] = (0.0, 0.0)
) -> CustomTransform:
    """The transform of :class:`LensMap`, by default that of :func:`brown_conrady`; the identity is theta = 0.

    Sampling a distorted photograph with its lens's coefficients straightens it, as ``cv2.undistort`` does. theta is the
    first four of OpenCV's coefficients, (k1, k2, p1, p2), in its order. There is no k3 and nothing that comes after it:
    a calibration that has them needs a map of its own.

    The coefficients of a calibration belong to its camera matrix K = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels,
    where 0 is the first pixel's centre, of images of W x H pixels. From it, with ``align_corners=False``::

        focal  = 2 fx / W, 2 fy / H
        centre = (2 cx + 1) / W - 1, (2 cy + 1) / H - 1

    and with ``align_corners=True``::

        focal  = 2 fx / (W - 1), 2 fy / (H - 1)
        centre = 2 cx / (W - 1) - 1, 2 cy / (H - 1) - 1

    The output shows the same field of view, whatever its size. The numbers are constants of the map.

    Args:
        focal: The focal length, horizontal and vertical, in normalised units.
        centre: The principal point (x, y), normalised.

    Raises:
        TypeError: If one of them is not a pair of real numbers.
        ValueError: If a number is not finite, or a focal length is zero.
    """
    lens = LensMap(_checks.require_pair("focal", focal), _checks.require_pair("centre", centre))
    if 0 in lens.focal:
        raise ValueError(f"focal must not be zero; got {lens.focal}")
    return CustomTransform(brown_conrady if lens == LensMap() else lens, (4,), (0.0, 0.0, 0.0, 0.0))


@dataclass(frozen=True)
class PolarMap:
    """Polar or log-polar coordinates about an origin, theta (2,) = cx, cy (Esteves et al. 2018).

    The target's x axis is the radius r and its y axis the angle a, which runs once around, from 0 to 2 pi::

        x_source = cx + r cos(a),   a = pi (y + 1)
        y_source = cy + r sin(a)
        r = radius (x + 1) / 2                                        without ``logarithmic``
        r = inner_radius (radius / inner_radius) ^ ((x + 1) / 2)      with it

    Rotating the source about the origin shifts the target along y; scaling it shifts a logarithmic target along x.

    Attributes:
        radius: The radius at the target's right edge, in normalised units.
        inner_radius: The radius at its left edge, if logarithmic.
        logarithmic: Whether equal steps in x are equal ratios of radii.
    """

    radius: float = 1.0
    inner_radius: float = 0.05
    logarithmic: bool = False

    def __call__(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The source of the target (x, y)."""
        part = 0.5 * x + 0.5
        if self.logarithmic:
            r = self.inner_radius * torch.exp(math.log(self.radius / self.inner_radius) * part)
        else:
            r = self.radius * part
        angle = math.pi * y + math.pi
        return theta[0] + r * torch.cos(angle), theta[1] + r * torch.sin(angle)


def polar(radius: float = 1.0, *, inner_radius: float = 0.05, logarithmic: bool = False) -> CustomTransform:
    """The transform of :class:`PolarMap`.

    No theta makes it the identity: it always unrolls the image. ``identity_parameters()`` is the origin at the
    image's centre, (0, 0), where a localisation network then starts.

    Raises:
        ValueError: If a radius is not positive.
    """
    if not (radius > 0 and inner_radius > 0):
        raise ValueError(f"radius and inner_radius must be positive; got {radius} and {inner_radius}")
    return CustomTransform(PolarMap(radius, inner_radius, logarithmic), (2,), (0.0, 0.0))


def moebius_map(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(a z + b) / (c z + d) of z = x + i y, theta (4, 2) = a, b, c, d as (real, imaginary).

    The pole z = -d / c looks outside the image. Theta may have any overall scale.
    """
    (a_re, a_im), (b_re, b_im), (c_re, c_im), (d_re, d_im) = (row.unbind() for row in theta.unbind())
    top_re, top_im = a_re * x - a_im * y + b_re, a_re * y + a_im * x + b_im
    low_re, low_im = c_re * x - c_im * y + d_re, c_re * y + c_im * x + d_im
    size = low_re * low_re + low_im * low_im
    return (top_re * low_re + top_im * low_im) / size, (top_im * low_re - top_re * low_im) / size


def moebius() -> CustomTransform:
    """The transform of :func:`moebius_map`; the identity is a = d = 1, b = c = 0."""
    return CustomTransform(moebius_map, (4, 2), ((1.0, 0.0), (0.0, 0.0), (0.0, 0.0), (1.0, 0.0)))
