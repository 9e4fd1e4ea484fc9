"""The code of a user's coordinate map and its vector-Jacobian product: for the kernels in Triton, and in PyTorch.

Both are written from the same expressions, once, so that both compute what the function was when it was traced.
"""

from __future__ import annotations

import functools
import hashlib
import linecache
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tstn._expressions import FUNCTIONS, PYTORCH, TAME, TRITON, Expression, Expressions, needed, statements
from tstn._lowering import Elements, lowered
from tstn._surroundings import is_traced, is_transformed
from tstn._tracing import MapFunction, traced
from tstn.transforms import HUGE


class Sources(NamedTuple):
    """What is written for a map."""

    # With KEY for the map's key.
    triton: str
    pytorch: str
    # Whether finite coordinates suffice for a finite VJP: it depends on x, y and their gradients alone, by functions
    # that never go to infinity.
    tame: bool


def generated(fn: MapFunction, theta_shape: tuple[int, ...]) -> Sources:
    """The code of ``fn(theta, x, y)``."""
    map_graph, vjp_graph = traced(fn, theta_shape)
    expressions = Expressions()
    theta = Elements([expressions.number(i) for i in range(math.prod(theta_shape))], theta_shape)
    x, y, *grads = (Elements([expressions.surrounding(name)], ()) for name in ("x", "y", "grad_x", "grad_y"))
    results = [result.items[0] for result in lowered(map_graph, (theta, x, y), expressions)]
    (gradient,) = lowered(vjp_graph, (theta, x, y, *grads), expressions)
    tame = all(
        expression.operation in TAME and (expression.value is None or abs(expression.value) < math.inf)
        for expression in needed(gradient.items)
    )
    return Sources(_in_triton(results, gradient.items), _in_pytorch(results, gradient.items), tame)


def _in_triton(results: Sequence[Expression], gradients: Sequence[Expression]) -> str:
    names = {"x": "x_norm", "y": "y_norm", "grad_x": "grad_x_norm", "grad_y": "grad_y_norm"}
    map_body, called = statements(results, names, TRITON)
    for result, name, extent in zip(results, "xy", (4, 5), strict=True):
        shape = "" if result.per_pixel else " + tl.zeros(x.shape, x.dtype)"
        map_body.append(f"{name}_source = {called[result]} * frame[{extent}]{shape}")
    map_body.append("return x_source, y_source")
    lines, called = statements(gradients, names, TRITON)
    vjp_body = [
        # What a pixel adds that has no gradient may be 0 * inf.
        "live = (grad_x != 0) | (grad_y != 0)",
        "grad_x_norm = grad_x * frame[4]",
        "grad_y_norm = grad_y * frame[5]",
        *lines,
        *(f"of_{i} = tl.where(live, {called[g]}, 0.0)" for i, g in enumerate(gradients)),
        f"return ({''.join(f'of_{i}, ' for i in range(len(gradients)))})",
    ]
    return _TRITON.format(map_body="\n    ".join(map_body), vjp_body="\n    ".join(vjp_body))


def _in_pytorch(results: Sequence[Expression], gradients: Sequence[Expression]) -> str:
    names = {name: name for name in ("x", "y", "grad_x", "grad_y")}
    map_body, called = statements(results, names, PYTORCH)
    map_body.append(f"return {', '.join(called[result] for result in results)}")
    lines, called = statements(gradients, names, PYTORCH)
    # A zero that is one anyway is left as it is: a second derivative goes through it.
    values = "".join(f"torch.where(live | ({called[g]} == {called[g]}), {called[g]}, 0.0), " for g in gradients)
    vjp_body = ["live = (grad_x != 0) | (grad_y != 0)", *lines, f"return ({values})"]
    return _PYTORCH.format(map_body="\n    ".join(map_body), vjp_body="\n    ".join(vjp_body))


_TRITON = '''\
@triton.jit
def custom_map_KEY(theta, constants, x, y, frame, SAMPLES: tl.constexpr):
    """A map that was generated from a function of theta, x and y."""
    x_norm = x * frame[6]
    y_norm = y * frame[7]
    {map_body}


@triton.jit
def custom_map_vjp_KEY(theta, x, y, grad_x, grad_y, frame):
    """Its vector-Jacobian product."""
    x_norm = x * frame[6]
    y_norm = y * frame[7]
    {vjp_body}
'''

_PYTORCH = """\
def custom_map(theta, x, y):
    {map_body}


def custom_map_vjp(theta, x, y, grad_x, grad_y):
    {vjp_body}
"""


