"""Autograd beyond first order, and the ops that stand for the kernels under torch.compile and torch.export."""

import cases
import pytest
import torch
from torch import nn

import tstn

OPTIONS = [
    ("affine", "bilinear", "zeros", False),
    ("similarity", "bilinear", "border", True),
    ("attention", "bilinear", "reflection", False),
    ("translation", "nearest", "zeros", False),
    ("grid", "bilinear", "zeros", True),
]


def make(transform, device, dtype=torch.float64, requires_grad=True):
    x = torch.randn(2, 2, 4, 5, dtype=dtype)
    if transform == "grid":
        theta = torch.randn(2, 3, 4, 2, dtype=dtype) * 0.7
    else:
        identity = torch.tensor(cases.IDENTITY[transform], dtype=dtype)
        theta = identity + 0.3 * torch.randn(2, *identity.shape, dtype=dtype)
    fill = torch.randn(2, dtype=dtype)
    return [t.to(device).requires_grad_(requires_grad) for t in (x, theta, fill)]


def test_second_derivative_when_only_some_inputs_need_it(place):
    x, theta, _ = make("affine", place.device)
    x.requires_grad_(False)
    y = tstn.spatial_transform(x, theta)
    (grad,) = torch.autograd.grad(y.square().sum(), theta, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), theta)
    step = 1e-6
    bumped = theta.detach().clone()
    bumped[1, 0, 2] += step
    bumped.requires_grad_()
    (grad_bumped,) = torch.autograd.grad(tstn.spatial_transform(x, bumped).square().sum(), bumped)
    numeric = (grad_bumped.square().sum() - grad.square().sum()) / step
    torch.testing.assert_close(second[1, 0, 2], numeric, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("transform", "mode", "padding_mode", "align_corners"), OPTIONS)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_opcheck(kernel_place, transform, mode, padding_mode, align_corners, channels_last):
    x, theta, fill = make(transform, kernel_place.device, torch.float32)
    if channels_last:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    flow = None
    if transform == "grid":
        theta, flow = None, theta
    else:
        theta = theta.detach().flatten(1).requires_grad_()
        if mode != "nearest":
            flow = torch.rand(2, 3, 4, 2, device=kernel_place.device, requires_grad=True)
    index = torch.tensor([1, 0], device=kernel_place.device)
    options = (transform, 3, 4, mode, padding_mode, align_corners, 0.0)
    fill = fill if padding_mode == "zeros" else None
    torch.library.opcheck(torch.ops.tstn.spatial_transform, (x, theta, flow, fill, index, None, *options))
    if transform != "grid":
        torch.library.opcheck(torch.ops.tstn.spatial_transform, (x, theta, None, None, None, None, *options))
    detached = [None if t is None else t.detach() for t in (x, theta, flow, fill)]
    grad = torch.randn(2, 2, 3, 4, device=kernel_place.device)
    has_theta, has_flow, has_fill = (t is not None for t in (theta, flow, fill))
    for needed in (
        (True, has_theta, has_flow, has_fill),
        (False, has_theta, has_flow, False),
        (True, False, False, False),
    ):
        arguments = (grad, *detached, None, None, *options, *needed)
        # Without autograd_registration: only torch.compile and export go through this op, once, without a graph.
        utils = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
        torch.library.opcheck(torch.ops.tstn.spatial_transform_backward, arguments, test_utils=utils)


class Classifier(nn.Module):
    """A transformer for images of any size and a few linear layers."""

    def __init__(self) -> None:
        super().__init__()
        localization = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 6))
        self.stn = tstn.SpatialTransformer(localization)
        nn.init.normal_(localization[-1].weight, std=0.05)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 3))

    def forward(self, x):
        return self.head(self.stn(x))


def gradients(model, function, x):
    model.zero_grad()
    loss = function(x).square().sum()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


def agree(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)


def test_training_step_compiles_once_for_all_sizes(place):
    torch.compiler.reset()
    model = Classifier().to(place.device)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    for shape in ((4, 1, 20, 22), (6, 1, 18, 30), (8, 1, 25, 17), (5, 1, 31, 31)):
        x = torch.rand(shape, device=place.device)
        agree(gradients(model, compiled, x), gradients(model, model, x))
    assert len(graphs) == 1


def test_training_step_through_inductor(place):
    torch.compiler.reset()
    model = Classifier().to(place.device)
    compiled = torch.compile(model, fullgraph=True)
    x = torch.rand(4, 1, 20, 22, device=place.device)
    agree(gradients(model, compiled, x), gradients(model, model, x))
    torch.compiler.reset()


@pytest.mark.parametrize("strict", [False, True])
def test_export(place, strict):
    model = Classifier().to(place.device).eval()
    auto = torch.export.Dim.AUTO
    x = torch.rand(4, 1, 20, 22, device=place.device)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: auto, 2: auto, 3: auto},), strict=strict)
    targets = [str(node.target) for node in program.graph.nodes]
    ours = [t for t in targets if t.startswith("tstn.")]
    assert ours == (["tstn.spatial_transform.default"] if place.backend == "triton" else [])
    other = torch.rand(7, 1, 30, 21, device=place.device)
    torch.testing.assert_close(program.module()(other), model(other), rtol=1e-6, atol=1e-6)


def test_fake_tensors_go_through_the_op(kernel_place):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(2, 3, 5, 6, device=kernel_place.device)
        y = tstn.spatial_transform(x, torch.empty(2, 2, 3, device=kernel_place.device), size=(4, 4))
    assert y.shape == (2, 3, 4, 4)


@pytest.mark.parametrize("size", [(2, 3), (1, 1), (2, 0), (0, 3)], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (0, 3, 4, 5)], ids=str)
def test_fake_results_lie_as_real_ones_do(kernel_place, shape, size):
    from torch._subclasses.fake_tensor import FakeTensorMode

    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.rand(shape, device=kernel_place.device).contiguous(memory_format=memory_format)
        theta = torch.eye(2, 3, device=kernel_place.device).repeat(shape[0], 1, 1)
        real = tstn.spatial_transform(x, theta, size=size)
        with FakeTensorMode() as mode:
            fake = tstn.spatial_transform(mode.from_tensor(x), mode.from_tensor(theta), size=size)
        assert fake.stride() == real.stride()


def test_a_compiled_function_never_drops_a_tangent(place):
    """Compiled for plain tensors first: dual ones must not meet that code. PyTorch 2.15 refuses them."""
    x, theta, _ = make("affine", place.device, requires_grad=False)
    tangent = torch.randn_like(theta)

    def warp(theta):
        return tstn.spatial_transform(x, theta)

    expected = torch.func.jvp(warp, (theta,), (tangent,))[1]
    torch.compiler.reset()
    compiled = torch.compile(warp, backend="aot_eager", fullgraph=True)
    compiled(theta)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(theta, tangent)
        refusal, found = "", None
        try:
            found = torch.autograd.forward_ad.unpack_dual(compiled(dual)).tangent
        except torch._dynamo.exc.Unsupported as error:
            refusal = str(error)
    if refusal:
        assert "dual tensor input" in refusal
    else:
        torch.testing.assert_close(found, expected)
    torch.compiler.reset()


def test_an_op_on_its_own_never_drops_a_tangent(kernel_place):
    """An exported program holds the bare op, for which PyTorch would return no tangent at all."""
    x, theta, _ = make("affine", kernel_place.device, requires_grad=False)
    options = (None, None, None, None, "affine", 3, 4, "bilinear", "zeros", False, 0.0)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(theta.flatten(1), theta.flatten(1))
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            torch.ops.tstn.spatial_transform(x, dual, *options)
