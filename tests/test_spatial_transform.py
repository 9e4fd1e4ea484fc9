import random

import cases
import oracle
import pytest
import torch
from cases import Case

import tstn

PADDINGS = [("zeros", "none"), ("zeros", "float"), ("zeros", "tensor"), ("border", "none"), ("reflection", "none")]


@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "centres"])
@pytest.mark.parametrize(("padding_mode", "fill"), PADDINGS)
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("transform", cases.TRANSFORMS)
def test_options(place, transform, mode, padding_mode, fill, align_corners):
    cases.check(
        Case(transform=transform, mode=mode, padding_mode=padding_mode, fill=fill, align_corners=align_corners),
        place.device,
    )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "expanded"])
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_dtypes_and_layouts(place, compiled, dtype, layout):
    cases.check(Case(dtype=dtype, layout=layout, grad_layout="expanded"), place.device, compiled)


@pytest.mark.parametrize("theta_dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_mixed_dtypes(place, dtype, theta_dtype):
    cases.check(Case(dtype=dtype, theta_dtype=theta_dtype, transform="grid"), place.device)
    cases.check(Case(dtype=dtype, theta_dtype=theta_dtype, transform="affine"), place.device)


@pytest.mark.parametrize("batching", ["paired", "shared", "views", "indexed"])
@pytest.mark.parametrize("transform", ["attention", "grid"])
def test_broadcasting(place, compiled, transform, batching):
    cases.check(Case(transform=transform, batching=batching, batch=3, fill="tensor"), place.device, compiled)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (20, 3), None], ids=str)
@pytest.mark.parametrize("input_size", [(1, 1), (1, 8), (8, 1), (13, 2)], ids=str)
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "centres"])
def test_sizes(place, input_size, size, align_corners):
    for padding_mode in ("zeros", "border", "reflection"):
        case = Case(input_size=input_size, size=size, align_corners=align_corners, padding_mode=padding_mode)
        cases.check(case, place.device)


