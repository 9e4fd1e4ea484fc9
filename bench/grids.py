"""PyTorch's ways from theta to a sampling grid: the one that people write, and the one that is quickest.

A grid is (N, K * H_out, W_out, 2): the views of one input stacked to a tall one. What does not depend on theta is made
once, outside of what is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from bench.workloads import Workload

Constants = tuple[Tensor, ...]


class Grid(NamedTuple):
    """One way to build the grid of one family of transforms."""

    # What to keep for a workload, on theta's device in theta's dtype.
    constants: Callable[[Workload, Tensor], Constants]
    # From theta, the constants and the workload.
    build: Callable[[Tensor, Constants, Workload], Tensor]


def _lattice(workload: Workload, like: Tensor) -> Constants:
    """Target coordinates x (W_out,) and y (H_out,)."""

    def axis(size: int) -> Tensor:
        steps = torch.arange(size, dtype=torch.float64, device=like.device) * 2 - (size - 1)
        extent = max(size - 1, 1) if workload.align_corners else size
        return (steps / extent).to(like.dtype)

    height, width = workload.size
    return axis(width), axis(height)


def _base(workload: Workload, like: Tensor) -> Constants:
    """Target coordinates (H_out, W_out, 2)."""
    x, y = _lattice(workload, like)
    height, width = workload.size
    return (torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1),)


def _homogeneous(workload: Workload, like: Tensor) -> Constants:
    """Target coordinates (H_out * W_out, 3), each with a 1."""
    (base,) = _base(workload, like)
    return (F.pad(base, (0, 1), value=1.0).flatten(0, 1),)


def _nothing(workload: Workload, like: Tensor) -> Constants:
    return ()


def _affine_grid(theta: Tensor, constants: Constants, workload: Workload) -> Tensor:
    height, width = workload.size
    return F.affine_grid(theta, [theta.shape[0], 1, height, width], align_corners=workload.align_corners)


def _affine_broadcast(theta: Tensor, constants: Constants, workload: Workload) -> Tensor:
    x, y = constants
    rows = theta[..., 0, None] * x, theta[..., 1, None] * y + theta[..., 2, None]
    return (rows[0][:, :, None, :] + rows[1][:, :, :, None]).movedim(1, -1)


def _attention_basis(workload: Workload, like: Tensor) -> Constants:
    """(3, 6): one small product makes the matrices; entry by entry would launch more kernels."""
    return (like.new_tensor([[1, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]]),)


def _attention_grid(theta: Tensor, constants: Constants, workload: Workload) -> Tensor:
    matrices = (theta.flatten(0, 1) @ constants[0]).unflatten(-1, (2, 3))
    height, width = workload.size
    return _affine_grid(matrices, (), workload).view(-1, workload.views * height, width, 2)


def _attention_broadcast(theta: Tensor, constants: Constants, workload: Workload) -> Tensor:
    x, y = constants
    scale, shift_x, shift_y = theta.unsqueeze(-1).unbind(-2)
    columns, rows = scale * x + shift_x, scale * y + shift_y
    shape = (*theta.shape[:2], *workload.size)
    grid = torch.stack((columns[:, :, None, :].expand(shape), rows[..., None].expand(shape)), dim=-1)
    return grid.flatten(1, 2)


def _projective_grid(theta: Tensor, constants: Constants, workload: Workload) -> Tensor:
    mapped = constants[0] @ theta.mT
    return (mapped[..., :2] / mapped[..., 2:]).unflatten(1, workload.size)


def _projective_broadcast(theta: Tensor, constants: Constants, workload: Workload) -> Tensor:
    x, y = constants
    rows = theta[..., 0, None] * x, theta[..., 1, None] * y + theta[..., 2, None]
    u, v, w = (rows[0][:, :, None, :] + rows[1][:, :, :, None]).unbind(1)
    return torch.stack((u / w, v / w), dim=-1)


def _spline_matrix(workload: Workload, like: Tensor) -> Constants:
    """(H_out * W_out, K): the grid is linear in where the control points look."""
    return (_cardinal_splines(workload, like.device, like.dtype),)


@lru_cache(maxsize=2)
def _cardinal_splines(workload: Workload, device: torch.device, dtype: torch.dtype) -> Tensor:
    """For every output pixel the K thin-plate splines that are 1 at one control point and 0 at the others."""
    assert not isinstance(workload.transform, str)
    points = torch.tensor(workload.transform.points, dtype=torch.float64, device=device)
    (targets,) = _base(workload, points)
    count = len(points)
    system = points.new_zeros(count + 3, count + 3)
    system[:count] = _spline_basis(points, points)
    system[count:, :count] = system[:count, count:].mT
    basis = _spline_basis(targets.flatten(0, 1), points)
    return (basis @ torch.linalg.inv(system)[:, :count]).to(dtype)


def _spline_basis(at: Tensor, points: Tensor) -> Tensor:
    """(P, K + 3): r^2 log r about each point, then 1, x and y."""
    squares = (at[:, None] - points).square().sum(-1)
    return torch.cat((torch.special.xlogy(squares, squares) / 2, torch.ones_like(at[:, :1]), at), dim=-1)


def _spline_grid(theta: Tensor, constants: Constants, workload: Workload) -> Tensor:
    return (constants[0] @ theta).unflatten(1, workload.size)


def _spline_planes(theta: Tensor, constants: Constants, workload: Workload) -> Tensor:
    """All samples in one product, a plane for each x and each y."""
    planes = theta.mT.flatten(0, 1) @ constants[0].mT
    return planes.view(-1, 2, *workload.size).movedim(1, -1)


def _flow_grid(theta: Tensor, constants: Constants, workload: Workload) -> Tensor:
    return constants[0] + theta


# By family. For a flow both are the one addition.
USUAL: Mapping[str, Grid] = {
    "affine": Grid(_nothing, _affine_grid),
    "attention": Grid(_attention_basis, _attention_grid),
    "projective": Grid(_homogeneous, _projective_grid),
    "thin_plate_spline": Grid(_spline_matrix, _spline_grid),
    "flow": Grid(_base, _flow_grid),
}
QUICKEST: Mapping[str, Grid] = {
    "affine": Grid(_lattice, _affine_broadcast),
    "attention": Grid(_lattice, _attention_broadcast),
    "projective": Grid(_lattice, _projective_broadcast),
    "thin_plate_spline": Grid(_spline_matrix, _spline_planes),
    "flow": Grid(_base, _flow_grid),
}


def usual_grid(theta: Tensor, workload: Workload) -> Tensor:
    """The grid as people build it, in theta's dtype."""
    grid = USUAL[workload.family]
    return grid.build(theta, grid.constants(workload, theta), workload)


def sample(input: Tensor, grid: Tensor, workload: Workload) -> Tensor:
    """Sample at a grid, and take its views apart again."""
    out = F.grid_sample(input, grid, align_corners=workload.align_corners)
    return out if workload.views == 1 else out.unflatten(2, (workload.views, -1)).transpose(1, 2)
