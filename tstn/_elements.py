"""Tensors whose elements are expressions: what is done to them element by element, along axes, and to their places."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from tstn._expressions import Expression, Expressions

# Operations on elements' places. On the places' numbers they say where each element goes; 0 is "nothing", which
# the backward operations among them fill up with.
MOVES = {
    "_reshape_alias",
    "_unsafe_view",
    "alias",
    "cat",
    "clone",
    "conj_physical",
    "detach",
    "diag_embed",
    "diagonal",
    "diagonal_backward",
    "diagonal_scatter",
    "expand",
    "flip",
    "gather",
    "index",
    "index_select",
    "lift_fresh_copy",
    "permute",
    "repeat",
    "reshape",
    "roll",
    "select",
    "select_backward",
    "select_scatter",
    "slice",
    "slice_backward",
    "slice_scatter",
    "split",
    "split_with_sizes",
    "squeeze",
    "stack",
    "t",
    "transpose",
    "tril",
    "triu",
    "unbind",
    "unsqueeze",
    "view",
}
INDEXED = {"gather", "index", "index_select"}

Build = Callable[..., Expression]


@dataclass(frozen=True, eq=False)
class Elements:
    """A tensor of expressions, in row-major order."""

    items: list[Expression]
    shape: tuple[int, ...]

    def taken(self, places: Tensor) -> Elements:
        """The elements at ``places``, in their shape."""
        return Elements([self.items[i] for i in places.flatten().tolist()], tuple(places.shape))

    def places(self, start: int = 0) -> Tensor:
        """The elements' numbers, counted from ``start``, in their shape."""
        return torch.arange(start, start + len(self.items), device="cpu").reshape(self.shape)


class Algebra:
    """Operations on :class:`Elements`, known tensors and Python numbers.

    Attributes:
        expressions: Where the elements come from.
    """

    def __init__(self, expressions: Expressions) -> None:
        self.expressions = expressions

    def constant(self, value: float | bool) -> Expression:
        """A constant expression."""
        return self.expressions.constant(value)

    def array(self, value: Any) -> Elements:
        """A tensor, a Python number or an array as an array of expressions."""
        if isinstance(value, Elements):
            return value
        elements, shape = [value], ()
        if isinstance(value, Tensor):
            elements, shape = value.flatten().tolist(), tuple(value.shape)
        if any(isinstance(element, complex) for element in elements):
            raise ValueError("fn must not use complex numbers; write out their real and imaginary parts")
        return Elements([self.constant(element) for element in elements], shape)

    def mapped(self, build: Build, args: tuple[Any, ...], as_kind: Callable[[Expression], Expression]) -> Elements:
        """``build`` of the elements of ``args``, broadcast and each brought to its kind; None stays None."""
        arrays = [self.array(arg) for arg in args if arg is not None]
        shape = torch.broadcast_shapes(*(array.shape for array in arrays))
        spread = iter([map(as_kind, array.taken(array.places().expand(shape)).items) for array in arrays])
        columns = [itertools.repeat(None, math.prod(shape)) if arg is None else next(spread) for arg in args]
        return Elements([build(*row) for row in zip(*columns, strict=True)], tuple(shape))

    def moved(
        self,
        operation: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        keep_indices: bool = False,
    ) -> Any:
        """The elements, where ``operation`` puts them."""
        elements = [self.expressions.nothing]

        def places(value: Any) -> Any:
            if isinstance(value, Tensor) and keep_indices:
                return value
            if not isinstance(value, (Elements, Tensor)):
                return value
            array = self.array(value)
            elements.extend(array.items)
            return array.places(len(elements) - len(array.items))

        def back(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            moved = Elements(elements, (len(elements),)).taken(value)
            if all(element.is_bool for element in moved.items):
                return moved
            return Elements([self.expressions.as_float(element) for element in moved.items], moved.shape)

        return tree_map(back, operation(*tree_map(places, args), **tree_map(places, kwargs or {})))

    def reduced(self, operation: str, array: Elements, dims: Any = None, keepdim: bool = False) -> Elements:
        """The elements along some axes, or all, combined by an operation of two."""
        places = array.places()
        axes = [dims] if isinstance(dims, int) else list(dims or range(places.dim()))
        axes = [axis % places.dim() for axis in axes] if places.dim() else []
        kept = [axis for axis in range(places.dim()) if axis not in axes]
        rows = places.permute(*kept, *axes).flatten(len(kept)) if axes else places[..., None]
        combine = functools.partial(self.expressions.apply, operation)
        as_float = self.expressions.as_float
        items = [
            functools.reduce(combine, map(as_float, array.taken(row).items)) for row in rows.reshape(-1, rows.shape[-1])
        ]
        shape = [1 if axis in axes else size for axis, size in enumerate(array.shape)]
        return Elements(items, tuple(shape if keepdim else (array.shape[axis] for axis in kept)))

    def accumulated(self, operation: str, array: Elements, dim: int) -> Elements:
        """The running combinations along an axis."""
        places = torch.atleast_1d(array.places())
        items = [self.expressions.as_float(item) for item in array.items]
        for before, at in itertools.pairwise(places.movedim(dim, 0)):
            for i, j in zip(before.flatten().tolist(), at.flatten().tolist(), strict=True):
                items[j] = self.expressions.apply(operation, items[i], items[j])
        return Elements(items, array.shape)
