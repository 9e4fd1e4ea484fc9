"""``torch.use_deterministic_algorithms(True)``: the same bits from every run and every order of programs, no errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import cases
import numpy as np
import pytest
import torch
from cases import Call, Case
from torch import Tensor

import tstn
from tstn._backend import INTERPRETED

REPEATS = 20
interpreted_only = pytest.mark.skipif(not INTERPRETED, reason="orders are made by hand in the interpreter only")
TRANSFORMS = (
    *("translation", "attention", "similarity", "affine", "projective"),
    *("spline_lattice", "spline_five_smooth", "flow", "grid", "affine+flow", "projective+flow", "lens"),
)
PADDINGS = [("zeros", "none"), ("border", "none"), ("zeros", "tensor"), ("reflection", "none"), ("zeros", "float")]
NEEDED = [(True, True, True), (True, False, False), (True, True, False), (False, True, True), (True, False, True)]


def case_of(transform: str, mode: str, number: int) -> Case:
    """A deterministic case; all other options change with ``number``, each at its own pace."""
    padding_mode, fill = PADDINGS[number % 5]
    return Case(
        transform=transform.removesuffix("+flow"),
        mode=mode,
        padding_mode=padding_mode,
        fill=fill,
        align_corners=number % 2 == 1,
        dtype=cases.DTYPES[number % 4],
        theta_dtype=cases.DTYPES[number // 2 % 4],
        layout=("contiguous", "channels_last", "strided", "expanded")[number // 3 % 4],
        grad_layout=("contiguous", "channels_last", "expanded")[number // 2 % 3],
        batching=("paired", "indexed", "views", "shared")[number // 5 % 4],
        needed=NEEDED[number // 4 % 5],
        flow=("contiguous", "permuted", "expanded")[number % 3] if "+" in transform else "none",
        flow_dtype=cases.DTYPES[number // 3 % 4],
        deterministic=True,
        seed=number,
    )


def run(case: Case, device: str) -> list[Tensor]:
    """Values and gradients."""
    call = Call(case, device)
    output = call.output()
    torch.manual_seed(1)
    return [output.detach(), *call.gradients(output, cases.make_grad(case, output.detach())).values()]


def same_bits(actual: list[Tensor], expected: list[Tensor]) -> bool:
    return len(actual) == len(expected) and all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("mode", cases.MODES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_every_path_repeats_and_agrees_with_the_oracle(place, transform, mode):
    start = 7 * TRANSFORMS.index(transform) + 3 * cases.MODES.index(mode)
    # What is compiled takes its time; see below for other orders.
    few = place == ("triton", "cpu")
    for number in range(start, start + (1 if few else 10)):
        case = case_of(transform, mode, number)
        cases.check(case, place.device)
        with cases.determinism(case):
            first = run(case, place.device)
            for _ in range(1 if INTERPRETED else REPEATS - 1):
                assert same_bits(run(case, place.device), first), case


@contextmanager
def shuffled(generator: np.random.Generator) -> Iterator[None]:
    """The interpreter runs programs, and the lanes of each atomic operation, in a random order, as a GPU may."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    builder = interpreter.interpreter_builder
    set_dim, set_idx, atomic = builder.set_grid_dim, builder.set_grid_idx, builder.create_atomic_rmw
    orders: list[np.ndarray] = []

    def set_grid_dim(x: int, y: int, z: int) -> None:
        orders[:] = [generator.permutation(n) for n in (x, y, z)]
        set_dim(x, y, z)

    def set_grid_idx(x: int, y: int, z: int) -> None:
        set_idx(int(orders[0][x]), int(orders[1][y]), int(orders[2][z]))

    def create_atomic_rmw(operation, pointer, value, mask, sem, scope):
        lanes = generator.permutation(np.asarray(pointer.data).size)

        def permuted(handle):
            # 0-dimensional handles hold numbers.
            data = np.atleast_1d(handle.data).ravel()[lanes]
            return interpreter.TensorHandle(np.ascontiguousarray(data), handle.dtype)

        result = atomic(operation, permuted(pointer), permuted(value), permuted(mask), sem, scope)
        data = np.empty_like(result.data)
        data[lanes] = result.data
        return interpreter.TensorHandle(data.reshape(np.shape(pointer.data)), result.dtype)

    builder.set_grid_dim, builder.set_grid_idx, builder.create_atomic_rmw = (
        set_grid_dim,
        set_grid_idx,
        create_atomic_rmw,
    )
    try:
        yield
    finally:
        del builder.set_grid_dim, builder.set_grid_idx, builder.create_atomic_rmw


