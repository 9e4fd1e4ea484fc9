"""Random numbers of which each image of a batch has a row of its own, so that batches may be split."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def draw_uniform(count: int, numbers: int, generator: torch.Generator) -> Tensor:
    """Draw from [0, 1) for each image: (count, numbers) float32, on the generator's device."""
    return torch.rand(count, numbers, generator=generator, device=generator.device)


def normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers (..., K) from draws (..., 2 K) from [0, 1), by the transform of Box and Muller.

    ``torch.randn`` will not do: it draws in blocks that run across images.
    """
    radius, angle = uniform.chunk(2, dim=-1)
    return (-2 * torch.log1p(-radius)).sqrt() * (2 * math.pi * angle).cos()


def whole(uniform: Tensor, high: int) -> Tensor:
    """Whole numbers 0 to ``high`` - 1, int64, from draws from [0, 1)."""
    # Just below 1, the product rounds to high.
    return (uniform * high).long().clamp_(max=high - 1)