@pytest.mark.parametrize("needed", [(i, t, f) for i in (0, 1) for t in (0, 1) for f in (0, 1)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_any_subset_of_gradients(place, compiled, needed, channels_last):
    case = Case(
        needed=tuple(map(bool, needed)),
        fill="tensor",
        dtype=torch.float16,
        layout="channels_last" if channels_last else "contiguous",
    )
    cases.check(case, place.device, compiled)


@pytest.mark.parametrize("transform", ["affine", "grid"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_many_tiles_and_channel_runs(place, transform, layout):
    case = Case(transform=transform, layout=layout, channels=7, size=(11, 10), fill="tensor", cut=True)
    cases.check(case, place.device)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [1, 2, 3, 16, 48, 130])
def test_launch_configurations(place, dtype, layout, channels):
    """Every row of the table of configurations, with ragged tiles and channel runs."""
    for transform in ("affine", "grid"):
        case = Case(
            transform=transform,
            dtype=dtype,
            layout=layout,
            channels=channels,
            input_size=(37, 45),
            size=(41, 50),
            fill="tensor",
        )
        cases.check(case, place.device)


def test_random_configurations(place):
    rng = random.Random(1)
    if place.backend == "torch":
        for _ in range(400):
            cases.check(cases.draw(rng), place.device)
        return
    # What is compiled for one is tried with many.
    for _ in range(8):
        case = cases.draw(rng)
        for _ in range(10):
            cases.check(case, place.device)
            case = cases.vary(case, rng)


@pytest.mark.parametrize("size", [(5, 7), (28, 28), (1, 6), (63, 65)], ids=str)
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "centres"])
@pytest.mark.parametrize("transform", [t for t in cases.TRANSFORMS if t != "grid"])
def test_identity(place, compiled, transform, align_corners, size):
    x = torch.rand(2, 3, *size, device=place.device)
    theta = torch.tensor(cases.IDENTITY[transform], device=place.device).expand(2, *tstn_shape(transform))
    y = compiled(tstn.spatial_transform)(x, theta, transform, align_corners=align_corners)
    if place.backend == "triton":
        assert torch.equal(y, x)
    else:
        # ATen's sampler reads normalised coordinates: rounding them moves a sample by 1e-7 of the size, on each axis.
        torch.testing.assert_close(y, x, atol=1.1e-7 * sum(size), rtol=0)


def tstn_shape(transform: str) -> tuple[int, ...]:
    return torch.tensor(cases.IDENTITY[transform]).shape


@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "centres"])
@pytest.mark.parametrize("transform", [t for t in cases.TRANSFORMS if t != "grid"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_whole_pixel_shift(place, transform, align_corners, mode):
    x = torch.rand(1, 2, 6, 9, device=place.device)
    theta = torch.tensor(cases.IDENTITY[transform], dtype=torch.float64)
    shift = torch.tensor([2 * 2 / (8 if align_corners else 9), -1 * 2 / (5 if align_corners else 6)]).double()
    if transform == "affine":
        theta[:, 2] = shift
    else:
        theta[-2:] = shift
    y = tstn.spatial_transform(
        x, theta[None].to(place.device), transform, align_corners=align_corners, mode=mode, fill_value=5.0
    )
    # Output (i, j) looks at input (i - 1, j + 2).
    expected = torch.full_like(x, 5.0)
    expected[..., 1:, :-2] = x[..., :-1, 2:]
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=0)


def test_far_outside_there_is_only_fill_and_no_slope(place):
    x = torch.randn(1, 3, 4, 5, device=place.device)
    theta = torch.tensor([[0.3, -0.2, 3.1, 4.7]], device=place.device, requires_grad=True)
    fill = torch.tensor([0.1, -0.7, 1e3], device=place.device, requires_grad=True)
    y = tstn.spatial_transform(x, theta, "similarity", (6, 3), fill_value=fill)
    torch.testing.assert_close(y, fill[:, None, None].expand_as(y), rtol=3e-7, atol=0)
    grad_theta, grad_fill = torch.autograd.grad(y, (theta, fill), torch.rand_like(y))
    assert (grad_theta == 0).all()
    assert (grad_fill > 0).all()


def test_hand_worked_2x2(place):
    x = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]], device=place.device)
    # The whole image in one pixel: the mean of its four.
    one = tstn.spatial_transform(x, torch.eye(2, 3, device=place.device)[None], size=(1, 1))
    assert one.item() == pytest.approx(2.75, abs=1e-6)
    # A quarter pixel to the right and half a pixel down of the centre of the first one.
    theta = torch.tensor([[[1.0, 0.0, 0.25], [0.0, 1.0, 0.5]]], device=place.device)
    y = tstn.spatial_transform(x, theta)
    expected = [[0.5 * (0.75 * 1 + 0.25 * 2) + 0.5 * (0.75 * 3 + 0.25 * 5), 0.75 * (0.5 * 2 + 0.5 * 5)]]
    expected += [[0.5 * (0.75 * 3 + 0.25 * 5), 0.75 * 0.5 * 5]]
    torch.testing.assert_close(y.cpu(), torch.tensor([[expected]]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [3, 5, 28, 37, 64])
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "centres"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_lattice_gradient_is_from_the_right(place, size, align_corners, padding_mode):
    """At the identity every sample is at a whole pixel: d out / d x is U[x + 1] - U[x], and 0 where padding clips."""
    u = torch.rand(1, 1, 4, size, dtype=torch.float64)
    theta = torch.eye(2, 3, device=place.device)[None].requires_grad_()
    y = tstn.spatial_transform(
        u.float().to(place.device), theta, padding_mode=padding_mode, align_corners=align_corners
    )
    (grad,) = torch.autograd.grad(y.sum(), theta)
    right = torch.cat((u[..., 1:], torch.zeros_like(u[..., :1])), -1) - u
    if padding_mode != "zeros":
        right[..., 0] = right[..., -1] = 0
    extent = (size - 1) / 2 if align_corners else size / 2
    x = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / extent
    expected = torch.stack(((right * x).sum() * extent, right.sum() * extent))
    actual = grad[0, 0, [0, 2]].cpu().double()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * size)


NAN, INF = float("nan"), float("inf")
# The interpreter computes with numpy, which warns of what a GPU does silently.
numpy_warns = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")


