from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

import tstn
from tstn import data
from tstn.data import distortions, draws

SIZE = 28
POOL = torch.rand(7, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(9))
ROW_BY_ROW = {**data.DISTORTIONS, "tc": partial(data.clutter, pool=POOL), "t": data.translation}
LARGEST = 1 - 2.0**-24


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, size: int = SIZE) -> Tensor:
    return torch.rand(count, 1, size, size, generator=seeded(1))


def always(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Let every draw be ``value``."""
    monkeypatch.setattr(distortions, "draw_uniform", lambda count, numbers, _: torch.full((count, numbers), value))


@pytest.mark.parametrize("name", data.DISTORTIONS)
def test_makes_the_canvas(name: str) -> None:
    out = data.DISTORTIONS[name](noise(5), seeded())
    assert out.shape == (5, 1, data.CANVAS[name], data.CANVAS[name])
    assert out.amin() >= 0
    assert out.amax() <= 1
    assert out.flatten(1).amax(1).amin() > 0.5


@pytest.mark.parametrize("name", data.DISTORTIONS)
def test_is_seeded(name: str) -> None:
    images = noise(4)
    one, same, other = (data.DISTORTIONS[name](images, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert (one != other).flatten(1).any(1).all()


@pytest.mark.parametrize("distortion", ROW_BY_ROW.values(), ids=ROW_BY_ROW)
def test_a_batch_is_its_parts(distortion: data.Distortion) -> None:
    images, generator = noise(40), seeded()
    parts = torch.cat([distortion(part, generator) for part in images.split([1, 17, 22])])
    torch.testing.assert_close(parts, distortion(images, seeded()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("distortion", ROW_BY_ROW.values(), ids=ROW_BY_ROW)
def test_channels_go_together(distortion: data.Distortion) -> None:
    if distortion is ROW_BY_ROW["tc"]:
        distortion = partial(data.clutter, pool=POOL.expand(-1, 3, -1, -1))
    out = distortion(noise(3).expand(-1, 3, -1, -1), seeded())
    assert torch.equal(out[:, 0], out[:, 2])


def test_both_backends_agree(kernel_place) -> None:
    images = noise(2).to(kernel_place.device)
    for distortion in data.DISTORTIONS.values():
        out = distortion(images, seeded())
        with tstn.backend("torch"):
            torch.testing.assert_close(out, distortion(images, seeded()), atol=1e-4, rtol=0)


def test_draws_of_normals() -> None:
    x = draws.normal(torch.rand(20000, 4, generator=seeded()))
    assert x.shape == (20000, 2)
    assert x.mean() == pytest.approx(0, abs=0.02)
    assert x.std() == pytest.approx(1, abs=0.02)
    assert (x**4).mean() == pytest.approx(3, abs=0.2)
    assert torch.corrcoef(x.T)[0, 1] == pytest.approx(0, abs=0.02)
    assert draws.normal(torch.tensor([0.0, LARGEST, 0.0, LARGEST])).isfinite().all()


def test_draws_of_whole_numbers() -> None:
    assert draws.whole(torch.tensor([0.0, 0.5, LARGEST]), 33).tolist() == [0, 16, 32]
    drawn = draws.whole(torch.rand(33000, generator=seeded()), 33)
    assert drawn.bincount().tolist() == pytest.approx([1000] * 33, abs=150)


@pytest.mark.parametrize(("draw", "turns"), [(1.0, 1), (0.5, 0), (0.0, -1)])
def test_rotation_by_right_angles(monkeypatch: pytest.MonkeyPatch, draw: float, turns: int) -> None:
    always(monkeypatch, draw)
    images = noise(2)
    torch.testing.assert_close(data.rotation(images, seeded()), images.rot90(turns, (2, 3)), atol=1e-4, rtol=0)


def test_rotation_is_uniform() -> None:
    # A blob to the right of the centre goes round it.
    images = torch.zeros(4000, 1, SIZE, SIZE)
    images[..., 13:15, 22:24] = 1
    out = data.rotation(images, seeded())[:, 0]
    offset = torch.arange(SIZE) - 13.5
    x, y = ((out * axis).sum((1, 2)) / out.sum((1, 2)) for axis in (offset, offset[:, None]))
    torch.testing.assert_close(torch.hypot(x, y), torch.full((4000,), 9.0), atol=0.1, rtol=0)
    angle = torch.rad2deg(torch.atan2(-y, x)).sort().values
    torch.testing.assert_close(angle, torch.linspace(-90, 90, 4000), atol=4, rtol=0)
    assert angle.abs().amax() <= 90.3


def homogeneous(theta: Tensor, points: Tensor) -> Tensor:
    """Where maps (N, 3, 3) send points (N, K, 2)."""
    mapped = torch.cat((points, torch.ones_like(points[..., :1])), dim=-1) @ theta.mT
    return mapped[..., :2] / mapped[..., 2:]


SQUARE = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])


def test_corners_theta() -> None:
    corners = data.draw_corners(200, SIZE, seeded()).double()
    theta = data.corners_theta(corners)
    torch.testing.assert_close(homogeneous(theta, corners), SQUARE.double().expand(200, 4, 2))
    # The centre is where the diagonals cross, and it is inside: no pole lies between.
    (a, b, c, d), middle = corners.unbind(1), homogeneous(theta.inverse(), torch.zeros(200, 1, 2).double())[:, 0]
    for one, other in ((a, c), (b, d)):
        along, to = other - one, middle - one
        torch.testing.assert_close(along[:, 0] * to[:, 1], along[:, 1] * to[:, 0], atol=1e-9, rtol=0)
        assert (((along * to).sum(1) / along.square().sum(1) - 0.5).abs() < 0.5).all()
    identity = data.corners_theta(SQUARE[None])
    torch.testing.assert_close(identity / identity[:, 2:, 2:], torch.eye(3)[None])


@pytest.mark.parametrize("sigma", [5.0, 12.0, 1000.0])
def test_corners_are_convex(sigma: float) -> None:
    corners = data.draw_corners(5000, SIZE, seeded(), sigma)
    sides = corners.roll(-1, 1) - corners
    after = sides.roll(-1, 1)
    assert (sides[..., 0] * after[..., 1] - sides[..., 1] * after[..., 0] > 0).all()


def test_corners_spread_as_the_paper_says() -> None:
    moved = data.draw_corners(20000, SIZE, seeded()) * SQUARE
    assert moved.mean() == pytest.approx(0.875, abs=0.01)
    expected = math.hypot(5 / 14, 0.25 / math.sqrt(12))
    assert moved.flatten(1).std(0).tolist() == pytest.approx([expected] * 8, rel=0.05)


@pytest.mark.parametrize("draw", [0.0, 0.5, LARGEST])
@pytest.mark.parametrize("distortion", [data.projection, data.elastic])
def test_undisturbed_is_shrunk(monkeypatch: pytest.MonkeyPatch, distortion: data.Distortion, draw: float) -> None:
    always(monkeypatch, draw)
    images, scale = noise(2), 0.75 + 0.25 * draw
    out = distortion(images, seeded(), sigma=0.0)  # pyright: ignore[reportCallIssue]
    theta = torch.tensor([[1 / scale, 0, 0]] * 2)
    torch.testing.assert_close(out, tstn.spatial_transform(images, theta, "attention"), atol=1e-4, rtol=0)


def test_elastic_moves_where_its_points_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distortions, "SCALES", (1.0, 1.0))
    # Pixels 9 and 18 are next to the inner control points; pixels tell where they are, and channels x from y.
    ramp = torch.arange(SIZE).float().expand(SIZE, SIZE)
    images = torch.stack((ramp, ramp.T)).expand(4000, 2, SIZE, SIZE)
    moved = (data.elastic(images, seeded()) - images)[..., [9, 18], :][..., [9, 18]]
    assert moved.std(0).flatten().tolist() == pytest.approx([1.5] * 8, rel=0.06)
    assert moved.mean(0).abs().amax() < 0.1
    # Neighbouring points move independently.
    assert torch.corrcoef(moved.flatten(1).T).fill_diagonal_(0).abs().amax() < 0.08


@pytest.mark.parametrize("canvas", [SIZE, 60, 84])
def test_translation_copies_whole_pixels(canvas: int) -> None:
    images = noise(300)
    out, corner = data.place(images, seeded(), canvas)
    assert torch.equal(out, data.translation(images, seeded(), canvas))
    expected = torch.zeros_like(out)
    for k, (column, row) in enumerate(corner.tolist()):
        expected[k, :, row : row + SIZE, column : column + SIZE] = images[k]
    assert torch.equal(out, expected)
    assert corner.aminmax() == (0, canvas - SIZE)


@pytest.mark.parametrize(("canvas", "distractors"), [(60, 6), (84, 16)])
def test_clutter_is_cut_from_other_images(canvas: int, distractors: int) -> None:
    # Each image has one colour of its own.
    colours = torch.linspace(0.5, 1, 50)
    out, corner = data.place(
        colours.view(-1, 1, 1, 1).expand(-1, 1, SIZE, SIZE), seeded(), canvas, distractors=distractors
    )
    outside = torch.ones(50, canvas, canvas, dtype=torch.bool)
    for k, (column, row) in enumerate(corner.tolist()):
        inside = out[k, 0, row : row + SIZE, column : column + SIZE]
        assert inside.amin() >= colours[k] - 1e-6
        outside[k, row : row + SIZE, column : column + SIZE] = False
    seen = out[:, 0].mul(outside)
    others = (seen[..., None] - colours).abs().argmin(-1)
    lit = seen > 0
    assert not (lit & (others == torch.arange(50)[:, None, None])).any()
    assert lit.sum((1, 2)).amax() <= distractors * 36
    assert lit.any(0).float().mean() > 0.5
    assert len(others[lit].unique()) == 50


def test_a_patch_is_a_window() -> None:
    # Every pixel of the pool has a value of its own, so that the patch says where it is from.
    pool = (1 + torch.arange(3 * 10 * 10).float().view(3, 1, 10, 10)) / 300
    out = data.clutter(torch.zeros(200, 1, 10, 10), seeded(), 24, distractors=1, patch=4, pool=pool)
    sources, places = set(), set()
    for canvas in out[:, 0]:
        row, column = (int(v) for v in canvas.nonzero()[0])
        patch = canvas[row : row + 4, column : column + 4]
        image, y, x = (int(v) for v in ((pool[:, 0] - patch[0, 0]).abs() < 1e-4).nonzero()[0])
        torch.testing.assert_close(patch, pool[image, 0, y : y + 4, x : x + 4], atol=1e-5, rtol=0)
        assert canvas.count_nonzero() == 16
        sources.add((image, y, x))
        places.add((row, column))
    assert {image for image, _, _ in sources} == {0, 1, 2}
    assert {y for _, y, _ in sources} == {x for _, _, x in sources} == set(range(7))
    assert {0, 20} <= {row for row, _ in places} <= set(range(21))
    assert len(places) > 100


def test_the_brightest_shows() -> None:
    half, full = torch.full((1, 1, 8, 8), 0.5), torch.ones(1, 1, 8, 8)
    above = data.clutter(half, seeded(), 8, distractors=1, patch=4, pool=full)
    assert above.unique().tolist() == pytest.approx([0.5, 1])
    assert torch.equal(data.clutter(full, seeded(), 8, distractors=1, patch=4, pool=half), full)


def test_impossible_clutter() -> None:
    one = noise(1)
    with pytest.raises(ValueError, match="canvas must be at least as wide as the images, 28 pixels; got 20"):
        data.clutter(one, seeded(), 20)
    with pytest.raises(ValueError, match="images must be at least two, or pool given"):
        data.clutter(one, seeded())
    with pytest.raises(ValueError, match="patch must be from 1 to 28 pixels wide, the images' size; got 29"):
        data.clutter(noise(2), seeded(), patch=29)


def test_a_test_set_is_never_too_small_for_clutter() -> None:
    out = data.distorted(noise(1001, 8), partial(data.clutter, canvas=12, patch=2), seed=0)
    assert out.shape == (1001, 1, 12, 12)
