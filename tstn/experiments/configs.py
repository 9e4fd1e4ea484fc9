"""Configurations from names, and names from configurations."""

from __future__ import annotations

import dataclasses
from typing import Any

from tstn.experiments.config import Config, ExperimentError, Recipe, default_log_every
from tstn.experiments.experiment import Experiment, default_options
from tstn.experiments.registry import EXPERIMENTS


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
