"""Where the transformers of a network look."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tstn.module import SpatialTransformer
from tstn.transforms import Transform


class Look(NamedTuple):
    """What one transformer did with a batch.

    Attributes:
        name: Of the transformer in the network.
        transform: Its family.
        theta: (N, K, *theta_shape), K its heads.
        input: (N, C, H, W).
        output: (N, K, C, H_out, W_out).
        padding_mode: What it sees outside of the input.
        align_corners: What -1 and 1 mean.
    """

    name: str
    transform: Transform
    theta: Tensor
    input: Tensor
    output: Tensor
    padding_mode: str
    align_corners: bool


@torch.no_grad()
def look(model: nn.Module, use: Callable[[], object]) -> list[Look]:
    """Watch the :class:`~tstn.SpatialTransformer` layers of a network, in their order, while it is used.

    Args:
        model: The network.
        use: Sends one batch through it.
    """
    parameters: dict[str, Tensor] = {}
    looks: list[Look] = []

    def predicted(name: str, module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        parameters[name] = output.float()

    def warped(
        name: str, module: SpatialTransformer, arguments: tuple[Tensor], output: Tensor | tuple[Tensor, Tensor]
    ) -> None:
        y = output[0] if isinstance(output, tuple) else output
        heads = parameters[name].unflatten(1, (module.num_heads, -1))
        y = y if module.num_heads > 1 else y[:, None]
        theta = module.transform.theta(heads)
        looks.append(Look(name, module.transform, theta, arguments[0], y, module.padding_mode, module.align_corners))

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, SpatialTransformer):
            handles.append(module.localization.register_forward_hook(partial(predicted, name)))
            handles.append(module.register_forward_hook(partial(warped, name)))
    try:
        use()
    finally:
        for handle in handles:
            handle.remove()
    return looks
