"""The experiments on handwritten digits: section 4.1, appendices A.1 and A.4."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import torch

from tstn import data
from tstn.experiments.task import TEST_SEED, Batch, Classification, Order, Shard, generator


def load(name: str, root: Path | None, device: torch.device) -> data.Digits:
    """The digits ``name``, ``"digits"`` or ``"mnist"``, on a device."""
    return (data.load_mnist(root) if name == "mnist" else data.load_digits()).to(device)


class DistortedDigits(Classification):
    """Digits distorted anew in every iteration; the test set is distorted once, alike for all seeds.

    The distortion is drawn on the CPU and carried out on the device: every device gets the same images.
    """

    def __init__(self, digits: data.Digits, distortion: data.Distortion) -> None:
        self.digits, self.distortion = digits, distortion
        self.test_inputs = data.distorted(digits.test_images, distortion, TEST_SEED)
        self.test_labels = digits.test_labels
        self.choose_examples()

    def batches(self, seed: int, start: int, size: int, shard: Shard) -> Iterator[Batch]:
        images, labels = self.digits.train_images, self.digits.train_labels
        order = Order(len(labels), size, seed)
        part = shard.of_batch(size)
        for iteration in count(start):
            index = order[iteration].to(labels.device)
            # All processes make the whole batch, so that its draws do not depend on how many there are.
            inputs = self.distortion(images[index], generator(seed, "distortion", iteration))
            yield inputs[part], labels[index[part]]


class Addition(Classification):
    """Pairs of distorted digits and their sums, drawn anew in every iteration; the test set is alike for all seeds."""

    def __init__(self, digits: data.Digits) -> None:
        self.digits = digits
        images, labels = digits.test_images, digits.test_labels
        self.test_inputs, self.test_labels = data.addition_set(images, labels, len(images), TEST_SEED)
        self.choose_examples()

    def batches(self, seed: int, start: int, size: int, shard: Shard) -> Iterator[Batch]:
        images, labels = self.digits.train_images, self.digits.train_labels
        part = shard.of_batch(size)
        for iteration in count(start):
            inputs, sums = data.addition_pairs(images, labels, size, generator(seed, "pairs", iteration))
            yield inputs[part], sums[part]
