"""The experiments on photographs in files: house numbers (section 4.2, A.5) and birds (4.3, A.6)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sized
from itertools import count
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tstn import data
from tstn.experiments.checkpoint import CheckpointError
from tstn.experiments.config import ExperimentError
from tstn.experiments.task import Batch, Order, Shard, Task, generator
from tstn.models import BirdsNet, GoogLeNet, load_pretrained_googlenet, sequence_loss, sequence_wrong

EXAMPLES = 8
PRETRAINED = "googlenet.pth"
# Test photographs that go through a network at once.
PORTION = 64

Key = tuple[int, int, int]
"""Iteration, place in its batch, and index in the training set: all that a sample depends on beside the seed."""


class Photographs(Protocol):
    """Pictures (3, size, size) uint8 with their labels, by index."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]: ...


class PhotographTask(Task):
    """Photographs that worker processes read, and ``augment``, while the network trains.

    Args:
        train: The training set.
        test: The test set.
        device: To train on.
        workers: How many processes read; 0: the training process itself.
    """

    def __init__(self, train: Photographs, test: Photographs, device: torch.device, workers: int) -> None:
        self.train, self.test, self.device, self.workers = train, test, device, workers
        first = [test[i] for i in range(min(EXAMPLES, len(test)))]
        pictures, labels = (torch.stack(column) for column in zip(*first, strict=True))
        self.examples, self.labels = self.inputs(pictures.to(device)), labels.to(device)
        self.captions = [self.spell(label) for label in labels]

    @abstractmethod
    def spell(self, label: Tensor) -> str:
        """A label in writing."""

    @abstractmethod
    def read(self, scores: Tensor) -> Tensor:
        """The labels that scores stand for."""

    def inputs(self, pictures: Tensor) -> Tensor:
        """Test inputs (N, 3, H, W) in [0, 1] from uint8 pictures."""
        return pictures.float() / 255

    def augment(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        """A training picture (3, H, W), 0 to 255, from one as it is in the file."""
        return picture

    def batches(self, seed: int, start: int, size: int, shard: Shard) -> Iterator[Batch]:
        order, part = Order(len(self.train), size, seed), shard.of_batch(size)

        def keys() -> Iterator[list[Key]]:
            for iteration in count(start):
                indices = order[iteration].tolist()
                yield [(iteration, place, indices[place]) for place in range(part.start, part.stop)]

        samples = _Samples(self.train, seed, self.augment)
        # The loader draws a seed for its workers, which nothing uses; it shall not be the run's.
        for pictures, labels in self._loader(samples, batch_sampler=keys(), generator=generator(seed, "workers")):
            yield pictures.to(self.device).float() / 255, labels.to(self.device)

    def _loader(self, dataset: object, **options: Any) -> DataLoader[Any]:
        pin = self.device.type == "cuda"
        return DataLoader(cast(Dataset[Any], dataset), num_workers=self.workers, pin_memory=pin, **options)

    def count_wrong(self, model: nn.Module, shard: Shard, limit: int | None = None) -> Tensor:
        indices = range(len(self.test))[:limit][shard.rank :: shard.world]
        wrong = torch.zeros((), dtype=torch.int64, device=self.device)
        for pictures, labels in self._loader(_Part(self.test, indices), batch_size=PORTION):
            scores = model(self.inputs(pictures.to(self.device)))
            wrong += self.wrong(scores, labels.to(self.device)).sum()
        return torch.stack((wrong, torch.full_like(wrong, len(indices))))

    @abstractmethod
    def wrong(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Which samples are wrong, (N,) bool."""

    def answers(self, model: nn.Module) -> list[tuple[str, bool]]:
        scores = model(self.examples)
        right = (~self.wrong(scores, self.labels)).tolist()
        return [(self.spell(label), ok) for label, ok in zip(self.read(scores).cpu(), right, strict=True)]


class _Part(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, photographs: Photographs, indices: Sized) -> None:
        self.photographs, self.indices = photographs, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.photographs[cast(range, self.indices)[index]]


class _Samples(Dataset[tuple[Tensor, Tensor]]):
    """Training samples by their keys: the same in whichever process they are made."""

    def __init__(
        self, photographs: Photographs, seed: int, augment: Callable[[Tensor, torch.Generator], Tensor]
    ) -> None:
        self.photographs, self.seed, self.augment = photographs, seed, augment

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        iteration, place, index = key
        picture, label = self.photographs[index]
        return self.augment(picture, generator(self.seed, "augment", iteration, place)), label


class HouseNumberTask(PhotographTask):
    """Whole house numbers: right if every digit is, and there are as many.

    Args:
        root: The folder with ``train``, ``extra`` and ``test``.
        crop: Side of the crops in pixels, 64 or 128.
        validation: Training pictures that are kept out, as the paper keeps 5000 for choosing its settings.
        device: To train on.
        workers: Processes that read.
    """

    def __init__(self, root: Path, crop: int, validation: int, device: torch.device, workers: int) -> None:
        try:
            train, _, test = data.svhn_splits(root, crop, validation)
        except ValueError as error:
            raise ExperimentError(f"--validation: {error}") from None
        super().__init__(cast(Photographs, train), test, device, workers)

    def spell(self, label: Tensor) -> str:
        return "".join(str(digit) for digit in label.tolist() if digit < 10)

    def read(self, scores: Tensor) -> Tensor:
        return scores.argmax(2)

    def wrong(self, scores: Tensor, labels: Tensor) -> Tensor:
        return sequence_wrong(scores, labels)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        pictures, labels = batch
        return sequence_loss(model(pictures), labels)


class BirdsTask(PhotographTask):
    """Species of birds: training takes a random crop of seven eighths, mirrored by chance; testing the middle one.

    Args:
        root: The folder ``CUB_200_2011``.
        size: Side of what the network sees, in pixels.
        pretrained: Whether Inceptions start from ``googlenet.pth`` in the folder.
        device: To train on.
        workers: Processes that read.
    """

    def __init__(self, root: Path, size: int, pretrained: bool, device: torch.device, workers: int) -> None:
        self.root, self.size, self.pretrained = root, size, pretrained
        side = size * 8 // 7
        super().__init__(data.Birds(root, "train", side), data.Birds(root, "test", side), device, workers)

    def prepare(self, model: nn.Module, seed: int) -> None:
        if not self.pretrained:
            return
        path = self.root / PRETRAINED
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(model, BirdsNet):
                model.load_pretrained(weights)
            else:
                load_pretrained_googlenet(cast(GoogLeNet, model), weights)
        except FileNotFoundError:
            raise ExperimentError(
                f"{path} is missing: put torchvision's pretrained googlenet there (googlenet-1378be20.pth), or give "
                "--pretrained 0 to start from random weights, which is not what the paper did"
            ) from None
        # torch.load fails in many ways.
        except Exception as error:
            raise CheckpointError(f"{path} is not a state dict of torchvision's googlenet: {error}") from error

    def inputs(self, pictures: Tensor) -> Tensor:
        return data.centre_crop(super().inputs(pictures), self.size)

    def augment(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        return data.crop_and_flip(picture[None].float(), generator, self.size)[0]

    def spell(self, label: Tensor) -> str:
        return f"species {int(label) + 1}"

    def read(self, scores: Tensor) -> Tensor:
        return scores.argmax(1)

    def wrong(self, scores: Tensor, labels: Tensor) -> Tensor:
        return scores.argmax(1) != labels

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        pictures, labels = batch
        return F.cross_entropy(model(pictures), labels)
