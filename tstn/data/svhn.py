"""Street View House Numbers, full numbers (format 1): ``digitStruct.mat`` and pictures, as they are distributed."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, random_split

from tstn._extras import how_to_install
from tstn.data.files import DataError, write_atomically
from tstn.data.pictures import cut_square, open_picture, require_pillow

SVHN_SPLITS = ("train", "extra", "test")
MAX_DIGITS = 5
NULL = 10
"""The class of the null character, past a sequence's end."""
EXPANSION = {64: 1.3, 128: 2.6}
"""How much larger than the digits' box the crops of a size are, along each axis."""
VALIDATION = 5000


class NumberBoxes(NamedTuple):
    """The digits of one picture, from left to right as annotated.

    Attributes:
        name: The picture's file name.
        digits: 0 to 9.
        boxes: Left, top, width, height of each, in pixels.
    """

    name: str
    digits: list[int]
    boxes: list[tuple[float, float, float, float]]


def read_digit_struct(path: Path) -> list[NumberBoxes]:
    """Read a ``digitStruct.mat``, which is an HDF5 file (MATLAB 7.3) of object references.

    Raises:
        DataError: If h5py is not installed, or the file is missing or not what it should be.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise DataError(f"{path.name} is read by h5py ({error}): {how_to_install('svhn')}") from None
    if not path.is_file():
        raise DataError(f"{path} is missing; {_by_hand(path.parent)}")
    try:
        with h5py.File(path, "r") as opened:
            file: Any = opened
            names, boxes = file["digitStruct/name"][:, 0], file["digitStruct/bbox"][:, 0]
            if len(names) != len(boxes):
                raise ValueError(f"{len(names)} names for {len(boxes)} boxes")
            read = _Reader(file.id)
            return [
                NumberBoxes("".join(map(chr, read.column(name, "uint16"))), *_digits(read, box))
                for name, box in zip(names, boxes, strict=True)
            ]
    # What h5py raises depends on where the damage is.
    except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise DataError(f"{path} is damaged or no digitStruct.mat: {error}; {_by_hand(path.parent)}") from error


class _Reader:
    """Follows references by h5py's low-level calls: its objects would double the minutes that a split takes."""

    def __init__(self, file: Any) -> None:
        import h5py
        import numpy as np

        self.file, self.h5py, self.np = file, h5py, np

    def column(self, reference: Any, dtype: Any, field: str = "") -> list[Any]:
        """The first column of the array that a reference, or a field of the group that it, points to."""
        found = self.h5py.h5r.dereference(reference, self.file)
        if field:
            found = self.h5py.h5d.open(found, field.encode())
        rows = found.shape[0]
        if dtype == "number":
            # One digit's numbers stand there themselves, those of several behind a reference each.
            dtype = "float64" if rows == 1 else self.h5py.ref_dtype
        values = self.np.empty(found.shape, dtype)
        found.read(self.h5py.h5s.ALL, self.h5py.h5s.ALL, values)
        return values[:, 0].tolist()

    def numbers(self, reference: Any, field: str) -> list[float]:
        """A field's number for each digit."""
        column = self.column(reference, "number", field)
        return column if len(column) == 1 else [self.column(value, "float64")[0] for value in column]


def _digits(read: _Reader, box: Any) -> tuple[list[int], list[tuple[float, float, float, float]]]:
    labels, *columns = (read.numbers(box, field) for field in ("label", "left", "top", "width", "height"))
    if not labels or not all(label in range(1, 11) for label in labels):
        raise ValueError(f"labels must be 1 to 10, at least one; got {labels}")
    # The digit 0 has the label 10.
    return [int(label) % 10 for label in labels], list(zip(*columns, strict=True))


def _by_hand(folder: Path) -> str:
    return (
        f"download {folder.name}.tar.gz of the full numbers (format 1) from http://ufldl.stanford.edu/housenumbers "
        f"and unpack it into {folder.parent}"
    )


