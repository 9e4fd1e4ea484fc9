"""Loads and sums of lanes that lie anywhere in memory, but several of them at the same places.

The taps of a linear interpolation lie at p and p + 1 for each lane, and at the same places in all channels, so that the
lanes that are on are the same but for a few at an edge. All that have their offsets in common are done together: run by
run where neighbouring lanes are neighbours in memory, else two neighbouring elements at once. What is left at the edges
is done lane by lane.
"""

from __future__ import annotations

import re
from collections import defaultdict
from math import prod
from typing import TYPE_CHECKING

from tstn_cpu import memory, runs
from tstn_cpu.ir import Operation
from tstn_cpu.runs import Offsets, Runs
from tstn_cpu.values import BYTES, FLOATS, REGISTER, Pointer, Shape, Tensor, register

if TYPE_CHECKING:
    from tstn_cpu.lower import Lowering

# Lanes whose mask is one integer.
MOST_LANES = 64


class Access:
    """A load, or a sum to memory, that may have its offsets in common with others."""

    def __init__(self, lowering: Lowering, op: Operation, pointer: Pointer, mask: Tensor | None, value: Tensor | None):
        """``value`` is what a load gives where it is masked, or what is added."""
        self.op, self.pointer, self.mask, self.value = op, pointer, mask, value
        self.is_load = op.name == "tt.load"
        others = [] if value is None or (self.is_load and mask is None) else [value]
        self.stored: Shape = memory.stored_shape(lowering, pointer, mask, others)
        if not self.is_load:
            self.stored = pointer.shape
        self.count = prod(self.stored)
        self.result: Tensor | None = None

    @property
    def step(self) -> int:
        """From where the offsets lead, in all lanes."""
        return self.pointer.steps.first

    def key(self) -> tuple[object, ...] | None:
        """What those have in common that may be done together; None for what is done by itself."""
        pointer = self.pointer
        lies_anywhere = (
            pointer.offset is not None
            and pointer.element in FLOATS
            and 1 < self.count <= MOST_LANES
            and not memory.has_rows(pointer, self.stored)
            and len(set(pointer.steps.values)) == 1
        )
        if not lies_anywhere or (self.is_load and self.value is not None and self.value.ref not in ("0", ZERO)):
            return None
        assert pointer.offset is not None
        return pointer.element, pointer.offset.ref, pointer.offset.stored, self.stored

    def lanes(self, lowering: Lowering) -> str:
        return memory.lanes_on(lowering, self.mask, self.stored)

    def bits(self, lowering: Lowering) -> str:
        return runs.bits_of(lowering, self.lanes(lowering), self.count)

    def offsets(self, lowering: Lowering) -> Offsets:
        """Without the step, which is the address's."""
        plain = lowering.anchored(self.pointer)
        return Offsets(*memory.offsets_of(lowering, plain, self.stored), self.count)

    def base(self, lowering: Lowering) -> str:
        return lowering.anchored(self.pointer).base

    def finish(self, ref: str) -> None:
        self.result = Tensor(self.pointer.element, self.pointer.shape, self.stored, ref)


# As LLVM's text has 0.0.
ZERO = "0x0000000000000000"


def load_all(lowering: Lowering, loads: list[Access]) -> None:
    """Set each one's result."""
    groups: dict[object, list[Access]] = defaultdict(list)
    for load in loads:
        key = load.key()
        if key is not None:
            groups[key].append(load)
    for group in groups.values():
        if len(group) > 1:
            _load_group(lowering, group)
    for load in loads:
        if load.result is None:
            load.result = memory.load(lowering, load.pointer, load.mask, load.value)


def _combined(lowering: Lowering, instruction: str, bits: list[str], count: int) -> str:
    total = bits[0]
    for other in bits[1:]:
        total = lowering.once(f"{instruction} {runs.word(count)} {total}, {other}")
    return total


