"""Loads and stores.

Addresses are a scalar, offsets of lanes, and steps that are known. Where steps follow each other along the last axis,
and nothing else differs there, each row is one access to contiguous memory; else lanes are gathered and scattered.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from tstn_cpu.arithmetic import elementwise
from tstn_cpu.ir import Operation
from tstn_cpu.values import (
    BYTES,
    REGISTER,
    Pointer,
    Shape,
    Tensor,
    broadcast_shapes,
    integers,
    register,
    suffix,
    with_rank,
)

if TYPE_CHECKING:
    from tstn_cpu.lower import Lowering

# Lanes that a mask of one integer holds.
WORD = 64


def add_pointer(lowering: Lowering, pointer: Pointer, offset: Tensor) -> Pointer:
    """What all lanes share goes into the address, in 64 bits; what is known into the steps."""
    rank = len(pointer.shape)
    base, steps, varying = pointer.base, pointer.steps.with_rank(rank), pointer.offset
    if offset.element != "i64" and offset.steps is not None and not offset.steps.are_small:
        offset = lowering.whole(offset)
    if offset.steps is not None:
        steps = steps + offset.steps.with_rank(rank)
    if prod(offset.stored) == 1:
        if offset.ref.lstrip("-").isdigit():
            known = int(offset.ref)
            steps = steps.each(lambda step: step + known)
        else:
            base = lowering.moved(base, pointer.element, offset.ref, offset.element)
    else:
        ref, element = offset.ref, offset.element
        while ref in lowering.sums:
            ref, shared = lowering.sums[ref]
            base = lowering.moved(base, pointer.element, shared, "i64")
        if ref in lowering.narrow:
            ref, element = lowering.narrow[ref], "i32"
        added = Tensor(element, pointer.shape, with_rank(offset.stored, rank), ref)
        varying = added if varying is None else _sum_of_offsets(lowering, varying, added)
    return Pointer(pointer.element, pointer.shape, base, varying, steps, pointer.origin)


def _sum_of_offsets(lowering: Lowering, x: Tensor, y: Tensor) -> Tensor:
    return elementwise(lowering, [_as_i64(lowering, x), _as_i64(lowering, y)], "i64", "add")


def _as_i64(lowering: Lowering, offset: Tensor) -> Tensor:
    if offset.element == "i64":
        return offset
    count = prod(offset.stored)
    ref = lowering.once(f"sext {register(offset.element, count)} {offset.ref} to {register('i64', count)}")
    return Tensor("i64", offset.shape, offset.stored, ref)


def stored_shape(lowering: Lowering, pointer: Pointer, mask: Tensor | None, others: Sequence[Tensor]) -> Shape:
    """What has to be accessed: the lanes that differ in address, mask or value."""
    rank = len(pointer.shape)
    shapes = [with_rank(pointer.steps.shape, rank)]
    if pointer.offset is not None:
        shapes.append(with_rank(pointer.offset.stored, rank))
    if mask is not None:
        shapes.append(with_rank(lowering.stored(mask), rank))
    shapes += [with_rank(lowering.stored(other), rank) for other in others]
    return broadcast_shapes(*shapes)


def has_rows(pointer: Pointer, stored: Shape) -> bool:
    """Whether lanes lie one after the other in memory along the last axis."""
    if not stored or stored[-1] == 1:
        return False
    if pointer.offset is not None and with_rank(pointer.offset.stored, len(stored))[-1] != 1:
        return False
    values, length = pointer.steps.over(stored).values, stored[-1]
    return all(b == a + 1 for i, (a, b) in enumerate(pairwise(values)) if (i + 1) % length)


def memory_kind(element: str) -> str:
    return "i8" if element == "i1" else REGISTER[element]


def from_memory(lowering: Lowering, element: str, ref: str, count: int) -> str:
    """Truth values lie in bytes."""
    if element != "i1":
        return ref
    zero = lowering.splat("i8", "0", count)
    return lowering.once(f"icmp ne {register('i8', count)} {ref}, {zero}")


def to_memory(lowering: Lowering, element: str, ref: str, count: int) -> str:
    if element != "i1":
        return ref
    return lowering.once(f"zext {register('i1', count)} {ref} to {register('i8', count)}")


def load(lowering: Lowering, pointer: Pointer, mask: Tensor | None, other: Tensor | None) -> Tensor:
    stored = stored_shape(lowering, pointer, mask, [] if other is None or mask is None else [other])
    element, count = pointer.element, prod(stored)
    others = None if other is None or mask is None else lowering.values(other, stored)
    if count == 1:
        ref = _load_one(lowering, pointer, None if mask is None else mask.ref, others)
    elif has_rows(pointer, stored):
        ref = _load_rows(lowering, pointer, mask, others, stored)
    else:
        ref = gathered(lowering, pointer, mask, others, stored)
    return Tensor(element, pointer.shape, stored, ref)


def _load_one(lowering: Lowering, pointer: Pointer, mask: str | None, other: str | None) -> str:
    address = lowering.moved(pointer.base, pointer.element, str(pointer.steps.first), "i64")
    element = pointer.element
    kind = memory_kind(element)
    if mask is None or mask == "true":
        return from_memory(lowering, element, lowering.set(f"load {kind}, ptr {address}, align {BYTES[element]}"), 1)
    address = lowering.set(f"select i1 {mask}, ptr {address}, ptr @zeros")
    value = from_memory(lowering, element, lowering.set(f"load {kind}, ptr {address}, align {BYTES[element]}"), 1)
    if other is None:
        return value
    return lowering.set(f"select i1 {mask}, {REGISTER[element]} {value}, {REGISTER[element]} {other}")


def addresses(lowering: Lowering, pointer: Pointer, stored: Shape) -> list[str]:
    """Of each row's first lane."""
    rows = (*stored[:-1], 1)
    steps = pointer.steps.over(stored).values[:: stored[-1]]
    addresses = []
    count = prod(rows)
    offsets = None if pointer.offset is None else lowering.values(pointer.offset, rows)
    for row in range(count):
        base = pointer.base
        if offsets is not None and pointer.offset is not None:
            element = pointer.offset.element
            index = offsets
            if count > 1:
                index = lowering.once(f"extractelement {register(element, count)} {offsets}, i64 {row}")
            base = lowering.moved(base, pointer.element, index, element)
        addresses.append(lowering.moved(base, pointer.element, str(steps[row]), "i64"))
    return addresses


