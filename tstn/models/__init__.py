"""The networks of Jaderberg et al. 2015."""

from tstn.models.mnist import CNN, FCN, STCNN, STFCN
from tstn.models.registry import (
    EXPERIMENTS,
    MODELS,
    PARAMETERS,
    TRANSFORMS,
    build_model,
    count_parameters,
    equalized_widths,
)

__all__ = [
    "CNN",
    "EXPERIMENTS",
    "FCN",
    "MODELS",
    "PARAMETERS",
    "STCNN",
    "STFCN",
    "TRANSFORMS",
    "build_model",
    "count_parameters",
    "equalized_widths",
]
