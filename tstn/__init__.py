"""Spatial transformers for PyTorch with the sampling grid fused away.

The subpackages ``tstn.data``, ``tstn.experiments`` and ``tstn.models`` are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tstn import examples
from tstn._backend import backend, backend_for
from tstn._identity import init_identity_
from tstn.custom import CustomTransform
from tstn.functional import grid_sample, sampling_grid, spatial_transform
from tstn.module import SpatialTransformer
from tstn.thin_plate import ThinPlateSpline
from tstn.transforms import Affine, Attention, Flow, Grid, Projective, Similarity, Transform, Translation

if TYPE_CHECKING:
    from tstn import data as data
    from tstn import experiments as experiments
    from tstn import models as models

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

_SUBPACKAGES = ("data", "experiments", "models")

# Not for type checkers, which would believe in every attribute.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _SUBPACKAGES:
            return import_module(f"tstn.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_SUBPACKAGES})
