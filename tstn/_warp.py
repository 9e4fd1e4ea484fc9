"""What a call asks for: its tensors and its options, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Operands(NamedTuple):
    """The tensors of one call."""

    # (N, C, H, W).
    input: Tensor
    # (M, *P), or None where a flow says it all; M is a multiple of N unless indexed.
    theta: Tensor | None
    # (M, H_out, W_out, 2), normalised, added to the coordinates that theta gives.
    flow: Tensor | None
    # (C,)
    fill: Tensor | None
    # (M,) int64: the input that each theta reads.
    input_index: Tensor | None
    # What the coordinate map needs beside theta.
    constants: Tensor | None

    @property
    def warps(self) -> int:
        """M."""
        theta = self.flow if self.theta is None else self.theta
        assert theta is not None
        return theta.shape[0]


class Needed(NamedTuple):
    """Which gradients are wanted, in the order of the operands."""

    input: bool
    theta: bool
    flow: bool
    fill: bool


class Warp(NamedTuple):
    """The options of one call. ``fill_value`` is the scalar fill; a per-channel fill is a tensor beside it."""

    # The key of the coordinate map.
    kernel: str
    size: tuple[int, int]
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool = False
    fill_value: float = 0.0


def is_channels_last(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether (N, C, H, W) has its channels side by side in memory; slices of such tensors count too."""
    return shape[1] > 1 and stride[1] == 1 and stride[3] > 1


def in_memory_format(tensor: Tensor, memory_format: torch.memory_format) -> Tensor:
    """``tensor`` (N, C, H, W), copied if it is not in that memory format; also under vmap, which knows only one."""
    if memory_format == torch.channels_last:
        return tensor.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return tensor.contiguous()


def memory_format(input: Tensor) -> torch.memory_format:
    """The memory format of the output and of the input's gradient."""
    return torch.channels_last if is_channels_last(input.shape, input.stride()) else torch.contiguous_format
