from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from training import losses

from tstn import data
from tstn.models import CNN, Colocalizer, colocalization_loss, count_parameters


def scenes(count: int = 8) -> torch.Tensor:
    digits = data.load_digits()
    return data.colocalization_set(digits.train_images, digits.train_labels, 3, seed=0, count=count).images


def test_weights() -> None:
    assert count_parameters(Colocalizer(CNN(28, 4)).transformer) == 5947


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_starts_in_the_middle(scale: float) -> None:
    network = Colocalizer(CNN(28, 4), scale=scale)
    images = scenes(2)
    crops, theta = network.transformer(images)
    assert theta.tolist() == [[scale, 0, 0]] * 2
    low, high = 42 * (1 - scale), 42 * (1 + scale)
    assert network.boxes(images).tolist() == [[low, low, high, high]] * 2
    assert crops.shape == (2, 1, 28, 28)


def test_boxes_of_any_theta() -> None:
    network = Colocalizer(CNN(28, 4))
    # Mirrored, a box still has its left on the left.
    network.transformer.localization[-1].bias.data = torch.tensor([-1 / 3, 0.5, -0.25])
    torch.testing.assert_close(network.boxes(scenes(2))[0], torch.tensor([49.0, 17.5, 77.0, 45.5]))


def test_codes_are_all_layers() -> None:
    encoder, crops = CNN(28, 4), torch.rand(3, 1, 28, 28)
    codes = Colocalizer(encoder, normalize=False).encode(crops)
    assert codes.shape == (3, 4 * 100 + 4 * 4 + 10)
    torch.testing.assert_close(codes[:, -10:], encoder(crops))
    torch.testing.assert_close(codes[:, :400], F.max_pool2d(encoder.first[0](crops).relu(), 2).flatten(1))
    layers = Colocalizer(encoder).encode(crops).split((400, 16, 10), dim=1)
    for layer, raw in zip(layers, codes.split((400, 16, 10), dim=1), strict=True):
        torch.testing.assert_close(layer * raw.norm(dim=1, keepdim=True), raw)
        torch.testing.assert_close(layer.norm(dim=1), torch.ones(3))


def test_localisation_starts_alive() -> None:
    hidden = Colocalizer(CNN(28, 4)).transformer.localization[:-1](scenes())
    assert (hidden.std(0) > 0.03).sum() >= 3


@pytest.mark.parametrize("margin", [1.0, 0.2])
def test_loss_by_hand(margin: float) -> None:
    crops, patches = torch.rand(2, 5, 7, dtype=torch.float64).requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    for n in range(5):
        for m in range(5):
            if m != n:
                near = (crops[n] - crops[m]).square().sum()
                expected = expected + (near - (crops[n] - patches[n]).square().sum() + margin).clamp_min(0) / 20
    value = colocalization_loss(crops, patches, margin)
    torch.testing.assert_close(value, expected)
    for found, wanted in zip(
        torch.autograd.grad(value, (crops, patches)), torch.autograd.grad(expected, (crops, patches)), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_loss_of_far_codes_keeps_its_digits() -> None:
    crops, patches = torch.rand(2, 4, 3)
    torch.testing.assert_close(
        colocalization_loss(crops + 1000, patches + 1000), colocalization_loss(crops, patches), atol=1e-2, rtol=0
    )


def test_equal_crops_cost_the_margin_at_most() -> None:
    crops = torch.ones(3, 4)
    assert colocalization_loss(crops, crops) == 1
    assert colocalization_loss(crops, crops + 1) == 0


@pytest.mark.parametrize("shapes", [((1, 4), (1, 4)), ((3, 4), (3, 5)), ((3, 4, 1), (3, 4, 1))])
def test_loss_of_wrong_shapes(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"crops and patches must have the same shape \(N, D\), N at least 2; got"):
        colocalization_loss(*map(torch.zeros, shapes))


def test_loss_falls() -> None:
    images = scenes()
    patches = data.random_windows(images, torch.Generator().manual_seed(0))
    network = Colocalizer(CNN(28, 8), scale=0.6)
    before = [p.clone() for p in network.encoder.parameters()]
    found = losses(network, lambda: colocalization_loss(*network(images, patches)), lr=1e-2)
    assert found[-1] < 0.9 * found[0]
    assert all(torch.equal(p, b) for p, b in zip(network.encoder.parameters(), before, strict=True))
