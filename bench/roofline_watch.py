"""Memory that programs run against: made-up addresses for tensors without memory, and a record of what was touched."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tstn_cpu.ir import ACCESSES, SIZES, Operation

from bench.roofline_code import Compiled, Site
from bench.roofline_interpreter import DTYPES, Memory
from bench.roofline_lanes import requests

Array = NDArray[Any]

SECTOR = 32
# Sectors of one request that the level-1 cache serves in a cycle: 128 bytes.
SECTORS_PER_CYCLE = 4
# Tensors without memory are given some up to here, for numbers that a launch leaves to the next.
SMALL_BYTES = 2**22
# Address of the first byte of the i-th tensor's memory: i shifted by this.
REGION_BITS = 40
OFFSETS = (1 << REGION_BITS) - 1

KINDS = ("load", "store", "atomic")
LOAD, STORE, ATOMIC = range(3)
_COMBINE: dict[str, Any] = {"fadd": np.add, "add": np.add, "max": np.maximum, "umax": np.maximum, "min": np.minimum}


class Space:
    """Where the tensors of a call lie, and the values of those that have any.

    A tensor needs no memory to have an address. Numbers that maps or decisions depend on are few, and kept.
    """

    def __init__(self) -> None:
        self._regions: dict[int, int] = {}
        self.bytes: list[int] = [0]
        self.values: list[Array | None] = [None]
        # A storage's identity is its own only while it lives.
        self._storages: list[torch.UntypedStorage] = []

    def region(self, tensor: Tensor) -> int:
        """The number of the tensor's memory, from 1."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._regions:
            self._regions[storage._cdata] = len(self.bytes)
            self.bytes.append(storage.nbytes())
            self.values.append(_values(tensor))
            self._storages.append(storage)
        return self._regions[storage._cdata]

    def address(self, tensor: Tensor) -> int:
        """Of the tensor's first element."""
        return (self.region(tensor) << REGION_BITS) + int(tensor.storage_offset()) * tensor.element_size()


