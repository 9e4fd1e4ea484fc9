"""Atomic operations: read, combine, write, one lane after the other."""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING

from tstn_cpu import memory
from tstn_cpu.ir import Operation
from tstn_cpu.values import BYTES, HALVES, REGISTER, Pointer, Shape, Tensor

if TYPE_CHECKING:
    from tstn_cpu.lower import Lowering

ATOMICS = {
    "fadd": "fadd",
    "add": "add",
    "max": "max",
    "min": "min",
    "umax": "umax",
    "umin": "umin",
    "and": "and",
    "or": "or",
    "xor": "xor",
    "exch": "xchg",
}


def atomic(lowering: Lowering, op: Operation, pointer: Pointer, value: Tensor, mask: Tensor | None) -> Tensor | None:
    """Read, combine and write lane by lane, in order; the values from before, if anybody asks for them.

    Where the launch sees to it that no other thread has a share in what this one writes, no bus has to be locked.
    """
    found = re.match(r"\s*(\w+)", op.text)
    kind_of = found[1] if found else ""
    if kind_of not in ATOMICS:
        lowering.refuse(op, f"tt.atomic_rmw {kind_of}")
    # Each lane counts, those too that are the same in all.
    stored = pointer.shape
    wanted = op.results[0] in lowering.used
    element, count = pointer.element, prod(stored)
    kind, size = memory.memory_kind(element), BYTES[element]
    if (
        lowering.exclusive
        and not wanted
        and kind_of == "fadd"
        and element not in HALVES
        and memory.has_rows(pointer, stored)
    ):
        _add_rows(lowering, pointer, lowering.values(value, stored), mask, stored)
        return None
    pointer = memory.uniform_base(lowering, pointer)
    values = memory.to_memory(lowering, element, lowering.values(value, stored), count)
    offsets, offset_element = memory.offsets_of(lowering, pointer, stored)
    lanes = memory.lanes_on(lowering, mask, stored)
    old = lowering.slot(count, f"{kind}") + "_old" if wanted else None
    if old:
        lowering.slots[old] = f"[{count} x {kind}]"
        lowering.line(f"store {f'<{count} x {kind}>'} zeroinitializer, ptr {old}")
    body = _combination(kind_of, element, kind, size, lowering.exclusive)
    name = f"{kind_of}_{element}" + ("_alone" if lowering.exclusive else "")
    memory.lane_by_lane(lowering, name, pointer.base, kind, offsets, offset_element, values, lanes, count, body, old)
    if old is None:
        return None
    loaded = f"load <{count} x {kind}>, ptr {old}" if count > 1 else f"load {kind}, ptr {old}"
    ref = memory.from_memory(lowering, element, lowering.set(loaded), count)
    return Tensor(element, pointer.shape, stored, ref)


def _add_rows(lowering: Lowering, pointer: Pointer, values: str, mask: Tensor | None, stored: Shape) -> None:
    """One row after the other, as two of them may be the same memory."""
    element, length = pointer.element, stored[-1]
    kind, size = REGISTER[element], BYTES[element]
    vector = f"<{length} x {kind}>"
    rows = memory.Rows(lowering, mask, stored)
    instruction = "fadd" if element[0] == "f" else "add"
    for row, address in enumerate(memory.addresses(lowering, pointer, stored)):
        part = lowering.part(kind, values, prod(stored), row * length, length)
        bit = rows.bit(row)
        lanes = None if bit is not None else rows.of(row)
        with memory.when(lowering, bit):
            if lanes is None:
                before = lowering.set(f"load {vector}, ptr {address}, align {size}")
            else:
                arguments = [
                    ("ptr", address),
                    ("i32", str(size)),
                    (f"<{length} x i1>", lanes),
                    (vector, "zeroinitializer"),
                ]
                before = lowering.masked_load(kind, length, arguments)
            after = lowering.set(f"{instruction} {vector} {before}, {part}")
            memory.store_row(lowering, kind, size, after, address, lanes, length)


def _combination(kind_of: str, element: str, kind: str, size: int, exclusive: bool) -> str:
    """What happens to one lane."""
    if element in HALVES and kind_of == "fadd":
        return _half_sum(element, exclusive)
    if not exclusive:
        order = "monotonic" if kind_of == "fadd" else "seq_cst"
        return f"  %old = atomicrmw {ATOMICS[kind_of]} ptr %at, {kind} %value {order}, align {size}"
    lines = [f"  %old = load {kind}, ptr %at, align {size}"]
    if kind_of in ("max", "min", "umax", "umin"):
        predicate = {"max": "sgt", "min": "slt", "umax": "ugt", "umin": "ult"}[kind_of]
        lines += [
            f"  %wins = icmp {predicate} {kind} %value, %old",
            f"  %new = select i1 %wins, {kind} %value, {kind} %old",
        ]
    elif kind_of == "exch":
        lines.append(f"  %new = select i1 true, {kind} %value, {kind} %old")
    else:
        lines.append(f"  %new = {ATOMICS[kind_of]} {kind} %old, %value")
    lines.append(f"  store {kind} %new, ptr %at, align {size}")
    return "\n".join(lines)


def _half_sum(element: str, exclusive: bool) -> str:
    """In float32, rounded to nearest."""
    half = "half" if element == "f16" else "bfloat"
    if element == "f16":
        widen = [
            "  %old_half = bitcast i16 %old to half",
            "  %value_half = bitcast i16 %value to half",
            "  %old_wide = fpext half %old_half to float",
            "  %value_wide = fpext half %value_half to float",
            "  %sum = fadd float %old_wide, %value_wide",
            f"  %sum_half = fptrunc float %sum to {half}",
            f"  %new = bitcast {half} %sum_half to i16",
        ]
    else:
        widen = [
            "  %old_32 = zext i16 %old to i32",
            "  %old_bits = shl i32 %old_32, 16",
            "  %old_wide = bitcast i32 %old_bits to float",
            "  %value_32 = zext i16 %value to i32",
            "  %value_bits = shl i32 %value_32, 16",
            "  %value_wide = bitcast i32 %value_bits to float",
            "  %sum = fadd float %old_wide, %value_wide",
            "  %nan = fcmp uno float %sum, %sum",
            "  %bits_of_sum = bitcast float %sum to i32",
            "  %high = lshr i32 %bits_of_sum, 16",
            "  %odd = and i32 %high, 1",
            "  %bias = add i32 %odd, 32767",
            "  %near = add i32 %bits_of_sum, %bias",
            "  %quiet = or i32 %bits_of_sum, 4194304",
            "  %chosen = select i1 %nan, i32 %quiet, i32 %near",
            "  %top = lshr i32 %chosen, 16",
            "  %new = trunc i32 %top to i16",
        ]
    if exclusive:
        return "\n".join(["  %old = load i16, ptr %at, align 2", *widen, "  store i16 %new, ptr %at, align 2"])
    return "\n".join(
        [
            "  %first = load atomic i16, ptr %at monotonic, align 2",
            "  br label %try",
            "try:",
            "  %old = phi i16 [ %first, %loop ], [ %seen, %try ]",
            *widen,
            "  %pair = cmpxchg ptr %at, i16 %old, i16 %new monotonic monotonic, align 2",
            "  %seen = extractvalue { i16, i1 } %pair, 0",
            "  %done = extractvalue { i16, i1 } %pair, 1",
            "  br i1 %done, label %done_with, label %try",
            "done_with:",
        ]
    )
