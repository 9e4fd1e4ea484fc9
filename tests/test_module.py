import pytest
import torch
from torch import nn

import tstn


def localization(outputs: int, pixels: int = 20) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.ReLU(), nn.Linear(8, outputs))


@pytest.mark.parametrize("transform", ["translation", "attention", "similarity", "affine", tstn.Affine()], ids=str)
def test_starts_as_the_identity(place, compiled, transform):
    count = tstn.transforms.as_transform(transform).num_parameters
    stn = tstn.SpatialTransformer(localization(count), transform).to(place.device)
    x = torch.rand(3, 1, 4, 5, device=place.device)
    torch.testing.assert_close(compiled(stn)(x), x, rtol=0, atol=1e-6)


def test_output_follows_the_localisation(place, compiled):
    stn = tstn.SpatialTransformer(localization(6), size=(3, 2), return_theta=True, padding_mode="border")
    stn = stn.to(place.device)
    nn.init.normal_(stn.localization[-1].weight)
    x = torch.rand(3, 1, 4, 5, device=place.device)
    y, theta = compiled(stn)(x)
    assert theta.shape == (3, 2, 3)
    torch.testing.assert_close(theta, stn.localization(x).reshape(3, 2, 3))
    torch.testing.assert_close(y, tstn.spatial_transform(x, theta, size=(3, 2), padding_mode="border"))
    y.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stn.parameters())


def test_parallel_heads(place, compiled):
    stn = tstn.SpatialTransformer(localization(6), "attention", num_heads=2, size=(2, 2), return_theta=True)
    stn = stn.to(place.device)
    nn.init.normal_(stn.localization[-1].bias)
    x = torch.rand(3, 1, 4, 5, device=place.device)
    y, theta = compiled(stn)(x)
    assert theta.shape == (3, 2, 3)
    assert y.shape == (3, 2, 1, 2, 2)
    for head in range(2):
        alone = tstn.spatial_transform(x, theta[:, head], "attention", (2, 2))
        torch.testing.assert_close(y[:, head], alone)


def test_fill_value_is_a_setting_unless_it_is_a_parameter(place):
    fill = torch.tensor([0.25])
    stn = tstn.SpatialTransformer(localization(2), "translation", fill_value=fill).to(place.device)
    assert list(stn.state_dict()) == [f"localization.{name}" for name in stn.localization.state_dict()]
    with torch.no_grad():
        stn.localization[-1].bias.copy_(torch.tensor([10.0, 0.0]))
    x = torch.rand(2, 1, 4, 5, device=place.device)
    assert (stn(x) == 0.25).all()

    learnt = tstn.SpatialTransformer(localization(2), "translation", fill_value=nn.Parameter(fill)).to(place.device)
    assert "fill_value" in learnt.state_dict()
    with torch.no_grad():
        learnt.localization[-1].bias.copy_(torch.tensor([10.0, 0.0]))
    learnt(x).sum().backward()
    assert learnt.fill_value.grad.item() == pytest.approx(40)


def test_state_dict_holds_the_localisation_alone():
    stn = tstn.SpatialTransformer(localization(6), fill_value=0.5)
    assert list(stn.state_dict()) == [f"localization.{name}" for name in stn.localization.state_dict()]


def test_extra_repr_tells_the_settings():
    stn = tstn.SpatialTransformer(
        localization(12), size=(3, 4), num_heads=2, fill_value=torch.zeros(1), return_theta=True
    )
    assert stn.extra_repr() == (
        "'affine', size=(3, 4), num_heads=2, mode='bilinear', padding_mode='zeros', fill_value=(1,), "
        "align_corners=False, return_theta=True"
    )


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (
            lambda: tstn.SpatialTransformer(localization(5)),
            ValueError,
            r"localization's last layer: linear must have 6 outputs.*got 5",
        ),
        (lambda: tstn.SpatialTransformer(localization(6), num_heads=2), ValueError, "12 outputs, 2 head"),
        (lambda: tstn.SpatialTransformer(localization(6), num_heads=0), ValueError, "num_heads must be positive"),
        (lambda: tstn.SpatialTransformer(localization(6), num_heads=True), TypeError, "num_heads must be an int"),
        (lambda: tstn.SpatialTransformer(localization(6), size=(3,)), ValueError, "size must be two"),
        (lambda: tstn.SpatialTransformer(localization(6), mode="cubic"), ValueError, "mode must be one of"),
        (lambda: tstn.SpatialTransformer(localization(6), "warp"), ValueError, "transform must be one of"),
        (lambda: tstn.SpatialTransformer(abs), TypeError, "localization must be an nn.Module"),
        (lambda: tstn.SpatialTransformer(nn.LazyLinear(6)), ValueError, "it is lazy"),
        (lambda: tstn.SpatialTransformer(localization(6), "grid"), ValueError, "no fixed number"),
        (
            lambda: tstn.SpatialTransformer(localization(6), padding_mode="border", fill_value=0.5),
            ValueError,
            "fill_value needs padding_mode='zeros'",
        ),
        (lambda: tstn.init_identity_(nn.Linear(3, 6, bias=False)), ValueError, "must have a bias"),
        (lambda: tstn.init_identity_(nn.Conv2d(1, 6, 1)), TypeError, "must be an nn.Linear; got Conv2d"),
    ],
)
def test_wrong_construction(build, error, match):
    with pytest.raises(error, match=match):
        build()


def test_wrong_width_is_named_when_it_shows_only_in_use():
    stn = tstn.SpatialTransformer(nn.Sequential(nn.Flatten(), nn.Linear(20, 4), nn.Tanh()))
    with pytest.raises(ValueError, match=r"localization must map the input to .* = \(3, 6\); got \(3, 4\)"):
        stn(torch.rand(3, 1, 4, 5))


def test_init_identity_for_several_heads():
    linear = tstn.init_identity_(nn.Linear(5, 8), "similarity", num_heads=2)
    assert torch.equal(linear(torch.randn(5)), torch.tensor([1.0, 0, 0, 0] * 2))
