"""The functions of ``triton.language.extra.libdevice`` on a CPU: those of the C library, lane by lane."""

from __future__ import annotations

from typing import Any

from triton.language import core


def _function(name: str, operands: int) -> Any:
    kinds = {"f": core.float32, "": core.float64}
    symbols = {(kind,) * operands: (name + suffix, kind) for suffix, kind in kinds.items()}

    if operands == 1:

        @core.extern
        def function(arg0: Any, _semantic: Any = None) -> Any:
            return core.extern_elementwise("", "", [arg0], symbols, is_pure=True, _semantic=_semantic)

    elif operands == 2:

        @core.extern
        def function(arg0: Any, arg1: Any, _semantic: Any = None) -> Any:
            return core.extern_elementwise("", "", [arg0, arg1], symbols, is_pure=True, _semantic=_semantic)

    else:

        @core.extern
        def function(arg0: Any, arg1: Any, arg2: Any, _semantic: Any = None) -> Any:
            return core.extern_elementwise("", "", [arg0, arg1, arg2], symbols, is_pure=True, _semantic=_semantic)

    function.__name__ = name
    return function


UNARY = (
    *("acos", "acosh", "asin", "asinh", "atan", "atanh", "cbrt", "ceil", "cos", "cosh", "erf", "erfc", "exp", "exp10"),
    *("exp2", "expm1", "fabs", "floor", "lgamma", "log", "log10", "log1p", "log2", "nearbyint", "rint", "round", "rsqrt"),
    *("sin", "sinh", "sqrt", "tan", "tanh", "tgamma", "trunc"),
)
BINARY = ("atan2", "copysign", "fdim", "fmod", "hypot", "nextafter", "pow", "remainder")

globals().update({name: _function(name, 1) for name in UNARY})
globals().update({name: _function(name, 2) for name in BINARY})
fma = _function("fma", 3)

# What LLVM has instructions for, by the operation of the same meaning.
INSTRUCTIONS = {
    "ceil": "math.ceil",
    "fabs": "math.absf",
    "floor": "math.floor",
    "fma": "math.fma",
    "nearbyint": "math.roundeven",
    "rint": "math.roundeven",
    "rsqrt": "math.rsqrt",
    "sqrt": "math.sqrt",
    "trunc": "math.trunc",
}
