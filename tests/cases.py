"""One configuration of the op, drawn at random or by hand, and its comparison with the oracle."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import oracle
import torch
from layouts import LAYOUTS, lay_out
from operands import EXAMPLES as EXAMPLES
from operands import IDENTITY as IDENTITY
from operands import make_fill, make_flow, make_grad, make_input, make_theta, transform_of
from operands import random_theta as random_theta
from torch import Tensor

import tstn
from tstn import _configs, _plan

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Relative to the size of the summed terms. Half types: one rounding, and a truncation for bfloat16 in the interpreter.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2**-10,
    torch.bfloat16: 2**-7,
}
TRANSFORMS = ("translation", "attention", "similarity", "affine", "grid")
EVERY_TRANSFORM = (*TRANSFORMS, "projective", "flow", *oracle.SPLINES, *oracle.CUSTOM)
MODES = ("bilinear", "nearest", "bicubic")


@dataclass(frozen=True)
class Case:
    """What a call varies in, but for empty tensors and numbers that are none, which have tests of their own."""

    transform: str = "affine"  # one of EVERY_TRANSFORM
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    fill: str = "none"  # "none" | "float" | "tensor"
    fill_dtype: torch.dtype = torch.float32
    align_corners: bool = False
    dtype: torch.dtype = torch.float32
    theta_dtype: torch.dtype = torch.float32
    layout: str = "contiguous"  # one of LAYOUTS, as for every operand
    theta_layout: str = "contiguous"
    fill_layout: str = "contiguous"
    index_layout: str = "contiguous"
    grad_layout: str = "contiguous"  # "expanded": a sum's, which is 1 everywhere
    batching: str = "paired"  # "paired" | "shared" | "views" | "indexed"
    batch: int = 2
    views: int = 2
    channels: int = 3
    input_size: tuple[int, int] = (6, 7)
    size: tuple[int, int] | None = (5, 8)
    needed: tuple[bool, bool, bool] = (True, True, True)  # gradients of input, theta, fill
    spread: float = 0.6
    flow: str = "none"  # or one of LAYOUTS; not with a dense transform
    flow_dtype: torch.dtype = torch.float32
    need_flow: bool = True
    # Of LAYOUTS, what hooks give back in place of tensors saved for the backward pass.
    saved: str = "untouched"
    autocast: bool = False
    # "first" | "create_graph": of the same, by what has more derivatives | "second", all in float64.
    derivatives: str = "first"
    # theta is itself plus a linear function of the input that it is for; all in float64.
    linked: bool = False
    # Under torch.use_deterministic_algorithms(True).
    deterministic: bool = False
    # On the CPU many small tiles and channel runs, which sum as on a GPU.
    cut: bool = False
    seed: int = 0


def draw(rng: random.Random) -> Case:
    """A random configuration; every option is crossed with every other."""
    padding_mode = rng.choice(("zeros", "zeros", "border", "reflection"))
    needed = rng.choice([(i, t, f) for i in (True, False) for t in (True, False) for f in (True, False) if i or t or f])
    transform = rng.choice((*TRANSFORMS, "projective", "projective", "flow", "spline", "spline", "custom"))
    if transform in ("spline", "custom"):
        transform = rng.choice(tuple(oracle.SPLINES if transform == "spline" else oracle.CUSTOM))
    layouts = ("contiguous", "contiguous", "channels_last", *LAYOUTS)
    case = Case(
        transform=transform,
        mode=rng.choice(("bilinear", "bilinear", "nearest", "bicubic")),
        padding_mode=padding_mode,
        fill=rng.choice(("none", "float", "tensor")) if padding_mode == "zeros" else "none",
        fill_dtype=rng.choice(DTYPES),
        align_corners=rng.random() < 0.5,
        dtype=rng.choice(DTYPES),
        theta_dtype=rng.choice(DTYPES),
        layout=rng.choice(layouts),
        theta_layout=rng.choice(layouts),
        fill_layout=rng.choice(layouts),
        index_layout=rng.choice(layouts),
        grad_layout=rng.choice(layouts),
        batching=rng.choice(("paired", "shared", "views", "indexed")),
        batch=rng.randint(1, 4),
        views=rng.randint(1, 3),
        channels=rng.randint(1, 6),
        input_size=(rng.randint(1, 9), rng.randint(1, 9)),
        size=rng.choice((None, (rng.randint(1, 9), rng.randint(1, 9)))),
        needed=needed,
        spread=rng.choice((0.2, 0.6, 2.0)),
        flow="none" if transform in oracle.DENSE or rng.random() < 0.4 else rng.choice(layouts),
        flow_dtype=rng.choice(DTYPES),
        need_flow=rng.random() < 0.7,
        saved=rng.choice(LAYOUTS) if rng.random() < 0.3 else "untouched",
        autocast=rng.random() < 0.2,
        derivatives=rng.choice(("first", "first", "first", "first", "create_graph", "second")),
        linked=rng.random() < 0.1,
        deterministic=rng.random() < 0.3,
        cut=rng.random() < 0.15,
        seed=rng.randrange(2**31),
    )
    if case.derivatives == "second" or case.linked:
        wide = dict.fromkeys(("dtype", "theta_dtype", "flow_dtype", "fill_dtype"), torch.float64)
        case = replace(case, **wide)
    return case


def vary(case: Case, rng: random.Random) -> Case:
    """The same kind of call, which the same code can do, with other sizes and numbers."""
    batching = case.batching
    if batching != "indexed":
        batching = rng.choice(("paired", "shared", "views"))
    return replace(
        case,
        batching=batching,
        batch=rng.randint(1, 4),
        views=rng.randint(1, 3),
        input_size=(rng.randint(1, 9), rng.randint(1, 9)),
        size=rng.choice((None, (rng.randint(1, 9), rng.randint(1, 9)), (rng.randint(1, 5), rng.randint(20, 70)))),
        spread=rng.choice((0.2, 0.6, 2.0)),
        theta_layout=rng.choice(LAYOUTS),
        fill_layout=rng.choice(LAYOUTS),
        index_layout=rng.choice(LAYOUTS),
        seed=2 * rng.randrange(2**30) + case.seed % 2,
    )


@contextmanager
def tiles(case: Case) -> Iterator[None]:
    """With ``case.cut`` many small programs; in every other such case, ones that go through several tiles each."""
    whole = _configs.CPU, _configs.INTERPRETED
    if case.cut:
        for name in ("CPU", "INTERPRETED"):
            setattr(_configs, name, _cut_up(getattr(_configs, name), case))
        _plan.forget()
    try:
        yield
    finally:
        _configs.CPU, _configs.INTERPRETED = whole
        if case.cut:
            _plan.forget()


@contextmanager
def gathering() -> Iterator[None]:
    """On the CPU, gradients of inputs are gathered where they can be, and sums atomic or in fixed point, as on GPUs."""
    whole = _configs.CPU
    _configs.CPU = replace(whole, gathers=True, exclusive=False)
    _plan.forget()
    try:
        yield
    finally:
        _configs.CPU = whole
        _plan.forget()


def _cut_up(place: _configs.Place, case: Case) -> _configs.Place:
    def choose(work: _configs.Work) -> _configs.Config:
        return replace(place.choose(work), tile_h=4, tile_w=4, block_c=2)

    place = replace(place, gathers=True, exclusive=False)
    if case.seed % 2 == 0:
        return replace(place, choose=choose)
    few = {"theta_parts": 24, "spline_programs": 1, "plenty_of_programs": 1, "thetas_per_share": 1}
    return replace(place, choose=choose, enough_programs=1024, **few)


@contextmanager
def surroundings(case: Case, device: str) -> Iterator[None]:
    """Of the call alone: autocast, and hooks that put saved tensors into memory of another layout."""
    with ExitStack() as stack:
        if case.autocast:
            stack.enter_context(torch.autocast(device, dtype=torch.bfloat16))
        if case.saved != "untouched":
            pack = torch.autograd.graph.saved_tensors_hooks(lambda t: lay_out(t, case.saved), lambda t: t)
            stack.enter_context(pack)
        yield


@contextmanager
def determinism(case: Case) -> Iterator[None]:
    """``torch.use_deterministic_algorithms(True)`` if the case asks for it; afterwards as before."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(case.deterministic or before[0], warn_only=before[1])
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def check(case: Case, device: str = "cpu", compiled: Callable[[Callable], Callable] = lambda f: f) -> None:
    """Compare values and all needed gradients with the oracle.

    Raises:
        AssertionError: Naming the quantity, if any differs.
    """
    with tiles(case), determinism(case):
        _check(case, device, compiled)


