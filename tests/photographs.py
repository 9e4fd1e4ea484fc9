"""Small sets in the formats in which SVHN and CUB-200-2011 are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="the GPU script runs the tests with pytest alone")
Image = pytest.importorskip("PIL.Image", reason="the GPU script runs the tests with pytest alone")

Box = tuple[float, float, float, float]
"""Left, top, width, height."""


def picture(width: int, height: int) -> Any:
    """A picture whose red is the column and whose green is the row."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack((columns, rows, 0 * rows), axis=-1).astype(np.uint8))


def write_house_numbers(
    folder: Path, numbers: Sequence[tuple[str, list[int], list[Box]]], size: tuple[int, int]
) -> None:
    """A split of SVHN: pictures of one size, and ``digitStruct.mat`` as MATLAB 7.3 lays it out."""
    folder.mkdir(parents=True)
    for name, _, _ in numbers:
        picture(*size).save(folder / name)
    with h5py.File(folder / "digitStruct.mat", "w", userblock_size=512) as file:
        references = file.create_group("#refs#")
        structure = file.create_group("digitStruct")
        structure.attrs["MATLAB_class"] = np.bytes_("struct")

        def keep(value: np.ndarray) -> Any:
            return references.create_dataset(str(len(references)), data=value).ref

        def scalar(value: float) -> np.ndarray:
            return np.array([[value]], dtype=np.float64)

        columns = {field: np.empty((len(numbers), 1), dtype=h5py.ref_dtype) for field in ("name", "bbox")}
        for row, (name, digits, boxes) in enumerate(numbers):
            columns["name"][row, 0] = keep(np.array([[ord(c)] for c in name], dtype=np.uint16))
            group = references.create_group(f"box {row}")
            columns["bbox"][row, 0] = group.ref
            fields = [[digit or 10 for digit in digits], *zip(*boxes, strict=True)]
            for field, values in zip(("label", "left", "top", "width", "height"), fields, strict=True):
                if len(values) == 1:
                    group[field] = scalar(values[0])
                else:
                    cells = np.empty((len(values), 1), dtype=h5py.ref_dtype)
                    cells[:, 0] = [keep(scalar(value)) for value in values]
                    group.create_dataset(field, data=cells, dtype=h5py.ref_dtype)
        for field, cells in columns.items():
            structure.create_dataset(field, data=cells, dtype=h5py.ref_dtype)
    with open(folder / "digitStruct.mat", "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def write_birds(root: Path, pictures: Sequence[tuple[str, int, bool]], sizes: Sequence[tuple[int, int]]) -> None:
    """A ``CUB_200_2011``: a path in ``images``, a class from 1 and whether it is for training, for each picture."""
    root.mkdir()
    tables: dict[str, list[str]] = {
        "images.txt": [],
        "image_class_labels.txt": [],
        "train_test_split.txt": [],
        "bounding_boxes.txt": [],
    }
    for number, ((name, label, training), size) in enumerate(zip(pictures, sizes, strict=True), 1):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(*size).save(path, quality=95, subsampling=0)
        rows = (name, str(label), str(int(training)), f"{number}.0 2.0 30.0 40.5")
        for lines, row in zip(tables.values(), rows, strict=True):
            lines.append(f"{number} {row}\n")
    for name, lines in tables.items():
        (root / name).write_text("".join(lines))
