"""The classifiers of digits."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training import losses

import tstn
from tstn import data
from tstn.models import (
    CNN,
    EXPERIMENTS,
    FCN,
    MODELS,
    PARAMETERS,
    STCNN,
    STFCN,
    TRANSFORMS,
    build_model,
    count_parameters,
    equalized_widths,
)
from tstn.models.mnist import Parallel

CLASSES = [FCN, CNN, STFCN, STCNN]
PAPER_TRANSFORMS = ("affine", "projective", "tps")
FLOOR = {"ceil_mode": False}


@pytest.mark.parametrize("model", CLASSES)
@pytest.mark.parametrize(("size", "classes", "channels"), [(42, 10, 1), (28, 19, 2)])
def test_shape(model: type[nn.Module], size: int, classes: int, channels: int) -> None:
    options = {"pool": 1} if model is STCNN and size == 28 else {}
    network = model(size=size, width=8, classes=classes, channels=channels, **options)
    assert network(torch.rand(3, channels, size, size)).shape == (3, classes)


# In thousands, as the sizes that the paper allows come out.
COUNTS = [
    *((partial(FCN, 28, width), count) for width, count in ((128, 118), (192, 190), (256, 269))),
    *((partial(FCN, 42, width), count) for width, count in ((128, 244), (192, 378), (256, 520))),
    *((partial(FCN, 60, width), count) for width, count in ((128, 479), (192, 730), (256, 990))),
    *((partial(CNN, 28, width), count) for width, count in ((32, 54), (64, 209))),
    *((partial(CNN, 42, width, **FLOOR), count) for width, count in ((32, 61), (64, 222))),
    *((partial(CNN, 60, width), count) for width, count in ((16, 30), (32, 85), (64, 270))),
    *((partial(CNN, 21, width), count) for width, count in ((32, 53), (64, 207))),
    (partial(STFCN, 28, 256, pool=1), 297),
    (partial(STFCN, 42, 256), 240),
    (partial(STFCN, 60, 256), 417),
    (partial(STCNN, 60, 32, **FLOOR), 97),
    (partial(STCNN, 60, 16, **FLOOR), 58),
]


@pytest.mark.parametrize(("make", "thousands"), COUNTS, ids=[f"{m.func.__name__}{m.args}" for m, _ in COUNTS])
def test_weights(make: partial[nn.Module], thousands: int) -> None:
    with torch.device("meta"):
        assert round(count_parameters(make()) / 1000) == thousands


@pytest.mark.parametrize(("model", "expected"), [(FCN, 377_866), (STFCN, 240_304)])
def test_weights_of_the_demo(model: type[nn.Module], expected: int) -> None:
    assert count_parameters(model()) == expected


@pytest.mark.parametrize(
    ("model", "size", "thousands"),
    [
        *((STFCN, s, c) for s, c in ((28, 27), (42, 59), (60, 118))),
        *((STCNN, s, c) for s, c in ((28, 11), (42, 17), (60, 43))),
    ],
)
def test_weights_of_localisation(model: type[nn.Module], size: int, thousands: int) -> None:
    assert round(count_parameters(model(size, 8, pool=1).transformer) / 1000) == thousands


@pytest.mark.parametrize("size", [14, 21])
def test_too_small_for_the_convolutions(size: int) -> None:
    with pytest.raises(
        ValueError, match=rf"size must leave room for both convolutions; got {size} with ceil_mode=False"
    ):
        CNN(size, ceil_mode=False)
    with pytest.raises(ValueError, match=rf"size must be at least 28 for the localisation .*; got {size}"):
        STCNN(size)


@pytest.mark.parametrize("transform", PAPER_TRANSFORMS)
@pytest.mark.parametrize("model", [STFCN, STCNN])
def test_starts_at_identity(model: type[STFCN | STCNN], transform: str) -> None:
    network = model(width=16, transform=TRANSFORMS[transform])
    images = torch.rand(3, 1, 42, 42)
    crop, theta = network.transformer(images)
    identity = TRANSFORMS[transform].theta(TRANSFORMS[transform].identity_parameters())
    assert torch.equal(theta, identity.expand(3, *identity.shape))
    torch.testing.assert_close(crop, images, atol=1e-5, rtol=0)
    pooled = F.avg_pool2d(images, 2)
    torch.testing.assert_close(network(images), network.classifier(pooled), atol=1e-4, rtol=0)


def test_unpooled() -> None:
    network = STCNN(28, 8, pool=1)
    images = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(network(images), network.classifier(images), atol=1e-4, rtol=0)


def test_parallel_transformers_are_independent() -> None:
    network = STFCN(28, 16, classes=19, channels=2, num_transformers=2, pool=1)
    images = torch.rand(3, 2, 28, 28)
    torch.testing.assert_close(network(images), network.classifier(images.repeat(1, 2, 1, 1)), atol=1e-4, rtol=0)
    first, second = network.transformer.localization.nets.children()
    with torch.no_grad():
        second[-1].bias.copy_(torch.tensor([1.0, 0, 0.5, 0, 1, 0]))
    crops, theta = network.transformer(images)
    torch.testing.assert_close(crops[:, 0], images, atol=1e-5, rtol=0)
    torch.testing.assert_close(crops[:, 1, :, :, :21], images[..., 7:], atol=1e-5, rtol=0)
    theta[:, 1].square().sum().backward()
    assert first[-1].bias.grad.abs().amax() == 0
    assert second[-1].bias.grad.abs().amax() > 0


def test_parallel_needs_linear_ends() -> None:
    with pytest.raises(TypeError, match=r"nets must each end in an nn\.Linear; got Sequential that does not"):
        Parallel([nn.Sequential(nn.Linear(4, 6), nn.ReLU())], "affine")
    with pytest.raises(ValueError, match="num_transformers must be positive; got 0"):
        STFCN(num_transformers=0)


def batch(name: str, count: int = 32) -> tuple[Tensor, Tensor]:
    digits, generator = data.load_digits(), torch.Generator().manual_seed(0)
    if name == "addition":
        return data.addition_pairs(digits.train_images, digits.train_labels, count, generator)
    return data.DISTORTIONS[name](digits.train_images[:count], generator), digits.train_labels[:count]


TRAINED = [
    ("fcn", "rts", "affine"),
    ("cnn", "r", "affine"),
    *(("st-fcn", "rts", t) for t in (*PAPER_TRANSFORMS, "attention", "similarity", "translation")),
    *(("st-cnn", "r", t) for t in PAPER_TRANSFORMS),
    ("st-fcn", "p", "projective"),
    ("st-fcn", "e", "tps"),
    ("st-cnn", "rts", "affine"),
    ("st-cnn", "tc", "affine"),
    *(("2st-fcn", "addition", t) for t in PAPER_TRANSFORMS),
]


@pytest.mark.parametrize(("name", "experiment", "transform"), TRAINED, ids=map("-".join, TRAINED))
def test_loss_falls(name: str, experiment: str, transform: str) -> None:
    images, labels = batch(experiment)
    network = build_model(name, experiment, transform, width=8 if "cnn" in name else 64)
    found = losses(network, lambda: F.cross_entropy(network(images), labels))
    assert found[0] == pytest.approx(math.log(EXPERIMENTS[experiment].classes), abs=0.2)
    assert found[-1] < 0.95 * found[0]
    if name not in ("fcn", "cnn"):
        _, theta = network.get_submodule("transformer")(images)
        chosen = TRANSFORMS[transform]
        assert (theta - chosen.theta(chosen.identity_parameters())).abs().amax() > 0.003


@pytest.mark.parametrize("transform", PAPER_TRANSFORMS)
@pytest.mark.parametrize("name", ["st-cnn", "2st-fcn"])
def test_kernels_agree(kernel_place, name: str, transform: str) -> None:
    experiment = "addition" if name == "2st-fcn" else "r"
    images, labels = (t.to(kernel_place.device) for t in batch(experiment, 2))
    network = build_model(name, experiment, transform, width=4).to(kernel_place.device)
    F.cross_entropy(network(images), labels).backward()
    found = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    with tstn.backend("torch"):
        F.cross_entropy(network(images), labels).backward()
    for gradient, parameter in zip(found, network.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("transform", ["affine", "tps"])
def test_equal_widths(experiment: str, transform: str) -> None:
    widths = equalized_widths(experiment, transform)
    assert list(widths) == list(MODELS)
    for name, width in widths.items():
        counts = []
        with torch.device("meta"):
            counts += [
                count_parameters(build_model(name, experiment, transform, w)) for w in (width - 1, width, width + 1)
            ]
        # The nearest that there is.
        distances = [abs(count - PARAMETERS[experiment]) for count in counts]
        assert min(distances) == distances[1]
        assert counts[1] == pytest.approx(PARAMETERS[experiment], rel=0.012)


def test_widths_are_the_papers_on_small_images() -> None:
    assert equalized_widths("r") == {"fcn": 208, "cnn": 64, "st-fcn": 185, "st-cnn": 62, "2st-fcn": 92}
    assert equalized_widths("tc", parameters=270_026)["cnn"] == 64
    assert count_parameters(build_model("cnn", "r")) == 208_586


def test_building() -> None:
    network = build_model("st-cnn", "e", tstn.ThinPlateSpline((3, 3)), 8, align_corners=True, padding_mode="border")
    assert isinstance(network, STCNN)
    assert network.transformer.transform == tstn.ThinPlateSpline((3, 3))
    assert network.transformer.align_corners
    assert network.transformer.padding_mode == "border"
    assert isinstance(network.pool, nn.Identity)
    assert isinstance(build_model("cnn", "tc", width=4), CNN)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="name must be one of 'fcn', 'cnn', 'st-fcn', 'st-cnn', '2st-fcn'; got 'rnn'"):
        build_model("rnn")
    with pytest.raises(ValueError, match=r"experiment must be one of 'r', .*; got 'x'"):
        build_model("fcn", "x")
    with pytest.raises(ValueError, match=r"transform must be one of .*'tps'; got 'spline'"):
        build_model("st-fcn", transform="spline")
    with pytest.raises(ValueError, match="experiment must be one of"):
        equalized_widths("x")


def test_activations() -> None:
    network = CNN(28, 8)
    images = torch.rand(2, 1, 28, 28)
    first, second, scores = network.activations(images)
    assert first.shape == (2, 8, 10, 10)
    assert second.shape == (2, 8, 2, 2)
    assert torch.equal(scores, network(images))
