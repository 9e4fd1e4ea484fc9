"""Photographs from files, as square tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tstn._extras import how_to_install
from tstn.data.files import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


def require_pillow(extra: str) -> None:
    """Find out before the work begins whether pictures can be read.

    Raises:
        DataError: If Pillow is not installed.
    """
    try:
        import PIL.Image  # noqa: F401
    except ModuleNotFoundError as error:
        raise DataError(f"pictures are read by Pillow ({error}): {how_to_install(extra)}") from None


def open_picture(path: Path) -> Image:
    """A picture, decoded, in RGB.

    Raises:
        DataError: If the file cannot be read or is no whole picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    # Pillow reports some kinds of damage by errors of the decoder's own.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a picture: {error}. Replace it by a good copy") from error


def cut_square(image: Image, box: tuple[float, float, float, float], size: int) -> Tensor:
    """A part of a picture, resized with antialiasing to a square whatever its shape.

    Args:
        image: In RGB.
        box: Left, top, right, bottom, in pixels from the left and upper edge, inside the picture.
        size: Side of the square in pixels.

    Returns:
        (3, size, size) uint8.
    """
    from PIL import Image

    square = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1)
