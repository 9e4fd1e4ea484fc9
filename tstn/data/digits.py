"""Handwritten digits: MNIST, and the smaller set that needs no download."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import math
import struct
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tstn._extras import how_to_install
from tstn.data.files import DataError, default_root, write_atomically

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
        raise DataError(f"the digits come with scikit-learn ({error}): {how_to_install('demo')}") from None
    bunch: Any = datasets.load_digits()
    images = torch.as_tensor(bunch["images"], dtype=torch.float32)[:, None] / 16
    labels = torch.as_tensor(bunch["target"], dtype=torch.int64)
    # The digits touch the frame: without a margin, like MNIST's, enlarged strokes would end in hard cuts.
    images = F.interpolate(F.pad(images, (1, 1, 1, 1)), size=(28, 28), mode="bicubic").clamp(0, 1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:num_test], order[num_test:]
    return Digits(images[train], labels[train], images[test], labels[test])


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
