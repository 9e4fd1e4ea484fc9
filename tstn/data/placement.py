"""Images put anywhere on larger canvases, alone or among patches of others: the distortions T and TC."""

from __future__ import annotations

import torch
from torch import Tensor

from tstn.data.draws import draw_uniform, whole
from tstn.functional import spatial_transform


def window_theta(corner: Tensor, side: int, size: int) -> Tensor:
    """The attention that cuts a square window out of an image.

    Args:
        corner: (..., 2), the window's first column and row.
        side: Of the window in pixels.
        size: Side of the image in pixels.

    Returns:
        (..., 3), theta of :class:`~tstn.Attention`, float32.
    """
    centre = (2 * corner.float() + side) / size - 1
    return torch.cat((torch.full_like(centre[..., :1], side / size), centre), dim=-1)


def place(
    images: Tensor,
    generator: torch.Generator,
    canvas: int,
    *,
    distractors: int = 0,
    patch: int = 6,
    pool: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Put images anywhere on larger black canvases, at whole pixels, among patches of other images.

    Where things overlap the brightest shows. The paper does not say; adding and clipping to 1 is the other custom.

    Args:
        images: (N, C, S, S), background 0.
        generator: Source of randomness, on any device.
        canvas: Side of the canvas in pixels.
        distractors: Patches on each canvas.
        patch: Side of a patch in pixels.
        pool: (P, C, S, S), the images that the patches are cut from; None: the other ones of the batch, which then
            gives something else than its parts would.

    Returns:
        The canvases (N, C, canvas, canvas), and the column and row of the images' first pixels, (N, 2) int64, both on
        the images' device.

    Raises:
        ValueError: If something does not fit on the canvas, or there are no images to cut patches from.
    """
    count, size = len(images), images.shape[-1]
    if size > canvas:
        raise ValueError(f"canvas must be at least as wide as the images, {size} pixels; got {canvas}")
    uniform = draw_uniform(count, 2 + 5 * distractors, generator).to(images.device)
    corner = whole(uniform[:, :2], canvas - size + 1)
    out = images.new_zeros(count, images.shape[1], canvas, canvas)
    _paste(out, images[:, None], corner[:, None])
    if distractors:
        uniform = uniform[:, 2:].unflatten(1, (distractors, 5))
        _paste(out, _patches(images, pool, uniform[..., :3], patch), whole(uniform[..., 3:], canvas - patch + 1))
    return out, corner


def _patches(images: Tensor, pool: Tensor | None, uniform: Tensor, patch: int) -> Tensor:
    """The patches (N, K, C, patch, patch) that ``uniform`` (N, K, 3) chooses: an image, and a column and row in it."""
    count, others = len(images), len(images) - 1 if pool is None else len(pool)
    source = images if pool is None else pool
    size = source.shape[-1]
    if not 1 <= patch <= size:
        raise ValueError(f"patch must be from 1 to {size} pixels wide, the images' size; got {patch}")
    if others < 1:
        raise ValueError("images must be at least two, or pool given, to cut patches from other images; got one")
    index = whole(uniform[..., 0], others)
    if pool is None:
        index = (index + 1 + torch.arange(count, device=index.device)[:, None]) % count
    theta = window_theta(whole(uniform[..., 1:], size - patch + 1), patch, size).flatten(0, 1)
    cut = spatial_transform(source, theta, "attention", (patch, patch), input_index=index.flatten())
    return cut.unflatten(0, index.shape)


def _paste(out: Tensor, images: Tensor, corner: Tensor) -> None:
    """Lighten ``out`` (N, C, H, W) by images (N, K, C, S, S) whose first pixels lie at ``corner`` (N, K, 2)."""
    width, size = out.shape[-1], images.shape[-1]
    step = torch.arange(size, device=out.device)
    column, row = corner[..., None].unbind(2)
    pixels = ((row + step)[..., None] * width + (column + step)[..., None, :]).flatten(1)[:, None]
    values = images.transpose(1, 2).flatten(2)
    out.flatten(2).scatter_reduce_(2, pixels.expand_as(values), values, "amax")


def translation(images: Tensor, generator: torch.Generator, canvas: int = 84) -> Tensor:
    """T: put images anywhere on a larger black canvas; see :func:`place`.

    Args:
        images: (N, C, S, S), background 0.
        generator: Source of randomness, on any device.
        canvas: Side of the canvas in pixels.

    Returns:
        (N, C, canvas, canvas), on the images' device.
    """
    return place(images, generator, canvas)[0]


def clutter(
    images: Tensor,
    generator: torch.Generator,
    canvas: int = 60,
    *,
    distractors: int = 6,
    patch: int = 6,
    pool: Tensor | None = None,
) -> Tensor:
    """TC: put images anywhere on a larger black canvas, among patches of other images; see :func:`place`.

    Args:
        images: (N, C, S, S), background 0.
        generator: Source of randomness, on any device.
        canvas: Side of the canvas in pixels.
        distractors: Patches on each canvas.
        patch: Side of a patch in pixels.
        pool: (P, C, S, S), the images that the patches are cut from; None: the other ones of the batch.

    Returns:
        (N, C, canvas, canvas), on the images' device.
    """
    return place(images, generator, canvas, distractors=distractors, patch=patch, pool=pool)[0]
