"""PyTorch's own samples of ``nn.functional.grid_sample``, those on images, through ``tstn.grid_sample``."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import oracle
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tstn

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@functools.cache
def op_info() -> Any:
    """The OpInfo of grid_sample; part of PyTorch, but its module may need packages that PyTorch does not."""
    pytest.importorskip("expecttest")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")
    (info,) = (op for op in methods.op_db if op.name == "nn.functional.grid_sample")
    return info


class Sample(NamedTuple):
    """One call, as positional arguments."""

    input: Tensor
    grid: Tensor
    mode: str
    padding_mode: str
    align_corners: bool


def image_samples(kind: str, dtype: torch.dtype) -> list[Sample]:
    torch.manual_seed(0)
    samples = getattr(op_info(), f"{kind}_inputs_func")(op_info(), "cpu", dtype, requires_grad=False)
    return [Sample(s.input, *s.args, **s.kwargs) for s in samples if s.input.dim() == 4]


def away_from_steps(sample: Sample, dtype: torch.dtype) -> Tensor:
    """(N, 1, H_out, W_out): where rounding a coordinate by a few ulp crosses no whole pixel, no half for nearest.

    There PyTorch's value (nearest) or slope (bilinear) is the one on either side, as its own rounding has it; tstn's
    is always the right one's. Bicubic has no such steps.
    """
    at = oracle.pixels(sample.grid.double(), tuple(sample.input.shape[2:]), sample.align_corners)
    past = at - at.floor() if sample.mode == "bilinear" else at + 0.5 - (at + 0.5).floor()
    reach = 64 * torch.finfo(dtype).eps * max(sample.input.shape[2:])
    away = ((past > reach) & (past < 1 - reach)).all(-1) | (sample.mode == "bicubic")
    return away.unsqueeze(1)


def test_samples_cover_every_option():
    for kind in ("sample", "reference"):
        assert len({sample[2:] for sample in image_samples(kind, torch.float64)}) == 18


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients(place, dtype, memory_format):
    for sample in image_samples("sample", dtype):
        # The same numbers in float64: what both should come to.
        exact = (sample.input.double().requires_grad_(), sample.grid.double().requires_grad_())
        expected = F.grid_sample(exact[0], exact[1], *sample[2:])
        away = away_from_steps(sample, dtype)
        assert away.double().mean() > 0.95
        grad = torch.where(away, torch.randn_like(expected), 0)
        expected_grads = torch.autograd.grad(expected, exact, grad)

        x = sample.input.to(place.device).contiguous(memory_format=FORMATS[memory_format]).requires_grad_()
        grid = sample.grid.to(place.device).requires_grad_()
        actual = tstn.grid_sample(x, grid, *sample[2:])
        assert actual.dtype == dtype
        grads = torch.autograd.grad(actual, (x, grid), grad.to(dtype).to(place.device))
        tolerance = 1e-11 if dtype == torch.float64 else 1e-5
        options = f"{sample[2:]}"
        value = torch.where(away, actual.detach().cpu().double(), expected.detach())
        torch.testing.assert_close(value, expected.detach(), rtol=tolerance, atol=tolerance, msg=about(options))
        for got, want in zip(grads, expected_grads, strict=True):
            # Sums over 3 channels and several pixels, times half of 5 pixels.
            torch.testing.assert_close(
                got.cpu().double(), want, rtol=4 * tolerance, atol=4 * tolerance, msg=about(options)
            )


def about(options: str) -> Callable[[str], str]:
    return lambda message: f"{options}: {message}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_large_rotation(place, dtype):
    """The reference samples: 345 x 456 pixels from 0 to 255, turned by 45 degrees."""
    for sample in image_samples("reference", dtype):
        if place == ("triton", "cpu"):
            # A tile of one image: the interpreter takes its time.
            sample = sample._replace(input=sample.input[:1, :2], grid=sample.grid[:1, 100:150, 180:244])
        expected = F.grid_sample(sample.input.double(), sample.grid.double(), *sample[2:])
        away = away_from_steps(sample, dtype)
        assert away.double().mean() > 0.9, sample[2:]
        actual = tstn.grid_sample(sample.input.to(place.device), sample.grid.to(place.device), *sample[2:])
        # Rounding moves a coordinate by up to eps times 456, and neighbours differ by up to 255.
        moved = 2 * 456 * torch.finfo(dtype).eps * 255
        value = torch.where(away, actual.cpu().double(), expected)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=moved, msg=about(f"{sample[2:]}"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_once(place, dtype):
    for sample in image_samples("sample", dtype):
        expected = F.grid_sample(sample.input.double(), sample.grid.double(), *sample[2:])
        away = away_from_steps(sample, torch.float32)
        actual = tstn.grid_sample(sample.input.to(place.device), sample.grid.to(place.device), *sample[2:])
        value = torch.where(away, actual.cpu().double(), expected)
        # Half an ulp; a whole one for bfloat16 in the interpreter, which truncates.
        rtol = torch.finfo(dtype).eps * (1.01 if dtype == torch.bfloat16 else 0.51)
        torch.testing.assert_close(value, expected, rtol=rtol, atol=1e-5, msg=about(f"{sample[2:]}"))


@pytest.mark.parametrize(
    ("input_shape", "grid_shape", "options"),
    [
        ((2, 3, 5, 5), (2, 5, 5, 3), {}),
        ((2, 3, 5, 5), (3, 5, 5, 2), {}),
        ((2, 3, 5, 5, 5), (2, 5, 5, 5, 3), {}),
        ((2, 3, 5, 0), (2, 5, 5, 2), {}),
        ((2, 3, 5, 5), (2, 5, 5, 2), {"mode": "cubic"}),
        ((2, 3, 5, 5), (2, 5, 5, 2), {"padding_mode": "wrap"}),
    ],
    ids=str,
)
def test_errors_where_pytorch_has_them(place, input_shape, grid_shape, options):
    """Images only: what PyTorch takes for volumes is an error here, as is all else that is one there."""
    x = torch.rand(input_shape, device=place.device)
    grid = torch.rand(grid_shape, device=place.device)
    with pytest.raises(ValueError, match="must"):
        tstn.grid_sample(x, grid, **options)
    if len(input_shape) == 4:
        with pytest.raises((RuntimeError, ValueError)):
            F.grid_sample(x, grid, align_corners=False, **options)


def test_wrong_types_are_type_errors(place):
    x, grid = torch.rand(1, 1, 2, 2, device=place.device), torch.rand(1, 2, 2, 2, device=place.device)
    for arguments in ((x.int(), grid), (x, grid.int()), (x, None), ([x], grid)):
        with pytest.raises(TypeError, match="must"):
            tstn.grid_sample(*arguments)
