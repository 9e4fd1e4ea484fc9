"""Derivatives of every order, in every mode of differentiation, of every transform in every sampling mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cases
import oracle
import pytest
import torch
from cases import Case
from torch import Tensor
from torch.autograd import forward_ad

import tstn

# "affine+flow" has the flow keyword; the spline stands for all splines.
TRANSFORMS = (
    *("translation", "attention", "similarity", "affine", "projective"),
    *("spline_five_smooth", "flow", "grid", "affine+flow", *oracle.CUSTOM),
)
PADDING_MODES = ("zeros", "border", "reflection")
# Paddings and both meanings of the corners are spread over the pairs, so that every mode and transform has each.
EVERY_CASE = [
    pytest.param(
        Case(
            transform=transform.removesuffix("+flow"),
            flow="contiguous" if "+" in transform else "none",
            mode=mode,
            padding_mode=PADDING_MODES[(i + j) % 3],
            align_corners=(i + j) % 2 == 1,
            spread=0.3,
        ),
        id=f"{transform}-{mode}",
    )
    for i, transform in enumerate(TRANSFORMS)
    for j, mode in enumerate(cases.MODES)
]
every_case = pytest.mark.parametrize("case", EVERY_CASE)


class Problem:
    """Operands in float64 by name, away from steps and kinks of the sampler, and the warp as a function of them."""

    def __init__(self, case: Case, device: str, small: bool = False):
        self.case = case
        self.transform = cases.transform_of(case)
        self.size = (2, 2) if small else (3, 4)
        image_size = (3, 3) if small else (4, 5)
        channels = 1 if small else 2
        lead = (1 if small else 2,)
        x = torch.randn(*lead, channels, *image_size, dtype=torch.float64)
        for _ in range(1000):
            theta = cases.random_theta(case, lead, self.size).double()
            flow = None if case.flow == "none" else 0.3 * torch.randn(*lead, *self.size, 2, dtype=torch.float64)
            at = oracle.grid(case.transform, theta, self.size, case.align_corners)
            at = oracle.pixels(at if flow is None else at + flow, image_size, case.align_corners)
            # Away from whole pixels and halves; some pixels inside, some outside, none too far away to differentiate.
            clear = ((2 * at).round() - 2 * at).abs().min() > 5e-3
            last = at.new_tensor(image_size[::-1]) - 1
            inside = ((at > 0) & (at < last)).all(-1).flatten(1).any(1).all()
            outside = ((at < -0.5) | (at > last + 0.5)).any()
            if clear and (small or (inside and outside)) and at.abs().max() < 20:
                break
        else:
            raise AssertionError(f"no theta away from the lattice for {case}")
        operands = {"x": x, "theta": theta}
        if case.padding_mode == "zeros":
            operands["fill"] = torch.randn(channels, dtype=torch.float64)
        if flow is not None:
            operands["flow"] = flow
        self.operands = {name: t.to(device) for name, t in operands.items()}
        self.names = tuple(self.operands)

    @property
    def values(self) -> tuple[Tensor, ...]:
        return tuple(self.operands.values())

    def leaves(self) -> tuple[Tensor, ...]:
        return tuple(t.clone().requires_grad_() for t in self.values)

    def directions(self) -> tuple[Tensor, ...]:
        return tuple(torch.randn_like(t) for t in self.values)

    def warp(self, *values: Tensor) -> Tensor:
        given: dict[str, Any] = dict(zip(self.names, values, strict=True))
        return tstn.spatial_transform(
            given["x"],
            given["theta"],
            self.transform,
            self.size,
            mode=self.case.mode,
            padding_mode=self.case.padding_mode,
            fill_value=given.get("fill"),
            align_corners=self.case.align_corners,
            **({"flow": given["flow"]} if "flow" in given else {}),
        )

    def loss(self, *values: Tensor) -> Tensor:
        """A curved function of every output."""
        return self.warp(*values).sin().sum()

    @property
    def has_slope(self) -> bool:
        """Whether coordinates have a gradient."""
        return self.case.mode != "nearest"


def close(actual: Any, expected: Any, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def central_difference(function: Callable[..., Tensor], values: Any, directions: Any, step: float = 1e-6) -> Tensor:
    ahead = function(*(v + step * d for v, d in zip(values, directions, strict=True)))
    behind = function(*(v - step * d for v, d in zip(values, directions, strict=True)))
    return (ahead - behind) / (2 * step)


@every_case
def test_first_and_second_derivatives(place, case):
    # PyTorch's fast mode, one random direction instead of every entry: calls are slow in the interpreter.
    problem = Problem(case, place.device, small=place == ("triton", "cpu"))
    # On a GPU the input's gradient is summed by atomics, ours and PyTorch's: its last bits may change.
    options = {"fast_mode": True, "nondet_tol": 1e-9 if place.device == "cuda" else 0.0, "atol": 1e-6}
    options["check_undefined_grad"] = place != ("triton", "cpu")
    leaves = problem.leaves()
    if not problem.has_slope:
        # What nothing depends on is zero, and more than the fast mode can take.
        grads = dict(zip(problem.names, torch.autograd.grad(problem.loss(*leaves), leaves), strict=True))
        assert all((grads[name] == 0).all() for name in ("theta", "flow") if name in grads)
        leaves = [leaf.requires_grad_(n in ("x", "fill")) for n, leaf in zip(problem.names, leaves, strict=True)]
    assert torch.autograd.gradcheck(problem.warp, leaves, **options)
    assert torch.autograd.gradgradcheck(problem.warp, leaves, **options)


@every_case
def test_jvp_and_dual_tensors(place, case):
    """Forward mode against differences, for all operands together and for each alone."""
    problem = Problem(case, place.device)
    values, directions = problem.values, problem.directions()
    for chosen in (None, *range(len(values))):
        tangents = tuple(d if chosen in (None, i) else torch.zeros_like(d) for i, d in enumerate(directions))
        expected = central_difference(problem.warp, values, tangents)
        tangent = torch.func.jvp(problem.warp, values, tangents)[1]
        close(tangent, expected, 1e-6)
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(v, t) if chosen in (None, i) else v
                for i, (v, t) in enumerate(zip(values, tangents, strict=True))
            ]
            dual = forward_ad.unpack_dual(problem.warp(*duals))
        assert dual.tangent is not None
        close(dual.tangent, expected, 1e-6)
        # Never a zero by omission.
        moves = chosen is None or problem.names[chosen] in ("x", "fill") or problem.has_slope
        assert (tangent.abs().max() > 1e-3) == (dual.tangent.abs().max() > 1e-3) == moves


@every_case
def test_forward_over_leaves_that_require_grad(place, case):
    """A tangent through operands that also record a graph, and the gradient of that tangent."""
    problem = Problem(case, place.device)
    directions = problem.directions()
    leaves = problem.leaves()
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(v, d) for v, d in zip(leaves, directions, strict=True)]
        tangent = forward_ad.unpack_dual(problem.loss(*duals)).tangent
        assert tangent is not None
        grads = torch.autograd.grad(tangent, leaves)
    gradient = torch.func.grad(problem.loss, argnums=tuple(range(len(leaves))))
    for got, i in zip(grads, range(len(leaves)), strict=True):
        expected = central_difference(lambda *v, i=i: gradient(*v)[i], problem.values, directions)
        close(got, expected, 1e-5)


@every_case
def test_jacobians(place, case):
    """Forward, reverse and the backend's own backward pass make the same Jacobian."""
    problem = Problem(case, place.device)
    for i, name in enumerate(problem.names):
        if name == "x":
            continue

        def function(value: Tensor, i: int = i) -> Tensor:
            return problem.warp(*problem.values[:i], value, *problem.values[i + 1 :]).sum(1)

        forward = torch.func.jacfwd(function)(problem.values[i])
        reverse = torch.func.jacrev(function)(problem.values[i])
        close(forward, reverse)
        leaf = problem.values[i].clone().requires_grad_()
        out = function(leaf)
        # Two rows are enough to tie the kernels' own backward pass to these.
        for at in (0, out.numel() - 5):
            (row,) = torch.autograd.grad(out.flatten()[at], leaf, retain_graph=True)
            close(row, reverse.flatten(0, out.dim() - 1)[at])
        assert (forward.abs().max() > 1e-3) == (name == "fill" or problem.has_slope)


