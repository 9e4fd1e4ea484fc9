"""Handwritten digits and the distortions of Jaderberg et al. 2015, appendix A.4, made on the fly."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import math
import os
import struct
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tstn.functional import spatial_transform

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}

RTS_MAX_ANGLE = 45.0
RTS_SCALES = (0.7, 1.2)

Distortion = Callable[[Tensor, torch.Generator], Tensor]
"""Maps clean images (N, 1, 28, 28) to distorted ones (N, 1, H, W), drawing from the generator."""


class DataError(RuntimeError):
    """Data that cannot be had or cannot be trusted; the message says what to do about it."""


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, white on black.

    Attributes:
        train_images: (N, 1, 28, 28) float32 in [0, 1].
        train_labels: (N,) int64, 0 to 9.
        test_images: Likewise.
        test_labels: Likewise.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def to(self, device: torch.device | str) -> Digits:
        """The same digits on a device."""
        return Digits(*(t.to(device) for t in vars(self).values()))


def load_digits(num_test: int = 500) -> Digits:
    """The 1797 digits that come with scikit-learn, enlarged smoothly from 8 x 8 to 28 x 28.

    Args:
        num_test: How many of them are kept for testing. The split is always the same.

    Returns:
        The digits.

    Raises:
        DataError: If scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise DataError(f"the digits come with scikit-learn ({error}): pip install 'tstn[demo]'") from None
    bunch: Any = datasets.load_digits()
    images = torch.as_tensor(bunch["images"], dtype=torch.float32)[:, None] / 16
    labels = torch.as_tensor(bunch["target"], dtype=torch.int64)
    # The digits touch the frame: without a margin, like MNIST's, enlarged strokes would end in hard cuts.
    images = F.interpolate(F.pad(images, (1, 1, 1, 1)), size=(28, 28), mode="bicubic").clamp(0, 1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:num_test], order[num_test:]
    return Digits(images[train], labels[train], images[test], labels[test])


def default_root() -> Path:
    """The folder of the MNIST files: what ``TSTN_DATA`` says, or else ``tstn/mnist`` in the user's cache."""
    if root := os.environ.get("TSTN_DATA"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tstn" / "mnist"


def load_mnist(root: str | Path | None = None, download: bool = True) -> Digits:
    """MNIST from its four canonical files, each checked by its md5.

    Args:
        root: The folder of the files; None: :func:`default_root`.
        download: Whether to fetch the files that are missing.

    Returns:
        The digits.

    Raises:
        DataError: If a file is missing and cannot be downloaded, or is damaged.
    """
    root = default_root() if root is None else Path(root)
    train_images, train_labels, test_images, test_labels = (_mnist_file(root, name, download) for name in MNIST_MD5)
    for split, images, labels in (("train", train_images, train_labels), ("t10k", test_images, test_labels)):
        if images.shape != (len(labels), 28, 28) or labels.dim() != 1:
            raise DataError(
                f"{root}: {split} images and labels must have shapes (N, 28, 28) and (N,); "
                f"got {tuple(images.shape)} and {tuple(labels.shape)}"
            )
    return Digits(
        train_images[:, None].float() / 255,
        train_labels.long(),
        test_images[:, None].float() / 255,
        test_labels.long(),
    )


def _mnist_file(root: Path, name: str, download: bool) -> Tensor:
    path = root / name
    expected = MNIST_MD5[name]
    try:
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except FileNotFoundError:
        if not download:
            raise DataError(f"{path} is missing; {_by_hand(root)}") from None
        write_atomically(path, _download(root, name))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    else:
        if found != expected:
            raise DataError(
                f"{path} is damaged: its md5 should be {expected}, but is {found}. "
                f"Delete it and run again to have it downloaded, or put a good copy there"
            )
    return read_idx(path)


def _download(root: Path, name: str) -> bytes:
    failures = []
    for mirror in MNIST_MIRRORS:
        try:
            with urllib.request.urlopen(mirror + name, timeout=30) as response:
                content = response.read()
        # URLError and timeouts are OSErrors; a connection that breaks off half way is not.
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{mirror + name}: {error}")
            continue
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found == MNIST_MD5[name]:
            return content
        failures.append(f"{mirror + name}: md5 should be {MNIST_MD5[name]}, but is {found}")
    raise DataError(f"{name} could not be downloaded:\n  " + "\n  ".join(failures) + f"\n{_by_hand(root)}")


def _by_hand(root: Path) -> str:
    files = ", ".join(MNIST_MD5)
    return f"put the four files {files} into {root}, or name their folder by --data-root or TSTN_DATA"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is never seen half written, and its folder if need be.

    Raises:
        DataError: If the file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}") from error


