"""What a fill value that is not a number does: nothing where nothing is missing, and else what arithmetic says."""

import math

import pytest
import torch
import torch.nn.functional as F

import tstn

SIZE = (6, 7)
# What NumPy says of lanes beyond the image's end, which are then left out.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
NOT_NUMBERS = [math.nan, math.inf, -math.inf]


def shifted(x: float, y: float, device: str) -> torch.Tensor:
    """The translation by whole or broken pixels of an image of ``SIZE``."""
    return torch.tensor([[2 * x / SIZE[1], 2 * y / SIZE[0]]], dtype=torch.float64, device=device)


def weights_inside(theta: torch.Tensor, mode: str) -> torch.Tensor:
    """The sum of each footprint's weights inside the image, and by how much it may round."""
    grid = tstn.sampling_grid(theta, "translation", SIZE).cpu()
    ones = torch.ones(1, 1, *SIZE, dtype=torch.float64)
    return F.grid_sample(ones, grid, mode, align_corners=False)


@pytest.mark.parametrize("kind", ["float", "tensor"])
@pytest.mark.parametrize("fill", NOT_NUMBERS)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.0, -1.0), (1.25, 0.0), (-1.4, 2.25), (0.4, -0.3), (40.0, 0.0)])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_only_what_is_missing_is_filled(place, shift, mode, fill, kind, channels_last):
    x = torch.randn(1, 3, *SIZE, dtype=torch.float64, device=place.device)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    theta = shifted(shift[0], shift[1], place.device)
    value = torch.tensor([1.0, fill, -2.0], dtype=torch.float64, device=place.device) if kind == "tensor" else fill
    out = tstn.spatial_transform(x, theta, "translation", mode=mode, fill_value=value).cpu()
    inside = F.grid_sample(x.cpu(), tstn.sampling_grid(theta, "translation", SIZE).cpu(), mode, align_corners=False)
    missing = 1 - weights_inside(theta, mode)
    fills = torch.tensor([1.0, fill, -2.0] if kind == "tensor" else [fill] * 3, dtype=torch.float64)[:, None, None]
    nothing = missing.abs() < 1e-9
    expected = torch.where(nothing, inside, inside + missing * fills)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9, equal_nan=True)
    assert shift == (40.0, 0.0) or nothing.any()
    assert shift == (0.0, 0.0) or mode == "nearest" or not nothing.all()


@pytest.mark.parametrize("fill", NOT_NUMBERS)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_gradients_of_what_lies_inside(place, mode, fill):
    """The gradients of an output whose footprints all lie inside are those without a fill."""
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64, device=place.device)
    theta = torch.tensor([[0.4, 0.1, 0.05], [-0.1, 0.5, 0.02]], dtype=torch.float64, device=place.device)[None]

    def grads(**options):
        leaves = [t.clone().requires_grad_() for t in (x, theta)]
        out = tstn.spatial_transform(leaves[0], leaves[1], "affine", (4, 4), mode=mode, **options)
        return [out.detach(), *torch.autograd.grad(out.sin().sum(), leaves)]

    for options in ({"fill_value": fill}, {"fill_value": torch.full((2,), fill, dtype=x.dtype, device=place.device)}):
        for found, expected in zip(grads(**options), grads(), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("fill", NOT_NUMBERS)
def test_the_identity_never_sees_the_fill(place, fill):
    x = torch.randn(1, 2, *SIZE, device=place.device)
    theta = torch.eye(2, 3, device=place.device)[None].requires_grad_()
    for mode in ("bilinear", "nearest", "bicubic"):
        out = tstn.spatial_transform(x, theta, mode=mode, fill_value=fill)
        torch.testing.assert_close(out.detach(), x, rtol=1e-5, atol=1e-5)
        (grad,) = torch.autograd.grad(out.sum(), theta)
        assert grad.isfinite().all()


def test_masked_pixels_train(place):
    """NaN as "no data": what is masked afterwards leaves the input's gradient alone."""
    x = torch.randn(1, 1, *SIZE, device=place.device, requires_grad=True)
    theta = torch.tensor([[0.5, 0.25]], device=place.device)
    out = tstn.spatial_transform(x, theta, "translation", fill_value=math.nan)
    seen = ~out.isnan()
    assert 0 < seen.sum() < seen.numel()
    (grad,) = torch.autograd.grad(torch.where(seen, out, 0.0).sum(), x)
    assert grad.isfinite().all()
    assert grad.abs().sum() > 0
