"""The networks of Jaderberg et al. 2015."""

from tstn.models.birds import BirdsNet
from tstn.models.colocalization import Colocalizer, colocalization_loss
from tstn.models.googlenet import GoogLeNet, load_pretrained_googlenet
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
from tstn.models.svhn import SVHNNet, sequence_loss, sequence_wrong

__all__ = [
    "CNN",
    "EXPERIMENTS",
    "FCN",
    "MODELS",
    "PARAMETERS",
    "STCNN",
    "STFCN",
    "TRANSFORMS",
    "BirdsNet",
    "Colocalizer",
    "GoogLeNet",
    "SVHNNet",
    "build_model",
    "colocalization_loss",
    "count_parameters",
    "equalized_widths",
    "load_pretrained_googlenet",
    "sequence_loss",
    "sequence_wrong",
]