class Rows:
    """A mask, row by row: a bit for all of a row, or one for each lane."""

    def __init__(self, lowering: Lowering, mask: Tensor | None, stored: Shape):
        self.lowering = lowering
        self.length = stored[-1]
        self.rows = prod(stored[:-1])
        self.bits = self.lanes = None
        if mask is None or mask.ref == "true":
            return
        rank = len(stored)
        mask_stored = with_rank(lowering.stored(mask), rank)
        if mask_stored[-1] == 1:
            self.bits = lowering.values(mask, (*stored[:-1], 1))
        else:
            self.lanes = lowering.values(mask, stored)

    def bit(self, row: int) -> str | None:
        if self.bits is None or self.rows == 1:
            return self.bits
        return self.lowering.once(f"extractelement <{self.rows} x i1> {self.bits}, i64 {row}")

    def of(self, row: int) -> str | None:
        """Of each lane of a row."""
        bit = self.bit(row)
        if bit is not None:
            return self.lowering.splat("i1", bit, self.length)
        if self.lanes is None:
            return None
        return self.lowering.part("i1", self.lanes, self.rows * self.length, row * self.length, self.length)


def _load_rows(lowering: Lowering, pointer: Pointer, mask: Tensor | None, others: str | None, stored: Shape) -> str:
    element, length = pointer.element, stored[-1]
    kind = memory_kind(element)
    vector = f"<{length} x {kind}>"
    rows = Rows(lowering, mask, stored)
    lowering.zeros = max(lowering.zeros, 8 * length)
    pieces = []
    for row, address in enumerate(addresses(lowering, pointer, stored)):
        other = None if others is None else lowering.part(REGISTER[element], others, prod(stored), row * length, length)
        if rows.lanes is not None:
            passed = lowering.splat(kind, "0", length)
            if other is not None and other != "zeroinitializer":
                passed = to_memory(lowering, element, other, length)
            arguments = [
                ("ptr", address),
                ("i32", str(BYTES[element])),
                (f"<{length} x i1>", rows.of(row) or ""),
                (vector, passed),
            ]
            piece = lowering.masked_load(kind, length, arguments)
            pieces.append(from_memory(lowering, element, piece, length))
            continue
        bit = rows.bit(row)
        if bit is not None:
            address = lowering.set(f"select i1 {bit}, ptr {address}, ptr @zeros")
        piece = lowering.set(f"load {vector}, ptr {address}, align {BYTES[element]}")
        piece = from_memory(lowering, element, piece, length)
        if bit is not None and other is not None and other != "zeroinitializer":
            of = register(element, length)
            piece = lowering.set(f"select i1 {bit}, {of} {piece}, {of} {other}")
        pieces.append(piece)
    return lowering.joined(REGISTER[element], pieces, length)