class Code:
    """A map's code, shared by all transforms that are the same map; it is forgotten with the last of them.

    Attributes:
        sources: What was written.
        key: The same in every process, and different for different maps.
        functions: The map and its VJP, of theta's numbers and the target's coordinates, element by element in PyTorch.
    """

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.key = f"custom_{hashlib.sha256(sources.triton.encode()).hexdigest()[:16]}"
        namespace: dict[str, Any] = {"torch": torch}
        self._run(sources.pytorch, "pytorch", namespace)
        self.functions = namespace["custom_map"], namespace["custom_map_vjp"]

    @functools.cached_property
    def kernel_maps(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The map and its VJP as device functions."""
        import triton
        import triton.language as tl
        from tstn_kernels import functions, maps

        from tstn import _plan

        # Plans hold what is made here.
        weakref.finalize(self, _plan.forget, self.key)
        namespace: dict[str, Any] = {name: getattr(functions, name) for name in FUNCTIONS}
        namespace |= {"triton": triton, "tl": tl, "theta_number": maps.theta_number}
        self._run(self.sources.triton.replace("KEY", self.key), "triton", namespace)
        return namespace[f"custom_map_{self.key}"], namespace[f"custom_map_vjp_{self.key}"]

    def _run(self, source: str, language: str, namespace: dict[str, Any]) -> None:
        name = f"<tstn {self.key} {language}>"
        # A module that the compiler finds where it looks for what a function reads.
        namespace["__name__"] = __name__
        # Triton reads a function's source by its file's name.
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        weakref.finalize(self, linecache.cache.pop, name, None)
        exec(compile(source, name, "exec"), namespace)

    def coordinates(self, numbers: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised source coordinates, (M, H_out, W_out) each, of numbers (M, P), x (W_out,) and y (H_out, 1)."""
        shape = (numbers.shape[0], y.shape[0], x.shape[0])
        x, y = x.expand(shape), y.expand(shape)
        theta = [number[:, None, None].expand(shape) for number in numbers.unbind(1)]
        if self.sources.tame:
            return self._at(theta, x, y)
        # A pixel that looks too far away has gradient zero, but on its way through the map that may become
        # 0 * inf = NaN, and theta is shared by all pixels. So such pixels, which a first call finds, get a theta that
        # stops there.
        with torch.no_grad():
            u, v = self.map([number.detach() for number in theta], x, y)
        seen = (u.abs() < HUGE) & (v.abs() < HUGE)
        u, v = self._at([torch.where(seen, number, number.detach()) for number in theta], x, y)
        return torch.where(seen, u, u.detach()), torch.where(seen, v, v.detach())

    def _at(self, theta: list[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.compiler.is_compiling():
            return self.map(theta, x, y) if is_traced() else _MapWithTangents.apply(self, x, y, *theta)
        # The compiler follows neither a Function with tangents of its own nor one under torch.func.
        if is_transformed() or not torch.is_grad_enabled() or not theta[0].requires_grad:
            return self.map(theta, x, y)
        return _Map.apply(self, x, y, *theta)

    def map(self, theta: Sequence[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The source coordinates of the targets x and y by theta's numbers, all of one shape."""
        u, v = self.functions[0](theta, x, y)
        return u.expand(x.shape), v.expand(x.shape)

    def vjp(self, theta: Sequence[Tensor], x: Tensor, y: Tensor, grad_x: Tensor, grad_y: Tensor) -> tuple[Tensor, ...]:
        """The gradients of theta's numbers, pixel by pixel."""
        return tuple(grad.expand(x.shape) for grad in self.functions[1](theta, x, y, grad_x, grad_y))


class _Map(torch.autograd.Function):
    """The map with its VJP, which is the function's own also where PyTorch's rules for its parts would differ."""

    generate_vmap_rule = True

    @staticmethod
    def forward(code: Code, x: Tensor, y: Tensor, *theta: Tensor) -> tuple[Tensor, Tensor]:
        u, v = code.map(theta, x, y)
        # Not the operands themselves, nor one tensor twice.
        return u.clone(), v.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.code, *operands = inputs
        ctx.save_for_backward(*operands)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *theta = ctx.saved_tensors
        return (None, None, None, *ctx.code.vjp(theta, x, y, *grad_outputs))


class _MapWithTangents(_Map):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _Map.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        x, y, *theta = ctx.saved_tensors
        one, zero = torch.ones_like(x), torch.zeros_like(x)
        slopes = (ctx.code.vjp(theta, x, y, one, zero), ctx.code.vjp(theta, x, y, zero, one))
        u, v = (
            sum((s * t for s, t in zip(slope, tangents[3:], strict=True) if t is not None), start=zero)
            for slope in slopes
        )
        return u, v


_codes: weakref.WeakValueDictionary[str, Code] = weakref.WeakValueDictionary()


def code_of(sources: Sources) -> Code:
    """The code written so."""
    code = Code(sources)
    return _codes.setdefault(code.key, code)


def kernel_maps(key: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The device functions, map and VJP, of the custom transform whose ``kernel`` is ``key``.

    Raises:
        LookupError: If there is no such transform in this process.
    """
    code = _codes.get(key)
    if code is None:
        raise LookupError(
            f"no CustomTransform with the key {key!r} exists in this process; construct the transform (import the"
            " module that does) before running a program that was compiled or exported with it"
        )
    return code.kernel_maps
