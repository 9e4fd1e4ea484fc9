"""From graphs of ATen operations to scalar expressions: tensors become arrays of expressions, element by element.

What only moves elements about (indexing, reshaping, stacking, and the backward of these) vanishes; what concerns
constants only is computed; the rest becomes arithmetic on scalars.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_flatten

from tstn._elements import INDEXED, MOVES, Algebra, Build, Elements
from tstn._expressions import COMPARISONS, LOGIC, Expression, Expressions

SUPPORTED = (
    "supported are elementwise arithmetic, powers, roots, exponentials, logarithms, trigonometric and hyperbolic"
    " functions, erf, hypot, comparisons, torch.where, clamp, minimum and maximum, rounding, and on theta besides"
    " indexing, reshaping, stacking, sums and matrix products"
)

MAX_CONSTANTS = 256

UNARY = {
    "abs": "abs",
    "acos": "arccosine",
    "acosh": "hyperbolic_arccosine",
    "asin": "arcsine",
    "asinh": "hyperbolic_arcsine",
    "atan": "arctangent",
    "atanh": "hyperbolic_arctangent",
    "ceil": "integer_above",
    "cos": "cosine",
    "cosh": "hyperbolic_cosine",
    "erf": "error_function",
    "erfc": "error_function_complement",
    "exp": "exponential",
    "exp2": "exponential_of_two",
    "expm1": "exponential_minus_one",
    "floor": "integer_below",
    "log": "logarithm",
    "log10": "logarithm_to_ten",
    "log1p": "logarithm_plus_one",
    "log2": "logarithm_to_two",
    "neg": "neg",
    "round": "nearest_integer",
    "rsqrt": "reciprocal_square_root",
    "sigmoid": "logistic",
    "sign": "signum",
    "sin": "sine",
    "sinh": "hyperbolic_sine",
    "sqrt": "square_root",
    "tan": "tangent",
    "tanh": "hyperbolic_tangent",
    "trunc": "integer_part",
}
BINARY = {
    "atan2": "direction",
    "fmod": "signed_remainder",
    "hypot": "hypotenuse",
    "maximum": "larger",
    "minimum": "smaller",
    "mul": "mul",
    "remainder": "periodic_remainder",
}


def lowered(graph: GraphModule, inputs: Iterable[Elements], expressions: Expressions) -> list[Elements]:
    """The expressions of a graph's results, given those of its inputs.

    Raises:
        ValueError: If an operation is not supported.
    """
    lowering = _Lowering(expressions)
    values: dict[Node, Any] = {}
    remaining = iter(inputs)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(remaining)
        elif node.op == "get_attr":
            values[node] = _captured(graph, str(node.target))
        elif node.op == "output":
            results, _ = tree_flatten(node.args[0])
            return [lowering.array(values[result]) for result in results]
        elif isinstance(node.target, torch._ops.OpOverload):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: values[n])
            values[node] = lowering.result(node.target, args, kwargs)
        else:
            args = torch.fx.map_arg(node.args, lambda n: values[n])
            values[node] = node.target(*args)  # getitem of an operation with several results
    raise AssertionError("a graph ends in its output")


def _captured(graph: GraphModule, name: str) -> Tensor:
    tensor: Any = functools.reduce(getattr, name.split("."), graph)
    if tensor.requires_grad:
        raise ValueError("fn must not read tensors that require gradients; pass them to it as part of theta")
    if tensor.numel() > MAX_CONSTANTS:
        raise ValueError(
            f"fn may read tensors of at most {MAX_CONSTANTS} elements, which become constants;"
            f" got one of shape {tuple(tensor.shape)}"
        )
    return tensor.detach().cpu()


class _Lowering(Algebra):
    """Rules for single operations. Values are arrays of expressions, or tensors that are known already."""

    def __init__(self, expressions: Expressions) -> None:
        super().__init__(expressions)
        make = expressions.apply
        self._rules: dict[str, Callable[..., Any]] = {
            **{name: self._elementwise(functools.partial(make, op)) for name, op in UNARY.items()},
            **{name: self._elementwise(functools.partial(make, op)) for name, op in BINARY.items()},
            **{name: self._elementwise(functools.partial(make, name)) for name in COMPARISONS},
            **{f"logical_{name}": self._logic(name) for name in (*LOGIC, "not")},
            **{f"bitwise_{name}": self._logic(name) for name in (*LOGIC, "not")},
            "_to_copy": self._cast,
            "add": self._sum_or_difference("add"),
            "addmm": self._addmm,
            "amax": functools.partial(self.reduced, "larger"),
            "amin": functools.partial(self.reduced, "smaller"),
            "bmm": self._products,
            "clamp": self._elementwise(self._clamped),
            "clamp_max": self._elementwise(functools.partial(make, "smaller")),
            "clamp_min": self._elementwise(functools.partial(make, "larger")),
            "cumprod": lambda array, dim, **_: self.accumulated("mul", array, dim),
            "cumsum": lambda array, dim, **_: self.accumulated("add", array, dim),
            "div": self._quotient,
            "elu": self._elementwise(self._elu),
            "fmax": self._elementwise(functools.partial(self._preferred, "ge")),
            "fmin": self._elementwise(functools.partial(self._preferred, "le")),
            "full_like": lambda like, value, **_: torch.full(like.shape, value, dtype=torch.float64),
            "index_put": self._index_put,
            "isinf": self._elementwise(lambda a: make("eq", make("abs", a), self.constant(float("inf")))),
            "isnan": self._elementwise(lambda a: make("ne", a, a)),
            "leaky_relu": self._elementwise(lambda a, slope=0.01: self._bent(a, self._number(slope))),
            "linalg_vector_norm": self._norm,
            "max": lambda array: self.reduced("larger", array),
            "min": lambda array: self.reduced("smaller", array),
            "mean": lambda array, dims=None, keepdim=False, **_: self._mean(array, dims, keepdim),
            "mm": self._products,
            "pow": self._elementwise(self._power),
            "prod": lambda array, dim=None, keepdim=False, **_: self.reduced("mul", array, dim, keepdim),
            "reciprocal": self._elementwise(lambda a: make("quotient", self.constant(1.0), a)),
            "relu": self._elementwise(lambda a: make("larger", a, self.constant(0.0))),
            "rsub": lambda a, b, alpha=1: self._sum_or_difference("sub")(b, a, alpha=alpha),
            "sub": self._sum_or_difference("sub"),
            "sum": lambda array, dims=None, keepdim=False, **_: self.reduced("add", array, dims, keepdim),
            "where": self._where,
        }

    def result(self, target: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an operation gives."""
        if not any(isinstance(leaf, Elements) for leaf in tree_flatten((args, kwargs))[0]):
            return target(*args, **kwargs)
        name = target._schema.name.partition("::")[2]
        if name in MOVES:
            return self.moved(target, args, kwargs, keep_indices=name in INDEXED)
        try:
            if target.namespace != "aten":
                raise KeyError(name)
            return self._rules[name](*args, **kwargs)
        except (KeyError, TypeError) as error:
            message = f"fn uses {target}, itself or in its derivative, which is not supported; {SUPPORTED}"
            raise ValueError(message) from error

    def _number(self, value: float | bool | Expression) -> Expression:
        return value if isinstance(value, Expression) else self.constant(value)

    def _elementwise(self, build: Build) -> Callable[..., Elements]:
        """A rule that applies ``build`` to numbers, element by element; None stays None."""
        as_float = self.expressions.as_float

        def rule(*args: Any, **kwargs: Any) -> Elements:
            names = list(kwargs)
            return self.mapped(
                lambda *elements: build(*elements[: len(args)], **dict(zip(names, elements[len(args) :], strict=True))),
                (*args, *kwargs.values()),
                as_float,
            )

        return rule

    def _logic(self, operation: str) -> Callable[..., Elements]:
        build = functools.partial(self.expressions.apply, operation)
        return lambda *args: self.mapped(build, args, self.expressions.as_bool)

    def _cast(self, array: Elements, dtype: torch.dtype | None = None, **_: Any) -> Elements:
        if dtype is None or dtype == torch.float64:
            return self.mapped(lambda a: a, (array,), self.expressions.as_float) if dtype else array
        if dtype == torch.bool:
            return self.mapped(lambda a: a, (array,), self.expressions.as_bool)
        if dtype.is_floating_point and all(element.is_bool for element in array.items):
            return self.mapped(lambda a: a, (array,), self.expressions.as_float)
        raise ValueError(
            f"fn must compute in theta's dtype; it converts to {dtype}"
            " (for whole numbers there are torch.floor, torch.round and torch.trunc)"
        )

    def _sum_or_difference(self, operation: str) -> Callable[..., Elements]:
        make = self.expressions.apply
        return lambda a, b, alpha=1: self.mapped(
            lambda a, b, alpha: make(operation, a, make("mul", alpha, b)), (a, b, alpha), self.expressions.as_float
        )

    def _quotient(self, a: Any, b: Any, rounding_mode: str | None = None) -> Elements:
        make = self.expressions.apply

        def divided(a: Expression, b: Expression) -> Expression:
            if rounding_mode == "floor":
                # As PyTorch has it, through the remainder, which keeps whole results whole.
                whole = make("quotient", make("sub", a, make("periodic_remainder", a, b)), b)
                return make("nearest_integer", whole)
            quotient = make("quotient", a, b)
            return make("integer_part", quotient) if rounding_mode == "trunc" else quotient

        return self.mapped(divided, (a, b), self.expressions.as_float)

    def _clamped(self, a: Expression, min: Expression | None = None, max: Expression | None = None) -> Expression:
        a = a if min is None else self.expressions.apply("larger", a, min)
        return a if max is None else self.expressions.apply("smaller", a, max)

    def _preferred(self, comparison: str, a: Expression, b: Expression) -> Expression:
        """The larger or smaller of two, a number if either is one."""
        make = self.expressions.apply
        return make("where", make("or", make(comparison, a, b), make("ne", b, b)), a, b)

    def _bent(self, a: Expression, slope: Expression) -> Expression:
        make = self.expressions.apply
        return make("where", make("gt", a, self.constant(0.0)), a, make("mul", a, slope))

    def _elu(self, a: Expression, alpha: Any = 1.0, scale: Any = 1.0, input_scale: Any = 1.0) -> Expression:
        make = self.expressions.apply
        alpha, scale, input_scale = map(self._number, (alpha, scale, input_scale))
        below = make("mul", make("exponential_minus_one", make("mul", a, input_scale)), make("mul", alpha, scale))
        return make("where", make("gt", a, self.constant(0.0)), make("mul", a, scale), below)

    def _power(self, a: Expression, b: Expression) -> Expression:
        """a ** b, by the same shorter ways that PyTorch takes."""
        make = self.expressions.apply
        exponent = b.value if b.operation == "constant" else None
        if exponent == 0:
            return self.constant(1.0)
        if exponent == 1:
            return a
        if exponent in (2, -2):
            square = make("mul", a, a)
            return square if exponent == 2 else make("quotient", self.constant(1.0), square)
        if exponent == 3:
            return make("mul", make("mul", a, a), a)
        if exponent == -1:
            return make("quotient", self.constant(1.0), a)
        if exponent in (0.5, -0.5):
            return make("square_root" if exponent > 0 else "reciprocal_square_root", a)
        return make("exponential_of_two", b) if a.is_constant(2.0) else make("power", a, b)

    def _where(self, condition: Any, a: Any, b: Any) -> Elements:
        expressions = self.expressions
        condition = self.mapped(lambda c: c, (condition,), expressions.as_bool)

        def chosen(c: Expression, a: Expression, b: Expression) -> Expression:
            if not (a.is_bool and b.is_bool):
                a, b = expressions.as_float(a), expressions.as_float(b)
            return expressions.apply("where", c, a, b)

        return self.mapped(chosen, (condition, a, b), lambda e: e)

    def _mean(self, array: Elements, dims: Any, keepdim: bool) -> Elements:
        total = self.reduced("add", array, dims, keepdim)
        return self._quotient(total, len(array.items) // len(total.items))

    def _norm(self, array: Elements, order: float = 2, dims: Any = None, keepdim: bool = False, **_: Any) -> Any:
        sizes = self._rules["abs"](array)
        if order in (1, float("inf")):
            return self.reduced("add" if order == 1 else "larger", sizes, dims, keepdim)
        powers = self._rules["pow"](sizes, order)
        return self._rules["pow"](self.reduced("add", powers, dims, keepdim), 1 / order)

    def _index_put(self, into: Any, indices: list[Any], values: Any, accumulate: bool = False) -> Elements:
        into, values = self.array(into), self.array(values)
        places = torch.ops.aten.index(into.places(), indices)
        values = values.taken(values.places().expand(places.shape))
        items = list(into.items)
        for place, value in zip(places.flatten().tolist(), values.items, strict=True):
            items[place] = self.expressions.apply("add", items[place], value) if accumulate else value
        return Elements(items, into.shape)

    def _products(self, a: Any, b: Any) -> Elements:
        """Matrix products (..., i, k) @ (..., k, j)."""
        a, b = self.array(a), self.array(b)
        left, right = a.places()[..., :, None, :], b.places().mT[..., None, :, :]
        terms = self._rules["mul"](a.taken(left), b.taken(right))
        return self.reduced("add", terms, [-1])

    def _addmm(self, into: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Elements:
        return self._sum_or_difference("add")(self._rules["mul"](into, beta), self._products(a, b), alpha=alpha)
