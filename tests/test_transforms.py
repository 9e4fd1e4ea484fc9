import math

import cases
import pytest
import torch

import tstn
from tstn.transforms import NAMED, MatrixTransform

MATRIX = [t for t in NAMED.values() if isinstance(t, MatrixTransform)]


def thetas(transform: MatrixTransform, *lead: int) -> torch.Tensor:
    identity = transform.theta(transform.identity_parameters().double())
    return identity + 0.3 * torch.randn(*lead, *identity.shape, dtype=torch.float64)


@pytest.mark.parametrize("transform", MATRIX, ids=str)
def test_parameters(transform):
    identity = transform.identity_parameters()
    assert identity.shape == (transform.num_parameters,)
    assert transform.theta(identity).tolist() == cases.IDENTITY[transform.name]
    parameters = torch.randn(4, 5, transform.num_parameters)
    theta = transform.theta(parameters)
    assert theta.shape == (4, 5, *transform.theta_shape)
    # No copy, but for the projective's ninth number.
    assert (theta.data_ptr() == parameters.data_ptr()) == (transform.name != "projective")


@pytest.mark.parametrize("transform", MATRIX, ids=str)
def test_wrong_number_of_parameters(transform):
    with pytest.raises(ValueError, match=r"parameters must have shape .* got \(2, 9\)"):
        transform.theta(torch.zeros(2, 9))


@pytest.mark.parametrize("transform", MATRIX, ids=str)
def test_compose_and_inverse_act_on_points(transform):
    outer, inner = thetas(transform, 6), thetas(transform, 6)
    points = transform.corners(inner)
    matrix = transform.matrix(outer)
    expected = points @ matrix[..., :2].mT + matrix[..., None, :, 2]
    if expected.shape[-1] == 3:
        expected = expected[..., :2] / expected[..., 2:]
    torch.testing.assert_close(transform.corners(transform.compose(outer, inner)), expected)
    undone = transform.compose(transform.inverse(outer), outer)
    identity = transform.theta(transform.identity_parameters().double())
    if transform.name == "projective":
        undone = undone / undone[..., 2:, 2:]
    torch.testing.assert_close(undone, identity.expand_as(undone))


@pytest.mark.parametrize("transform", MATRIX, ids=lambda t: t.name)
def test_from_matrix_of_two_rows_or_three(transform):
    for dtype in (torch.float16, torch.float32, torch.float64):
        for lead in ((), (4,), (2, 3)):
            two = torch.eye(2, 3, dtype=dtype).expand(*lead, 2, 3)
            theta = transform.from_matrix(two)
            assert theta.shape == (*lead, *transform.theta_shape)
            assert theta.dtype == dtype
            assert torch.equal(theta, transform.from_matrix(torch.eye(3, dtype=dtype).expand(*lead, 3, 3)))
            assert torch.equal(transform.matrix(theta)[..., :2, :], two)
    assert tstn.sampling_grid(theta, transform, (3, 4)).isfinite().all()


@pytest.mark.parametrize("transform", MATRIX, ids=lambda t: t.name)
def test_from_matrix_of_anything_else(transform):
    for shape in ((), (3,), (4, 3), (3, 2), (2, 2), (2, 3, 4)):
        with pytest.raises(ValueError, match=r"matrix must have shape \(..., 2, 3\) or \(..., 3, 3\); got \("):
            transform.from_matrix(torch.zeros(shape))
    for matrix, message in (
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "matrix must be a torch.Tensor; got list"),
        (torch.eye(3).long(), "matrix must have a floating dtype; got torch.int64"),
        (torch.eye(3).to_sparse(), r"matrix must be a dense tensor.*write matrix.to_dense\(\)"),
    ):
        with pytest.raises(TypeError, match=message):
            transform.from_matrix(matrix)


def test_algebra_compiles(compiled):
    transform = tstn.Affine()
    outer, inner = thetas(transform, 6), thetas(transform, 6)
    composed = compiled(lambda a, b: transform.compose(transform.inverse(a), b))(outer, inner)
    torch.testing.assert_close(composed, transform.compose(transform.inverse(outer), inner))


def test_corners_of_an_attention_crop():
    theta = torch.tensor([0.5, 0.25, -0.25])
    expected = [[-0.25, -0.75], [0.75, -0.75], [0.75, 0.25], [-0.25, 0.25]]
    assert tstn.Attention().corners(theta).tolist() == expected


@pytest.mark.parametrize("align_corners", [False, True])
def test_turning_pixels_rigidly(align_corners):
    """By the affine theta that Similarity documents; by a similarity of normalised coordinates only squares are."""

    def source_pixels(theta: torch.Tensor, transform: str, height: int, width: int) -> torch.Tensor:
        """Where the pixels look, in pixels, as complex numbers."""
        x, y = tstn.sampling_grid(theta.double(), transform, (height, width), align_corners).unbind(-1)
        less = 1 if align_corners else 0
        return torch.complex(x * (width - less) / 2, y * (height - less) / 2).flatten()

    s, angle = 0.8, 0.6
    cos, sin = s * math.cos(angle), s * math.sin(angle)
    identity = torch.eye(2, 3)
    for height, width in ((6, 9), (8, 3), (5, 5)):
        h, w = (height - 1, width - 1) if align_corners else (height, width)
        affine = torch.tensor([[cos, -sin * h / w, 0.3], [sin * w / h, cos, -0.1]], dtype=torch.float64)
        similarity = torch.tensor([cos, sin, 0.3, -0.1], dtype=torch.float64)
        pixels = source_pixels(identity, "affine", height, width)
        shift = complex(0.3 * w / 2, -0.1 * h / 2)
        turned = pixels * complex(cos, sin) + shift
        torch.testing.assert_close(source_pixels(affine, "affine", height, width), turned)
        distances = (turned[:, None] - turned).abs()
        torch.testing.assert_close(distances, s * (pixels[:, None] - pixels).abs())
        sheared = source_pixels(similarity, "similarity", height, width)
        assert torch.allclose(sheared, turned) == (height == width)


def test_names_and_equality():
    assert tstn.Affine() == NAMED["affine"]
    assert hash(tstn.Affine()) == hash(NAMED["affine"])
    assert repr(tstn.Similarity()) == "Similarity()"


def test_grid_has_no_parameters():
    with pytest.raises(ValueError, match="no fixed number"):
        tstn.Grid().identity_parameters()
    assert tstn.Grid().shape_for((3, 4)) == (3, 4, 2)
