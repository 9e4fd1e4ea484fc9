"""A few steps of training, for tests that a network learns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def losses(network: nn.Module, loss: Callable[[], Tensor], steps: int = 20, lr: float = 1e-3) -> list[float]:
    """The loss of each of some steps of Adam; every weight that is learnt must get a finite gradient."""
    learnt = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learnt, lr=lr)
    found = []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(value.item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learnt)
    return found
