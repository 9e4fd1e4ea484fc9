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
        (torch.rand(3, 4, 5, 2), ValueError, r"grid must have one entry per input, N = 2, .*got \(3, 4, 5, 2\)"),
        (torch.rand(2, 4, 5, 2, device="meta"), ValueError, "grid must be on the input's device, cpu; got meta"),
        (torch.ones(2, 4, 5, 2).int(), TypeError, "grid must have a floating dtype; got torch.int32"),
    ],
)
def test_grid_sample(place, grid, error, match):
    with pytest.raises(error, match=match):
        tstn.grid_sample(X, grid)


def test_grid_sample_options():
    grid = torch.rand(2, 4, 5, 2)
    for options, error, match in (
        ({"mode": "cubic"}, ValueError, "mode must be one of"),
        ({"padding_mode": "wrap"}, ValueError, "padding_mode must be one of"),
        ({"align_corners": 1}, TypeError, "align_corners must be a bool; got int"),
    ):
        with pytest.raises(error, match=match):
            tstn.grid_sample(X, grid, **options)


DENSE = {
    "input": torch.rand(2, 3, 4, 5),
    "theta": THETA,
    "grid": torch.rand(2, 4, 5, 2),
    "flow": torch.rand(2, 4, 5, 2),
    "fill_value": torch.rand(3),
    "input_index": torch.tensor([1, 0]),
}
FLOATING = ("input", "theta", "grid", "flow", "fill_value")
# How to make a tensor of another form, what to write instead, and for which arguments there is such a tensor.
FORMS = {
    "coo": (lambda t: t.to_sparse(), "{name}.to_dense()", DENSE),
    "csr": (lambda t: t.flatten(1).to_sparse_csr(), "{name}.to_dense()", ("input", "theta", "grid", "flow")),
    "mkldnn": (lambda t: t.to_mkldnn(), "{name}.to_dense()", FLOATING),
    "nested": (lambda t: torch.nested.nested_tensor(list(t)), "torch.nested.to_padded_tensor({name}, 0.0)", DENSE),
    "jagged": (
        lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged),
        "torch.nested.to_padded_tensor({name}, 0.0)",
        ("input", "theta", "grid", "flow"),
    ),
    "quantized": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.quint8), "{name}.dequantize()", FLOATING),
    "complex": (lambda t: t.to(torch.complex64), "{name}.real", FLOATING),
}


# PyTorch says so itself of sparse, nested and quantised tensors.
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor.*")
@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*")
@pytest.mark.parametrize(("form", "name"), [(form, name) for form in FORMS for name in FORMS[form][2]])
def test_tensors_of_another_form_are_named(place, form, name):
    convert, advice, _ = FORMS[form]
    tensor = convert(DENSE[name])
    call = tstn.grid_sample if name == "grid" else tstn.spatial_transform
    arguments = {"input": X, name: tensor} if name == "grid" else {"input": X, "theta": THETA, name: tensor}
    with pytest.raises(TypeError) as caught:
        call(**arguments)
    assert str(caught.value).startswith(f"{name} must ")
    assert advice.format(name=name) in str(caught.value)
    if name == "input":
        with pytest.raises(TypeError, match=r"^input must "):
            tstn.grid_sample(tensor, DENSE["grid"])
    if name == "theta":
        with pytest.raises(TypeError, match=r"^theta must "):
            tstn.sampling_grid(tensor, "affine", (3, 4))


def test_numpys_numbers_are_numbers(place):
    np = pytest.importorskip("numpy")
    x, theta = X.to(place.device), THETA.to(place.device) * 0.5 + 0.3
    expected = tstn.spatial_transform(x, theta, size=(3, 6), fill_value=0.25)
    for whole, real in ((np.int64, np.float32), (np.uint8, np.float64), (np.int32, np.float16)):
        size = (whole(3), whole(6))
        assert torch.equal(tstn.spatial_transform(x, theta, size=size, fill_value=real(0.25)), expected)
        assert torch.equal(tstn.spatial_transform(x, theta, size=list(size), fill_value=real(0.25)), expected)
        grid = tstn.sampling_grid(theta, "affine", size)
        assert grid.shape == (2, 3, 6, 2)
        localization = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 12))
        stn = tstn.SpatialTransformer(localization, size=size, num_heads=whole(2), fill_value=real(0.25))
        assert [type(n) for n in (*(stn.size or ()), stn.num_heads, stn.fill_value)] == [int, int, int, float]
        assert stn.to(place.device)(x).shape == (2, 2, 3, 3, 6)
        spline = tstn.ThinPlateSpline((whole(4), 4), regularization=real(0.5))
        assert spline == tstn.ThinPlateSpline((4, 4), regularization=0.5)
        assert repr(spline) == "ThinPlateSpline(points=(4, 4), regularization=0.5)"
        custom = tstn.CustomTransform(tstn.examples.brown_conrady, (whole(4),), (0.0,) * 4)
        assert [type(n) for n in custom.theta_shape] == [int]
        lens = tstn.examples.lens_distortion((real(1.5), whole(2)))
        assert lens == tstn.examples.lens_distortion((1.5, 2.0))
    whole = tstn.spatial_transform(x, theta, size=(3, 6), fill_value=np.int64(1))
    assert torch.equal(whole, tstn.spatial_transform(x, theta, size=(3, 6), fill_value=1.0))
    for options in ({"size": (np.bool_(True), 6)}, {"size": (np.float32(3), 6)}, {"fill_value": np.bool_(True)}):
        with pytest.raises(TypeError, match="must"):
            tstn.spatial_transform(x, theta, **options)


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