def read_idx(path: Path) -> Tensor:
    """Read a gzipped idx file of unsigned bytes, the format of MNIST.

    Args:
        path: The file.

    Returns:
        A uint8 tensor of the shape that the file states.

    Raises:
        DataError: If the file is not what it should be.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(f"{path} is not an idx file: it must start with two zero bytes; got {content[:4].hex(' ')!r}")
    dtype, dims = content[2], content[3]
    if dtype != 0x08:
        raise DataError(f"{path} must hold unsigned bytes, idx type 0x08; got {dtype:#04x}")
    start = 4 + 4 * dims
    shape = struct.unpack(f">{dims}I", content[4:start]) if len(content) >= start else ()
    if not shape or len(content) - start != math.prod(shape):
        raise DataError(f"{path} must hold as many bytes as its shape {shape} says; got {max(len(content) - start, 0)}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[start:].view(shape)


class RTS(NamedTuple):
    """What the distortion RTS draws for each image: how the digit lies on the canvas.

    Attributes:
        angle: (N,), degrees; positive turns the digit counter-clockwise as seen.
        scale: (N,), its size relative to the clean image.
        centre: (N, 2), where the clean image's centre comes to lie, (x, y) in [-1, 1] on the canvas.
    """

    angle: Tensor
    scale: Tensor
    centre: Tensor


def draw_rts(count: int, size: int, canvas: int, generator: torch.Generator) -> RTS:
    """Draw rotations to 45 degrees, scales of 0.7 to 1.2, and places where the scaled square fits the canvas.

    Args:
        count: N.
        size: Side of the clean images in pixels.
        canvas: Side of the canvas in pixels.
        generator: Source of randomness; the tensors come to lie on its device.

    Returns:
        The draws, float32.

    Raises:
        ValueError: If the largest scaled image does not fit the canvas.
    """
    low, high = RTS_SCALES
    if high * size > canvas:
        raise ValueError(f"canvas must be at least {high} * {size} pixels wide; got {canvas}")
    uniform = torch.rand(count, 4, generator=generator, device=generator.device)
    scale = low + (high - low) * uniform[:, 1]
    room = 1 - scale * size / canvas
    return RTS(RTS_MAX_ANGLE * (2 * uniform[:, 0] - 1), scale, room[:, None] * (2 * uniform[:, 2:] - 1))


def rts_theta(drawn: RTS, size: int, canvas: int) -> Tensor:
    """The similarity transform that puts each digit on its canvas as drawn.

    The digit's point p lies on the canvas at centre + scale * size / canvas * R p, R the rotation. Theta is
    the inverse of this, target to source.

    Args:
        drawn: What :func:`draw_rts` gives.
        size: Side of the clean images in pixels.
        canvas: Side of the canvas in pixels.

    Returns:
        (N, 4), theta of :class:`~tstn.Similarity`.
    """
    angle = torch.deg2rad(drawn.angle)
    zoom = canvas / (size * drawn.scale)
    # With y down, R = [[cos, sin], [-sin, cos]] turns counter-clockwise as seen; [[a, -b], [b, a]] undoes R.
    a, b = zoom * angle.cos(), zoom * angle.sin()
    x, y = drawn.centre.unbind(1)
    return torch.stack((a, b, b * y - a * x, -b * x - a * y), dim=1)


def rts(images: Tensor, generator: torch.Generator, canvas: int = 42) -> Tensor:
    """Rotate, scale and translate digits on a larger black canvas, in one warp.

    Args:
        images: (N, C, S, S), background 0.
        generator: Source of randomness, on any device.
        canvas: Side of the canvas in pixels.

    Returns:
        (N, C, canvas, canvas), on the images' device.
    """
    size = images.shape[-1]
    theta = rts_theta(draw_rts(len(images), size, canvas, generator), size, canvas)
    return spatial_transform(images, theta.to(images.device), "similarity", (canvas, canvas))


def batches(
    images: Tensor, labels: Tensor, batch_size: int, distortion: Distortion, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless training batches, shuffled anew in each pass over the data and freshly distorted.

    Args:
        images: (N, 1, 28, 28), on the device to train on.
        labels: (N,), on the same device.
        batch_size: Images in a batch. What is left at the end of a pass sits that pass out.
        distortion: Such as :func:`rts`.
        generator: Source of all randomness, on any device.

    Yields:
        Distorted images and their labels.

    Raises:
        ValueError: If there are fewer images than a batch needs.
    """
    if not 0 < batch_size <= len(images):
        raise ValueError(f"batch_size must be from 1 to the number of images, {len(images)}; got {batch_size}")
    while True:
        order = torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)
        for index in order.split(batch_size):
            if len(index) == batch_size:
                yield distortion(images[index], generator), labels[index]


def distorted(images: Tensor, distortion: Distortion, seed: int) -> Tensor:
    """A test set: every image distorted once, the same way on every call and on every device.

    Args:
        images: (N, 1, 28, 28).
        distortion: Such as :func:`rts`.
        seed: Of the draws.

    Returns:
        (N, 1, H, W), on the images' device.
    """
    generator = torch.Generator().manual_seed(seed)
    # In portions, because the plain PyTorch backend holds the grid of all the images it warps at once.
    return torch.cat([distortion(portion, generator) for portion in images.split(1000)])
