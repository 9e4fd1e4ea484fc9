"""The classifiers of Jaderberg et al. 2015, appendices A.1 and A.4: with and without spatial transformers in front."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tstn._identity import init_identity_
from tstn.module import SpatialTransformer, output_layer_of
from tstn.transforms import Transform, as_transform


class FCN(nn.Sequential):
    """Two hidden fully connected layers and a classifier, all on the raw pixels.

    Args:
        size: Side of the square input, (N, channels, size, size).
        width: Units in each hidden layer; the paper has 128 to 256.
        classes: Number of classes.
        channels: Of the input.
    """

    def __init__(self, size: int = 42, width: int = 192, classes: int = 10, channels: int = 1) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(channels * size * size, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, classes),
        )


class CNN(nn.Module):
    """Two convolutions, 9 x 9 and 7 x 7, each max-pooled by 2, and a classifier.

    Args:
        size: Side of the square input, (N, channels, size, size).
        width: Filters of each convolution; the paper has 32 to 64.
        classes: Number of classes.
        channels: Of the input.
        ceil_mode: Whether pooling keeps the last row and column of an odd size. Caffe and Chainer do, and without
            it no 7 x 7 convolution fits into what a transformer and average pooling leave of 42 x 42.

    Raises:
        ValueError: If ``size`` is too small.
    """

    def __init__(
        self, size: int = 42, width: int = 32, classes: int = 10, channels: int = 1, ceil_mode: bool = True
    ) -> None:
        super().__init__()
        side = size
        for kernel in (9, 7):
            side = (side - kernel + 1 + ceil_mode) // 2
            if side < 1:
                raise ValueError(f"size must leave room for both convolutions; got {size} with ceil_mode={ceil_mode}")
        self.first = nn.Sequential(nn.Conv2d(channels, width, 9), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=ceil_mode))
        self.second = nn.Sequential(nn.Conv2d(width, width, 7), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=ceil_mode))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(width * side * side, classes))

    def activations(self, x: Tensor) -> list[Tensor]:
        """What each of the three layers makes of images (N, channels, size, size): pooled maps, maps, class scores."""
        first = self.first(x)
        second = self.second(first)
        return [first, second, self.classifier(second)]

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, classes) of images (N, channels, size, size)."""
        return self.activations(x)[-1]


