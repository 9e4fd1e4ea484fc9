"""Reading house numbers of up to five digits (Jaderberg et al. 2015, section 4.2 and appendix A.5)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tstn import _checks
from tstn.module import SpatialTransformer

KINDS = ("cnn", "st-single", "st-multi")
FILTERS = (48, 64, 128, 160, 192, 192, 192, 192)
HIDDEN = 3072
# Convolutions that a 2 x 2 max-pooling follows.
POOLED = (0, 2, 4, 6)
DIGITS, CLASSES = 5, 11
"""Characters of a sequence; the last class is the null character."""


class SVHNNet(nn.Module):
    """Eight 5 x 5 convolutions, three hidden layers, and five classifiers, one for each character of the sequence.

    ``"st-single"`` looks at the image through an affine transformer with a convolutional localisation network;
    ``"st-multi"`` has one before each of the first four convolutions, on the feature maps, with localisation networks
    of two hidden layers. Dropout follows every layer but the first convolution and those of localisation networks.
    Images of 128 pixels take the same layers, so that the first hidden layer has four times the inputs.

    Args:
        kind: ``"cnn"``, ``"st-single"`` or ``"st-multi"``.
        size: Side of the square images, (N, 3, size, size), a multiple of 16.
        num_hidden: Hidden layers. The paper's eleven layers make it three; notes on its appendix list two.
        num_localization: Hidden layers of a localisation network. Two make the paper's "four-layer" one.
        dropout: Probability.
        width: Of the paper's numbers of filters and units, the share that is taken; for tests.
        align_corners: As in :func:`~tstn.spatial_transform`.
        padding_mode: Likewise.

    Attributes:
        transformers: By the index of the convolution that each stands before.

    Raises:
        ValueError: If ``kind`` or ``size`` is wrong.
    """

    def __init__(
        self,
        kind: str = "cnn",
        size: int = 64,
        *,
        num_hidden: int = 3,
        num_localization: int = 2,
        dropout: float = 0.5,
        width: float = 1.0,
        align_corners: bool = False,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        _checks.require_option("kind", kind, KINDS)
        if size < 16 or size % 16:
            raise ValueError(f"size must be a multiple of 16; got {size}")

        def share(number: int) -> int:
            return max(1, round(number * width))

        def hidden(inputs: int, units: int, count: int) -> list[nn.Module]:
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [nn.Linear(inputs, units), nn.ReLU()]
                inputs = units
            return layers

        def localization(channels: int, side: int) -> nn.Module:
            units = share(32)
            if kind == "st-multi":
                layers, inputs = [], channels * side * side
            else:
                layers = [
                    nn.Conv2d(channels, units, 5, padding=2),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                    nn.Conv2d(units, units, 5, padding=2),
                    nn.ReLU(),
                ]
                inputs = units * (side // 2) ** 2
            layers += [nn.Flatten(), *hidden(inputs, units, num_localization)]
            return nn.Sequential(*layers, nn.Linear(units if num_localization else inputs, 6))

        self.convolutions = nn.ModuleList()
        self.transformers = nn.ModuleDict()
        channels, side = 3, size
        for i, filters in enumerate(map(share, FILTERS)):
            if i < {"cnn": 0, "st-single": 1, "st-multi": 4}[kind]:
                self.transformers[str(i)] = SpatialTransformer(
                    localization(channels, side),
                    padding_mode=padding_mode,
                    align_corners=align_corners,
                    return_theta=True,
                )
            layers: list[nn.Module] = [nn.Conv2d(channels, filters, 5, padding=2), nn.ReLU()]
            if i in POOLED:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            if i:
                layers.append(nn.Dropout(dropout))
            self.convolutions.append(nn.Sequential(*layers))
            channels = filters
        inputs, units = channels * side * side, share(HIDDEN)
        layers = [nn.Flatten()]
        for layer in hidden(inputs, units, num_hidden):
            layers += [layer, nn.Dropout(dropout)] if isinstance(layer, nn.ReLU) else [layer]
        self.hidden = nn.Sequential(*layers)
        self.classifiers = nn.Linear(units if num_hidden else inputs, DIGITS * CLASSES)
        for module in (*self.convolutions.modules(), *self.hidden.modules()):
            # Eleven layers of ReLU shrink the signal to nothing under PyTorch's own initial weights.
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 5, 11) of each character of images (N, 3, size, size)."""
        for i, convolution in enumerate(self.convolutions):
            if str(i) in self.transformers:
                x, _ = self.transformers[str(i)](x)
            x = convolution(x)
        return self.classifiers(self.hidden(x)).unflatten(1, (DIGITS, CLASSES))


def sequence_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Minus the log-likelihood of whole sequences, mean over images.

    Args:
        scores: (N, 5, 11).
        labels: (N, 5), the null character 10 past the end.
    """
    return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum") / len(scores)


def sequence_wrong(scores: Tensor, labels: Tensor) -> Tensor:
    """Which sequences are not right in every character, (N,) bool; arguments as :func:`sequence_loss`."""
    return (scores.argmax(2) != labels).any(1)