class HouseNumbers(Dataset[tuple[Tensor, Tensor]]):
    """Crops round house numbers, and their digits.

    As Goodfellow et al. 2014 have it: the box round all digits, enlarged, cut off at the picture's edges and resized
    to a square. For 64 pixels it is enlarged by 30 %, as there; for 128 twice as much, so that digits have the same
    size in pixels amid more background. The paper only says that those crops are looser.

    Numbers of more than five digits are left out. Reading ``digitStruct.mat`` takes minutes for the large split: what
    is needed of it is kept beside it in ``digitStruct.pt``, if the folder can be written to.

    Args:
        root: The folder in which the folders ``train``, ``extra`` and ``test`` lie.
        split: Which of them.
        size: Side of the crops in pixels.
        expand: How much larger than the digits' box the crop is; None: :data:`EXPANSION`'s for this size.

    Attributes:
        names: (N) file names.
        regions: (N, 4), left, top, right, bottom of the digits' box, not enlarged, in pixels.
        labels: (N, 5) int64, padded by :data:`NULL`.
        left_out: How many pictures have too many digits.

    Raises:
        DataError: If a file is missing or damaged, or a library is not installed.
        ValueError: If an option is wrong.
    """

    def __init__(self, root: str | Path, split: str = "train", size: int = 64, expand: float | None = None) -> None:
        require_pillow("svhn")
        if split not in SVHN_SPLITS:
            raise ValueError(f"split must be one of {', '.join(map(repr, SVHN_SPLITS))}; got {split!r}")
        if expand is None:
            if size not in EXPANSION:
                raise ValueError(f"size must be 64 or 128 unless expand is given; got {size}")
            expand = EXPANSION[size]
        if size < 1 or expand <= 0:
            raise ValueError(f"size and expand must be positive; got {size} and {expand}")
        self.folder, self.size, self.expand = Path(root) / split, size, expand
        path = self.folder / "digitStruct.mat"
        index = _index(path)
        self.names, self.labels, self.regions = index["names"], index["labels"], index["regions"]
        self.left_out = index["left_out"]
        if not self.names:
            raise DataError(f"{path} has no numbers of at most {MAX_DIGITS} digits; {_by_hand(self.folder)}")
        present = {entry.name for entry in self.folder.iterdir()}
        missing = [name for name in self.names if name not in present]
        if missing:
            raise DataError(
                f"{self.folder / missing[0]} is missing, of {len(missing)} pictures that {path.name} lists; "
                f"{_by_hand(self.folder)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """A crop (3, size, size) uint8 and its digits (5,) int64.

        Raises:
            DataError: If the picture cannot be read, or the digits' box lies outside it.
        """
        path = self.folder / self.names[index]
        image = open_picture(path)
        left, top, right, bottom = self.regions[index].tolist()
        grow_x, grow_y = ((self.expand - 1) / 2 * side for side in (right - left, bottom - top))
        box = (
            max(0.0, left - grow_x),
            max(0.0, top - grow_y),
            min(float(image.width), right + grow_x),
            min(float(image.height), bottom + grow_y),
        )
        if box[2] - box[0] < 1 or box[3] - box[1] < 1:
            raise DataError(
                f"{path} is damaged: it has {image.width} x {image.height} pixels, with digits at "
                f"({left:g}, {top:g}) to ({right:g}, {bottom:g}). Replace it by a good copy"
            )
        return cut_square(image, box, self.size), self.labels[index]


def _index(path: Path) -> dict[str, Any]:
    """What a ``digitStruct.mat`` says of the numbers that are not too long, from the file beside it if that is its."""
    kept = path.with_suffix(".pt")
    try:
        status = path.stat()
        index = torch.load(kept, weights_only=True)
        if index["source"] == (status.st_size, status.st_mtime_ns):
            return index
    # It is made anew, whatever is wrong with it.
    except Exception:
        pass
    numbers = read_digit_struct(path)
    short = [number for number in numbers if len(number.digits) <= MAX_DIGITS]
    status = path.stat()
    index = {
        "source": (status.st_size, status.st_mtime_ns),
        "names": [number.name for number in short],
        "labels": torch.tensor([n.digits + [NULL] * (MAX_DIGITS - len(n.digits)) for n in short]),
        "regions": torch.tensor([_union(number.boxes) for number in short]),
        "left_out": len(numbers) - len(short),
    }
    content = io.BytesIO()
    torch.save(index, content)
    # Data may lie where one may only read.
    with contextlib.suppress(DataError):
        write_atomically(kept, content.getvalue())
    return index


def _union(boxes: list[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    lefts, tops, widths, heights = zip(*boxes, strict=True)
    return (
        min(lefts),
        min(tops),
        max(left + width for left, width in zip(lefts, widths, strict=True)),
        max(top + height for top, height in zip(tops, heights, strict=True)),
    )


def svhn_splits(
    root: str | Path, size: int = 64, validation: int = VALIDATION, seed: int = 0
) -> tuple[Subset[tuple[Tensor, Tensor]], Subset[tuple[Tensor, Tensor]], HouseNumbers]:
    """The paper's training, validation and test sets: train and extra, less 5000 of them; these; test.

    Args:
        root: As in :class:`HouseNumbers`.
        size: Likewise.
        validation: How many pictures are kept for validation.
        seed: Of their choice.

    Raises:
        DataError: As :class:`HouseNumbers`.
        ValueError: If there are not so many pictures.
    """
    train = ConcatDataset([HouseNumbers(root, "train", size), HouseNumbers(root, "extra", size)])
    if not 0 <= validation <= len(train):
        raise ValueError(f"validation must be from 0 to {len(train)}, all pictures there are; got {validation}")
    generator = torch.Generator().manual_seed(seed)
    kept, held = random_split(train, [len(train) - validation, validation], generator)
    return kept, held, HouseNumbers(root, "test", size)
