"""Data of the experiments of Jaderberg et al. 2015: read, or made on the fly on the training device."""

from tstn.data.addition import addition_pairs, addition_set
from tstn.data.colocalization import TC_DISTRACTORS, Scenes, box_iou, colocalization_set, random_windows
from tstn.data.cub import Birds, centre_crop, crop_and_flip
from tstn.data.digits import MNIST_MD5, MNIST_MIRRORS, Digits, load_digits, load_mnist, read_idx
from tstn.data.distortions import (
    CANVAS,
    DISTORTIONS,
    RTS,
    RTS_SCALES,
    Distortion,
    corners_theta,
    draw_corners,
    draw_rts,
    elastic,
    projection,
    rotation,
    rts,
    rts_theta,
)
from tstn.data.files import DataError, default_root, write_atomically
from tstn.data.placement import clutter, place, translation
from tstn.data.streams import batches, distorted
from tstn.data.svhn import HouseNumbers, read_digit_struct, svhn_splits

__all__ = [
    "CANVAS",
    "DISTORTIONS",
    "MNIST_MD5",
    "MNIST_MIRRORS",
    "RTS",
    "RTS_SCALES",
    "TC_DISTRACTORS",
    "Birds",
    "DataError",
    "Digits",
    "Distortion",
    "HouseNumbers",
    "Scenes",
    "addition_pairs",
    "addition_set",
    "batches",
    "box_iou",
    "centre_crop",
    "clutter",
    "colocalization_set",
    "corners_theta",
    "crop_and_flip",
    "default_root",
    "distorted",
    "draw_corners",
    "draw_rts",
    "elastic",
    "load_digits",
    "load_mnist",
    "place",
    "projection",
    "random_windows",
    "read_digit_struct",
    "read_idx",
    "rotation",
    "rts",
    "rts_theta",
    "svhn_splits",
    "translation",
    "write_atomically",
]
