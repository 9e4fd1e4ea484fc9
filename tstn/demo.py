"""Does a spatial transformer help? ``python -m tstn.demo`` trains the paper's FCN without one and with one, and shows.

Handwritten digits are rotated, scaled and put somewhere on a larger canvas, each time anew (Jaderberg et al. 2015,
table 1, RTS). Both networks see the same batches. The results go to a JSON file, a picture and a table.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tstn
from tstn import data
from tstn.models import FCN, STFCN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CANVAS = 42
TEST_SEED = 1
MODELS: dict[str, Callable[[], nn.Module]] = {"FCN": lambda: FCN(CANVAS), "ST-FCN": lambda: STFCN(CANVAS)}
DATASETS = {"digits": "scikit-learn digits", "mnist": "MNIST"}
MEASUREMENTS = 25

# Okabe and Ito's blue and vermilion, which colour-blind people tell apart.
BLUE, VERMILION, INK, GREY = "#0072b2", "#d55e00", "#222222", "#767676"


@dataclass
class Result:
    """What training one network gave.

    Attributes:
        parameters: Number of weights.
        error: Test error in percent, at the end.
        seconds: Training time, without the measurements of the test error.
        iteration: Where the curves have their points.
        train_loss: Mean training loss since the point before.
        test_error: Test error in percent.
    """

    parameters: int
    error: float = 100.0
    seconds: float = 0.0
    iteration: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    test_error: list[float] = field(default_factory=list)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """The classes (N,) that a network sees in images (N, 1, H, W)."""
    model.eval()
    predictions = torch.cat([model(portion).argmax(1) for portion in images.split(1000)])
    model.train()
    return predictions


def train(
    model: nn.Module,
    digits: data.Digits,
    test_images: Tensor,
    *,
    iterations: int,
    batch_size: int,
    seed: int,
    label: str = "",
) -> Result:
    """Train a network on RTS-distorted digits, by Adam at 1e-3 with cosine decay to 0.

    Args:
        model: On the device to train on.
        digits: On the same device.
        test_images: The distorted test images, on the same device.
        iterations: Number of batches.
        batch_size: Images in a batch.
        seed: Of the batches: networks that share it see the same ones.
        label: For the progress bar.

    Returns:
        The errors and the learning curves.
    """
    from tqdm import tqdm

    result = Result(sum(p.numel() for p in model.parameters()))
    generator = torch.Generator().manual_seed(seed)
    stream = data.batches(digits.train_images, digits.train_labels, batch_size, data.rts, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    every = max(1, iterations // MEASUREMENTS)
    # The losses are summed on the device and read at each measurement, so that a GPU is not stopped at every step.
    total, since = torch.zeros((), device=test_images.device), 0
    # None: no bar where there is no terminal.
    with tqdm(total=iterations, desc=f"{label:>8}", unit="batch", disable=None, dynamic_ncols=True) as bar:
        started = time.perf_counter()
        for step in range(1, iterations + 1):
            images, labels = next(stream)
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total, since = total + loss.detach(), since + 1
            bar.update()
            if step % every and step != iterations:
                continue
            mean_loss = total.item() / since
            result.seconds += time.perf_counter() - started
            result.error = 100 * (predict(model, test_images) != digits.test_labels).float().mean().item()
            result.iteration.append(step)
            result.train_loss.append(mean_loss)
            result.test_error.append(result.error)
            bar.set_postfix(loss=f"{mean_loss:.3f}", error=f"{result.error:.1f} %")
            total, since = torch.zeros_like(total), 0
            started = time.perf_counter()
    return result


def table(results: dict[str, Result], iterations: int) -> str:
    """The results as aligned plain text."""
    rows = [("", "parameters", "iterations", "seconds", "test error")]
    for name, r in results.items():
        rows.append((name, f"{r.parameters:,}", f"{iterations:,}", f"{r.seconds:.1f}", f"{r.error:.2f} %"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)])
        for row in rows
    )


@torch.no_grad()
def picture(
    models: dict[str, nn.Module], results: dict[str, Result], test_images: Tensor, labels: Tensor, title: str
) -> bytes:
    """Draw what the transformer does with a test image of each class, and the learning curves.

    Args:
        models: The trained ``"FCN"`` and ``"ST-FCN"``.
        results: Theirs.
        test_images: (N, 1, H, W).
        labels: (N,), in 0 to 9.
        title: What the data is.

    Returns:
        A PNG, 1600 pixels wide.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The first image of each class: nothing is picked by hand.
    chosen = torch.stack([(labels == c).int().argmax() for c in labels.unique()])
    images, truth = test_images[chosen], labels[chosen].tolist()
    seen = {name: predict(model, images).tolist() for name, model in models.items()}
    transformer = models["ST-FCN"].get_submodule("transformer")
    crops, theta = transformer(images)
    size = images.shape[-1]
    corners = (tstn.Affine().corners(theta) + 1) * size / 2 - 0.5

    figure = Figure(figsize=(8, 5.4), dpi=200, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    figure.text(0.03, 0.945, "A spatial transformer finds the digit and sets it upright", size=13, color=INK)
    figure.text(0.03, 0.905, title, size=7.5, color=GREY)

    columns, left, width, gap = 5, 0.095, 0.098, 0.012
    height = width * 8 / 5.4
    for k in range(len(truth)):
        row, column = divmod(k, columns)
        x = left + column * (width + gap)
        top = 0.86 - row * 0.435
        above = figure.add_axes((x, top - height, width, height))
        below = figure.add_axes((x, top - 2 * height - 0.012, width, height))
        _show(above, images[k, 0])
        _show(below, crops[k, 0])
        _outline(above, corners[k])
        for line, name in enumerate(("FCN", "ST-FCN")):
            right = seen[name][k] == truth[k]
            figure.text(
                x + width / 2,
                top - 2 * height - 0.042 - 0.027 * line,
                f"{seen[name][k]} {'✓' if right else '✗'}",
                ha="center",
                size=7.5,
                color=BLUE if right else VERMILION,
                weight="normal" if right else "bold",
            )
        if column == 0:
            for y, text in (
                (top - height / 2, "input,\nand where\nST looks"),
                (top - 1.5 * height - 0.012, "what ST\npasses on"),
                (top - 2 * height - 0.037, "FCN sees"),
                (top - 2 * height - 0.064, "ST-FCN sees"),
            ):
                figure.text(left - 0.01, y, text, ha="right", va="center", size=6.5, color=GREY, linespacing=1.35)

    _curves(figure.add_axes((0.72, 0.16, 0.25, 0.70)), results)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _show(axes: Axes, image: Tensor) -> None:
    axes.imshow(image.cpu(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()


def _outline(axes: Axes, corners: Tensor) -> None:
    """Draw the quadrilateral (4, 2), in pixels, its upper edge thicker."""
    points = corners.cpu()
    closed = torch.cat((points, points[:1]))
    axes.plot(closed[:, 0], closed[:, 1], color="#56b4e9", linewidth=1.1, solid_joinstyle="miter")
    axes.plot(points[:2, 0], points[:2, 1], color="#56b4e9", linewidth=2.6, solid_capstyle="butt")


def _curves(axes: Axes, results: dict[str, Result]) -> None:
    for (name, result), color in zip(results.items(), (VERMILION, BLUE), strict=True):
        axes.plot(result.iteration, result.test_error, color=color, linewidth=1.6, label=name)
    axes.set_yscale("log")


def main(argv: Sequence[str] | None = None) -> int:
    raise SystemExit(0)
