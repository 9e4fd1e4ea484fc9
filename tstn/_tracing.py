"""A user's coordinate function and its vector-Jacobian product, as graphs of ATen operations on scalars."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

MapFunction = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

# Moving elements about is left whole: element by element it costs nothing.
WHOLE = {
    "detach",
    "diag_embed",
    "diagonal_backward",
    "roll",
    "select_backward",
    "select_scatter",
    "slice_backward",
    "split",
    "stack",
    "t",
    "transpose",
    "tril",
    "triu",
    "unbind",
}


def traced(fn: MapFunction, theta_shape: tuple[int, ...]) -> tuple[GraphModule, GraphModule]:
    """Graphs of ``fn(theta, x, y)`` and of its VJP ``(theta, x, y, grad_x, grad_y) -> grad_theta``, in float64.

    Raises:
        TypeError: If ``fn`` does not return two floating tensors.
        ValueError: If their shape is not (), or if ``fn`` cannot be traced.
    """
    # In double precision, so that constants which follow theta's dtype have all their digits.
    theta = torch.full(theta_shape, 0.5, dtype=torch.float64)
    x, y, grad_x, grad_y = torch.full((4,), 0.5, dtype=torch.float64).unbind()
    _try(fn, theta.clone(), x.clone(), y.clone())

    def backward(theta: Tensor, x: Tensor, y: Tensor, grad_x: Tensor, grad_y: Tensor) -> Tensor:
        outputs, pullback = torch.func.vjp(lambda theta: tuple(fn(theta, x, y)), theta)[:2]
        return pullback(tuple(g.to(u.dtype) for g, u in zip((grad_x, grad_y), outputs, strict=True)))[0]

    forward_graph = _graph(lambda *inputs: tuple(fn(*inputs)), theta, x, y)
    for node in forward_graph.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            _require_function(node.target)
    return forward_graph, _graph(torch.func.functionalize(backward), theta, x, y, grad_x, grad_y)


def _try(fn: MapFunction, theta: Tensor, x: Tensor, y: Tensor) -> None:
    """Call ``fn`` once and check what it returns; its own errors are shown as they are."""
    results: object = fn(theta, x, y)
    for name, argument in (("theta", theta), ("x", x), ("y", y)):
        if argument._version:
            raise ValueError(f"fn must leave its arguments as they are; it changes {name} in place")
    if not isinstance(results, (tuple, list)):
        raise TypeError(f"fn must return a pair of tensors (x, y); got {type(results).__name__}")
    if len(results) != 2:
        raise ValueError(f"fn must return a pair of tensors (x, y); got {len(results)} results")
    for name, result in zip("xy", results, strict=True):
        if not isinstance(result, Tensor):
            raise TypeError(f"fn must return a pair of tensors (x, y); got {type(result).__name__} for {name}")
        if not result.is_floating_point():
            raise TypeError(f"fn must return real, floating tensors; got {result.dtype} for {name}")
        if result.dim():
            raise ValueError(f"fn must return tensors of shape (); got {tuple(result.shape)} for {name}")


def _graph(function: Callable[..., Any], *inputs: Tensor) -> GraphModule:
    try:
        graph = make_fx(function, decomposition_table=_decompositions())(*inputs)
    except RuntimeError as error:
        if "_local_scalar_dense" in str(error) or "data-dependent" in str(error):
            raise ValueError(
                "fn must not look at the values of theta, x or y: write `torch.where(condition, a, b)` instead of a"
                " Python `if`, `and`, `or` or `not`, and use tensor operations instead of float() and .item()"
            ) from error
        raise ValueError(f"fn cannot be traced: {error}") from error
    graph.graph.eliminate_dead_code()
    return graph


def _require_function(op: torch._ops.OpOverload) -> None:
    if op._schema.is_mutable:
        raise ValueError(f"fn must not change tensors in place (write `a = a + b`, not `a += b`); it uses {op}")
    if torch.Tag.nondeterministic_seeded in op.tags:
        raise ValueError(f"fn must be deterministic; it uses {op}")


@cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    aten = torch.ops.aten
    table: dict[Any, Callable[..., Any]] = {**core_aten_decompositions()}
    table |= get_decompositions([aten.gelu, aten.hardtanh, aten._softmax, aten._log_softmax])
    return {op: rule for op, rule in table.items() if str(op).split(".")[1] not in WHOLE}
