"""Inception v1 with batch normalisation, its parameters named as torchvision's ``googlenet`` has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Share = Callable[[int], int]

# Input channels of a branch come from the layer before; here are outputs: 1x1; 3x3 reduced and full; the second 3x3
# reduced and full (5x5 in the paper of Inception, 3x3 in torchvision and so in its weights); 1x1 after pooling.
INCEPTIONS = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
# The blocks that a max-pooling follows, and its window.
POOLED = {"inception3b": 3, "inception4e": 2}
STRIDE = 32


class ConvNorm(nn.Module):
    """A convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        return torch.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches side by side, concatenated."""

    def __init__(self, inputs: int, outputs: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        single, reduced, full, reduced2, full2, pooled = outputs
        self.branch1 = ConvNorm(inputs, single)
        self.branch2 = nn.Sequential(ConvNorm(inputs, reduced), ConvNorm(reduced, full, 3))
        self.branch3 = nn.Sequential(ConvNorm(inputs, reduced2), ConvNorm(reduced2, full2, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvNorm(inputs, pooled))
        self.channels = single + full + full2 + pooled

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, channels, H, W)."""
        return torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), dim=1)


class GoogLeNet(nn.Module):
    """Inception v1 with batch normalisation.

    Parameters and buffers have the names of ``torchvision.models.googlenet``, so that its pretrained weights load:
    see :func:`load_pretrained_googlenet`. The training-time classifiers aux1 and aux2 are left out.

    Convention:
        Images are in [0, 1], black 0, as a transformer samples them, and become [-1, 1] in here. That is what
        torchvision's pretrained network makes of images normalised with ImageNet's mean and standard deviation.

    Args:
        classes: Number of classes; None: no classifier, the output is the features.
        dropout: Probability, before the classifier.
        width: The share of the filters that is taken; for tests.

    Attributes:
        channels: Number of features, 1024.
    """

    def __init__(self, classes: int | None = 1000, dropout: float = 0.2, width: float = 1.0) -> None:
        super().__init__()

        def share(number: int) -> int:
            return max(1, round(number * width))

        self.conv1 = ConvNorm(3, share(64), 7, 2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvNorm(share(64), share(64))
        self.conv3 = ConvNorm(share(64), share(192), 3)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.channels = share(192)
        for name, outputs in INCEPTIONS.items():
            a, b, c, d, e, f = map(share, outputs)
            block = Inception(self.channels, (a, b, c, d, e, f))
            self.add_module(name, block)
            self.channels = block.channels
        self.pools = nn.ModuleDict({n: nn.MaxPool2d(window, 2, ceil_mode=True) for n, window in POOLED.items()})
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.channels, classes) if classes is not None else None

    def features(self, x: Tensor) -> Tensor:
        """The last maps, (N, channels, ceil(H / 32), ceil(W / 32)), of images (N, 3, H, W) in [0, 1]."""
        x = self.maxpool1(self.conv1(2 * x - 1))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        for name in INCEPTIONS:
            x = self.get_submodule(name)(x)
            if name in self.pools:
                x = self.pools[name](x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, classes), or features (N, channels), of images (N, 3, H, W) in [0, 1]."""
        x = self.features(x).mean((2, 3))
        return x if self.fc is None else self.fc(self.dropout(x))


def load_pretrained_googlenet(model: GoogLeNet, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Load the weights of a ``torchvision.models.googlenet``, such as the file of its pretrained ones.

    ``aux1.*`` and ``aux2.*`` are ignored; ``fc.*`` too unless the model's classifier has the same shape, and is then
    as it was. Of the rest every name must be there, of the model's shape, and no other.

    Args:
        model: Changed in place.
        state_dict: By torchvision's names.

    Returns:
        The names that were ignored.

    Raises:
        ValueError: If names or shapes do not fit; nothing is changed then.
    """
    own = model.state_dict()
    ignored = [name for name in state_dict if name.startswith(("aux1.", "aux2."))]
    fits = model.fc is not None and getattr(state_dict.get("fc.weight"), "shape", None) == model.fc.weight.shape
    if not fits:
        ignored += [name for name in state_dict if name.startswith("fc.")]
    loaded = {name: value for name, value in state_dict.items() if name not in set(ignored)}
    expected = {name for name in own if fits or not name.startswith("fc.")}
    problems = [
        *(f"{name} is missing" for name in sorted(expected - loaded.keys())),
        *(f"{name} is unknown" for name in sorted(loaded.keys() - expected)),
        *(
            f"{name} must have shape {tuple(own[name].shape)}; got {tuple(loaded[name].shape)}"
            for name in sorted(expected & loaded.keys())
            if loaded[name].shape != own[name].shape
        ),
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"state_dict is not a googlenet's: {'; '.join(problems[:5])}{more}")
    model.load_state_dict({**own, **loaded})
    return ignored
