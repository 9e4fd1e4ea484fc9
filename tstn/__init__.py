"""Spatial transformers for PyTorch with the sampling grid fused away."""

from tstn import examples
from tstn._backend import backend, backend_for
from tstn._identity import init_identity_
from tstn.custom import CustomTransform
from tstn.functional import grid_sample, sampling_grid, spatial_transform
from tstn.module import SpatialTransformer
from tstn.thin_plate import ThinPlateSpline
from tstn.transforms import Affine, Attention, Flow, Grid, Projective, Similarity, Transform, Translation

__version__ = "0.1.0"

__all__ = [
    "Affine",
    "Attention",
    "CustomTransform",
    "Flow",
    "Grid",
    "Projective",
    "Similarity",
    "SpatialTransformer",
    "ThinPlateSpline",
    "Transform",
    "Translation",
    "backend",
    "backend_for",
    "examples",
    "grid_sample",
    "init_identity_",
    "sampling_grid",
    "spatial_transform",
]
