"""The classifiers of Jaderberg et al. 2015, appendix A.4: with and without a spatial transformer in front."""

from __future__ import annotations

from torch import Tensor, nn

from tstn.module import SpatialTransformer
from tstn.transforms import Transform, as_transform


class FCN(nn.Sequential):
    """Two hidden fully connected layers and a classifier, all on the raw pixels.

    Args:
        size: Side of the square input, (N, 1, size, size).
        width: Units in each hidden layer.
        classes: Number of classes.
    """

    def __init__(self, size: int = 42, width: int = 192, classes: int = 10) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(size * size, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, classes),
        )


class STFCN(nn.Module):
    """An :class:`FCN` that looks at its input through a spatial transformer.

    The transformer's output is as large as its input and is averaged down by 2 before it is classified, the
    paper's remedy against aliasing. That leaves the whole with fewer weights than the :class:`FCN` alone has.

    Args:
        size: Side of the square input, (N, 1, size, size).
        width: Units in each hidden layer of the classifier.
        transform: A name or a :class:`~tstn.Transform`.
        classes: Number of classes.
    """

    def __init__(
        self, size: int = 42, width: int = 256, transform: str | Transform = "affine", classes: int = 10
    ) -> None:
        super().__init__()
        transform = as_transform(transform)
        localization = nn.Sequential(
            nn.Flatten(),
            nn.Linear(size * size, 32),
            nn.ReLU(),
            nn.Linear(32, 32),
            nn.ReLU(),
            nn.Linear(32, 32),
            nn.ReLU(),
            nn.Linear(32, transform.num_parameters),
        )
        self.transformer = SpatialTransformer(localization, transform, return_theta=True)
        self.pool = nn.AvgPool2d(2)
        self.classifier = FCN(size // 2, width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, classes) of images (N, 1, size, size)."""
        crop, _ = self.transformer(x)
        return self.classifier(self.pool(crop))
