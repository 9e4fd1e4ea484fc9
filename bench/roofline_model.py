"""From a workload to predicted traffic and time: its launches simulated one by one, the level-2 cache kept between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from bench.aot_code import TARGETS
from bench.roofline_calls import Step, call
from bench.roofline_cards import CEILINGS, Card, Work
from bench.roofline_code import compiled
from bench.roofline_memory import Buffer, Traffic, simulate
from bench.roofline_watch import Space
from bench.workloads import Problem, Workload, floor_bytes, result_bytes
from tstn._launch import Launch


@dataclass(frozen=True)
class Prediction:
    """What a call does, and the time that a card needs for it at least.

    Attributes:
        workload: The workload's id.
        direction: A key of ``DIRECTIONS``.
        floor_bytes: The least traffic, as :func:`bench.workloads.floor_bytes` has it.
        bytes: The traffic with DRAM.
        result_bytes: What the caller gets: the output, where there is one, and the gradients.
        peak_bytes: What is allocated beside what the caller holds before.
        launches: How many there are, PyTorch's own included.
        ceilings: Seconds by each of ``CEILINGS``, all launches together.
        seconds: The slowest of each launch's, added up.
        bound: Which of the ceilings take most of that.
        sectors_per_request: Of the kernels' accesses, on average.
        details: Launch by launch.
    """

    workload: str
    direction: str
    floor_bytes: int
    bytes: int
    result_bytes: int
    peak_bytes: int
    launches: int
    ceilings: dict[str, float]
    seconds: float
    bound: str
    sectors_per_request: float
    details: list[dict[str, Any]]

    @property
    def ratio(self) -> float:
        """Traffic with DRAM over the least."""
        return self.bytes / self.floor_bytes


class Geometry(Problem):
    """A problem without memory for images, the same as another if they look at the same pixels."""

    @staticmethod
    def of_workload(workload: Workload) -> Geometry:
        """Thetas as :class:`Problem` draws them, but not the same ones: those depend on the images drawn before."""
        batch, channels, *size = workload.shape
        one = Problem.of(replace(workload, shape=(batch, 1, *size), dtype=torch.float32, layout="nchw"), "cpu")
        like = torch.empty((), dtype=workload.dtype)
        out = (batch * workload.views, channels, *workload.size)
        return Geometry(workload, like.expand(workload.shape), one.theta, like.expand(out))

    def _pixels(self) -> Workload:
        return replace(self.workload, name="", dtype=torch.float32, layout="nchw", directions=())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Geometry) and self._pixels() == other._pixels()

    def __hash__(self) -> int:
        return hash(self._pixels())


class Model:
    """Predicts a workload's directions on a card; a launch that several have is simulated once."""

    def __init__(self, workload: Workload, card: Card):
        self.workload = workload
        self._problem, self._card = Geometry.of_workload(workload), card
        self._simulated: dict[Any, tuple[Traffic, Work, list[int]]] = {}

    def predict(self, direction: str) -> Prediction:
        """What a call in this direction does."""
        space = Space()
        l2 = _Kept(self._card.l2)
        details: list[dict[str, Any]] = []
        works: list[Work] = []
        requests = sectors = 0.0
        recorded = call(self._problem, direction)
        for step in recorded.steps:
            detail: dict[str, Any] = {"launch": step.name}
            if step.launch is None:
                buffers = _operator(step, space)
                work = Work(self._card.multiprocessors, 0.0, _total(buffers))
            else:
                traffic, work, regions = self._kernel(step.launch, space)
                # Simulated in a call that may have had its tensors elsewhere.
                here = _regions(step.launch, space)
                buffers = {here[regions.index(region)]: buffer for region, buffer in traffic.buffers.items()}
                requests, sectors = requests + traffic.requests, sectors + traffic.sectors
                detail |= {"programs": step.launch.programs, "simulated": traffic.simulated}
                detail |= {"requests": round(traffic.requests), "sectors": round(traffic.sectors)}
                detail |= {f"{pipe} instructions": round(n) for pipe, n in (work.warp_instructions or {}).items()}
            details.append(detail)
            works.append(work)
            l2.add(buffers)
        ceilings = dict.fromkeys(CEILINGS, 0.0)
        binding = dict.fromkeys(CEILINGS, 0.0)
        for detail, work, dram_bytes in zip(details, works, l2.dram, strict=True):
            allowed = replace(work, dram_bytes=dram_bytes).seconds(self._card)
            bound = max(allowed, key=lambda name: allowed[name])
            binding[bound] += allowed[bound]
            for name, seconds in allowed.items():
                ceilings[name] += seconds
            detail |= {"dram_bytes": round(dram_bytes), "l2_bytes": round(work.l2_bytes)}
            detail |= {"bound": bound, "seconds": allowed}
        return Prediction(
            workload=self.workload.id,
            direction=direction,
            floor_bytes=floor_bytes(self._problem, direction),
            bytes=round(sum(l2.dram)),
            result_bytes=result_bytes(self._problem, direction),
            peak_bytes=recorded.allocated,
            launches=len(works),
            ceilings=ceilings,
            seconds=sum(binding.values()),
            bound=max(binding, key=lambda name: binding[name]),
            sectors_per_request=sectors / max(requests, 1.0),
            details=details,
        )

    def _kernel(self, launch: Launch, space: Space) -> tuple[Traffic, Work, list[int]]:
        regions = _regions(launch, space)
        key = _key(launch, regions)
        if key not in self._simulated:
            code, kept = compiled(launch, TARGETS[self._card.target])
            l1 = self._card.l1_share(code.registers, code.shared, code.warps)
            traffic = simulate(launch, code, kept, space, l1, self._card.l2, self._unit(launch))
            per_warp = code.executed(traffic.issues)
            work = Work(
                programs=launch.programs,
                dram_bytes=0.0,
                l2_bytes=traffic.l2_bytes,
                l1_cycles=traffic.cycles,
                atomic_sectors=traffic.atomic_sectors,
                warp_instructions={pipe: n * code.warps * launch.programs for pipe, n in per_warp.items()},
            )
            self._simulated[key] = traffic, work, regions
        return self._simulated[key]

    def _unit(self, launch: Launch) -> int | None:
        """The programs of one input, or of the inputs that are treated together."""
        groups = -(-self._problem.workload.shape[0] // launch.config.samples)
        return launch.programs // groups if launch.programs % groups == 0 else None


def _regions(launch: Launch, space: Space) -> list[int]:
    return [space.region(value) for value in launch.arguments if isinstance(value, Tensor)]


def _key(launch: Launch, regions: Sequence[int]) -> Any:
    """What tells launches apart that do different things to memory, for the same thetas."""
    values = [
        (value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else value for value in launch.arguments
    ]
    # Which tensors share memory.
    same = [regions.index(region) for region in regions]
    return str(
        (launch.kernel, launch.programs, values, same, sorted(launch.constexprs.items(), key=str), launch.config)
    )


def _operator(step: Step, space: Space) -> dict[int, Buffer]:
    """The traffic of an operator of PyTorch: every tensor it is given read once, every result written once."""
    buffers: dict[int, Buffer] = {}
    for tensors, written in ((step.reads, False), (step.writes, True)):
        for tensor in tensors:
            # An expanded dimension is in memory once.
            lengths = (n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
            size = float(prod(lengths) * tensor.element_size())
            buffer = buffers.setdefault(space.region(tensor), Buffer())
            buffer.touched = max(buffer.touched, size)
            if written:
                buffer.written = size
            else:
                buffer.fetched = size
    return buffers


def _total(buffers: dict[int, Buffer]) -> float:
    return sum(buffer.fetched + buffer.written for buffer in buffers.values())


class _Kept:
    """What the level-2 cache keeps from launch to launch, tensor by tensor.

    A tensor that an earlier launch touched is still there if all that was touched since, that launch and the present
    one included, fits into the cache. It is then not fetched again, and if both write to it, it goes to DRAM once.
    """

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._footprints: list[float] = []
        self._last: dict[int, tuple[int, Buffer]] = {}
        # Bytes to and from DRAM, by launch.
        self.dram: list[float] = []

    def add(self, buffers: dict[int, Buffer]) -> None:
        """The next launch."""
        self._footprints.append(sum(buffer.touched for buffer in buffers.values()))
        self.dram.append(0.0)
        for region, buffer in buffers.items():
            fetched = buffer.fetched
            when, before = self._last.get(region, (0, None))
            if before is not None and sum(self._footprints[when:]) <= self._capacity:
                fetched = max(fetched - before.touched, 0.0)
                self.dram[when] -= min(before.written, buffer.written)
            self.dram[-1] += fetched + buffer.refetched + buffer.written
            self._last[region] = len(self.dram) - 1, buffer