@numpy_warns
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "centres"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF, 1e38, -1e38, 3e9], ids=str)
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_nonsense_coordinates_are_outside(place, bad, mode, align_corners):
    x = torch.rand(1, 2, 4, 5, device=place.device, requires_grad=True)
    grid = torch.zeros(1, 2, 3, 2, device=place.device)
    grid[0, 0, 0, 0] = bad
    grid[0, 1, 2, 1] = bad
    grid[0, 1, 1, :] = bad
    grid.requires_grad_()
    nonsense = torch.zeros(2, 3, dtype=torch.bool)
    nonsense[0, 0] = nonsense[1, 2] = nonsense[1, 1] = True
    kwargs = {"mode": mode, "align_corners": align_corners}
    y = tstn.spatial_transform(x, grid, "grid", (2, 3), fill_value=7.0, **kwargs)
    assert (y[..., nonsense] == 7).all()
    assert (y[..., ~nonsense] <= 1).all()
    grad_x, grad_grid = torch.autograd.grad(y.sum(), (x, grid))
    assert torch.isfinite(grad_x).all()
    assert (grad_grid[0, 1, 1] == 0).all()
    for padding_mode in ("border", "reflection"):
        y = tstn.spatial_transform(x, grid, "grid", (2, 3), padding_mode=padding_mode, **kwargs)
        assert torch.isfinite(y).all()
        # (row, column) of the middle of the image, and its pixels at the border along the bad axis.
        assert y[0, 0, 0, 0] in (x[0, 0, 1:3, [0, -1]].mean(0) if mode == "bilinear" else x[0, 0, :, [0, -1]])
        grad_x, grad_grid = torch.autograd.grad(y.sum(), (x, grid))
        assert torch.isfinite(grad_x).all()
        assert (grad_grid[0, 0, 0, 0], grad_grid[0, 1, 2, 1]) == (0, 0)
        assert torch.isfinite(grad_grid).all()


@numpy_warns
@pytest.mark.parametrize("bad", [NAN, INF, 1e38], ids=str)
def test_nonsense_theta_gives_no_nan_gradient(place, bad):
    x = torch.rand(1, 1, 4, 5, device=place.device, requires_grad=True)
    theta = torch.tensor([[[1.0, bad, 0.0], [0.0, 1.0, 0.0]]], device=place.device, requires_grad=True)
    y = tstn.spatial_transform(x, theta)
    assert torch.isfinite(y).all()
    grad_x, grad_theta = torch.autograd.grad(y.sum(), (x, theta))
    assert torch.isfinite(grad_x).all()
    assert torch.isfinite(grad_theta).all()


@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
def test_exact_edges_have_no_gradient(place, padding_mode):
    """PyTorch's rule for clipped coordinates takes the edge itself as clipped."""
    x = torch.rand(1, 1, 4, 4, device=place.device)
    for align_corners, edge in ((True, 1.0), (False, 0.75)):
        grid = torch.tensor([[-edge, 0.1], [edge, 0.1], [0.1, -edge], [0.1, edge]], device=place.device)
        grid = grid.reshape(1, 2, 2, 2).requires_grad_()
        y = tstn.grid_sample(x, grid, padding_mode=padding_mode, align_corners=align_corners)
        (grad,) = torch.autograd.grad(y.sum(), grid)
        assert (grad.reshape(4, 2)[[0, 1, 2, 3], [0, 0, 1, 1]] == 0).all()
        assert (grad.reshape(4, 2)[[0, 1, 2, 3], [1, 1, 0, 0]] != 0).all()


def test_nearest_rounds_half_to_even(place):
    x = torch.arange(6.0, device=place.device).reshape(1, 1, 1, 6)
    halves = torch.tensor([-0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5], dtype=torch.float64, device=place.device)
    grid = torch.stack(((halves * 2 + 1) / 6 - 1, torch.zeros_like(halves)), -1).reshape(1, 1, 7, 2)
    y = tstn.spatial_transform(x.double(), grid, "grid", (1, 7), mode="nearest", fill_value=-1.0)
    # 2.5 / 6 and its kin are not exact in binary, so that only those that are can be held to the rule.
    exact = ((grid[0, 0, :, 0] + 1) * 6 - 1) / 2 == halves
    expected = torch.tensor([0.0, 0, 2, 2, 4, 4, -1], dtype=torch.float64, device=place.device)
    assert exact.sum() >= 4
    assert torch.equal(y[0, 0, 0][exact], expected[exact])
    # Downsampling by two puts every sample on a half, exactly.
    y = tstn.spatial_transform(x, torch.eye(2, 3, device=place.device)[None], size=(1, 3), mode="nearest")
    assert y.flatten().tolist() == [0, 2, 4]


