"""The thin-plate spline: a smooth warp through control points, in plain PyTorch.

Duchon (1977) found the surface that bends least through given heights; Bookstein ("Principal Warps", PAMI 1989) made
a pair of them, one for x and one for y, a warp of the plane.
"""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from numbers import Integral, Real
from typing import ClassVar, NamedTuple, NoReturn, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from tstn import _checks
from tstn._aside import aside
from tstn.transforms import Transform

Points = tuple[tuple[float, float], ...]

# Kernels read the coefficients in float32: at this condition number they may have no digit left that is right.
CONDITION_LIMIT = 1 / torch.finfo(torch.float32).eps


class ThinPlateSpline(Transform):
    """theta (K, 2): where in the source each of K control points looks.

    The source of (x, y) is the thin-plate spline through ``points[k] -> theta[k]``, Bookstein 1989:

        s(p) = a_0 + a_1 x + a_2 y + sum_k w_k U(|p - points[k]|),    U(r) = r^2 log r,

    where the (K + 3, 2) coefficients solve, with P the rows [1, x, y] of the points,

        [ U + regularization I   P ] [ w ]   [ theta ]
        [ P^T                    0 ] [ a ] = [   0   ].

    That is ``scipy.interpolate.RBFInterpolator(points, theta, kernel="thin_plate_spline", degree=1,
    smoothing=regularization)``. It keeps affine maps as they are and, with ``regularization`` 0, passes through every
    theta; a larger one bends less. Both are exact in ``identity_parameters()``: the points look at themselves.

    *Convention.* Target to source, as every transform: a control point is a place in the output, its theta the place
    in the input that is seen there. (x, y), normalised to [-1, 1]; points and theta may lie outside. The points are
    constants, rounded to float32 once, and have no gradient. Create the object outside of compiled functions.

    Args:
        points: (rows, cols), each at least 2, for a lattice over [-1, 1]^2, row by row with x fastest; or K >= 3
            points as a (K, 2) tensor or nested sequence.
        regularization: 0 to interpolate, more to smooth.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``regularization`` is negative or not finite, or the points have the wrong shape, are fewer
            than three, are not finite, coincide or lie on one line, or do so so nearly that float32 coordinates could
            be arbitrarily wrong: the condition number of the system above, the columns of P scaled to its norm, is
            more than 2^23, one over float32's epsilon. In [-1, 1]^2 that is at distances of about 1e-3.
    """

    name: ClassVar[str] = "thin_plate_spline"
    points: Points
    regularization: float
    _lattice: tuple[int, int] | None
    _spline: _Spline

    def __init__(self, points: object = (4, 4), regularization: float = 0.0):
        if isinstance(regularization, bool) or not isinstance(regularization, Real):
            raise TypeError(f"regularization must be a number; got {type(regularization).__name__}")
        if not (math.isfinite(regularization) and regularization >= 0):
            raise ValueError(f"regularization must be finite and not negative; got {regularization}")
        regularization = _checks.plain_number(regularization)
        lattice = _as_lattice(points)
        spline = aside(lambda: _solved(_lattice_points(*lattice) if lattice else points, float(regularization)))
        for name, value in (
            ("points", spline.points),
            ("regularization", spline.regularization),
            ("theta_shape", (len(spline.points), 2)),
            ("_lattice", lattice),
            ("_spline", spline),
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to {name!r} of {self!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete {name!r} of {self!r}")

    def __eq__(self, other: object) -> bool:
        return self._spline.key == other._spline.key if isinstance(other, ThinPlateSpline) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._spline.key)

    def __repr__(self) -> str:
        points = self._lattice or f"<{len(self.points)} points>"
        return f"{type(self).__name__}(points={points}, regularization={self.regularization})"

    def __reduce__(self) -> tuple[type[ThinPlateSpline], tuple[object, float]]:
        # What lies on devices stays behind in a pickle or a copy.
        return type(self), (self._lattice or self.points, self.regularization)

    def identity_parameters(self) -> Tensor:
        """The points, flat: (2 K,) float32."""
        return torch.tensor(self.points, dtype=torch.float32).flatten()

    def pack(self, theta: Tensor, dtype: torch.dtype) -> Tensor:
        """The coefficients (M, 2 (K + 3)), x and y interleaved: w_0 .. w_K-1, then a_0, a_1, a_2, for r^2 log (r / 2).

        They are those of the displacement theta - points. As the spline of the points is the identity, adding the
        target to the displacement's spline gives theta's, but with an identity that is exact and rounding errors in
        proportion to the displacement. Halving r changes nothing but a_0, as w is orthogonal to 1, x and y, and the
        logarithm is then smallest where most pixels are, which halves the rounding error. Neighbours in memory are a
        number's values for successive samples.
        """
        solver, centres = self.solver(theta.device)
        displacement = theta.to(solver.dtype) - centres
        numbers = _product(solver, displacement.permute(1, 2, 0).flatten(1))
        return numbers.to(dtype).reshape(2 * solver.shape[0], theta.shape[0]).t()

    def solver(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """What turns displacements of the control points into coefficients, (K + 3, K), and the points (K, 2)."""
        constants = self._spline.constants(device)
        return _adopted(constants.solver), _adopted(constants.centres)

    def constants(self, device: torch.device) -> Tensor:
        """The control points (K, 2), float32."""
        return _adopted(self._spline.constants(device).points)

    def coordinates(self, numbers: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised source coordinates x and y, (M, H_out, W_out); x and y have no gradient."""
        centres = _adopted(self._spline.constants(numbers.device).centres)
        x, y = x.to(centres.dtype), y.to(centres.dtype)
        squares = (x - centres[:, 0, None, None]).square() + (y - centres[:, 1, None, None]).square()
        # r^2 log (r / 2), where xlogy is 0 at 0. The same for all samples, so that one product serves them all.
        bumps = torch.special.xlogy(squares, squares / 4).div_(2)
        size = bumps.shape[1:]
        plane = torch.stack([term.expand(size) for term in (torch.ones_like(x), x, y)])
        rows = numbers.to(centres.dtype).unflatten(1, (-1, 2)).permute(2, 0, 1).flatten(0, 1)
        weights, affine = rows[:, :-3], rows[:, -3:]
        displacement = _product(weights, bumps.flatten(1)) + _product(affine, plane.flatten(1))
        displacement = displacement.reshape(2, numbers.shape[0], *size)
        return (x + displacement[0]).to(numbers.dtype), (y + displacement[1]).to(numbers.dtype)


class _Constants(NamedTuple):
    """What the computation needs on a device."""

    points: Tensor
    """(K, 2), float32."""
    centres: Tensor
    """The points in the dtype that splines are computed in."""
    solver: Tensor
    """(K + 3, K), from values at the points to coefficients, in the same dtype."""


class _Spline:
    """The points and the solved system, shared by equal transforms, and what devices hold of them."""

    def __init__(self, key: str, points: Points, regularization: float):
        self.key = key
        self.points = points
        self.regularization = regularization
        self.solver = _solver(torch.tensor(points, dtype=torch.float64, device="cpu"), regularization)
        self.on_device: dict[str, _Constants] = {}

    def constants(self, device: torch.device) -> _Constants:
        """The constants on a device; each is to be used through :func:`_adopted`."""
        if torch.compiler.is_dynamo_compiling():
            # Dynamo finds them ready, and makes inputs of its graph of them.
            _make_ready(self.key, str(device))
            return self.on_device[str(device)]
        return self.ready(device)

    def ready(self, device: torch.device) -> _Constants:
        """The constants on a device, copied there once."""
        return self.on_device.get(str(device)) or aside(lambda: self._copied_to(device))

    def _copied_to(self, device: torch.device) -> _Constants:
        # Another thread may have come first.
        if str(device) not in self.on_device:
            self.on_device[str(device)] = self._copy_to(device)
        return self.on_device[str(device)]

    def _copy_to(self, device: torch.device) -> _Constants:
        points = torch.tensor(self.points, dtype=torch.float32, device="cpu").to(device)
        wide = _wide_dtype(device)
        return _Constants(points, points.to(wide), self.solver.to(device=device, dtype=wide))


_SPLINES: WeakValueDictionary[str, _Spline] = WeakValueDictionary()


def _solved(points: object, regularization: float) -> _Spline:
    """The system of these points, solved once however many equal transforms there are; to be called aside."""
    rows = _as_points(points)
    key = f"{rows} {regularization!r}"
    spline = _SPLINES.get(key)
    if spline is None:
        spline = _SPLINES[key] = _Spline(key, rows, regularization)
    return spline


def _make_ready(key: str, device: str) -> bool:
    """Has the constants of the spline with this key on a device. Dynamo runs this while it traces, once."""
    for constant in _SPLINES[key].ready(torch.device(device)):
        # Neither the shape nor, which matters to CUDA graphs, the place in memory will ever change.
        torch._dynamo.mark_static(constant)
        torch._dynamo.mark_static_address(constant)
    return True


# What torch.compiler.assume_constant_result does, which would import the compiler along with this library.
_make_ready._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def _adopted(constant: Tensor) -> Tensor:
    """A kept constant as an operand here: under fake tensors or a tracer, their own; elsewhere itself."""
    if torch.compiler.is_dynamo_compiling():
        return constant
    return torch.ops.aten.lift_fresh.default(constant)


def _wide_dtype(device: torch.device) -> torch.dtype:
    """The dtype that splines are computed in: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product a @ b, in its dtype also under autocast, and never an error for not being deterministic."""
    if torch.are_deterministic_algorithms_enabled():
        # cuBLAS raises unless an environment variable was set in time.
        total = a[:, :1] * b[:1]
        for k in range(1, a.shape[1]):
            total = torch.addcmul(total, a[:, k : k + 1], b[k : k + 1])
        return total
    if a.dtype == torch.float64:
        return a @ b  # which neither autocast nor tf32 touches
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def _solver(points: Tensor, regularization: float) -> Tensor:
    """The matrix (K + 3, K) from values at the points (K, 2) to the spline's coefficients.

    Raises:
        ValueError: If the system is too ill-conditioned.
    """
    count = len(points)
    squares = (points[:, None] - points).square().sum(-1)
    bending = torch.special.xlogy(squares, squares) / 2 + regularization * torch.eye(count, dtype=points.dtype)
    plane = torch.cat((torch.ones_like(points[:, :1]), points), dim=1)
    # Scaled, so that the condition number tells bad points, not large coordinates or a large regularization.
    scale = torch.linalg.matrix_norm(bending, 2) / torch.linalg.vector_norm(plane, dim=0)
    plane = plane * scale
    corner = points.new_zeros(3, 3)
    system = torch.cat((torch.cat((bending, plane), dim=1), torch.cat((plane.mT, corner), dim=1)))
    condition = float(torch.linalg.cond(system))
    if not condition <= CONDITION_LIMIT:
        squares.fill_diagonal_(math.inf)
        i, j = divmod(int(squares.argmin()), count)
        distance, _, _, width = _line(points)
        raise ValueError(
            "points must neither nearly coincide nor lie nearly on one line; got a system with condition number "
            f"{condition:.2g}, more than {CONDITION_LIMIT:.2g}: the closest are points[{i}] and points[{j}], "
            f"{squares.min().sqrt():.2g} apart, and all lie within {width:.2g} of a line of length {distance:.2g}"
        )
    inverse = torch.linalg.inv(system)[:, :count]
    solver = torch.cat((inverse[:count], inverse[count:] * scale[:, None]))
    # For r^2 log (r / 2) in place of r^2 log r: the sum of w_k |p - c_k|^2 log 2 does not depend on p.
    solver[count] += math.log(2) * (points.square().sum(1) @ solver[:count])
    return solver.contiguous()


def _line(points: Tensor) -> tuple[float, int, int, float]:
    """The two points farthest apart: their distance, indices, and the largest distance of a point from their line."""
    squares = (points[:, None] - points).square().sum(-1)
    i, j = divmod(int(squares.argmax()), len(points))
    direction, offset = points[j] - points[i], points - points[i]
    distance = float(squares.max().sqrt())
    width = (direction[0] * offset[:, 1] - direction[1] * offset[:, 0]).abs().max() / distance
    return distance, i, j, float(width)


def _lattice_points(rows: int, cols: int) -> list[list[float]]:
    xs = torch.linspace(-1, 1, cols, dtype=torch.float64, device="cpu").tolist()
    ys = torch.linspace(-1, 1, rows, dtype=torch.float64, device="cpu").tolist()
    return [[x, y] for y in ys for x in xs]


def _as_lattice(points: object) -> tuple[int, int] | None:
    """(rows, cols) if that is what ``points`` is."""
    if not isinstance(points, (tuple, list)) or len(points) != 2:
        return None
    if not all(isinstance(n, Integral) for n in points):
        return None
    if any(isinstance(n, bool) for n in points):
        raise TypeError(f"points must be (rows, cols) or K points (x, y); got {points}")
    rows, cols = map(int, points)
    if rows < 2 or cols < 2:
        raise ValueError(f"points must have at least 2 rows and 2 columns; got {points}")
    return rows, cols


def _as_points(points: object) -> Points:
    """The points, rounded to float32, as nested tuples.

    Raises:
        TypeError: If they are no real numbers.
        ValueError: If a spline does not go through them, whatever its values.
    """
    expected = "points must be (rows, cols) or K points (x, y), a tensor (K, 2) or a nested sequence"
    if not isinstance(points, Tensor):
        try:
            points = torch.tensor(points, dtype=torch.float64, device="cpu")
        except (TypeError, RuntimeError, OverflowError) as error:
            raise TypeError(f"{expected}; got {type(points).__name__}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{expected}; got {type(points).__name__}: {error}") from error
    if points.dtype == torch.bool or points.is_complex():
        raise TypeError(f"{expected}; got {points.dtype}")
    if points.dim() != 2 or points.shape[1] != 2:
        raise ValueError(f"{expected}; got shape {_checks.shape(points)}")
    if len(points) < 3:
        raise ValueError(f"points must be at least 3; got {len(points)}")
    points = points.detach().to(device="cpu", dtype=torch.float32)
    rows = cast("Points", tuple(map(tuple, (points + 0.0).tolist())))  # -0.0 is 0.0
    first: dict[tuple[float, float], int] = {}
    for i, (x, y) in enumerate(rows):
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"points must be finite in float32; got points[{i}] = ({x:g}, {y:g})")
        if (x, y) in first:
            raise ValueError(f"points must differ; got points[{first[x, y]}] = points[{i}] = ({x:g}, {y:g})")
        first[x, y] = i
    distance, i, j, width = _line(points.double())
    # As near to a line as rounding to float32 puts the points of one.
    if width <= 4 * torch.finfo(torch.float32).eps * max(distance, float(points.abs().max())):
        ends = " and ".join(f"points[{k}] = ({rows[k][0]:g}, {rows[k][1]:g})" for k in (i, j))
        raise ValueError(f"points must not all lie on one line; got {len(rows)} points that do, between {ends}")
    return rows
