"""Sizes at both ends: nothing, one pixel, millions of thetas, more elements than 32 bits can count."""

import cases
import pytest
import torch
from cases import Case

import tstn
from tstn import _launch, _plan
from tstn._warp import Operands, Warp

FAR = 2**31 + 16


@pytest.mark.parametrize("transform", cases.EVERY_TRANSFORM)
@pytest.mark.parametrize(
    ("input_size", "size"), [((1, 1), (1, 1)), ((1, 6), (3, 1)), ((5, 1), (1, 1)), ((4, 6), (1, 7))], ids=str
)
def test_axes_of_one_pixel(place, transform, input_size, size):
    modes = list(zip(cases.MODES, ("zeros", "border", "reflection"), strict=True))
    if place == ("triton", "cpu"):
        # What is compiled takes its time: each mode has some of the transforms and sizes.
        modes = [modes[(len(transform) + input_size[1] + size[1]) % 3]]
    for mode, padding_mode in modes:
        case = Case(
            transform=transform,
            mode=mode,
            padding_mode=padding_mode,
            align_corners=input_size[1] > 1,
            # One tap's weight is all there is to a gradient here, and float32 coordinates blur it.
            dtype=torch.float64,
            theta_dtype=torch.float64,
            input_size=input_size,
            size=size,
        )
        cases.check(case, place.device)


@pytest.mark.parametrize("transform", cases.EVERY_TRANSFORM)
def test_empty_batch(place, transform):
    case = Case(transform=transform, size=(4, 5), batch=2)
    theta = cases.make_theta(case, (4, 5), place.device)[0]
    for x in (torch.rand(0, 3, 6, 7), torch.rand(1, 3, 6, 7), torch.rand(2, 0, 6, 7)):
        x = x.to(place.device).requires_grad_()
        some = theta[: 2 if x.shape[0] == 2 else 0].detach().requires_grad_()
        y = tstn.spatial_transform(x, some, cases.transform_of(case), case.size)
        assert y.shape == (len(some), x.shape[1], 4, 5)
        grads = torch.autograd.grad(y.sum(), (x, some))
        assert [g.shape for g in grads] == [x.shape, some.shape]
        assert all((g == 0).all() for g in grads)


def far_apart(tensor: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """A copy whose neighbours along ``dim`` are more than 2^31 elements apart; only touched pages take memory."""
    strides = list(tensor.contiguous().stride())
    strides[dim] = FAR
    span = FAR * (tensor.shape[dim] - 1) + tensor.numel() + 16
    far = torch.empty(span, dtype=tensor.dtype, device=tensor.device).as_strided(tensor.shape, strides)
    return far.copy_(tensor)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_input_strides_beyond_32_bits(kernel_place, dim):
    """Samples, channels and rows more than 2^31 elements apart, forward and backward."""
    x = torch.randn(2, 2, 2, 6, dtype=torch.float16, device=kernel_place.device)
    theta = (torch.eye(2, 3) + 0.1 * torch.randn(2, 2, 3)).to(kernel_place.device)
    results = []
    for input in (x, far_apart(x, dim)):
        leaves = (input.detach().requires_grad_(), theta.detach().requires_grad_())
        y = tstn.spatial_transform(*leaves, fill_value=0.5)
        results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    for near, far in zip(*results, strict=True):
        assert torch.equal(near, far)


@pytest.mark.parametrize("dim", [0, 1])
def test_flow_strides_beyond_32_bits(kernel_place, dim):
    x = torch.randn(2, 2, 5, 6, device=kernel_place.device)
    flow = torch.rand(2, 2, 3, 2, device=kernel_place.device).half() - 0.5
    expected = tstn.spatial_transform(x, flow, "flow", (2, 3))
    assert torch.equal(tstn.spatial_transform(x, far_apart(flow, dim), "flow", (2, 3)), expected)


def step_of(output: torch.Tensor, operands: Operands, kernel: str) -> _plan.Step:
    """The one launch of a forward pass."""
    warp = Warp(kernel, (output.shape[2], output.shape[3]))
    return _launch.call_of(operands, warp)[0].forward


def test_offsets_are_64_bits_wide_where_one_sample_needs_them(kernel_place):
    import triton.language as tl

    theta = torch.empty(1, 6, device="meta")
    for side, expected in ((2**14, tl.int32), (2**16, tl.int64)):
        small = torch.empty(1, 1, 8, 8, device="meta")
        large = torch.empty(1, 1, side, side, dtype=torch.float16, device="meta")
        for input, output in ((small, large), (large, small)):
            operands = Operands(input, theta, None, None, None, None)
            assert step_of(output, operands, "affine").constexprs["OFFSET"] == expected
    for side, expected in ((2**14, tl.int32), (2**16, tl.int64)):
        field = torch.empty(1, side, side, 2, device="meta")
        operands = Operands(torch.empty(1, 1, 8, 8, device="meta"), None, field, None, None, None)
        output = torch.empty(1, 1, 1, 1, device="meta").expand(1, 1, side, side)
        assert step_of(output, operands, "grid").constexprs["OFFSET"] == expected


def test_millions_of_thetas_are_one_launch(kernel_place):
    """A program per theta, or per eight of a spline; only a grid's first dimension may be as long as 2^31 - 1."""
    thetas = 3_000_000
    for numbers, constants, kernel in ((6, None, "affine"), (2 * 23, torch.empty(20, 2), "thin_plate_spline")):
        theta = torch.empty(1, numbers, device="meta").expand(thetas, numbers)
        operands = Operands(torch.empty(1, 1, 4, 4, device="meta"), theta, None, None, None, constants)
        output = torch.empty(thetas, 1, 2, 2, device="meta")
        assert thetas // 8 <= step_of(output, operands, kernel).programs <= thetas


@pytest.mark.parametrize("transform", ["affine", "spline_lattice"])
def test_millions_of_thetas(transform):
    """One image, two million places in it."""
    case = Case(transform=transform)
    # Float64, as two million float32 terms do not add up to more than three digits.
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    small = cases.random_theta(case, (5,), (1, 1))
    theta = small.repeat(400_000, *([1] * (small.dim() - 1))).requires_grad_()
    with tstn.backend("torch"):
        y = tstn.spatial_transform(x, theta, cases.transform_of(case), (1, 1))
        few = tstn.spatial_transform(x, small, cases.transform_of(case), (1, 1))
    assert y.shape == (2_000_000, 1, 1, 1)
    torch.testing.assert_close(y[-5:], few)
    grad_x, grad_theta = torch.autograd.grad(y.sum(), (x, theta))
    torch.testing.assert_close(grad_x, 400_000 * torch.autograd.grad(few.sum(), x)[0], rtol=1e-9, atol=1e-6)
    assert grad_theta.shape == theta.shape


@pytest.mark.gpu
def test_more_than_2_31_elements(place):
    """For real: an input and an output of more than 2^31 elements each, and thetas in the millions."""
    x = torch.rand(3, 1, 1, 1, device=place.device).half().expand(3, 2, 2**14, 2**14 + 2**13).contiguous()
    theta = torch.eye(2, 3, device=place.device).expand(3, 2, 3)
    y = tstn.spatial_transform(x, theta)
    assert y.numel() > 2**31
    assert torch.equal(y[:, :, ::4099, ::4099], x[:, :, ::4099, ::4099])
    del y
    small = torch.rand(1, 1, 4, 4, device=place.device)
    theta = torch.eye(2, 3, device=place.device).expand(3_000_000, 2, 3)
    y = tstn.spatial_transform(small, theta)
    assert torch.equal(y[::99991], small.expand_as(y[::99991]))
