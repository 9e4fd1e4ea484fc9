from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from photographs import write_birds
from torch.utils.data import DataLoader

from tstn import data

PICTURES = [
    ("001.Albatross/a.jpg", 1, True),
    ("001.Albatross/b.jpg", 1, False),
    ("002.Auklet/c.jpg", 2, True),
    ("200.Yellowthroat/d.jpg", 200, True),
]
SIZES = [(120, 80), (60, 90), (64, 128), (64, 64)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "CUB_200_2011"
    write_birds(root, PICTURES, SIZES)
    return root


def test_splits(root: Path) -> None:
    train, test = data.Birds(root), data.Birds(root, "test")
    assert train.names == ["001.Albatross/a.jpg", "002.Auklet/c.jpg", "200.Yellowthroat/d.jpg"]
    assert train.labels.tolist() == [0, 1, 199]
    assert train.labels.dtype == torch.int64
    assert test.names == ["001.Albatross/b.jpg"]
    assert train.boxes is None


def test_boxes(root: Path) -> None:
    boxes = data.Birds(root, boxes=True).boxes
    assert boxes is not None
    assert boxes.tolist() == [[1, 2, 30, 40.5], [3, 2, 30, 40.5], [4, 2, 30, 40.5]]


def test_middle_square(root: Path) -> None:
    # 120 x 80: columns 20 to 99, every row, at half their size.
    image, label = data.Birds(root, size=40)[0]
    assert image.shape == (3, 40, 40)
    assert image.dtype == torch.uint8
    torch.testing.assert_close(image[0].float().mean(0), torch.arange(40) * 2 + 20.5, atol=2, rtol=0)
    torch.testing.assert_close(image[1].float().mean(1), torch.arange(40) * 2 + 0.5, atol=2, rtol=0)
    assert label == 0


def test_squashed(root: Path) -> None:
    image, _ = data.Birds(root, size=40, fit="squash")[0]
    torch.testing.assert_close(image[0].float().mean(0), torch.arange(40) * 3 + 1.0, atol=2, rtol=0)
    torch.testing.assert_close(image[1].float().mean(1), torch.arange(40) * 2 + 0.5, atol=2, rtol=0)


def test_batches_and_workers(root: Path) -> None:
    birds = data.Birds(root)
    images, labels = next(iter(DataLoader(birds, batch_size=3)))
    assert images.shape == (3, 3, 256, 256)
    assert torch.equal(labels, birds.labels)
    assert torch.equal(pickle.loads(pickle.dumps(birds))[2][0], birds[2][0])


@pytest.mark.parametrize("name", ["images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"])
def test_missing_tables_are_named(root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(data.DataError, match=rf"{name} is missing; download CUB_200_2011.tgz"):
        data.Birds(root, boxes=True)


DAMAGED = {
    "cut off": ("train_test_split.txt", "1 1\n2 0\n3 1\n", "damaged: it lacks picture 4, which images.txt lists"),
    "empty": ("images.txt", "", "images.txt is damaged: it lacks any picture"),
    "not a number": (
        "image_class_labels.txt",
        "1 1\n2 one\n",
        "line 2 must be a picture's number and 1 value; got '2 one'",
    ),
    "not a split": ("train_test_split.txt", "1 2\n", "line 1 must be a picture's number and 1 value; got '1 2'"),
    "too few": ("bounding_boxes.txt", "1 3.0 4.0\n", "line 1 must be a picture's number and 4 values; got '1 3.0 4.0'"),
    "blank line": ("image_class_labels.txt", "1 1\n\n", "line 2 must be .* got ''"),
}


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_tables_are_named(root: Path, name: str, content: str, message: str) -> None:
    (root / name).write_text(content)
    with pytest.raises(data.DataError, match=message) as error:
        data.Birds(root, boxes=True)
    assert str(root / name) in str(error.value)


def test_binary_rubbish_is_named(root: Path) -> None:
    (root / "images.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(data.DataError, match=r"cannot read .*images.txt"):
        data.Birds(root)


def test_missing_pictures_are_named(root: Path) -> None:
    (root / "images" / "002.Auklet" / "c.jpg").unlink()
    with pytest.raises(data.DataError, match=r"002.Auklet/c.jpg is missing, of 1 pictures that images.txt lists"):
        data.Birds(root)
    assert len(data.Birds(root, "test")) == 1


def test_no_pictures_of_a_split(root: Path) -> None:
    (root / "train_test_split.txt").write_text("1 1\n2 1\n3 1\n4 1\n")
    with pytest.raises(data.DataError, match=r"train_test_split.txt has no pictures of the split test"):
        data.Birds(root, "test")


def test_a_damaged_picture_is_named(root: Path) -> None:
    path = root / "images" / "001.Albatross" / "a.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(data.DataError, match=r"a.jpg cannot be read as a picture"):
        data.Birds(root)[0]


def test_without_pillow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(data.DataError, match=r"pip install '\.\[birds\]'"):
        data.Birds(root)


def test_wrong_options(root: Path) -> None:
    with pytest.raises(ValueError, match="split must be 'train' or 'test'; got 'all'"):
        data.Birds(root, "all")
    with pytest.raises(ValueError, match="fit must be 'crop' or 'squash'; got 'pad'"):
        data.Birds(root, fit="pad")
    with pytest.raises(ValueError, match="size must be positive; got 0"):
        data.Birds(root, size=0)


def test_crop_and_flip() -> None:
    # Red tells the column and green the row.
    axis = torch.arange(16.0)
    images = torch.stack((axis.expand(16, 16), axis[:, None].expand(16, 16))).expand(2000, 2, 16, 16)
    out = data.crop_and_flip(images, torch.Generator().manual_seed(0), 10)
    assert out.shape == (2000, 2, 10, 10)
    columns, rows = out[:, 0, 0].round(), out[:, 1, :, 0].round()
    torch.testing.assert_close(out[:, 0], columns[:, None].expand(-1, 10, -1), atol=1e-4, rtol=0)
    steps = columns.diff(dim=1)
    assert torch.equal(steps, steps[:, :1].expand(-1, 9))
    assert steps[:, 0].abs().unique().tolist() == [1]
    assert steps[:, 0].mean() == pytest.approx(0, abs=0.07)
    assert rows.diff(dim=1).unique().tolist() == [1]
    for first in (columns.amin(1), rows[:, 0]):
        assert torch.bincount(first.long(), minlength=7).tolist() == pytest.approx([2000 / 7] * 7, rel=0.25)


def test_centre_crop() -> None:
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(data.centre_crop(images, 10), images[..., 3:13, 3:13])


@pytest.mark.parametrize("crop", [lambda x, n: data.crop_and_flip(x, torch.Generator(), n), data.centre_crop])
def test_crops_must_fit(crop) -> None:
    with pytest.raises(ValueError, match="size must be from 1 to 16, the images' side; got 17"):
        crop(torch.zeros(1, 3, 16, 16), 17)
