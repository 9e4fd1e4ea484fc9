"""Command line options of a run, and back: a configuration from options, and the options that give a configuration."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tstn.experiments.config import OPTIMIZERS, PRECISIONS, Config, Recipe
from tstn.experiments.configs import make_config
from tstn.experiments.experiment import Experiment, Option
from tstn.experiments.registry import EXPERIMENTS

Command = Callable[[argparse.Namespace], int]


def positive(text: str) -> int:
    """A positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number; got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more; got {text!r}")
    return int(text)


def at_least_zero(text: str) -> float:
    """A finite number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number, 0 or more; got {text!r}")
    return value


def positive_number(text: str) -> float:
    """A finite number, more than 0."""
    value = at_least_zero(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be more than 0; got 0")
    return value


def fractions(text: str) -> tuple[float, ...]:
    """Numbers between 0 and 1, rising, separated by commas; none for the empty text."""
    values = tuple(positive_number(part) for part in text.split(",")) if text else ()
    if any(value >= 1 for value in values) or list(values) != sorted(set(values)):
        raise argparse.ArgumentTypeError(f"must be rising fractions of 1 such as 0.5,0.75; got {text!r}")
    return values


# What a recipe's fields are called on the command line, how they are read, and what they are.
RECIPE_OPTIONS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "iterations": (positive, "N", "batches to train on"),
    "batch_size": (positive, "N", "samples in a batch, over all processes together"),
    "optimizer": (str, "", "adam, or sgd"),
    "lr": (positive_number, "X", "learning rate at the start"),
    "momentum": (at_least_zero, "X", "of sgd; the paper does not say, 0.9 is our choice"),
    "weight_decay": (at_least_zero, "X", "of all weights"),
    "decay": (fractions, "F,F", "divide the learning rate by 10 after these fractions of training; '': cosine to 0"),
    "localization_lr": (
        at_least_zero,
        "X",
        "learning rate of the localisation networks, as a multiple of --lr: lower it if outputs go black",
    ),
    "clip_grad": (positive_number, "X", "shorten longer gradients to this length"),
}


def add_train_parsers(train: argparse.ArgumentParser, command: Command) -> None:
    """A parser for each experiment, below ``tstn train``."""
    experiments = train.add_subparsers(title="experiments", required=True, metavar="EXPERIMENT", dest="experiment")
    for name, experiment in EXPERIMENTS.items():
        parser = experiments.add_parser(
            name,
            help=experiment.title,
            description=f"{experiment.title} (section {experiment.section} of the paper).",
            epilog=_summary(experiment),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(command=command)
        _add_run_options(parser, experiment)
        add_folder_options(parser)
        add_device_options(parser)


def _summary(experiment: Experiment) -> str:
    width = max(map(len, experiment.models))
    lines = ["networks:"]
    lines += [f"  {name:<{width}}  {model.summary}" for name, model in experiment.models.items()]
    lines.append("schedules:")
    for name, recipe in experiment.recipes.items():
        how = "divided by 10 after " + " and ".join(f"{f:.2g}" for f in recipe.decay) if recipe.decay else "cosine to 0"
        lines.append(
            f"  {name:<{width}}  {recipe.iterations:,} batches of {recipe.batch_size}, {recipe.optimizer} at "
            f"{recipe.lr:g}, {how}"
        )
    return "\n".join(lines)


def _add_run_options(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    what = parser.add_argument_group("what to train")
    what.add_argument("--model", choices=experiment.models, required=True, help="one of the networks below")
    transforms = dict.fromkeys(t for model in experiment.models.values() for t in model.transforms)
    if transforms:
        what.add_argument(
            "--transform", choices=transforms, help=f"of the transformers; default: {next(iter(transforms))}"
        )
    what.add_argument("--data", choices=experiment.data, help=f"default: {experiment.data[0]}")
    options: dict[str, Option] = dict(experiment.options)
    for model in experiment.models.values():
        options |= model.options
    for name, option in options.items():
        what.add_argument(
            _flag(name),
            type=type(option.default) if option.choices else positive,
            choices=option.choices or None,
            metavar=None if option.choices else "N",
            help=f"{option.help}; default: {option.default}",
        )
    parser.set_defaults(option_names=tuple(options))
    what.add_argument("--seed", type=seed, default=0, metavar="K", help="of the first run; default: 0")
    what.add_argument(
        "--seeds", type=positive, default=1, metavar="N", help="runs, with seeds K, K + 1, ...; default: 1"
    )

    how = parser.add_argument_group("how to train; by default what the schedule says")
    how.add_argument("--schedule", choices=experiment.recipes, default="fast", help="see below; default: fast")
    for name, (kind, metavar, text) in RECIPE_OPTIONS.items():
        if name == "optimizer":
            how.add_argument("--optimizer", choices=OPTIMIZERS, help=text)
        else:
            how.add_argument(_flag(name), type=kind, metavar=metavar, help=text)
    how.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="bf16 and fp16 train in mixed precision; coordinates are float32 always; default: fp32",
    )
    how.add_argument("--compile", action="store_true", help="send the network through torch.compile")
    how.add_argument("--log-every", type=positive, metavar="N", help="batches between two entries of the log")


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """Where runs and results go, and when to save and stop."""
    group = parser.add_argument_group("files and time")
    group.add_argument(
        "--runs", type=Path, default=Path("out/runs"), metavar="DIR", help="checkpoints and logs; default: out/runs"
    )
    group.add_argument(
        "--results",
        type=Path,
        default=Path("out/results"),
        metavar="DIR",
        help="a JSON file for each finished run; what has one is not trained again; default: out/results",
    )
    group.add_argument("--fresh", action="store_true", help="forget checkpoints and results, and start anew")
    group.add_argument(
        "--checkpoint-seconds",
        type=at_least_zero,
        default=60.0,
        metavar="S",
        help="time between two checkpoints, all that a crash can cost; default: 60",
    )
    group.add_argument(
        "--max-seconds",
        type=positive_number,
        metavar="S",
        help="stop with a checkpoint after this time, with exit status 75; the same command goes on",
    )
    group.add_argument("--tensorboard", action="store_true", help="log for TensorBoard too; log.csv is written always")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Where the data are and where to compute."""
    group = parser.add_argument_group("data and device")
    group.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="folder of the data; default: what TSTN_DATA says, or a cache that MNIST is downloaded to",
    )
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute; CUDA_VISIBLE_DEVICES says which of several GPUs; default: a GPU if there is one",
    )
    group.add_argument(
        "--workers", type=seed, default=0, metavar="N", help="processes that read images from files; default: 0"
    )


