"""The input's gradient as it is gathered for matrices: every output pixel that looks at an input pixel is found."""

import math

import cases
import numpy as np
import pytest
import torch
from cases import Call, Case
from test_determinism import interpreted_only, shuffled

import tstn

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")


@pytest.fixture(autouse=True)
def _gathering():
    with cases.gathering():
        yield


NAN, INF = float("nan"), float("inf")
COS, SIN = math.cos(0.7), math.sin(0.7)

# Each hard in its own way for an inverse.
MATRICES = {
    "identity": [[1, 0, 0], [0, 1, 0]],
    "whole_pixels": [[1, 0, 2 / 9], [0, 1, -4 / 8]],
    "half_pixels": [[1, 0, 1 / 9], [0, 1, -1 / 8]],
    "mirrored": [[-1, 0, 0.03], [0, 1, 0.02]],
    "transposed": [[0, 1, 0.01], [1, 0, 0]],
    "rotated": [[COS, -SIN, 0.1], [SIN, COS, 0]],
    "zoomed_in": [[0.11, 0.02, 0.3], [-0.03, 0.12, -0.2]],
    "zoomed_out": [[7.1, 0.3, 0.2], [-0.5, 6.3, 0.1]],
    "all_at_one_point": [[0, 0, 0.21], [0, 0, -0.37]],
    "all_at_one_pixel": [[0, 0, 0], [0, 0, 0]],
    "nearly_one_point": [[1e-20, 0, 0.21], [0, 1e-22, -0.37]],
    "columns_only": [[1, 0, 0.1], [0, 0, 0.2]],
    "rows_only": [[0, 0, 0.1], [0, 1, 0.2]],
    "a_line": [[0.4, 0.4, 0.03], [0.6, 0.6, 0.02]],
    "nearly_a_line": [[0.4, 0.4, 0.03], [0.6, 0.6 + 1e-5, 0.02]],
    "a_steep_line": [[0.3, -0.9, 0.1], [0.1, -0.3, 0.0]],
    "huge": [[1e25, 0, 0], [0, 1e25, 0]],
    "one_huge": [[1, 0, 0.1], [0, 1e12, 0]],
    "far_away": [[1, 0, 1e9], [0, 1, 0]],
    "nan": [[NAN, 0, 0], [0, 1, 0]],
    "infinite": [[1, 0, INF], [0, 1, 0]],
    "infinitely_steep": [[1, 0, 0], [INF, 1, 0]],
}
BOTTOM_ROWS = {
    "plain": [0, 0, 1],
    "tilted": [0.2, -0.3, 1],
    "negative": [0.1, 0.2, -1],
    "pole_in_the_picture": [0.9, 0.5, 0.37],
    "pole_all_over": [0, 0, 0],
    "pole_at_the_centre": [1, 1, 0],
}


def gradient(backend: str, device: str, transform: str, theta: list, mode: str, align_corners: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 8, 9, dtype=torch.float64, generator=generator).to(device).requires_grad_()
    thetas = torch.tensor([theta], dtype=torch.float64, device=device)
    with tstn.backend(backend):
        y = tstn.spatial_transform(x, thetas, transform, (7, 10), mode=mode, align_corners=align_corners)
    (grad,) = torch.autograd.grad(y, x, torch.rand(y.shape, dtype=y.dtype, generator=generator).to(device))
    return grad.cpu()


@pytest.mark.parametrize("mode", cases.MODES)
@pytest.mark.parametrize("name", MATRICES)
def test_hard_matrices(kernel_place, name, mode):
    align_corners = len(name) % 2 == 0
    expected = gradient("torch", "cpu", "affine", MATRICES[name], mode, align_corners)
    actual = gradient(kernel_place.backend, kernel_place.device, "affine", MATRICES[name], mode, align_corners)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bottom", BOTTOM_ROWS)
@pytest.mark.parametrize("name", MATRICES)
def test_hard_homographies(kernel_place, name, bottom):
    mode = cases.MODES[(len(name) + len(bottom)) % 3]
    theta = [*MATRICES[name], BOTTOM_ROWS[bottom]]
    expected = gradient("torch", "cpu", "projective", theta, mode, len(name) % 2 == 0)
    actual = gradient(kernel_place.backend, kernel_place.device, "projective", theta, mode, len(name) % 2 == 0)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("batching", ["paired", "shared", "views", "indexed"])
@pytest.mark.parametrize("transform", ["similarity", "projective"])
def test_shares_of_the_thetas(kernel_place, transform, batching, cut):
    """Many thetas that read one input are dealt to several programs, whose sums are then summed."""
    case = Case(
        transform=transform, batching=batching, views=7, cut=cut, seed=1, dtype=torch.float16, channels=5, spread=0.2
    )
    cases.check(case, kernel_place.device)


@interpreted_only
@pytest.mark.parametrize("batching", ["views", "indexed"])
@pytest.mark.parametrize("transform", ["affine", "projective"])
def test_no_order_of_programs_changes_a_bit(kernel_place, transform, batching):
    """Without asking for determinism."""
    case = Case(transform=transform, batching=batching, views=3, cut=True, seed=3, spread=0.2)
    results = []
    with cases.tiles(case):
        for seed in range(3):
            call = Call(case, kernel_place.device)
            output = call.output()
            with shuffled(np.random.default_rng(seed)):
                results.append(call.gradients(output, torch.ones_like(output)))
    for result in results[1:]:
        assert all(torch.equal(result[name], results[0][name]) for name in result)


@pytest.mark.gpu
@pytest.mark.parametrize("transform", ["affine", "projective"])
def test_repeats_on_a_gpu(kernel_place, transform):
    case = Case(transform=transform, batching="shared", views=64, input_size=(40, 50), size=(60, 30), spread=0.3)
    call = Call(case, kernel_place.device)
    output = call.output()
    first = call.gradients(output, torch.ones_like(output))
    for _ in range(20):
        again = call.gradients(call.output(), torch.ones_like(output))
        assert all(torch.equal(again[name], first[name]) for name in first)
