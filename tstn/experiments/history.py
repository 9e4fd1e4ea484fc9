"""What a run has recorded so far. It lives in the checkpoint; the log files are written from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

COLUMNS = ("iteration", "loss", "lr", "seconds", "error")


@dataclass
class History:
    """A run's learning curves, and where its transformers looked.

    Attributes:
        iteration: Where the entries of the log are, counted from 1.
        loss: Mean training loss since the entry before.
        lr: Learning rate.
        seconds: Training time so far.
        error: Test error in percent, on the curve's part of the test set; None where it was not measured.
        snapshot: Iterations done when the transformers were looked at.
        theta: Then, of each transformer, theta (K examples, heads, *theta_shape).
    """

    iteration: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    error: list[float | None] = field(default_factory=list)
    snapshot: list[int] = field(default_factory=list)
    theta: list[list[Tensor]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The fields, not copied."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def rows(self) -> list[tuple[int | float | None, ...]]:
        """The entries of the log, in the order of :data:`COLUMNS`."""
        return list(zip(*(getattr(self, name) for name in COLUMNS), strict=True))

    def curve(self) -> dict[str, list[Any]]:
        """Loss and error where the error was measured."""
        kept = [i for i, error in enumerate(self.error) if error is not None]
        return {name: [getattr(self, name)[i] for i in kept] for name in ("iteration", "loss", "error")}


@dataclass(frozen=True)
class Outcome:
    """What training gave.

    Attributes:
        error: Test error in percent, on the whole test set.
        parameters: Number of weights, frozen ones not counted.
        seconds: Training time, over all the times the run was started, without measurements of the error.
        history: Learning curves and looks.
    """

    error: float
    parameters: int
    seconds: float
    history: History
