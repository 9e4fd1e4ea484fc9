"""The experiments of the paper: their networks, data and recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tstn import data, models
from tstn.experiments import colocalization, digits
from tstn.experiments.config import Config, ExperimentError, Recipe, default_log_every
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


TRANSFORMS = ("affine", "projective", "tps", "attention", "similarity", "translation")
MNIST_RECIPES = {
    "fast": Recipe(iterations=6000, batch_size=256),
    "paper": Recipe(iterations=150_000, batch_size=256, optimizer="sgd", lr=0.01, momentum=0.9, decay=(1 / 3, 2 / 3)),
}
WIDTH = {
    "width": Option(
        0,
        (),
        "units of each hidden layer, or filters of each convolution; 0: what brings all networks of the experiment to "
        "about the same number of weights",
    )
}
SAMPLING = {
    "padding_mode": Option("zeros", ("zeros", "border", "reflection"), "what transformers see outside of their input"),
    "align_corners": Option(0, (0, 1), "1: coordinates -1 and 1 are centres of pixels; 0: edges"),
}


def _classifier(name: str, experiment: str, summary: str) -> Model:
    def make(config: Config) -> nn.Module:
        options = config.options
        width = int(options["width"]) or None
        if not transforms:
            return models.build_model(name, experiment, width=width)
        return models.build_model(
            name,
            experiment,
            config.transform,
            width,
            align_corners=bool(options["align_corners"]),
            padding_mode=str(options["padding_mode"]),
        )

    transforms = TRANSFORMS if "st-" in name else ()
    return Model(make, summary, transforms, WIDTH | (SAMPLING if transforms else {}))


def _digits(name: str, title: str) -> Experiment:
    def task(config: Config, root: Path | None, device: torch.device, workers: int) -> Task:
        return digits.DistortedDigits(digits.load(config.data, root, device), data.DISTORTIONS[name])

    return Experiment(
        title=title,
        section="4.1, A.4",
        models={
            "fcn": _classifier("fcn", name, "two hidden fully connected layers"),
            "cnn": _classifier("cnn", name, "two convolutions, 9 x 9 and 7 x 7, each max-pooled"),
            "st-fcn": _classifier("st-fcn", name, "the fcn behind a transformer"),
            "st-cnn": _classifier("st-cnn", name, "the cnn behind a transformer"),
        },
        recipes=MNIST_RECIPES,
        data=("digits", "mnist"),
        task=task,
    )


def _addition() -> Experiment:
    def task(config: Config, root: Path | None, device: torch.device, workers: int) -> Task:
        return digits.Addition(digits.load(config.data, root, device))

    return Experiment(
        title="the sum of two digits, each distorted as in mnist-rts, in a channel of its own",
        section="A.1",
        models={
            "fcn": _classifier("fcn", "addition", "two hidden fully connected layers"),
            "cnn": _classifier("cnn", "addition", "two convolutions, 9 x 9 and 7 x 7, each max-pooled"),
            "st-fcn": _classifier("st-fcn", "addition", "the fcn behind a transformer of both channels"),
            "2st-fcn": _classifier("2st-fcn", "addition", "the fcn behind two transformers side by side"),
        },
        recipes=MNIST_RECIPES,
        data=("digits", "mnist"),
        task=task,
    )


def _colocalization() -> Experiment:
    def task(config: Config, root: Path | None, device: torch.device, workers: int) -> Task:
        options = config.options
        return colocalization.Colocalization(
            digits.load(config.data, root, device),
            int(options["digit"]),
            int(options["distractors"]),
            int(options["margin_percent"]) / 100,
        )

    return Experiment(
        title="find the digit that a hundred images have in common, its place not being known",
        section="A.2",
        models={
            "st": Model(
                lambda config: colocalization.RelativeColocalizer(),
                "an attention transformer, and a digit classifier that compares what it crops",
                ("attention",),
            )
        },
        recipes={
            "fast": Recipe(iterations=1000, batch_size=25, lr=2e-3),
            # Length and learning rate are not in the paper: its figure shows 180 steps.
            "paper": Recipe(iterations=500, batch_size=25, optimizer="sgd", lr=0.01, momentum=0.9, decay=(0.5,)),
        },
        data=("digits", "mnist"),
        task=task,
        options={
            "digit": Option(0, tuple(range(10)), "which digit"),
            "distractors": Option(0, (0, data.TC_DISTRACTORS), "patches on each image; 0: T, 16: TC"),
            "margin_percent": Option(
                200, (), "a hundred times the loss's margin; the paper's is 100, with other codes"
            ),
        },
    )


EXPERIMENTS: dict[str, Experiment] = {
    "mnist-r": _digits("r", "digits turned by up to 90 degrees"),
    "mnist-rts": _digits("rts", "digits turned, scaled and put anywhere on 42 x 42 pixels"),
    "mnist-p": _digits("p", "digits seen in perspective"),
    "mnist-e": _digits("e", "digits bent by a spline"),
    "mnist-tc": _digits("tc", "digits put anywhere among clutter on 60 x 60 pixels"),
    "addition": _addition(),
    "coloc": _colocalization(),
}


def experiment_of(config: Config) -> Experiment:
    """The experiment of a configuration.

    Raises:
        ExperimentError: If there is none of that name.
    """
    return experiment_named(config.experiment)


def experiment_named(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        ExperimentError: If there is none.
    """
    if name not in EXPERIMENTS:
        raise ExperimentError(f"experiment must be one of {', '.join(EXPERIMENTS)}; got {name!r}")
    return EXPERIMENTS[name]


