"""Loads of lanes that lie anywhere, but whose neighbours in memory are loaded too.

The two taps of a linear interpolation are neighbours: at p and p + 1 for each lane, on or off together but for the few
lanes at an edge. Loading both at once takes half as many accesses, and that is what such a kernel's time goes to. Lanes
that are off load what the first lane that is on does.
"""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import TYPE_CHECKING

from tstn_cpu import memory
from tstn_cpu.ir import Operation
from tstn_cpu.values import BYTES, FLOATS, REGISTER, Pointer, Shape, Tensor, register

if TYPE_CHECKING:
    from tstn_cpu.lower import Lowering

# Lanes whose mask is one integer.
MOST_LANES = 64


class Load:
    """One of several loads, and what it has in common with others."""

    def __init__(self, lowering: Lowering, op: Operation, pointer: Pointer, mask: Tensor | None, other: Tensor | None):
        self.op, self.pointer, self.mask, self.other = op, pointer, mask, other
        self.stored: Shape = memory.stored_shape(lowering, pointer, mask, [] if other is None or mask is None else [other])
        self.count = prod(self.stored)
        self.result: Tensor | None = None

    def can_pair(self, lowering: Lowering) -> bool:
        """Whether lanes lie anywhere, with one step for all."""
        pointer = self.pointer
        return (
            pointer.offset is not None
            and pointer.element in FLOATS
            and 1 < self.count <= MOST_LANES
            and not memory.has_rows(pointer, self.stored)
            and len(set(pointer.steps.values)) == 1
            and (self.other is None or self.other.constant == 0 or self.other.ref in ("0", ZERO))
        )

    def lanes(self, lowering: Lowering) -> str:
        return memory.lanes_on(lowering, self.mask, self.stored)


# As LLVM's text has 0.0.
ZERO = "0x0000000000000000"


def load_all(lowering: Lowering, loads: list[Load]) -> None:
    """Set each one's result: pairs of neighbours together, the others one by one."""
    groups: dict[object, list[Load]] = defaultdict(list)
    for load in loads:
        if load.can_pair(lowering):
            pointer, offset = load.pointer, load.pointer.offset
            assert offset is not None
            groups[pointer.base, pointer.element, offset.ref, offset.stored, load.stored].append(load)
    pairs: dict[tuple[str, str], list[tuple[Load, Load]]] = defaultdict(list)
    for group in groups.values():
        group.sort(key=lambda load: load.pointer.steps.first)
        while len(group) > 1:
            first, second = group[0], group[1]
            if second.pointer.steps.first == first.pointer.steps.first + 1:
                pairs[first.lanes(lowering), second.lanes(lowering)].append((first, second))
                del group[:2]
            else:
                del group[0]
    for (first_lanes, second_lanes), together in pairs.items():
        _load_pairs(lowering, together, first_lanes, second_lanes)
    for load in loads:
        if load.result is None:
            load.result = memory.load(lowering, load.pointer, load.mask, load.other)


def _load_pairs(lowering: Lowering, pairs: list[tuple[Load, Load]], first_lanes: str, second_lanes: str) -> None:
    """Pairs whose masks are the same: together if these agree in all lanes, else one by one."""
    count = pairs[0][0].count
    word = f"i{count}"
    on = lowering.once(f"bitcast <{count} x i1> {first_lanes} to {word}")
    also = lowering.once(f"bitcast <{count} x i1> {second_lanes} to {word}")
    agree = lowering.once(f"icmp eq {word} {on}, {also}")
    some = lowering.once(f"icmp ne {word} {on}, 0")
    both = lowering.once(f"and i1 {agree}, {some}")
    fast, slow, end = (lowering.label(name) for name in ("pairs", "singles", "loaded"))
    lowering.branch_if(both, fast, slow)
    lowering.begin(fast)
    with lowering.region():
        quick = [ref for pair in pairs for ref in _pair(lowering, *pair, first_lanes, on)]
        lowering.branch(end)
    fast_end = lowering.block
    lowering.begin(slow)
    with lowering.region():
        singles = [memory.gathered(lowering, load.pointer, load.mask, None, load.stored) for pair in pairs for load in pair]
        lowering.branch(end)
    slow_end = lowering.block
    lowering.begin(end)
    for load, a, b in zip((load for pair in pairs for load in pair), quick, singles, strict=True):
        kind = register(load.pointer.element, count)
        ref = lowering.set(f"phi {kind} [ {a}, %{fast_end} ], [ {b}, %{slow_end} ]")
        load.result = Tensor(load.pointer.element, load.pointer.shape, load.stored, ref)


def _pair(lowering: Lowering, first: Load, second: Load, lanes: str, on: str) -> tuple[str, str]:
    """The values of two neighbours in each lane that is on, and 0 in the others."""
    del second
    pointer = lowering.anchored(first.pointer)
    element, count = pointer.element, first.count
    offsets, offset_element = memory.offsets_of(lowering, pointer, first.stored)
    if BYTES[element] == 2 and lowering.host.gathers:
        return _pair_of_halves(lowering, pointer, offsets, offset_element, lanes, count)
    kind, size = REGISTER[element], BYTES[element]
    place = _safe_offsets(lowering, offsets, offset_element, lanes, on, count)
    parts = []
    for lane in range(count):
        at = lowering.once(f"getelementptr {offset_element}, ptr {place}, i64 {lane}")
        index = lowering.once(f"load {offset_element}, ptr {at}")
        address = lowering.moved(pointer.base, element, index, offset_element)
        parts.append(lowering.set(f"load <2 x {kind}>, ptr {address}, align {size}"))
    both = lowering.joined(kind, parts, 2)
    zero = "zeroinitializer"
    refs = []
    for i in range(2):
        values = lowering.shuffle(kind, both, 2 * count, range(i, 2 * count, 2))
        refs.append(lowering.set(f"select <{count} x i1> {lanes}, <{count} x {kind}> {values}, <{count} x {kind}> {zero}"))
    return refs[0], refs[1]


def _safe_offsets(lowering: Lowering, offsets: str, offset_element: str, lanes: str, on: str, count: int) -> str:
    """Room on the stack with the offsets of lanes that are on; the first of them stands for those that are off."""
    kind, word = register(offset_element, count), f"i{count}"
    first = lowering.once(f"call {word} @llvm.cttz.{word}({word} {on}, i1 true)")
    lowering.declared.add(f"declare {word} @llvm.cttz.{word}({word}, i1)")
    one = lowering.once(f"extractelement {kind} {offsets}, {word} {first}")
    safe = lowering.once(f"select <{count} x i1> {lanes}, {kind} {offsets}, {kind} {lowering.splat(offset_element, one, count)}")
    known = f"stored {safe}"
    place = lowering.recall(known)
    if place is None:
        place = lowering.room(count, offset_element)
        lowering.line(f"store {kind} {safe}, ptr {place}")
        lowering.remember(known, place)
    return place


def _pair_of_halves(
    lowering: Lowering, pointer: Pointer, offsets: str, offset_element: str, lanes: str, count: int
) -> tuple[str, str]:
    """Two of them are a word, which is gathered."""
    zero = lowering.splat("i32", "0", count)
    word = memory.masked_gather(lowering, "i32", pointer.base, "i16", offsets, offset_element, lanes, zero, count, 2)
    wide, narrow = register("i32", count), register("i16", count)
    low = lowering.set(f"trunc {wide} {word} to {narrow}")
    high = lowering.set(f"lshr {wide} {word}, {lowering.splat('i32', '16', count)}")
    return low, lowering.set(f"trunc {wide} {high} to {narrow}")
