"""Right numbers whatever surrounds a call: hooks, views, autocast, other people's modes, tracers and compilers."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import cases
import oracle
import pytest
import torch
import torch.nn.functional as F
from layouts import lay_out
from oracle_weights import sample_by_weights
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import tstn
from tstn import examples

SIZE = (4, 5)


def operands(
    device: str, dtype: torch.dtype = torch.float32, batch: int = 2, channels: int = 3
) -> tuple[Tensor, Tensor]:
    """An image batch and affine thetas for it."""
    x = torch.randn(batch, channels, *SIZE, dtype=dtype, device=device)
    return x, torch.eye(2, 3, dtype=dtype, device=device) + 0.1 * torch.randn(batch, 2, 3, dtype=dtype, device=device)


def sampled(x: Tensor, grid: Tensor) -> Tensor:
    """``F.grid_sample``, bilinear with zeros around, by a formula that has second derivatives in every PyTorch."""
    return sample_by_weights(x, oracle.pixels(grid, (x.shape[2], x.shape[3]), False), "bilinear", "zeros", False)


def by_pytorch(x: Tensor, theta: Tensor) -> Tensor:
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# Second derivatives of operands that depend on each other.


@pytest.mark.parametrize("kind", ["affine", "flow and fill", "grid", "spline", "custom"])
def test_create_graph_where_operands_depend_on_the_input(place, kind):
    x = torch.randn(2, 1, *SIZE, dtype=torch.float64, device=place.device, requires_grad=True)
    to_theta, to_flow = (0.03 * torch.randn(20, n, dtype=torch.float64, device=place.device) for n in (6, 40))
    spline, lens = tstn.ThinPlateSpline((2, 2)), examples.lens_distortion()

    def warp(x: Tensor, ours: bool) -> Tensor:
        flat = x.flatten(1)
        theta = torch.eye(2, 3, dtype=x.dtype, device=x.device) + (flat @ to_theta).view(2, 2, 3)
        flow, fill = (flat @ to_flow).view(2, *SIZE, 2), flat.mean().reshape(1)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        if kind == "affine":
            return tstn.spatial_transform(x, theta) if ours else sampled(x, grid)
        if kind == "grid":
            return tstn.grid_sample(x, grid) if ours else sampled(x, grid)
        if kind == "flow and fill":
            if ours:
                return tstn.spatial_transform(x, theta, flow=flow, fill_value=fill)
            missing = 1 - sampled(torch.ones_like(x), grid + flow)
            return sampled(x, grid + flow) + missing * fill
        transform = spline if kind == "spline" else lens
        numbers = transform.identity_parameters().to(x).view(transform.theta_shape) + theta.flatten(1)[
            :, : transform.num_parameters if kind == "custom" else 1
        ].reshape(2, *((4,) if kind == "custom" else (1, 1)))
        if ours:
            return tstn.spatial_transform(x, numbers, transform)
        return sampled(x, tstn.sampling_grid(numbers, transform, SIZE))

    def penalty(ours: bool) -> list[Tensor]:
        (grad,) = torch.autograd.grad(warp(x, ours).sin().sum(), x, create_graph=True)
        return [grad, *torch.autograd.grad(grad.square().sum(), x)]

    close(penalty(ours=True), penalty(ours=False), 1e-8)


# What comes back from hooks.


@pytest.mark.parametrize("transform", ["affine", "grid", "flow", "spline_five"])
@pytest.mark.parametrize("layout", ["channels_last", "strided"])
@pytest.mark.parametrize("pack", ["contiguous", "channels_last", "reversed", "negated", "double and back"])
def test_saved_tensor_hooks_may_change_the_layout(place, transform, layout, pack):
    case = cases.Case(transform=transform, layout=layout, spread=0.3)
    x = cases.make_input(case, place.device).requires_grad_()
    size, kind = case.size or (5, 8), cases.transform_of(case)
    theta = cases.make_theta(case, size, place.device)[0].requires_grad_()
    fill = torch.randn(3, device=place.device, requires_grad=True)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "contiguous": lambda t: t.contiguous().clone(memory_format=torch.contiguous_format),
        "channels_last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1) if t.dim() > 2 else t,
        # Every tensor of two axes or more: a spline saves its control points, too.
        "reversed": lambda t: lay_out(t, "reversed"),
        "negated": lambda t: torch.ops.aten._neg_view(-t) if t.is_floating_point() else t,
        "double and back": lambda t: t.double().to(t.dtype),
    }
    grad = torch.randn(2, 3, *(case.size or ()), device=place.device)

    def grads() -> tuple[Tensor, ...]:
        out = tstn.spatial_transform(x, theta, kind, case.size, fill_value=fill)
        return torch.autograd.grad(out, (x, theta, fill), grad)

    expected = grads()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: functions[pack](t.detach()), lambda t: t):
        out = tstn.spatial_transform(x, theta, kind, case.size, fill_value=fill)
    close(torch.autograd.grad(out, (x, theta, fill), grad), expected)


def test_saved_on_the_cpu(place):
    x, theta = (t.requires_grad_() for t in operands(place.device))
    expected = torch.autograd.grad(tstn.spatial_transform(x, theta).sin().sum(), (x, theta))
    with torch.autograd.graph.save_on_cpu():
        out = tstn.spatial_transform(x, theta).sin().sum()
    close(torch.autograd.grad(out, (x, theta)), expected)


# Views whose values are not what lies in memory, and memory that lies otherwise.


@pytest.mark.parametrize("transform", ["affine", "grid", "flow", "spline"])
def test_pending_negations_are_seen(place, transform):
    case = cases.Case(transform="spline_five" if transform == "spline" else transform, spread=0.3)

    def negated(tensor: Tensor) -> Tensor:
        view = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
        assert view.is_neg()
        return view

    plain = [cases.make_input(case, place.device), cases.make_theta(case, case.size or (5, 8), place.device)[0]]
    plain += [torch.randn(3, device=place.device)]
    if transform == "affine":
        plain += [0.2 * torch.randn(2, 5, 8, 2, device=place.device)]
    grad = torch.randn(2, 3, *(case.size or ()), device=place.device)

    def run(values: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
        leaves = [t.detach().requires_grad_() for t in values]
        flow = {"flow": leaves[3]} if len(leaves) > 3 else {}
        kind = cases.transform_of(case)
        out = tstn.spatial_transform(leaves[0], leaves[1], kind, case.size, fill_value=leaves[2], **flow)
        return (out, *torch.autograd.grad(out, leaves, grad))

    close(run([negated(t) for t in plain], negated(grad)), run(plain, grad))


@pytest.mark.parametrize("layout", ["column", "every second", "expanded", "reversed order"])
def test_input_index_of_any_stride(place, layout):
    x = torch.randn(4, 2, *SIZE, device=place.device, requires_grad=True)
    index = {
        "column": torch.tensor([[9, 3], [9, 1], [9, 0]])[:, 1],
        "every second": torch.tensor([3, 9, 1, 9, 0, 9])[::2],
        "expanded": torch.tensor([2]).expand(3),
        "reversed order": torch.tensor([0, 1, 3]).flip(0),
    }[layout].to(place.device)
    theta = operands(place.device, batch=3)[1]
    grad = torch.randn(3, 2, *SIZE, device=place.device)
    for padding_mode in ("zeros", "border"):
        out = tstn.spatial_transform(x, theta, input_index=index, padding_mode=padding_mode)
        pairs = tstn.spatial_transform(x[index], theta, padding_mode=padding_mode)
        close(out, pairs)
        close(torch.autograd.grad(out, x, grad), torch.autograd.grad(pairs, x, grad))


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (1, 1, 4), (4, 1, 1)])
def test_axes_of_size_1_may_have_any_stride(place, shape):
    def fn(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c, d = theta.flatten().unbind()
        return a * x + b, c * y + d

    transform = tstn.CustomTransform(fn, shape, [1, 0, 1, 0])
    theta = torch.tensor([[1.1, 0.2, 0.9, -0.1], [0.8, 0.0, 1.2, 0.3]], device=place.device).view(2, *shape)
    x = operands(place.device)[0]
    strides = [
        step if size > 1 else 7 * i + 3 for i, (size, step) in enumerate(zip(shape, theta.stride()[1:], strict=True))
    ]
    odd = torch.zeros(64, device=place.device).as_strided(theta.shape, (4, *strides))
    odd.copy_(theta)
    results = []
    for t in (theta, odd):
        leaf = t.detach().requires_grad_()
        out = tstn.spatial_transform(x, leaf, transform)
        results.append((out, *torch.autograd.grad(out.sin().sum(), leaf)))
    close(results[1], results[0])


def test_images_and_fields_of_one_pixel_with_any_stride(place):
    x = torch.randn(2, 3, 1, 1, device=place.device).as_strided((2, 3, 1, 1), (3, 1, 17, 23))
    flow = torch.randn(2, 1, 1, 2, device=place.device).as_strided((2, 1, 1, 2), (2, 91, 83, 1))
    theta = torch.eye(2, 3, device=place.device).repeat(2, 1, 1)
    plain = tstn.spatial_transform(
        x.clone(memory_format=torch.contiguous_format), theta, flow=flow.contiguous().clone()
    )
    close(tstn.spatial_transform(x, theta, flow=flow), plain)


@pytest.mark.parametrize("changed", ["input", "theta", "fill", "flow", "index"])
def test_a_change_before_the_backward_pass_is_pytorchs_error(place, changed):
    x, theta = operands(place.device)
    values = {
        "input": x,
        "theta": theta,
        "fill": torch.randn(3, device=place.device),
        "flow": 0.1 * torch.randn(2, *SIZE, 2, device=place.device),
        "index": torch.tensor([1, 0], device=place.device),
    }
    leaves = {k: v if k == "index" else v.clone().requires_grad_() for k, v in values.items()}
    # An operand that is not a leaf may be changed.
    used = {k: v if k == "index" else v * 1 for k, v in leaves.items()}
    out = tstn.spatial_transform(
        used["input"], used["theta"], fill_value=used["fill"], flow=used["flow"], input_index=used["index"]
    )
    used[changed].zero_()
    names = ("input", "theta", "flow", "fill")
    try:
        grads = torch.autograd.grad(out.sum(), [leaves[k] for k in names])
    except RuntimeError as error:
        grads = str(error)
    if isinstance(grads, str):
        assert "modified by an inplace operation" in grads
        return
    # A backend that kept what it had read gives the gradients of that.
    leaves = {k: values[k].detach().clone().requires_grad_() for k in names}
    index = torch.tensor([1, 0], device=place.device)
    flow, fill = leaves["flow"], leaves["fill"]
    out = tstn.spatial_transform(leaves["input"], leaves["theta"], fill_value=fill, flow=flow, input_index=index)
    close(grads, torch.autograd.grad(out.sum(), list(leaves.values())))


# Autocast.


def mixing(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    u, v = theta.view(2, 3) @ torch.stack((x, y, torch.ones_like(x)))
    return u, v


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_custom_maps_with_products_keep_their_precision_under_autocast(place, dtype):
    transform = tstn.CustomTransform(mixing, (6,), [1, 0, 0, 0, 1, 0])
    x, theta = operands(place.device)
    theta = theta.flatten(1).requires_grad_()

    def results() -> list[Tensor]:
        out = tstn.spatial_transform(x, theta, transform)
        grid = tstn.sampling_grid(theta, transform, SIZE)
        slopes = torch.func.jacrev(lambda t: tstn.sampling_grid(t, transform, SIZE))(theta.detach())
        return [out, grid, slopes, *torch.autograd.grad((out.sum(), grid.sin().sum()), theta)]

    expected = results()
    with torch.autocast(place.device, dtype=dtype):
        actual = results()
    for found, true in zip(actual, expected, strict=True):
        assert found.dtype == torch.float32
        close(found, true, 1e-6)


@pytest.mark.parametrize("name", ["translation", "attention", "similarity", "affine", "projective"])
@pytest.mark.parametrize("theta_dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_algebra_is_float32_at_least(name, theta_dtype):
    transform = tstn.transforms.NAMED[name]
    identity = torch.tensor(cases.IDENTITY[name])
    theta = (identity + 0.2 * torch.randn(3, *identity.shape)).to(theta_dtype).requires_grad_()

    def results() -> list[Tensor]:
        inverse = transform.inverse(theta)
        found = [inverse, transform.compose(theta, inverse), transform.corners(theta)]
        return [*found, *torch.autograd.grad([f.sin().sum() for f in found], theta)]

    expected = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = results()
    wide = torch.float64 if theta_dtype == torch.float64 else torch.float32
    assert [r.dtype for r in actual] == [wide] * 3 + [theta_dtype]
    for found, true in zip(actual, expected, strict=True):
        torch.testing.assert_close(found, true, rtol=0, atol=0)
    composed = transform.matrix(actual[1])
    composed = composed / composed[:, -1:, -1:] if name == "projective" else composed
    close(composed, torch.eye(3, dtype=wide)[: composed.shape[1]].expand_as(composed), 1e-4)


# What a custom map reads from elsewhere, and what it leaves behind.


def test_captured_values_are_those_of_the_construction(place):
    scale = torch.tensor([0.5], device="cpu")
    shift = [0.1]

    def fn(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x * scale[0] + theta[0], y + shift[0]

    transform = tstn.CustomTransform(fn, (1,), [0.0])
    x, theta = operands(place.device)[0], torch.zeros(2, 1, device=place.device)
    before = tstn.spatial_transform(x, theta, transform), tstn.sampling_grid(theta, transform, SIZE)
    scale.fill_(3.0)
    shift[0] = -1.0
    after = tstn.spatial_transform(x, theta, transform), tstn.sampling_grid(theta, transform, SIZE)
    close(after, before, 0.0)
    matrix = torch.tensor([[0.5, 0.0, 0.0], [0.0, 1.0, 0.1]], device=place.device).expand(2, 2, 3)
    close(before[0], tstn.spatial_transform(x, matrix))
    # Another one with the values of now is another transform.
    assert tstn.CustomTransform(fn, (1,), [0.0]) != transform


def test_maps_that_are_gone_leave_nothing_behind(place):
    import gc
    import linecache

    from tstn import _generated, _plan

    x, theta = operands(place.device)[0], torch.zeros(2, 1, device=place.device)
    transform = tstn.CustomTransform(lambda theta, x, y: (x * 0.123 + theta[0], y), (1,), [0.0])
    tstn.spatial_transform(x, theta, transform)
    key = transform.kernel
    same = tstn.CustomTransform(lambda theta, x, y: (x * 0.123 + theta[0], y), (1,), [0.0])
    del transform
    gc.collect()
    assert key in _generated._codes
    tstn.spatial_transform(x, theta, same)
    del same
    gc.collect()
    assert key not in _generated._codes
    assert key not in _plan._calls
    assert not any(key in name for name in linecache.cache)


def _plans_of_affine() -> int:
    from tstn import _plan

    return vars(_plan)["_calls"]["affine"].cache_info().currsize


def test_plans_do_not_depend_on_the_fill_value(kernel_place):
    x, theta = operands(kernel_place.device)
    tstn.spatial_transform(x, theta, fill_value=0.5)
    made = _plans_of_affine()
    for fill in (0.25, 1, float("nan"), float("inf"), 7.0):
        tstn.spatial_transform(x, theta, fill_value=fill)
    assert _plans_of_affine() == made


# Classes of one's own.


class Halved(tstn.Affine):
    def matrix(self, theta: Tensor) -> Tensor:
        return theta * 0.5


class Shear(tstn.transforms.MatrixTransform):
    theta_shape = (1,)

    def matrix(self, theta: Tensor) -> Tensor:
        (s,) = theta.unbind(-1)
        zero, one = torch.zeros_like(s), torch.ones_like(s)
        return torch.stack((one, s, zero, zero, one, zero), -1).unflatten(-1, (2, 3))

    def from_matrix(self, matrix: Tensor) -> Tensor:
        return matrix[..., 0, 1:2]


class Wave(tstn.Transform):
    theta_shape = (2,)

    def identity_parameters(self) -> Tensor:
        return torch.zeros(2)

    def coordinates(self, numbers: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        a, b = numbers[:, :, None, None].unbind(1)
        return x + a * torch.sin(3 * y), y + b * torch.cos(2 * x)


class Untraceable(Wave):
    def coordinates(self, numbers: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x + torch.special.i0(numbers[:, :1, None]) - 1, y + 0 * numbers[:, :1, None]


@pytest.mark.parametrize("kind", [Halved, Shear, Wave])
def test_maps_of_ones_own_classes(place, compiled, kind):
    transform = kind()
    x = operands(place.device)[0]
    theta = transform.identity_parameters().repeat(2, 1).view(2, *transform.theta_shape) + 0.15
    theta = theta.to(place.device).requires_grad_()
    out = compiled(lambda x, theta: tstn.spatial_transform(x, theta, transform))(x, theta)
    grid = {
        Halved: lambda t: F.affine_grid(t * 0.5, [2, 3, *SIZE], align_corners=False),
        Shear: lambda t: F.affine_grid(Shear().matrix(t), [2, 3, *SIZE], align_corners=False),
        Wave: lambda t: _waves(t),
    }[kind](theta)
    expected = F.grid_sample(x, grid, align_corners=False)
    close(out, expected)
    close(tstn.sampling_grid(theta, transform, SIZE), grid)
    close(torch.autograd.grad(out.sin().sum(), theta), torch.autograd.grad(expected.sin().sum(), theta), 1e-4)


def _waves(theta: Tensor) -> Tensor:
    base = F.affine_grid(torch.eye(2, 3, device=theta.device)[None], [1, 1, *SIZE], align_corners=False)
    x, y = base.unbind(-1)
    a, b = theta[:, :, None, None].unbind(1)
    return torch.stack((x + a * torch.sin(3 * y), y + b * torch.cos(2 * x)), -1)


def test_what_cannot_be_traced_says_so_where_it_matters(place):
    x, theta = operands(place.device)[0], torch.zeros(2, 2, device=place.device)
    if place.backend == "torch":
        close(tstn.spatial_transform(x, theta, Untraceable()), x)
        return
    with pytest.raises(ValueError, match=r"Untraceable has a map of its own that cannot be traced.*backend\('torch'\)"):
        tstn.spatial_transform(x, theta, Untraceable())


def test_fields_cannot_mean_something_else():
    with pytest.raises(TypeError, match="Doubled cannot change what a field means"):

        class Doubled(tstn.Flow):
            def coordinates(self, numbers: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
                return 2 * x, 2 * y


def test_bad_matrices_of_ones_own_are_named():
    class Vector(tstn.Affine):
        def matrix(self, theta: Tensor) -> Tensor:
            return theta[..., 0]

    with pytest.raises(ValueError, match=r"matrix of Vector must return .*; got \(2, 2\) for \(2, 2, 3\)"):
        tstn.spatial_transform(*operands("cpu"), Vector())


# Batches of gradients, function transforms.


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("transform", ["affine", "grid", "spline_five", "lens"])
def test_batches_of_gradients(place, transform, channels_last):
    case = cases.Case(
        transform=transform, dtype=torch.float64, theta_dtype=torch.float64, spread=0.3, padding_mode="border"
    )
    x = cases.make_input(case, place.device)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    theta = cases.make_theta(case, case.size, place.device)[0]
    leaves = [x.detach().requires_grad_(), theta.requires_grad_()]
    out = tstn.spatial_transform(leaves[0], leaves[1], cases.transform_of(case), case.size, padding_mode="border")
    rows = torch.randn(3, *out.shape, dtype=out.dtype, device=place.device)
    batched = torch.autograd.grad(out, leaves, rows, is_grads_batched=True, retain_graph=True)
    loop = [torch.autograd.grad(out, leaves, row, retain_graph=True) for row in rows]
    close(batched, tuple(map(torch.stack, zip(*loop, strict=True))), 1e-9)


def test_batched_checks_and_vectorised_hessians(place):
    x, theta = operands(place.device, torch.float64, batch=1, channels=1)
    x, theta = x[:, :, :3, :3].contiguous(memory_format=torch.channels_last), theta + 0.13

    def loss(theta: Tensor) -> Tensor:
        return tstn.spatial_transform(x, theta, size=(2, 2)).sin().sum()

    vectorised = torch.autograd.functional.hessian(loss, theta, vectorize=True)
    close(vectorised, torch.autograd.functional.hessian(loss, theta), 1e-9)
    leaves = [x.clone().requires_grad_(), theta.clone().requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda *v: tstn.spatial_transform(*v, size=(2, 2)), leaves, check_batched_grad=True, fast_mode=False
    )


def test_function_transforms_of_channels_last_images(place):
    x, theta = operands(place.device, torch.float64)
    images = torch.stack([x, x + 1, x * 2])
    last = images.movedim(2, -1).contiguous().movedim(-1, 2)
    warp = tstn.spatial_transform

    def per_sample(x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: warp(x, theta).square().sum())(x)

    for function in (
        torch.vmap(lambda x: warp(x, theta)),
        torch.vmap(per_sample),
        lambda batch: torch.func.jacfwd(lambda x: warp(x, theta)[:, :1])(batch[0]),
        lambda batch: torch.func.hessian(lambda x: warp(x, theta[:1], size=(2, 2)).sin().sum())(batch[0, :1, :2]),
    ):
        close(function(last), function(images), 1e-9)


def test_vmap_over_the_index(place):
    x, theta = operands(place.device, batch=3)
    index = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 1]], device=place.device)
    out = torch.vmap(lambda i: tstn.spatial_transform(x, theta, input_index=i))(index)
    close(out, torch.stack([tstn.spatial_transform(x[i], theta) for i in index]))


# Subclasses and modes.


class Picture(torch.Tensor):
    """A subclass that overrides nothing, as most are."""


def test_second_derivatives_of_subclasses(place):
    x, theta = operands(place.device, torch.float64)

    def second(x: Tensor) -> tuple[Tensor, ...]:
        leaf = theta.clone().requires_grad_()
        out = tstn.spatial_transform(x, leaf)
        (grad,) = torch.autograd.grad(out.sin().sum(), leaf, create_graph=True)
        return (out, *torch.autograd.grad(grad.square().sum(), leaf))

    picture = second(x.as_subclass(Picture))
    # As F.grid_sample returns it.
    assert isinstance(picture[0], Picture)
    for found, expected in zip(picture, second(x), strict=True):
        close(found.as_subclass(Tensor), expected, 1e-9)


class Names(TorchDispatchMode):
    """Writes down the operators that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_dispatch_modes_see_operators(kernel_place):
    x, theta = (t.requires_grad_() for t in operands(kernel_place.device, torch.float64))
    with Names() as names:
        out = tstn.spatial_transform(x, theta)
        grads = torch.autograd.grad(out.sin().sum(), (x, theta), create_graph=True)
        second = torch.autograd.grad(grads[1].square().sum(), x)
    assert "tstn.spatial_transform.default" in names.seen
    out = tstn.spatial_transform(x, theta)
    expected = torch.autograd.grad(out.sin().sum(), (x, theta), create_graph=True)
    close(grads, expected, 1e-9)
    close(second, torch.autograd.grad(expected[1].square().sum(), x), 1e-9)


