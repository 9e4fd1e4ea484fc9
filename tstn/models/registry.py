"""The classifiers of digits by name, in sizes that make the counts of weights of an experiment equal."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import nn

from tstn.models.mnist import CNN, FCN, STCNN, STFCN
from tstn.thin_plate import ThinPlateSpline
from tstn.transforms import NAMED, Transform

T = TypeVar("T")


class Experiment(NamedTuple):
    """What a classifier of digits is fed.

    Attributes:
        size: Side of the images in pixels.
        channels: Of the images.
        classes: Number of classes.
        pool: What a transformer's output is averaged down by.
    """

    size: int
    channels: int = 1
    classes: int = 10
    pool: int = 1


EXPERIMENTS = {
    "r": Experiment(28),
    "rts": Experiment(42, pool=2),
    "p": Experiment(28),
    "e": Experiment(28),
    "tc": Experiment(60, pool=2),
    "addition": Experiment(42, channels=2, classes=19, pool=2),
}
"""Tables 1 and 4 and section 4.1 of the paper. That addition is pooled as RTS is, our reading: it does not say."""

PARAMETERS = {"r": 209_000, "rts": 229_000, "p": 209_000, "e": 209_000, "tc": 400_000, "addition": 400_000}
"""About how many weights each network of an experiment has.

The paper says that they are equally many, about 400 thousand, and that a layer has 128 to 256 units or 32 to 64
filters. Both cannot be. On the small images these are the numbers of the CNN with 64 filters, and all widths come out
about as the paper's; on the large ones it is the paper's number, as a smaller one would leave the FCN few units.
"""

TRANSFORMS = {**NAMED, "tps": ThinPlateSpline((4, 4))}
"""Transforms by name, ``"tps"`` with the paper's 16 control points."""


class _Model(Protocol):
    def __call__(self, size: int, width: int, *, classes: int, channels: int) -> nn.Module: ...


class _TransformerModel(Protocol):
    def __call__(
        self,
        size: int,
        width: int,
        transform: Transform,
        *,
        classes: int,
        channels: int,
        pool: int,
        align_corners: bool,
        padding_mode: str,
    ) -> nn.Module: ...


PLAIN: dict[str, _Model] = {"fcn": FCN, "cnn": CNN}
TRANSFORMED: dict[str, _TransformerModel] = {
    "st-fcn": STFCN,
    "st-cnn": STCNN,
    "2st-fcn": partial(STFCN, num_transformers=2),
}
MODELS = (*PLAIN, *TRANSFORMED)
"""Names of classifiers; ``"2st-fcn"`` has two transformers side by side, as the paper has for addition."""


def build_model(
    name: str,
    experiment: str = "rts",
    transform: str | Transform = "affine",
    width: int | None = None,
    *,
    align_corners: bool = False,
    padding_mode: str = "zeros",
) -> nn.Module:
    """A classifier of digits by its name.

    Args:
        name: One of :data:`MODELS`.
        experiment: One of :data:`EXPERIMENTS`, what the classifier is fed.
        transform: One of :data:`TRANSFORMS` or an object; of the ST networks only.
        width: Units or filters of each hidden layer; None: what :func:`equalized_widths` says.
        align_corners: As in :func:`~tstn.spatial_transform`; of the ST networks only.
        padding_mode: Likewise.

    Raises:
        ValueError: If a name is unknown.
    """
    feed = _known("experiment", experiment, EXPERIMENTS)
    _known("name", name, dict.fromkeys(MODELS))
    if width is None:
        width = _width(name, experiment, transform, PARAMETERS[experiment])
    if name in PLAIN:
        return PLAIN[name](feed.size, width, classes=feed.classes, channels=feed.channels)
    return TRANSFORMED[name](
        feed.size,
        width,
        transform if isinstance(transform, Transform) else _known("transform", transform, TRANSFORMS),
        classes=feed.classes,
        channels=feed.channels,
        pool=feed.pool,
        align_corners=align_corners,
        padding_mode=padding_mode,
    )


def count_parameters(model: nn.Module) -> int:
    """Numbers that training changes or could change; what several modules share counts once."""
    return sum(p.numel() for p in model.parameters())


def equalized_widths(
    experiment: str, transform: str | Transform = "affine", parameters: int | None = None
) -> dict[str, int]:
    """The widths that bring every network of an experiment as near as can be to one number of weights.

    Args:
        experiment: One of :data:`EXPERIMENTS`.
        transform: Of the ST networks.
        parameters: The number aimed at; None: the experiment's of :data:`PARAMETERS`.

    Returns:
        For each of :data:`MODELS` its width.
    """
    _known("experiment", experiment, EXPERIMENTS)
    budget = PARAMETERS[experiment] if parameters is None else parameters
    return {name: _width(name, experiment, transform, budget) for name in MODELS}


def _count(name: str, experiment: str, transform: str | Transform, width: int) -> int:
    with torch.device("meta"):
        return count_parameters(build_model(name, experiment, transform, width))


def _width(name: str, experiment: str, transform: str | Transform, parameters: int) -> int:
    low, high = 1, 2
    while _count(name, experiment, transform, high) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _count(name, experiment, transform, middle) < parameters:
            low = middle
        else:
            high = middle
    return min(low, high, key=lambda width: abs(_count(name, experiment, transform, width) - parameters))


def _known(argument: str, value: str, options: dict[str, T]) -> T:
    if value not in options:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, options))}; got {value!r}")
    return options[value]
