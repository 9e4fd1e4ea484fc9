"""Coordinate transforms: what theta means, its algebra, and its sampling grid in plain PyTorch.

Every transform maps *target to source*: for each output pixel it says where in the input to look. Coordinates
are (x, y), x to the right, normalised so that -1 and 1 are the image's edges (``align_corners=False``) or the
centres of its outermost pixels (``align_corners=True``). An axis of size 1 has the single coordinate 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tstn import _checks


class Transform(ABC):
    """A family of coordinate maps, parametrised by theta.

    Attributes:
        name: The key under which :func:`tstn.spatial_transform` and the kernels know the family.
        theta_shape: Shape of one sample's theta; (-1, -1, 2) if it has a number pair for each output pixel.
    """

    name: ClassVar[str]
    theta_shape: ClassVar[tuple[int, ...]]

    def shape_for(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of one sample's theta for an output of ``size`` (H_out, W_out)."""
        return (*size, 2) if self.is_dense else self.theta_shape

    @property
    def is_dense(self) -> bool:
        """Whether theta has a number pair for each output pixel."""
        return self.theta_shape[0] == -1

    @property
    def num_parameters(self) -> int:
        """Numbers that a localisation network predicts per sample.

        Raises:
            ValueError: If the family has no fixed number.
        """
        if self.is_dense:
            raise ValueError(f"{self!r} has one source coordinate per output pixel, not a fixed number of parameters")
        return math.prod(self.theta_shape)

    @abstractmethod
    def identity_parameters(self) -> Tensor:
        """The flat parameters, (num_parameters,) float32, that leave an image as it is."""

    def theta(self, parameters: Tensor) -> Tensor:
        """Flat parameters (..., num_parameters) to theta (..., *theta_shape), without a copy.

        Raises:
            ValueError: If the last dimension is not ``num_parameters``.
        """
        count = self.num_parameters
        if parameters.dim() == 0 or parameters.shape[-1] != count:
            raise ValueError(f"parameters must have shape (..., {count}) for {self!r}; got {_checks.shape(parameters)}")
        return parameters.unflatten(-1, self.theta_shape)

    @abstractmethod
    def grid(self, theta: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
        """The sampling grid (..., H_out, W_out, 2), normalised (x, y), of theta (..., *theta_shape).

        Plain, differentiable PyTorch in float32 (float64 for a float64 theta).
        """

    def source_pixels(
        self, theta: Tensor, size: tuple[int, int], input_size: tuple[int, int], align_corners: bool
    ) -> tuple[Tensor, Tensor]:
        """Source coordinates in input pixels, x and y, each (..., H_out, W_out); 0 is the first pixel's centre."""
        grid = self.grid(theta, size, align_corners)
        height, width = input_size
        x = grid[..., 0] * half_extent(width, align_corners) + (width - 1) / 2
        y = grid[..., 1] * half_extent(height, align_corners) + (height - 1) / 2
        return x, y


def half_extent(size: int, align_corners: bool) -> float:
    """Pixels per unit of normalised coordinate along an axis of ``size`` pixels."""
    return (size - 1) / 2 if align_corners else size / 2


def compute_dtype(theta: Tensor) -> torch.dtype:
    """Coordinates are never computed in less than float32."""
    return torch.float64 if theta.dtype == torch.float64 else torch.float32


def centred_lattice(size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Target pixel coordinates about the image's centre: x (W_out,) and y (H_out, 1)."""
    height, width = size
    x = torch.arange(width, device=like.device, dtype=like.dtype) - (width - 1) / 2
    y = torch.arange(height, device=like.device, dtype=like.dtype) - (height - 1) / 2
    return x, y[:, None]


class MatrixTransform(Transform):
    """A transform that is a 2x3 matrix [A | t] on (x, y, 1), with fewer or equally many free numbers."""

    @abstractmethod
    def matrix(self, theta: Tensor) -> Tensor:
        """The affine matrices (..., 2, 3) of theta (..., *theta_shape)."""

    @abstractmethod
    def from_matrix(self, matrix: Tensor) -> Tensor:
        """Theta (..., *theta_shape) of matrices (..., 2, 3) that belong to the family."""

    def identity_parameters(self) -> Tensor:
        return self.from_matrix(torch.eye(2, 3)).flatten()

    def _entries(self, theta: Tensor) -> tuple[Tensor, ...]:
        """The six entries, row by row, each (..., 1, 1), ready to broadcast against a lattice."""
        matrix = self.matrix(theta.to(compute_dtype(theta)))
        return tuple(matrix[..., i, j, None, None] for i in range(2) for j in range(3))

    def grid(self, theta: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
        a, b, c, d, e, f = self._entries(theta)
        x, y = centred_lattice(size, a)
        x = x / max(half_extent(size[1], align_corners), 0.5)
        y = y / max(half_extent(size[0], align_corners), 0.5)
        return torch.stack((a * x + (b * y + c), d * x + (e * y + f)), dim=-1)

    def source_pixels(
        self, theta: Tensor, size: tuple[int, int], input_size: tuple[int, int], align_corners: bool
    ) -> tuple[Tensor, Tensor]:
        # In centred pixels the identity has unit entries when the sizes agree, so that whole pixels stay whole.
        a, b, c, d, e, f = self._entries(theta)
        x, y = centred_lattice(size, a)
        in_y, in_x = (half_extent(n, align_corners) for n in input_size)
        out_y, out_x = (max(half_extent(n, align_corners), 0.5) for n in size)
        height, width = input_size
        x_source = (a * (in_x / out_x)) * x + ((b * (in_x / out_y)) * y + (c * in_x + (width - 1) / 2))
        y_source = (d * (in_y / out_x)) * x + ((e * (in_y / out_y)) * y + (f * in_y + (height - 1) / 2))
        return x_source, y_source

    def compose(self, outer: Tensor, inner: Tensor) -> Tensor:
        """The theta that maps a target point by ``inner`` first and by ``outer`` next; both (..., *theta_shape)."""
        return self.from_matrix((_square(self.matrix(outer)) @ _square(self.matrix(inner)))[..., :2, :])

    def inverse(self, theta: Tensor) -> Tensor:
        """The theta that undoes ``theta``: ``compose(inverse(theta), theta)`` is the identity.

        Raises:
            torch.linalg.LinAlgError: If a matrix is singular.
        """
        return self.from_matrix(torch.linalg.inv(_square(self.matrix(theta)))[..., :2, :])

    def corners(self, theta: Tensor) -> Tensor:
        """The sampled quadrilateral (..., 4, 2) in the input's normalised coordinates.

        The images of the target's corners (-1, -1), (1, -1), (1, 1), (-1, 1), in this order.
        """
        matrix = self.matrix(theta)
        target = matrix.new_tensor([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]])
        return target @ matrix.mT


def _square(matrix: Tensor) -> Tensor:
    """(..., 2, 3) to (..., 3, 3) by the row (0, 0, 1)."""
    row = matrix.new_tensor([0, 0, 1]).expand(*matrix.shape[:-2], 1, 3)
    return torch.cat((matrix, row), dim=-2)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    return torch.stack((a, b, c, d, e, f), dim=-1).unflatten(-1, (2, 3))


@dataclass(frozen=True)
class Translation(MatrixTransform):
    """theta (2,) = tx, ty. Source of (x, y): (x + tx, y + ty)."""

    name: ClassVar[str] = "translation"
    theta_shape: ClassVar[tuple[int, ...]] = (2,)

    def matrix(self, theta: Tensor) -> Tensor:
        tx, ty = theta.unbind(-1)
        zero, one = torch.zeros_like(tx), torch.ones_like(tx)
        return _matrix(one, zero, tx, zero, one, ty)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        return matrix[..., :, 2]


@dataclass(frozen=True)
class Attention(MatrixTransform):
    """theta (3,) = s, tx, ty. Source of (x, y): (s x + tx, s y + ty), Jaderberg et al. 2015, eq. 2."""

    name: ClassVar[str] = "attention"
    theta_shape: ClassVar[tuple[int, ...]] = (3,)

    def matrix(self, theta: Tensor) -> Tensor:
        s, tx, ty = theta.unbind(-1)
        zero = torch.zeros_like(s)
        return _matrix(s, zero, tx, zero, s, ty)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        return torch.stack((matrix[..., 0, 0], matrix[..., 0, 2], matrix[..., 1, 2]), dim=-1)


@dataclass(frozen=True)
class Similarity(MatrixTransform):
    """theta (4,) = a, b, tx, ty. Source of (x, y): (a x - b y + tx, b x + a y + ty)."""

    name: ClassVar[str] = "similarity"
    theta_shape: ClassVar[tuple[int, ...]] = (4,)

    def matrix(self, theta: Tensor) -> Tensor:
        a, b, tx, ty = theta.unbind(-1)
        return _matrix(a, -b, tx, b, a, ty)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        return torch.stack((matrix[..., 0, 0], matrix[..., 1, 0], matrix[..., 0, 2], matrix[..., 1, 2]), dim=-1)


@dataclass(frozen=True)
class Affine(MatrixTransform):
    """theta (2, 3). Source of (x, y): theta @ (x, y, 1), as ``torch.nn.functional.affine_grid``."""

    name: ClassVar[str] = "affine"
    theta_shape: ClassVar[tuple[int, ...]] = (2, 3)

    def matrix(self, theta: Tensor) -> Tensor:
        return theta

    def from_matrix(self, matrix: Tensor) -> Tensor:
        return matrix


@dataclass(frozen=True)
class Grid(Transform):
    """theta (H_out, W_out, 2): the source (x, y) of every output pixel, as ``grid_sample`` takes it."""

    name: ClassVar[str] = "grid"
    theta_shape: ClassVar[tuple[int, ...]] = (-1, -1, 2)

    def identity_parameters(self) -> Tensor:
        raise ValueError("Grid() has no fixed number of parameters; build the identity with sampling_grid")

    def grid(self, theta: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
        return theta.to(compute_dtype(theta))


NAMED: dict[str, Transform] = {t.name: t for t in (Translation(), Attention(), Similarity(), Affine(), Grid())}


def as_transform(transform: str | Transform) -> Transform:
    """A transform by its name, or the object itself.

    Raises:
        TypeError: If it is neither a string nor a :class:`Transform`.
        ValueError: If no transform has that name.
    """
    if isinstance(transform, Transform):
        return transform
    if not isinstance(transform, str):
        raise TypeError(f"transform must be a name or a Transform; got {type(transform).__name__}")
    if transform not in NAMED:
        raise ValueError(f"transform must be one of {', '.join(map(repr, NAMED))}; got {transform!r}")
    return NAMED[transform]