def test_a_bare_op_has_no_second_derivative(kernel_place):
    x, theta = operands(kernel_place.device)
    theta = theta.flatten(1).requires_grad_()
    options = (None, None, None, None, "affine", *SIZE, "bilinear", "zeros", False, 0.0)
    out = torch.ops.tstn.spatial_transform(x, theta, *options)
    (grad,) = torch.autograd.grad(out.sin().sum(), theta, create_graph=True)
    # PyTorch's error, not a gradient without what goes through the first.
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        grad.square().sum().backward()


# Tracers and compilers.


def network(device: str, transform: Any = "affine") -> nn.Module:
    count = tstn.transforms.as_transform(transform).num_parameters
    localization = nn.Sequential(nn.Flatten(), nn.Linear(20, count))
    model = tstn.SpatialTransformer(localization, transform, fill_value=0.25)
    nn.init.normal_(localization[-1].weight, std=0.05)
    return model.to(device).eval()


EXPORTED = ["affine", "projective", tstn.ThinPlateSpline((2, 2)), examples.lens_distortion()]


@pytest.mark.parametrize("transform", EXPORTED, ids=repr)
def test_torchscript_traces_are_portable(place, transform):
    model = network(place.device, transform)
    with warnings.catch_warnings():
        # Shapes are checked in Python, and the tracer warns that they stay as they are.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, (torch.rand(3, 1, *SIZE, device=place.device),))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    x = torch.rand(3, 1, *SIZE, device=place.device)
    close(torch.jit.load(file)(x), model(x))
    assert not any(node.kind().startswith("tstn::") for node in traced.inlined_graph.nodes())


