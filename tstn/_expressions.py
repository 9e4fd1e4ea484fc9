"""Scalar expressions, shared where they are equal, and the statements, in Triton or PyTorch, that compute them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

FUNCTIONS = (
    "arccosine",
    "arcsine",
    "arctangent",
    "cosine",
    "direction",
    "error_function",
    "error_function_complement",
    "exponential",
    "exponential_minus_one",
    "exponential_of_two",
    "hyperbolic_arccosine",
    "hyperbolic_arcsine",
    "hyperbolic_arctangent",
    "hyperbolic_cosine",
    "hyperbolic_sine",
    "hyperbolic_tangent",
    "hypotenuse",
    "integer_above",
    "integer_below",
    "integer_part",
    "larger",
    "logarithm",
    "logarithm_plus_one",
    "logarithm_to_ten",
    "logarithm_to_two",
    "logistic",
    "nearest_integer",
    "periodic_remainder",
    "power",
    "quotient",
    "reciprocal_square_root",
    "signed_remainder",
    "signum",
    "sine",
    "smaller",
    "square_root",
    "tangent",
)

COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
LOGIC = {"and": "&", "or": "|", "xor": "^"}
ARITHMETIC = {"add": "+", "sub": "-", "mul": "*"}

SYMBOLS = {name: f"{{}} {symbol} {{}}" for name, symbol in (ARITHMETIC | COMPARISONS | LOGIC).items()}


@dataclass(frozen=True)
class Language:
    """How expressions are written in a programming language.

    Attributes:
        operations: Templates of what is not a function call of the operation's own name.
        number: The template of a number of theta, from its index.
        truth: The template of a constant truth value.
        constant: The template of a constant number, from a literal.
    """

    operations: dict[str, str]
    number: str
    truth: str
    constant: str


TRITON = Language(
    operations={
        **SYMBOLS,
        "neg": "-{}",
        "not": "{} == 0",
        "abs": "tl.abs({})",
        "where": "tl.where({}, {}, {})",
        "float": "{}.to(x.dtype)",
        # The interpreter would spread a scalar truth value over the pixels in the dtype of what was compared.
        "uniform": "{}.to(tl.int32) != 0",
    },
    number="theta_number(theta, {}, x)",
    truth="tl.full((), {}, tl.int1)",
    # A bare literal would be rounded to float32 on its way into a float64 function.
    constant="tl.full((), {}, x.dtype)",
)
PYTORCH = Language(
    operations={
        **SYMBOLS,
        "neg": "-{}",
        "not": "torch.logical_not({})",
        "float": "{}.to(x.dtype)",
        "uniform": "{}",
        **{
            name: f"torch.{function}({', '.join(['{}'] * operands)})"
            for function, name, operands in (
                ("abs", "abs", 1),
                ("acos", "arccosine", 1),
                ("acosh", "hyperbolic_arccosine", 1),
                ("asin", "arcsine", 1),
                ("asinh", "hyperbolic_arcsine", 1),
                ("atan", "arctangent", 1),
                ("atan2", "direction", 2),
                ("atanh", "hyperbolic_arctangent", 1),
                ("ceil", "integer_above", 1),
                ("cos", "cosine", 1),
                ("cosh", "hyperbolic_cosine", 1),
                ("div", "quotient", 2),
                ("erf", "error_function", 1),
                ("erfc", "error_function_complement", 1),
                ("exp", "exponential", 1),
                ("exp2", "exponential_of_two", 1),
                ("expm1", "exponential_minus_one", 1),
                ("floor", "integer_below", 1),
                ("fmod", "signed_remainder", 2),
                ("hypot", "hypotenuse", 2),
                ("log", "logarithm", 1),
                ("log10", "logarithm_to_ten", 1),
                ("log1p", "logarithm_plus_one", 1),
                ("log2", "logarithm_to_two", 1),
                ("maximum", "larger", 2),
                ("minimum", "smaller", 2),
                ("pow", "power", 2),
                ("remainder", "periodic_remainder", 2),
                ("round", "nearest_integer", 1),
                ("rsqrt", "reciprocal_square_root", 1),
                ("sigmoid", "logistic", 1),
                ("sign", "signum", 1),
                ("sin", "sine", 1),
                ("sinh", "hyperbolic_sine", 1),
                ("sqrt", "square_root", 1),
                ("tan", "tangent", 1),
                ("tanh", "hyperbolic_tangent", 1),
                ("trunc", "integer_part", 1),
                ("where", "where", 3),
            )
        },
    },
    number="theta[{}]",
    truth="x.new_full((), {}, dtype=torch.bool)",
    constant="x.new_full((), {})",
)

# Finite for moderate numbers, and so are their derivatives.
TAME = {"constant", "x", "y", "grad_x", "grad_y", "neg", "not", "abs", "where", "float", "sine", "cosine", "signum"}
TAME |= {"larger", "smaller", *ARITHMETIC, *COMPARISONS, *LOGIC}


@dataclass(frozen=True, eq=False)
class Expression:
    """A number, or a truth value, per pixel or the same for all.

    Attributes:
        order: Expressions are numbered as they are made, so that operands come first.
        operation: ``"constant"``, ``"number"`` (of theta), a name of the surroundings, or what is done to the operands.
        operands: What it is done to.
        value: The value of a constant, the index of a number.
        is_bool: Whether it is a truth value.
        per_pixel: Whether it differs between pixels.
    """

    order: int
    operation: str
    operands: tuple[Expression, ...] = ()
    value: float | bool | int | None = None
    is_bool: bool = False
    per_pixel: bool = False

    def is_constant(self, value: float) -> bool:
        """Whether this is the constant ``value``."""
        return self.operation == "constant" and self.value == value


class Expressions:
    """Makes expressions: equal ones once, and simpler where the result is the same to the last bit.

    Attributes:
        nothing: The zero that stands for a path that does not exist, such as from one element of theta to a result
            that reads another. Unlike a computed zero it absorbs what it is multiplied by.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Expression] = {}
        self.nothing = self._make("constant", value=0.0, key="nothing")

    def constant(self, value: float | bool) -> Expression:
        """A constant of the kernel; floats are exact in float64."""
        if isinstance(value, bool):
            return self._make("constant", value=value, is_bool=True, key=value)
        return self._make("constant", value=float(value), key=float(value).hex())

    def number(self, index: int) -> Expression:
        """Number ``index`` of theta."""
        return self._make("number", value=index, key=index)

    def surrounding(self, name: str) -> Expression:
        """What the kernel has per pixel: ``x``, ``y``, ``grad_x``, ``grad_y``."""
        return self._make(name, per_pixel=True)

    def as_bool(self, a: Expression) -> Expression:
        """Whether ``a`` is not zero."""
        return a if a.is_bool else self.apply("ne", a, self.constant(0.0))

    def as_float(self, a: Expression) -> Expression:
        """A truth value as 0 or 1."""
        return self.apply("float", a) if a.is_bool else a

    def apply(self, operation: str, *operands: Expression) -> Expression:
        """``operation`` of ``operands``, which have the kind it takes."""
        simpler = self._simplified(operation, *operands)
        if simpler is not None:
            return simpler
        per_pixel = any(operand.per_pixel for operand in operands)
        if operation in LOGIC and per_pixel:
            operands = tuple(a if a.per_pixel else self.apply("uniform", a) for a in operands)
        is_bool = operation in COMPARISONS or operation in LOGIC or operation in ("not", "uniform")
        is_bool = is_bool or (operation == "where" and operands[1].is_bool)
        return self._make(operation, operands, is_bool=is_bool, per_pixel=per_pixel)

    def _make(
        self,
        operation: str,
        operands: tuple[Expression, ...] = (),
        value: float | bool | int | None = None,
        is_bool: bool = False,
        per_pixel: bool = False,
        key: object = None,
    ) -> Expression:
        place = (operation, tuple(operand.order for operand in operands), is_bool, key)
        if place not in self._made:
            self._made[place] = Expression(len(self._made), operation, operands, value, is_bool, per_pixel)
        return self._made[place]

    def _simplified(self, operation: str, *operands: Expression) -> Expression | None:
        nothing = self.nothing
        a, b = operands[0], operands[-1]
        if operation == "float":
            return self.constant(float(a.value)) if a.operation == "constant" and a.value is not None else None
        if operation == "where":
            if a.operation == "constant":
                return operands[1] if a.value else operands[2]
            return b if operands[1] is b else None
        if operation in ("and", "or"):
            for constant, other in ((a, b), (b, a)):
                if constant.operation == "constant":
                    return other if constant.value == (operation == "and") else constant
        if operation == "neg":
            return nothing if a is nothing else self._folded(operation, a)
        if operation == "mul":
            if nothing in operands:
                return nothing
            return b if a.is_constant(1.0) else a if b.is_constant(1.0) else self._folded(operation, a, b)
        if operation == "quotient":
            return nothing if a is nothing else a if b.is_constant(1.0) else self._folded(operation, a, b)
        if operation in ("add", "sub"):
            if b is nothing:
                return a
            if a is nothing:
                return b if operation == "add" else self.apply("neg", b)
            return self._folded(operation, a, b)
        return None

    def _folded(self, operation: str, *operands: Expression) -> Expression | None:
        """Arithmetic of constants."""
        if any(operand.operation != "constant" for operand in operands):
            return None
        a, b = (float(operand.value or 0.0) for operand in (operands[0], operands[-1]))
        if operation == "quotient":
            return self.constant(a / b) if b != 0 else None
        return self.constant({"neg": -a, "add": a + b, "sub": a - b, "mul": a * b}[operation])


