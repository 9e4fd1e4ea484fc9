from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from photographs import Box, write_house_numbers
from torch.utils.data import DataLoader

from tstn import data
from tstn.data import svhn

WIDTH, HEIGHT = 120, 50
NUMBERS: list[tuple[str, list[int], list[Box]]] = [
    ("1.png", [7], [(40, 10, 12, 20)]),
    ("2.png", [1, 0, 2], [(30, 12, 10, 20), (41, 10, 10, 22), (52, 14, 8, 20)]),
    ("3.png", [0], [(2, 3, 10, 40)]),
    ("4.png", [1, 2, 3, 4, 5, 6], [(10.0 * k, 10, 8, 20) for k in range(6)]),
    ("5.png", [9, 9, 9, 9, 9], [(10.0 * k + 60, 20, 10, 25) for k in range(5)]),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "extra", "test"):
        write_house_numbers(tmp_path / split, NUMBERS, (WIDTH, HEIGHT))
    return tmp_path


def test_reads_numbers(root: Path) -> None:
    numbers = data.read_digit_struct(root / "train" / "digitStruct.mat")
    assert [(n.name, n.digits, n.boxes) for n in numbers] == NUMBERS


def test_labels_and_regions(root: Path) -> None:
    numbers = data.HouseNumbers(root)
    assert numbers.names == ["1.png", "2.png", "3.png", "5.png"]
    assert numbers.left_out == 1
    assert numbers.labels.tolist() == [[7, 10, 10, 10, 10], [1, 0, 2, 10, 10], [0, 10, 10, 10, 10], [9] * 5]
    assert numbers.labels.dtype == torch.int64
    assert numbers.regions.tolist() == [[40, 10, 52, 30], [30, 10, 60, 34], [2, 3, 12, 43], [60, 20, 110, 45]]


def test_crop_is_the_region(root: Path) -> None:
    numbers = data.HouseNumbers(root, size=20, expand=1.0)
    numbers.regions[0] = torch.tensor([40.0, 10, 60, 30])
    crop, label = numbers[0]
    assert crop.dtype == torch.uint8
    assert crop[0].tolist() == [list(range(40, 60))] * 20
    assert crop[1].T.tolist() == [list(range(10, 30))] * 20
    assert label[0] == 7


@pytest.mark.parametrize(("size", "expand"), [(64, 1.3), (128, 2.6)])
def test_crop_is_enlarged_and_ends_with_the_picture(root: Path, size: int, expand: float) -> None:
    numbers = data.HouseNumbers(root, "test", size)
    assert numbers.expand == expand
    for (crop, _), (left, top, right, bottom) in zip(
        map(numbers.__getitem__, range(4)), numbers.regions.tolist(), strict=True
    ):
        assert crop.shape == (3, size, size)
        grow = (expand - 1) / 2
        for values, low, high, limit in ((crop[0], left, right, WIDTH), (crop[1].T, top, bottom, HEIGHT)):
            start, stop = max(0, low - grow * (high - low)), min(limit, high + grow * (high - low))
            # A pixel's centre is half of it inside the crop; there, pixel p's light is p and its centre p + 0.5.
            inset = (stop - start) / size / 2
            assert values[:, 0].float().mean() == pytest.approx(start + inset - 0.5, abs=0.7)
            assert values[:, -1].float().mean() == pytest.approx(stop - inset - 0.5, abs=0.7)


def test_batches_and_workers(root: Path) -> None:
    numbers = data.HouseNumbers(root)
    images, labels = next(iter(DataLoader(numbers, batch_size=4)))
    assert images.shape == (4, 3, 64, 64)
    assert torch.equal(labels, numbers.labels)
    copy = pickle.loads(pickle.dumps(numbers))
    assert torch.equal(copy[1][0], numbers[1][0])


def test_the_list_is_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.HouseNumbers(root)
    read = svhn.read_digit_struct
    monkeypatch.setattr(svhn, "read_digit_struct", None)
    again = data.HouseNumbers(root)
    assert again.names == first.names
    assert again.left_out == first.left_out
    assert torch.equal(again.labels, first.labels)
    assert torch.equal(again.regions, first.regions)
    # Until it changes, or what was kept is damaged.
    monkeypatch.setattr(svhn, "read_digit_struct", read)
    kept = root / "train" / "digitStruct.pt"
    kept.write_bytes(kept.read_bytes()[:100])
    assert data.HouseNumbers(root).names == first.names
    path = root / "train" / "digitStruct.mat"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(data.DataError, match=r"damaged or no digitStruct\.mat"):
        data.HouseNumbers(root)


