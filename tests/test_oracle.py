"""The oracle's own formulas against the ones they stand for: scipy's splines, PyTorch's bicubic kernel, by hand."""

import cases
import oracle
import pytest
import torch
import torch.nn.functional as F
from oracle_weights import axis_weights, kernel, sample_by_weights


@pytest.mark.parametrize("name", oracle.SPLINES)
def test_splines_are_scipys(name):
    interpolate = pytest.importorskip("scipy.interpolate")
    points, regularization = oracle.SPLINES[name]
    theta = torch.randn(2, len(points), 2, dtype=torch.float64)
    target = oracle.targets((4, 6), False)
    for sample, grid in zip(theta, oracle.grid(name, theta, (4, 6), False), strict=True):
        spline = interpolate.RBFInterpolator(
            points, sample.numpy(), smoothing=regularization, kernel="thin_plate_spline", degree=1
        )
        expected = torch.from_numpy(spline(target.reshape(-1, 2).numpy())).reshape(4, 6, 2)
        torch.testing.assert_close(grid, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", oracle.SPLINES)
def test_splines_at_their_points_are_the_identity(name):
    points = torch.tensor(oracle.SPLINES[name].points, dtype=torch.float64)
    for align_corners in (False, True):
        grid = oracle.grid(name, points[None], (5, 4), align_corners)
        torch.testing.assert_close(grid[0], oracle.targets((5, 4), align_corners), rtol=0, atol=1e-12)


@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "centres"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("size", [(6, 7), (1, 9), (2, 1)], ids=str)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_weights_are_pytorchs(mode, padding_mode, align_corners, size):
    image = torch.randn(1, 2, *size, dtype=torch.float64)
    grid = (2 * torch.randn(1, 5, 8, 2, dtype=torch.float64)).requires_grad_()
    expected = F.grid_sample(image, grid, mode, padding_mode, align_corners)
    (slope,) = torch.autograd.grad(expected.sum(), grid)
    at = oracle.pixels(grid.detach(), size, align_corners)
    wx, dx, _ = axis_weights(at[..., 0], size[1], mode, padding_mode, align_corners)
    wy, dy, _ = axis_weights(at[..., 1], size[0], mode, padding_mode, align_corners)
    torch.testing.assert_close(torch.einsum("mhwi,mhwj,mcij->mchw", wy, wx, image), expected.detach())
    extent = [(n - 1) / 2 if align_corners else n / 2 for n in size]
    torch.testing.assert_close(torch.einsum("mhwi,mhwj,mcij->mhw", wy, dx, image) * extent[1], slope[..., 0])
    torch.testing.assert_close(torch.einsum("mhwi,mhwj,mcij->mhw", dy, wx, image) * extent[0], slope[..., 1])
    at = oracle.pixels(grid, size, align_corners)
    values = sample_by_weights(image, at, mode, padding_mode, align_corners)
    torch.testing.assert_close((values, torch.autograd.grad(values.sum(), grid)[0]), (expected, slope))
    # No term is smaller than the sum it is part of.
    assert (axis_weights(at[..., 0], size[1], mode, padding_mode, align_corners, absolute=True)[0] >= wx.abs()).all()


def test_derivatives_of_the_bicubic_kernel():
    x = torch.linspace(-1.99, 1.99, 30, dtype=torch.float64, requires_grad=True)
    weight, slope, curve = kernel(x, "bicubic")
    (first,) = torch.autograd.grad(weight.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close((first, second), (slope, curve))


def test_projective_by_hand():
    theta = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.5, 1.0]]], dtype=torch.float64)
    grid = oracle.grid("projective", theta, (2, 2), True)
    # At y = -1, w is 1/2; at y = 1, 3/2.
    expected = [[[-2.0, -2.0], [6.0, -2.0]], [[-2 / 3, 2 / 3], [2.0, 2 / 3]]]
    torch.testing.assert_close(grid, torch.tensor([expected], dtype=torch.float64))
    torch.testing.assert_close(oracle.grid("projective", -7 * theta, (2, 2), True), grid)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("transform", ["affine", "projective", "spline_five", "flow"])
def test_scales_bound_what_they_are_scales_of(transform, mode):
    target = oracle.targets((3, 4), False)
    theta = {
        "affine": torch.eye(2, 3),
        "projective": torch.eye(3),
        "spline_five": torch.tensor(oracle.FIVE),
        "flow": 0.1 * target,
    }[transform]
    theta = theta.double()[None] + 0.05 * torch.randn(2, *theta.shape, dtype=torch.float64)
    result = oracle.evaluate(
        torch.randn(2, 3, 5, 6),
        theta,
        transform,
        (3, 4),
        torch.tensor([1, 0]),
        torch.randn(2, 3, 3, 4),
        mode,
        "zeros",
        False,
        torch.randn(3),
        flow=0.1 * torch.randn(2, 3, 4, 2),
    )
    assert not result.vague.any()
    for name in ("output", "grad_input", "grad_theta", "grad_fill", "grad_flow"):
        assert (getattr(result, name).abs() <= getattr(result, f"{name}_scale") * (1 + 1e-9) + 1e-12).all(), name


def test_a_pole_of_a_custom_map_has_no_gradient():
    theta = torch.full((1, 4, 2), 0.5, dtype=torch.float64, requires_grad=True)
    grid = oracle.grid("moebius", theta, (3, 3), True)
    assert (~grid.isfinite()).any(-1).sum() == 1
    torch.where(grid.isfinite(), grid, 0).sum().backward()
    assert theta.grad.isfinite().all()


def test_what_a_dtype_does_not_reach_is_infinite():
    expected = torch.tensor([7e4, -7e4, 7e4, 6e4, 1.0], dtype=torch.float64)
    actual = torch.tensor([torch.inf, -torch.inf, -torch.inf, torch.inf, 2.0], dtype=torch.float16)
    found = cases.held(actual, expected, 1e-3)
    assert found.tolist() == [7e4, -7e4, -torch.inf, torch.inf, 2.0]