def offsets_of(lowering: Lowering, pointer: Pointer, stored: Shape) -> tuple[str, str]:
    """Of each lane, and their element type."""
    steps = pointer.steps.over(stored)
    if pointer.offset is None:
        return integers(steps.values, "i64"), "i64"
    element = pointer.offset.element
    offset = pointer.offset
    if element == "i32" and max(map(abs, steps.values)) >= 2**24:
        offset = _as_i64(lowering, offset)
        element = "i64"
    values = lowering.values(Tensor(element, offset.shape, offset.stored, offset.ref), stored)
    if not steps:
        return values, element
    return lowering.once(f"add {register(element, prod(stored))} {values}, {integers(steps.values, element)}"), element


def lanes_on(lowering: Lowering, mask: Tensor | None, stored: Shape) -> str:
    if mask is None:
        return lowering.splat("i1", "true", prod(stored))
    return lowering.values(mask, stored)


def uniform_base(lowering: Lowering, pointer: Pointer) -> Pointer:
    """With the largest step in the address, where 64 bits are no cost.

    What is left to be added to offsets of 32 bits is not above 0 then, so that an offset may be the largest there is.
    """
    most = max(pointer.steps.values)
    base = lowering.moved(pointer.base, pointer.element, str(most), "i64")
    steps = pointer.steps.each(lambda step: step - most)
    return Pointer(pointer.element, pointer.shape, base, pointer.offset, steps, pointer.origin)


def gathered(lowering: Lowering, pointer: Pointer, mask: Tensor | None, others: str | None, stored: Shape) -> str:
    pointer = uniform_base(lowering, pointer)
    element, count = pointer.element, prod(stored)
    kind = memory_kind(element)
    lanes = lanes_on(lowering, mask, stored)
    if not lowering.host.gathers:
        return _gather_one_by_one(lowering, pointer, lanes, others, stored)
    offsets, offset_element = offsets_of(lowering, pointer, stored)
    if BYTES[element] >= 4:
        passed = others or lowering.splat(kind, "0", count)
        return masked_gather(
            lowering, kind, pointer.base, kind, offsets, offset_element, lanes, passed, count, BYTES[element]
        )
    value = _gather_narrow(lowering, pointer, offsets, offset_element, lanes, count)
    value = from_memory(lowering, element, value, count)
    if others is None or others == "zeroinitializer":
        return value
    of = register(element, count)
    return lowering.set(f"select <{count} x i1> {lanes}, {of} {value}, {of} {others}")


def masked_gather(
    lowering: Lowering,
    kind: str,
    base: str,
    step: str,
    offsets: str,
    offset_element: str,
    lanes: str,
    passed: str,
    count: int,
    align: int,
) -> str:
    """``kind`` is what is loaded, ``step`` what offsets count."""
    if lowering.host.scatters and offset_element == "i32":
        return _avx512_gather(lowering, kind, base, step, offsets, lanes, passed, count)
    at = lowering.once(f"getelementptr {step}, ptr {base}, {register(offset_element, count)} {offsets}")
    vector = f"<{count} x {kind}>"
    arguments = [(f"<{count} x ptr>", at), ("i32", str(align)), (f"<{count} x i1>", lanes), (vector, passed)]
    return lowering.intrinsic(f"llvm.masked.gather.v{count}{suffix(kind)}.v{count}p0", vector, arguments)


