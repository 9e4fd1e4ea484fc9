from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training import losses

from tstn.models import BirdsNet, GoogLeNet, count_parameters, load_pretrained_googlenet

SMALL = {"crop": 32, "width": 1 / 16}
CONVOLUTIONS = 57


def googlenet_names() -> set[str]:
    """The names in the file of torchvision's pretrained ``googlenet``, less aux1 and aux2."""
    units = ["conv1", "conv2", "conv3"]
    for block in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        branches = ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1")
        units += [f"inception{block}.{branch}" for branch in branches]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {f"{unit}.{name}" for unit in units for name in ("conv.weight", *(f"bn.{n}" for n in norm))}
    return names | {"fc.weight", "fc.bias"}


def test_googlenet_is_torchvisions() -> None:
    with torch.device("meta"):
        network = GoogLeNet()
    # What torchvision states for its own, without aux1 and aux2.
    assert count_parameters(network) == 6_624_904
    state = network.state_dict()
    assert state.keys() == googlenet_names()
    assert len(state) == 6 * CONVOLUTIONS + 2
    shapes = {
        "conv1.conv.weight": (64, 3, 7, 7),
        "conv3.conv.weight": (192, 64, 3, 3),
        "inception3a.branch3.1.conv.weight": (32, 16, 3, 3),
        "inception4e.branch2.1.conv.weight": (320, 160, 3, 3),
        "inception5b.branch4.1.bn.weight": (128,),
        "fc.weight": (1000, 1024),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert network.conv1.bn.eps == 0.001


@pytest.mark.parametrize(("size", "side"), [(224, 7), (64, 2), (32, 1), (256, 8)])
def test_features(size: int, side: int) -> None:
    network = GoogLeNet(None, width=1 / 16).eval()
    images = torch.rand(1, 3, size, size)
    maps = network.features(images)
    assert maps.shape == (1, 64, side, side)
    torch.testing.assert_close(network(images), maps.mean((2, 3)))


def test_sees_black_as_minus_one() -> None:
    network = GoogLeNet(None, width=1 / 16).eval()
    seen = []
    network.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.tensor([0.0, 0.5, 1]).view(1, 3, 1, 1).expand(1, 3, 32, 32))
    assert seen[0].mean((0, 2, 3)).tolist() == [-1, 0, 1]


def torchvision_state(classes: int = 1000) -> dict[str, Tensor]:
    """Random weights by torchvision's names, aux1 and aux2 with them."""
    donor = GoogLeNet(classes, width=1 / 16)
    state = {n: torch.randn_like(v) if v.is_floating_point() else v + 7 for n, v in donor.state_dict().items()}
    return state | {"aux1.conv.conv.weight": torch.zeros(1), "aux2.fc1.bias": torch.zeros(1)}


def test_pretrained_weights() -> None:
    state, network = torchvision_state(), GoogLeNet(width=1 / 16)
    assert load_pretrained_googlenet(network, state) == ["aux1.conv.conv.weight", "aux2.fc1.bias"]
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("classes", [200, None])
def test_pretrained_weights_for_other_classes(classes: int | None) -> None:
    state, network = torchvision_state(), GoogLeNet(classes, width=1 / 16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ignored = load_pretrained_googlenet(network, state)
    assert ignored == ["aux1.conv.conv.weight", "aux2.fc1.bias", "fc.weight", "fc.bias"]
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith("fc.") else state[name])


