"""Coordinate transforms: what theta means, its algebra, and its sampling grid in plain PyTorch.

Every transform maps *target to source*: for each output pixel it says where in the input to look. Coordinates
are (x, y), x to the right, normalised so that -1 and 1 are the image's edges (``align_corners=False``) or the
centres of its outermost pixels (``align_corners=True``). An axis of size 1 has the single coordinate 0.
"""

from __future__ import annotations

import math
from abc import ABCMeta, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tstn import _checks

# Beyond this a coordinate, in pixels or normalised, says nothing about a place in the image: it counts as infinite.
HUGE = 2.0**31
# What a class overrides that has a map of its own.
MAP_METHODS = ("matrix", "coordinates", "pack", "constants")


class _TransformType(ABCMeta):
    """Looks at a map that the kernels do not know when a transform is made, not when it is first used."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        transform = super().__call__(*args, **kwargs)
        if cls._own_map:  # pyright: ignore[reportAttributeAccessIssue]
            transform._look_at_map()
        return transform


class Transform(metaclass=_TransformType):
    """A family of coordinate maps, parametrised by theta.

    For a map of your own there is :class:`tstn.CustomTransform`. A class derived from a matrix family may also give
    ``matrix`` (or ``from_matrix``, ``theta_shape``) a meaning of its own: it is warped by its matrices. Any other class
    that overrides ``coordinates`` or ``pack`` is traced when it is constructed, as a custom transform is; where that
    cannot be done, only plain PyTorch can warp by it, and the kernels' error says why.

    Attributes:
        name: The family's name, for messages; the named families are known to :func:`tstn.spatial_transform` by it.
        theta_shape: Shape of one sample's theta; (-1, -1, 2) if it has a number pair for each output pixel.
    """

    name: ClassVar[str]
    theta_shape: tuple[int, ...]
    # Whether the map is another one than the built-in family's.
    _own_map: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.partition(".")[0] != "tstn":
            cls._own_map = cls._own_map or any(name in cls.__dict__ for name in MAP_METHODS)
            cls.name = getattr(cls, "name", cls.__name__)

    def _look_at_map(self) -> None:
        """Have what :meth:`lowered` needs of a map that the kernels do not know."""
        from tstn.custom import CustomTransform

        def fn(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            numbers = self.pack(theta[None], theta.dtype).to(theta.dtype).flatten(1)
            u, v = self.coordinates(numbers, x[None], y[None, None])
            return u.reshape(()), v.reshape(())

        try:
            traced = CustomTransform(fn, self.theta_shape, self.identity_parameters())
        except (TypeError, ValueError) as error:
            traced = f"{type(self).__name__} has a map of its own that cannot be traced: {error}"
        # Also where a class is frozen.
        object.__setattr__(self, "_traced", traced)

    def lowered(self, theta: Tensor, dtype: torch.dtype, backend: str = "torch") -> tuple[Tensor, Transform]:
        """Theta and a transform that the backend knows which are the same map; themselves, but for maps of one's own.

        Args:
            theta: (..., *theta_shape).
            dtype: The one that coordinates are computed in.
            backend: Where the map is to run.

        Raises:
            ValueError: If there is none.
        """
        if not self._own_map:
            return theta, self
        traced: Transform | str = self._traced  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(traced, Transform):
            return theta, traced
        if backend != "torch":
            raise ValueError(f"{traced}; warp by it on plain PyTorch, tstn.backend('torch')")
        return theta, self

    @property
    def kernel(self) -> str:
        """The key under which the kernels know the family's coordinate map."""
        return self.name

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
            raise ValueError(f"{self!r} has a number pair for each output pixel, not a fixed number of parameters")
        return math.prod(self.theta_shape)

    @abstractmethod
    def identity_parameters(self) -> Tensor:
        """The flat parameters, (num_parameters,) float32, that leave an image as it is."""

    def theta(self, parameters: Tensor) -> Tensor:
        """Flat parameters (..., num_parameters) to theta (..., *theta_shape).

        Raises:
            ValueError: If the last dimension is not ``num_parameters``.
        """
        count = self.num_parameters
        if parameters.dim() == 0 or parameters.shape[-1] != count:
            raise ValueError(f"parameters must have shape (..., {count}) for {self!r}; got {_checks.shape(parameters)}")
        return parameters.unflatten(-1, self.theta_shape)

    def pack(self, theta: Tensor, dtype: torch.dtype) -> Tensor:
        """The numbers (M, P) that the kernels and the plain path read, from theta (M, *theta_shape).

        Differentiable; of any shape that flattens to (M, P). ``dtype`` is the one coordinates are computed in, for
        families that compute here.
        """
        return theta

    def constants(self, device: torch.device) -> Tensor | None:
        """What the coordinate map needs beside theta, the same for all samples; None for most families."""
        return None

    @abstractmethod
    def coordinates(self, numbers: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised source coordinates x and y, each broadcastable to (M, H_out, W_out).

        Args:
            numbers: (M, P), as :meth:`pack` gives them, in the coordinates' dtype.
            x: (W_out,), the target's normalised columns.
            y: (H_out, 1), its rows.
        """

    def source_pixels(
        self, numbers: Tensor, size: tuple[int, int], input_size: tuple[int, int], align_corners: bool
    ) -> tuple[Tensor, Tensor]:
        """Source coordinates in input pixels, x and y, broadcastable to (M, H_out, W_out); 0 is the first's centre."""
        x, y = self.coordinates(numbers, *normalised_lattice(size, align_corners, numbers))
        height, width = input_size
        x = x * half_extent(width, align_corners) + (width - 1) / 2
        y = y * half_extent(height, align_corners) + (height - 1) / 2
        return x, y

    def __fx_create_arg__(self, tracer: Any) -> Any:
        # To torch.fx, which knows arguments of a few types only, an attribute of the module that it traces.
        number = 0
        while getattr(tracer.root, f"_tstn_transform{number}", self) is not self:
            number += 1
        setattr(tracer.root, f"_tstn_transform{number}", self)
        return tracer.create_node("get_attr", f"_tstn_transform{number}", (), {})

    def grid(self, theta: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
        """The sampling grid (..., H_out, W_out, 2), normalised (x, y), of theta (..., *theta_shape).

        Plain, differentiable PyTorch in float32 (float64 for a float64 theta).
        """
        dtype = compute_dtype(theta)
        lead = theta.shape[: theta.dim() - len(self.theta_shape)]
        numbers = self.pack(theta.reshape(lead.numel(), *self.theta_shape), dtype).to(dtype).flatten(1)
        x, y = self.coordinates(numbers, *normalised_lattice(size, align_corners, numbers))
        shape = (numbers.shape[0], *size)
        return torch.stack((x.expand(shape), y.expand(shape)), dim=-1).reshape(*lead, *size, 2)


def half_extent(size: int, align_corners: bool) -> float:
    """Pixels per unit of normalised coordinate along an axis of ``size`` pixels."""
    return (size - 1) / 2 if align_corners else size / 2


def half_extent_out(size: int, align_corners: bool) -> float:
    """The same for an output's axis, where the single coordinate of size 1 is 0 whatever it is divided by."""
    return (max(size, 2) - 1) / 2 if align_corners else max(size, 1) / 2


def compute_dtype(theta: Tensor) -> torch.dtype:
    """Coordinates are never computed in less than float32."""
    return torch.float64 if theta.dtype == torch.float64 else torch.float32


def centred_lattice(size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Target pixel coordinates about the image's centre: x (W_out,) and y (H_out, 1)."""
    height, width = size
    x = torch.arange(width, device=like.device, dtype=like.dtype) - (width - 1) / 2
    y = torch.arange(height, device=like.device, dtype=like.dtype) - (height - 1) / 2
    return x, y[:, None]


def normalised_lattice(size: tuple[int, int], align_corners: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised target coordinates: x (W_out,) and y (H_out, 1)."""
    x, y = centred_lattice(size, like)
    return x / half_extent_out(size[1], align_corners), y / half_extent_out(size[0], align_corners)


class MatrixTransform(Transform):
    """A transform that is a matrix on (x, y, 1), with fewer or equally many free numbers."""

    @abstractmethod
    def matrix(self, theta: Tensor) -> Tensor:
        """The matrices of theta (..., *theta_shape): (..., 2, 3), the last row (0, 0, 1) left out, or (..., 3, 3)."""

    @abstractmethod
    def from_matrix(self, matrix: Tensor) -> Tensor:
        """Theta (..., *theta_shape) of matrices that belong to the family.

        The families here take both shapes; one of your own may take (..., 3, 3) alone, as the algebra below gives it.

        Args:
            matrix: (..., 3, 3), or (..., 2, 3) with the last row (0, 0, 1) left out, of a floating dtype. Numbers that
                are the same in the whole family are not looked at.

        Raises:
            TypeError: If it is not a dense tensor of a floating dtype.
            ValueError: If it has another shape.
        """

    def identity_parameters(self) -> Tensor:
        return self.from_matrix(torch.eye(3, dtype=torch.float32)).flatten()

    def _look_at_map(self) -> None:
        pass

    def lowered(self, theta: Tensor, dtype: torch.dtype, backend: str = "torch") -> tuple[Tensor, Transform]:
        if not self._own_map:
            return theta, self
        with torch.autocast(theta.device.type, enabled=False):
            matrix = self.matrix(theta.to(dtype))
        lead = theta.shape[: theta.dim() - len(self.theta_shape)]
        for family in ("affine", "projective"):
            if tuple(matrix.shape) == (*lead, *NAMED[family].theta_shape):
                return matrix, NAMED[family]
        raise ValueError(
            f"matrix of {type(self).__name__} must return (..., 2, 3) or (..., 3, 3) for theta (..., "
            f"{', '.join(map(str, self.theta_shape))}); got {_checks.shape(matrix)} for {_checks.shape(theta)}"
        )

    def compose(self, outer: Tensor, inner: Tensor) -> Tensor:
        """The theta that maps a target point by ``inner`` first and by ``outer`` next; both (..., *theta_shape).

        In float32, or float64 if one of them is, whatever autocast says; so are :meth:`inverse` and :meth:`corners`.
        """
        first, second = self._square(inner), self._square(outer)
        return self.from_matrix(_product(second, first))

    def inverse(self, theta: Tensor) -> Tensor:
        """The theta that undoes ``theta``: ``compose(inverse(theta), theta)`` is the identity.

        Raises:
            torch.linalg.LinAlgError: If a matrix is singular.
        """
        matrix = self._square(theta)
        # Its gradient is a product of matrices, and autocast leaves float64 alone, which MPS does not have.
        wide = matrix if matrix.device.type == "mps" else matrix.double()
        return self.from_matrix(torch.linalg.inv(wide).to(matrix.dtype))

    def corners(self, theta: Tensor) -> Tensor:
        """The sampled quadrilateral (..., 4, 2) in the input's normalised coordinates.

        The images of the target's corners (-1, -1), (1, -1), (1, 1), (-1, 1), in this order.
        """
        matrix = self._square(theta)
        target = matrix.new_tensor([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]])
        source = _product(target, matrix.mT)
        return source[..., :2] / source[..., 2:]

    def _square(self, theta: Tensor) -> Tensor:
        """The matrices (..., 3, 3) of theta, at least in float32."""
        return _square(self.matrix(theta.to(compute_dtype(theta))))

    def source_pixels(
        self, numbers: Tensor, size: tuple[int, int], input_size: tuple[int, int], align_corners: bool
    ) -> tuple[Tensor, Tensor]:
        # In centred pixels the identity has unit entries when the sizes agree, so that whole pixels stay whole.
        in_y, in_x = (half_extent(n, align_corners) for n in input_size)
        out_y, out_x = (half_extent_out(n, align_corners) for n in size)
        height, width = input_size
        x, y = _matrix_product(
            self.matrix(numbers.unflatten(1, self.theta_shape)),
            *centred_lattice(size, numbers),
            ((in_x / out_x, in_x / out_y, in_x), (in_y / out_x, in_y / out_y, in_y), (1 / out_x, 1 / out_y, 1.0)),
        )
        return x + (width - 1) / 2, y + (height - 1) / 2

    def coordinates(self, numbers: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return _matrix_product(self.matrix(numbers.unflatten(1, self.theta_shape)), x, y)


Scales = tuple[tuple[float, float, float], ...]


def _matrix_product(
    matrix: Tensor, x: Tensor, y: Tensor, scales: Scales = ((1.0, 1.0, 1.0),) * 3
) -> tuple[Tensor, Tensor]:
    """(u, v) or (u / w, v / w) of (u, v, w) = (matrix * scales) @ (x, y, 1), for matrices (M, 2 or 3, 3)."""

    def row(i: int) -> Tensor:
        a, b, c = (matrix[:, i, j, None, None] * scales[i][j] for j in range(3))
        return a * x + (b * y + c)

    u, v = row(0), row(1)
    return (u, v) if matrix.shape[1] == 2 else _divided(u, v, row(2))


def _divided(u: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """(u / w, v / w), NaN at w = 0; without a derivative near it, which would spoil theta's for all pixels."""
    x, y = (torch.where(w == 0, torch.nan, n / w).detach() for n in (u, v))
    seen = (x.abs() < HUGE) & (y.abs() < HUGE)
    safe = torch.where(seen, w, 1.0)
    return torch.where(seen, u / safe, x), torch.where(seen, v / safe, y)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The product of small matrices (..., i, k) and (..., k, j), by operators that autocast leaves in their dtype."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def _checked(matrix: Tensor) -> Tensor:
    """What ``from_matrix`` was given, as (..., 3, 3)."""
    _checks.require_matrix(matrix)
    return _square(matrix)


def _square(matrix: Tensor) -> Tensor:
    """(..., 2, 3) to (..., 3, 3) by the row (0, 0, 1)."""
    if matrix.shape[-2] == 3:
        return matrix
    row = matrix.new_tensor([0, 0, 1]).expand(*matrix.shape[:-2], 1, 3)
    return torch.cat((matrix, row), dim=-2)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    return torch.stack((a, b, c, d, e, f), dim=-1).unflatten(-1, (2, 3))


@dataclass(frozen=True)
class Translation(MatrixTransform):
    """theta (2,) = tx, ty. Source of (x, y): (x + tx, y + ty)."""

    name: ClassVar[str] = "translation"
    theta_shape = (2,)

    def matrix(self, theta: Tensor) -> Tensor:
        tx, ty = theta.unbind(-1)
        zero, one = torch.zeros_like(tx), torch.ones_like(tx)
        return _matrix(one, zero, tx, zero, one, ty)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        return _checked(matrix)[..., :2, 2]


@dataclass(frozen=True)
class Attention(MatrixTransform):
    """theta (3,) = s, tx, ty. Source of (x, y): (s x + tx, s y + ty), Jaderberg et al. 2015, eq. 2."""

    name: ClassVar[str] = "attention"
    theta_shape = (3,)

    def matrix(self, theta: Tensor) -> Tensor:
        s, tx, ty = theta.unbind(-1)
        zero = torch.zeros_like(s)
        return _matrix(s, zero, tx, zero, s, ty)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        matrix = _checked(matrix)
        return torch.stack((matrix[..., 0, 0], matrix[..., 0, 2], matrix[..., 1, 2]), dim=-1)


@dataclass(frozen=True)
class Similarity(MatrixTransform):
    """theta (4,) = a, b, tx, ty. Source of (x, y): (a x - b y + tx, b x + a y + ty).

    A similarity of normalised coordinates, in which every image is a square: it turns [-1, 1]^2. An image that is not
    square it shears, unless b is 0. What turns the pixels rigidly, by an angle and a scale s, from an image of H x W
    pixels to one of the same size, is the ``"affine"`` theta ::

        s cos(angle)           -s sin(angle) H / W    tx
        s sin(angle) W / H      s cos(angle)          ty

    with ``align_corners=False``; with ``align_corners=True`` the sides are H - 1 and W - 1.
    """

    name: ClassVar[str] = "similarity"
    theta_shape = (4,)

    def matrix(self, theta: Tensor) -> Tensor:
        a, b, tx, ty = theta.unbind(-1)
        return _matrix(a, -b, tx, b, a, ty)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        matrix = _checked(matrix)
        return torch.stack((matrix[..., 0, 0], matrix[..., 1, 0], matrix[..., 0, 2], matrix[..., 1, 2]), dim=-1)


@dataclass(frozen=True)
class Affine(MatrixTransform):
    """theta (2, 3). Source of (x, y): theta @ (x, y, 1), as ``torch.nn.functional.affine_grid``."""

    name: ClassVar[str] = "affine"
    theta_shape = (2, 3)

    def matrix(self, theta: Tensor) -> Tensor:
        return theta

    def from_matrix(self, matrix: Tensor) -> Tensor:
        return _checked(matrix)[..., :2, :]


@dataclass(frozen=True)
class Projective(MatrixTransform):
    """theta (3, 3) at any scale. Source of (x, y): (u / w, v / w), (u, v, w) = theta @ (x, y, 1); outside at w = 0.

    A localisation network predicts the first eight entries, row by row; the last one is 1.
    """

    name: ClassVar[str] = "projective"
    theta_shape = (3, 3)

    @property
    def num_parameters(self) -> int:
        return 8

    def identity_parameters(self) -> Tensor:
        return torch.eye(3, dtype=torch.float32).flatten()[:8]

    def theta(self, parameters: Tensor) -> Tensor:
        if parameters.dim() == 0 or parameters.shape[-1] != 8:
            raise ValueError(f"parameters must have shape (..., 8) for {self!r}; got {_checks.shape(parameters)}")
        return torch.cat((parameters, torch.ones_like(parameters[..., :1])), dim=-1).unflatten(-1, (3, 3))

    def matrix(self, theta: Tensor) -> Tensor:
        return theta

    def from_matrix(self, matrix: Tensor) -> Tensor:
        return _checked(matrix)


class DenseTransform(Transform):
    """A transform whose theta (H_out, W_out, 2) is a field of its own number pair (x, y) for each output pixel.

    The field is added to the coordinates of a base that has no parameters.
    """

    theta_shape = (-1, -1, 2)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls._own_map:
            raise TypeError(
                f"{cls.__name__} cannot change what a field means: the kernels know displacements and coordinates only."
                " Write a CustomTransform, to which a field can be added by flow="
            )

    def identity_parameters(self) -> Tensor:
        raise ValueError(f"{self!r} has no fixed number of parameters; its identity depends on the output's size")

    def grid(self, theta: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
        theta = theta.to(compute_dtype(theta))
        x, y = self.coordinates(theta, *normalised_lattice(size, align_corners, theta))
        return torch.stack((x + theta[..., 0], y + theta[..., 1]), dim=-1)


@dataclass(frozen=True)
class Flow(DenseTransform):
    """theta (H_out, W_out, 2): a displacement for every output pixel. Source of (x, y): (x, y) + theta[i, j]."""

    name: ClassVar[str] = "flow"

    def coordinates(self, numbers: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, y

    def source_pixels(
        self, numbers: Tensor, size: tuple[int, int], input_size: tuple[int, int], align_corners: bool
    ) -> tuple[Tensor, Tensor]:
        x, y = centred_lattice(size, numbers)
        in_y, in_x = (half_extent(n, align_corners) for n in input_size)
        out_y, out_x = (half_extent_out(n, align_corners) for n in size)
        return x * (in_x / out_x) + (input_size[1] - 1) / 2, y * (in_y / out_y) + (input_size[0] - 1) / 2


@dataclass(frozen=True)
class Grid(DenseTransform):
    """theta (H_out, W_out, 2): the source (x, y) of every output pixel, as ``grid_sample`` takes it."""

    name: ClassVar[str] = "grid"

    def coordinates(self, numbers: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(x), torch.zeros_like(y)

    def grid(self, theta: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
        return theta.to(compute_dtype(theta))


NAMED: dict[str, Transform] = {
    t.name: t for t in (Translation(), Attention(), Similarity(), Affine(), Projective(), Flow(), Grid())
}


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
