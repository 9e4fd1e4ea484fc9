"""What a call asks for, apart from its tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tstn.transforms import Transform


class Warp(NamedTuple):
    """The options of one call, checked. ``fill_value`` is the scalar fill; a per-channel fill is a tensor beside it."""

    transform: Transform
    size: tuple[int, int]
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool = False
    fill_value: float = 0.0


def is_channels_last(input: Tensor) -> bool:
    """Whether (N, C, H, W) has its channels side by side in memory; slices of such tensors count too."""
    return input.shape[1] > 1 and input.stride(1) == 1 and input.stride(3) > 1


def memory_format(input: Tensor) -> torch.memory_format:
    """The memory format of the output and of the input's gradient."""
    return torch.channels_last if is_channels_last(input) else torch.contiguous_format
