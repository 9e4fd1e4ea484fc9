"""Addition and co-localisation."""

from __future__ import annotations

import pytest
import torch

from tstn import data

SIZE = 28


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as bright as their labels say."""
    labels = torch.arange(count) % 10
    return (labels / 10).view(-1, 1, 1, 1).expand(-1, 1, SIZE, SIZE).contiguous(), labels


def test_addition_adds() -> None:
    images, labels = labelled()
    pairs, sums = data.addition_pairs(images, labels, 5000, seeded(), lambda x, _: x)
    assert pairs.shape == (5000, 2, SIZE, SIZE)
    digits = (10 * pairs.mean((2, 3))).round().long()
    assert torch.equal(digits.sum(1), sums)
    # Both digits are uniform, and independent of each other.
    counts = torch.bincount(10 * digits[:, 0] + digits[:, 1], minlength=100)
    assert counts.amin() > 25
    assert counts.amax() < 85


def test_addition_distorts_each_digit() -> None:
    images, labels = labelled()
    pairs, _ = data.addition_pairs(images, labels + 1, 50, seeded())
    assert pairs.shape == (50, 2, 42, 42)
    lit = (pairs > 0).float().mean((2, 3))
    assert ((lit[:, 0] - lit[:, 1]).abs() > 1e-3).float().mean() > 0.9


def test_addition_set_is_fixed() -> None:
    images, labels = labelled()
    pairs, sums = data.addition_set(images, labels, 600, seed=3)
    again, same = data.addition_set(images, labels, 600, seed=3)
    assert torch.equal(pairs, again)
    assert torch.equal(sums, same)
    assert pairs.shape == (600, 2, 42, 42)
    assert sums.shape == (600,)
    assert not torch.equal(pairs, data.addition_set(images, labels, 600, seed=4)[0])


@pytest.mark.parametrize("distractors", [0, data.TC_DISTRACTORS])
def test_scenes(distractors: int) -> None:
    digits = data.load_digits()
    images, labels = digits.train_images, digits.train_labels
    scenes = data.colocalization_set(images, labels, 7, seed=0, distractors=distractors)
    assert scenes.images.shape == (100, 1, 84, 84)
    tight = data.colocalization_set(images, labels, 7, seed=0, distractors=distractors, ink=True)
    assert torch.equal(scenes.images, tight.images)
    assert torch.equal(scenes.boxes[:, 2:] - scenes.boxes[:, :2], torch.full((100, 2), 28.0))
    assert torch.equal(torch.maximum(scenes.boxes[:, :2], tight.boxes[:, :2]), tight.boxes[:, :2])
    assert torch.equal(torch.minimum(scenes.boxes[:, 2:], tight.boxes[:, 2:]), tight.boxes[:, 2:])
    found = []
    for image, box, ink in zip(
        scenes.images[:, 0], scenes.boxes.int().tolist(), tight.boxes.int().tolist(), strict=True
    ):
        (left, top, right, bottom), (ink_left, ink_top, ink_right, ink_bottom) = box, ink
        crop = image[top:bottom, left:right]
        found.append(((images[labels == 7][:, 0] - crop).abs().amax((1, 2)) == 0).nonzero().flatten().tolist())
        if not distractors:
            rows, columns = (image > 0.1).nonzero(as_tuple=True)
            assert (ink_left, ink_top) == (columns.amin(), rows.amin())
            assert (ink_right, ink_bottom) == (columns.amax() + 1, rows.amax() + 1)
    if not distractors:
        # Each is one of the sevens, and no two are the same.
        assert all(len(match) == 1 for match in found)
        assert len({match[0] for match in found}) == 100


def test_scenes_need_enough_digits() -> None:
    images, labels = labelled(50)
    with pytest.raises(ValueError, match="count must be at most 5, all there are of digit 3; got 6"):
        data.colocalization_set(images, labels, 3, seed=0, count=6)


def test_random_windows() -> None:
    images = torch.arange(10 * 10).float().view(1, 1, 10, 10).expand(300, -1, -1, -1)
    windows = data.random_windows(images, seeded(), 4)
    corner = windows[:, 0, 0, 0].round().long()
    expected = torch.stack([images[0, :, c // 10 : c // 10 + 4, c % 10 : c % 10 + 4] for c in corner.tolist()])
    torch.testing.assert_close(windows, expected, atol=1e-4, rtol=0)
    assert set((corner // 10).tolist()) == set((corner % 10).tolist()) == set(range(7))
    with pytest.raises(ValueError, match="size must be from 1 to 10, the images' side; got 11"):
        data.random_windows(images, seeded(), 11)


def test_box_iou() -> None:
    box = torch.tensor([0.0, 0, 4, 2])
    others = torch.tensor([[0.0, 0, 4, 2], [2, 0, 6, 2], [4, 0, 8, 2], [1, -1, 3, 1], [10, 10, 11, 11]])
    assert data.box_iou(others, box).tolist() == pytest.approx([1, 1 / 3, 0, 2 / 10, 0])
