from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tstn import data
from tstn.models import FCN, STFCN

MODELS = [FCN, STFCN]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("size", "classes"), [(42, 10), (28, 19)])
def test_shape(model: type[nn.Module], size: int, classes: int) -> None:
    assert model(size=size, classes=classes)(torch.rand(3, 1, size, size)).shape == (3, classes)


@pytest.mark.parametrize(("model", "expected"), [(FCN, 377_866), (STFCN, 240_304)])
def test_weights(model: type[nn.Module], expected: int) -> None:
    assert sum(p.numel() for p in model().parameters()) == expected


def test_starts_at_identity() -> None:
    torch.manual_seed(0)
    model = STFCN()
    images = torch.rand(3, 1, 42, 42)
    crop, theta = model.transformer(images)
    assert torch.equal(theta, torch.eye(2, 3).expand(3, 2, 3))
    torch.testing.assert_close(crop, images, atol=1e-5, rtol=0)
    pooled = F.avg_pool2d(images, 2)
    torch.testing.assert_close(model(images), model.classifier(pooled), atol=1e-4, rtol=0)


@pytest.mark.parametrize("transform", ["attention", "similarity", "affine"])
def test_other_transforms(transform: str) -> None:
    model = STFCN(transform=transform)
    assert model(torch.rand(2, 1, 42, 42)).shape == (2, 10)


@pytest.mark.parametrize("model", MODELS)
def test_loss_falls(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    digits = data.load_digits()
    images = data.rts(digits.train_images[:64], torch.Generator().manual_seed(0))
    network = model()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(network(images), digits.train_labels[:64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2.3, abs=0.1)
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    if isinstance(network, STFCN):
        _, theta = network.transformer(images)
        assert (theta - torch.eye(2, 3)).abs().amax() > 0.01