class Call:
    """The operands of a case, on a device, and the call with them."""

    def __init__(self, case: Case, device: str):
        torch.manual_seed(case.seed)
        self.case = case
        self.device = device
        self.size = case.size or case.input_size
        self.transform = transform_of(case)
        self.input = make_input(case, device).requires_grad_(case.needed[0])
        self.theta, self.index = make_theta(case, self.size, device)
        self.theta.requires_grad_(case.needed[1])
        self.fill = make_fill(case, device)
        if isinstance(self.fill, Tensor):
            self.fill.requires_grad_(case.needed[2])
        self.lead = self.theta.shape[:2] if case.batching == "views" else self.theta.shape[:1]
        self.flow = make_flow(case, self.lead, self.size, device)
        if self.flow is not None:
            self.flow.requires_grad_(case.need_flow)
        self.link: Tensor | None = None
        if case.linked:
            pixels, numbers = self.input[0].numel(), self.theta[(0,) * len(self.lead)].numel()
            self.link = 0.1 * torch.randn(pixels, numbers, dtype=torch.float64) / pixels**0.5

    def output(self, compiled: Callable[[Callable], Callable] = lambda f: f) -> Tensor:
        case = self.case
        input_index = lay_out(self.index.to(self.device), case.index_layout) if case.batching == "indexed" else None
        theta = self._linked(self.input, self.theta)

        def call(
            input: Tensor, theta: Tensor, fill: float | Tensor | None, input_index: Tensor | None, flow: Tensor | None
        ) -> Tensor:
            return tstn.spatial_transform(
                input,
                theta,
                self.transform,
                case.size,
                mode=case.mode,
                padding_mode=case.padding_mode,
                fill_value=fill,
                align_corners=case.align_corners,
                input_index=input_index,
                flow=flow,
            )

        with surroundings(case, self.device):
            return compiled(call)(self.input, theta, self.fill, input_index, self.flow)

    def _linked(self, input: Tensor, theta: Tensor) -> Tensor:
        if self.link is None:
            return theta
        read = input.flatten(1)[self.index.to(input.device)]
        return theta + (read @ self.link.to(input.device)).view(theta.shape)

    def wanted(self) -> dict[str, Tensor]:
        """What the case wants gradients of, by the names that the oracle's results have."""
        named = {"grad_input": self.input, "grad_theta": self.theta, "grad_fill": self.fill, "grad_flow": self.flow}
        return {name: t for name, t in named.items() if isinstance(t, Tensor) and t.requires_grad}

    def gradients(self, output: Tensor, grad: Tensor) -> dict[str, Tensor]:
        wanted = self.wanted()
        more = self.case.derivatives != "first"
        grads = torch.autograd.grad(output, list(wanted.values()), grad, create_graph=more) if wanted else ()
        return dict(zip(wanted, grads, strict=True))

    def expected(self, grad: Tensor, tolerance: float) -> oracle.Result:
        """The oracle's values and gradients for the output's gradient ``grad``, with scales for a ``tolerance``."""
        case = self.case
        input, theta, fill, flow = self._plain({})
        return oracle.evaluate(
            input,
            theta,
            case.transform,
            self.size,
            self.index,
            grad.cpu().flatten(0, len(self.lead) - 1),
            case.mode,
            case.padding_mode,
            case.align_corners,
            fill,
            flow,
            torch.finfo(summed_in(case.dtype)).eps / tolerance,
        )

    def edges(self) -> Tensor:
        """The pixels (M, 1, H_out, W_out) whose output gradient is not compared."""
        case = self.case
        input, theta, _, flow = self._plain({})
        return oracle.edges(input, theta, case.transform, self.size, case.mode, case.align_corners, flow)

    def in_float64(self, leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Values and unsure pixels by ``oracle.warp``, a function of ``leaves``, named and shaped as ``wanted()``."""
        case = self.case
        input, theta, fill, flow = self._plain(leaves)
        options = case.mode, case.padding_mode, case.align_corners
        return oracle.warp(input, theta, case.transform, self.size, self.index, *options, fill, flow)

    def _plain(self, leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Dense operands in float64 on the CPU, with one batch axis: ``leaves`` or else the case's own, detached."""
        fill = (
            torch.full((self.case.channels,), self.fill, dtype=torch.float64)
            if isinstance(self.fill, float)
            else self.fill
        )
        named = {"grad_input": self.input, "grad_theta": self.theta, "grad_fill": fill, "grad_flow": self.flow}
        plain = {name: dense(t) for name, t in named.items() if t is not None} | leaves
        theta, flow, last = plain["grad_theta"], plain.get("grad_flow"), len(self.lead) - 1
        theta = self._linked(plain["grad_input"], theta).flatten(0, last)
        flow = None if flow is None else flow.flatten(0, last)
        return plain["grad_input"], theta, plain.get("grad_fill"), flow


def summed_in(dtype: torch.dtype) -> torch.dtype:
    """In which coordinates and sums of an input of this dtype are computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def dense(tensor: Tensor) -> Tensor:
    """The values in float64, in memory of their own on the CPU."""
    return torch.empty(tensor.shape, dtype=torch.float64).copy_(tensor.detach())


def _check(case: Case, device: str, compiled: Callable[[Callable], Callable]) -> None:
    call = Call(case, device)
    output = call.output(compiled)
    assert output.shape == (*call.lead, case.channels, *call.size)
    assert output.dtype == case.dtype
    if case.autocast:
        call.case = replace(case, autocast=False)
        assert torch.equal(output, call.output(compiled)), "autocast changes the output"
    if call.wanted() and (case.linked or case.derivatives == "second"):
        _check_in_float64(call, output)
        return
    grad = make_grad(case, output.detach(), call.edges())
    tolerance, wide = TOLERANCES[case.dtype], summed_in(case.dtype)
    expected = call.expected(grad, tolerance)
    actual = output.detach().cpu().reshape(expected.output.shape).double()
    actual = torch.where(expected.vague, expected.output, actual)
    agree("output", actual, expected.output, expected.output_scale, tolerance)

    # The other gradients are rounded to their own dtypes only.
    others = expected if case.dtype == wide else call.expected(grad, TOLERANCES[wide])
    wanted = call.wanted()
    for name, got in call.gradients(output, grad).items():
        assert got.shape == wanted[name].shape
        assert got.dtype == wanted[name].dtype
        result = expected
        if name != "grad_input":
            result, tolerance = others, max(TOLERANCES[wide], TOLERANCES[got.dtype])
        want, scale = getattr(result, name), getattr(result, f"{name}_scale")
        agree(name, held(got, want.reshape(got.shape), tolerance).reshape(want.shape), want, scale, tolerance)


def _check_in_float64(call: Call, output: Tensor) -> None:
    """Values and derivatives up to the second order against PyTorch's own of ``oracle.warp``.

    Only in float64: here is no size of terms to measure roundings by, just the largest entry.
    """
    wanted = call.wanted()
    leaves = {name: dense(t).requires_grad_() for name, t in wanted.items()}
    expected_output, unsure = call.in_float64(leaves)
    unsure = unsure.reshape(*call.lead, 1, *call.size)
    expected_output = expected_output.reshape(output.shape)
    _near("output", output, expected_output, ~unsure)
    grad = make_grad(call.case, output.detach(), unsure)
    second = call.case.derivatives == "second"
    expected_grad = dense(grad).requires_grad_(second)
    grad.requires_grad_(second)
    actual = call.gradients(output, grad)
    grads = torch.autograd.grad(expected_output, list(leaves.values()), expected_grad, create_graph=second)
    expected = dict(zip(leaves, grads, strict=True))
    for name, got in actual.items():
        assert got.shape == wanted[name].shape
        assert got.dtype == wanted[name].dtype
        _near(name, got, expected[name])
    if not second:
        return
    directions = {name: torch.randn(t.shape).to(t) for name, t in actual.items()}
    again = _slopes(actual, directions, {**wanted, "grad_output": grad})
    expected_again = _slopes(expected, directions, {**leaves, "grad_output": expected_grad})
    for name, got in again.items():
        # By the output's gradient, what is unsure in the first order shows.
        _near(f"{name} of gradients", got, expected_again[name], ~unsure if name == "grad_output" else None)


def _slopes(grads: dict[str, Tensor], directions: dict[str, Tensor], operands: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of ``grads`` along ``directions``."""
    along = torch.stack([(grads[n].cpu().double() * directions[n].cpu().double()).sum() for n in grads]).sum()
    if not along.requires_grad:
        return {name: torch.zeros_like(t) for name, t in operands.items()}
    found = torch.autograd.grad(along, list(operands.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(operands, found, strict=True))


def _near(name: str, actual: Tensor, expected: Tensor, where: Tensor | None = None) -> None:
    tolerance = 1e-9 if actual.dtype == torch.float64 else 1e-5
    expected = expected.detach()
    actual = held(actual, expected, tolerance)
    if where is not None:
        actual, expected = torch.where(where, actual, 0), torch.where(where, expected, 0)
    agree(name, actual, expected, torch.ones_like(expected) * expected.abs().amax() + 1e-3, tolerance)


def held(actual: Tensor, expected: Tensor, tolerance: float) -> Tensor:
    """In float64; infinite is right where a dtype does not reach as far as the number."""
    numbers, most = actual.detach().cpu().double(), torch.finfo(actual.dtype).max
    beyond = numbers.isinf() & (numbers.sign() == expected.sign()) & (expected.abs() >= (1 - tolerance) * most)
    return torch.where(beyond, expected, numbers)


def agree(name: str, actual: Tensor, expected: Tensor, scale: Tensor, tolerance: float) -> None:
    """Each entry within ``tolerance`` of its terms' size or of a tenth of the largest.

    Raises:
        AssertionError: By how much, if it is not.
    """
    bound = tolerance * torch.maximum(scale, scale.max() / 10 if scale.numel() else scale)
    error = (actual - expected).abs()
    worst = (error / bound.clamp(min=1e-300)).max().item() if error.numel() else 0.0
    if not bool((error <= bound + 1e-300).all()):
        raise AssertionError(f"{name} is off by {worst:.3g} times the tolerance {tolerance:.3g}")
