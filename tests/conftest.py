"""Where tests run: both backends, eager and compiled, on the CPU or, with a GPU, there too.

On the CPU the kernels are compiled for it and run in checked mode: an access outside of a tensor is an error. With
TRITON_INTERPRET=1 they run in Triton's interpreter instead, as ``test_interpreter.py`` has it for a sample.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch

# Before tstn is imported. Tests of what is not checked say so themselves.
os.environ.setdefault("TSTN_CPU_CHECK", "1")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if INTERPRETED:
    import interpreter

    interpreter.speed_up()

import tstn  # noqa: E402


class Place(NamedTuple):
    """A backend on a device."""

    backend: str
    device: str

    @property
    def gathers(self) -> bool:
        """Whether matrices have the input's gradient gathered."""
        return self.device != "cpu" or INTERPRETED


PLACES = [
    pytest.param(Place("torch", "cpu"), id="torch"),
    pytest.param(Place("triton", "cpu"), id="interpreter" if INTERPRETED else "native"),
    pytest.param(Place("triton", "cuda"), id="gpu", marks=pytest.mark.gpu),
    pytest.param(Place("torch", "cuda"), id="torch-gpu", marks=pytest.mark.gpu),
]
KERNEL_PLACES = [place for place in PLACES if place.values[0].backend == "triton"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests first; without a GPU, leave out what needs one."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    if torch.cuda.is_available():
        return
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needs_gpu:
        config.hook.pytest_deselected(items=needs_gpu)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


def pytest_collection_finish() -> None:
    """What was imported and collected stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Each backend where it runs."""
    with tstn.backend(request.param.backend):
        yield request.param


@pytest.fixture(params=KERNEL_PLACES)
def kernel_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The kernels, on the CPU or a GPU."""
    with tstn.backend(request.param.backend):
        yield request.param


@pytest.fixture(params=["eager", "compiled"])
def compiled(request: pytest.FixtureRequest) -> Iterator[Callable[[Callable], Callable]]:
    """A function as it is, or through ``torch.compile(fullgraph=True)``; AOTAutograd, without code generation."""
    if request.param == "eager":
        yield lambda function: function
    else:
        torch.compiler.reset()
        yield lambda function: torch.compile(function, backend="aot_eager", fullgraph=True)
        torch.compiler.reset()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
