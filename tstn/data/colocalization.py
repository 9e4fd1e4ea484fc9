"""Co-localisation: images that share an object, nobody says where (Jaderberg et al. 2015, appendix A.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tstn.data.draws import draw_uniform, whole
from tstn.data.placement import place, window_theta
from tstn.functional import spatial_transform

TC_DISTRACTORS = 16


class Scenes(NamedTuple):
    """Images of one kind of digit, and where it is.

    Attributes:
        images: (N, 1, canvas, canvas).
        boxes: (N, 4) float32: left, top, right, bottom, in pixels, 0 the image's left or upper edge.
    """

    images: Tensor
    boxes: Tensor


def colocalization_set(
    images: Tensor,
    labels: Tensor,
    digit: int,
    seed: int,
    *,
    count: int = 100,
    canvas: int = 84,
    distractors: int = 0,
    ink: bool = False,
) -> Scenes:
    """Images of one digit for co-localisation, the same on every call and on every device.

    Args:
        images: (P, 1, S, S), clean; distractors are cut from any of them.
        labels: (P,).
        digit: Which of them.
        seed: Of the draws.
        count: N; the digits are drawn without replacement.
        canvas: Side of the canvas in pixels.
        distractors: 6 x 6 patches on each canvas: none for the paper's T, :data:`TC_DISTRACTORS` for its TC.
        ink: Whether the boxes are the tight ones round what is drawn. The paper does not say; otherwise they are the
            clean images' squares.

    Returns:
        The images and the boxes.

    Raises:
        ValueError: If there are fewer than ``count`` such digits.
    """
    generator = torch.Generator().manual_seed(seed)
    candidates = (labels == digit).nonzero()[:, 0]
    if len(candidates) < count:
        raise ValueError(f"count must be at most {len(candidates)}, all there are of digit {digit}; got {count}")
    chosen = candidates[torch.randperm(len(candidates), generator=generator)[:count].to(candidates.device)]
    clean = images[chosen]
    canvases, corner = place(clean, generator, canvas, distractors=distractors, pool=images)
    if ink:
        seen = clean[:, 0] > 0.1
        columns, rows = _ends(seen.any(1)), _ends(seen.any(2))
        boxes = torch.stack((columns[:, 0], rows[:, 0], columns[:, 1], rows[:, 1]), dim=1) + corner.repeat(1, 2)
    else:
        boxes = torch.cat((corner, corner + clean.shape[-1]), dim=1)
    return Scenes(canvases, boxes.float())


def _ends(mask: Tensor) -> Tensor:
    """Where each row of a mask (N, S) is first true, and one past where it is last, (N, 2)."""
    first = mask.int().argmax(1)
    last = mask.shape[1] - mask.flip(1).int().argmax(1)
    return torch.stack((first, last), dim=1)


def random_windows(images: Tensor, generator: torch.Generator, size: int = 28) -> Tensor:
    """A square window out of each image, anywhere, at whole pixels.

    Args:
        images: (N, C, canvas, canvas).
        generator: Source of randomness, on any device.
        size: Side of the windows in pixels.

    Returns:
        (N, C, size, size), on the images' device.
    """
    canvas = images.shape[-1]
    if not 1 <= size <= canvas:
        raise ValueError(f"size must be from 1 to {canvas}, the images' side; got {size}")
    corner = whole(draw_uniform(len(images), 2, generator), canvas - size + 1)
    return spatial_transform(images, window_theta(corner, size, canvas).to(images.device), "attention", (size, size))


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) pairwise: left, top, right, bottom."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (first, second)]
    return shared / (areas[0] + areas[1] - shared)