@every_case
def test_hessians(place, case):
    problem = Problem(case, place.device)
    x, theta, *rest = problem.values

    def loss(theta: Tensor) -> Tensor:
        return problem.loss(x, theta, *rest)

    hessian = torch.func.jacfwd(torch.func.jacrev(loss))(theta)
    close(hessian, torch.func.jacrev(torch.func.jacrev(loss))(theta))
    leaf = theta.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    if grad.requires_grad:
        direction = torch.randn_like(theta)
        (product,) = torch.autograd.grad(grad, leaf, direction)
        close(product, torch.tensordot(direction, hessian, theta.dim()))
    else:
        # A gradient that is zero whatever theta is.
        assert not problem.has_slope
        assert (grad == 0).all()
    assert (hessian.abs().max() > 1e-3) == problem.has_slope


def stacked(problem: Problem) -> tuple[Tensor, ...]:
    """Three different sets of operands, near enough to the problem's to be as clear of steps."""
    return tuple(torch.stack([v + 1e-4 * i * torch.randn_like(v) for i in range(3)]) for v in problem.values)


@every_case
def test_vmap(place, case):
    problem = Problem(case, place.device)
    values = stacked(problem)
    expected = torch.stack([problem.warp(*one) for one in zip(*values, strict=True)])
    close(torch.vmap(problem.warp)(*values), expected)
    # One image under many thetas: what does not vary is not batched.
    in_dims = tuple(None if name == "x" else 0 for name in problem.names)
    expected = torch.stack([problem.warp(values[0][0], *one[1:]) for one in zip(*values, strict=True)])
    close(torch.vmap(problem.warp, in_dims)(values[0][0], *values[1:]), expected)


