"""Projective maps where w is zero, near zero or negative, by hand; the shared cases have everything else."""

import pytest
import torch
import torch.nn.functional as F

import tstn

# The interpreter computes with numpy, which warns of what a GPU does silently.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")
DTYPES = [torch.float32, torch.float64]
# Five columns at -1, -1/2, 0, 1/2, 1 with align_corners.
SIZE = (3, 5)


def theta_with_pole(device: str, dtype: torch.dtype) -> torch.Tensor:
    """w = x: zero in the middle column, negative on its left. u / w = 1 / (2 x), v / w = y / x."""
    theta = torch.tensor([[[0.0, 0.0, 0.5], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]], dtype=dtype, device=device)
    return theta.requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_a_pixel_at_the_pole_is_outside(place, mode, dtype):
    x = torch.rand(1, 2, 4, 6, device=place.device, dtype=dtype, requires_grad=True)
    theta = theta_with_pole(place.device, dtype)
    y = tstn.spatial_transform(x, theta, "projective", SIZE, mode=mode, align_corners=True, fill_value=7.0)
    assert (y[..., 2] == 7).all()
    # Nothing special happens where w is negative.
    columns = torch.tensor([-1.0, -0.5, 0.5, 1.0], dtype=torch.float64)
    rows = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    grid = torch.stack((0.5 / columns.expand(3, 4), rows[:, None] / columns), -1)[None]
    # Whole pixels are left to the lattice tests: here the rows +-1 are the first and last one's centres.
    expected = F.grid_sample(x.detach().double().cpu(), grid, mode, "zeros", True)
    covered = F.grid_sample(torch.ones(1, 1, 4, 6, dtype=torch.float64), grid, mode, "zeros", True)
    expected = expected + (1 - covered) * 7
    actual = y.detach()[..., [0, 1, 3, 4]].cpu().double()
    inner = actual[..., 1, :], expected[..., 1, :]
    torch.testing.assert_close(*inner, rtol=1e-5, atol=1e-5)
    grad_x, grad_theta = torch.autograd.grad(y.square().sum(), (x, theta))
    assert torch.isfinite(grad_x).all()
    assert torch.isfinite(grad_theta).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_a_pixel_at_the_pole_adds_nothing_to_theta(place, padding_mode, mode, dtype):
    x = torch.rand(1, 2, 4, 6, device=place.device, dtype=dtype, requires_grad=True)
    theta = theta_with_pole(place.device, dtype)
    y = tstn.spatial_transform(x, theta, "projective", SIZE, mode=mode, padding_mode=padding_mode, align_corners=True)
    assert torch.isfinite(y).all()
    weight = torch.ones_like(y)
    all_of_it = torch.autograd.grad(y, (x, theta), weight, retain_graph=True)
    weight[..., 2] = 0
    without = torch.autograd.grad(y, (x, theta), weight, retain_graph=True)
    only = torch.autograd.grad(y, (x, theta), 1 - weight)
    assert (only[1] == 0).all()
    torch.testing.assert_close(all_of_it[1], without[1])
    if padding_mode == "zeros":
        assert (only[0] == 0).all()
    else:
        # A pixel of the border, whole.
        torch.testing.assert_close(only[0].sum(), torch.tensor(6.0, dtype=dtype, device=place.device))


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("w", [0.0, 1e-45, -1e-45, 1e-38, 1e-30, -1e-20, 1e-12], ids=str)
def test_a_tiny_w_everywhere(place, mode, padding_mode, w):
    """Infinite, huge and NaN quotients, in every pixel: the outside, and finite gradients."""
    x = torch.rand(1, 1, 4, 6, device=place.device, requires_grad=True)
    theta = torch.tensor([[[1.0, 0.1, 0.2], [0.3, 1.0, -0.1], [0.0, 0.0, w]]], device=place.device, requires_grad=True)
    y = tstn.spatial_transform(x, theta, "projective", SIZE, mode=mode, padding_mode=padding_mode)
    grad_x, grad_theta = torch.autograd.grad(y.sum(), (x, theta))
    for result in (y, grad_x, grad_theta):
        assert torch.isfinite(result).all()
    if padding_mode == "zeros":
        assert (y == 0).all()
    else:
        assert (y <= x.max() * 1.6).all()


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_second_order_and_tangents_at_the_pole_are_finite(place, padding_mode, deterministic):
    x = torch.rand(1, 2, 4, 6, device=place.device, dtype=torch.float64, requires_grad=True)
    theta = theta_with_pole(place.device, torch.float64)

    def warp(theta):
        return tstn.spatial_transform(x, theta, "projective", SIZE, padding_mode=padding_mode, align_corners=True)

    torch.use_deterministic_algorithms(deterministic)
    try:
        (grad,) = torch.autograd.grad(warp(theta).square().sum(), theta, create_graph=True)
        second = torch.autograd.grad(grad.square().sum(), (theta, x))
        tangent = torch.func.jvp(warp, (theta.detach(),), (torch.randn_like(theta),))[1]
    finally:
        torch.use_deterministic_algorithms(False)
    for result in (grad, *second, tangent):
        assert torch.isfinite(result).all()
    assert (tangent[..., 2] == 0).all()


def test_only_the_ratio_matters(place):
    x = torch.rand(2, 3, 6, 7, device=place.device, dtype=torch.float64)
    theta = torch.eye(3, dtype=torch.float64) + 0.2 * torch.randn(2, 3, 3, dtype=torch.float64)
    theta = theta.to(place.device)
    expected = tstn.spatial_transform(x, theta, "projective")
    for factor in (-1.0, 1e6, -1e-6):
        torch.testing.assert_close(tstn.spatial_transform(x, factor * theta, "projective"), expected)


def test_an_affine_bottom_row_is_affine(place):
    x = torch.rand(2, 3, 6, 7, device=place.device)
    theta = torch.eye(2, 3, device=place.device) + 0.2 * torch.randn(2, 2, 3, device=place.device)
    bottom = torch.tensor([0.0, 0.0, 1.0], device=place.device).expand(2, 1, 3)
    projective = tstn.spatial_transform(x, torch.cat((theta, bottom), 1), "projective")
    torch.testing.assert_close(projective, tstn.spatial_transform(x, theta), rtol=1e-5, atol=1e-5)