def _load_group(lowering: Lowering, group: list[Access]) -> None:
    first = group[0]
    count, element = first.count, first.pointer.element
    kind, vector = runs.word(count), register(element, count)
    masks = list(dict.fromkeys(load.bits(lowering) for load in group))
    on = _combined(lowering, "and", masks, count)
    offsets = first.offsets(lowering)
    slow, loaded = lowering.label("lanes"), lowering.label("loaded")
    results: list[tuple[list[str], str]] = []
    if lowering.host.scatters:
        found = runs.runs_of(lowering, offsets, on)
        fast = lowering.label("by_runs")
        lowering.branch_if(found.few, fast, slow)
        lowering.begin(fast)
        with lowering.region():
            refs = runs.load(lowering, found, [load.base(lowering) for load in group], element)
            lowering.branch(loaded)
        results.append((refs, lowering.block))
    else:
        some = lowering.set(f"icmp ne {kind} {on}, 0")
        results.append((["zeroinitializer"] * len(group), lowering.block))
        lowering.branch_if(some, slow, loaded)
    lowering.begin(slow)
    with lowering.region():
        refs = _load_by_twos(lowering, group, on)
        lowering.branch(loaded)
    results.append((refs, lowering.block))
    lowering.begin(loaded)
    refs = []
    for i in range(len(group)):
        refs.append(lowering.set(f"phi {vector} " + ", ".join(f"[ {found[i]}, %{block} ]" for found, block in results)))
    if len(masks) > 1:
        refs = _load_the_rest(lowering, group, masks, on, refs)
    for load, ref in zip(group, refs, strict=True):
        load.finish(ref)


def _load_the_rest(lowering: Lowering, group: list[Access], masks: list[str], on: str, refs: list[str]) -> list[str]:
    """Lanes in which some are on and others are not."""
    count, element = group[0].count, group[0].pointer.element
    kind, vector = runs.word(count), register(element, count)
    off = lowering.once(f"xor {kind} {on}, -1")
    rest = lowering.once(f"and {kind} {_combined(lowering, 'or', masks, count)}, {off}")
    some = lowering.set(f"icmp ne {kind} {rest}, 0")
    edge, done = lowering.label("edge"), lowering.label("all_loaded")
    before = lowering.block
    lowering.branch_if(some, edge, done)
    lowering.begin(edge)
    with lowering.region():
        loads = [(load.base(lowering), load.bits(lowering), ref) for load, ref in zip(group, refs, strict=True)]
        complete = runs.load_lanes(lowering, group[0].offsets(lowering), rest, loads, element)
        lowering.branch(done)
    edge_end = lowering.block
    lowering.begin(done)
    pairs = zip(refs, complete, strict=True)
    return [lowering.set(f"phi {vector} [ {ref}, %{before} ], [ {full}, %{edge_end} ]") for ref, full in pairs]


def _load_by_twos(lowering: Lowering, group: list[Access], on: str) -> list[str]:
    """Two neighbouring elements of a lane at once where both are wanted; at least one lane is on."""
    lanes = runs.lanes_of_bits(lowering, on, group[0].count)
    refs: dict[int, str] = {}
    places: dict[str, list[int]] = defaultdict(list)
    for i, load in enumerate(group):
        places[load.pointer.base].append(i)
    for same in places.values():
        same.sort(key=lambda i: group[i].step)
        while len(same) > 1:
            i, j = same[:2]
            if group[j].step != group[i].step + 1:
                del same[0]
                continue
            refs[i], refs[j] = _pair(lowering, group[i], lanes, on)
            del same[:2]
    for i, load in enumerate(group):
        if i in refs:
            continue
        # Of three neighbours the one in the middle is loaded twice.
        base, step = load.pointer.base, load.step - 1
        before = next((other for other in group if other.pointer.base == base and other.step == step), None)
        if before is not None:
            refs[i] = _pair(lowering, before, lanes, on)[1]
        else:
            mask = Tensor("i1", load.stored, load.stored, lanes)
            refs[i] = memory.gathered(lowering, load.pointer, mask, None, load.stored)
    return [refs[i] for i in range(len(group))]


