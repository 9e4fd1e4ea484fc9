"""Spatial transformers for PyTorch with the sampling grid fused away."""

from tstn._backend import backend, backend_for
from tstn.functional import grid_sample, sampling_grid, spatial_transform
from tstn.module import SpatialTransformer, init_identity_
from tstn.transforms import Affine, Attention, Grid, Similarity, Transform, Translation

__version__ = "0.1.0"

__all__ = [
    "Affine",
    "Attention",
    "Grid",
    "Similarity",
    "SpatialTransformer",
    "Transform",
    "Translation",
    "backend",
    "backend_for",
    "grid_sample",
    "init_identity_",
    "sampling_grid",
    "spatial_transform",
]
