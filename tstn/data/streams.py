"""Training batches and fixed test sets."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from tstn.data.distortions import Distortion


def batches(
    images: Tensor, labels: Tensor, batch_size: int, distortion: Distortion, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless training batches, shuffled anew in each pass over the data and freshly distorted.

    Args:
        images: (N, 1, 28, 28), on the device to train on.
        labels: (N,), on the same device.
        batch_size: Images in a batch. What is left at the end of a pass sits that pass out.
        distortion: Such as :func:`rts`.
        generator: Source of all randomness, on any device.

    Yields:
        Distorted images and their labels.

    Raises:
        ValueError: If there are fewer images than a batch needs.
    """
    if not 0 < batch_size <= len(images):
        raise ValueError(f"batch_size must be from 1 to the number of images, {len(images)}; got {batch_size}")
    while True:
        order = torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)
        for index in order.split(batch_size):
            if len(index) == batch_size:
                yield distortion(images[index], generator), labels[index]


def distorted(images: Tensor, distortion: Distortion, seed: int) -> Tensor:
    """A test set: every image distorted once, the same way on every call and on every device.

    Args:
        images: (N, 1, 28, 28).
        distortion: Such as :func:`rts`.
        seed: Of the draws.

    Returns:
        (N, 1, H, W), on the images' device.
    """
    generator = torch.Generator().manual_seed(seed)
    # In portions, because the plain PyTorch backend holds the grid of all the images it warps at once; in equal ones,
    # because clutter needs two images at least.
    portions = images.tensor_split(max(1, math.ceil(len(images) / 1000)))
    return torch.cat([distortion(portion, generator) for portion in portions])