def config_of(args: argparse.Namespace, seed: int) -> Config:
    """The configuration that options say.

    Raises:
        ExperimentError: If they do not go together.
    """
    given = vars(args)
    return make_config(
        args.experiment,
        args.model,
        given.get("transform"),
        data=args.data,
        seed=seed,
        schedule=args.schedule,
        precision=args.precision,
        compile=args.compile,
        log_every=args.log_every,
        options={name: given[name] for name in args.option_names if given[name] is not None},
        **{name: given[name] for name in RECIPE_OPTIONS if given[name] is not None},
    )


def arguments_of(config: Config) -> list[str]:
    """The arguments of ``tstn`` that give this configuration."""
    experiment = EXPERIMENTS[config.experiment]
    plain = make_config(config.experiment, config.model, schedule=config.schedule)
    arguments = ["train", config.experiment, "--model", config.model]
    if config.transform != plain.transform:
        arguments += ["--transform", config.transform]
    if config.data != experiment.data[0]:
        arguments += ["--data", config.data]
    for name, value in config.options.items():
        if value != plain.options[name]:
            arguments += [_flag(name), str(value)]
    if config.schedule != "fast":
        arguments += ["--schedule", config.schedule]
    for name in (f.name for f in dataclasses.fields(Recipe)):
        value = getattr(config.recipe, name)
        if value != getattr(plain.recipe, name):
            arguments += [_flag(name), ",".join(map(repr, value)) if isinstance(value, tuple) else str(value)]
    if config.precision != "fp32":
        arguments += ["--precision", config.precision]
    if config.compile:
        arguments.append("--compile")
    same = make_config(config.experiment, config.model, iterations=config.recipe.iterations)
    if config.log_every != same.log_every:
        arguments += ["--log-every", str(config.log_every)]
    return [*arguments, "--seed", str(config.seed)]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
