"""A user's own coordinate map: the plain path, the kernels, what is refused."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import oracle
import pytest
import torch
import torch.nn.functional as F
from conftest import Place
from oracle_weights import sample_by_weights
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import tstn
from tstn._generated import kernel_maps
from tstn.custom import CustomTransform
from tstn.examples import LensMap, PolarMap, brown_conrady, lens_distortion, moebius, moebius_map, polar

TOLERANCES = {torch.float32: 2e-5, torch.float64: 1e-10}
POLE = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])


def swirl(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    angle = theta[0] * torch.exp(-theta[1] * (x * x + y * y))
    return x * torch.cos(angle) - y * torch.sin(angle), x * torch.sin(angle) + y * torch.cos(angle)


def hole(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Infinite where theta[1] * x = 0, with a derivative that is NaN there."""
    return x + theta[0] / (theta[1] * x), y * torch.sqrt(theta[1])


FUNCTIONS = {
    "swirl": swirl,
    "hole": hole,
    "lens": brown_conrady,
    "lens_of_a_camera": LensMap((1.3, 1.6), (0.1, -0.05)),
    "polar": PolarMap(0.9),
    "log_polar": PolarMap(0.9, logarithmic=True),
    "moebius": moebius_map,
}
CASES: dict[str, tuple[CustomTransform, Tensor]] = {
    "swirl": (CustomTransform(swirl, (2,), (0.0, 1.0)), torch.tensor([0.7, 1.3])),
    "hole": (CustomTransform(hole, (2,), (0.0, 1.0)), torch.tensor([0.02, 0.9])),
    "lens": (lens_distortion(), torch.tensor([0.1, -0.05, 0.03, 0.02])),
    "lens_of_a_camera": (lens_distortion((1.3, 1.6), (0.1, -0.05)), torch.tensor([0.1, -0.05, 0.03, 0.02])),
    "polar": (polar(0.9), torch.tensor([0.1, -0.05])),
    "log_polar": (polar(0.9, logarithmic=True), torch.tensor([0.1, -0.05])),
    "moebius": (moebius(), torch.tensor([[1.0, 0.1], [0.05, -0.1], [0.2, 0.15], [1.1, -0.2]])),
}


