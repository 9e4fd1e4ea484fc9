"""What ``tstn train``, ``tstn evaluate`` and ``tstn show`` do."""

from __future__ import annotations

import argparse
import time

from tstn import data
from tstn.experiments import engine, runs
from tstn.experiments.config import Config
from tstn.experiments.configs import run_name


def train(args: argparse.Namespace, configs: list[Config]) -> bool:
    """Train runs that differ in their seeds; False if the time was over before all were finished."""
    accelerator = engine.make_accelerator(args.device, configs[0].precision)
    started = time.monotonic()
    errors = []
    for config in configs:
        left = None if args.max_seconds is None else args.max_seconds - (time.monotonic() - started)
        setup = engine.Setup(
            folder=args.runs,
            data_root=args.data_root,
            checkpoint_seconds=args.checkpoint_seconds,
            max_seconds=left,
            tensorboard=args.tensorboard,
            workers=args.workers,
        )
        result = runs.carry_out(config, setup, args.results, accelerator, args.fresh)
        if result is None:
            accelerator.print(f"{run_name(config)}: stopped after {args.max_seconds:g} s; the same command goes on")
            break
        accelerator.print(
            f"{run_name(config)}: error {result['error']:.2f} %, {result['parameters']:,} weights, "
            f"{result['seconds']:.0f} s"
        )
        errors.append(result["error"])
    if len(errors) > 1:
        mean = sum(errors) / len(errors)
        accelerator.print(f"{len(errors)} seeds: error {mean:.2f} %, from {min(errors):.2f} to {max(errors):.2f}")
    accelerator.end_training()
    return len(errors) == len(configs)


def evaluate(args: argparse.Namespace) -> None:
    """Print a checkpoint's test error."""
    run = _load(args)
    run.accelerator.print(
        f"{run_name(run.config)}: error {run.error(args.limit):.2f} % after {run.iteration:,} of "
        f"{run.recipe.iterations:,} iterations, {run.parameters:,} weights"
    )


def show(args: argparse.Namespace) -> None:
    """Draw what a checkpoint's network sees, and how its gaze moved."""
    # Training needs no matplotlib.
    from tstn.experiments import pictures

    run = _load(args)
    folder = args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent
    folder = folder if args.output is None else args.output
    config, looks, history = run.config, run.looks(), run.history
    network = config.model if config.transform == "none" else f"{config.model}, {config.transform}"
    title = f"{config.experiment}: {network}, {config.data}, {run.iteration:,} batches"
    inputs = run.task.examples
    files = {"looks.png": pictures.sheet(title, inputs, run.task.captions, run.answers(), looks, history)}
    if looks:
        name = f"training.{args.format}"
        files[name] = pictures.animation(title, inputs, looks[0], history, args.seconds, args.format)
    else:
        print(f"{config.model} has no transformer: nothing moves, and there is no animation")
    for name, content in files.items():
        data.write_atomically(folder / name, content)
        print(folder / name)


def _load(args: argparse.Namespace) -> engine.Run:
    # In float32, whatever it was trained in: what has a checkpoint can be looked at on any machine.
    accelerator = engine.make_accelerator(args.device, "fp32")
    setup = engine.Setup(args.checkpoint, data_root=args.data_root, workers=args.workers)
    return engine.load_run(args.checkpoint, setup, accelerator)
