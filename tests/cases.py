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
from tstn import _configs

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Relative to the size of the summed terms. Half types: one rounding, and a truncation for bfloat16 in the interpreter.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2**-10,
    torch.bfloat16: 2**-7,
}
TRANSFORMS = ("translation", "attention", "similarity", "affine", "grid")
IDENTITY = {
    "translation": [0.0, 0.0],
    "attention": [1.0, 0.0, 0.0],
    "similarity": [1.0, 0.0, 0.0, 0.0],
    "affine": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
}


@dataclass(frozen=True)
class Case:
    """Everything that a call can vary in."""

    transform: str = "affine"
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
    needed: tuple[bool, bool, bool] = (True, True, True)
    spread: float = 0.6
    # In the interpreter: many small tiles and channel runs, instead of one program per sample.
    cut: bool = False
    seed: int = 0


def draw(rng: random.Random) -> Case:
    """A random configuration; every option is crossed with every other."""
    padding_mode = rng.choice(("zeros", "zeros", "border", "reflection"))
    needed = rng.choice([(i, t, f) for i in (True, False) for t in (True, False) for f in (True, False) if i or t or f])
    return Case(
        transform=rng.choice(TRANSFORMS),
        mode=rng.choice(("bilinear", "bilinear", "nearest")),
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
        cut=rng.random() < 0.25,
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
    if case.transform == "grid":
        theta = torch.randn(*lead, *size, 2) * 0.8
    else:
        identity = torch.tensor(IDENTITY[case.transform])
        theta = identity + torch.randn(*lead, *identity.shape) * case.spread
    return theta.to(case.theta_dtype).to(device), index


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
    whole = _configs.INTERPRETER
    if case.cut:
        _configs.INTERPRETER = _configs.Config(tile_h=4, tile_w=4, block_c=2, num_warps=4)
    try:
        yield
    finally:
        _configs.INTERPRETER = whole


def check(case: Case, device: str = "cpu", compiled: Callable[[Callable], Callable] = lambda f: f) -> None:
    """Compare values and all needed gradients with the oracle.

    Raises:
        AssertionError: Naming the quantity, if any differs.
    """
    with tiles(case):
        _check(case, device, compiled)


def _check(case: Case, device: str, compiled: Callable[[Callable], Callable]) -> None:
    torch.manual_seed(case.seed)
    size = case.size or case.input_size
    input = make_input(case, device).requires_grad_(case.needed[0])
    theta, index = make_theta(case, size, device)
    theta.requires_grad_(case.needed[1])
    fill: float | Tensor | None = None
    oracle_fill = None
    if case.fill == "float":
        fill = 0.7
        oracle_fill = torch.full((case.channels,), fill, dtype=torch.float64)
    elif case.fill == "tensor":
        fill = torch.randn(case.channels).to(device).requires_grad_(case.needed[2])
        oracle_fill = fill.detach().cpu()

    def call(input: Tensor, theta: Tensor, fill: float | Tensor | None, input_index: Tensor | None) -> Tensor:
        return tstn.spatial_transform(
            input,
            theta,
            case.transform,
            case.size,
            mode=case.mode,
            padding_mode=case.padding_mode,
            fill_value=fill,
            align_corners=case.align_corners,
            input_index=input_index,
        )

    output = compiled(call)(input, theta, fill, index.to(device) if case.batching == "indexed" else None)
    lead = theta.shape[:2] if case.batching == "views" else theta.shape[:1]
    assert output.shape == (*lead, case.channels, *size)
    assert output.dtype == case.dtype

    flat_theta = theta.detach().flatten(0, len(lead) - 1).cpu()
    grad = make_grad(case, output.detach())
    expected = oracle.evaluate(
        input.detach().cpu(),
        flat_theta,
        case.transform,
        size,
        index,
        grad.cpu().reshape(len(flat_theta), *grad.shape[-3:]),
        case.mode,
        case.padding_mode,
        case.align_corners,
        oracle_fill,
    )
    tolerance = TOLERANCES[case.dtype]
    actual = output.detach().cpu().reshape(expected.output.shape).double()
    if case.mode == "nearest":
        actual = torch.where(expected.on_edge, expected.output, actual)
    agree("output", actual, expected.output, expected.output_scale, tolerance)

    grad = torch.where(expected.on_edge.reshape(*lead, 1, *size).to(device), 0, grad)
    wanted = {"grad_input": input, "grad_theta": theta}
    if case.fill == "tensor":
        wanted["grad_fill"] = fill
    wanted = {name: tensor for name, tensor in wanted.items() if tensor.requires_grad}
    if not wanted:
        return
    grads = torch.autograd.grad(output, list(wanted.values()), grad)
    for (name, tensor), got in zip(wanted.items(), grads, strict=True):
        assert got.shape == tensor.shape
        assert got.dtype == tensor.dtype
        want, scale = getattr(expected, name), getattr(expected, f"{name}_scale")
        agree(name, got.cpu().double().reshape(want.shape), want, scale, max(tolerance, TOLERANCES[got.dtype]))


def agree(name: str, actual: Tensor, expected: Tensor, scale: Tensor, tolerance: float) -> None:
    """Each entry within ``tolerance`` of its terms' size or, as coordinates round too, of a tenth of the largest."""
    bound = tolerance * torch.maximum(scale, scale.max() / 10 if scale.numel() else scale)
    error = (actual - expected).abs()
    worst = (error / bound.clamp(min=1e-300)).max().item() if error.numel() else 0.0
    if not bool((error <= bound + 1e-300).all()):
        raise AssertionError(f"{name} is off by {worst:.3g} times the tolerance {tolerance:.3g}")