def test_scripting_says_what_to_use(place):
    for target in (
        network(place.device),
        nn.Sequential(network(place.device)),
        tstn.spatial_transform,
        tstn.grid_sample,
    ):
        with pytest.raises(
            RuntimeError, match=r"torch.jit.script does not support tstn\..*torch.jit.trace or torch.export"
        ):
            torch.jit.script(target)


@pytest.mark.parametrize("transform", EXPORTED, ids=repr)
def test_symbolic_traces(place, transform):
    model = nn.Sequential(network(place.device, transform), nn.ReLU())
    graph = torch.fx.symbolic_trace(model)
    for batch in (3, 5):
        x = torch.rand(batch, 1, *SIZE, device=place.device)
        close(graph(x), model(x))
    with pytest.raises(ValueError, match="localization must map the input"):
        torch.fx.symbolic_trace(Wrong())(torch.rand(2, 1, *SIZE))


class Wrong(nn.Module):
    """Its localisation network predicts too few numbers."""

    def __init__(self) -> None:
        super().__init__()
        localization = nn.Sequential(nn.Flatten(), nn.Linear(20, 5))
        self.stn = tstn.SpatialTransformer(localization, output_layer=None)

    def forward(self, x: Tensor) -> Tensor:
        return self.stn(x)


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_make_fx_holds_the_op(place, tracing_mode):
    x, theta = operands(place.device)
    index = torch.tensor([1, 0], device=place.device)

    def step(x: Tensor, theta: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        theta = theta.requires_grad_()
        out = tstn.spatial_transform(x, theta, input_index=index)
        return (out, *torch.autograd.grad(out.sin().sum(), theta))

    graph = make_fx(step, tracing_mode=tracing_mode)(x, theta, index)
    targets = " ".join(str(node.target) for node in graph.graph.nodes)
    assert ("tstn.spatial_transform.default" in targets) == (place.backend == "triton")
    other = operands(place.device)
    close(graph(*other, index), step(*other, index))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_autograd_over_an_eager_forward(place):
    from torch._dynamo import compiled_autograd

    x, theta = (t.requires_grad_() for t in operands(place.device))
    out = tstn.spatial_transform(x, theta).sin().sum()
    expected = torch.autograd.grad(out, (x, theta), retain_graph=True)
    torch.compiler.reset()
    with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        out.backward()
    torch.compiler.reset()
    close((x.grad, theta.grad), expected)


def test_any_fill_value_without_compiling_again(place):
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def warp(x: Tensor, theta: Tensor, fill: float) -> Tensor:
        return tstn.spatial_transform(x, theta, fill_value=fill)

    compiled = torch.compile(warp, backend=backend, fullgraph=True)
    x, theta = operands(place.device)
    for fill in (0.5, 0.25, 1.5, -3.0, 7.25, 0.125, 9.5, 2.5, 11.5, 12.5):
        close(compiled(x, theta * 1.5, fill), warp(x, theta * 1.5, fill))
    # The first value, and then any.
    assert len(graphs) == 2
    torch.compiler.reset()


class Warp(nn.Module):
    """The functional call, of an image and a theta."""

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return tstn.spatial_transform(x, theta, mode="bicubic", padding_mode="border", align_corners=True)


# The exporters' own: how one copies its graph, that the other is the old one, calls what is old, and keeps shapes.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed. Please remove usage:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning")
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("kind", ["module", "function"])
def test_onnx(place, kind, dynamo, tmp_path):
    """ONNX models are plain PyTorch, whoever computes here, and run without tstn."""
    onnxruntime = [pytest.importorskip(name) for name in ("onnx", "onnxscript", "onnxruntime")][-1]
    x, theta = operands(place.device, channels=1)
    model, arguments = (network(place.device), (x,)) if kind == "module" else (Warp().eval(), (x, theta))
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, arguments, path, dynamo=dynamo, opset_version=20, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    # Other numbers than those that were recorded.
    arguments = tuple(t.cpu() for t in (x.flip(0), theta.flip(0))[: len(arguments)])
    names = [value.name for value in session.get_inputs()]
    (found,) = session.run(None, {name: t.numpy() for name, t in zip(names, arguments, strict=True)})
    close(torch.from_numpy(found), model(*(t.to(place.device) for t in arguments)).cpu())


def test_exported_programs_are_portable_unless_the_kernels_were_asked_for(place):
    if place.device != "cpu":
        pytest.skip("a GPU chooses the kernels by itself")
    model = network(place.device)
    x = torch.rand(3, 1, *SIZE)
    for choice, holds_op in (("auto", False), (place.backend, place.backend == "triton")):
        with tstn.backend(choice):
            program = torch.export.export(model, (x,))
        targets = [str(node.target) for node in program.graph.nodes]
        assert any(target.startswith("tstn.") for target in targets) == holds_op
        close(program.module()(x), model(x))
