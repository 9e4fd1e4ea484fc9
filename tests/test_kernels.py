"""What the kernels launch, allocate and touch."""

import itertools
import math
from collections import Counter

import cases
import pytest
import torch
from cases import Case
from torch.utils._python_dispatch import TorchDispatchMode

import tstn
from tstn import _configs, _launch, _plan, ops
from tstn._warp import Needed, Operands, Warp
from tstn.transforms import NAMED

# Operators that start no kernel: allocations and views.
SILENT = {"empty", "empty_like", "new_empty", "empty_strided", "view", "detach", "expand", "unsqueeze", "alias", "t"}
SILENT |= {"_unsafe_view", "select", "slice", "as_strided", "new_empty_strided", "lift_fresh", "permute"}


class Watch(TorchDispatchMode):
    """Counts kernel launches, PyTorch's and ours, and records what is allocated. Ours are not carried out."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.launches = Counter()
        self.allocated = []
        monkeypatch.setattr(_launch.Launch, "run", lambda launch, device: self.launches.update([launch.kernel]))
        # Else the mode would be shown the registered op, and not what it launches.
        monkeypatch.setattr(ops, "is_dispatched", lambda: False)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in SILENT and not name.startswith("is_"):
            self.launches[name] += 1
        if name.startswith(("empty", "new_empty", "zeros", "new_zeros", "full")):
            self.allocated.append(out.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("batching", ["paired", "shared", "views", "indexed"])
@pytest.mark.parametrize("transform", cases.TRANSFORMS)
def test_launches_and_allocations(kernel_place, monkeypatch, transform, batching, dtype):
    case = Case(transform=transform, batching=batching, dtype=dtype, fill="tensor", size=(40, 50), input_size=(30, 20))
    size = case.size
    x = cases.make_input(case, kernel_place.device).requires_grad_()
    theta, index = cases.make_theta(case, size, kernel_place.device)
    theta.requires_grad_()
    fill = torch.randn(case.channels, device=kernel_place.device, requires_grad=True)
    index = index.to(kernel_place.device) if batching == "indexed" else None
    saved = []

    def keep(tensor):
        saved.append(tensor)
        return tensor

    with Watch(monkeypatch) as watch, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = tstn.spatial_transform(x, theta, transform, size, fill_value=fill, input_index=index)
    forward = {k: v for k, v in watch.launches.items() if k not in ("aminmax", "_local_scalar_dense", "unbind")}
    assert forward == {"sample_forward_kernel": 1}
    assert watch.allocated == [y.numel()]
    held = {x.data_ptr(), theta.data_ptr(), fill.data_ptr()} | ({index.data_ptr()} if index is not None else set())
    assert {t.data_ptr() for t in saved} <= held

    with Watch(monkeypatch) as watch:
        torch.autograd.grad(y, (x, theta, fill), torch.ones_like(y))
    launched = {k: v for k, v in watch.launches.items() if k != "ones_like"}
    gathered = transform != "grid" and kernel_place.gathers
    if batching == "indexed" and gathered:
        # PyTorch lists the thetas by the input that they read.
        assert {launched.pop(name) for name in ("sort", "arange", "searchsorted")} == {1}
    assert sum(launched.values()) <= 3
    assert launched["sample_backward_kernel"] == 1
    assert launched.get("gather_backward_kernel", 0) == gathered
    coordinates = y.numel() // case.channels * 2
    gradients = (x.numel(), theta.numel(), fill.numel(), y.numel())
    assert all(n < coordinates or n in gradients for n in watch.allocated)


def test_small_float32_problem_needs_two_launches_backward(kernel_place, monkeypatch):
    """One tile per sample leaves nothing to sum: a kernel for the input's gradient and one for theta's."""
    x = torch.rand(4, 1, 8, 8, device=kernel_place.device, requires_grad=True)
    theta = torch.eye(2, 3, device=kernel_place.device).repeat(4, 1, 1).requires_grad_()
    with Watch(monkeypatch) as watch:
        y = tstn.spatial_transform(x, theta, fill_value=0.5)
    assert watch.launches == {"sample_forward_kernel": 1}
    grad = torch.ones_like(y)
    with Watch(monkeypatch) as watch:
        torch.autograd.grad(y, (x, theta), grad, retain_graph=True)
    gathered = {"gather_backward_kernel": 1}
    whole = {"sample_backward_kernel": 1} | (gathered if kernel_place.gathers else {"zero_": 1})
    assert watch.launches == whole
    y = tstn.spatial_transform(x, theta.detach(), fill_value=0.5)
    with Watch(monkeypatch) as watch:
        torch.autograd.grad(y, x, grad)
    assert watch.launches == (gathered if kernel_place.gathers else whole)
    y = tstn.spatial_transform(x.detach(), theta)
    with Watch(monkeypatch) as watch:
        torch.autograd.grad(y, theta, grad)
    assert watch.launches == {"sample_backward_kernel": 1}


def test_launches_of_a_spline(kernel_place, monkeypatch):
    """Beside the warp's own and the zeroing of what is scattered to, one from points to coefficients, and one back."""
    x = torch.rand(4, 3, 40, 50, device=kernel_place.device, requires_grad=True)
    transform = tstn.ThinPlateSpline((4, 5))
    theta = torch.rand(4, 20, 2, device=kernel_place.device, requires_grad=True)
    tstn.spatial_transform(x, theta, transform)  # has the constants ready
    with Watch(monkeypatch) as watch:
        y = tstn.spatial_transform(x, theta, transform)
    assert watch.launches == {"spline_product_kernel": 1, "sample_forward_kernel": 1}
    grad = torch.ones_like(y)
    with Watch(monkeypatch) as watch, cases.tiles(Case(cut=True)):
        torch.autograd.grad(y, (x, theta), grad)
    backward = {"zero_": 1, "sample_backward_kernel": 1, "finish_backward_kernel": 1, "spline_product_kernel": 1}
    assert watch.launches == backward


