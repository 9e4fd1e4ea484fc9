"""The tables of the paper as lists of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from tstn.experiments.config import Config
from tstn.experiments.configs import make_config
from tstn.experiments.registry import EXPERIMENTS

PAPER_TRANSFORMS = ("affine", "projective", "tps")
Cell = tuple[str, str, str | None, dict[str, Any]]
"""Experiment, network, transform, and what else :func:`make_config` takes."""


@dataclass(frozen=True)
class Plan:
    """Runs that belong together.

    Attributes:
        summary: For the command line.
        cells: Makes them.
    """

    summary: str
    cells: Callable[[], Iterator[Cell]]


def _with_transforms(experiment: str, plain: tuple[str, ...], transformed: tuple[str, ...]) -> Iterator[Cell]:
    for model in plain:
        yield experiment, model, None, {}
    for model, transform in product(transformed, PAPER_TRANSFORMS):
        yield experiment, model, transform, {}


def _table1() -> Iterator[Cell]:
    for name in ("r", "rts", "p", "e"):
        yield from _with_transforms(f"mnist-{name}", ("fcn", "cnn"), ("st-fcn", "st-cnn"))


def _tc() -> Iterator[Cell]:
    for model in ("fcn", "cnn", "st-fcn", "st-cnn"):
        yield "mnist-tc", model, None, {}


def _cpu() -> Iterator[Cell]:
    for iterations in (1500, 6000):
        yield "mnist-rts", "fcn", None, {"iterations": iterations, "options": {"width": 192}}
        yield "mnist-rts", "st-fcn", "affine", {"iterations": iterations, "options": {"width": 256}}
    yield "mnist-tc", "st-fcn", "affine", {"iterations": 6000, "options": {"width": 256}}
    for model in ("cnn", "st-cnn"):
        yield "mnist-tc", model, None, {"iterations": 1000, "options": {"width": 16}}
    for model in ("fcn", "st-fcn", "2st-fcn"):
        yield "addition", model, None, {"iterations": 6000, "options": {"width": 256}}
    yield from _colocalization((0,))


def _addition() -> Iterator[Cell]:
    yield from _with_transforms("addition", ("fcn", "cnn"), ("st-fcn", "2st-fcn"))


def _coloc() -> Iterator[Cell]:
    yield from _colocalization((0, 16))


def _colocalization(distractors: tuple[int, ...]) -> Iterator[Cell]:
    for count, digit in product(distractors, range(10)):
        yield "coloc", "st", None, {"options": {"digit": digit, "distractors": count}}


def _svhn() -> Iterator[Cell]:
    for model, crop in product(("cnn", "st-single", "st-multi"), (64, 128)):
        yield "svhn", model, None, {"options": {"crop": crop}}


def _birds() -> Iterator[Cell]:
    yield "birds", "cnn", None, {}
    for model, size in (("2st-cnn", 224), ("2st-cnn", 448), ("4st-cnn", 448)):
        yield "birds", model, None, {"options": {"size": size}}


PLANS = {
    "table1": Plan("table 1: R, RTS, P and E; FCN, CNN, and ST-FCN and ST-CNN with three transforms", _table1),
    "tc": Plan("section 4.1: four networks on translated, cluttered digits", _tc),
    "addition": Plan("appendix A.1: FCN, CNN, and one and two transformers before the FCN", _addition),
    "coloc": Plan("appendix A.2: each digit, without and with clutter", _coloc),
    "svhn": Plan("section 4.2: three networks at 64 and at 128 pixels; needs --data-root", _svhn),
    "birds": Plan("section 4.3: Inception, and two and four transformers; needs --data-root", _birds),
    "cpu": Plan("what minutes on a CPU show: short runs on RTS, TC and addition, and co-localisation", _cpu),
}


def summary() -> str:
    """The plans, for the command line."""
    width = max(map(len, PLANS))
    return "\n".join(["plans:", *(f"  {name:<{width}}  {plan.summary}" for name, plan in PLANS.items())])


def configs(name: str, seeds: int, data: str | None, schedule: str, **changes: Any) -> list[Config]:
    """The runs of a plan.

    Args:
        name: A key of :data:`PLANS`.
        seeds: How many of each.
        data: For experiments that have it; None: each one's default.
        schedule: ``"fast"`` or ``"paper"``.
        **changes: What else :func:`make_config` takes, stronger than what the plan says.
    """
    made = []
    for seed in range(seeds):
        for experiment, model, transform, settings in PLANS[name].cells():
            chosen = data if data in EXPERIMENTS[experiment].data else None
            wanted: dict[str, Any] = {"schedule": schedule, **settings, **changes}
            made.append(make_config(experiment, model, transform, data=chosen, seed=seed, **wanted))
    return made
