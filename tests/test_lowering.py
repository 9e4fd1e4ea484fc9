"""Every supported operation, its value and its derivative, as generated code against PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable

import generated
import pytest
import torch
from conftest import KERNEL_PLACES
from torch import Tensor

from tstn._generated import kernel_maps
from tstn._tracing import MapFunction
from tstn.custom import CustomTransform

DTYPES = [torch.float32, torch.float64]
TOLERANCES = {torch.float32: 2e-5, torch.float64: 1e-11}
DEVICES = [pytest.param(place.values[0].device, id=place.id, marks=place.marks) for place in KERNEL_PLACES]

# Functions of one number, and the interval (centre, half width) to test them on.
UNARY: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "abs": (torch.abs, 0.0, 1.0),
    "acos": (torch.acos, 0.0, 0.9),
    "acosh": (torch.acosh, 3.0, 1.5),
    "asin": (torch.asin, 0.0, 0.9),
    "asinh": (torch.asinh, 0.0, 2.0),
    "atan": (torch.atan, 0.0, 2.0),
    "atanh": (torch.atanh, 0.0, 0.9),
    "ceil": (lambda a: torch.ceil(a) + a, 0.1, 3.0),
    "clamp": (lambda a: a.clamp(-0.5, 0.7), 0.0, 1.0),
    "clamp_min": (lambda a: a.clamp(min=0.1), 0.0, 1.0),
    "clamp_max": (lambda a: a.clamp(max=0.1), 0.0, 1.0),
    "cos": (torch.cos, 0.0, 3.0),
    "cosh": (torch.cosh, 0.0, 2.0),
    "deg2rad": (torch.deg2rad, 0.0, 90.0),
    "elu": (torch.nn.functional.elu, 0.0, 2.0),
    "erf": (torch.erf, 0.0, 2.0),
    "erfc": (torch.erfc, 0.0, 2.0),
    "exp": (torch.exp, 0.0, 2.0),
    "exp2": (torch.exp2, 0.0, 2.0),
    "expm1": (torch.expm1, 0.0, 2.0),
    "float_of_bool": (lambda a: (a > 0).float() * a + (a < 0.5) * 0.25 * a, 0.0, 1.0),
    "floor": (lambda a: torch.floor(a) * a, 0.1, 3.0),
    "fmod": (lambda a: torch.fmod(a, 0.3), 0.05, 1.0),
    "frac": (torch.frac, 0.05, 3.0),
    "gelu": (torch.nn.functional.gelu, 0.0, 2.0),
    "gelu_tanh": (lambda a: torch.nn.functional.gelu(a, approximate="tanh"), 0.0, 2.0),
    "hardtanh": (torch.nn.functional.hardtanh, 0.0, 2.0),
    "isfinite": (lambda a: torch.where(torch.isfinite(a), a, 0.0), 0.0, 1.0),
    "isnan": (lambda a: torch.where(a.isnan() | a.isinf(), 0.0, a), 0.0, 1.0),
    "leaky_relu": (lambda a: torch.nn.functional.leaky_relu(a, 0.2), 0.0, 1.0),
    "log": (torch.log, 2.0, 1.5),
    "log10": (torch.log10, 2.0, 1.5),
    "log1p": (torch.log1p, 0.5, 1.0),
    "log2": (torch.log2, 2.0, 1.5),
    "logical": (lambda a: torch.where(((a > 0) & (a < 0.5)) ^ (a < -0.5) | ~(a <= 0.8), a * a, a), 0.0, 1.0),
    "logical_not": (lambda a: torch.where(torch.logical_not(a > 0).logical_or(a >= 0.5), a * a, a), 0.0, 1.0),
    "masked_fill": (lambda a: a.masked_fill(a != a.abs(), 0.5), 0.0, 1.0),
    "nan_to_num": (lambda a: a.nan_to_num(0.5, 1.0, -1.0), 0.0, 1.0),
    "neg": (torch.neg, 0.0, 1.0),
    "pow_0": (lambda a: a**0 + a, 0.0, 1.0),
    "pow_1": (lambda a: a**1, 0.0, 1.0),
    "pow_2": (lambda a: a**2, 0.0, 1.0),
    "pow_3": (lambda a: a**3, 0.0, 1.0),
    "pow_5": (lambda a: a**5, 0.0, 1.0),
    "pow_half": (lambda a: a**0.5, 2.0, 1.5),
    "pow_minus_half": (lambda a: a**-0.5, 2.0, 1.5),
    "pow_minus_1": (lambda a: a**-1, 2.0, 1.5),
    "pow_minus_2": (lambda a: a**-2, 2.0, 1.5),
    "pow_fraction": (lambda a: a**1.7, 2.0, 1.5),
    "power_of_2": (lambda a: 2**a, 0.0, 2.0),
    "power_of_3": (lambda a: 3.0**a, 0.0, 2.0),
    "power_of_itself": (lambda a: a**a, 2.0, 1.5),
    "reciprocal": (torch.reciprocal, 2.0, 1.5),
    "relu": (torch.relu, 0.0, 1.0),
    "remainder": (lambda a: torch.remainder(a, 0.3), 0.05, 1.0),
    "remainder_negative": (lambda a: a % -0.3, 0.05, 1.0),
    "round": (lambda a: torch.round(a) * a, 0.1, 3.0),
    "rsqrt": (torch.rsqrt, 2.0, 1.5),
    "rsub": (lambda a: 3 - a, 0.0, 1.0),
    "sigmoid": (torch.sigmoid, 0.0, 3.0),
    "sign": (lambda a: torch.sign(a) * a + a.sgn(), 0.0, 1.0),
    "silu": (torch.nn.functional.silu, 0.0, 3.0),
    "sin": (torch.sin, 0.0, 3.0),
    "sinc": (torch.sinc, 0.05, 2.0),
    "sinh": (torch.sinh, 0.0, 2.0),
    "softplus": (torch.nn.functional.softplus, 0.0, 3.0),
    "softsign": (torch.nn.functional.softsign, 0.0, 3.0),
    "sqrt": (torch.sqrt, 2.0, 1.5),
    "square": (torch.square, 0.0, 1.0),
    "tan": (torch.tan, 0.0, 1.2),
    "tanh": (torch.tanh, 0.0, 2.0),
    "true_divide": (lambda a: 2 / a + a / 3, 2.0, 1.5),
    "trunc": (lambda a: torch.trunc(a) * a, 0.1, 3.0),
    "trunc_divide": (lambda a: torch.div(a, 0.3, rounding_mode="trunc") * a, 0.05, 1.0),
    "where": (lambda a: torch.where(a > 0.1, a * a, 0.5), 0.0, 1.0),
}

# Functions of two, each number in [0.5, 3.5] and [-1.5, 1.5].
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda a, b: torch.add(a, b, alpha=2.5),
    "atan2": torch.atan2,
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.5),
    "clamp_tensor": lambda a, b: torch.clamp(b, min=-a / 2, max=a / 4),
    "div": lambda a, b: b / a,
    "div_floor": lambda a, b: torch.div(a, b + 4, rounding_mode="floor") * b,
    "floor_divide": lambda a, b: b * (a.detach() // 0.3),
    "eq": lambda a, b: torch.where((a == b) | (a.round() == 2), a, b),
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "fmod": lambda a, b: torch.fmod(b, a),
    "hypot": torch.hypot,
    "lerp": lambda a, b: torch.lerp(a, b, 0.25) + torch.lerp(a, b, b),
    "logaddexp": torch.logaddexp,
    "max": lambda a, b: torch.stack((a, b)).max() * b,
    "maximum": torch.maximum,
    "mean": lambda a, b: torch.stack((a, b, a * b)).mean(),
    "min": lambda a, b: torch.stack((a, b)).min() * b,
    "minimum": torch.minimum,
    "mul": torch.mul,
    "norm": lambda a, b: torch.stack((a, b)).norm(),
    "norm_1": lambda a, b: torch.linalg.vector_norm(torch.stack((a, b)), 1),
    "pow": torch.pow,
    "prod": lambda a, b: torch.stack((a, b, a)).prod(),
    "remainder": lambda a, b: torch.remainder(b, a),
    "cumsum": lambda a, b: torch.stack((a, b, a)).cumsum(0).prod(),
    "log_softmax": lambda a, b: torch.stack((a, b)).log_softmax(0)[1],
    "softmax": lambda a, b: torch.stack((a, b)).softmax(0)[0],
    "sub": lambda a, b: torch.sub(a, b, alpha=2),
    "xlogy": lambda a, b: torch.xlogy(b, a),
}

CAPTURED = torch.tensor([[0.5, -0.25], [0.125, 2.0]])


def _matrix(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    u, v, w = (theta.view(3, 3) @ torch.stack((x, y, torch.ones_like(x)))).unbind()
    return u / (3 + w), v / (3 + w)


def _rotation(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    c, s = torch.cos(theta[0]), torch.sin(theta[0])
    matrix = torch.stack((torch.stack((c, -s)), torch.stack((s, c))))
    moved = matrix.T @ (torch.diag(theta[1:3]) @ torch.stack((x, y))) + theta[-2:]
    return moved[0], moved[1]


def _series(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    k = torch.arange(1, 10, dtype=x.dtype)
    return x + (theta * torch.sin(k * y)).sum(), y + torch.dot(theta, torch.cos(k * x))


# Functions of theta (9,), x and y.
WHOLE: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]] = {
    "matrix": _matrix,
    "rotation": _rotation,
    "series": _series,
    "einsum": lambda t, x, y: torch.einsum("ij,j->i", t[:4].reshape(2, 2), torch.stack((x, y))).unbind(),
    "bmm": lambda t, x, y: torch.bmm(t[:8].view(2, 2, 2), t[1:].view(2, 2, 2)).sum((0, 2)).mul(x).unbind(),
    "index": lambda t, x, y: (t[[0, 4, 0]].sum() * x, t.view(3, 3)[1:, ::2].flip(0).mT[0, 1] * y),
    "gather": lambda t, x, y: (t.index_select(0, torch.tensor([3, 3])).prod() * x, t.chunk(3)[1].roll(1)[0] + y),
    "cat": lambda t, x, y: torch.cat((t[2:4], torch.stack((x, y)))).view(2, 2).sum(0).unbind(),
    "diagonal": lambda t, x, y: (t.view(3, 3).diagonal().sum() * x, t.view(3, 3).triu(1).sum() + y),
    "zeros": lambda t, x, y: (torch.stack((x * 0, t.new_zeros(()), t[0])).amax() + x, t.new_tensor(0.1) * y + t[0]),
    "captured": lambda t, x, y: ((CAPTURED * t[:2]).sum() * x, CAPTURED[1, 0] * y + t[2] * math.pi),
    "linspace": lambda t, x, y: (x + torch.linspace(0, 1, 9, dtype=t.dtype) @ t, y * torch.eye(9).sum()),
    "outer": lambda t, x, y: (torch.outer(t[:2], t[2:5]).sum() + x, torch.linalg.cross(t[:3], t[3:6])[2] * y),
    "unused": lambda t, x, y: (t[3] + 0.0, x.new_tensor(0.25)),
    "target": lambda t, x, y: (y, x),
    "theta_condition": lambda t, x, y: (torch.where(t[0] > t[1], x * t[2], y), torch.where(t[0] < 0, t[3], t[4])),
    "clone": lambda t, x, y: (t.clone()[0].to(x.dtype) * x.detach(), t.expand(2, 9).contiguous()[1, 3] + y),
}


def of_one(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    return lambda theta, x, y: (function(theta[0] + theta[1] * x), function(theta[0] + theta[1] * y) * theta[2])


def of_two(
    function: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    return lambda theta, x, y: (function(2 + theta[0] * x, theta[1] * y), function(2 + theta[1] * y, theta[0]))


def check(fn: MapFunction, theta: Tensor, dtype: torch.dtype, device: str) -> None:
    transform = CustomTransform(fn, tuple(theta.shape), torch.ones(theta.shape))
    pixels = 16
    x, y, grad_x, grad_y = (torch.rand(4, pixels, dtype=torch.float64) * 1.98 - 0.99).unbind()
    inputs = [t.to(dtype) for t in (theta, x, y, grad_x, grad_y)]
    actual = generated.run(transform, *(t.to(device) for t in inputs))
    oracle = generated.expected(fn, *(t.double() for t in inputs))
    for found, true in zip(actual, oracle, strict=True):
        scale = max(1.0, float(true.abs().max()))
        torch.testing.assert_close(found.cpu().double(), true, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype] * scale)
    theta, x, y, *grads = (t.double() for t in inputs)
    theta.requires_grad_()
    # Along the diagonal of the pixels' rows and columns.
    plain = [c[0].diagonal() for c in transform.coordinates(theta.flatten()[None], x, y[:, None])]
    (grad_theta,) = torch.autograd.grad(plain, theta, grads)
    for found, true in zip((*plain, grad_theta), oracle, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-11, atol=1e-11 * max(1.0, float(true.abs().max())))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_function_of_one_number(name: str, dtype: torch.dtype, device: str) -> None:
    function, centre, width = UNARY[name]
    theta = torch.tensor([centre, width, 0.7], dtype=torch.float64)
    check(of_one(function), theta, dtype, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_function_of_two_numbers(name: str, dtype: torch.dtype, device: str) -> None:
    theta = torch.tensor([1.4, 1.3], dtype=torch.float64)
    check(of_two(BINARY[name]), theta, dtype, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WHOLE)
def test_function_of_theta(name: str, dtype: torch.dtype, device: str) -> None:
    check(WHOLE[name], torch.linspace(-0.4, 0.5, 9), dtype, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["maximum", "minimum", "clamp", "sign", "fmax"])
def test_nan_passes_as_in_pytorch(name: str, device: str) -> None:
    functions = {
        "maximum": torch.maximum,
        "minimum": torch.minimum,
        "clamp": lambda a, b: a.clamp(-1, 1) + b.clamp(-1, 1),
        "sign": lambda a, b: torch.sign(a) + torch.sign(b),
        "fmax": torch.fmax,
    }

    def fn(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return functions[name](theta[0] * x, theta[0] * y), functions[name](theta[1] * y, x)

    transform = CustomTransform(fn, (2,), [1, 1])
    nan = math.nan
    x, y = torch.tensor([nan, 0.5, nan, -0.5]), torch.tensor([0.5, nan, nan, 0.25])
    theta, grad = torch.tensor([1.0, 2.0]), torch.zeros(4)
    u, v, grad_theta = generated.run(transform, *(t.to(device) for t in (theta, x, y, grad, grad)))
    true_u, true_v, _ = generated.expected(fn, theta, x, y, grad, grad)
    torch.testing.assert_close(u.cpu(), true_u, equal_nan=True)
    torch.testing.assert_close(v.cpu(), true_v, equal_nan=True)
    assert not grad_theta.any()


def test_constants_are_exact_in_float64() -> None:
    transform = CustomTransform(
        lambda theta, x, y: (theta[0] + 0.1, torch.maximum(theta[1], theta[0] * 0 + 0.7)), (2,), [0, 0]
    )
    x = torch.zeros(2, dtype=torch.float64)
    u, v, _ = generated.run(transform, x, x, x, x, x)
    assert (u == 0.1).all()
    assert (v == 0.7).all()


def test_equal_maps_have_equal_code() -> None:
    first, second = (CustomTransform(lambda theta, x, y: (theta[0] * x, y), (1,), [1.0]) for _ in range(2))
    other = CustomTransform(lambda theta, x, y: (theta[0] * y, y), (1,), [1.0])
    assert first.kernel == second.kernel != other.kernel
    assert kernel_maps(first.kernel) is kernel_maps(second.kernel)


def test_dead_and_equal_code_is_left_out() -> None:
    def wasteful(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        torch.exp(x)
        stacked = torch.stack((torch.sin(theta[0] * x), torch.tan(y)))
        return stacked[0] * 1, torch.sin(theta[0] * x) + theta[1]

    source = CustomTransform(wasteful, (3,), [0.0, 0.0, 0.0])._code.sources.triton
    assert "exponential" not in source
    assert "tangent" not in source
    assert source.count("sine(") == 2  # once in the map, and as cosine in its VJP