def crowded(transform: str, mode: str, dtype: torch.dtype, *, indexed: bool = False) -> Callable[[str], list[Tensor]]:
    """Many output pixels, of several samples and tiles, over few input pixels; gradients of very different sizes."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    theta = {
        "affine": 0.2 * torch.eye(2, 3).double() + 0.05 * random(3, 2, 3),
        "projective": torch.diag(torch.tensor([0.2, 0.2, 1.0])).double() + 0.05 * random(3, 3, 3),
        "grid": 0.3 * random(3, 6, 7, 2),
    }[transform]
    x = random(2 if indexed else 1, 1, 2, 3)
    grad = random(3, 1, 6, 7) * 10 ** (4 * torch.rand(3, 1, 6, 7, generator=generator).double() - 2)
    index = torch.tensor([0, 1, 0]) if indexed else None

    def run(device: str) -> list[Tensor]:
        leaves = (x.to(dtype).to(device).requires_grad_(), theta.to(device).requires_grad_())
        options = {} if index is None else {"input_index": index.to(device)}
        y = tstn.spatial_transform(leaves[0], leaves[1], transform, (6, 7), mode=mode, padding_mode="border", **options)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(dtype).to(device))]

    return run


@interpreted_only
@pytest.mark.parametrize(
    ("transform", "mode", "dtype", "indexed"),
    [
        ("affine", "bilinear", torch.float32, False),
        ("affine", "nearest", torch.float32, True),
        ("projective", "bilinear", torch.float16, False),
        ("grid", "bilinear", torch.float64, True),
        ("grid", "bicubic", torch.float32, False),
    ],
    ids=str,
)
def test_no_order_of_programs_changes_a_bit(kernel_place, transform, mode, dtype, indexed):
    function = crowded(transform, mode, dtype, indexed=indexed)
    generator = np.random.default_rng(0)
    with cases.tiles(Case(cut=True)), cases.determinism(Case(deterministic=True)):
        first = function(kernel_place.device)
        for _ in range(2):
            with shuffled(generator):
                assert same_bits(function(kernel_place.device), first)


@interpreted_only
def test_the_order_of_programs_matters_without_determinism(kernel_place):
    """That the shuffling above shuffles: floating-point sums by atomics depend on their order."""
    function = crowded("affine", "bilinear", torch.float32)
    with cases.tiles(Case(cut=True)):
        output, grad_input, grad_theta = function(kernel_place.device)
        with shuffled(np.random.default_rng(0)):
            again = function(kernel_place.device)
    assert not torch.equal(again[1], grad_input)
    torch.testing.assert_close(again[1], grad_input, rtol=1e-5, atol=1e-3)
    # These never depend on it.
    assert same_bits([again[0], again[2]], [output, grad_theta])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("mode", cases.MODES)
@pytest.mark.parametrize("transform", ["affine", "projective", "grid"])
def test_collisions_on_a_gpu(place, transform, mode, dtype):
    function = crowded(transform, mode, dtype)
    with cases.determinism(Case(deterministic=True)):
        first = function(place.device)
        for _ in range(REPEATS):
            assert same_bits(function(place.device), first)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_nonsense_in_the_gradient_shows(place, bad, dtype):
    """What is not finite in the output's gradient is not finite in the input's, at the pixels that it came from."""
    x = torch.randn(2, 2, 6, 7, dtype=torch.float64).to(dtype).to(place.device).requires_grad_()
    theta = (0.7 * torch.eye(2, 3) + 0.02).repeat(2, 1, 1).to(place.device)
    finite = {}
    for deterministic in (False, True):
        with cases.determinism(Case(deterministic=deterministic)):
            y = tstn.spatial_transform(x, theta, size=(4, 5))
            grad = torch.ones_like(y)
            grad[0, 1, 2, 3] = bad
            (grad_x,) = torch.autograd.grad(y, x, grad)
        finite[deterministic] = torch.isfinite(grad_x)
    assert torch.equal(finite[True], finite[False])
    assert (~finite[True][0, 1]).sum() == 4
    assert finite[True][0, 0].all()
    assert finite[True][1].all()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30], ids=str)
def test_gradients_of_any_size(place, scale):
    """Fixed-point sums follow the size of the gradient, and are 0 for 0."""
    x = torch.randn(1, 2, 6, 7, device=place.device, requires_grad=True)
    theta = 0.6 * torch.eye(2, 3, device=place.device)[None] + 0.03
    grad = torch.randn(1, 2, 8, 9, device=place.device)
    with cases.determinism(Case(deterministic=True)):
        y = tstn.spatial_transform(x, theta, size=(8, 9))
        (one,) = torch.autograd.grad(y, x, grad, retain_graph=True)
        (scaled,) = torch.autograd.grad(y, x, grad * scale)
    torch.testing.assert_close(scaled.double(), one.double() * scale, rtol=1e-5, atol=1e-6 * scale)


def test_nothing_is_said_when_only_warnings_are_wanted(place):
    """Warnings are errors in these tests."""
    case = replace(case_of("projective", "bicubic", 1), deterministic=False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert same_bits(run(case, place.device), run(case, place.device))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("transform", ["affine", "spline_five", "grid"])
def test_compiled_is_deterministic_too(place, compiled, transform):
    cases.check(Case(transform=transform, deterministic=True, fill="tensor"), place.device, compiled)


@pytest.mark.parametrize("transform", ["affine", "spline_five_smooth", "grid"])
def test_second_order_does_not_object(place, transform):
    case = replace(case_of(transform, "bilinear", 1), dtype=torch.float64, theta_dtype=torch.float64, flow="none")
    case = replace(case, needed=(True, True, False), fill="none")

    def second() -> list[Tensor]:
        call = Call(case, place.device)
        leaves = list(call.wanted().values())
        grads = torch.autograd.grad(call.output().square().sum(), leaves, create_graph=True)
        total = torch.stack([g.square().sum() for g in grads]).sum()
        return list(torch.autograd.grad(total, leaves))

    with cases.determinism(case):
        first = second()
        assert all(same_bits(second(), first) for _ in range(3))


@pytest.mark.parametrize("indexed", [False, True], ids=["views", "indexed"])
def test_each_input_has_its_own_scale(kernel_place, indexed):
    """Sums in fixed point: a small gradient keeps its digits beside another input's large one."""
    torch.manual_seed(2)
    x = torch.randn(2, 1, 5, 6, device=kernel_place.device, requires_grad=True)
    theta = (torch.eye(2, 3) + 0.2 * torch.randn(4, 2, 3)).to(kernel_place.device)
    size = torch.tensor([1e-14, 1e-14, 1e8, 1e8], device=kernel_place.device)[:, None, None, None]
    index = torch.tensor([1, 1, 0, 0], device=kernel_place.device) if indexed else None
    y = tstn.spatial_transform(
        x, theta if indexed else theta.unflatten(0, (2, 2)), padding_mode="border", input_index=index
    )
    grad = torch.randn(4, 1, 5, 6, device=kernel_place.device) * size
    grad = grad.reshape(y.shape)
    (expected,) = torch.autograd.grad(y, x, grad, retain_graph=True)
    with cases.determinism(Case(deterministic=True)):
        (actual,) = torch.autograd.grad(y, x, grad)
    for n in range(2):
        torch.testing.assert_close(actual[n], expected[n], rtol=1e-5, atol=float(expected[n].abs().max()) * 1e-6)