def make_config(
    experiment: str,
    model: str,
    transform: str | None = None,
    *,
    data: str | None = None,
    seed: int = 0,
    schedule: str = "fast",
    precision: str = "fp32",
    compile: bool = False,
    log_every: int | None = None,
    options: dict[str, int | str] | None = None,
    **recipe: Any,
) -> Config:
    """A configuration, with the experiment's defaults for what is not given.

    Args:
        experiment: A key of :data:`EXPERIMENTS`.
        model: One of its models.
        transform: None: the model's first.
        data: None: the experiment's first.
        seed: Of the run.
        schedule: ``"fast"`` or ``"paper"``.
        precision: See :class:`Config`.
        compile: Likewise.
        log_every: None: see :func:`default_log_every`.
        options: The experiment's own options, and ``"width"``.
        **recipe: Fields of :class:`Recipe` that differ from the schedule's.

    Raises:
        ExperimentError: If the experiment has no such thing; the message says what it has.
    """
    found = experiment_named(experiment)
    if model not in found.models:
        raise ExperimentError(f"--model of {experiment} must be one of {', '.join(found.models)}; got {model!r}")
    chosen = found.models[model]
    if transform is None or (transform == "none" and not chosen.transforms):
        transform = chosen.transforms[0] if chosen.transforms else "none"
    elif not chosen.transforms:
        raise ExperimentError(f"--model {model} has no transformer: leave --transform out; got {transform!r}")
    elif transform not in chosen.transforms:
        have = ", ".join(chosen.transforms)
        raise ExperimentError(f"--transform of {experiment}'s {model} must be one of {have}; got {transform!r}")
    data = found.data[0] if data is None else data
    if data not in found.data:
        raise ExperimentError(f"--data of {experiment} must be one of {', '.join(found.data)}; got {data!r}")
    if schedule not in found.recipes:
        raise ExperimentError(f"--schedule must be one of {', '.join(found.recipes)}; got {schedule!r}")
    available = found.options | chosen.options
    defaults = default_options(found, model)
    for name, value in (options or {}).items():
        flag = f"--{name.replace('_', '-')}"
        if name not in defaults:
            raise ExperimentError(f"{flag} is not an option of {experiment}'s {model}; got {value}")
        choices = available[name].choices
        if choices and value not in choices:
            raise ExperimentError(f"{flag} must be one of {', '.join(map(str, choices))}; got {value}")
        if not choices and value != defaults[name] and (not isinstance(value, int) or value < 1):
            raise ExperimentError(f"{flag} must be a positive whole number; got {value}")
    try:
        made = dataclasses.replace(found.recipes[schedule], **recipe)
    except ValueError as error:
        raise ExperimentError(str(error)) from None
    return Config(
        experiment=experiment,
        model=model,
        transform=transform,
        data=data,
        seed=seed,
        schedule=schedule,
        recipe=made,
        precision=precision,
        compile=compile,
        options=defaults | (options or {}),
        log_every=default_log_every(made.iterations) if log_every is None else log_every,
    )


def default_options(experiment: Experiment, model: str) -> dict[str, int | str]:
    """The options of an experiment's network, as they are unless something else is said."""
    options = experiment.options | experiment.models[model].options
    return {name: option.default for name, option in options.items()}


def run_name(config: Config) -> str:
    """A run's name, for files: the same for the same configuration, and different for different ones.

    What is as the experiment has it by default goes without saying.
    """
    experiment = experiment_of(config)
    recipe, base = config.recipe, experiment.recipes[config.schedule]
    parts = [config.experiment, config.data, config.model]
    if config.transform != "none":
        parts.append(config.transform)
    defaults = default_options(experiment, config.model)
    parts += [f"{name.replace('_', '')}{value}" for name, value in config.options.items() if value != defaults[name]]
    parts.append(f"{config.schedule}{recipe.iterations}x{recipe.batch_size}")
    for f in dataclasses.fields(Recipe):
        value = getattr(recipe, f.name)
        if f.name not in ("iterations", "batch_size") and value != getattr(base, f.name):
            shown = "-".join(f"{v:.3g}" for v in value) if isinstance(value, tuple) else value
            parts.append(f"{f.name.replace('_', '')}{shown}")
    if config.precision != "fp32":
        parts.append(config.precision)
    if config.compile:
        parts.append("compiled")
    if config.log_every != default_log_every(recipe.iterations):
        parts.append(f"log{config.log_every}")
    return "--".join([*parts, f"seed{config.seed}"])
