"""The optimiser of a recipe; its learning rate is a function of the iteration, so that there is no schedule to save."""

from __future__ import annotations

import math

import torch
from torch import nn

from tstn.experiments.config import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser, with the localisation networks' weights in a group of their own.

    Those are the parameters below a submodule that is called ``localization``, as in
    :class:`~tstn.SpatialTransformer`. Frozen parameters are left out.
    """
    parts: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts["localization" in name.split(".")].append(parameter)
    groups = [
        {"params": parameters, "multiplier": recipe.localization_lr if localizes else 1.0}
        for localizes, parameters in parts.items()
        if parameters
    ]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(groups, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)


def lr_factor(recipe: Recipe, iteration: int) -> float:
    """What the learning rate is multiplied by in an iteration, counted from 0."""
    progress = iteration / recipe.iterations
    if recipe.decay:
        return 0.1 ** sum(progress >= fraction for fraction in recipe.decay)
    return (1 + math.cos(math.pi * progress)) / 2


def set_lr(optimizer: torch.optim.Optimizer, recipe: Recipe, iteration: int) -> None:
    """Give every group its learning rate for an iteration."""
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * lr_factor(recipe, iteration) * group["multiplier"]
