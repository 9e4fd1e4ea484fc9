"""Gradients that are themselves differentiable."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients(
    function: Callable[..., Tensor], operands: Sequence[Tensor | None], needed: Sequence[bool], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of ``function(*operands)`` for an output gradient ``grad``, None where they are not needed.

    Differentiable with respect to the operands and ``grad`` if grad mode is on, as it is in a backward pass with
    ``create_graph=True``. Each is the partial derivative, as a backward pass has to return it: operands may depend on
    each other, theta on the input for one, and what goes that way is PyTorch's to add.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        if create_graph:
            # A view of each, from which no path leads to another's.
            separate = [None if t is None else t.view_as(t) for t in operands]
        else:
            separate = [
                None if t is None else t.detach().requires_grad_(need) for t, need in zip(operands, needed, strict=True)
            ]
        out = function(*separate)
        wanted = [t for t, need in zip(separate, needed, strict=True) if need and t is not None]
        found = iter(torch.autograd.grad(out, wanted, grad, create_graph=create_graph))
    return tuple(next(found) if need else None for need in needed)