def needed(results: Iterable[Expression]) -> list[Expression]:
    """The expressions that ``results`` are computed from, themselves included, operands first."""
    found: set[Expression] = set()
    waiting = list(results)
    while waiting:
        expression = waiting.pop()
        if expression not in found:
            found.add(expression)
            waiting.extend(expression.operands)
    return sorted(found, key=lambda expression: expression.order)


def statements(
    results: Iterable[Expression], names: dict[str, str], language: Language
) -> tuple[list[str], dict[Expression, str]]:
    """Lines of code that compute ``results``, and the name of every expression among them.

    Args:
        results: What to compute.
        names: What the surroundings are called in the code.
        language: How it is written.
    """
    lines: list[str] = []
    called: dict[Expression, str] = {}
    for expression in needed(results):
        operation, value = expression.operation, expression.value
        if operation in names:
            called[expression] = names[operation]
            continue
        if operation == "number":
            name, code = f"theta_{value}", language.number.format(value)
        elif operation == "constant" and expression.is_bool:
            name, code = f"constant_{len(called)}", language.truth.format(value)
        elif operation == "constant":
            name, code = f"constant_{len(called)}", language.constant.format(literal(float(value or 0.0)))
        else:
            operands = [called[operand] for operand in expression.operands]
            template = language.operations.get(operation, f"{operation}({', '.join(['{}'] * len(operands))})")
            name, code = f"value_{len(called)}", template.format(*operands)
        called[expression] = name
        lines.append(f"{name} = {code}")
    return lines, called


def literal(value: float) -> str:
    """A float as code."""
    return repr(value) if math.isfinite(value) else f'float("{value}")'
