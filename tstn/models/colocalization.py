"""Co-localisation (Jaderberg et al. 2015, appendix A.2): a transformer learns to find what images have in common."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstn.models.mnist import CNN
from tstn.module import SpatialTransformer
from tstn.transforms import Attention


class Colocalizer(nn.Module):
    """An attention transformer that is to crop the same thing out of all images, and an encoder that compares crops.

    The encoder is a digit classifier, trained before and not changed: its three layers of activations, one after the
    other. The localisation network has the paper's layers, 5,947 weights at 84 x 84 (the paper says about 100
    thousand, which does not follow from them).

    Args:
        encoder: A trained :class:`CNN` on images of ``size``; its weights are frozen.
        canvas: Side of the square images, (N, 1, canvas, canvas).
        size: Side of the crops in pixels.
        scale: Side of the first crop relative to the image's; 1 is the identity.
        normalize: Whether each layer's activations are scaled to length 1. The paper does not say, but its margin of
            1 means little to raw ones: between digits of one class their squared distances are about 2000, and the
            loss is then far lower for empty crops than for the digits.
    """

    def __init__(
        self, encoder: CNN, canvas: int = 84, size: int = 28, scale: float = 1.0, normalize: bool = True
    ) -> None:
        super().__init__()
        side = ((canvas - 9) // 4 + 1) // 2
        localization = nn.Sequential(
            nn.Conv2d(1, 8, 9, stride=4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * side * side, 8),
            nn.ReLU(),
            nn.Linear(8, 8),
            nn.ReLU(),
            regression := nn.Linear(8, 3),
        )
        self.transformer = SpatialTransformer(localization, "attention", (size, size), return_theta=True)
        with torch.no_grad():
            regression.bias[0] = scale
        for module in list(localization.children())[:-1]:
            # Under PyTorch's own initial weights the eight hidden units hardly vary between images, if at all.
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
        self.normalize = normalize
        self.encoder = encoder.requires_grad_(False)

    def encode(self, crops: Tensor) -> Tensor:
        """What the encoder makes of crops (N, 1, size, size): (N, D)."""
        layers = [a.flatten(1) for a in self.encoder.activations(crops)]
        return torch.cat([F.normalize(a, dim=1) for a in layers] if self.normalize else layers, dim=1)

    def boxes(self, images: Tensor) -> Tensor:
        """Where the transformer looks: (N, 4), left, top, right, bottom, in pixels of images (N, 1, canvas, canvas)."""
        _, theta = self.transformer(images)
        corners = (Attention().corners(theta) + 1) * (images.shape[-1] / 2)
        return torch.cat((corners.amin(1), corners.amax(1)), dim=1)

    def forward(self, images: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Codes to compare, for :func:`colocalization_loss`.

        Args:
            images: (N, 1, canvas, canvas).
            patches: (N, 1, size, size), a random window of each.

        Returns:
            The codes (N, D) of the transformer's crops, and of the patches.
        """
        crops, _ = self.transformer(images)
        return self.encode(crops), self.encode(patches)


def colocalization_loss(crops: Tensor, patches: Tensor, margin: float = 1.0) -> Tensor:
    """A crop shall be nearer to any other image's crop than to a random patch of its own image, by a margin.

    The mean over all pairs n != m of max(0, |e(crop_n) - e(crop_m)|^2 - |e(crop_n) - e(patch_n)|^2 + margin). The
    paper has the sum over its 100 images and descends along random pairs of them.

    Args:
        crops: (N, D), codes of what the transformer cropped, N at least 2.
        patches: (N, D), codes of the random patches.
        margin: The paper's alpha.

    Raises:
        ValueError: If the codes have different shapes, or there is only one.
    """
    if crops.shape != patches.shape or crops.dim() != 2 or len(crops) < 2:
        raise ValueError(
            f"crops and patches must have the same shape (N, D), N at least 2; got {tuple(crops.shape)} and "
            f"{tuple(patches.shape)}"
        )
    # Distances do not depend on the origin, but the rounding errors of this formula do.
    centred = crops - crops.mean(0).detach()
    squares = centred.square().sum(1)
    apart = (squares[:, None] + squares - 2 * centred @ centred.mT).clamp_min(0)
    hinge = (apart - (crops - patches).square().sum(1)[:, None] + margin).clamp_min(0)
    count = len(crops)
    return (hinge.sum() - hinge.diagonal().sum()) / (count * (count - 1))
