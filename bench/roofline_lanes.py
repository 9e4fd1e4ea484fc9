"""Which lane has which element: Triton's layouts, and the requests to memory that they make of a tensor's access."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

LANES = 32


def requests(
    layout: str, layouts: Mapping[str, str], shape: tuple[int, ...], warps: int, vector: int, writes: bool
) -> NDArray[np.int64]:
    """(requests, elements of a request): the flat indices of the elements that each warp-wide instruction accesses.

    A lane's consecutive registers go ``vector`` at a time into one instruction. Loads of an element that several
    threads want are made by all of them; writes by the first, and the others' places hold -1.
    """
    if not shape:
        # A scalar: every warp loads it with all its lanes, one thread writes it.
        return np.zeros((1 if writes else warps, 1), np.int64)
    table = _lanes(resolved(layout, layouts), shape, warps)
    vector = min(vector, table.shape[1])
    grouped = table.reshape(table.shape[0], -1, vector, LANES).reshape(-1, vector * LANES)
    if writes:
        flat = grouped.ravel().copy()
        first = np.zeros(flat.size, np.bool_)
        first[np.unique(flat, return_index=True)[1]] = True
        flat[~first] = -1
        grouped = flat.reshape(grouped.shape)
    return grouped


def resolved(layout: str, layouts: Mapping[str, str]) -> str:
    """A layout with what its names stand for in their place."""
    while names := re.findall(r"#[a-z]\w*(?![\w.])", layout):
        for name in names:
            layout = layout.replace(name, layouts[name])
    return layout


@lru_cache(maxsize=1024)
def _lanes(layout: str, shape: tuple[int, ...], warps: int) -> NDArray[np.int64]:
    """(warps, registers, 32) flat indices; registers in the order in which a thread counts them, without copies."""
    if layout.startswith("#ttg.slice"):
        found = re.match(r"#ttg\.slice<\{dim = (\d+), parent = (.*)\}>$", layout)
        if found is None:
            raise ValueError(f"unknown layout {layout}")
        dim = int(found[1])
        return _lanes(found[2], (*shape[:dim], 1, *shape[dim:]), warps)
    if layout.startswith("#ttg.blocked"):
        table = _blocked(layout, shape, warps)
    elif layout.startswith("#ttg.linear"):
        table = _linear(layout, shape)
    else:
        raise NotImplementedError(f"no rule for the layout {layout}")
    _, kept = np.unique(table.transpose(1, 0, 2).reshape(table.shape[1], -1), axis=0, return_index=True)
    return table[:, np.sort(kept)]


def _blocked(layout: str, shape: tuple[int, ...], warps: int) -> NDArray[np.int64]:
    per_thread, threads, per_program, order = (
        [int(n) for n in re.findall(r"\d+", _field(layout, name))]
        for name in ("sizePerThread", "threadsPerWarp", "warpsPerCTA", "order")
    )
    if prod(per_program) != warps:
        raise ValueError(f"the layout has {prod(per_program)} warps, the program {warps}: {layout}")
    extents = [s * t * w for s, t, w in zip(per_thread, threads, per_program, strict=True)]
    repeats = [max(1, -(-n // extent)) for n, extent in zip(shape, extents, strict=True)]
    warp = _digits(warps, per_program, order)
    lane = _digits(LANES, threads, order)
    # First the elements side by side, then the whole block again further on.
    within = _digits(prod(per_thread), per_thread, order)
    again = _digits(prod(repeats), repeats, order)
    flat = np.zeros((warps, prod(per_thread) * prod(repeats), LANES), np.int64)
    for dim, size in enumerate(shape):
        register = (within[None, :, dim] + again[:, None, dim] * extents[dim]).ravel()
        thread = (warp[:, None, dim] * threads[dim] + lane[None, :, dim]) * per_thread[dim]
        flat = flat * size + (register[None, :, None] + thread[:, None, :]) % size
    return flat


def _linear(layout: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Each bit of register, lane and warp moves the element by its base, exclusive or."""
    bases = [
        np.array(
            [[int(n) for n in re.findall(r"\d+", row)] for row in re.findall(r"\[[\d, ]+\]", _field(layout, name))]
        )
        for name in ("warp", "register", "lane")
    ]
    tables = []
    for rows in bases:
        table = np.zeros((1, len(shape)), np.int64)
        for row in rows:
            table = np.concatenate((table, table ^ row))
        tables.append(table)
    warp, register, lane = tables
    place = warp[:, None, None] ^ register[None, :, None] ^ lane[None, None]
    flat = np.zeros(place.shape[:-1], np.int64)
    for dim, size in enumerate(shape):
        flat = flat * size + place[..., dim] % size
    return flat


def _field(layout: str, name: str) -> str:
    """A list's text."""
    start = layout.index(f"{name} = [") + len(name) + 3
    depth, end = 0, start
    while True:
        depth += (layout[end] == "[") - (layout[end] == "]")
        end += 1
        if depth == 0:
            return layout[start:end]


def _digits(count: int, sizes: list[int], order: list[int]) -> NDArray[Any]:
    """(count, dimensions): numbers spelled out in digits, the dimension first in order changing fastest."""
    out = np.zeros((count, len(sizes)), np.int64)
    rest = np.arange(count)
    for dim in order:
        out[:, dim] = rest % sizes[dim]
        rest = rest // sizes[dim]
    return out