@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (1, 3, 1, 5), (2, 5, 4, 1)], ids=str)
def test_memory_format_is_kept(place, compiled, shape):
    x = torch.rand(shape, device=place.device).contiguous(memory_format=torch.channels_last).requires_grad_()
    theta = torch.eye(2, 3, device=place.device).expand(shape[0], 2, 3)
    y = compiled(tstn.spatial_transform)(x, theta, size=(3, 4))
    assert y.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert grad.is_contiguous(memory_format=torch.channels_last)
    plain = tstn.spatial_transform(x.detach().contiguous(), theta, size=(3, 4))
    assert plain.is_contiguous()
    torch.testing.assert_close(plain, y.detach(), rtol=0, atol=1e-6)


def test_half_coordinates_are_computed_in_float32(place):
    """An identity at width 1024, where a half-precision grid is off by up to 1.5 pixels."""
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.rand(1, 1, 2, 1024, device=place.device).to(dtype)
        theta = torch.eye(2, 3, device=place.device, dtype=dtype)[None]
        y = tstn.spatial_transform(x, theta)
        torch.testing.assert_close(y, x, rtol=cases.TOLERANCES[dtype], atol=2e-4)


def test_autocast_leaves_coordinates_alone(place):
    x = torch.rand(1, 1, 8, 512, device=place.device)
    theta = (torch.eye(2, 3) + 0.01 * torch.randn(1, 2, 3)).to(place.device)
    expected = tstn.spatial_transform(x, theta)
    with torch.autocast(place.device, dtype=torch.bfloat16):
        y = tstn.spatial_transform(x, theta)
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)


def test_half_error_is_at_most_twice_pytorchs(place):
    x = torch.randn(4, 3, 20, 24, dtype=torch.float64)
    theta = torch.eye(2, 3).double() + 0.3 * torch.randn(4, 2, 3).double()
    grid = oracle.affine_grid(theta, (20, 24), False)
    for dtype in (torch.float16, torch.bfloat16):
        if dtype == torch.bfloat16 and place == ("triton", "cpu"):
            continue  # The interpreter truncates to bfloat16 instead of rounding.
        half = x.to(dtype)
        exact = torch.nn.functional.grid_sample(half.double(), grid, align_corners=False)
        theirs = torch.nn.functional.grid_sample(half, grid.to(dtype), align_corners=False)
        ours = tstn.spatial_transform(half.to(place.device), theta.float().to(place.device)).cpu()
        assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max()
        assert (ours - exact).abs().max() <= 2 ** (-11 if dtype == torch.float16 else -8) * exact.abs().max() * 1.01


def test_empty_batches(place, compiled):
    for input_shape, theta_shape in (((0, 3, 4, 5), (0, 2, 3)), ((1, 3, 4, 5), (0, 2, 3)), ((2, 0, 4, 5), (2, 2, 3))):
        x = torch.rand(input_shape, device=place.device, requires_grad=True)
        theta = torch.rand(theta_shape, device=place.device, requires_grad=True)
        y = compiled(tstn.spatial_transform)(x, theta)
        assert y.shape == (theta_shape[0], input_shape[1], 4, 5)
        grads = torch.autograd.grad(y.sum(), (x, theta))
        assert [g.shape for g in grads] == [x.shape, theta.shape]
        assert all((g == 0).all() for g in grads)


def test_theta_of_any_strides(place):
    x = torch.rand(3, 2, 5, 6, device=place.device)
    theta = torch.randn(3, 2, 3, device=place.device)
    expected = tstn.spatial_transform(x, theta)
    assert torch.equal(tstn.spatial_transform(x, theta.mT.contiguous().mT), expected)
    assert torch.equal(tstn.spatial_transform(x, torch.stack((theta, theta), -1)[..., 0]), expected)
    shared = tstn.spatial_transform(x, theta[:1].expand(3, 2, 3))
    assert torch.equal(shared, tstn.spatial_transform(x, theta[:1].repeat(3, 1, 1)))


def test_same_call_same_bits(place):
    x = torch.randn(3, 5, 17, 19, device=place.device)
    theta = torch.randn(3, 2, 3, device=place.device, requires_grad=True)

    def run():
        y = tstn.spatial_transform(x, theta)
        return y.detach(), torch.autograd.grad(y.square().sum(), theta)[0]

    first = run()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))
