"""The thin-plate spline in plain PyTorch: values, gradients, errors, and what keeps its constants."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import FrozenInstanceError
from itertools import count

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

from tstn import thin_plate
from tstn.thin_plate import ThinPlateSpline
from tstn.transforms import normalised_lattice

SIZE = (5, 7)


def scattered(number: int) -> list[list[float]]:
    """Points in and about [-1, 1]^2, no two too near each other."""
    side = int(np.ceil(np.sqrt(number)))
    generator = np.random.default_rng(number)
    cells = np.stack(np.meshgrid(range(side), range(side)), axis=-1).reshape(-1, 2)[:number]
    return ((cells + generator.uniform(0.2, 0.8, cells.shape)) * (2.2 / side) - 1.1).tolist()


SPLINES = [
    ThinPlateSpline([(-1, -1), (1, -0.5), (0.25, 1)]),
    ThinPlateSpline((2, 2)),
    ThinPlateSpline((4, 4)),
    ThinPlateSpline((4, 4), regularization=0.1),
    ThinPlateSpline((4, 5)),
    ThinPlateSpline(scattered(20)),
    ThinPlateSpline(scattered(20), regularization=2.0),
    ThinPlateSpline((8, 8)),
    ThinPlateSpline((10, 10)),
    ThinPlateSpline(scattered(100), regularization=1e-3),
]
SPLINE_IDS = [f"{len(t.points)}-{'lattice' if '(' in repr(t)[16:] else 'points'}-{t.regularization:g}" for t in SPLINES]
every_spline = pytest.mark.parametrize("spline", SPLINES, ids=SPLINE_IDS)


def warped(
    spline: ThinPlateSpline, samples: int = 3, amount: float = 0.3, dtype: torch.dtype = torch.float64
) -> Tensor:
    identity = spline.theta(spline.identity_parameters()).to(dtype)
    return identity + amount * torch.randn(samples, *identity.shape, dtype=dtype)


def evaluate(spline: ThinPlateSpline, theta: Tensor, size: tuple[int, int] = SIZE) -> Tensor:
    """(M, H, W, 2) through ``pack`` and ``coordinates``."""
    numbers = spline.pack(theta, theta.dtype)
    return torch.stack(spline.coordinates(numbers, *normalised_lattice(size, False, numbers)), dim=-1)


def scipy_values(spline: ThinPlateSpline, theta: Tensor, where: Tensor) -> Tensor:
    interpolate = pytest.importorskip("scipy.interpolate")
    values = [
        interpolate.RBFInterpolator(
            np.array(spline.points), t, kernel="thin_plate_spline", degree=1, smoothing=spline.regularization
        )(where.reshape(-1, 2).numpy())
        for t in theta.detach().numpy()
    ]
    return torch.from_numpy(np.stack(values)).reshape(len(theta), *where.shape)


def lattice(size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.float64) -> Tensor:
    x, y = normalised_lattice(size, False, torch.empty(0, dtype=dtype))
    return torch.stack((x.expand(size), y.expand(size)), dim=-1)


_fresh = count(1)


@pytest.fixture
def fresh() -> ThinPlateSpline:
    """A spline that nobody has used, so that none of its constants are anywhere yet."""
    return ThinPlateSpline((3, 3), regularization=next(_fresh) / 1024)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def assert_ordinary(spline: ThinPlateSpline) -> None:
    """What the cache holds is real, and serves a plain call with a backward pass."""
    for constants in spline._spline.on_device.values():
        for constant in constants:
            assert type(constant) is Tensor
            assert not torch._C._functorch.is_functorch_wrapped_tensor(constant)
            assert not constant.is_inference()
            assert not constant.requires_grad
    theta = warped(spline).requires_grad_()
    source = evaluate(spline, theta)
    source.sum().backward()
    torch.testing.assert_close(source.detach(), scipy_values(spline, theta, lattice()))
    # A constant shift of all points shifts all pixels.
    torch.testing.assert_close(theta.grad.sum(1), torch.full((3, 2), 35.0, dtype=torch.float64))


@every_spline
def test_scipy(spline):
    theta = warped(spline)
    expected = scipy_values(spline, theta, lattice())
    torch.testing.assert_close(evaluate(spline, theta), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(spline.grid(theta, SIZE), expected, rtol=1e-10, atol=1e-10)


@every_spline
def test_gradient_is_scipys_spline_of_unit_vectors(spline):
    # The map is linear in theta: a derivative is the spline that is 1 at one point and 0 at the others.
    jacobian = torch.func.jacrev(lambda theta: evaluate(spline, theta[None])[0])(warped(spline)[0])
    units = torch.eye(len(spline.points), dtype=torch.float64)[..., None].expand(-1, -1, 2)
    expected = scipy_values(spline, units, lattice())[..., 0].movedim(0, -1)
    torch.testing.assert_close(jacobian[..., 0, :, 0], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(jacobian[..., 1, :, 1], expected, rtol=1e-9, atol=1e-9)
    assert not jacobian[..., 0, :, 1].any()
    assert not jacobian[..., 1, :, 0].any()


@every_spline
def test_goes_through_the_points_unless_smoothed(spline):
    points = torch.tensor(spline.points, dtype=torch.float64)
    theta = warped(spline)
    x, y = points[:, 0], points[:, 1, None]
    source = torch.stack(spline.coordinates(spline.pack(theta, torch.float64), x, y), dim=-1)
    source = source.diagonal(dim1=1, dim2=2).movedim(-1, 1)
    assert ((source - theta).abs().max() < 1e-10) == (spline.regularization == 0)


@every_spline
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
def test_identity_is_exact(spline, dtype, align_corners):
    theta = spline.theta(spline.identity_parameters()).to(dtype).expand(2, -1, -1)
    numbers = spline.pack(theta, dtype)
    assert not numbers.any()
    for size in ((5, 7), (1, 6), (64, 64)):
        x, y = normalised_lattice(size, align_corners, numbers)
        x_source, y_source = spline.coordinates(numbers, x, y)
        assert x_source.dtype == dtype
        assert torch.equal(x_source, x.expand(2, *size))
        assert torch.equal(y_source, y.expand(2, *size))


@every_spline
def test_keeps_affine_maps(spline):
    matrix = torch.tensor([[0.8, -0.3, 0.1], [0.2, 1.1, -0.4]], dtype=torch.float64)
    points = torch.tensor(spline.points, dtype=torch.float64)
    theta = (points @ matrix[:, :2].mT + matrix[:, 2])[None]
    expected = lattice() @ matrix[:, :2].mT + matrix[:, 2]
    torch.testing.assert_close(evaluate(spline, theta)[0], expected, rtol=0, atol=1e-11)


def test_by_hand():
    # Three points leave nothing to bend: the spline is the affine map through them.
    spline = ThinPlateSpline([(0, 0), (1, 0), (0, 1)])
    numbers = spline.pack(torch.tensor([[[0.5, 0.0], [2.5, 0.0], [0.5, 3.0]]]), torch.float32)
    expected = [0, 0, 0, 0, 0, 0, 0.5, 0, 1, 0, 0, 2]
    torch.testing.assert_close(numbers[0], torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-7)
    x, y = spline.coordinates(numbers, torch.tensor([-1.0, 1.0]), torch.tensor([[0.5]]))
    torch.testing.assert_close((x[0, 0], y[0, 0]), (torch.tensor([-1.5, 2.5]), torch.tensor([1.5, 1.5])))


@pytest.mark.parametrize("align_corners", [False, True])
def test_float32_is_near_float64(align_corners):
    for spline in SPLINES:
        theta = warped(spline)
        expected = spline.grid(theta.float().double(), (64, 64), align_corners)
        grid = spline.grid(theta.float(), (64, 64), align_corners)
        assert grid.dtype == torch.float32
        size = spline.pack(theta, torch.float64).abs().sum(-1).max() * 8
        torch.testing.assert_close(grid.double(), expected, rtol=1e-6, atol=float(size) * 1e-7)


def test_half_theta():
    spline = SPLINES[2]
    theta = warped(spline).half()
    torch.testing.assert_close(spline.grid(theta, SIZE), spline.grid(theta.float(), SIZE), rtol=0, atol=0)


def test_a_bad_sample_leaves_the_others_alone():
    spline = SPLINES[2]
    theta = warped(spline)
    expected = evaluate(spline, theta)
    theta[1, 3, 0] = float("nan")
    theta[2, 5, 1] = float("inf")
    source = evaluate(spline, theta)
    assert torch.equal(source[0], expected[0])
    assert torch.equal(source[1, ..., 1], expected[1, ..., 1])
    assert source[1, ..., 0].isnan().all()
    assert not source[2, ..., 1].isfinite().any()


def test_no_samples():
    assert SPLINES[2].grid(torch.empty(0, 16, 2), SIZE).shape == (0, *SIZE, 2)


@every_spline
def test_shapes_and_layout(spline):
    points = len(spline.points)
    assert spline.theta_shape == (points, 2)
    assert spline.num_parameters == 2 * points
    assert (spline.name, spline.kernel) == ("thin_plate_spline", "thin_plate_spline")
    theta = warped(spline, samples=5)
    numbers = spline.pack(theta, torch.float32)
    assert numbers.dtype == torch.float32
    assert numbers.shape == (5, 2 * (points + 3))
    assert numbers.t().is_contiguous()
    constants = spline.constants(torch.device("cpu"))
    assert constants.dtype == torch.float32
    assert constants.tolist() == [list(point) for point in spline.points]
    # The order: points' x and y in turn, then the constant, x and y.
    weights, affine = numbers.double().unflatten(1, (-1, 2)).split((points, 3), dim=1)
    target = torch.tensor([0.3, -0.6], dtype=torch.float64)
    squares = (target - constants).double().square().sum(-1)
    bumps = 0.5 * squares * (squares / 4).log()
    source = target + torch.einsum("mka,k->ma", weights, bumps) + affine[:, 0] + 0.3 * affine[:, 1] - 0.6 * affine[:, 2]
    expected = scipy_values(spline, theta, target[None])[:, 0]
    torch.testing.assert_close(source, expected, rtol=0, atol=1e-6 * float(weights.abs().sum(1).max() + 1))


def test_lattice_is_row_by_row_with_x_fastest():
    points = ThinPlateSpline((2, 3)).points
    assert points == ((-1, -1), (0, -1), (1, -1), (-1, 1), (0, 1), (1, 1))


def test_identity_parameters():
    spline = SPLINES[5]
    parameters = spline.identity_parameters()
    assert parameters.dtype == torch.float32
    assert parameters.unflatten(0, (20, 2)).tolist() == [list(point) for point in spline.points]
    parameters.zero_()  # A copy: nothing that the spline needs.
    assert spline.identity_parameters().any()


def test_equality_hash_and_repr():
    spline = ThinPlateSpline((2, 2))
    assert repr(spline) == "ThinPlateSpline(points=(2, 2), regularization=0.0)"
    assert repr(ThinPlateSpline(scattered(5), 1)) == "ThinPlateSpline(points=<5 points>, regularization=1.0)"
    same = [
        ThinPlateSpline([2, 2], regularization=0),
        ThinPlateSpline([[-1, -1], [1, -1], [-1, 1], [1, 1]]),
        ThinPlateSpline(torch.tensor([[-1, -1], [1, -1], [-1, 1], [1, 1]])),
        ThinPlateSpline(np.array([[-1, -1], [1, -1], [-1, 1], [1.0, 1]])),
        copy.deepcopy(spline),
        copy.copy(spline),
        pickle.loads(pickle.dumps(spline)),
    ]
    assert {spline, *same} == {spline}
    others = [
        ThinPlateSpline((2, 3)),
        ThinPlateSpline((2, 2), 0.1),
        ThinPlateSpline([[1, -1], [-1, -1], [-1, 1], [1, 1]]),
    ]
    assert len({spline, *others}) == 4
    assert spline != "thin_plate_spline"


def test_points_are_rounded_to_float32_once():
    points = np.array(scattered(9))
    assert ThinPlateSpline(points.tolist()) == ThinPlateSpline(points.astype(np.float32).tolist())


def test_frozen():
    spline = ThinPlateSpline((2, 2))
    with pytest.raises(FrozenInstanceError, match="cannot assign to 'regularization'"):
        spline.regularization = 1.0
    with pytest.raises(FrozenInstanceError, match="cannot delete 'points'"):
        del spline.points


def test_copies_work():
    spline = ThinPlateSpline(scattered(6), regularization=0.25)
    theta = warped(spline)
    for twin in (copy.deepcopy(spline), pickle.loads(pickle.dumps(spline))):
        assert repr(twin) == repr(spline)
        assert torch.equal(evaluate(twin, theta), evaluate(spline, theta))


GOOD = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
ERRORS = {
    "name": ("uniform", TypeError, r"points must be .*; got str"),
    "none": (None, TypeError, r"points must be .*; got NoneType"),
    "words": ([("a", "b")] * 3, ValueError, r"points must be .*; got list: .*str"),
    "bools": ((True, 4), TypeError, r"points must be .*; got \(True, 4\)"),
    "bool tensor": (torch.ones(3, 2, dtype=torch.bool), TypeError, "got torch.bool"),
    "complex": (torch.ones(3, 2, dtype=torch.complex64), TypeError, "got torch.complex64"),
    "one row": ((1, 4), ValueError, r"at least 2 rows and 2 columns; got \(1, 4\)"),
    "negative": ((4, -4), ValueError, r"at least 2 rows and 2 columns; got \(4, -4\)"),
    "one number": ((4,), ValueError, r"points must be .*; got shape \(1,\)"),
    "floats": ((4.0, 4.0), ValueError, r"points must be .*; got shape \(2,\)"),
    "three columns": (torch.zeros(4, 3), ValueError, r"points must be .*; got shape \(4, 3\)"),
    "ragged": ([(0, 0), (1, 1, 1), (0, 1)], ValueError, r"points must be .*; got list: expected sequence of length 2"),
    "two": (GOOD[:2], ValueError, "points must be at least 3; got 2"),
    "none at all": (torch.zeros(0, 2), ValueError, "points must be at least 3; got 0"),
    "nan": ([*GOOD, (float("nan"), 1)], ValueError, r"points must be finite in float32; got points\[3\] = \(nan, 1\)"),
    "too large": ([*GOOD, (1, 1e39)], ValueError, r"points must be finite in float32; got points\[3\] = \(1, inf\)"),
    "repeated": ([*GOOD, (1, 0)], ValueError, r"points must differ; got points\[1\] = points\[3\] = \(1, 0\)"),
    "repeated zero": ([*GOOD, (-0.0, 1)], ValueError, r"points must differ; got points\[2\] = points\[3\] = \(0, 1\)"),
    "on a line": (
        [(0.1 * k, 0.3 - 0.2 * k) for k in range(5)],
        ValueError,
        r"on one line; got 5 points that do, between points\[0\] = \(0, 0.3\) and points\[4\] = \(0.4, -0.5\)",
    ),
    "on a row": ([(k, 7) for k in range(4)], ValueError, "not all lie on one line; got 4 points"),
    "on a far line": ([(1000 + k / 3, 1000 + k / 7) for k in range(4)], ValueError, "not all lie on one line"),
    "nearly on a line": (
        [(-1, -1), (1, 1), (0, 1e-4)],
        ValueError,
        r"nor lie nearly on one line; got a system with condition number .*, more than 8.4e\+06: .* within 7.1e-05 of "
        r"a line of length 2.8",
    ),
    "nearly the same": (
        [*GOOD, (1, 1), (1, 1 - 1e-5)],
        ValueError,
        r"neither nearly coincide .* closest are points\[3\] and points\[4\], 1e-05 apart",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_about_points(case):
    points, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        ThinPlateSpline(points)


@pytest.mark.parametrize(
    ("regularization", "error", "message"),
    [
        (-0.1, ValueError, "regularization must be finite and not negative; got -0.1"),
        (float("nan"), ValueError, "regularization must be finite and not negative; got nan"),
        (float("inf"), ValueError, "regularization must be finite and not negative; got inf"),
        (True, TypeError, "regularization must be a number; got bool"),
        ("0", TypeError, "regularization must be a number; got str"),
        (torch.tensor(0.0), TypeError, "regularization must be a number; got Tensor"),
    ],
)
def test_errors_about_regularization(regularization, error, message):
    with pytest.raises(error, match=message):
        ThinPlateSpline((4, 4), regularization)


@pytest.mark.parametrize("points", [(20, 20), [(-1, -1), (1, 1), (0, 0.01)], [*GOOD, (1, 1), (1, 0.99)]])
@pytest.mark.parametrize("regularization", [0.0, 1e-3, 1e6])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_points_that_will_do(points, regularization, scale):
    spline = ThinPlateSpline(points)
    spline = ThinPlateSpline(scale * torch.tensor(spline.points), regularization)
    theta = warped(spline, samples=1)
    torch.testing.assert_close(
        evaluate(spline, theta), scipy_values(spline, theta, lattice()), rtol=1e-6, atol=1e-6, check_dtype=False
    )


@pytest.mark.parametrize("spline", [SPLINES[0], SPLINES[3]], ids=["3", "16"])
def test_gradients_of_any_order(spline):
    theta = warped(spline, samples=2).requires_grad_()
    assert gradcheck(lambda t: evaluate(spline, t, (2, 3)), theta, check_forward_ad=True, check_batched_grad=True)
    # Linear: only with something curved behind it is there a second derivative to get right.
    assert gradgradcheck(lambda t: evaluate(spline, t, (2, 3)).sin(), theta, check_fwd_over_rev=True)


def test_torch_func():
    spline = SPLINES[2]
    theta = warped(spline)
    expected = evaluate(spline, theta)
    torch.testing.assert_close(torch.func.vmap(lambda t: evaluate(spline, t[None])[0])(theta), expected)
    several = torch.func.vmap(lambda t: evaluate(spline, t), in_dims=1)(torch.stack((theta, theta), dim=1))
    torch.testing.assert_close(several, torch.stack((expected, expected)))
    direction = torch.randn_like(theta)
    value, slope = torch.func.jvp(lambda t: evaluate(spline, t), (theta,), (direction,))[:2]
    assert torch.equal(value, expected)
    identity = spline.theta(spline.identity_parameters())
    torch.testing.assert_close(slope, evaluate(spline, identity + direction) - lattice())
    hessian = torch.func.hessian(lambda t: evaluate(spline, t).square().sum() / 2)(theta[:1])
    jacobian = torch.func.jacrev(lambda t: evaluate(spline, t))(theta[:1]).reshape(-1, 32)
    torch.testing.assert_close(hessian.reshape(32, 32), jacobian.mT @ jacobian)


@every_spline
def test_deterministic_algorithms(spline, deterministic):
    theta = warped(spline).requires_grad_()
    source = evaluate(spline, theta)
    (grad,) = torch.autograd.grad(source.sin().sum(), theta)
    torch.use_deterministic_algorithms(False)
    expected = evaluate(spline, theta)
    (grad_expected,) = torch.autograd.grad(expected.sin().sum(), theta)
    torch.testing.assert_close(source, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad, grad_expected, rtol=1e-10, atol=1e-10)


def test_deterministic_algorithms_use_no_matrix_product(deterministic):
    spline = SPLINES[2]
    theta = warped(spline).requires_grad_()
    graph = make_fx(lambda t: torch.autograd.grad(evaluate(spline, t).sum(), t)[0])(theta)
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert "aten.addcmul.default" in called
    assert not [name for name in called if "mm" in name or "bmm" in name or "matmul" in name]


@pytest.mark.parametrize("wide", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(fresh, monkeypatch, wide, half):
    # float32 as on MPS, which has nothing wider.
    monkeypatch.setattr(thin_plate, "_wide_dtype", lambda device: wide)
    theta = warped(fresh, dtype=torch.float32).requires_grad_()
    results = []
    for context in (nullcontext(), torch.autocast("cpu", dtype=half)):
        with context:
            source = evaluate(fresh, theta)
            numbers = fresh.pack(theta, torch.float32)
        results.append((numbers, source, *torch.autograd.grad(source.square().sum(), theta)))
    for plain, under_autocast in zip(*results, strict=True):
        assert under_autocast.dtype == torch.float32
        assert torch.equal(plain, under_autocast)


def test_without_float64(fresh, monkeypatch, deterministic):
    theta = warped(fresh)
    expected = evaluate(fresh, theta)
    fresh._spline.on_device.clear()
    monkeypatch.setattr(thin_plate, "_wide_dtype", lambda device: torch.float32)
    for flag in (True, False):
        torch.use_deterministic_algorithms(flag)
        source = evaluate(fresh, theta.float())
        assert source.dtype == torch.float32
        torch.testing.assert_close(source.double(), expected, rtol=0, atol=1e-5)


def fake_mode(spline: ThinPlateSpline, theta: Tensor) -> None:
    fake = FakeTensorMode()
    with fake:
        assert evaluate(spline, fake.from_tensor(theta)).shape == (3, *SIZE, 2)


def tracer(mode: str) -> Callable[[ThinPlateSpline, Tensor], Tensor]:
    return lambda spline, theta: make_fx(lambda t: evaluate(spline, t), tracing_mode=mode)(theta)(theta)


def inference_mode(spline: ThinPlateSpline, theta: Tensor) -> None:
    with torch.inference_mode():
        evaluate(spline, theta)
        spline.constants(theta.device)


def default_device(spline: ThinPlateSpline, theta: Tensor) -> None:
    with torch.device("meta"):
        spline.pack(theta, theta.dtype)
        assert ThinPlateSpline((3, 2)).constants(theta.device).device.type == "cpu"


def grad_of_vmap(spline: ThinPlateSpline, theta: Tensor) -> None:
    one = torch.func.grad(lambda t: evaluate(spline, t[None]).sum() + spline.constants(t.device).sum())
    torch.func.vmap(one)(theta)


def autocast(spline: ThinPlateSpline, theta: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return evaluate(spline, theta)


def compiled_call(function: Callable[[ThinPlateSpline, Tensor], Tensor | None], dynamic: bool | None = None):
    def call(spline: ThinPlateSpline, theta: Tensor) -> Tensor | None:
        torch.compiler.reset()
        compiled = torch.compile(lambda t: function(spline, t), backend="aot_eager", fullgraph=True, dynamic=dynamic)
        return compiled(theta)

    return call


def exported(strict: bool) -> Callable[[ThinPlateSpline, Tensor], Tensor]:
    def call(spline: ThinPlateSpline, theta: Tensor) -> Tensor:
        shapes = ({0: torch.export.Dim("samples", min=2)},)
        program = torch.export.export(Warp(spline), (theta,), dynamic_shapes=shapes, strict=strict)
        saved = io.BytesIO()
        torch.export.save(program, saved)
        module = torch.export.load(io.BytesIO(saved.getvalue())).module()
        return module(torch.cat((theta, theta)))[:3]

    return call


class Warp(torch.nn.Module):
    def __init__(self, spline: ThinPlateSpline):
        super().__init__()
        self.spline = spline

    def forward(self, theta: Tensor) -> Tensor:
        return evaluate(self.spline, theta) + 0 * self.spline.constants(theta.device).sum()


FIRST_CALLS = {
    "plain": evaluate,
    "fake tensors": fake_mode,
    "make_fx": tracer("real"),
    "make_fx with fake tensors": tracer("fake"),
    "make_fx with symbolic sizes": tracer("symbolic"),
    "inference mode": inference_mode,
    "default device": default_device,
    "autocast": autocast,
    "vmap of grad": grad_of_vmap,
    "compiled": compiled_call(evaluate),
    "compiled, dynamic": compiled_call(evaluate, dynamic=True),
    "compiled vmap of grad": compiled_call(grad_of_vmap),
    "export": exported(strict=False),
    "strict export": exported(strict=True),
}


@pytest.mark.parametrize("first_call", FIRST_CALLS)
def test_whoever_calls_first_leaves_ordinary_constants(fresh, first_call):
    theta = warped(fresh)
    assert not fresh._spline.on_device
    source = FIRST_CALLS[first_call](fresh, theta)
    assert fresh._spline.on_device
    if source is not None:
        torch.testing.assert_close(source, evaluate(fresh, theta))
    assert_ordinary(fresh)


def test_constants_are_copied_once(fresh, monkeypatch):
    theta = warped(fresh)
    evaluate(fresh, theta)
    (kept,) = fresh._spline.on_device.values()
    fresh.pack(theta.to("meta"), torch.float32)
    assert set(fresh._spline.on_device) == {"cpu", "meta"}
    monkeypatch.setattr(thin_plate._Spline, "_copy_to", None)  # whoever would copy fails
    evaluate(fresh, theta)
    evaluate(copy.deepcopy(fresh), theta)
    fresh.pack(theta.to("meta"), torch.float32)
    compiled_call(evaluate)(fresh, theta)
    assert fresh._spline.on_device["cpu"] is kept
    assert fresh.constants(theta.device).data_ptr() == kept.points.data_ptr()


def test_splines_that_nobody_uses_are_forgotten():
    spline = ThinPlateSpline((2, 5), regularization=0.375)
    key = spline._spline.key
    assert key in thin_plate._SPLINES
    del spline
    assert key not in thin_plate._SPLINES


def test_compiles_once_for_all_sizes(fresh):
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda t, size: evaluate(fresh, t, size), backend=counter, fullgraph=True, dynamic=True)
    for samples, size in ((3, (5, 7)), (4, (8, 6)), (6, (10, 11))):
        theta = warped(fresh, samples).requires_grad_()
        source = compiled(theta, size)
        assert torch.equal(source, evaluate(fresh, theta, size))
        (grad,) = torch.autograd.grad(source.sum(), theta)
        assert grad.isfinite().all()
    assert counter.frame_count == 1


def test_compiled_for_one_spline_is_not_used_for_another(fresh):
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(evaluate, backend=counter, fullgraph=True)
    other = ThinPlateSpline((3, 3), regularization=5.0)
    theta = warped(fresh)
    for spline in (fresh, other, copy.deepcopy(fresh), fresh):
        assert torch.equal(compiled(spline, theta), evaluate(spline, theta))
    assert not torch.allclose(evaluate(fresh, theta), evaluate(other, theta))
    assert counter.frame_count <= 2


def test_two_splines_in_one_graph(fresh):
    torch.compiler.reset()
    other = ThinPlateSpline((2, 3), regularization=7.0)

    def both(a: Tensor, b: Tensor) -> Tensor:
        return evaluate(fresh, a) + evaluate(other, b)

    thetas = warped(fresh), warped(other)
    assert torch.equal(torch.compile(both, backend="aot_eager", fullgraph=True)(*thetas), both(*thetas))


def test_compiled_deterministically(fresh, deterministic):
    theta = warped(fresh)
    call = compiled_call(evaluate, dynamic=True)
    assert torch.equal(call(fresh, theta), evaluate(fresh, theta))


def test_compiled_keeps_the_numbers_layout(fresh):
    torch.compiler.reset()
    theta = warped(fresh)
    numbers = torch.compile(lambda t: fresh.pack(t, torch.float32), backend="aot_eager", fullgraph=True)(theta)
    assert numbers.t().is_contiguous()
    assert torch.equal(numbers, fresh.pack(theta, torch.float32))


def test_inside_the_backward_of_an_operator(fresh):
    # AOTAutograd traces such a backward pass with fake tensors that allow no others beside them.
    @torch.library.custom_op("tstn_tests::thin_plate", mutates_args=())
    def operator(theta: Tensor) -> Tensor:
        return evaluate(fresh, theta.detach())

    @operator.register_fake
    def _(theta: Tensor) -> Tensor:
        return theta.new_empty(theta.shape[0], *SIZE, 2)

    def backward(ctx, grad: Tensor) -> Tensor:
        return torch.func.vjp(lambda t: evaluate(fresh, t), *ctx.saved_tensors)[1](grad)[0]

    def keep_theta(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    operator.register_autograd(backward, setup_context=keep_theta)
    theta = warped(fresh).requires_grad_()
    (expected,) = torch.autograd.grad(evaluate(fresh, theta).square().sum(), theta)
    fresh._spline.on_device.clear()
    torch.compiler.reset()
    source = torch.compile(lambda t: operator(t), backend="aot_eager", fullgraph=True)(theta)
    (grad,) = torch.autograd.grad(source.square().sum(), theta)
    torch.testing.assert_close(grad, expected)
    assert_ordinary(fresh)
