"""Telling birds apart by their parts (Jaderberg et al. 2015, section 4.3 and appendix A.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstn.models.googlenet import STRIDE, GoogLeNet, load_pretrained_googlenet
from tstn.module import SpatialTransformer

SCALE = 0.5
TILES = {
    1: ((0.0, 0.0),),
    2: ((-0.5, 0.0), (0.5, 0.0)),
    4: ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)),
}
"""Centres (x, y) of the first crops, by their number. Four tile the image; two, side by side, its middle half."""


class BirdsNet(nn.Module):
    """Parallel transformers that crop half the image's side each, and an Inception of its own for each crop.

    One localisation network says where all of them look: an Inception without classifier, on the image averaged down
    to the crops' size, a 1 x 1 convolution, a hidden layer, and (x, y) of each crop's centre. The scale is fixed. At
    448 pixels the crops are cut out pixel by pixel; at 224 they are enlarged. The baseline without transformers is
    ``GoogLeNet(200, dropout=0.7)``.

    Args:
        num_transformers: In parallel, the paper's 2 or 4.
        size: Side of the square images, (N, 3, size, size) in [0, 1], a multiple of ``crop``: 224 or 448.
        classes: Number of classes.
        centres: (x, y) of each first crop's centre in [-1, 1]; None: those of :data:`TILES`.
        dropout: Probability, before the classifier.
        crop: Side of the crops in pixels.
        width: The share of Inception's filters that is taken; for tests.
        align_corners: As in :func:`~tstn.spatial_transform`.
        padding_mode: Likewise.

    Raises:
        ValueError: If ``centres`` are not as many as transformers or must be given, or ``size`` is no multiple.
    """

    def __init__(
        self,
        num_transformers: int = 2,
        size: int = 448,
        classes: int = 200,
        *,
        centres: Sequence[Sequence[float]] | None = None,
        dropout: float = 0.7,
        crop: int = 224,
        width: float = 1.0,
        align_corners: bool = False,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        if size < crop or size % crop:
            raise ValueError(f"size must be a multiple of crop, {crop}; got {size}")
        if centres is None and num_transformers not in TILES:
            raise ValueError(f"num_transformers must be 1, 2 or 4 unless centres are given; got {num_transformers}")
        tiles = TILES[num_transformers] if centres is None else centres
        if len(tiles) != num_transformers:
            raise ValueError(f"centres must be {num_transformers}, one for each transformer; got {len(tiles)}")
        self.transformer = SpatialTransformer(
            CropCentres(tiles, size // crop, crop, width),
            "attention",
            (crop, crop),
            num_heads=num_transformers,
            padding_mode=padding_mode,
            align_corners=align_corners,
            return_theta=True,
            # The first crops are not the whole image.
            output_layer=None,
        )
        self.heads = nn.ModuleList(GoogLeNet(None, width=width) for _ in range(num_transformers))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(sum(head.channels for head in self._inceptions()[1:]), classes)

    def _inceptions(self) -> list[GoogLeNet]:
        """The localisation network's, then one for each crop."""
        return [module for module in self.modules() if isinstance(module, GoogLeNet)]

    def load_pretrained(self, state_dict: Mapping[str, Tensor]) -> None:
        """Start all Inceptions, the localisation network's too, from :func:`load_pretrained_googlenet`'s weights."""
        for inception in self._inceptions():
            load_pretrained_googlenet(inception, state_dict)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, classes) of images (N, 3, size, size) in [0, 1]."""
        crops, _ = self.transformer(x)
        views = crops.unbind(1) if len(self.heads) > 1 else (crops,)
        features = [head(view) for head, view in zip(self.heads, views, strict=True)]
        return self.fc(self.dropout(torch.cat(features, dim=1)))


class CropCentres(nn.Module):
    """The localisation network: attention parameters of all crops, (N, 3 K), of images (N, 3, size, size).

    Args:
        centres: K pairs (x, y) that it predicts at the start.
        shrink: What the images are averaged down by before it looks.
        crop: Side of what it looks at.
        width: As in :class:`BirdsNet`.
    """

    def __init__(self, centres: Sequence[Sequence[float]], shrink: int, crop: int, width: float) -> None:
        super().__init__()
        self.shrink = shrink
        self.trunk = GoogLeNet(None, width=width)
        side = -(-crop // STRIDE)
        self.reduce = nn.Conv2d(self.trunk.channels, 128, 1)
        self.hidden = nn.Linear(128 * side * side, 128)
        self.regression = nn.Linear(128, 2 * len(centres))
        self.fix_scale = FixedScale(SCALE)
        with torch.no_grad():
            self.regression.weight.zero_()
            self.regression.bias.copy_(torch.tensor(centres).flatten())

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3 K): scale, x and y of each crop."""
        x = torch.relu(self.reduce(self.trunk.features(F.avg_pool2d(x, self.shrink))))
        return self.fix_scale(self.regression(torch.relu(self.hidden(x.flatten(1)))))


class FixedScale(nn.Module):
    """Puts a constant scale before each pair of numbers: (N, 2 K) to (N, 3 K)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, centres: Tensor) -> Tensor:
        """Attention parameters of crops at these centres."""
        return F.pad(centres.unflatten(1, (-1, 2)), (1, 0), value=self.scale).flatten(1)
