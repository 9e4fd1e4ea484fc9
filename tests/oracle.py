"""The float64 oracle: raw ``F.affine_grid`` and ``F.grid_sample`` on the CPU, independent of the library."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


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


def grid(transform: str, theta: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    if transform == "grid":
        return theta
    return affine_grid(matrix(transform, theta), size, align_corners)


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
    # (M, 1, H_out, W_out): where a rounding of the coordinate may change the value or the slope by a step.
    on_edge: Tensor


def pixels(grid: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """(..., 2) source coordinates in pixels, x before y."""
    wh = grid.new_tensor([size[1], size[0]])
    return (grid + 1) / 2 * (wh - 1) if align_corners else ((grid + 1) * wh - 1) / 2


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
) -> Result:
    """Values and gradients; ``index`` (M,) says which input each theta reads. Edges get no output gradient."""
    input = input.double().requires_grad_()
    theta = theta.double().requires_grad_()
    fill = None if fill is None else fill.double().requires_grad_()
    coordinates = grid(transform, theta, size, align_corners)

    at = pixels(coordinates.detach(), (input.shape[2], input.shape[3]), align_corners)
    past = at - at.floor() if mode == "bilinear" else at + 0.5 - (at + 0.5).floor()
    on_edge = ((past < 1e-3) | (past > 1 - 1e-3)).any(-1).unsqueeze(1)
    grad_output = torch.where(on_edge, 0, grad_output.double())

    def sample(source: Tensor, fill: Tensor | None, coordinates: Tensor) -> Tensor:
        options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
        out = F.grid_sample(source[index], coordinates, **options)
        if fill is not None:
            ones = torch.ones_like(source[:1, :1]).expand(len(index), -1, -1, -1)
            out = out + (1 - F.grid_sample(ones, coordinates, **options)) * fill[:, None, None]
        return out

    output = sample(input, fill, coordinates)
    wanted = [input, theta, coordinates] + ([] if fill is None else [fill])
    grads = torch.autograd.grad(output, wanted, grad_output, retain_graph=True, allow_unused=True)
    grads = [torch.zeros_like(t) if g is None else g for g, t in zip(grads, wanted, strict=True)]
    with torch.no_grad():
        output_scale = sample(input.abs(), None if fill is None else fill.abs(), coordinates)
    absolute = torch.autograd.grad(
        output, wanted[:1] + wanted[3:], grad_output.abs(), retain_graph=True, allow_unused=True
    )
    return Result(
        output.detach(),
        output_scale,
        grads[0],
        absolute[0],
        grads[1],
        _theta_scale(transform, grads[2].abs(), size, align_corners),
        grads[3] if fill is not None else None,
        absolute[1] if fill is not None else None,
        on_edge,
    )


def _theta_scale(transform: str, grad_grid: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Sum over pixels of |d loss / d coordinate| |d coordinate / d theta|."""
    if transform == "grid":
        return grad_grid
    eye = torch.eye(2, 3, dtype=torch.float64)[None]
    target = affine_grid(eye, size, align_corners).abs()
    target = torch.cat((target, torch.ones_like(target[..., :1])), -1).expand(len(grad_grid), -1, -1, -1)
    full = torch.einsum("mhwi,mhwj->mij", grad_grid, target)
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
