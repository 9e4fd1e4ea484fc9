"""Options of the benchmark suite, and the summary that says what was measured and on what."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tstn
from bench.schema import OUT_OF_TIME, Figure, read_figures
from bench.tables import table
from bench.timing import CUDA
from tstn._backend import INTERPRETED
from tstn._native import CHECKED

_figures: pytest.StashKey[list[Figure]] = pytest.StashKey()
_deadline: pytest.StashKey[float] = pytest.StashKey()
_done: pytest.StashKey[set[tuple[str, str, str]]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options beside those of pytest-benchmark."""
    group = parser.getgroup("tstn")
    group.addoption("--figures", type=Path, help="file to add each figure to, a line each; it has what is left out")
    group.addoption("--deadline", type=float, default=float("inf"), help="skip what has not begun after these seconds")
    group.addoption("--quick", action="store_true", help="few rounds and no torch.compile")


def pytest_configure(config: pytest.Config) -> None:
    """Start the clock."""
    if INTERPRETED:
        raise pytest.UsageError("a benchmark of Triton's interpreter says nothing; unset TRITON_INTERPRET")
    if CHECKED and not CUDA:
        raise pytest.UsageError("a benchmark of checked mode says nothing; unset TSTN_CPU_CHECK")
    config.stash[_figures] = []
    deadline: Any = config.getoption("deadline")
    config.stash[_deadline] = time.monotonic() + deadline
    path: Path | None = config.getoption("figures")
    figures = read_figures(path) if path is not None else []
    config.stash[_done] = {(f["workload"], f["direction"], f["implementation"]) for f in figures}
    if path is not None:
        # Anew, because the last line may have been cut short.
        path.write_text("".join(json.dumps(figure) + "\n" for figure in figures))


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Leave out what an earlier call has measured."""
    done = [item for item in items if _measured(item, config.stash[_done])]
    if done:
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item not in done]


def _measured(item: Any, done: set[tuple[str, str, str]]) -> bool:
    if not hasattr(item, "callspec"):
        return False
    workload, direction, implementation = item.callspec.params["case"]
    return (workload.id, direction, implementation.name) in done


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Heed the deadline."""
    if time.monotonic() > item.config.stash[_deadline]:
        pytest.skip(OUT_OF_TIME)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[Figure], None]:
    """Keep a figure for the summary and write it to the file of ``--figures``."""

    def keep(figure: Figure) -> None:
        request.config.stash[_figures].append(figure)
        path: Path | None = request.config.getoption("figures")
        if path is not None:
            with path.open("a") as file:
                file.write(json.dumps(figure) + "\n")

    return keep


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was measured, on what, and every ratio, losses included."""
    figures = config.stash[_figures]
    if not figures:
        return
    device = torch.cuda.get_device_name() if CUDA else f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    write = terminalreporter.write_line
    write("")
    write(f"tstn {tstn.__version__}, PyTorch {torch.__version__}, {device}, backend {figures[0]['backend']!r}")
    if not CUDA:
        write("On a CPU with small batches and images: it says nothing about GPUs. For the CPU: python -m bench.cpu")
    write("Median of tstn, and how many times as long each other takes: above 1, tstn is faster.")
    write("A ready grid is a reference, not a peer: its coordinates cost nothing.")
    for clock, title in {"gpu": "GPU time, cold cache", "wall": "Time from call to result"}.items():
        if any(figure[clock] for figure in figures):
            write("")
            write(title)
            for line in table(figures, clock):
                write(line)