def _pair(lowering: Lowering, first: Access, lanes: str, on: str) -> tuple[str, str]:
    """The values of two neighbours in each lane that is on, and 0 in the others."""
    pointer = lowering.anchored(first.pointer)
    element, count = pointer.element, first.count
    offsets = first.offsets(lowering)
    if BYTES[element] == 2 and lowering.host.gathers:
        return _pair_of_halves(lowering, pointer, offsets, lanes)
    kind, size = REGISTER[element], BYTES[element]
    place = _safe_offsets(lowering, offsets, lanes, on)
    parts = []
    for lane in range(count):
        at = lowering.once(f"getelementptr {offsets.element}, ptr {place}, i64 {lane}")
        index = lowering.once(f"load {offsets.element}, ptr {at}")
        address = lowering.moved(pointer.base, element, index, offsets.element)
        parts.append(lowering.set(f"load <2 x {kind}>, ptr {address}, align {size}"))
    both = lowering.joined(kind, parts, 2)
    refs = []
    for i in range(2):
        values = lowering.shuffle(kind, both, 2 * count, range(i, 2 * count, 2))
        vector = f"<{count} x {kind}>"
        refs.append(lowering.set(f"select <{count} x i1> {lanes}, {vector} {values}, {vector} zeroinitializer"))
    return refs[0], refs[1]


def _safe_offsets(lowering: Lowering, offsets: Offsets, lanes: str, on: str) -> str:
    """Room on the stack with the offsets of lanes that are on; the first of them stands for those that are off."""
    count = offsets.count
    kind, word = register(offsets.element, count), runs.word(count)
    first = lowering.once(f"call {word} @llvm.cttz.{word}({word} {on}, i1 true)")
    lowering.declared.add(f"declare {word} @llvm.cttz.{word}({word}, i1)")
    one = lowering.once(f"extractelement {kind} {offsets.ref}, {word} {first}")
    others = lowering.splat(offsets.element, one, count)
    safe = lowering.once(f"select <{count} x i1> {lanes}, {kind} {offsets.ref}, {kind} {others}")
    return runs.place_of(lowering, safe, offsets.element, count)


def _pair_of_halves(lowering: Lowering, pointer: Pointer, offsets: Offsets, lanes: str) -> tuple[str, str]:
    """Two of them are a word, which is gathered."""
    count = offsets.count
    zero = lowering.splat("i32", "0", count)
    word = memory.masked_gather(
        lowering, "i32", pointer.base, "i16", offsets.ref, offsets.element, lanes, zero, count, 2
    )
    wide, narrow = register("i32", count), register("i16", count)
    low = lowering.set(f"trunc {wide} {word} to {narrow}")
    high = lowering.set(f"lshr {wide} {word}, {lowering.splat('i32', '16', count)}")
    return low, lowering.set(f"trunc {wide} {high} to {narrow}")


def can_add_together(lowering: Lowering, access: Access) -> bool:
    """Whether a sum is one of those that are done together."""
    is_sum = re.match(r"\s*fadd\b", access.op.text) is not None and access.pointer.element in ("f32", "f64")
    return lowering.exclusive and is_sum and access.op.results[0] not in lowering.used and access.key() is not None


def add_all(lowering: Lowering, sums: list[Access]) -> None:
    """Add to memory, several at a time; each is one of those that can be."""
    groups: dict[object, list[Access]] = defaultdict(list)
    for access in sums:
        groups[access.key()].append(access)
    for group in groups.values():
        _add_group(lowering, group)


