from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training import losses

from tstn.models import SVHNNet, count_parameters, sequence_loss, sequence_wrong
from tstn.models.svhn import FILTERS, KINDS

TRANSFORMERS = {"cnn": [], "st-single": ["0"], "st-multi": ["0", "1", "2", "3"]}


def expected_weights(kind: str, size: int) -> int:
    channels = (3, *FILTERS)
    convolutions = sum(25 * a * b + b for a, b in zip(channels, FILTERS, strict=False))
    hidden = 192 * (size // 16) ** 2 * 3072 + 2 * 3072**2 + 3 * 3072
    localisation = 0
    if kind == "st-single":
        localisation = 25 * 3 * 32 + 32 + 25 * 32 * 32 + 32 + (size // 2) ** 2 * 32 * 32 + 32 + 32 * 32 + 32 + 198
    if kind == "st-multi":
        inputs = (3 * size**2, 48 * (size // 2) ** 2, 64 * (size // 2) ** 2, 128 * (size // 4) ** 2)
        localisation = sum(32 * n + 32 + 32 * 32 + 32 + 198 for n in inputs)
    return convolutions + hidden + 5 * 11 * 3073 + localisation


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("kind", KINDS)
def test_weights(kind: str, size: int) -> None:
    with torch.device("meta"):
        assert count_parameters(SVHNNet(kind, size)) == expected_weights(kind, size)


@pytest.mark.parametrize("kind", KINDS)
def test_layers(kind: str) -> None:
    with torch.device("meta"):
        network = SVHNNet(kind)
    assert list(network.transformers) == TRANSFORMERS[kind]
    # Eleven hidden layers; dropout after all but the first, and nowhere else.
    assert [[type(m) for m in c.children() if isinstance(m, nn.Dropout)] for c in network.convolutions] == [[]] + 7 * [
        [nn.Dropout]
    ]
    assert [type(m) for m in network.hidden] == [nn.Flatten] + 3 * [nn.Linear, nn.ReLU, nn.Dropout]
    assert sum(isinstance(m, nn.Dropout) for m in network.modules()) == 10
    layers = [
        len([m for m in t.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]) for t in network.transformers.values()
    ]
    assert layers == {"cnn": [], "st-single": [5], "st-multi": [3] * 4}[kind]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_starts_as_the_cnn(kind: str) -> None:
    network, plain = SVHNNet(kind, 32, width=0.1).eval(), SVHNNet("cnn", 32, width=0.1).eval()
    plain.load_state_dict({n: v for n, v in network.state_dict().items() if not n.startswith("transformers.")})
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network(images), plain(images), atol=1e-3, rtol=1e-3)


def test_transformers_warp_feature_maps() -> None:
    network = SVHNNet("st-multi", 32, width=0.1, align_corners=True, padding_mode="border")
    channels = [t.localization[1].in_features for t in network.transformers.values()]
    assert channels == [3 * 32**2, 5 * 16**2, 6 * 16**2, 13 * 8**2]
    assert all(t.align_corners and t.padding_mode == "border" for t in network.transformers.values())


@pytest.mark.parametrize(
    "options", [{"num_hidden": 2}, {"num_localization": 1}, {"num_localization": 0, "num_hidden": 0}]
)
@pytest.mark.parametrize("kind", KINDS)
def test_disputed_layers(kind: str, options: dict[str, int]) -> None:
    network = SVHNNet(kind, 32, width=0.05, **options)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 5, 11)
    assert len([m for m in network.hidden if isinstance(m, nn.Linear)]) == options.get("num_hidden", 3)


def test_initial_signal_survives() -> None:
    # With PyTorch's own initial weights the scores of different images differ by about 1e-6.
    images = torch.rand(16, 3, 1, 1).expand(-1, -1, 64, 64)
    assert 0.02 < SVHNNet("cnn", 64, width=0.2).eval()(images).std(0).mean() < 2


def test_sequence_loss() -> None:
    scores = torch.randn(4, 5, 11)
    labels = torch.randint(11, (4, 5))
    expected = sum(F.cross_entropy(scores[:, k], labels[:, k]) for k in range(5))
    torch.testing.assert_close(sequence_loss(scores, labels), expected)


def test_sequence_wrong() -> None:
    labels = torch.tensor([[1, 2, 10, 10, 10], [1, 2, 10, 10, 10], [0, 0, 0, 0, 0]])
    seen = torch.tensor([[1, 2, 10, 10, 10], [1, 2, 3, 10, 10], [1, 1, 1, 1, 1]])
    assert sequence_wrong(F.one_hot(seen, 11).float(), labels).tolist() == [False, True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_loss_falls(kind: str) -> None:
    images, labels = torch.rand(8, 3, 32, 32), torch.randint(11, (8, 5))
    network = SVHNNet(kind, 32, width=0.1, dropout=0.1)
    found = losses(network, lambda: sequence_loss(network(images), labels))
    assert found[0] == pytest.approx(5 * math.log(11), abs=2.5)
    assert found[-1] < 0.8 * found[0]


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="kind must be one of 'cnn', 'st-single', 'st-multi'; got 'st'"):
        SVHNNet("st")
    with pytest.raises(ValueError, match="size must be a multiple of 16; got 54"):
        SVHNNet(size=54)
