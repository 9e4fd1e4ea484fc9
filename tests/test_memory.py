"""What a forward and backward pass takes from the allocator, at its peak."""

import weakref
from collections.abc import Callable

import cases
import pytest
import torch
from cases import Case
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tstn
from tstn import _launch

MIB = 2**20


class Peak(TorchDispatchMode):
    """Bytes alive of the storages that appear under it, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None):
        before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in before | self.known:
                    self.known.add(storage._cdata)
                    self.alive += storage.nbytes()
                    self.most = max(self.most, self.alive)
                    weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        return out

    def freed(self, key: int, nbytes: int) -> None:
        self.known.discard(key)
        self.alive -= nbytes


def peak_of(monkeypatch, x, theta, transform, size, **options) -> tuple[int, int]:
    """Bytes taken at most beyond the operands and the output's gradient, and those of output and gradients."""
    # What is launched does not matter here, and would take hours in the interpreter.
    monkeypatch.setattr(_launch.Launch, "run", lambda launch, device: None)
    leaves = [t for t in (x, theta, options.get("flow")) if t is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    grad = torch.ones((), device=x.device).expand(len(theta), x.shape[1], *size)
    with Peak() as peak:
        y = tstn.spatial_transform(x, theta, transform, size, **options)
        grads = torch.autograd.grad(y, leaves, grad)
    return peak.most, sum(t.nbytes for t in (y, *grads))


def test_the_count_sees_what_is_alive():
    with Peak() as peak:
        a = torch.ones(MIB // 4)
        b = a + a
        c = b.view(2, -1)
        del a
        b = c.exp()
        del b, c
        assert peak.alive == 0
    assert peak.most == 2 * MIB


def test_spline_of_the_bar(kernel_place, monkeypatch):
    """64 images of 3 x 256 x 256 through 20 points: peers take 370 to 670 MB beyond the result."""
    spline = tstn.ThinPlateSpline((4, 5))
    x = torch.rand(64, 3, 256, 256, device=kernel_place.device)
    theta = spline.identity_parameters().reshape(1, 20, 2).repeat(64, 1, 1).to(kernel_place.device)
    most, results = peak_of(monkeypatch, x, theta, spline, (256, 256))
    assert results < most <= results + MIB


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("transform", cases.EVERY_TRANSFORM)
def test_every_transform(kernel_place, monkeypatch, transform, layout):
    case = Case(transform=transform, layout=layout, batch=16, size=(128, 128), input_size=(128, 128))
    x = cases.make_input(case, kernel_place.device)
    theta, _ = cases.make_theta(case, case.size, kernel_place.device)
    most, results = peak_of(monkeypatch, x, theta, cases.transform_of(case), case.size)
    assert most <= results + MIB


def test_matrix_then_flow(kernel_place, monkeypatch):
    x = torch.rand(16, 3, 128, 128, device=kernel_place.device)
    theta = torch.eye(2, 3, device=kernel_place.device).repeat(16, 1, 1)
    flow = torch.zeros(16, 2, 128, 128, device=kernel_place.device).permute(0, 2, 3, 1)
    most, results = peak_of(monkeypatch, x, theta, "affine", (128, 128), flow=flow)
    assert most <= results + MIB // 4
