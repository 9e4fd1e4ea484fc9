"""What a trained network sees: test inputs, where its transformers look, what they make of it, learning curves."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image
from torch import Tensor

from tstn.experiments.history import History
from tstn.experiments.looks import Look
from tstn.functional import spatial_transform
from tstn.transforms import MatrixTransform, Transform

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D
    from numpy.typing import NDArray

# Colours that colour-blind people tell apart, one for each of parallel transformers.
HEADS = ("#2a8fd0", "#d55e00", "#009e73", "#cc79a7")
WRONG, INK, GREY = "#d55e00", "#222222", "#767676"
# Of an input with two channels, what each is shown as: (channel, RGB).
TINTS = ((0.55, 0.80, 1.0), (1.0, 0.75, 0.35))
# Points along an edge of what is drawn; a multiple of the lattice's meshes.
STEPS = 32
MESHES = 4
CELL, GAP = 0.78, 0.07


class Panel(NamedTuple):
    """A figure's grid of square cells, in inches from the upper left.

    Attributes:
        figure: The figure.
        left: Of the first column.
        top: Of the first row, from the figure's upper edge.
    """

    figure: Figure
    left: float
    top: float

    def cell(self, row: int, column: int) -> Axes:
        """The axes of a cell, without frame or ticks."""
        width, height = self.figure.get_size_inches()
        x = self.left + column * (CELL + GAP)
        y = height - self.top - row * (CELL + GAP) - CELL
        axes = self.figure.add_axes((x / width, y / height, CELL / width, CELL / height))
        axes.set_axis_off()
        return axes

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write at (x, y), in inches from the upper left corner of the figure."""
        width, height = self.figure.get_size_inches()
        style = {"size": 7, "color": GREY, "va": "center", **style}
        self.figure.text(x / width, 1 - y / height, text, **style)


def sheet(
    title: str,
    inputs: Tensor,
    captions: list[str],
    answers: list[tuple[str, bool]],
    looks: list[Look],
    history: History,
) -> bytes:
    """A picture of what a network does with its examples, and of its learning curves.

    Args:
        title: What the run is.
        inputs: (N, C, H, W), the examples.
        captions: What each is.
        answers: What the network says of each, and whether that is right.
        looks: What each of its transformers did.
        history: Of the run.

    Returns:
        A PNG.
    """
    rows = sum(1 + look.output.shape[1] for look in looks) or 1
    count = len(inputs)
    grid = count * (CELL + GAP)
    width, height = 0.95 + grid + 2.5, max(0.9 + rows * (CELL + GAP), 2.6)
    panel = Panel(Figure(figsize=(width, height), dpi=160, facecolor="white"), 0.95, 0.8)
    panel.write(0.15, 0.25, title, size=10, color=INK)
    for column, (caption, (answer, right)) in enumerate(zip(captions, answers, strict=True)):
        x = panel.left + column * (CELL + GAP) + CELL / 2
        panel.write(x, 0.52, caption, ha="center")
        color = INK if right else WRONG
        mark = "✓" if right else "✗"
        panel.write(x, 0.68, f"{answer} {mark}", ha="center", color=color, weight="normal" if right else "bold")
    panel.write(0.85, 0.52, "truth", ha="right")
    panel.write(0.85, 0.68, "network says", ha="right")
    if not looks:
        _row(panel, 0, "input", inputs)
    row = 0
    for number, look in enumerate(looks):
        where = f"transformer {number + 1}\n" if len(looks) > 1 else ""
        for axes, lines in zip(_row(panel, row, f"{where}looks here", look.input), paths(look), strict=True):
            for head, line in enumerate(lines):
                _outline(axes, line, HEADS[head % len(HEADS)])
        for head in range(look.output.shape[1]):
            color = HEADS[head % len(HEADS)] if look.output.shape[1] > 1 else GREY
            _row(panel, row + 1 + head, "and sees", look.output[:, head], color)
        row += 1 + look.output.shape[1]
    _curves(panel, 0.95 + grid + 0.55, history)
    buffer = io.BytesIO()
    panel.figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _row(panel: Panel, row: int, label: str, images: Tensor, color: str = GREY) -> list[Axes]:
    y = panel.top + row * (CELL + GAP) + CELL / 2
    panel.write(0.85, y, label, ha="right", color=color, linespacing=1.4)
    cells = [panel.cell(row, column) for column in range(len(images))]
    for axes, pixels in zip(cells, to_pixels(images), strict=True):
        axes.imshow(pixels, interpolation="nearest")
        # What is drawn over the image must not move its frame.
        axes.autoscale(False)
    return cells


def to_pixels(images: Tensor) -> NDArray[np.float32]:
    """Images (N, C, H, W) as RGB (N, H, W, 3) in [0, 1]; feature maps by their mean, scaled to the brightest."""
    images = images.detach().float().cpu()
    channels = images.shape[1]
    if channels == 2:
        images = torch.einsum("nkhw,kc->nchw", images, torch.tensor(TINTS))
    elif channels != 3:
        images = images.mean(1, keepdim=True)
        if channels > 1:
            images = images / images.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
        images = images.expand(-1, 3, -1, -1)
    return images.clamp(0, 1).permute(0, 2, 3, 1).numpy()


def paths(look: Look) -> list[list[NDArray[np.float32]]]:
    """For each example and head, the line in pixels of the input that the output's frame, or lattice, comes from.

    A line (P, 2) of x and y, broken where it is not finite.
    """
    height, width = look.input.shape[-2:]
    return _paths(look.theta, look.transform, (height, width), look.align_corners)


