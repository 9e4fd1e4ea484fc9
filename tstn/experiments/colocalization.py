"""Co-localisation: find what images have in common, without being told where (appendix A.2).

The paper's loss compares crops by the activations of a digit classifier. What it leaves open decides whether it works:
taken as they are, activations make empty crops the best ones, and of any scale far out is. Three choices of ours help:

- The classifier has learnt digits that are moved and scaled, so that crops need not be right to be told apart.
- Activations count relative to what it makes of black, and their length to the power of a quarter only: crops of
  little ink are neither as good as empty ones, nor as good as the digit itself.
- A crop is at most the whole image, and at least as many pixels as the encoder sees: nothing is enlarged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstn import data
from tstn.experiments.task import TEST_SEED, Batch, Order, Shard, Task, derived_seed, generator
from tstn.functional import spatial_transform
from tstn.models import CNN, Colocalizer, colocalization_loss

CANVAS, CROP = 84, 28
# What counts as found.
IOU = 0.5
FIRST_SCALE = 0.75
POWER = 0.25

ENCODER_WIDTH = 32
ENCODER_ITERATIONS = 600
ENCODER_BATCH = 128
# Of the encoder's training: the digits' scale, and how far they may stick out of the frame, relative to their size.
ENCODER_SCALES = (0.3, 1.2)
ENCODER_ROOM = 0.7


class BoundedScale(nn.Module):
    """Makes attention parameters (N, 3) of any numbers: the scale lies between CROP / CANVAS and 1."""

    def forward(self, numbers: Tensor) -> Tensor:
        """Scale, x and y."""
        least = CROP / CANVAS
        return torch.cat((least + (1 - least) * torch.sigmoid(numbers[:, :1]), numbers[:, 1:]), dim=1)


class RelativeColocalizer(Colocalizer):
    """A :class:`~tstn.models.Colocalizer` with crops of bounded scale, and codes as this module's page has them."""

    black: Tensor
    length: Tensor

    def __init__(self) -> None:
        super().__init__(CNN(CROP, ENCODER_WIDTH), CANVAS, CROP, normalize=False)
        localization = cast(nn.Sequential, self.transformer.localization)
        least = CROP / CANVAS
        with torch.no_grad():
            bias = cast(nn.Linear, localization[-1]).bias
            bias[0] = math.log((FIRST_SCALE - least) / (1 - FIRST_SCALE))
        localization.append(BoundedScale())
        self.register_buffer("black", torch.zeros(self._raw(torch.zeros(1, 1, CROP, CROP)).shape[1]))
        self.register_buffer("length", torch.ones(()))

    def _raw(self, crops: Tensor) -> Tensor:
        return super().encode(crops)

    def encode(self, crops: Tensor) -> Tensor:
        codes = (self._raw(crops) - self.black) / self.length
        # The smallest number keeps the slope at black finite.
        return codes / (codes.square().sum(1, keepdim=True) + 1e-4) ** ((1 - POWER) / 2)

    @torch.no_grad()
    def calibrate(self, digits: Tensor) -> None:
        """Measure what black is to the encoder, and how far clean digits are from it."""
        self.black.copy_(self._raw(torch.zeros_like(digits[:1]))[0])
        self.length.copy_((self._raw(digits) - self.black).square().sum(1).mean().sqrt())


class Colocalization(Task):
    """One hundred images of one digit; trained on and judged by the same ones, as nothing is learnt from their boxes.

    With several processes, images are compared within each one's share of the batch.

    Args:
        digits: On the device.
        digit: Which is to be found.
        distractors: On each image.
        margin: Of the loss.
    """

    def __init__(self, digits: data.Digits, digit: int, distractors: int, margin: float) -> None:
        self.digits, self.margin = digits, margin
        self.scenes = data.colocalization_set(
            digits.train_images, digits.train_labels, digit, TEST_SEED, canvas=CANVAS, distractors=distractors
        )
        self.examples = self.scenes.images[:10]
        self.captions = [str(digit)] * 10

    def prepare(self, model: nn.Module, seed: int) -> None:
        model = cast(RelativeColocalizer, model)
        train_encoder(model.encoder, self.digits, seed)
        model.calibrate(self.digits.train_images[:1000])

    def batches(self, seed: int, start: int, size: int, shard: Shard) -> Iterator[Batch]:
        images = self.scenes.images
        order = Order(len(images), size, seed)
        part = shard.of_batch(size)
        for iteration in count(start):
            chosen = images[order[iteration].to(images.device)]
            patches = data.random_windows(chosen, generator(seed, "patches", iteration), CROP)
            yield chosen[part], patches[part]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        crops, patches = model(*batch)
        return colocalization_loss(crops, patches, self.margin)

    def count_wrong(self, model: nn.Module, shard: Shard, limit: int | None = None) -> Tensor:
        images, boxes = (t[:limit][shard.rank :: shard.world] for t in self.scenes)
        missed = (self._overlap(model, images, boxes) <= IOU).sum()
        return torch.stack((missed, torch.full_like(missed, len(images))))

    def answers(self, model: nn.Module) -> list[tuple[str, bool]]:
        overlaps = self._overlap(model, self.examples, self.scenes.boxes[: len(self.examples)]).tolist()
        return [(f"IoU {overlap:.2f}", overlap > IOU) for overlap in overlaps]

    def _overlap(self, model: nn.Module, images: Tensor, boxes: Tensor) -> Tensor:
        return data.box_iou(cast(RelativeColocalizer, model).boxes(images), boxes)


def train_encoder(encoder: CNN, digits: data.Digits, seed: int) -> None:
    """Teach a classifier digits of many sizes in many places, by Adam with cosine decay, and freeze it again."""
    encoder.requires_grad_(True)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ENCODER_ITERATIONS)
    order = Order(len(digits.train_labels), ENCODER_BATCH, derived_seed(seed, "encoder order"))
    for iteration in range(ENCODER_ITERATIONS):
        index = order[iteration].to(digits.train_labels.device)
        images = moved(digits.train_images[index], generator(seed, "encoder", iteration))
        loss = F.cross_entropy(encoder(images), digits.train_labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    encoder.requires_grad_(False)


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, 1, S, S), scaled and moved anywhere where most of them stays in the frame."""
    low, high = ENCODER_SCALES
    uniform = torch.rand(len(images), 3, generator=generator)
    scale = low + (high - low) * uniform[:, 0]
    centre = (1 - ENCODER_ROOM * scale)[:, None] * (2 * uniform[:, 1:] - 1)
    theta = torch.cat((1 / scale[:, None], -centre / scale[:, None]), dim=1)
    return spatial_transform(images, theta.to(images.device), "attention")