@every_case
def test_vmap_of_gradients_and_tangents(place, case):
    problem = Problem(case, place.device)
    values = stacked(problem)
    argnums = tuple(range(len(values)))
    per_sample = torch.vmap(torch.func.grad(problem.loss, argnums))(*values)
    leaves = [[v[i].clone().requires_grad_() for v in values] for i in range(3)]
    loops = [torch.autograd.grad(problem.loss(*one), one) for one in leaves]
    close(per_sample, tuple(torch.stack(grads) for grads in zip(*loops, strict=True)))

    directions = problem.directions()

    def tangent(*one: Tensor) -> Tensor:
        return torch.func.jvp(problem.warp, one, directions)[1]

    close(torch.vmap(tangent)(*values), torch.stack([tangent(*(v[i] for v in values)) for i in range(3)]))


# Each function transform with a few warps: tracing takes seconds.
COMPILED = [
    ("gradient", "affine-bilinear"),
    ("vmap of gradient", "projective-bilinear"),
    ("tangent", "affine+flow-bilinear"),
    ("gradient", "flow-bicubic"),
    ("vmap of gradient", "spline_five_smooth-bilinear"),
    ("tangent", "lens-nearest"),
]


@pytest.mark.parametrize(("kind", "name"), COMPILED)
def test_function_transforms_under_compile(place, kind, name):
    (case,) = (parameters.values[0] for parameters in EVERY_CASE if parameters.id == name)
    problem = Problem(case, place.device)
    gradient = torch.func.grad(problem.loss, tuple(range(len(problem.names))))
    directions = problem.directions()

    def tangent(*values: Tensor) -> Tensor:
        return torch.func.jvp(problem.warp, values, directions)[1]

    function, values = {
        "gradient": (gradient, problem.values),
        "vmap of gradient": (torch.vmap(gradient), stacked(problem)),
        "tangent": (tangent, problem.values),
    }[kind]
    torch.compiler.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        close(compiled(*values), function(*values))
    torch.compiler.reset()


def test_double_backward_of_a_compiled_function_is_an_error(place):
    """PyTorch's own limit, the same for every compiled function; the message is its, and never a wrong number."""
    problem = Problem(Case(spread=0.3), place.device)
    torch.compiler.reset()
    compiled = torch.compile(problem.loss, backend="aot_eager", fullgraph=True)
    leaves = problem.leaves()
    (grad,) = torch.autograd.grad(compiled(*leaves), leaves[1], create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        grad.sum().backward()
    torch.compiler.reset()


def test_second_derivative_when_only_some_operands_need_it(place):
    problem = Problem(Case(spread=0.3), place.device)
    x, theta, fill = problem.values
    theta = theta.clone().requires_grad_()

    def gradient(theta: Tensor) -> Tensor:
        return torch.autograd.grad(problem.loss(x, theta, fill), theta, create_graph=True)[0]

    (second,) = torch.autograd.grad(gradient(theta).square().sum(), theta)
    direction = torch.randn_like(theta)
    numeric = central_difference(
        lambda t: gradient(t.detach().requires_grad_()).detach().square().sum(), (theta,), (direction,)
    )
    close((second * direction).sum(), numeric.detach(), 1e-5)
