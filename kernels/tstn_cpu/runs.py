"""Runs: neighbouring lanes that lie next to each other in memory, found while a kernel runs.

A map that is smooth sends most neighbouring pixels to neighbouring pixels. Lanes i, i + 1, ..., j of a vector whose
elements follow each other in memory are one access with a mask, to the address that lane 0 would have if all lanes
followed each other. Where the offsets are the same, what is known of runs serves all loads and sums that have them: the
taps of a footprint, in all channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tstn_cpu.values import BYTES, REGISTER, register

if TYPE_CHECKING:
    from tstn_cpu.lower import Lowering

# Bytes of a vector register.
VECTOR = 64


@dataclass
class Offsets:
    """Of the lanes of a vector, in elements: their name, type and number."""

    ref: str
    element: str
    count: int


@dataclass
class Runs:
    """The runs among lanes that are on: bits where one begins, and whether there are few enough to be worth it."""

    offsets: Offsets
    # Bits of lanes, as integers.
    on: str
    starts: str
    few: str


def word(count: int) -> str:
    return f"i{count}"


def bits_of(lowering: Lowering, lanes: str, count: int) -> str:
    """A mask as an integer."""
    return lowering.once(f"bitcast <{count} x i1> {lanes} to {word(count)}")


def lanes_of_bits(lowering: Lowering, bits: str, count: int) -> str:
    return lowering.once(f"bitcast {word(count)} {bits} to <{count} x i1>")


def following(lowering: Lowering, offsets: Offsets) -> str:
    """Bits of lanes whose element follows that of the lane before."""
    kind, count = register(offsets.element, offsets.count), offsets.count
    before = lowering.shuffle(offsets.element, offsets.ref, count, [0, *range(count - 1)])
    step = lowering.once(f"sub {kind} {offsets.ref}, {before}")
    one = lowering.splat(offsets.element, "1", count)
    return bits_of(lowering, lowering.once(f"icmp eq {kind} {step}, {one}"), count)


def runs_of(lowering: Lowering, offsets: Offsets, on: str) -> Runs:
    """Those among the lanes whose bits are on."""
    count = offsets.count
    kind = word(count)
    shifted = lowering.once(f"shl {kind} {on}, 1")
    goes_on = lowering.once(f"and {kind} {following(lowering, offsets)}, {shifted}")
    new = lowering.once(f"xor {kind} {goes_on}, -1")
    starts = lowering.once(f"and {kind} {on}, {new}")
    number = lowering.once(f"call {kind} @llvm.ctpop.{kind}({kind} {starts})")
    lowering.declared.add(f"declare {kind} @llvm.ctpop.{kind}({kind})")
    few = lowering.once(f"icmp ule {kind} {number}, {count // 6}")
    return Runs(offsets, on, starts, few)


def place_of(lowering: Lowering, ref: str, element: str, count: int) -> str:
    """Room on the stack that holds a vector."""
    key = f"stored {register(element, count)} {ref}"
    place = lowering.recall(key)
    if place is None:
        place = lowering.room(count, REGISTER[element])
        lowering.line(f"store {register(element, count)} {ref}, ptr {place}")
        lowering.remember(key, place)
    return place


class Walk:
    """A loop over the runs of some lanes of a vector that fit into a register, while it is written."""

    def __init__(self, lowering: Lowering, runs: Runs, first: int, lanes: int, carried: list[tuple[str, str]]):
        """``carried`` are types and first values of what the loop changes."""
        self.lowering, self.lanes = lowering, lanes
        offsets, count = runs.offsets, runs.offsets.count
        kind = word(count)
        place = place_of(lowering, offsets.ref, offsets.element, count)

        def part(bits: str) -> str:
            moved = bits if first == 0 else lowering.once(f"lshr {kind} {bits}, {first}")
            if count < 64:
                moved = lowering.once(f"zext {kind} {moved} to i64")
            return moved if lanes >= 64 else lowering.once(f"and i64 {moved}, {2**lanes - 1}")

        on, starts = part(runs.on), part(runs.starts)
        if first:
            # A run that began in lanes before goes on in the first of these.
            begun = lowering.once(f"and i64 {on}, 1")
            starts = lowering.once(f"or i64 {starts}, {begun}")
        self.head, body, self.end = (lowering.label(name) for name in ("runs", "run", "after"))
        entry = lowering.block
        lowering.branch(self.head)
        lowering.begin(self.head)
        self.left, self.rest = lowering.name(), lowering.name()
        self.names = [lowering.name() for _ in carried]
        self.place = len(lowering.lines)
        lowering.lines += [""] * (1 + len(carried))
        self.entry, self.starts, self.carried = entry, starts, carried
        more = lowering.set(f"icmp ne i64 {self.left}, 0")
        lowering.branch_if(more, body, self.end)
        lowering.begin(body)
        lane = lowering.set(f"call i64 @llvm.cttz.i64(i64 {self.left}, i1 true)")
        lowering.declared.add("declare i64 @llvm.cttz.i64(i64, i1)")
        less = lowering.set(f"sub i64 {self.left}, 1")
        lowering.line(f"{self.rest} = and i64 {self.left}, {less}")
        # From where it begins to where the next one does.
        lowest = lowering.set(f"sub i64 0, {self.rest}")
        next_one = lowering.set(f"and i64 {self.rest}, {lowest}")
        before_next = lowering.set(f"sub i64 {next_one}, 1")
        this_one = lowering.set(f"xor i64 {self.left}, {self.rest}")
        from_here = lowering.set(f"sub i64 0, {this_one}")
        mask = lowering.set(f"and i64 {before_next}, {from_here}")
        mask = lowering.set(f"and i64 {mask}, {on}")
        narrow = lowering.set(f"trunc i64 {mask} to i{lanes}") if lanes < 64 else mask
        self.mask = lowering.set(f"bitcast i{lanes} {narrow} to <{lanes} x i1>")
        at = lowering.set(f"getelementptr {offsets.element}, ptr {place}, i64 {first}")
        at = lowering.set(f"getelementptr {offsets.element}, ptr {at}, i64 {lane}")
        offset = lowering.set(f"load {offsets.element}, ptr {at}")
        if offsets.element != "i64":
            offset = lowering.set(f"sext {offsets.element} {offset} to i64")
        # The offset that lane 0 would have.
        self.offset = lowering.set(f"sub i64 {offset}, {lane}")

    def finish(self, changed: list[str]) -> list[str]:
        """End the loop; what it has changed."""
        lowering = self.lowering
        lowering.branch(self.head)
        leave = lowering.block
        phis = [f"  {self.left} = phi i64 [ {self.starts}, %{self.entry} ], [ {self.rest}, %{leave} ]"]
        for name, (kind, start), after in zip(self.names, self.carried, changed, strict=True):
            phis.append(f"  {name} = phi {kind} [ {start}, %{self.entry} ], [ {after}, %{leave} ]")
        lowering.lines[self.place : self.place + len(phis)] = phis
        lowering.begin(self.end)
        return self.names


def load(lowering: Lowering, runs: Runs, bases: list[str], element: str) -> list[str]:
    """From each of some addresses on, the elements at the runs' offsets; 0 in lanes that are off."""
    kind, size, count = REGISTER[element], BYTES[element], runs.offsets.count
    lanes = min(count, VECTOR // size)
    vector = f"<{lanes} x {kind}>"
    pieces: list[list[str]] = []
    for first in range(0, count, lanes):
        walk = Walk(lowering, runs, first, lanes, [(vector, "zeroinitializer")] * len(bases))
        after = []
        with lowering.region():
            for base, name in zip(bases, walk.names, strict=True):
                at = lowering.set(f"getelementptr {kind}, ptr {base}, i64 {walk.offset}")
                arguments = [("ptr", at), ("i32", str(size)), (f"<{lanes} x i1>", walk.mask), (vector, name)]
                after.append(lowering.masked_load(kind, lanes, arguments))
        pieces.append(walk.finish(after))
    return [lowering.joined(kind, list(parts), lanes) for parts in zip(*pieces, strict=True)]


def add(lowering: Lowering, runs: Runs, sums: list[tuple[str, str]], element: str) -> None:
    """Add to the elements at the runs' offsets; ``sums`` are addresses and the values to add."""
    kind, size, count = REGISTER[element], BYTES[element], runs.offsets.count
    lanes = min(count, VECTOR // size)
    vector = f"<{lanes} x {kind}>"
    for first in range(0, count, lanes):
        parts = [lowering.part(kind, values, count, first, lanes) for _, values in sums]
        walk = Walk(lowering, runs, first, lanes, [])
        with lowering.region():
            for (base, _), part in zip(sums, parts, strict=True):
                at = lowering.set(f"getelementptr {kind}, ptr {base}, i64 {walk.offset}")
                mask = (f"<{lanes} x i1>", walk.mask)
                arguments = [("ptr", at), ("i32", str(size)), mask, (vector, "zeroinitializer")]
                before = lowering.masked_load(kind, lanes, arguments)
                total = lowering.set(f"fadd {vector} {before}, {part}")
                stored = [(vector, total), ("ptr", at), ("i32", str(size)), mask]
                lowering.masked_store(kind, lanes, stored)
        walk.finish([])


class Lanes:
    """A loop over the lanes whose bits are on, in order, while it is written."""

    def __init__(self, lowering: Lowering, offsets: Offsets, bits: str):
        self.lowering = lowering
        place = place_of(lowering, offsets.ref, offsets.element, offsets.count)
        if offsets.count < 64:
            bits = lowering.once(f"zext {word(offsets.count)} {bits} to i64")
        self.head, body, self.end = (lowering.label(name) for name in ("lanes", "lane", "after"))
        self.bits, self.entry = bits, lowering.block
        lowering.branch(self.head)
        lowering.begin(self.head)
        self.left = lowering.name()
        self.place = len(lowering.lines)
        lowering.lines.append("")
        lowering.branch_if(lowering.set(f"icmp ne i64 {self.left}, 0"), body, self.end)
        lowering.begin(body)
        self.lane = lowering.set(f"call i64 @llvm.cttz.i64(i64 {self.left}, i1 true)")
        lowering.declared.add("declare i64 @llvm.cttz.i64(i64, i1)")
        at = lowering.set(f"getelementptr {offsets.element}, ptr {place}, i64 {self.lane}")
        self.offset = lowering.set(f"load {offsets.element}, ptr {at}")

    def finish(self) -> None:
        lowering = self.lowering
        less = lowering.set(f"sub i64 {self.left}, 1")
        rest = lowering.set(f"and i64 {self.left}, {less}")
        lowering.branch(self.head)
        phi = f"phi i64 [ {self.bits}, %{self.entry} ], [ {rest}, %{lowering.block} ]"
        lowering.lines[self.place] = f"  {self.left} = {phi}"
        lowering.begin(self.end)


def add_lanes(lowering: Lowering, offsets: Offsets, bits: str, sums: list[tuple[str, str]], element: str) -> None:
    """Add one lane after the other, for the lanes whose bits are on."""
    places = [place_of(lowering, values, element, offsets.count) for _, values in sums]
    lanes = Lanes(lowering, offsets, bits)
    for (base, _), place in zip(sums, places, strict=True):
        _add_lane(lowering, lanes, offsets, base, place, element)
    lanes.finish()


def _add_lane(lowering: Lowering, lanes: Lanes, offsets: Offsets, base: str, place: str, element: str) -> None:
    """What ``place`` has for this lane, to what lies at its offset."""
    kind, size = REGISTER[element], BYTES[element]
    at = lowering.set(f"getelementptr {kind}, ptr {place}, i64 {lanes.lane}")
    value = lowering.set(f"load {kind}, ptr {at}")
    at = lowering.set(f"getelementptr {kind}, ptr {base}, {offsets.element} {lanes.offset}")
    before = lowering.set(f"load {kind}, ptr {at}, align {size}")
    lowering.line(f"store {kind} {lowering.set(f'fadd {kind} {before}, {value}')}, ptr {at}, align {size}")


# Lanes between two that are added one after the other, where they add to neighbours: a processor waits for what it has
# just written if it reads only a part of it, or more.
APART = 4


def add_pairs(
    lowering: Lowering,
    offsets: Offsets,
    bits: str,
    pairs: list[tuple[tuple[str, str], tuple[str, str]]],
    singles: list[tuple[str, str]],
    element: str,
) -> None:
    """Add two neighbours at once, for the lanes whose bits are on: every fourth lane, then those beside them.

    Addresses and values to add: ``pairs`` have those of the first and the second, ``singles`` have no neighbour.
    """
    kind, size, count = REGISTER[element], BYTES[element], offsets.count
    two = f"<2 x {kind}>"
    order = [lane + second for lane in range(count) for second in (0, count)]
    places = []
    for (_, values), (_, others) in pairs:
        both = lowering.shuffle(kind, values, count, order, others)
        places.append(lowering.room(2 * count, kind))
        lowering.line(f"store <{2 * count} x {kind}> {both}, ptr {places[-1]}")
    own_places = [place_of(lowering, values, element, count) for _, values in singles]
    # Before the loop, which is no place to keep it from one round to the next.
    place_of(lowering, offsets.ref, offsets.element, count)
    entry, head, end = lowering.block, lowering.label("every"), lowering.label("after")
    lowering.branch(head)
    lowering.begin(head)
    which, following_one = lowering.name(), lowering.name()
    at_phi = len(lowering.lines)
    lowering.lines.append("")
    chosen = lowering.set(f"and {word(count)} {bits}, {which}")
    with lowering.region():
        lanes = Lanes(lowering, offsets, chosen)
        for ((base, _), _), place in zip(pairs, places, strict=True):
            at = lowering.set(f"getelementptr {two}, ptr {place}, i64 {lanes.lane}")
            value = lowering.set(f"load {two}, ptr {at}, align {2 * size}")
            at = lowering.set(f"getelementptr {kind}, ptr {base}, {offsets.element} {lanes.offset}")
            before = lowering.set(f"load {two}, ptr {at}, align {size}")
            lowering.line(f"store {two} {lowering.set(f'fadd {two} {before}, {value}')}, ptr {at}, align {size}")
        for (base, _), place in zip(singles, own_places, strict=True):
            _add_lane(lowering, lanes, offsets, base, place, element)
        lanes.finish()
    lowering.line(f"{following_one} = shl {word(count)} {which}, 1")
    first = sum(1 << lane for lane in range(0, count, APART))
    last = (first << (APART - 1)) % 2**count
    lowering.branch_if(lowering.set(f"icmp eq {word(count)} {which}, {last}"), end, head)
    phi = f"phi {word(count)} [ {first}, %{entry} ], [ {following_one}, %{lowering.block} ]"
    lowering.lines[at_phi] = f"  {which} = {phi}"
    lowering.begin(end)


def load_lanes(
    lowering: Lowering, offsets: Offsets, bits: str, loads: list[tuple[str, str, str]], element: str
) -> list[str]:
    """Load one lane after the other; ``loads`` are addresses, bits of lanes that are on, and values of the others."""
    kind, size, count = REGISTER[element], BYTES[element], offsets.count
    places = []
    for _, _, values in loads:
        places.append(lowering.room(count, kind))
        lowering.line(f"store {register(element, count)} {values}, ptr {places[-1]}")
    wide = [lowering.set(f"zext {word(count)} {on} to i64") if count < 64 else on for _, on, _ in loads]
    lanes = Lanes(lowering, offsets, bits)
    for (base, _, _), on, place in zip(loads, wide, places, strict=True):
        own = lowering.set(f"getelementptr {kind}, ptr {place}, i64 {lanes.lane}")
        moved = lowering.set(f"lshr i64 {on}, {lanes.lane}")
        bit = lowering.set(f"trunc i64 {moved} to i1")
        at = lowering.set(f"getelementptr {kind}, ptr {base}, {offsets.element} {lanes.offset}")
        at = lowering.set(f"select i1 {bit}, ptr {at}, ptr {own}")
        value = lowering.set(f"load {kind}, ptr {at}, align {size}")
        lowering.line(f"store {kind} {value}, ptr {own}, align {size}")
    lanes.finish()
    return [lowering.set(f"load {register(element, count)}, ptr {place}") for place in places]