def test_pretrained_weights_that_do_not_fit() -> None:
    state, network = torchvision_state(), GoogLeNet(width=1 / 16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    del state["conv2.bn.bias"]
    state["conv9.weight"] = torch.zeros(1)
    state["conv1.conv.weight"] = torch.zeros(4, 3, 5, 5)
    expected = (
        r"not a googlenet's: conv2\.bn\.bias is missing; conv9\.weight is unknown; "
        r"conv1\.conv\.weight must have shape \(4, 3, 7, 7\); got \(4, 3, 5, 5\)$"
    )
    with pytest.raises(ValueError, match=expected):
        load_pretrained_googlenet(network, state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(ValueError, match=r"; and 337 more$"):
        load_pretrained_googlenet(network, {})


@pytest.mark.parametrize("shrink", [1, 2, 4])
def test_four_crops_tile_the_image(shrink: int) -> None:
    network = BirdsNet(4, 32 * shrink, **SMALL).eval()
    images = torch.rand(2, 3, 32 * shrink, 32 * shrink)
    crops, theta = network.transformer(images)
    assert crops.shape == (2, 4, 3, 32, 32)
    assert theta[..., 0].unique().tolist() == [0.5]
    if shrink == 2:
        # Pixel by pixel.
        tiled = torch.cat([torch.cat((crops[:, k], crops[:, k + 1]), dim=3) for k in (0, 2)], dim=2)
        torch.testing.assert_close(tiled, images, atol=2e-5, rtol=0)


def test_two_crops_lie_side_by_side() -> None:
    images = torch.rand(2, 3, 64, 64)
    crops, _ = BirdsNet(2, 64, **SMALL).transformer(images)
    torch.testing.assert_close(torch.cat((crops[:, 0], crops[:, 1]), dim=3), images[:, :, 16:48], atol=2e-5, rtol=0)


def test_given_centres() -> None:
    network = BirdsNet(3, 64, centres=[(0, 0), (0.5, -0.5), (0.25, 0)], **SMALL)
    _, theta = network.transformer(torch.rand(2, 3, 64, 64))
    assert theta[1].tolist() == [[0.5, 0, 0], [0.5, 0.5, -0.5], [0.5, 0.25, 0]]
    one = BirdsNet(1, 64, **SMALL)
    assert one(torch.rand(2, 3, 64, 64)).shape == (2, 200)


def test_weights() -> None:
    trunk = 6_624_904 - 1_025_000
    for count in (2, 4):
        with torch.device("meta"):
            network = BirdsNet(count)
        localisation = trunk + 1024 * 128 + 128 + 49 * 128 * 128 + 128 + 129 * 2 * count
        assert count_parameters(network) == localisation + count * trunk + (1024 * count + 1) * 200
        assert count_parameters(network.transformer) == localisation


def test_all_inceptions_start_from_pretrained_weights() -> None:
    network, state = BirdsNet(2, 64, **SMALL), torchvision_state()
    network.load_pretrained(state)
    trunks = [t.state_dict() for t in (network.transformer.localization.trunk, *network.heads)]
    name = "inception4c.branch2.1.bn.bias"
    assert all(torch.equal(trunk[name], state[name]) for trunk in trunks)
    # Each has its own.
    assert len({trunk[name].data_ptr() for trunk in trunks}) == 3


def batch(size: int) -> tuple[Tensor, Tensor]:
    """Noise, in a colour that tells the class."""
    labels = torch.arange(8) % 4
    colours = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])[labels]
    return torch.rand(8, 3, size, size) * colours[..., None, None], labels


@pytest.mark.parametrize("count", [2, 4])
def test_loss_falls(count: int) -> None:
    images, labels = batch(64)
    network = BirdsNet(count, 64, 4, dropout=0.0, **SMALL)
    found = losses(network, lambda: F.cross_entropy(network(images), labels))
    assert found[-1] < 0.7 * found[0]
    _, theta = network.transformer(images)
    assert theta[..., 0].unique().tolist() == [0.5]
    assert (theta[..., 1:].abs() - (0.5 if count == 4 else torch.tensor([0.5, 0]))).abs().amax() > 1e-3


def test_baseline_learns() -> None:
    images, labels = batch(32)
    network = GoogLeNet(4, dropout=0.0, width=1 / 16)
    found = losses(network, lambda: F.cross_entropy(network(images), labels))
    assert found[-1] < 0.7 * found[0]


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="num_transformers must be 1, 2 or 4 unless centres are given; got 3"):
        BirdsNet(3)
    with pytest.raises(ValueError, match="centres must be 2, one for each transformer; got 1"):
        BirdsNet(2, centres=[(0, 0)])
    with pytest.raises(ValueError, match="size must be a multiple of crop, 224; got 256"):
        BirdsNet(2, 256)
