import cases
import pytest
import torch
import torch.nn.functional as F
from cases import Case

import tstn


@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "centres"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_is_a_drop_in(place, compiled, mode, padding_mode, align_corners):
    """Same positional arguments, same numbers, in float64, where rounding does not blur the comparison."""
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    grid = (torch.randn(2, 4, 5, 2, dtype=torch.float64) * 0.9).requires_grad_()
    expected = F.grid_sample(x, grid, mode, padding_mode, align_corners)
    expected_grads = torch.autograd.grad(expected.sin().sum(), (x, grid))

    on_place = [t.detach().to(place.device).requires_grad_() for t in (x, grid)]
    actual = compiled(tstn.grid_sample)(*on_place, mode, padding_mode, align_corners)
    actual_grads = torch.autograd.grad(actual.sin().sum(), on_place)
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-11, atol=1e-11)
    for a, e in zip(actual_grads, expected_grads, strict=True):
        torch.testing.assert_close(a.cpu(), e, rtol=1e-10, atol=1e-10)


def test_align_corners_none_is_false(place):
    """As ``F.grid_sample`` has it, whose default is None."""
    x, grid = torch.rand(2, 3, 6, 7, device=place.device), torch.rand(2, 4, 5, 2, device=place.device)
    expected = tstn.grid_sample(x, grid, align_corners=False)
    assert torch.equal(tstn.grid_sample(x, grid, "bilinear", "zeros", None), expected)
    assert torch.equal(tstn.grid_sample(x, grid), expected)


def test_half_images_with_float32_grids(place):
    cases.check(Case(transform="grid", dtype=torch.float16, theta_dtype=torch.float32), place.device)


def test_one_image_many_grids(place):
    cases.check(Case(transform="grid", batching="shared", views=4), place.device)


def test_empty_grid(place):
    x = torch.rand(2, 3, 4, 4, device=place.device)
    assert tstn.grid_sample(x, torch.zeros(2, 0, 5, 2, device=place.device)).shape == (2, 3, 0, 5)


@pytest.mark.parametrize("transform", [t for t in cases.TRANSFORMS if t != "grid"])
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "centres"])
def test_sampling_grid_is_affine_grid(transform, align_corners):
    identity = torch.tensor(cases.IDENTITY[transform])
    theta = identity + 0.3 * torch.randn(2, 3, *identity.shape)
    grid = tstn.sampling_grid(theta, transform, (4, 6), align_corners)
    assert grid.shape == (2, 3, 4, 6, 2)
    assert grid.dtype == torch.float32
    matrix = tstn.transforms.NAMED[transform].matrix(theta).flatten(0, 1)
    expected = F.affine_grid(matrix.double(), (6, 1, 4, 6), align_corners=align_corners)
    torch.testing.assert_close(grid.flatten(0, 1).double(), expected, rtol=0, atol=1e-6)


def test_sampling_grid_feeds_grid_sample(place):
    x = torch.rand(2, 3, 6, 5, device=place.device)
    theta = torch.randn(2, 2, 3, device=place.device)
    grid = tstn.sampling_grid(theta, "affine", (7, 4))
    torch.testing.assert_close(
        tstn.grid_sample(x, grid), tstn.spatial_transform(x, theta, size=(7, 4)), rtol=0, atol=1e-5
    )


def test_sampling_grid_dtypes():
    half = tstn.sampling_grid(torch.zeros(2, dtype=torch.bfloat16), "translation", (3, 300))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half[0, :, 0], (2 * torch.arange(300) + 1) / 300 - 1, rtol=0, atol=1e-6)
    assert tstn.sampling_grid(torch.zeros(2, dtype=torch.float64), "translation", (3, 3)).dtype == torch.float64
    theta = torch.rand(3, 4, 2)
    assert tstn.sampling_grid(theta, "grid", (3, 4)) is theta


def test_size_one_axis_has_coordinate_zero():
    for align_corners in (False, True):
        grid = tstn.sampling_grid(torch.eye(2, 3), tstn.Affine(), (1, 1), align_corners)
        assert grid.tolist() == [[[0.0, 0.0]]]
