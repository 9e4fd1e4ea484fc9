"""Bad input is named before anything is launched, on every backend alike."""

import pytest
import torch

import tstn

X = torch.rand(2, 3, 4, 5)
THETA = torch.eye(2, 3).repeat(2, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        (([1.0], THETA), {}, TypeError, "input must be a torch.Tensor; got list"),
        ((X.int(), THETA), {}, TypeError, "input must be float16, bfloat16, float32 or float64; got torch.int32"),
        ((X[0], THETA), {}, ValueError, r"input must have shape \(N, C, H, W\); got \(3, 4, 5\)"),
        ((X[:, :, :0], THETA), {}, ValueError, r"input must have at least one pixel; got shape \(2, 3, 0, 5\)"),
        ((X, None), {}, TypeError, "theta must be a torch.Tensor; got NoneType"),
        ((X, THETA.int()), {}, TypeError, "theta must have a floating dtype; got torch.int32"),
        ((X, THETA[0]), {}, ValueError, r"theta must have shape \(M, 2, 3\) or \(M, K, 2, 3\); got \(2, 3\)"),
        ((X, torch.rand(4, 3, 3)), {}, ValueError, r"theta must have shape \(M, 2, 3\).*got \(4, 3, 3\)"),
        (
            (X, THETA[:1].expand(3, 2, 3)),
            {},
            ValueError,
            r"theta must have one entry per input, N = 2.*got \(3, 2, 3\)",
        ),
        ((X, torch.rand(3, 2, 2, 3)), {}, ValueError, r"theta of shape \(N, K, ...\) must have the input's N = 2"),
        ((X, THETA.to("meta")), {}, ValueError, "theta must be on the input's device, cpu; got meta"),
        ((X, THETA, 3), {}, TypeError, "transform must be a name or a Transform; got int"),
        ((X, THETA, "afine"), {}, ValueError, "transform must be one of 'translation', .* got 'afine'"),
        ((X, THETA, "affine", 5), {}, TypeError, r"size must be \(H_out, W_out\); got int"),
        ((X, THETA, "affine", (5, 5.0)), {}, TypeError, r"size must hold two ints.*got \(5, 5.0\)"),
        ((X, THETA, "affine", (5, -1)), {}, ValueError, r"size must be two non-negative ints.*got \(5, -1\)"),
        ((X, THETA), {"mode": "bicubical"}, ValueError, "mode must be one of .* 'bicubic'; got 'bicubical'"),
        ((X, THETA), {"mode": 0}, TypeError, "mode must be a string; got int"),
        ((X, THETA), {"padding_mode": "wrap"}, ValueError, "padding_mode must be one of 'zeros', .* got 'wrap'"),
        ((X, THETA), {"align_corners": 1}, TypeError, "align_corners must be a bool; got int"),
        ((X, THETA), {"fill_value": 1.0, "padding_mode": "border"}, ValueError, "needs padding_mode='zeros'"),
        ((X, THETA), {"fill_value": "white"}, TypeError, "fill_value must be None, a float or a .* got str"),
        (
            (X, THETA),
            {"fill_value": torch.rand(2)},
            ValueError,
            r"fill_value must .* shape \(C,\) = \(3,\); got \(2,\)",
        ),
        ((X, THETA), {"fill_value": torch.ones(3).int()}, TypeError, "fill_value must have a floating dtype"),
        ((X, THETA), {"input_index": torch.zeros(2)}, TypeError, "input_index must be int64; got torch.float32"),
        ((X, THETA), {"input_index": torch.zeros(3).long()}, ValueError, r"input_index must have shape \(2,\)"),
        (
            (X, THETA),
            {"input_index": torch.tensor([0, 2])},
            ValueError,
            r"input_index must lie in \[0, 2\); got .* 0 to 2",
        ),
        ((X, THETA), {"input_index": torch.tensor([-1, 1])}, ValueError, r"input_index must lie in \[0, 2\)"),
        (
            (X, THETA[:, None]),
            {"input_index": torch.zeros(2).long()},
            ValueError,
            "one batch dimension when input_index",
        ),
    ],
)
def test_spatial_transform(place, arguments, options, error, match):
    with pytest.raises(error, match=match):
        tstn.spatial_transform(*arguments, **options)


@pytest.mark.parametrize(
    ("grid", "error", "match"),
    [
        (None, TypeError, "grid must be a torch.Tensor; got NoneType"),
        (torch.rand(2, 4, 5, 3), ValueError, r"grid must have shape \(M, H_out, W_out, 2\); got \(2, 4, 5, 3\)"),
        (torch.rand(4, 5, 2), ValueError, r"grid must have shape \(M, H_out, W_out, 2\); got \(4, 5, 2\)"),
        (torch.rand(3, 4, 5, 2), ValueError, "theta must have one entry per input"),
    ],
)
def test_grid_sample(grid, error, match):
    with pytest.raises(error, match=match):
        tstn.grid_sample(X, grid)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((THETA[0], "affine", (0.5, 3)), TypeError, "size must hold two ints"),
        ((torch.rand(3, 3), "affine", (3, 3)), ValueError, r"theta must have shape \(..., 2, 3\); got \(3, 3\)"),
        ((THETA[0].long(), "affine", (3, 3)), TypeError, "theta must have a floating dtype"),
        ((THETA[0], "affine", (3, 3), None), TypeError, "align_corners must be a bool"),
    ],
)
def test_sampling_grid(arguments, error, match):
    with pytest.raises(error, match=match):
        tstn.sampling_grid(*arguments)