def step_of(output: torch.Tensor, operands: Operands, warp: Warp) -> _plan.Step:
    """The one launch of a forward pass."""
    call, *_ = _launch.call_of(operands, warp)
    assert (call.operands.warps, *call.warp.size) == (output.shape[0], *output.shape[2:])
    return call.forward


def guarded(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The tensor inside NaN guard bands, same strides, and the buffer that holds both."""
    buffer = torch.full((tensor.numel() + 512,), float("nan"), dtype=tensor.dtype, device=tensor.device)
    inner = buffer[256 : 256 + tensor.numel()].as_strided(tensor.shape, tensor.stride())
    inner.copy_(tensor)
    return inner, buffer


def intact(buffer: torch.Tensor) -> bool:
    return bool(buffer[:256].isnan().all() and buffer[-256:].isnan().all())


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(
    ("transform", "mode"), [("affine", "bilinear"), ("grid", "bilinear"), ("similarity", "nearest")]
)
def test_no_access_out_of_bounds(kernel_place, transform, mode, padding_mode, layout, cut):
    """Everything read lies between NaNs, and everything written starts as NaN and lies between NaNs."""
    case = Case(transform=transform, layout=layout, channels=5, input_size=(5, 7), size=(6, 9), cut=cut, spread=2.0)
    device = kernel_place.device
    x, _ = guarded(cases.make_input(case, device))
    theta, _ = guarded(cases.make_theta(case, case.size, device)[0])
    fill, _ = guarded(torch.randn(5, device=device))
    fill = fill if padding_mode == "zeros" else None
    warp = Warp(transform, case.size, mode, padding_mode)
    dense = transform in ("flow", "grid")
    numbers, flow = (None, theta) if dense else (theta.flatten(1), None)
    operands = Operands(x, numbers, flow, fill, None, None)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    y, y_buffer = guarded(torch.full((2, 5, 6, 9), float("nan"), device=device).contiguous(memory_format=memory_format))
    with cases.tiles(case):
        call = _launch.call_of(operands, warp)
        _launch.fill_output(y, *call)
        assert intact(y_buffer)
        assert torch.isfinite(y).all()

        grad, _ = guarded(torch.randn_like(y))
        grad_x, grad_x_buffer = guarded(torch.full_like(x, float("nan")))
        grad_theta, grad_theta_buffer = guarded(torch.full_like(theta if dense else numbers, float("nan")))
        if mode == "nearest":
            grad_theta = None
        grad_fill, grad_fill_buffer = guarded(torch.full((5,), float("nan"), device=device))
        if fill is None:
            grad_fill = None
        thetas = (None, grad_theta) if dense else (grad_theta, None)
        _launch.fill_gradients((grad_x, *thetas, grad_fill), grad, *call)
    for buffer, result in (
        (grad_x_buffer, grad_x),
        (grad_theta_buffer, grad_theta),
        (grad_fill_buffer, grad_fill),
    ):
        assert intact(buffer)
        assert result is None or torch.isfinite(result).all()


@pytest.mark.parametrize("bad", [-1, 2, 10**12])
def test_bad_index_reads_nothing(kernel_place, bad):
    """On a GPU the entries cannot be checked beforehand; a bad one gives NaN and no gradient."""
    x = torch.rand(2, 3, 4, 5, device=kernel_place.device)
    theta = torch.eye(2, 3, device=kernel_place.device).repeat(3, 1, 1).flatten(1)
    index = torch.tensor([1, bad, 0], device=kernel_place.device)
    operands, warp = Operands(x, theta, None, None, index, None), Warp("affine", (4, 5))
    call = _launch.call_of(operands, warp)
    y = _launch.forward(*call)
    assert torch.equal(y[[0, 2]], x[[1, 0]])
    assert y[1].isnan().all()
    needed = Needed(input=True, theta=True, flow=False, fill=False)
    grad_x, grad_theta, *_ = _launch.backward(torch.ones_like(y), *call, needed)
    assert torch.isfinite(grad_x).all()
    assert (grad_theta[1] == 0).all()


def test_offsets_beyond_32_bits(kernel_place):
    """Strides of more than 2^31 elements, over memory that is not there: only addresses in range are touched."""
    rows = torch.rand(2, 3, 4, 5, device=kernel_place.device)
    theta = torch.eye(2, 3, device=kernel_place.device).repeat(2, 1, 1)
    expected = tstn.spatial_transform(rows, theta)
    # Size-1 axes may have any stride: the offset of row 0 is 0 whatever the stride says.
    row = rows[:, :, :1]
    wide = row.as_strided(row.shape, (row.stride(0), row.stride(1), 2**31 + 5, row.stride(3)))
    for tensor in (wide, row):
        operands = Operands(tensor, theta.flatten(1), None, None, None, None)
        step = step_of(torch.empty(2, 3, 1, 5), operands, Warp("affine", (1, 5)))
        import triton.language as tl

        assert step.constexprs["OFFSET"] == (tl.int64 if tensor is wide else tl.int32)
    assert torch.equal(tstn.spatial_transform(wide, theta), tstn.spatial_transform(row, theta))
    assert torch.equal(expected, rows)


def test_too_many_programs_is_an_error(kernel_place):
    theta = torch.empty(1, 6, device="meta").expand(2**31, 6)
    operands = Operands(torch.empty(1, 1, 4, 4, device="meta"), theta, None, None, None, None)
    output = torch.empty(1, 1, 2, 2, device="meta").expand(2**31, 1, 2, 2)
    with pytest.raises(ValueError, match="2147483648 programs"):
        _launch.fill_output(output, *_launch.call_of(operands, Warp("affine", (2, 2))))


def test_configurations_cover_all_channels():
    for channels, programs, channels_last, itemsize, map, kind, bicubic, fixed in itertools.product(
        (1, 2, 3, 5, 17, 64, 513),
        (1, 100, 10**6),
        (False, True),
        (2, 4, 8),
        ("projective", "spline", "custom", "other"),
        ("forward", "theta", "scatter", "gather"),
        (False, True),
        (False, True),
    ):
        work = _configs.Work(channels_last, channels, itemsize, map, kind, bicubic, fixed)
        for place in (_configs.GPU, _configs.CPU, _configs.INTERPRETED):
            config = place.choose(work)
            run = place.channels_per_program(config, programs, channels, channels_last)
            assert run % config.block_c == 0
            splits = -(-channels // run)
            assert (splits - 1) * run < channels <= splits * run
            assert splits == 1 or place is _configs.CPU or programs * splits <= 2 * place.enough_programs


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["affine", "projective", "spline"])
@pytest.mark.parametrize("kind", ["forward", "theta", "scatter"])
def test_programs_cover_all_tiles_and_samples(monkeypatch, kind, name, channels):
    # Of tensors that are on no CPU.
    monkeypatch.setattr(_plan, "INTERPRETED", False)
    transform = tstn.ThinPlateSpline((4, 4)) if name == "spline" else NAMED[name]
    numbers = 38 if name == "spline" else math.prod(transform.theta_shape)
    seen = set()
    for thetas, size in itertools.product((1, 3, 9, 64, 2000), ((28, 28), (33, 100), (512, 512))):
        operands = Operands(
            torch.empty(thetas, channels, 64, 64, device="meta"),
            torch.empty(thetas, numbers, device="meta"),
            *(None, None, None, None),
        )
        warp = Warp(transform.kernel, size)
        cut = _plan._cut(_plan.call(operands, warp).operands, warp, kind, 0 if kind == "forward" else numbers)
        assert (cut.tiles, cut.across) == cut.config.tiles(size)
        assert cut.tiles == -(-size[0] // cut.config.tile_h) * cut.across
        assert 1 <= cut.parts <= cut.tiles
        samples = cut.config.samples
        assert samples <= thetas <= cut.groups * samples < thetas + samples
        assert samples == 1 or cut.groups * cut.tiles >= _configs.GPU.spline_programs
        seen.add((samples > 1, cut.carried))
    assert any(shared for shared, _ in seen) == (name == "spline")
    assert any(carried for _, carried in seen) == (name != "spline" and kind != "forward")
