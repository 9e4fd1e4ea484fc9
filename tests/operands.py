"""The operands of a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import oracle
import torch
from layouts import lay_out, repeated
from torch import Tensor

import tstn
from tstn import examples

if TYPE_CHECKING:
    from cases import Case

IDENTITY = {
    "translation": [0.0, 0.0],
    "attention": [1.0, 0.0, 0.0],
    "similarity": [1.0, 0.0, 0.0, 0.0],
    "affine": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    "projective": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "lens": [0.0, 0.0, 0.0, 0.0],
    "polar": [0.0, 0.0],
    "moebius": [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]],
}
EXAMPLES = {"lens": examples.lens_distortion(), "polar": examples.polar(), "moebius": examples.moebius()}


def make_input(case: Case, device: str) -> Tensor:
    shape = (1 if case.batching == "shared" else case.batch, case.channels, *case.input_size)
    return _made(torch.randn(shape, dtype=torch.float64).to(case.dtype), case.layout, device)


def make_theta(case: Case, size: tuple[int, int], device: str) -> tuple[Tensor, Tensor]:
    """theta as the call takes it, and the input (M,) that each of its entries reads."""
    batch = 1 if case.batching == "shared" else case.batch
    if case.batching == "views":
        lead, index = (batch, case.views), torch.arange(batch).repeat_interleave(case.views)
    elif case.batching == "shared":
        lead, index = (case.views,), torch.zeros(case.views, dtype=torch.int64)
    elif case.batching == "indexed":
        lead = (case.views + 2,)
        index = repeated(torch.randint(batch, lead), case.index_layout)
    else:
        lead, index = (batch,), torch.arange(batch)
    theta = random_theta(case, lead, size).to(case.theta_dtype)
    return _made(theta, case.theta_layout, device, len(lead)), index


def random_theta(case: Case, lead: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    """theta (*lead, ...) in float32, about the identity, by ``case.spread``."""
    if case.transform == "grid":
        return torch.randn(*lead, *size, 2) * 0.8
    if case.transform == "flow":
        return torch.randn(*lead, *size, 2) * case.spread
    if case.transform in oracle.SPLINES:
        points = torch.tensor(oracle.SPLINES[case.transform].points)
        return points + torch.randn(*lead, *points.shape) * case.spread / 2
    identity = torch.tensor(IDENTITY[case.transform])
    theta = identity + torch.randn(*lead, *identity.shape) * case.spread
    if case.transform in oracle.CUSTOM:
        # A distortion grows with the fourth power; a pole of Moebius' is in the picture only with a large spread.
        return identity + (theta - identity) * 0.4
    if case.transform == "projective":
        # A pole in the picture only with a large spread; any overall scale and sign.
        theta[..., 2, :2] *= 0.4
        theta[..., 2, 2] = 1
        theta *= torch.tensor([1.0, -1.0, 0.125, -37.0])[torch.randint(4, (*lead, 1, 1))]
    return theta


def make_fill(case: Case, device: str) -> float | Tensor | None:
    """The fill as the call takes it."""
    if case.fill == "tensor":
        return _made(torch.randn(case.channels).to(case.fill_dtype), case.fill_layout, device)
    return 0.7 if case.fill == "float" else None


def make_flow(case: Case, lead: tuple[int, ...], size: tuple[int, int], device: str) -> Tensor | None:
    """The displacements (*lead, H_out, W_out, 2) as the call takes them."""
    if case.flow == "none":
        return None
    return _made((0.3 * torch.randn(*lead, *size, 2)).to(case.flow_dtype), case.flow, device, len(lead))


def make_grad(case: Case, output: Tensor, on_edge: Tensor | None = None) -> Tensor:
    """An output gradient, 0 where a pixel is ``on_edge`` (M, 1, H_out, W_out)."""
    if case.grad_layout == "expanded":
        # As that of a sum.
        grad = torch.ones(output.shape, dtype=output.dtype)
    else:
        grad = repeated(torch.randn(output.shape, dtype=torch.float64).to(output.dtype), case.grad_layout)
    if on_edge is not None:
        grad = torch.where(on_edge.reshape(*output.shape[:-3], 1, *output.shape[-2:]), 0, grad)
    return lay_out(grad.to(output.device), case.grad_layout)


def _made(values: Tensor, layout: str, device: str, lead: int = 1) -> Tensor:
    return lay_out(repeated(values, layout, lead).to(device), layout)


def transform_of(case: Case) -> str | tstn.transforms.Transform:
    """The transform as the call takes it."""
    if case.transform not in oracle.SPLINES:
        return EXAMPLES.get(case.transform, case.transform)
    points, regularization = oracle.SPLINES[case.transform]
    return tstn.ThinPlateSpline((3, 3) if points is oracle.LATTICE else torch.tensor(points), regularization)
