"""Mathematical functions in float32 and float64, for the coordinate maps that are generated from a user's function.

They are the accurate ones, within an ulp or two, of each backend's own library. Triton's own are faster and, in
float32, less accurate: its square root and division are approximate, its exponential loses digits as it grows.
The interpreter cannot call such a library; there NumPy takes its place.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

from tstn_kernels.coords import quotient

INTERPRETED = triton.knobs.runtime.interpret
if INTERPRETED:
    import math

    import numpy as np
    from triton.runtime.interpreter import TensorHandle

    # What NumPy lacks.
    EXTRA = {
        "erf": np.vectorize(math.erf, otypes=[np.float64]),
        "erfc": np.vectorize(math.erfc, otypes=[np.float64]),
        "rsqrt": lambda x: 1 / np.sqrt(x),
    }


def function(numpy_name):
    """A device function from its Triton code, or in the interpreter NumPy's function of that name."""

    def decorated(code):
        return _interpreted(numpy_name) if INTERPRETED else triton.jit(code)

    return decorated


def _interpreted(numpy_name):
    numpy_function = EXTRA[numpy_name] if numpy_name in EXTRA else getattr(np, numpy_name)

    def call(*arguments):
        blocks = [argument for argument in arguments if argument.type.is_block()]
        like = (blocks or arguments)[0]
        operands = [argument.handle.data for argument in arguments]
        with np.errstate(all="ignore"):
            result = np.asarray(numpy_function(*operands)).astype(operands[0].dtype)
        return tl.tensor(TensorHandle(result, like.type.scalar), like.type)

    return call


@function("sqrt")
def square_root(x):
    """sqrt(x), rounded correctly."""
    if x.dtype == tl.float32:
        return tl.sqrt_rn(x)
    return tl.sqrt(x)


@function("rsqrt")
def reciprocal_square_root(x):
    """1 / sqrt(x)"""
    return libdevice.rsqrt(x)


@function("exp")
def exponential(x):
    """exp(x)"""
    return libdevice.exp(x)


@function("exp2")
def exponential_of_two(x):
    """2 ** x"""
    return libdevice.exp2(x)


@function("expm1")
def exponential_minus_one(x):
    """exp(x) - 1"""
    return libdevice.expm1(x)


@function("log")
def logarithm(x):
    """log(x)"""
    return libdevice.log(x)


@function("log2")
def logarithm_to_two(x):
    """log(x) to base 2"""
    return libdevice.log2(x)


@function("log10")
def logarithm_to_ten(x):
    """log(x) to base 10"""
    return libdevice.log10(x)


@function("log1p")
def logarithm_plus_one(x):
    """log(1 + x)"""
    return libdevice.log1p(x)


@function("sin")
def sine(x):
    """sin(x)"""
    return libdevice.sin(x)


@function("cos")
def cosine(x):
    """cos(x)"""
    return libdevice.cos(x)


@function("tan")
def tangent(x):
    """tan(x)"""
    return libdevice.tan(x)


@function("arcsin")
def arcsine(x):
    """asin(x)"""
    return libdevice.asin(x)


@function("arccos")
def arccosine(x):
    """acos(x)"""
    return libdevice.acos(x)


@function("arctan")
def arctangent(x):
    """atan(x)"""
    return libdevice.atan(x)


@function("arctan2")
def direction(y, x):
    """atan2(y, x): the angle of the point (x, y)"""
    return libdevice.atan2(y, x)


@function("sinh")
def hyperbolic_sine(x):
    """sinh(x)"""
    return libdevice.sinh(x)


@function("cosh")
def hyperbolic_cosine(x):
    """cosh(x)"""
    return libdevice.cosh(x)


@function("tanh")
def hyperbolic_tangent(x):
    """tanh(x)"""
    return libdevice.tanh(x)


@function("arcsinh")
def hyperbolic_arcsine(x):
    """asinh(x)"""
    return libdevice.asinh(x)


@function("arccosh")
def hyperbolic_arccosine(x):
    """acosh(x)"""
    return libdevice.acosh(x)


@function("arctanh")
def hyperbolic_arctangent(x):
    """atanh(x)"""
    return libdevice.atanh(x)


@function("erf")
def error_function(x):
    """erf(x)"""
    return libdevice.erf(x)


@function("erfc")
def error_function_complement(x):
    """1 - erf(x)"""
    return libdevice.erfc(x)


@function("hypot")
def hypotenuse(x, y):
    """sqrt(x * x + y * y), without overflow on the way"""
    return libdevice.hypot(x, y)


@function("power")
def power(x, y):
    """x ** y"""
    return libdevice.pow(x, y)


@function("floor")
def integer_below(x):
    """floor(x)"""
    return libdevice.floor(x)


@function("ceil")
def integer_above(x):
    """ceil(x)"""
    return libdevice.ceil(x)


@function("trunc")
def integer_part(x):
    """x rounded towards zero"""
    return libdevice.trunc(x)


@function("rint")
def nearest_integer(x):
    """x rounded to the nearest integer, halves to even"""
    return libdevice.nearbyint(x)


@function("fmod")
def signed_remainder(x, y):
    """x - y * trunc(x / y), exactly; it has the sign of x"""
    return libdevice.fmod(x, y)


@triton.jit
def periodic_remainder(x, y):
    """x - y * floor(x / y), to rounding; it has the sign of y"""
    rest = signed_remainder(x, y)
    return tl.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)


@triton.jit
def logistic(x):
    """1 / (1 + exp(-x))"""
    return quotient(tl.full((), 1.0, x.dtype), 1.0 + exponential(-x))


@triton.jit
def signum(x):
    """-1, 0 or 1; 0 for NaN, as PyTorch has it"""
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


@triton.jit
def larger(x, y):
    """The larger of two numbers; NaN if either is"""
    return tl.where(x > y, x, tl.where(x != x, x, y))


@triton.jit
def smaller(x, y):
    """The smaller of two numbers; NaN if either is"""
    return tl.where(x < y, x, tl.where(x != x, x, y))
