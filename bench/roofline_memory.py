"""What a launch does to memory: the sectors that a sample of its programs touches, through two levels of cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.roofline_code import Compiled, Site
from bench.roofline_interpreter import Interpreter
from bench.roofline_watch import LOAD, REGION_BITS, SECTOR, STORE, Space, Stream, Watched
from tstn._launch import Launch

Array = NDArray[Any]

# Elements of accesses that are simulated for a launch, about, and programs, at least.
BUDGET = 2**25
LEAST = 16
# Elements of one access, and programs, that are computed at a time.
BATCH = 2**15
MOST_AT_A_TIME = 128
# Programs from which is guessed how much work the others are.
PROBE = 4
# One program in so many is looked at request by request, where there are many: odd, unlike rows of tiles.
REQUESTS_EVERY = 7
# Programs of a run that only fill the caches, at least, where a launch is sampled in several runs.
WARM = 256
MOST_RUNS = 8


class Run(NamedTuple):
    """Programs one after the other; the first ``warm`` of them only fill the caches."""

    start: int
    warm: int
    counted: int


@dataclass
class Buffer:
    """What a launch does to one tensor, in bytes of whole sectors.

    Attributes:
        touched: Read or written, each sector once.
        fetched: From DRAM, each sector once, if nothing was cached before.
        refetched: From DRAM again, after the level-2 cache had dropped it.
        written: To DRAM.
    """

    touched: float = 0.0
    fetched: float = 0.0
    refetched: float = 0.0
    written: float = 0.0


@dataclass
class Traffic:
    """What all programs of a launch do to memory.

    Attributes:
        simulated: How many programs were counted.
        requests: Warp-wide accesses.
        sectors: Sectors of all requests.
        cycles: Cycles of level-1 cache that the requests take, of all multiprocessors together.
        l2_bytes: Between the caches.
        atomic_sectors: Sectors that atomic operations change in the level-2 cache.
        issues: Accesses of each place that a warp issues, on average.
        buffers: By region of the space.
    """

    simulated: int
    requests: float
    sectors: float
    cycles: float
    l2_bytes: float
    atomic_sectors: float
    issues: dict[Site, float]
    buffers: dict[int, Buffer] = field(default_factory=dict)


def hits(sectors: Array, capacity: int) -> NDArray[np.bool_]:
    """Which accesses of a stream find their sector in a cache of ``capacity`` sectors that drops the least recent."""
    order = np.argsort(sectors, kind="stable")
    again = np.flatnonzero(sectors[order][1:] == sectors[order][:-1])
    before, now = order[again], order[again + 1]
    found = np.zeros(len(sectors), np.bool_)
    # At most as many other sectors as accesses came in between.
    near = now - before <= capacity
    found[now[near]] = True
    if near.all():
        return found
    cached: dict[int, None] = {}
    for i, sector in enumerate(sectors.tolist()):
        found[i] = sector in cached
        cached.pop(sector, None)
        cached[sector] = None
        if len(cached) > capacity:
            del cached[next(iter(cached))]
    return found


def past_l1(stream: Stream, capacity: int) -> Stream:
    """What caches of ``capacity`` sectors, one for each program and for its loads alone, let through."""
    passed = np.ones(len(stream.sector), np.bool_)
    loads = np.flatnonzero(stream.kind == LOAD)
    for part in np.split(loads, np.flatnonzero(np.diff(stream.program[loads])) + 1):
        passed[part] = ~hits(stream.sector[part], capacity)
    return Stream(*(column[passed] for column in stream))


def past_l2(buffers: dict[int, Buffer], stream: Stream, capacity: int, first_program: int, scale: float = 1.0) -> None:
    """Add what passes a cache of ``capacity`` sectors to the buffers' traffic with DRAM.

    Only accesses of ``first_program`` and later ones count. A store needs nothing from DRAM.
    """
    missed = ~hits(stream.sector, capacity)
    order = np.argsort(stream.sector, kind="stable")
    missed, sector, kind = missed[order], stream.sector[order], stream.kind[order]
    counted = stream.program[order] >= first_program
    first = np.ones(len(sector), np.bool_)
    first[1:] = sector[1:] != sector[:-1]
    fetched = missed & (kind != STORE)
    # A sector stays from one miss to the next; if it was changed in that time it goes to DRAM once, at last in the end.
    stay = np.cumsum(missed)
    changes = np.flatnonzero(kind != LOAD)
    written = np.zeros(len(sector), np.bool_)
    written[changes[np.unique(stay[changes], return_index=True)[1]]] = True
    region = sector // ((1 << REGION_BITS) // SECTOR)
    columns = {"touched": first, "fetched": fetched & first, "refetched": fetched & ~first, "written": written}
    for name, which in columns.items():
        for number, count in zip(*np.unique(region[which & counted], return_counts=True), strict=True):
            buffer = buffers.setdefault(int(number), Buffer())
            setattr(buffer, name, getattr(buffer, name) + float(count) * SECTOR * scale)


def runs(programs: int, unit: int | None, most: int) -> list[Run]:
    """A sample of about ``most`` programs, spread over all.

    Whole units, if programs of different units share nothing and a unit is small enough. Else runs in which some
    programs go ahead that do not count, so that those that do find in the caches what their neighbours left.
    """
    if programs <= 1.5 * most:
        return [Run(0, 0, programs)]
    if unit is not None and unit <= 2 * most:
        units, count = programs // unit, max(most // unit, 1)
        return [Run((2 * i + 1) * units // (2 * count) * unit, 0, unit) for i in range(count)]
    count = min(max(most // (2 * WARM), 1), MOST_RUNS)
    length = most // (2 * count)
    unit = programs if unit is None else unit
    sample = []
    for i in range(count):
        # In another place of another unit each time.
        place = (2 * i + 1) * (programs // unit) // (2 * count) * unit + (2 * i + 1) * unit // (2 * count)
        start = max(place - length, 0)
        sample.append(Run(start, place - start, min(length, programs - place)))
    return sample


def simulate(
    launch: Launch,
    compiled: Compiled,
    kept: Sequence[int],
    space: Space,
    l1_bytes: int,
    l2_bytes: int,
    unit: int | None = None,
    budget: int = BUDGET,
) -> Traffic:
    """Run a sample of a launch's programs and extrapolate to all.

    Args:
        launch: What would be launched.
        compiled: What it compiles to.
        kept: The positions of the arguments that the compiled kernel still has.
        space: Where its tensors lie.
        l1_bytes: Level-1 cache that a program has to itself.
        l2_bytes: Level-2 cache.
        unit: Programs that share nothing with those of the next unit, if known: the programs of one input.
        budget: Elements of accesses to simulate, about.
    """
    values = [launch.arguments[i] for i in kept]
    arguments = [space.address(value) if isinstance(value, Tensor) else value for value in values]

    def execute(watched: Watched, programs: Array) -> Stream:
        watched.start(programs)
        Interpreter(compiled.kernel, watched, launch.programs).run(programs, arguments)
        stream = past_l1(watched.stream(), l1_bytes // SECTOR)
        return stream._replace(program=programs[stream.program])

    probe, few = Watched(compiled, space), np.unique(np.linspace(0, launch.programs - 1, PROBE).astype(np.int64))
    execute(probe, few)
    sample = runs(launch.programs, unit, max(LEAST, budget * len(few) // max(probe.elements, 1)))
    batch = max(1, min(MOST_AT_A_TIME, BATCH * probe.operations // max(probe.elements, 1)))

    counted, executed = sum(run.counted for run in sample), sum(run.warm + run.counted for run in sample)
    watched = Watched(compiled, space, every=REQUESTS_EVERY if executed > MOST_AT_A_TIME else 1)
    buffers: dict[int, Buffer] = {}
    loaded = 0
    for run in sample:
        stop = run.start + run.warm + run.counted
        parts = [execute(watched, np.arange(at, min(at + batch, stop))) for at in range(run.start, stop, batch)]
        stream = Stream(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        loaded += int((stream.kind == LOAD).sum())
        past_l2(buffers, stream, l2_bytes // SECTOR, run.start + run.warm, launch.programs / counted)

    each = launch.programs / watched.looked_at
    asked = watched.asked
    changed = (asked["store"] + asked["atomic"]) * each
    return Traffic(
        simulated=counted,
        requests=asked["requests"] * each,
        sectors=asked["load"] * each + changed,
        cycles=asked["cycles"] * each,
        l2_bytes=(loaded * launch.programs / executed + changed) * SECTOR,
        atomic_sectors=asked["atomic"] * each,
        issues={site: count / watched.looked_at for site, count in watched.issues.items()},
        buffers=buffers,
    )
