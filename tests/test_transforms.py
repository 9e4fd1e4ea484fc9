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


def test_corners_of_an_attention_crop():
    theta = torch.tensor([0.5, 0.25, -0.25])
    expected = [[-0.25, -0.75], [0.75, -0.75], [0.75, 0.25], [-0.25, 0.25]]
    assert tstn.Attention().corners(theta).tolist() == expected


def test_names_and_equality():
    assert tstn.Affine() == NAMED["affine"]
    assert hash(tstn.Affine()) == hash(NAMED["affine"])
    assert repr(tstn.Similarity()) == "Similarity()"


def test_grid_has_no_parameters():
    with pytest.raises(ValueError, match="no fixed number"):
        tstn.Grid().identity_parameters()
    assert tstn.Grid().shape_for((3, 4)) == (3, 4, 2)
