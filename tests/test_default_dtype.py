"""PyTorch's default dtype is that of tensors made from nothing: it changes no result."""

from typing import Any

import pytest
import torch
from torch import nn

import tstn

FAMILIES = ("translation", "attention", "similarity", "affine", "projective", "flow", "grid")


def everything(place, family):
    """Results of all kinds from operands whose dtypes are given."""
    transform = tstn.transforms.as_transform(family)
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float32).to(place.device)

    results = []
    if transform.is_dense:
        theta = rand(2, 4, 7, 2) - 0.5
    else:
        identity = transform.identity_parameters().to(place.device)
        results.append(identity)
        theta = transform.theta(identity.float() + 0.1 * rand(2, transform.num_parameters))
        results += [transform.compose(theta, theta), transform.inverse(theta), transform.corners(theta)]
    results.append(tstn.sampling_grid(theta, family, (4, 7)))
    fill = rand(3)
    every: list[dict[str, Any]] = [{}, {"fill_value": 0.3}, {"fill_value": fill}]
    for dtype in (torch.bfloat16, torch.float64):
        for options in every:
            x, theta = rand(2, 3, 5, 6).to(dtype).requires_grad_(), theta.detach().requires_grad_()
            y = tstn.spatial_transform(x, theta, family, (4, 7), **options)
            results += [y, *torch.autograd.grad(y, (x, theta), torch.ones_like(y))]
    x, theta = rand(2, 3, 5, 6), theta.detach()
    results += torch.func.jvp(
        lambda theta: tstn.spatial_transform(x, theta, family, (4, 7), fill_value=0.3), (theta,), (theta,)
    )
    if not transform.is_dense:
        linear = nn.Linear(30, transform.num_parameters, dtype=torch.float32, device=place.device)
        stn = tstn.SpatialTransformer(nn.Sequential(nn.Flatten(), linear), family, return_theta=True)
        results += stn(rand(2, 1, 5, 6))
    return [result.detach() for result in results]


@pytest.mark.parametrize("family", FAMILIES)
def test_changes_no_result(place, family):
    expected = everything(place, family)
    torch.set_default_dtype(torch.float64)
    try:
        actual = everything(place, family)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_layers_made_in_float64(place):
    torch.set_default_dtype(torch.float64)
    try:
        stn = tstn.SpatialTransformer(nn.Sequential(nn.Flatten(), nn.Linear(20, 6))).to(place.device)
        x = torch.rand(3, 1, 4, 5, device=place.device)
        y = stn(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert y.dtype == torch.float64
    torch.testing.assert_close(y, x, rtol=0, atol=1e-14)
