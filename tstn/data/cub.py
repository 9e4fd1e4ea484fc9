"""Caltech-UCSD Birds 200-2011, as it is distributed: a folder of pictures and text files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tstn.data.draws import draw_uniform, whole
from tstn.data.files import DataError
from tstn.data.pictures import cut_square, open_picture, require_pillow
from tstn.data.placement import window_theta
from tstn.functional import spatial_transform

T = TypeVar("T")

CUB_SPLITS = ("train", "test")
FITS = ("crop", "squash")


class Birds(Dataset[tuple[Tensor, Tensor]]):
    """Square pictures of birds, and their species.

    For training, :func:`crop_and_flip` cuts 224 of 256 pixels, or 448 of 512, out of a batch.

    Args:
        root: The folder ``CUB_200_2011``, in which ``images.txt`` lies.
        split: ``"train"`` or ``"test"``.
        size: Side of the pictures in pixels.
        fit: ``"crop"`` takes the middle square of a picture, ``"squash"`` makes all of it square. The paper has
            "256-side images", which may be either.
        boxes: Whether to read the birds' boxes too, which the paper does not use.

    Attributes:
        names: (N) file names in the folder ``images``.
        labels: (N,) int64, from 0.
        boxes: (N, 4), left, top, width, height of each bird in pixels of the file; None if not asked for.

    Raises:
        DataError: If a file is missing or damaged, or Pillow is not installed.
        ValueError: If an option is wrong.
    """

    def __init__(
        self, root: str | Path, split: str = "train", size: int = 256, fit: str = "crop", boxes: bool = False
    ) -> None:
        require_pillow("birds")
        if split not in CUB_SPLITS:
            raise ValueError(f"split must be 'train' or 'test'; got {split!r}")
        if fit not in FITS:
            raise ValueError(f"fit must be 'crop' or 'squash'; got {fit!r}")
        if size < 1:
            raise ValueError(f"size must be positive; got {size}")
        self.root, self.size, self.fit = Path(root), size, fit
        names = self._table("images.txt", 1, lambda values: values[0])
        labels = self._table("image_class_labels.txt", 1, lambda values: int(values[0]), names)
        training = self._table("train_test_split.txt", 1, lambda values: {"0": False, "1": True}[values[0]], names)
        chosen = [key for key in names if training[key] == (split == "train")]
        if not chosen:
            raise DataError(
                f"{self.root / 'train_test_split.txt'} has no pictures of the split {split}; {self._hint()}"
            )
        self.names = [names[key] for key in chosen]
        self.labels = torch.tensor([labels[key] - 1 for key in chosen])
        self.boxes = None
        if boxes:
            table = self._table("bounding_boxes.txt", 4, lambda values: [float(v) for v in values], names)
            self.boxes = torch.tensor([table[key] for key in chosen])
        missing = [name for name in self.names if not (self.root / "images" / name).is_file()]
        if missing:
            raise DataError(
                f"{self.root / 'images' / missing[0]} is missing, of {len(missing)} pictures that images.txt lists; "
                f"{self._hint()}"
            )

    def _hint(self) -> str:
        return (
            "download CUB_200_2011.tgz from https://www.vision.caltech.edu/datasets/cub_200_2011, unpack it, and name "
            "the folder CUB_200_2011 as root"
        )

    def _table(
        self, name: str, columns: int, parse: Callable[[list[str]], T], keys: dict[str, str] | None = None
    ) -> dict[str, T]:
        """The lines of a text file by their first word; ``keys`` are those that there must be."""
        path = self.root / name
        table: dict[str, T] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise DataError(f"{path} is missing; {self._hint()}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {path}: {error}; {self._hint()}") from error
        for number, line in enumerate(lines, 1):
            try:
                key, *values = line.split()
                if len(values) != columns:
                    raise ValueError
                table[key] = parse(values)
            except (KeyError, ValueError):
                expected = f"a picture's number and {columns} value{'s' if columns > 1 else ''}"
                raise DataError(f"{path}, line {number} must be {expected}; got {line!r}; {self._hint()}") from None
        absent = [key for key in keys or () if key not in table]
        if absent or not table:
            what = f"picture {absent[0]}, which images.txt lists" if absent else "any picture"
            raise DataError(f"{path} is damaged: it lacks {what}; {self._hint()}")
        return table

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """A picture (3, size, size) uint8 and its label () int64.

        Raises:
            DataError: If the picture cannot be read.
        """
        image = open_picture(self.root / "images" / self.names[index])
        width, height = image.size
        if self.fit == "crop":
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
        else:
            box = (0.0, 0.0, float(width), float(height))
        return cut_square(image, box, self.size), self.labels[index]


def crop_and_flip(images: Tensor, generator: torch.Generator, size: int = 224) -> Tensor:
    """Cut a square window out of each image at whole pixels, anywhere, and mirror every other one by chance.

    Args:
        images: (N, C, S, S), floating.
        generator: Source of randomness, on any device.
        size: Side of the windows in pixels.

    Returns:
        (N, C, size, size), on the images' device.

    Raises:
        ValueError: If the windows do not fit.
    """
    side = images.shape[-1]
    if not 1 <= size <= side:
        raise ValueError(f"size must be from 1 to {side}, the images' side; got {size}")
    uniform = draw_uniform(len(images), 3, generator)
    scale, x, y = window_theta(whole(uniform[:, :2], side - size + 1), size, side).unbind(1)
    flipped = torch.where(uniform[:, 2] < 0.5, -scale, scale)
    zero = torch.zeros_like(scale)
    theta = torch.stack((flipped, zero, x, zero, scale, y), dim=1).view(-1, 2, 3)
    return spatial_transform(images, theta.to(images.device), "affine", (size, size))


def centre_crop(images: Tensor, size: int = 224) -> Tensor:
    """The middle square of images (N, C, S, S), for testing: (N, C, size, size).

    Raises:
        ValueError: If it does not fit.
    """
    side = images.shape[-1]
    if not 1 <= size <= side:
        raise ValueError(f"size must be from 1 to {side}, the images' side; got {size}")
    first = (side - size) // 2
    return images[..., first : first + size, first : first + size]
