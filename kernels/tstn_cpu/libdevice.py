"""The functions of ``triton.language.extra.libdevice`` on a CPU: those of the C library, lane by lane."""

from __future__ import annotations

from typing import Any

from triton.language import core, math


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
    *("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "cbrt", "ceil", "cos", "cosh", "erf", "erfc", "exp"),
    *("exp10", "exp2", "expm1", "floor", "lgamma", "log", "log10", "log1p", "log2", "nearbyint", "rint", "round"),
    *("rsqrt", "rsqrt_rn", "sin", "sinh", "sqrt", "sqrt_rn", "tan", "tanh", "tgamma", "trunc"),
)
BINARY = ("atan2", "copysign", "div_rn", "fdim", "fmod", "hypot", "nextafter", "pow", "remainder")

globals().update({name: _function(name, 1) for name in UNARY})
globals().update({name: _function(name, 2) for name in BINARY})
fma = _function("fma", 3)
# Here these are as exact as the others.
globals().update({f"fast_{name}f": globals()[name] for name in ("cos", "exp", "exp10", "log", "log10", "log2", "pow")})
globals().update({f"fast_{name}f": globals()[name] for name in ("sin", "tan", "tanh")})
fast_dividef = globals()["div_rn"]


@core.extern
def isnan(arg0: Any, _semantic: Any = None) -> Any:
    return _semantic.not_equal(arg0, arg0)


@core.extern
def isinf(arg0: Any, _semantic: Any = None) -> Any:
    return _semantic.equal(math.abs(arg0, _semantic=_semantic), float("inf"))


@core.extern
def isfinited(arg0: Any, _semantic: Any = None) -> Any:
    return _semantic.less_than(math.abs(arg0, _semantic=_semantic), float("inf"))


finitef = isfinited


@core.extern
def signbit(arg0: Any, _semantic: Any = None) -> Any:
    kind = core.int64 if arg0.dtype.primitive_bitwidth == 64 else core.int32
    return _semantic.less_than(arg0.to(kind, bitcast=True, _semantic=_semantic), 0).to(core.int32, _semantic=_semantic)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"libdevice.{name} cannot be run on a CPU")