def grid_by_hand(name: str, theta: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """The sampling grid of theta (M, ...), pixel by pixel; pixels that look at nothing are far away and constant."""
    base = F.affine_grid(torch.eye(2, 3, dtype=theta.dtype)[None], [1, 1, *size], align_corners)[0]
    rows = []
    for sample in theta:
        for target in base.flatten(0, 1):
            source = torch.stack(FUNCTIONS[name](sample, *target))
            rows.append(source if source.isfinite().all() else torch.full_like(source, 1e4))
    return torch.stack(rows).reshape(theta.shape[0], *size, 2)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_grid_sample(name: str, dtype: torch.dtype, align_corners: bool, place: Place) -> None:
    transform, one = CASES[name]
    theta = torch.stack((one, one * 1.1, one * 0.8)).to(dtype)
    image, size = torch.randn(3, 2, 6, 7, dtype=dtype), (5, 8)
    grad = torch.randn(3, 2, *size, dtype=dtype)

    def result(device: str, image: Tensor, theta: Tensor, warp: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        inputs = [t.to(device).requires_grad_() for t in (image.clone(), theta.clone())]
        out = warp(*inputs)
        return [t.detach().cpu() for t in (out, *torch.autograd.grad(out, inputs, grad.to(out)))]

    actual = result(
        place.device,
        image,
        theta,
        lambda image, theta: tstn.spatial_transform(image, theta, transform, size, align_corners=align_corners),
    )
    oracle = result(
        "cpu",
        image.double(),
        theta.double(),
        lambda image, theta: F.grid_sample(
            image, grid_by_hand(name, theta, size, align_corners), align_corners=align_corners
        ),
    )
    for found, true in zip(actual, oracle, strict=True):
        assert found.dtype == dtype
        scale = max(1.0, float(true.abs().max()))
        tolerance = 10 * scale * TOLERANCES[dtype]
        torch.testing.assert_close(found.double(), true, rtol=0, atol=tolerance)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")
@pytest.mark.parametrize("scale", [1.0, math.inf, math.nan, 0.0])
def test_what_looks_at_nothing_has_no_gradient(scale: float, place: Place) -> None:
    theta = POLE * scale
    image = torch.ones(1, 1, 5, 5, device=place.device, requires_grad=True)
    theta = theta[None].to(place.device).requires_grad_()
    out = tstn.spatial_transform(image, theta, moebius(), fill_value=3.0)
    out.sum().backward()
    assert out[0, 0, 2, 2] == 3.0
    assert out.isfinite().all()
    assert theta.grad.isfinite().all()
    assert image.grad.isfinite().all()
    if not theta.isfinite().all():
        assert not theta.grad.any()


def test_whole_sample_outside_leaves_the_others_alone(place: Place) -> None:
    transform, good = CASES["moebius"]
    image = torch.randn(1, 2, 6, 6, device=place.device)
    alone = good[None].to(place.device).requires_grad_()
    tstn.spatial_transform(image, alone, transform).sum().backward()
    both = torch.stack((good, good * math.nan)).to(place.device).requires_grad_()
    tstn.spatial_transform(image, both, transform).sum().backward()
    torch.testing.assert_close(both.grad[0], alone.grad[0])
    assert not both.grad[1].any()


@pytest.mark.parametrize("name", CASES)
def test_coordinates_under_compile(name: str) -> None:
    transform, one = CASES[name]
    numbers = torch.stack((one, one * 1.2)).flatten(1).requires_grad_()
    x, y = torch.linspace(-0.9, 0.8, 5), torch.linspace(-0.7, 0.9, 4)[:, None]
    expected = torch.stack(transform.coordinates(numbers, x, y))
    torch.compiler.reset()
    compiled = torch.compile(transform.coordinates, backend="aot_eager", fullgraph=True)
    actual = torch.stack(compiled(numbers, x, y))
    torch.testing.assert_close(actual, expected)
    (grad,) = torch.autograd.grad(actual.square().sum(), numbers)
    (true,) = torch.autograd.grad(expected.square().sum(), numbers)
    torch.testing.assert_close(grad, true)
    torch.compiler.reset()


def test_compiled(place: Place, compiled: Callable[[Callable], Callable]) -> None:
    transform, one = CASES["moebius"]
    image = torch.randn(2, 3, 6, 6, device=place.device)
    theta = torch.stack((one, one * 0.9)).to(place.device).requires_grad_()
    expected = tstn.spatial_transform(image, theta, transform)
    actual = compiled(lambda image, theta: tstn.spatial_transform(image, theta, transform))(image, theta)
    torch.testing.assert_close(actual, expected)
    (grad,) = torch.autograd.grad(actual.square().sum(), theta)
    (true,) = torch.autograd.grad(expected.square().sum(), theta)
    torch.testing.assert_close(grad, true, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_the_plain_path(name: str) -> None:
    transform, one = CASES[name]
    numbers = one.double().flatten()[None].requires_grad_()
    x, y = torch.linspace(-0.9, 0.8, 3).double(), torch.linspace(-0.7, 0.9, 2).double()[:, None]
    function = partial(transform.coordinates, x=x, y=y)
    assert gradcheck(function, (numbers,), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, (numbers,))

    def one_sample(flat: Tensor) -> Tensor:
        return torch.stack(function(flat[None]))[:, 0]

    jacobian = torch.func.jacrev(one_sample)(numbers[0])
    torch.testing.assert_close(torch.func.jacfwd(one_sample)(numbers[0]), jacobian)
    batched = torch.func.vmap(one_sample)(numbers.expand(3, -1))
    torch.testing.assert_close(batched, one_sample(numbers[0]).expand(3, *batched.shape[1:]))
    per_sample = torch.func.vmap(torch.func.grad(lambda flat: one_sample(flat).square().sum()))
    assert per_sample(numbers.expand(3, -1)).isfinite().all()


def test_derivatives_of_the_plain_path_stop_at_infinity() -> None:
    numbers = POLE.double().flatten()[None].requires_grad_()
    x = torch.linspace(-1, 1, 3).double()

    def total(numbers: Tensor) -> Tensor:
        u, v = moebius().coordinates(numbers, x, x[:, None])
        assert torch.func.vmap(torch.isfinite)(u).sum() == 8
        return (torch.stack((u, v)) * torch.arange(9.0).view(3, 3)).nan_to_num(0, 0, 0).sum()

    (first,) = torch.autograd.grad(total(numbers), numbers, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), numbers)
    assert first.isfinite().all()
    assert second.isfinite().all()
    torch.testing.assert_close(torch.func.grad(total)(numbers.detach()), first.detach())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(numbers.detach(), torch.ones_like(numbers))
        tangents = [forward_ad.unpack_dual(c).tangent for c in moebius().coordinates(dual, x, x[:, None])]
    assert all(tangent.isfinite().sum() >= 8 for tangent in tangents)


def test_empty() -> None:
    transform, one = CASES["moebius"]
    x, y = torch.zeros(3), torch.zeros(2, 1)
    assert transform.coordinates(one.new_zeros(0, 8), x, y)[0].shape == (0, 2, 3)
    assert transform.coordinates(one.flatten()[None], x[:0], y)[0].shape == (1, 2, 0)


def test_is_a_value() -> None:
    transform = CustomTransform(swirl, [2], torch.tensor([0.0, 1.0]))
    assert transform == CustomTransform(swirl, (2,), (0, 1))
    assert hash(transform) == hash(CustomTransform(swirl, (2,), (0, 1)))
    assert transform != CustomTransform(swirl, (2,), (0, 2))
    assert transform == CustomTransform(lambda theta, x, y: swirl(theta, x, y), (2,), (0, 1))
    assert transform != "swirl"
    assert repr(transform) == "CustomTransform(swirl, theta_shape=(2,), identity=(0.0, 1.0))"
    assert polar() == polar() != polar(logarithmic=True)
    for other in (pickle.loads(pickle.dumps(polar())), copy.deepcopy(polar())):
        assert other == polar()
        assert other.kernel == polar().kernel
    assert moebius().num_parameters == 8
    assert moebius().theta(moebius().identity_parameters()).tolist() == [[1, 0], [0, 0], [0, 0], [1, 0]]


def test_key_is_the_same_in_every_process() -> None:
    code = "from tstn.examples import moebius; print(moebius().kernel)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == moebius().kernel


def test_unknown_key() -> None:
    with pytest.raises(LookupError, match=r"no CustomTransform with the key 'custom_0'.*construct"):
        kernel_maps("custom_0")


def test_tracing_ignores_the_surroundings() -> None:
    key = polar().kernel
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert polar().kernel == key
    with torch.inference_mode(), torch.device("meta"):
        assert polar().kernel == key

    def key_of_another(t: Tensor) -> Tensor:
        assert polar().kernel == key
        return t.sum()

    torch.func.vmap(torch.func.grad(key_of_another))(torch.ones(2, 2))


@pytest.fixture
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


MAKERS: dict[str, Callable[[], tstn.Transform]] = {
    "lens": lens_distortion,
    "polar": polar,
    "log_polar": partial(polar, logarithmic=True),
    "moebius": moebius,
    "swirl": partial(CustomTransform, swirl, (2,), (0.0, 1.0)),
    "spline": partial(tstn.ThinPlateSpline, (3, 4), 0.1),
}


def results_of(transform: tstn.Transform, device: str) -> list[Tensor]:
    """Output, gradients and grid for float32 operands."""
    start = transform.identity_parameters().view(transform.theta_shape)
    theta = (start + torch.linspace(0, 0.1, start.numel(), dtype=torch.float32).view_as(start))[None].to(device)
    image = torch.linspace(-1, 1, 60, dtype=torch.float32).sin().view(1, 2, 5, 6).to(device)
    image.requires_grad_()
    theta.requires_grad_()
    out = tstn.spatial_transform(image, theta, transform, (4, 7))
    return [out, *torch.autograd.grad(out.square().sum(), (image, theta)), transform.grid(theta, (4, 7))]


@pytest.mark.parametrize("name", MAKERS)
def test_default_dtype_does_not_matter(name: str, place: Place, request: pytest.FixtureRequest) -> None:
    expected = MAKERS[name]()
    true = results_of(expected, place.device)
    request.getfixturevalue("double_by_default")
    transform = MAKERS[name]()
    assert (transform, transform.kernel) == (expected, expected.kernel)
    for found, wanted in zip(results_of(transform, place.device), true, strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)


def with_numbers_of_the_default_dtype(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x * theta[0] + torch.where(x > 0, 0.1, 0.7), y + torch.tensor(0.3)


def test_numbers_of_the_default_dtype(place: Place, request: pytest.FixtureRequest) -> None:
    transform = CustomTransform(with_numbers_of_the_default_dtype, (1,), (1.0,))
    true = results_of(transform, place.device)
    request.getfixturevalue("double_by_default")
    for made in (transform, CustomTransform(with_numbers_of_the_default_dtype, (1,), (1.0,))):
        for found, wanted in zip(results_of(made, place.device), true, strict=True):
            torch.testing.assert_close(found, wanted)


def test_examples_at_identity() -> None:
    for transform in (lens_distortion(), moebius()):
        theta = transform.theta(transform.identity_parameters())[None]
        for align_corners in (False, True):
            expected = F.affine_grid(torch.eye(2, 3)[None], [1, 1, 4, 5], align_corners)
            torch.testing.assert_close(transform.grid(theta, (4, 5), align_corners), expected)


@pytest.mark.parametrize("name", ["swirl", "lens", "moebius"])
def test_second_derivatives_where_the_first_are_zero(place, name):
    """A flat image has no slope, but what changes it has: as for a penalty on gradients over a background."""
    transform, numbers = CASES[name]
    theta = numbers.to(place.device, torch.float64)[None].requires_grad_()
    x = torch.ones(1, 1, 4, 5, dtype=torch.float64, device=place.device, requires_grad=True)
    direction = torch.randn(theta.shape, dtype=torch.float64, device=place.device)

    def through_theta(out: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(out.sin().sum(), theta, create_graph=True)
        return torch.autograd.grad((grad * direction).sum(), x)[0]

    at = oracle.pixels(grid_by_hand(name, theta, (4, 5), False), (4, 5), False)
    expected = through_theta(sample_by_weights(x, at, "bilinear", "border", False))
    assert expected.abs().max() > 0.1
    actual = through_theta(tstn.spatial_transform(x, theta, transform, padding_mode="border"))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("align_corners", [False, True])
def test_lens_distortion_is_opencvs(align_corners: bool) -> None:
    """As OpenCV documents ``initUndistortRectifyMap``, pixel by pixel: where in the photograph a pixel looks."""
    height, width = 30, 40
    fx, fy, cx, cy = 35.0, 33.0, 21.5, 13.25
    k1, k2, p1, p2 = theta = torch.tensor([-0.28, 0.09, 0.004, -0.006], dtype=torch.float64)
    v, u = (t.double() for t in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    x, y = (u - cx) / fx, (v - cy) / fy
    r2 = x**2 + y**2
    x_lens = x * (1 + k1 * r2 + k2 * r2**2) + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
    y_lens = y * (1 + k1 * r2 + k2 * r2**2) + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
    u_source, v_source = fx * x_lens + cx, fy * y_lens + cy

    if align_corners:
        focal = 2 * fx / (width - 1), 2 * fy / (height - 1)
        centre = 2 * cx / (width - 1) - 1, 2 * cy / (height - 1) - 1
    else:
        focal = 2 * fx / width, 2 * fy / height
        centre = (2 * cx + 1) / width - 1, (2 * cy + 1) / height - 1
    transform = lens_distortion(focal, centre)
    grid = tstn.sampling_grid(theta, transform, (height, width), align_corners)
    less = 1 if align_corners else 0
    u_ours = (grid[..., 0] + 1) / 2 * (width - less) - (1 - less) / 2
    v_ours = (grid[..., 1] + 1) / 2 * (height - less) - (1 - less) / 2
    assert (u_source - u).abs().max() > 2
    torch.testing.assert_close(u_ours, u_source, rtol=0, atol=1e-10)
    torch.testing.assert_close(v_ours, v_source, rtol=0, atol=1e-10)


def test_lens_distortion_of_no_camera_is_brown_conradys() -> None:
    assert lens_distortion() == lens_distortion((1, 1), (0, 0)) == CustomTransform(brown_conrady, (4,), (0.0,) * 4)
    x = y = torch.linspace(-1, 1, 5, dtype=torch.float64)
    theta = CASES["lens"][1].double()
    torch.testing.assert_close(LensMap()(theta, x, y), brown_conrady(theta, x, y))
    assert lens_distortion((2.0, 1.0)) != lens_distortion()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((1.0,), TypeError, r"focal must be two numbers, \(x, y\); got float"),
        ((("1", "2"),), TypeError, "focal must be two numbers"),
        (((True, 1.0),), TypeError, "focal must be two numbers"),
        (((1.0, 1.0, 1.0),), ValueError, "focal must be two finite numbers"),
        (((1.0, math.nan),), ValueError, "focal must be two finite numbers"),
        (((1.0, 10**400),), ValueError, "focal must be two finite numbers"),
        ((b"12",), TypeError, "focal must be two numbers"),
        (((1.0, 0.0),), ValueError, r"focal must not be zero; got \(1.0, 0.0\)"),
        (((1.0, 1.0), (0.0, math.inf)), ValueError, "centre must be two finite numbers"),
        (((1.0, 1.0), None), TypeError, "centre must be two numbers, .*; got NoneType"),
    ],
)
def test_bad_cameras(arguments: tuple[Any, ...], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        lens_distortion(*arguments)


def test_polar_by_hand() -> None:
    x, y = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([-1.0, -0.5, 0.0])[:, None]
    u, v = polar(2.0).coordinates(torch.tensor([[0.5, 0.25]]), x, y)
    torch.testing.assert_close(u[0], torch.tensor([[0.5, 1.5, 2.5], [0.5, 0.5, 0.5], [0.5, -0.5, -1.5]]))
    torch.testing.assert_close(v[0], torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 2.25], [0.25, 0.25, 0.25]]))
    u, _ = polar(1.0, inner_radius=0.25, logarithmic=True).coordinates(torch.zeros(1, 2), x, y[:1])
    torch.testing.assert_close(u[0, 0], torch.tensor([0.25, 0.5, 1.0]))


def test_examples_by_complex_arithmetic() -> None:
    theta, z = torch.randn(4, dtype=torch.complex128), torch.tensor(0.3 - 0.4j, dtype=torch.complex128)
    a, b, c, d = theta
    u, v = moebius_map(torch.view_as_real(theta), z.real, z.imag)
    torch.testing.assert_close(torch.complex(u, v), (a * z + b) / (c * z + d))
    u, v = brown_conrady(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor(0.5), torch.tensor(-1.0))
    torch.testing.assert_close(u, torch.tensor(0.5 * 1.4375 - 0.3 + 0.4 * 1.75))
    torch.testing.assert_close(v, torch.tensor(-1.4375 + 0.3 * 3.25 - 0.4))


def _branches(theta: Tensor, x: Tensor, y: Tensor) -> Any:
    return (x, y) if x > theta[0] else (y, x)


def _adds_in_place(theta: Tensor, x: Tensor, y: Tensor) -> Any:
    r = x * x
    r += y * y
    return r * theta[0], y


def _sets_item(theta: Tensor, x: Tensor, y: Tensor) -> Any:
    r = x.new_zeros(2)
    r[0] = theta[0]
    return r[0], r[1]


PARAMETER = torch.nn.Parameter(torch.ones(()))

REFUSED: dict[str, tuple[Callable[..., Any], type[Exception], str]] = {
    "if": (_branches, ValueError, r"torch\.where"),
    "item": (lambda t, x, y: (x * float(t[0]), y), ValueError, r"torch\.where.*\.item\(\)"),
    "theta in place": (lambda t, x, y: (t.mul_(2)[0], y), ValueError, "leave its arguments.*theta in place"),
    "x in place": (lambda t, x, y: (x.add_(t[0]), y), ValueError, "leave its arguments.*x in place"),
    "in place": (_adds_in_place, ValueError, r"in place.*aten\.add_"),
    "set item": (_sets_item, ValueError, r"in place.*aten\.copy_"),
    "random": (lambda t, x, y: (x * torch.rand(()), y * t[0]), ValueError, r"deterministic.*aten\.rand"),
    "random in place": (lambda t, x, y: (x + torch.zeros(2).normal_()[0], y), ValueError, r"aten\.normal_"),
    "operation": (lambda t, x, y: (torch.special.i0(x * t[0]), y), ValueError, r"aten\.(special_)?i0.*supported are"),
    "derivative": (lambda t, x, y: (torch.lgamma(x * t[0]), y), ValueError, r"aten\.lgamma.*supported are"),
    "inverse": (lambda t, x, y: (torch.linalg.inv(t.view(1, 1))[0, 0] * x, y), ValueError, r"linalg_inv"),
    "complex": (lambda t, x, y: (torch.complex(x, y).real * t[0], y), ValueError, r"aten\.complex"),
    "whole numbers": (lambda t, x, y: ((x * t[0]).long() + x, y), ValueError, r"theta's dtype.*torch\.floor"),
    "double": (lambda t, x, y: (x.double() * t[0], y), ValueError, r"theta's dtype"),
    "float": (lambda t, x, y: (x.float() * t[0], y), ValueError, r"theta's dtype"),
    "parameter": (lambda t, x, y: (x * PARAMETER, y * t[0]), ValueError, "require gradients"),
    "large": (lambda t, x, y: (x * torch.ones(1000)[0] * LARGE.sum(), y), ValueError, "at most 256 elements"),
    "one result": (lambda t, x, y: x, TypeError, "pair of tensors.*Tensor"),
    "three results": (lambda t, x, y: (x, y, x), ValueError, "pair of tensors.*3 results"),
    "number": (lambda t, x, y: (x, 0.5), TypeError, "pair of tensors.*float for y"),
    "shape": (lambda t, x, y: (t, y), ValueError, r"shape \(\); got \(1,\) for x"),
    "bool": (lambda t, x, y: (x > t[0], y), TypeError, r"torch\.bool for x"),
}
LARGE = torch.ones(1000)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    fn, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        CustomTransform(fn, (1,), (0.0,))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((1, (2,), (0, 0)), TypeError, "fn must be a function .*; got int"),
        ((swirl, 2, (0, 0)), TypeError, "theta_shape must be a tuple of integers; got 2"),
        ((swirl, (2.0,), (0, 0)), TypeError, "theta_shape must be a tuple of integers"),
        ((swirl, (), ()), ValueError, "theta_shape must have at least one dimension"),
        ((swirl, (2, 0), ()), ValueError, r"theta_shape must .* positive; got \(2, 0\)"),
        ((swirl, (1000,), ()), ValueError, "theta_shape must have at most 256 numbers"),
        ((swirl, (2,), (0, 0, 0)), ValueError, r"identity must have shape \(2,\) or \(2,\); got \(3,\)"),
        ((swirl, (2,), (0, math.inf)), ValueError, "identity must be finite"),
        ((swirl, (2,), "ab"), TypeError, "identity must be a sequence or tensor of numbers"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        CustomTransform(*arguments)


def test_errors_of_fn_are_its_own() -> None:
    with pytest.raises(IndexError):
        CustomTransform(lambda theta, x, y: (theta[5], y), (2,), (0, 0))


def test_polar_radii() -> None:
    with pytest.raises(ValueError, match=r"must be positive; got 0 and 0\.05"):
        polar(0)
