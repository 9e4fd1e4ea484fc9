"""MNIST addition: two digits, each in a channel of its own, and their sum (Jaderberg et al. 2015, appendix A.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from tstn.data.distortions import Distortion, rts
from tstn.data.draws import draw_uniform, whole


def addition_pairs(
    images: Tensor, labels: Tensor, count: int, generator: torch.Generator, distortion: Distortion = rts
) -> tuple[Tensor, Tensor]:
    """Pairs of digits, both drawn at random from all there are and distorted independently.

    Args:
        images: (P, 1, S, S), clean.
        labels: (P,), 0 to 9.
        count: N.
        generator: Source of randomness, on any device.
        distortion: Of each digit.

    Returns:
        The pairs (N, 2, H, W) and their sums (N,), 0 to 18, on the images' device.
    """
    index = whole(draw_uniform(count, 2, generator), len(images)).to(images.device)
    pairs = distortion(images[index.flatten()], generator)
    return pairs.view(count, 2, *pairs.shape[2:]), labels[index].sum(1)


def addition_set(
    images: Tensor, labels: Tensor, count: int, seed: int, distortion: Distortion = rts
) -> tuple[Tensor, Tensor]:
    """A test set for addition, the same on every call and on every device; see :func:`addition_pairs`."""
    generator = torch.Generator().manual_seed(seed)
    # In portions, because the plain PyTorch backend holds the grid of all the images it warps at once.
    portions = [
        addition_pairs(images, labels, min(500, count - start), generator, distortion) for start in range(0, count, 500)
    ]
    pairs, sums = zip(*portions, strict=True)
    return torch.cat(pairs), torch.cat(sums)