def _add_group(lowering: Lowering, group: list[Access]) -> None:
    """First the lanes that are on in all, then what is left of each."""
    count, element, offsets = group[0].count, group[0].pointer.element, group[0].offsets(lowering)
    masks = list(dict.fromkeys(access.bits(lowering) for access in group))
    on = _combined(lowering, "and", masks, count)
    pairs, singles = _pairs_of(group)
    if not lowering.host.scatters:
        _add_lanes(lowering, pairs, singles, on)
    else:
        found = runs.runs_of(lowering, offsets, on)
        fast, slow, done = (lowering.label(name) for name in ("by_runs", "by_lanes", "added"))
        lowering.branch_if(found.few, fast, slow)
        lowering.begin(fast)
        with lowering.region():
            _add_runs(lowering, pairs, singles, found)
            lowering.branch(done)
        lowering.begin(slow)
        with lowering.region():
            _add_lanes(lowering, pairs, singles, on)
            lowering.branch(done)
        lowering.begin(done)
    if len(masks) == 1:
        return
    word = runs.word(count)
    off = lowering.once(f"xor {word} {on}, -1")
    rest = lowering.once(f"and {word} {_combined(lowering, 'or', masks, count)}, {off}")
    with memory.when(lowering, lowering.set(f"icmp ne {word} {rest}, 0")), lowering.region():
        for mask in masks:
            left = [_sum(lowering, access) for access in group if access.bits(lowering) == mask]
            runs.add_lanes(lowering, offsets, lowering.once(f"and {word} {mask}, {off}"), left, element)


def _pairs_of(group: list[Access]) -> tuple[list[tuple[Access, Access]], list[Access]]:
    """Sums to two neighbouring elements each, and the others."""
    pairs, singles, rest = [], [], list(group)
    while rest:
        first = rest.pop(0)
        second = next((a for a in rest if a.pointer.base == first.pointer.base and a.step == first.step + 1), None)
        if second is None:
            singles.append(first)
        else:
            rest.remove(second)
            pairs.append((first, second))
    return pairs, singles


def _sum(lowering: Lowering, access: Access) -> tuple[str, str]:
    """The address that offsets count from, and what is added."""
    assert access.value is not None
    return access.base(lowering), lowering.values(access.value, access.stored)


def _add_lanes(lowering: Lowering, pairs: list[tuple[Access, Access]], singles: list[Access], on: str) -> None:
    like = (singles or pairs[0])[0]
    offsets, element = like.offsets(lowering), like.pointer.element
    alone = [_sum(lowering, access) for access in singles]
    if pairs:
        both = [(_sum(lowering, first), _sum(lowering, second)) for first, second in pairs]
        runs.add_pairs(lowering, offsets, on, both, alone, element)
    else:
        runs.add_lanes(lowering, offsets, on, alone, element)


def _add_runs(lowering: Lowering, pairs: list[tuple[Access, Access]], singles: list[Access], found: Runs) -> None:
    """What the second of a pair adds in one lane of a run, the first adds in the next."""
    like = (singles or pairs[0])[0]
    count, element, offsets = like.count, like.pointer.element, found.offsets
    kind, vector, word = REGISTER[element], register(element, count), runs.word(count)
    goes_on = lowering.once(f"xor {word} {found.starts}, {found.on}")
    lanes = runs.lanes_of_bits(lowering, goes_on, count)
    given = lowering.once(f"lshr {word} {goes_on}, 1")
    left = lowering.once(f"xor {word} {given}, -1")
    left = lowering.once(f"and {word} {found.on}, {left}")
    # A row of the image at a time: all of its channels have the same mask.
    rows: dict[str, list[tuple[Access, Access]]] = defaultdict(list)
    for first, second in pairs:
        rows[first.bits(lowering)].append((first, second))
    for row in rows.values():
        sums, seconds = [], []
        for first, second in row:
            (base, value), (next_base, other) = _sum(lowering, first), _sum(lowering, second)
            moved = lowering.shuffle(kind, other, count, [0, *range(count - 1)])
            more = lowering.set(f"select <{count} x i1> {lanes}, {vector} {moved}, {vector} zeroinitializer")
            sums.append((base, lowering.set(f"fadd {vector} {value}, {more}")))
            seconds.append((next_base, other))
        runs.add(lowering, found, sums, element)
        runs.add_lanes(lowering, offsets, left, seconds, element)
    if singles:
        runs.add(lowering, found, [_sum(lowering, access) for access in singles], element)