# Of AVX-512's gathers: lanes, and the letters for what is loaded.
AVX512 = {"float": (16, "dps"), "i32": (16, "dpi"), "double": (8, "dpd"), "i64": (8, "dpq")}
STEP_BYTES = {"i8": 1, "i16": 2, "i32": 4, "float": 4, "i64": 8, "double": 8}


def _avx512_gather(
    lowering: Lowering, kind: str, base: str, step: str, offsets: str, lanes: str, passed: str, count: int
) -> str:
    """By name: from a general gather LLVM makes one with twice as wide offsets wherever it has widened them before."""
    size, letters = AVX512[kind]
    name = f"llvm.x86.avx512.mask.gather.{letters}.512"
    # Gathers of 8 values take 8 offsets, those of 16 take 16.
    vector, index, mask = f"<{size} x {kind}>", f"<{size} x i32>", f"<{size} x i1>"
    parts = []
    for first in range(0, count, size):
        many = min(size, count - first)
        pieces = []
        for of, ref in ((kind, passed), ("i32", offsets), ("i1", lanes)):
            piece = lowering.part(of, ref, count, first, many)
            if many < size:
                padding = "zeroinitializer"
                order = [*range(many), *[many] * (size - many)]
                piece = (
                    lowering.shuffle(of, piece, many, order, padding)
                    if many > 1
                    else _padded(lowering, of, piece, size)
                )
            pieces.append(piece)
        arguments = [
            (vector, pieces[0]),
            ("ptr", base),
            (index, pieces[1]),
            (mask, pieces[2]),
            ("i32", str(STEP_BYTES[step])),
        ]
        ref = lowering.intrinsic(name, vector, arguments)
        parts.append(ref if many == size else lowering.part(kind, ref, size, 0, many))
    return lowering.joined(kind, parts, min(size, count))


def _padded(lowering: Lowering, kind: str, ref: str, size: int) -> str:
    return lowering.set(f"insertelement <{size} x {kind}> zeroinitializer, {kind} {ref}, i64 0")


def _gather_narrow(
    lowering: Lowering, pointer: Pointer, offsets: str, offset_element: str, lanes: str, count: int
) -> str:
    """Bytes and half types, from the words of 32 bits that they lie in, which hardware can gather.

    An aligned word that holds one byte of a tensor is no fault to read, and what else is in it does not matter.
    """
    size = BYTES[pointer.element]
    per_word, kind = 4 // size, register(offset_element, count)
    address = lowering.once(f"ptrtoint ptr {pointer.base} to i64")
    beside = lowering.once(f"lshr i64 {lowering.once(f'and i64 {address}, 3')}, {size.bit_length() - 1}")
    aligned = lowering.once(f"call ptr @llvm.ptrmask.p0.i64(ptr {pointer.base}, i64 -4)")
    lowering.declared.add("declare ptr @llvm.ptrmask.p0.i64(ptr, i64)")
    # From the end of that word on, so that an offset of 32 bits that is the largest there is does not overflow.
    beside = lowering.once(f"sub i64 {beside}, {per_word}")
    aligned = lowering.moved(aligned, "i8", "4", "i64")
    if offset_element == "i32":
        beside = lowering.once(f"trunc i64 {beside} to i32")
    from_word = lowering.once(f"add {kind} {offsets}, {lowering.splat(offset_element, beside, count)}")
    shift = lowering.splat(offset_element, str(per_word.bit_length() - 1), count)
    words = lowering.once(f"ashr {kind} {from_word}, {shift}")
    passed = lowering.splat("i32", "0", count)
    word = masked_gather(lowering, "i32", aligned, "i32", words, offset_element, lanes, passed, count, 4)
    place = from_word
    if offset_element == "i64":
        place = lowering.once(f"trunc {kind} {from_word} to {register('i32', count)}")
    wide = register("i32", count)
    place = lowering.once(f"and {wide} {place}, {lowering.splat('i32', str(per_word - 1), count)}")
    place = lowering.once(f"shl {wide} {place}, {lowering.splat('i32', str((8 * size).bit_length() - 1), count)}")
    value = lowering.set(f"lshr {wide} {word}, {place}")
    return lowering.set(f"trunc {wide} {value} to <{count} x i{8 * size}>")