def _paths(
    theta: Tensor, transform: Transform, size: tuple[int, int], align_corners: bool
) -> list[list[NDArray[np.float32]]]:
    # Corners of the lattice are corners of the output's frame, where the coordinates are -1 and 1.
    source = transform.grid(theta.float().cpu(), (STEPS + 1, STEPS + 1), align_corners=True)
    height, width = size
    extent = torch.tensor([width, height]) - (1 if align_corners else 0)
    points = (source + 1) / 2 * extent - (0 if align_corners else 0.5)
    # A homography's horizon lies at infinity.
    points = torch.where((points.abs() < 100 * max(size)).all(-1, keepdim=True), points, math.nan)
    meshes = 1 if isinstance(transform, MatrixTransform) else MESHES
    every = STEPS // meshes
    gap = torch.full((*points.shape[:2], 1, 2), math.nan)
    lines: list[Tensor] = []
    for k in range(0, STEPS + 1, every):
        lines += [points[:, :, k], gap, points[:, :, :, k], gap]
    return [list(example) for example in torch.cat(lines, dim=2).numpy()]


def _outline(axes: Axes, line: NDArray[np.float32], color: str) -> tuple[Line2D, Line2D]:
    (edge,) = axes.plot(line[:, 0], line[:, 1], color=color, linewidth=1.1)
    # Of the output's upper left corner: what is turned or mirrored shows.
    (corner,) = axes.plot(line[:1, 0], line[:1, 1], "o", color=color, markersize=3)
    return edge, corner


def _curves(panel: Panel, left: float, history: History) -> None:
    width, height = panel.figure.get_size_inches()
    measured = history.curve()
    curves = {
        "training loss": (history.iteration, history.loss, GREY),
        "error, % of first 1,000": (measured["iteration"], measured["error"], HEADS[0]),
    }
    top, each = 0.62, min(1.6, (height - 0.62 - 0.12) / len(curves))
    for row, (name, (x, y, color)) in enumerate(curves.items()):
        bottom = height - top - (row + 1) * each + 0.26
        axes = panel.figure.add_axes((left / width, bottom / height, 1.8 / width, (each - 0.45) / height))
        axes.plot(x, y, color=color, linewidth=1.2)
        if y and 0 < 5 * min(y) < max(y):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.tick_params(labelsize=6, labelcolor=GREY, length=2, color=GREY)
        axes.grid(color="#e6e6e6", linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        last = f": {y[-1]:.3g}" if y else ""
        axes.set_title(f"{name}{last}", loc="left", size=7, color=INK)


def animation(
    title: str, inputs: Tensor, look: Look, history: History, seconds: float, format: str, columns: int = 6
) -> bytes:
    """How the first transformer's gaze moved during training, as an animated picture.

    Args:
        title: What the run is.
        inputs: (N, C, H, W), the examples that the history's thetas are of.
        look: What the transformer does with them now.
        history: Of the run.
        seconds: Of the whole.
        format: ``"gif"`` or ``"png"``.
        columns: Examples to show.

    Returns:
        The file's content.
    """
    frames = [Image.fromarray(frame) for frame in _frames(title, inputs[:columns], look, history)]
    durations = [max(20, round(1000 * seconds / len(frames)))] * (len(frames) - 1) + [1500]
    if format == "gif":
        # One palette for all: each frame's own would flicker.
        palette = frames[-1].quantize(128)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return buffer.getvalue()


def _frames(title: str, inputs: Tensor, look: Look, history: History) -> Iterator[NDArray[np.uint8]]:
    heads = look.output.shape[1]
    rows, columns = 1 + heads, len(inputs)
    size = (0.95 + columns * (CELL + GAP) + 0.1, 0.6 + rows * (CELL + GAP) + 0.08)
    panel = Panel(Figure(figsize=size, dpi=110, facecolor="white"), 0.95, 0.6)
    canvas = FigureCanvasAgg(panel.figure)
    panel.write(0.15, 0.2, title, size=8, color=INK)
    counter = panel.figure.text(0.15 / size[0], 1 - 0.42 / size[1], "", size=8, color=HEADS[0], va="center")
    cells = _row(panel, 0, "looks here", inputs)
    outlines = [
        [_outline(axes, np.full((1, 2), np.nan, np.float32), HEADS[head % len(HEADS)]) for head in range(heads)]
        for axes in cells
    ]
    views: list[list[AxesImage]] = []
    for head in range(heads):
        row = _row(panel, 1 + head, "and sees", look.output[:columns, head], HEADS[head % len(HEADS)])
        views.append([axes.images[0] for axes in row])
    for iteration, thetas in zip(history.snapshot, history.theta, strict=True):
        theta = thetas[0][:columns]
        counter.set_text(f"after {iteration:,} batches")
        sizes = (look.input.shape[-2], look.input.shape[-1])
        for lines, drawn in zip(_paths(theta, look.transform, sizes, look.align_corners), outlines, strict=True):
            for line, (edge, corner) in zip(lines, drawn, strict=True):
                edge.set_data(line[:, 0], line[:, 1])
                corner.set_data(line[:1, 0], line[:1, 1])
        seen = spatial_transform(
            inputs,
            theta.to(inputs.device),
            look.transform,
            (look.output.shape[-2], look.output.shape[-1]),
            padding_mode=look.padding_mode,
            align_corners=look.align_corners,
        )
        for head, row in enumerate(views):
            for image, pixels in zip(row, to_pixels(seen[:, head]), strict=True):
                image.set_data(pixels)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()
