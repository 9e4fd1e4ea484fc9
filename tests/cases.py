"""One configuration of the op, drawn at random or by hand, and its comparison with the oracle."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import oracle
import torch
from torch import Tensor

import tstn
from tstn import _configs, _plan, examples

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
IDENTITY = {
    "translation": [0.0, 0.0],
    "attention": [1.0, 0.0, 0.0],
    "similarity": [1.0, 0.0, 0.0, 0.0],
    "affine": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    "projective": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "lens": [0.0, 0.0, 0.0, 0.0],
    "polar": [0.0, 0.0],
    "moebius": [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]],
}
EXAMPLES = {"lens": examples.lens_distortion(), "polar": examples.polar(), "moebius": examples.moebius()}


@dataclass(frozen=True)
class Case:
    """Everything that a call can vary in."""

    transform: str = "affine"  # one of EVERY_TRANSFORM
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    fill: str = "none"  # "none" | "float" | "tensor"
    align_corners: bool = False
    dtype: torch.dtype = torch.float32
    theta_dtype: torch.dtype = torch.float32
    layout: str = "contiguous"  # "contiguous" | "channels_last" | "strided" | "expanded"
    grad_layout: str = "contiguous"  # "contiguous" | "channels_last" | "expanded"
    batching: str = "paired"  # "paired" | "shared" | "views" | "indexed"
    batch: int = 2
    views: int = 2
    channels: int = 3
    input_size: tuple[int, int] = (6, 7)
    size: tuple[int, int] | None = (5, 8)
    needed: tuple[bool, bool, bool] = (True, True, True)  # gradients of input, theta, fill
    spread: float = 0.6
    flow: str = "none"  # "none" | "contiguous" | "permuted" | "expanded"; not with a dense transform
    flow_dtype: torch.dtype = torch.float32
    need_flow: bool = True
    # Under torch.use_deterministic_algorithms(True).
    deterministic: bool = False
    # In the interpreter: many small tiles and channel runs, instead of one program per sample.
    cut: bool = False
    seed: int = 0


def draw(rng: random.Random) -> Case:
    """A random configuration; every option is crossed with every other."""
    padding_mode = rng.choice(("zeros", "zeros", "border", "reflection"))
    needed = rng.choice([(i, t, f) for i in (True, False) for t in (True, False) for f in (True, False) if i or t or f])
    transform = rng.choice((*TRANSFORMS, "projective", "projective", "flow", "spline", "spline", "custom"))
    if transform in ("spline", "custom"):
        transform = rng.choice(tuple(oracle.SPLINES if transform == "spline" else oracle.CUSTOM))
    return Case(
        transform=transform,
        mode=rng.choice(("bilinear", "bilinear", "nearest", "bicubic")),
        padding_mode=padding_mode,
        fill=rng.choice(("none", "float", "tensor")) if padding_mode == "zeros" else "none",
        align_corners=rng.random() < 0.5,
        dtype=rng.choice(DTYPES),
        theta_dtype=rng.choice(DTYPES),
        layout=rng.choice(("contiguous", "channels_last", "strided", "expanded")),
        grad_layout=rng.choice(("contiguous", "channels_last", "expanded")),
        batching=rng.choice(("paired", "shared", "views", "indexed")),
        batch=rng.randint(1, 4),
        views=rng.randint(1, 3),
        channels=rng.randint(1, 6),
        input_size=(rng.randint(1, 9), rng.randint(1, 9)),
        size=rng.choice((None, (rng.randint(1, 9), rng.randint(1, 9)))),
        needed=needed,
        spread=rng.choice((0.2, 0.6, 2.0)),
        flow="none"
        if transform in oracle.DENSE
        else rng.choice(("none", "none", "contiguous", "permuted", "expanded")),
        flow_dtype=rng.choice(DTYPES),
        need_flow=rng.random() < 0.7,
        deterministic=rng.random() < 0.3,
        cut=rng.random() < 0.15,
        seed=rng.randrange(2**31),
    )


def make_input(case: Case, device: str) -> Tensor:
    shape = (1 if case.batching == "shared" else case.batch, case.channels, *case.input_size)
    if case.layout == "expanded":
        one = torch.randn(1, *shape[1:], dtype=torch.float64).to(case.dtype)
        return one.to(device).expand(shape)
    if case.layout == "strided":
        wide = torch.full((shape[0], shape[1] + 1, shape[2] + 2, 2 * shape[3] + 1), float("nan"))
        wide = wide.to(case.dtype).to(device)
        view = wide[:, 1:, 1:-1, 1::2]
        view.copy_(torch.randn(shape))
        return view
    x = torch.randn(shape, dtype=torch.float64).to(case.dtype).to(device)
    return x.contiguous(memory_format=torch.channels_last) if case.layout == "channels_last" else x


def make_theta(case: Case, size: tuple[int, int], device: str) -> tuple[Tensor, Tensor]:
    """theta as the call takes it, and the input (M,) that each of its entries reads."""
    batch = 1 if case.batching == "shared" else case.batch
    if case.batching == "views":
        lead, index = (batch, case.views), torch.arange(batch).repeat_interleave(case.views)
    elif case.batching == "shared":
        lead, index = (case.views,), torch.zeros(case.views, dtype=torch.int64)
    elif case.batching == "indexed":
        lead, index = (case.views + 2,), torch.randint(batch, (case.views + 2,))
    else:
        lead, index = (batch,), torch.arange(batch)
    return random_theta(case, lead, size).to(case.theta_dtype).to(device), index


def random_theta(case: Case, lead: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    """theta (*lead, ...) in float32, about the identity, by ``case.spread``."""
    if case.transform == "grid":
        return torch.randn(*lead, *size, 2) * 0.8
    if case.transform == "flow":
        return torch.randn(*lead, *size, 2) * case.spread
    if case.transform in oracle.SPLINES:
        points = torch.tensor(oracle.SPLINES[case.transform].points)
        return points + torch.randn(*lead, *points.shape) * case.spread / 2
    identity = torch.tensor(IDENTITY[case.transform])
    theta = identity + torch.randn(*lead, *identity.shape) * case.spread
    if case.transform in oracle.CUSTOM:
        # A distortion grows with the fourth power; a pole of Moebius' is in the picture only with a large spread.
        return identity + (theta - identity) * 0.4
    if case.transform == "projective":
        # A pole in the picture only with a large spread; any overall scale and sign.
        theta[..., 2, :2] *= 0.4
        theta[..., 2, 2] = 1
        theta *= torch.tensor([1.0, -1.0, 0.125, -37.0])[torch.randint(4, (*lead, 1, 1))]
    return theta


def make_flow(case: Case, lead: tuple[int, ...], size: tuple[int, int], device: str) -> Tensor | None:
    """The displacements (*lead, H_out, W_out, 2) as the call takes them."""
    if case.flow == "none":
        return None
    shape = (*(1 for _ in lead), *size, 2) if case.flow == "expanded" else (*lead, *size, 2)
    flow = (0.3 * torch.randn(shape)).to(case.flow_dtype).to(device)
    if case.flow == "permuted":
        # As a convolution predicts it: the pair is the channel.
        return flow.movedim(-1, -3).contiguous().movedim(-3, -1)
    return flow.expand(*lead, *size, 2)


def transform_of(case: Case) -> str | tstn.transforms.Transform:
    """The transform as the call takes it."""
    if case.transform not in oracle.SPLINES:
        return EXAMPLES.get(case.transform, case.transform)
    points, regularization = oracle.SPLINES[case.transform]
    return tstn.ThinPlateSpline((3, 3) if points is oracle.LATTICE else torch.tensor(points), regularization)


def make_grad(case: Case, output: Tensor) -> Tensor:
    if case.grad_layout == "expanded":
        return torch.ones((), dtype=output.dtype, device=output.device).expand_as(output)
    grad = torch.randn(output.shape, dtype=torch.float64).to(output.dtype).to(output.device)
    if case.grad_layout == "channels_last":
        # The channels innermost, whatever stands before them.
        return grad.movedim(-3, -1).contiguous().movedim(-1, -3)
    return grad


@contextmanager
def tiles(case: Case) -> Iterator[None]:
    """With ``case.cut`` many small programs; in every other such case, ones that go through several tiles each."""
    names = ("INTERPRETER", "THETA_PARTS", "SPLINE_PROGRAMS", "PLENTY_OF_PROGRAMS", "THETAS_PER_SHARE")
    whole = {name: getattr(_configs, name) for name in names}
    if case.cut:
        _configs.INTERPRETER = _configs.Config(tile_h=4, tile_w=4, block_c=2, num_warps=4)
        if case.seed % 2:
            _configs.THETA_PARTS = 24
            _configs.SPLINE_PROGRAMS = 1
            _configs.PLENTY_OF_PROGRAMS = 1
            _configs.THETAS_PER_SHARE = 1
        _forget_plans()
    try:
        yield
    finally:
        for name in names:
            setattr(_configs, name, whole[name])
        if case.cut:
            _forget_plans()


def _forget_plans() -> None:
    _plan.forget()


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
        self.size = case.size or case.input_size
        self.transform = transform_of(case)
        self.input = make_input(case, device).requires_grad_(case.needed[0])
        self.theta, self.index = make_theta(case, self.size, device)
        self.theta.requires_grad_(case.needed[1])
        self.fill: float | Tensor | None = None
        if case.fill == "float":
            self.fill = 0.7
        elif case.fill == "tensor":
            self.fill = torch.randn(case.channels).to(device).requires_grad_(case.needed[2])
        self.lead = self.theta.shape[:2] if case.batching == "views" else self.theta.shape[:1]
        self.flow = make_flow(case, self.lead, self.size, device)
        if self.flow is not None:
            self.flow.requires_grad_(case.need_flow)

    def output(self, compiled: Callable[[Callable], Callable] = lambda f: f) -> Tensor:
        case = self.case
        input_index = self.index.to(self.input.device) if case.batching == "indexed" else None

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

        return compiled(call)(self.input, self.theta, self.fill, input_index, self.flow)

    def wanted(self) -> dict[str, Tensor]:
        """What the case wants gradients of, by the names that the oracle's results have."""
        named = {"grad_input": self.input, "grad_theta": self.theta, "grad_fill": self.fill, "grad_flow": self.flow}
        return {name: t for name, t in named.items() if isinstance(t, Tensor) and t.requires_grad}

    def gradients(self, output: Tensor, grad: Tensor) -> dict[str, Tensor]:
        wanted = self.wanted()
        grads = torch.autograd.grad(output, list(wanted.values()), grad) if wanted else ()
        return dict(zip(wanted, grads, strict=True))

    def expected(self, grad: Tensor) -> oracle.Result:
        """The oracle's values, and its gradients for the output's gradient ``grad``."""
        case = self.case
        fill = self.fill
        if isinstance(fill, float):
            fill = torch.full((case.channels,), fill, dtype=torch.float64)
        dtype = torch.float64 if case.dtype == torch.float64 else torch.float32
        last = len(self.lead) - 1
        return oracle.evaluate(
            self.input.detach().cpu(),
            self.theta.detach().flatten(0, last).cpu(),
            case.transform,
            self.size,
            self.index,
            grad.cpu().flatten(0, last),
            case.mode,
            case.padding_mode,
            case.align_corners,
            None if fill is None else fill.detach().cpu(),
            None if self.flow is None else self.flow.detach().flatten(0, last).cpu(),
            torch.finfo(dtype).eps / TOLERANCES[case.dtype],
        )


def _check(case: Case, device: str, compiled: Callable[[Callable], Callable]) -> None:
    call = Call(case, device)
    output = call.output(compiled)
    assert output.shape == (*call.lead, case.channels, *call.size)
    assert output.dtype == case.dtype
    grad = make_grad(case, output.detach())
    expected = call.expected(grad)
    actual = output.detach().cpu().reshape(expected.output.shape).double()
    actual = torch.where(expected.vague, expected.output, actual)
    agree("output", actual, expected.output, expected.output_scale, TOLERANCES[case.dtype])

    grad = torch.where(expected.on_edge.reshape(*call.lead, 1, *call.size).to(device), 0, grad)
    wanted = call.wanted()
    for name, got in call.gradients(output, grad).items():
        assert got.shape == wanted[name].shape
        assert got.dtype == wanted[name].dtype
        want, scale = getattr(expected, name), getattr(expected, f"{name}_scale")
        tolerance = max(TOLERANCES[case.dtype], TOLERANCES[got.dtype])
        agree(name, got.cpu().double().reshape(want.shape), want, scale, tolerance)


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
