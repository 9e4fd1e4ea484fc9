"""What a run is: everything that decides its numbers, and the name that follows from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

OPTIMIZERS = ("adam", "sgd")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


class ExperimentError(RuntimeError):
    """Something about a run that its user can put right; the message says how."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        iterations: Number of batches.
        batch_size: Samples in a batch, over all processes together.
        optimizer: ``"adam"`` or ``"sgd"``.
        lr: Learning rate at the start.
        momentum: Of SGD.
        weight_decay: Added to the gradient as ``weight_decay * weight``.
        decay: The learning rate falls to a tenth after each of these fractions of the iterations; empty: it falls to
            0 along a cosine.
        localization_lr: The localisation networks' learning rate, as a multiple of ``lr``.
        clip_grad: Longest gradient, over all weights together; None: any.
    """

    iterations: int
    batch_size: int
    optimizer: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    decay: tuple[float, ...] = ()
    localization_lr: float = 1.0
    clip_grad: float | None = None

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}; got {self.optimizer!r}")
        if self.optimizer == "adam" and self.momentum:
            raise ValueError(f"momentum is SGD's; got {self.momentum} with optimizer='adam'")
        for name in ("iterations", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")


@dataclass(frozen=True)
class Config:
    """One run: the same configuration gives the same numbers.

    Attributes:
        experiment: A key of :data:`tstn.experiments.EXPERIMENTS`.
        model: One of the experiment's models.
        transform: One of its transforms, or ``"none"`` for a model without a transformer.
        data: One of its data sets.
        seed: Of initial weights, training data and dropout.
        schedule: The recipe that ``recipe`` started from, ``"fast"`` or ``"paper"``.
        recipe: How to train.
        precision: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"``.
        compile: Whether the network goes through ``torch.compile``.
        options: The experiment's own options.
        log_every: Iterations between two entries of the log.
        evaluations: How often the test error is measured during training.
    """

    experiment: str
    model: str
    transform: str
    data: str
    seed: int
    schedule: str
    recipe: Recipe
    precision: str = "fp32"
    compile: bool = False
    options: dict[str, int | str] = field(default_factory=dict)
    log_every: int = 1
    evaluations: int = 20

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}")
        for name in ("log_every", "evaluations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, fit for JSON."""
        values = dataclasses.asdict(self)
        values["recipe"]["decay"] = list(self.recipe.decay)
        return values

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """What :meth:`to_dict` gave, as a configuration again.

        Raises:
            ValueError: If it is not the form of a configuration.
        """
        try:
            recipe = dict(values["recipe"])
            recipe["decay"] = tuple(recipe["decay"])
            return Config(**{**values, "recipe": Recipe(**recipe)})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a configuration of this version: {error}") from error


def default_log_every(iterations: int) -> int:
    """Some 300 entries in the log, but never long without one: checkpoints are written at its entries."""
    return min(100, -(-iterations // 300))
