"""Data of the experiments of Jaderberg et al. 2015: read, or made on the fly on the training device."""

from tstn.data.batches import batches, distorted
from tstn.data.digits import MNIST_MD5, MNIST_MIRRORS, Digits, load_digits, load_mnist, read_idx
from tstn.data.distortions import (
    CANVAS,
    DISTORTIONS,
    RTS,
    RTS_SCALES,
    Distortion,
    clutter,
    corners_theta,
    draw_rts,
    elastic,
    place,
    projection,
    rotation,
    rts,
    rts_theta,
    translation,
)
from tstn.data.files import DataError, default_root, write_atomically

__all__ = [
    "CANVAS",
    "DISTORTIONS",
    "MNIST_MD5",
    "MNIST_MIRRORS",
    "RTS",
    "RTS_SCALES",
    "DataError",
    "Digits",
    "Distortion",
    "batches",
    "clutter",
    "corners_theta",
    "default_root",
    "distorted",
    "draw_rts",
    "elastic",
    "load_digits",
    "load_mnist",
    "place",
    "projection",
    "read_idx",
    "rotation",
    "rts",
    "rts_theta",
    "translation",
    "write_atomically",
]
