"""Mathematical functions in float32 and float64, for the coordinate maps that are generated from a user's function.

They are the accurate ones, within an ulp or two, of each backend's own library. Triton's own are faster and, in
float32, less accurate: its square root and division are approximate, its exponential loses digits as it grows.
The interpreter cannot call such a library; there NumPy takes its place. Sine, cosine and tangent are written out
here: for large numbers CUDA's keep a table in local memory, which every thread of every kernel would reserve.
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


@triton.jit
def polynomial(z, coefficients):
    """coefficients[0] * z ** k + ... + coefficients[k], by Horner's rule"""
    value = tl.full((), coefficients[0], z.dtype)
    for i in tl.static_range(1, len(coefficients)):
        # A bare literal would be rounded to float32 on its way into a float64 function.
        value = tl.fma(value, z, tl.full((), coefficients[i], z.dtype))
    return value


@triton.jit
def quarter_turns(x):
    """n, angle and excess, so that x = n * pi / 2 + angle - excess: |angle| is at most pi / 4, but for the rounding of
    n, and the excess is less than its last bit. Of n there are the bits, of which the lowest two are right.

    Cody and Waite's reduction, by pi / 2 in three parts. The first is short and too small: x less n times it is exact,
    and -0.0 stays -0.0. Adding SHIFT, 1.5 times the power of two whose last bit is worth 1, rounds to an integer and
    leaves it in the lowest bits. Beyond LARGEST the angle is 0; of infinity and NaN it is NaN.
    """
    if x.dtype == tl.float32:
        LARGEST: tl.constexpr = 4e6
        SHIFT: tl.constexpr = 12582912.0
        FIRST: tl.constexpr = 1.570796012878418
        SECOND: tl.constexpr = 3.1391647326017846e-07
        THIRD: tl.constexpr = 5.390302953474238e-15
        BITS: tl.constexpr = tl.int32
    else:
        LARGEST: tl.constexpr = 1e15
        SHIFT: tl.constexpr = 6755399441055744.0
        FIRST: tl.constexpr = 1.5707963267948912
        SECOND: tl.constexpr = 5.390302858158119e-15
        THIRD: tl.constexpr = 8.4784276603689e-32
        BITS: tl.constexpr = tl.int64
    magnitude = tl.abs(x)
    x = tl.where(magnitude <= LARGEST, x, tl.where(magnitude < float("inf"), 0.0, float("nan")))
    shift = tl.full((), SHIFT, x.dtype)
    shifted = tl.fma(x, tl.full((), 0.6366197723675814, x.dtype), shift)
    n = shifted - shift
    most = tl.fma(n, tl.full((), -FIRST, x.dtype), x)
    # A product by fma, which no compiler fuses with the sums that follow.
    rest = tl.fma(n, tl.full((), SECOND, x.dtype), tl.full((), 0.0, x.dtype))
    angle = most - rest
    excess = (angle - most) + rest
    excess -= tl.fma(n, tl.full((), -SECOND, x.dtype), rest)
    excess = tl.fma(n, tl.full((), THIRD, x.dtype), excess)
    return shifted.to(BITS, bitcast=True), angle, excess


@triton.jit
def circle_point(x):
    """cos(x) and sin(x), by minimax polynomials in the square of the angle.

    They are within 1.2 ulp, and their quotient within 3, for |x| up to 10^6 in float32 and 10^12 in float64. Further
    out accuracy falls off, to some 5 ulp, and beyond 4 * 10^6 and 10^15, where neighbouring numbers are a quarter and
    an eighth of a radian apart, the angle counts as 0. Always |cos(x)| <= 1 and |sin(x)| <= 1.

    In the interpreter a multiply-add rounds twice: the error is as if x were off by a unit in the last place.
    """
    n, angle, excess = quarter_turns(x)
    z = angle * angle
    if x.dtype == tl.float32:
        s = polynomial(z, (0.0001950554, -0.008332095, 0.16666654))
        c = polynomial(z, (2.4412086e-05, -0.001388713, 0.04166664, -0.5))
    else:
        s = polynomial(
            z,
            (
                -1.5895433249410897e-10,
                2.505073438874312e-08,
                -2.755731353851217e-06,
                0.00019841269829358525,
                -0.00833333333332184,
                0.1666666666666663,
            ),
        )
        c = polynomial(
            z,
            (
                -1.1358649115058906e-11,
                2.087570369019522e-09,
                -2.7557314206506673e-07,
                2.4801587288974347e-05,
                -0.0013888888888873316,
                0.041666666666666595,
                -0.5,
            ),
        )
    s = angle - tl.fma(angle * z, s, excess)
    c = 1.0 + tl.fma(c, z, angle * excess)
    is_odd = (n & 1) != 0
    x_point = tl.where(is_odd, s, c)
    y_point = tl.where(is_odd, c, s)
    return tl.where(((n + 1) & 2) != 0, -x_point, x_point), tl.where((n & 2) != 0, -y_point, y_point)


@triton.jit
def sine(x):
    """sin(x)"""
    _, y_point = circle_point(x)
    return y_point


@triton.jit
def cosine(x):
    """cos(x)"""
    x_point, _ = circle_point(x)
    return x_point


@triton.jit
def tangent(x):
    """tan(x)"""
    x_point, y_point = circle_point(x)
    return quotient(y_point, x_point)


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
