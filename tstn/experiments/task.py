"""What an experiment trains on and is judged by; its data are a pure function of seed and iteration."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstn.experiments.config import ExperimentError

Batch = tuple[Tensor, ...]

# Of the test sets, the same for every run. Training seeds are hashed, and never come near it.
TEST_SEED = 1
# Test images that go through a network at once.
PORTION = 1000


@dataclass(frozen=True)
class Shard:
    """One process's share of every batch and of the test set: the whole if there is one process."""

    rank: int = 0
    world: int = 1

    def of_batch(self, size: int) -> slice:
        """Its samples in a batch. Equal shares, so that the mean over processes is the mean over samples.

        Raises:
            ExperimentError: If the batch cannot be dealt out equally.
        """
        if size % self.world:
            raise ExperimentError(f"--batch-size must be a multiple of the {self.world} processes; got {size}")
        share = size // self.world
        return slice(self.rank * share, (self.rank + 1) * share)


class Task(ABC):
    """Data, loss and measure of an experiment, on the device to train on.

    Attributes:
        examples: (K, ...), a few fixed test inputs, for pictures.
        captions: What each of them is.
    """

    examples: Tensor
    captions: list[str]

    @abstractmethod
    def batches(self, seed: int, start: int, size: int, shard: Shard) -> Iterator[Batch]:
        """The batches of the iterations from ``start`` on, without end; of each, this process's share.

        Args:
            seed: Of the run.
            start: The first one's iteration.
            size: Samples in a batch, over all processes together.
            shard: Whose share.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss over a batch; calls the model once."""

    @abstractmethod
    def count_wrong(self, model: nn.Module, shard: Shard, limit: int | None = None) -> Tensor:
        """How many of the shard's test samples are wrong, and how many there are: (2,) int64.

        Args:
            model: In evaluation mode.
            shard: Whose share of the test set.
            limit: Look at so many of the whole test set only; None: at all.
        """

    @abstractmethod
    def answers(self, model: nn.Module) -> list[tuple[str, bool]]:
        """What a network, in evaluation mode, says of each example, and whether that is right."""

    def prepare(self, model: nn.Module, seed: int) -> None:  # noqa: B027  (most tasks have nothing to prepare)
        """What is done to a new network before it is trained; nothing as a rule."""


class Classification(Task):
    """Single-label classification: cross-entropy; the class with the highest score counts."""

    test_inputs: Tensor
    test_labels: Tensor

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, labels = batch
        return F.cross_entropy(model(inputs), labels)

    def count_wrong(self, model: nn.Module, shard: Shard, limit: int | None = None) -> Tensor:
        inputs, labels = (t[:limit][shard.rank :: shard.world] for t in (self.test_inputs, self.test_labels))
        wrong = torch.zeros((), dtype=torch.int64, device=labels.device)
        for x, y in zip(inputs.split(PORTION), labels.split(PORTION), strict=True):
            wrong += (model(x).argmax(1) != y).sum()
        return torch.stack((wrong, torch.full_like(wrong, len(labels))))

    def answers(self, model: nn.Module) -> list[tuple[str, bool]]:
        said = model(self.examples).argmax(1).tolist()
        return [(str(answer), str(answer) == truth) for answer, truth in zip(said, self.captions, strict=True)]

    def choose_examples(self, count: int = 10) -> None:
        """Take as examples the first test input of each class, or of every so many: nothing is picked by hand."""
        classes = self.test_labels.unique()
        classes = classes[:: -(-len(classes) // count)]
        chosen = torch.stack([(self.test_labels == c).int().argmax() for c in classes])
        self.examples = self.test_inputs[chosen]
        self.captions = [str(c) for c in classes.tolist()]


class Order:
    """Shuffled passes over a training set, cut into batches; what is left at the end of a pass sits it out.

    Args:
        count: Samples in the training set.
        size: Samples in a batch.
        seed: Of the run.

    Raises:
        ExperimentError: If there are fewer samples than a batch needs.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        if size > count:
            raise ExperimentError(f"--batch-size must be at most {count}, all training samples there are; got {size}")
        self.count, self.size, self.seed = count, size, seed
        self._pass = -1
        self._indices = torch.empty(0, dtype=torch.int64)

    def __getitem__(self, iteration: int) -> Tensor:
        """Which samples make the batch of an iteration: (size,) int64."""
        number, batch = divmod(iteration, self.count // self.size)
        if number != self._pass:
            self._pass = number
            self._indices = torch.randperm(self.count, generator=generator(self.seed, "order", number))
        return self._indices[batch * self.size : (batch + 1) * self.size]


def generator(*key: object) -> torch.Generator:
    """A fresh CPU generator whose stream depends on the key only."""
    return torch.Generator().manual_seed(derived_seed(*key))


def derived_seed(*key: object) -> int:
    """A seed that depends on the key only. Hashed, so that neighbouring keys have unrelated streams."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")