class _Transformed(nn.Module):
    """A classifier behind spatial transformers: parallel ones warp all channels each, and are stacked as channels."""

    def __init__(
        self,
        localization: Callable[[int], nn.Module],
        classifier: Callable[[int, int], nn.Module],
        size: int,
        channels: int,
        transform: Transform,
        num_transformers: int,
        pool: int,
        align_corners: bool,
        padding_mode: str,
    ) -> None:
        super().__init__()
        if num_transformers < 1:
            raise ValueError(f"num_transformers must be positive; got {num_transformers}")
        nets = [localization(transform.num_parameters) for _ in range(num_transformers)]
        self.transformer = SpatialTransformer(
            nets[0] if num_transformers == 1 else Parallel(nets, transform),
            transform,
            num_heads=num_transformers,
            padding_mode=padding_mode,
            align_corners=align_corners,
            return_theta=True,
            output_layer="auto" if num_transformers == 1 else None,
        )
        self.pool = nn.AvgPool2d(pool) if pool > 1 else nn.Identity()
        self.classifier = classifier(size // pool, channels * num_transformers)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, classes) of images (N, channels, size, size)."""
        crop, _ = self.transformer(x)
        return self.classifier(self.pool(crop.flatten(1, -3)))


class Parallel(nn.Module):
    """Localisation networks side by side, each for a transformer of its own: one warp then serves them all.

    Args:
        nets: Each ends in an ``nn.Linear``, which is made to predict the identity.
        transform: What each predicts the parameters of.
    """

    def __init__(self, nets: list[nn.Module], transform: str | Transform) -> None:
        super().__init__()
        for net in nets:
            last = output_layer_of(net)
            if last is None:
                raise TypeError(f"nets must each end in an nn.Linear; got {type(net).__name__} that does not")
            init_identity_(last, transform)
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        """All parameters (N, len(nets) * num_parameters)."""
        return torch.cat([net(x) for net in self.nets], dim=1)


class STFCN(_Transformed):
    """An :class:`FCN` that looks at its input through spatial transformers.

    A transformer's output is as large as its input and, on the larger canvases, is averaged down by 2 before it is
    classified, the paper's remedy against aliasing. With several transformers, as for MNIST addition, each has a
    localisation network of its own; each sees and warps all channels.

    Args:
        size: Side of the square input, (N, channels, size, size).
        width: Units in each hidden layer of the classifier.
        transform: A name or a :class:`~tstn.Transform`.
        classes: Number of classes.
        channels: Of the input.
        num_transformers: In parallel.
        pool: What the transformers' outputs are averaged down by: 2 for RTS and TC, 1 for R, P and E.
        align_corners: As in :func:`~tstn.spatial_transform`. The paper leaves open whether -1 and 1 are the pixels'
            centres or edges.
        padding_mode: Likewise. The images are black, 0, outside.
    """

    def __init__(
        self,
        size: int = 42,
        width: int = 256,
        transform: str | Transform = "affine",
        classes: int = 10,
        channels: int = 1,
        *,
        num_transformers: int = 1,
        pool: int = 2,
        align_corners: bool = False,
        padding_mode: str = "zeros",
    ) -> None:
        def localization(numbers: int) -> nn.Module:
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(channels * size * size, 32),
                nn.ReLU(),
                nn.Linear(32, 32),
                nn.ReLU(),
                nn.Linear(32, 32),
                nn.ReLU(),
                nn.Linear(32, numbers),
            )

        def classifier(size: int, channels: int) -> nn.Module:
            return FCN(size, width, classes, channels)

        super().__init__(
            localization,
            classifier,
            size,
            channels,
            as_transform(transform),
            num_transformers,
            pool,
            align_corners,
            padding_mode,
        )


class STCNN(_Transformed):
    """A :class:`CNN` that looks at its input through spatial transformers; arguments as :class:`STFCN`.

    The localisation network sees the image averaged down by 2: two 5 x 5 convolutions of 20 filters with max-pooling
    between them, 20 units, the parameters.

    Args:
        size: Side of the square input, (N, channels, size, size), at least 28.
        width: Filters of each of the classifier's convolutions.
        transform: A name or a :class:`~tstn.Transform`.
        classes: Number of classes.
        channels: Of the input.
        num_transformers: In parallel.
        pool: What the transformers' outputs are averaged down by: 2 for RTS and TC, 1 for R, P and E.
        align_corners: As in :func:`~tstn.spatial_transform`.
        padding_mode: Likewise.
        ceil_mode: Of the classifier, as in :class:`CNN`.

    Raises:
        ValueError: If ``size`` is too small.
    """

    def __init__(
        self,
        size: int = 42,
        width: int = 32,
        transform: str | Transform = "affine",
        classes: int = 10,
        channels: int = 1,
        *,
        num_transformers: int = 1,
        pool: int = 2,
        align_corners: bool = False,
        padding_mode: str = "zeros",
        ceil_mode: bool = True,
    ) -> None:
        side = (size // 2 - 4) // 2 - 4
        if side < 1:
            raise ValueError(f"size must be at least 28 for the localisation network's convolutions; got {size}")

        def localization(numbers: int) -> nn.Module:
            return nn.Sequential(
                nn.AvgPool2d(2),
                nn.Conv2d(channels, 20, 5),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(20, 20, 5),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(20 * side * side, 20),
                nn.ReLU(),
                nn.Linear(20, numbers),
            )

        def classifier(size: int, channels: int) -> nn.Module:
            return CNN(size, width, classes, channels, ceil_mode)

        super().__init__(
            localization,
            classifier,
            size,
            channels,
            as_transform(transform),
            num_transformers,
            pool,
            align_corners,
            padding_mode,
        )
