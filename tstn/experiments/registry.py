"""The experiments of the paper: their networks, data and recipes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tstn import data, models
from tstn.experiments import colocalization, digits, photographs
from tstn.experiments.config import Config, ExperimentError, Recipe
from tstn.experiments.experiment import Experiment, Model, Option
from tstn.experiments.task import Task

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


def _folder(root: Path | None, what: str) -> Path:
    if root is None:
        raise ExperimentError(f"--data-root must say where {what}: it is not downloaded")
    return root


def _share(config: Config) -> float:
    return int(config.options["width_percent"]) / 100


def _sampling(config: Config) -> dict[str, Any]:
    options = config.options
    return {"padding_mode": options["padding_mode"], "align_corners": bool(options["align_corners"])}


WIDTH_PERCENT = {
    "width_percent": Option(100, (), "the share of the paper's filters and units that the network has, for trying out")
}


def _house_numbers() -> Experiment:
    def task(config: Config, root: Path | None, device: torch.device, workers: int) -> Task:
        root = _folder(root, "the folders train, extra and test of the full house numbers lie")
        crop, validation = int(config.options["crop"]), int(config.options["validation"])
        return photographs.HouseNumberTask(root, crop, validation, device, workers)

    def model(kind: str, summary: str) -> Model:
        def make(config: Config) -> nn.Module:
            options = config.options
            extra: dict[str, Any] = {}
            if kind != "cnn":
                extra = _sampling(config) | {"num_localization": int(options["num_localization"])}
            hidden = int(options["num_hidden"])
            return models.SVHNNet(kind, int(options["crop"]), num_hidden=hidden, width=_share(config), **extra)

        if kind == "cnn":
            return Model(make, summary)
        localization = Option(2, (1, 2), "hidden layers of a localisation network; readings of the paper differ")
        return Model(make, summary, ("affine",), SAMPLING | {"num_localization": localization})

    paper = Recipe(
        iterations=400_000,
        batch_size=128,
        optimizer="sgd",
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        decay=(0.2, 0.4, 0.6, 0.8),
        localization_lr=0.1,
    )
    return Experiment(
        title="house numbers of up to five digits, read whole",
        section="4.2, A.5",
        models={
            "cnn": model("cnn", "eight convolutions and three hidden layers"),
            "st-single": model("st-single", "the cnn behind an affine transformer"),
            "st-multi": model("st-multi", "an affine transformer before each of the cnn's first four convolutions"),
        },
        recipes={"fast": Recipe(iterations=50_000, batch_size=128, lr=3e-4, localization_lr=0.1), "paper": paper},
        data=("svhn",),
        task=task,
        options={
            "crop": Option(64, (64, 128), "side of the crops in pixels; those of 128 show twice as much"),
            "num_hidden": Option(3, (2, 3), "hidden layers; readings of the paper differ"),
            "validation": Option(5000, (), "training pictures that are kept out, as the paper did"),
        }
        | WIDTH_PERCENT,
    )


def _birds() -> Experiment:
    def task(config: Config, root: Path | None, device: torch.device, workers: int) -> Task:
        root = _folder(root, "CUB_200_2011 lies, the folder with images.txt")
        size = int(config.options.get("size", 224))
        return photographs.BirdsTask(root, size, bool(config.options["pretrained"]), device, workers)

    def parallel(number: int) -> Model:
        def make(config: Config) -> nn.Module:
            size = int(config.options["size"])
            return models.BirdsNet(number, size, width=_share(config), **_sampling(config))

        size = Option(448, (448, 224), "side of the images in pixels; crops have half of it, shown at 224")
        summary = f"{number} transformers that crop half the image's side, and an Inception for each"
        return Model(make, summary, ("attention",), SAMPLING | {"size": size})

    paper = Recipe(
        iterations=30_000,
        batch_size=256,
        optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        weight_decay=1e-5,
        decay=(1 / 3, 2 / 3, 5 / 6),
        localization_lr=1e-4,
    )
    return Experiment(
        title="200 species of birds",
        section="4.3, A.6",
        models={
            "cnn": Model(
                lambda config: models.GoogLeNet(200, dropout=0.7, width=_share(config)), "Inception at 224 pixels"
            ),
            "2st-cnn": parallel(2),
            "4st-cnn": parallel(4),
        },
        recipes={
            "fast": dataclasses.replace(paper, iterations=10_000, batch_size=32, lr=0.01, decay=()),
            "paper": paper,
        },
        data=("cub",),
        task=task,
        options={"pretrained": Option(1, (0, 1), "1: start from googlenet.pth, torchvision's weights, in --data-root")}
        | WIDTH_PERCENT,
    )


EXPERIMENTS: dict[str, Experiment] = {
    "mnist-r": _digits("r", "digits turned by up to 90 degrees"),
    "mnist-rts": _digits("rts", "digits turned, scaled and put anywhere on 42 x 42 pixels"),
    "mnist-p": _digits("p", "digits seen in perspective"),
    "mnist-e": _digits("e", "digits bent by a spline"),
    "mnist-tc": _digits("tc", "digits put anywhere among clutter on 60 x 60 pixels"),
    "addition": _addition(),
    "coloc": _colocalization(),
    "svhn": _house_numbers(),
    "birds": _birds(),
}