def _gather_one_by_one(lowering: Lowering, pointer: Pointer, lanes: str, others: str | None, stored: Shape) -> str:
    """For hardware that cannot gather: lanes that are masked off read zeros."""
    element, count = pointer.element, prod(stored)
    kind = memory_kind(element)
    offsets, offset_element = offsets_of(lowering, pointer, stored)
    result = "poison"
    for lane in range(count):
        index = lowering.once(f"extractelement {register(offset_element, count)} {offsets}, i64 {lane}")
        bit = lowering.once(f"extractelement <{count} x i1> {lanes}, i64 {lane}")
        address = lowering.moved(pointer.base, element, index, offset_element)
        address = lowering.set(f"select i1 {bit}, ptr {address}, ptr @zeros")
        value = lowering.set(f"load {kind}, ptr {address}, align {BYTES[element]}")
        result = lowering.set(f"insertelement <{count} x {kind}> {result}, {kind} {value}, i64 {lane}")
    result = from_memory(lowering, element, result, count)
    if others is None or others == "zeroinitializer":
        return result
    of = register(element, count)
    return lowering.set(f"select <{count} x i1> {lanes}, {of} {result}, {of} {others}")


def store(lowering: Lowering, op: Operation, pointer: Pointer, value: Tensor, mask: Tensor | None) -> None:
    stored = stored_shape(lowering, pointer, mask, [value])
    lowering.guard(op, pointer, mask, stored)
    element, count = pointer.element, prod(stored)
    kind, size = memory_kind(element), BYTES[element]
    values = to_memory(lowering, element, lowering.values(value, stored), count)
    if count == 1:
        address = lowering.moved(pointer.base, element, str(pointer.steps.first), "i64")
        with when(lowering, None if mask is None else mask.ref):
            lowering.line(f"store {kind} {values}, ptr {address}, align {size}")
    elif has_rows(pointer, stored):
        length = stored[-1]
        rows = Rows(lowering, mask, stored)
        for row, address in enumerate(addresses(lowering, pointer, stored)):
            part = lowering.part(kind, values, count, row * length, length)
            store_row(lowering, kind, size, part, address, rows.of(row), length)
    else:
        _scatter(lowering, pointer, values, lanes_on(lowering, mask, stored), stored)


def store_row(
    lowering: Lowering, kind: str, size: int, part: str, address: str, lanes: str | None, length: int
) -> None:
    vector = f"<{length} x {kind}>"
    if lanes is None:
        lowering.line(f"store {vector} {part}, ptr {address}, align {size}")
        return
    arguments = [(vector, part), ("ptr", address), ("i32", str(size)), (f"<{length} x i1>", lanes)]
    lowering.masked_store(kind, length, arguments)


class when:  # noqa: N801 - used like a function
    """What is done only if a condition holds."""

    def __init__(self, lowering: Lowering, condition: str | None):
        self.lowering, self.condition = lowering, condition

    def __enter__(self) -> None:
        if self.condition in (None, "true"):
            return
        self.end = self.lowering.label("on")
        then = self.lowering.label("if")
        self.lowering.branch_if(str(self.condition), then, self.end)
        self.lowering.begin(then)

    def __exit__(self, *_: object) -> None:
        if self.condition not in (None, "true"):
            self.lowering.branch(self.end)
            self.lowering.begin(self.end)