def test_a_folder_that_cannot_be_written_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise data.DataError("cannot write")

    monkeypatch.setattr(svhn, "write_atomically", refuse)
    assert len(data.HouseNumbers(root)) == 4
    assert not (root / "train" / "digitStruct.pt").exists()


def test_splits(root: Path) -> None:
    train, validation, test = data.svhn_splits(root, validation=3)
    assert (len(train), len(validation), len(test)) == (5, 3, 4)
    assert sorted((*train.indices, *validation.indices)) == list(range(8))
    assert data.svhn_splits(root, validation=3)[1].indices == validation.indices
    with pytest.raises(ValueError, match="validation must be from 0 to 8, all pictures there are; got 5000"):
        data.svhn_splits(root)


def test_missing_files_are_named(root: Path) -> None:
    (root / "train" / "2.png").unlink()
    with pytest.raises(data.DataError, match=r"train/2.png is missing, of 1 pictures .*download train.tar.gz"):
        data.HouseNumbers(root)
    (root / "extra" / "digitStruct.mat").unlink()
    with pytest.raises(data.DataError, match=r"extra/digitStruct.mat is missing; download extra.tar.gz"):
        data.HouseNumbers(root, "extra")
    with pytest.raises(data.DataError, match=r"digitStruct.mat is missing"):
        data.HouseNumbers(root / "nowhere")


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.9])
def test_a_damaged_list_is_named(root: Path, keep: float) -> None:
    path = root / "train" / "digitStruct.mat"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(data.DataError, match=r"train/digitStruct.mat is damaged or no digitStruct.mat: .*unpack"):
        data.HouseNumbers(root)


@pytest.mark.parametrize("label", [-3, 11, 2.5])
def test_wrong_labels_are_damage(tmp_path: Path, label: int) -> None:
    write_house_numbers(tmp_path / "train", [("1.png", [label], [(1, 1, 5, 5)])], (20, 20))
    with pytest.raises(data.DataError, match=r"labels must be 1 to 10, at least one; got \["):
        data.HouseNumbers(tmp_path)


def test_another_hdf5_file_is_no_list(root: Path) -> None:
    import h5py

    path = root / "train" / "digitStruct.mat"
    with h5py.File(path, "w") as file:
        file["other"] = [1, 2, 3]
    with pytest.raises(data.DataError, match=r"damaged or no digitStruct\.mat"):
        data.HouseNumbers(root)


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_damaged_picture_is_named(root: Path, content: bytes | None) -> None:
    path = root / "train" / "1.png"
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    numbers = data.HouseNumbers(root)
    with pytest.raises(data.DataError, match=r"train/1.png cannot be read as a picture: .*good copy"):
        numbers[0]


def test_digits_outside_the_picture_are_damage(tmp_path: Path) -> None:
    write_house_numbers(tmp_path / "train", [("1.png", [3], [(100, 1, 5, 5)])], (20, 20))
    with pytest.raises(data.DataError, match=r"1.png is damaged: it has 20 x 20 pixels, with digits at \(100, 1\)"):
        data.HouseNumbers(tmp_path)[0]


def test_nothing_but_long_numbers(tmp_path: Path) -> None:
    write_house_numbers(tmp_path / "train", [NUMBERS[3]], (WIDTH, HEIGHT))
    with pytest.raises(data.DataError, match="has no numbers of at most 5 digits"):
        data.HouseNumbers(tmp_path)


@pytest.mark.parametrize("module", ["h5py", "PIL.Image"])
def test_missing_libraries(root: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(data.DataError, match=r"pip install '\.\[svhn\]'"):
        data.HouseNumbers(root)


def test_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split must be one of 'train', 'extra', 'test'; got 'valid'"):
        data.HouseNumbers(tmp_path, "valid")
    with pytest.raises(ValueError, match="size must be 64 or 128 unless expand is given; got 32"):
        data.HouseNumbers(tmp_path, size=32)
    with pytest.raises(ValueError, match="size and expand must be positive; got 32 and 0"):
        data.HouseNumbers(tmp_path, size=32, expand=0)
