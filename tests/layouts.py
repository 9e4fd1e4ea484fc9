"""The same values in memory of other strides: whatever a caller's views, or hooks, may hand over."""

from __future__ import annotations

import torch
from torch import Tensor

# The last two have a stride of 0 along every axis on which the values repeat; who wants one makes them repeat.
LAYOUTS = (
    *("contiguous", "channels_last", "permuted", "reversed", "strided", "column", "shifted", "negated", "odd"),
    *("expanded", "repeated"),
)


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """A view, of new memory unless the layout is "contiguous", with the values of ``tensor``; not differentiable.

    "channels_last" and "permuted" are those of an image (..., C, H, W) and, as a convolution predicts it, of a field
    (..., H, W, 2); of a tensor with fewer axes they permute these.
    """
    tensor = tensor.detach()
    axes = list(range(tensor.dim()))
    third = max(tensor.dim() - 3, 0)
    if layout == "contiguous" or not axes:
        return tensor.contiguous()
    if layout == "channels_last":
        axes.append(axes.pop(third))
    elif layout == "permuted":
        axes.insert(third, axes.pop())
    elif layout == "reversed":
        axes.reverse()
    elif layout in ("expanded", "repeated"):
        return _once(tensor).expand_as(tensor)
    elif layout == "negated" and tensor.is_floating_point():
        return torch._neg_view(-tensor)  # pyright: ignore[reportPrivateImportUsage]
    elif layout != "negated":
        return _LIKE[layout](tensor).copy_(tensor)
    memory = tensor.new_empty([tensor.shape[axis] for axis in axes])
    return memory.permute([axes.index(axis) for axis in range(tensor.dim())]).copy_(tensor)


def repeated(tensor: Tensor, layout: str, lead: int = 1) -> Tensor:
    """``tensor``, its values made the same for "expanded" along the first ``lead`` axes, for "repeated" along any."""
    if layout not in ("expanded", "repeated"):
        return tensor
    for axis in range(lead) if layout == "expanded" else range(tensor.dim()):
        if layout == "repeated" and torch.rand(()) < 0.6:
            continue
        tensor = tensor.narrow(axis, 0, min(1, tensor.shape[axis])).expand_as(tensor)
    return tensor


def _once(tensor: Tensor) -> Tensor:
    """The first values along every axis on which they repeat."""
    for axis in range(tensor.dim()):
        first = tensor.narrow(axis, 0, min(1, tensor.shape[axis]))
        if bool((first == tensor).all()):
            tensor = first
    return tensor


def _wide(tensor: Tensor, shape: list[int]) -> Tensor:
    """Memory full of what may not be read: NaN, or an index that is none."""
    return tensor.new_full(shape, float("nan") if tensor.is_floating_point() else -1)


def _strided(tensor: Tensor) -> Tensor:
    """Every second of the last axis, in a margin on every other one but the first."""
    last = tensor.dim() - 1
    wide = _wide(tensor, [2 * n + 1 if d == last else n + 2 * (d > 0) for d, n in enumerate(tensor.shape)])
    return wide[tuple(slice(1, None, 2) if d == last else slice(1, -1) if d else slice(None) for d in range(last + 1))]


def _column(tensor: Tensor) -> Tensor:
    return _wide(tensor, [*tensor.shape, 3])[..., 1]


def _shifted(tensor: Tensor) -> Tensor:
    """One element past where memory is aligned."""
    return _wide(tensor, [tensor.numel() + 1])[1:].view(tensor.shape)


def _odd(tensor: Tensor) -> Tensor:
    """Axes of size 1 with strides that mean nothing."""
    dense = tensor.new_empty(tensor.shape)
    meaningless = (0, 12_347, 7)
    strides = [
        s if n > 1 else meaningless[d % 3] for d, (n, s) in enumerate(zip(dense.shape, dense.stride(), strict=True))
    ]
    return dense.as_strided(dense.shape, strides)


_LIKE = {"strided": _strided, "column": _column, "shifted": _shifted, "odd": _odd}
