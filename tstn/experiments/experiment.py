"""What an experiment is: networks, data, recipes, options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from tstn.experiments.config import Config, Recipe
from tstn.experiments.task import Task


@dataclass(frozen=True)
class Option:
    """A choice that only some networks or experiments have.

    Attributes:
        default: What the paper does, or what was chosen where it does not say.
        choices: What there is; empty: any positive whole number, and 0 if that is the default.
        help: For the command line.
    """

    default: int | str
    choices: tuple[int | str, ...]
    help: str


@dataclass(frozen=True)
class Model:
    """A network of an experiment.

    Attributes:
        make: Builds it.
        summary: What it is, for the command line.
        transforms: What its transformers may be, the default first; empty if it has none.
        options: Its own, by name.
    """

    make: Callable[[Config], nn.Module]
    summary: str
    transforms: tuple[str, ...] = ()
    options: dict[str, Option] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """An experiment of the paper.

    Attributes:
        title: What it is about.
        section: Of the paper.
        models: By name.
        recipes: ``"fast"`` and ``"paper"``.
        data: Names of its data sets, the default first.
        task: Makes data, loss and measure, from a configuration, the data's folder (None: the default), the device
            and the number of processes that read images.
        options: Of all its models, by name.
    """

    title: str
    section: str
    models: dict[str, Model]
    recipes: dict[str, Recipe]
    data: tuple[str, ...]
    task: Callable[[Config, Path | None, torch.device, int], Task]
    options: dict[str, Option] = field(default_factory=dict)


def default_options(experiment: Experiment, model: str) -> dict[str, int | str]:
    """The options of an experiment's network, as they are unless something else is said."""
    options = experiment.options | experiment.models[model].options
    return {name: option.default for name, option in options.items()}