def _values(tensor: Tensor) -> Array | None:
    """All of the tensor's memory, to read and write without changing the tensor."""
    dtype = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
    storage = tensor.untyped_storage()
    if tensor.device.type == "cpu":
        return torch.empty(0, dtype=tensor.dtype).set_(storage).to(dtype, copy=True).numpy()
    if storage.nbytes() > SMALL_BYTES:
        return None
    return torch.zeros(storage.nbytes() // tensor.element_size(), dtype=dtype).numpy()


class Stream(NamedTuple):
    """Accesses in order: the program, the sector, and what is done, an index into ``KINDS``."""

    program: Array
    sector: Array
    kind: Array


class Watched(Memory):
    """Remembers which sectors each program touches, and for one in ``every`` programs what requests that takes."""

    def __init__(self, compiled: Compiled, space: Space, every: int = 1):
        self._compiled, self._space, self._every = compiled, space, every
        self._widths = compiled.widths()
        self._tables: dict[int, Array] = {}
        self._programs = 0
        self._rows = np.zeros(0, np.int64)
        # Of the batch that runs: kind, and programs and sectors, for each operation each program's sectors once.
        self._touched: list[tuple[int, Array, Array]] = []
        # Of all batches.
        self.operations = 0
        self.elements = 0
        # Of the programs that are looked at request by request: how many, what they ask for, what their warps issue.
        self.looked_at = 0
        self.asked: Counter[str] = Counter()
        self.issues: defaultdict[Site, float] = defaultdict(float)

    def start(self, programs: Array) -> None:
        """A batch of programs is about to run."""
        self._programs, self._touched = len(programs), []
        self._rows = np.flatnonzero(programs % self._every == 0)
        self.looked_at += len(self._rows)

    def stream(self) -> Stream:
        """What the batch touched, program by program."""
        if not self._touched:
            return Stream(*(np.zeros(0, np.int64) for _ in range(3)))
        kinds = np.concatenate([np.full(len(sectors), kind) for kind, _, sectors in self._touched])
        programs, sectors = (np.concatenate([touched[i] for touched in self._touched]) for i in (1, 2))
        order = np.argsort(programs, kind="stable")
        return Stream(programs[order], sectors[order], kinds[order])

    def load(self, operation: Operation, address: Array, mask: Array, other: Array) -> Array:
        """Zeros from tensors without memory: nobody looks at an image's values."""
        values, address, mask = self._touch(operation, address, mask)
        assert operation.type is not None
        dtype = DTYPES[operation.type.element]
        if values is None:
            return np.zeros((1,) * address.ndim, dtype)
        found = np.zeros(address.shape, dtype)
        found[mask] = values[_index(operation, address[mask])]
        return np.where(mask, found, other).astype(dtype, copy=False)

    def store(self, operation: Operation, address: Array, mask: Array, value: Array) -> None:
        """Where there is memory."""
        values, address, mask = self._touch(operation, address, mask)
        if values is not None:
            values[_index(operation, address[mask])] = np.broadcast_to(value, address.shape)[mask]

    def atomic(self, operation: Operation, address: Array, mask: Array, value: Array) -> Array:
        """Where there is memory; what was there before is not told."""
        values, address, mask = self._touch(operation, address, mask)
        if values is not None:
            combine = _COMBINE.get(operation.text.split()[0].rstrip(","))
            if combine is None:
                raise NotImplementedError(f"no rule for {operation.name}{operation.text} at {operation.place}")
            combine.at(values, _index(operation, address[mask]), np.broadcast_to(value, address.shape)[mask])
        return np.zeros((1,) * address.ndim, value.dtype)

    def _touch(self, operation: Operation, address: Array, mask: Array) -> tuple[Array | None, Array, Array]:
        """Remember an access; the values of the memory it touches, its addresses and its mask in full."""
        kind = operation.type
        assert kind is not None
        shape = (self._programs, *kind.shape)
        address, mask = np.broadcast_to(address, shape), np.broadcast_to(mask, shape)
        self.operations += self._programs
        self.elements += address.size
        self._look_at_requests(operation, address, mask)
        touched = address[mask]
        if not touched.size:
            return None, address, mask
        low, high = int(touched.min()), int(touched.max())
        region = low >> REGION_BITS
        past = (high & OFFSETS) + SIZES[kind.element]
        if not (0 < region == high >> REGION_BITS and past <= self._space.bytes[region]):
            raise ValueError(f"{operation.name} at {operation.place} reaches outside of its tensor")
        sectors = np.where(mask, address // SECTOR, -1).reshape(self._programs, -1)
        sectors.sort(axis=1)
        first = _distinct(sectors)
        self._touched.append((KINDS.index(ACCESSES[operation.name]), np.nonzero(first)[0], sectors[first]))
        return self._space.values[region], address, mask

    def _look_at_requests(self, operation: Operation, address: Array, mask: Array) -> None:
        kind = operation.type
        assert kind is not None
        site = (operation.place, ACCESSES[operation.name])
        warps = self._compiled.warps
        table = self._tables.get(id(operation))
        if table is None:
            vector = max(1, self._widths.get(site, 0) // SIZES[kind.element])
            layouts = self._compiled.kernel.layouts
            table = requests(kind.layout, layouts, kind.shape, warps, vector, writes=site[1] != "load")
            self._tables[id(operation)] = table
        addresses, masks = (a[self._rows].reshape(-1, math.prod(kind.shape)) for a in (address, mask))
        sectors = np.where(masks[:, table] & (table >= 0), addresses[:, table] // SECTOR, -1)
        sectors.sort(axis=-1)
        distinct = _distinct(sectors).sum(axis=-1)
        self.asked["requests"] += int((distinct > 0).sum())
        self.asked["cycles"] += int((-(-distinct // SECTORS_PER_CYCLE)).sum())
        self.asked[site[1]] += int(distinct.sum())
        issuing = np.ones(1, np.bool_) if self.active is None else self.active
        issuing = np.broadcast_to(issuing, self._programs)[self._rows].sum()
        self.issues[site] += float(issuing) * max(len(table) / warps, 1.0)


def _index(operation: Operation, address: Array) -> Array:
    assert operation.type is not None
    return (address & OFFSETS) // SIZES[operation.type.element]


def _distinct(ordered: Array) -> NDArray[np.bool_]:
    """Which entries of sorted rows are the first of their value; negative ones are none."""
    first = ordered >= 0
    first[..., 1:] &= ordered[..., 1:] != ordered[..., :-1]
    return first