def _scatter(lowering: Lowering, pointer: Pointer, values: str, lanes: str, stored: Shape) -> None:
    pointer = uniform_base(lowering, pointer)
    element, count = pointer.element, prod(stored)
    kind, size = memory_kind(element), BYTES[element]
    offsets, offset_element = offsets_of(lowering, pointer, stored)
    if size >= 4 and lowering.host.scatters:
        at = lowering.once(f"getelementptr {kind}, ptr {pointer.base}, {register(offset_element, count)} {offsets}")
        arguments = [
            (f"<{count} x {kind}>", values),
            (f"<{count} x ptr>", at),
            ("i32", str(size)),
            (f"<{count} x i1>", lanes),
        ]
        lowering.intrinsic(f"llvm.masked.scatter.v{count}{suffix(kind)}.v{count}p0", "void", arguments)
        return
    body = f"  store {kind} %value, ptr %at, align {size}"
    lane_by_lane(lowering, f"scatter_{kind}", pointer.base, kind, offsets, offset_element, values, lanes, count, body)


def lane_by_lane(
    lowering: Lowering,
    name: str,
    base: str,
    kind: str,
    offsets: str,
    offset_element: str,
    values: str,
    lanes: str,
    count: int,
    body: str,
    old: str | None = None,
) -> None:
    """A loop over the lanes that are on, in their order; ``body`` has %at and %value, and may set %old."""
    name = f"{name}_{offset_element}" + ("_old" if old else "")
    if name not in lowering.helpers:
        lowering.helpers[name] = _lane_loop(name, kind, offset_element, body, old is not None)
    at = lowering.slot(count, offset_element)
    # Not the one of the offsets, which may be of the same type.
    value_slot = lowering.slot(count, kind) + "_value"
    lowering.slots[value_slot] = f"[{count} x {kind}]"
    lowering.line(f"store {register(offset_element, count)} {offsets}, ptr {at}")
    lowering.line(f"store {f'<{count} x {kind}>' if count > 1 else kind} {values}, ptr {value_slot}")
    for first in range(0, count, WORD):
        many = min(WORD, count - first)
        part = lowering.part("i1", lanes, count, first, many)
        bits = lowering.set(f"bitcast <{many} x i1> {part} to i{many}") if many > 1 else part
        if many < WORD:
            bits = lowering.set(f"zext i{many} {bits} to i64")
        place = lowering.once(f"getelementptr {offset_element}, ptr {at}, i64 {first}")
        value_place = lowering.once(f"getelementptr {kind}, ptr {value_slot}, i64 {first}")
        arguments = [("ptr", base), ("ptr", place), ("ptr", value_place), ("i64", bits)]
        if old:
            arguments.append(("ptr", lowering.once(f"getelementptr {kind}, ptr {old}, i64 {first}")))
        lowering.line(f"call void @{name}({', '.join(f'{t} {v}' for t, v in arguments)})")


def _lane_loop(name: str, kind: str, offset_element: str, body: str, keeps_old: bool) -> str:
    keep = (
        f"  %keep = getelementptr {kind}, ptr %olds, i64 %lane\n  store {kind} %old, ptr %keep\n" if keeps_old else ""
    )
    olds = ", ptr %olds" if keeps_old else ""
    return f"""define internal void @{name}(ptr %base, ptr %offsets, ptr %values, i64 %bits{olds}) {{
start:
  %any = icmp ne i64 %bits, 0
  br i1 %any, label %loop, label %end
loop:
  %left = phi i64 [ %bits, %start ], [ %rest, %next ]
  %lane = call i64 @llvm.cttz.i64(i64 %left, i1 true)
  %from = getelementptr {offset_element}, ptr %offsets, i64 %lane
  %offset = load {offset_element}, ptr %from
  %of = getelementptr {kind}, ptr %values, i64 %lane
  %value = load {kind}, ptr %of
  %at = getelementptr {kind}, ptr %base, {offset_element} %offset
{body}
  br label %next
next:
{keep}  %less = sub i64 %left, 1
  %rest = and i64 %left, %less
  %more = icmp ne i64 %rest, 0
  br i1 %more, label %loop, label %end
end:
  ret void
}}
declare i64 @llvm.cttz.i64(i64, i1)"""
