"""Checked mode: every access is held against the extents of the tensors of the launch.

An extent is what a tensor has of memory: its sizes and strides. What lies between the elements of a strided tensor is
outside as much as what lies beyond them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from tstn_cpu.values import BYTES, Pointer, Shape, Tensor, integers, register

if TYPE_CHECKING:
    from tstn_cpu.lower import Lowering


@dataclass
class Site:
    """An access to memory, as an error names it."""

    kind: str
    file: str
    line: int


# Axes of a tensor that is checked, and numbers that describe it: how many axes, bytes of an element, how far the lowest
# byte is from the first element, sizes and strides.
AXES = 8
EXTENT = 3 + 2 * AXES
# The first numbers of a frame: whether something was outside, where in the code, how far from the tensor's first
# element, and which of the kernel's parameters it was.
RECORD = 4


def extent(shape: Sequence[int], strides: Sequence[int], size: int) -> list[int]:
    """A tensor's, as the checks read it; strides are in elements, ``size`` the bytes of one."""
    pairs = list(zip(shape, strides, strict=True))
    axes = sorted(((n, abs(step)) for n, step in pairs if n > 1 and step), key=lambda axis: -axis[1])
    lowest = size * sum((n - 1) * step for n, step in pairs if step < 0)
    if 0 in shape:
        axes, lowest = [(0, 1)], 0
    reach = 0
    for n, step in reversed(axes):
        if n and step <= reach:
            # Axes that overlap: all between the first and the last element counts as inside.
            axes = [(1 + sum((m - 1) * s for m, s in axes), 1)]
            break
        reach += (n - 1) * step
    if len(axes) > AXES:
        raise ValueError(f"a tensor that is checked has at most {AXES} axes; got {len(axes)}")
    numbers = [number for axis in axes for number in axis]
    return [len(axes), size, lowest, *numbers, *[0] * (2 * AXES - len(numbers))]


def begins(lowering: Lowering) -> None:
    """Keep the addresses of all tensors, for pointers of which only a run tells where they come from."""
    lowering.slots[BEGINS] = f"[{len(lowering.kernel.parameters)} x ptr]"
    for i, kind in enumerate(lowering.kernel.parameters.values()):
        if kind.pointer:
            place = lowering.set(f"getelementptr ptr, ptr {BEGINS}, i64 {i}")
            lowering.line(f"store ptr %a{i}, ptr {place}")


BEGINS = "%begins"


def guard(lowering: Lowering, pointer: Pointer, mask: Tensor | None, stored: Shape, site: int) -> None:
    """Leave the program, with a record of it, if a lane that is on lies outside."""
    count, size = prod(stored), BYTES[pointer.element]
    address = f"%a{pointer.origin}"
    if isinstance(pointer.origin, str):
        place = lowering.once(f"getelementptr ptr, ptr {BEGINS}, i64 {pointer.origin}")
        address = lowering.once(f"load ptr, ptr {place}")
    base = lowering.once(f"ptrtoint ptr {pointer.base} to i64")
    begin = lowering.once(f"ptrtoint ptr {address} to i64")
    distance = lowering.splat("i64", lowering.once(f"sub i64 {base}, {begin}"), count)
    wide = register("i64", count)
    steps = integers(pointer.steps.over(stored).values, "i64")
    elements = steps
    if pointer.offset is not None:
        offset = pointer.offset
        values = lowering.values(Tensor(offset.element, offset.shape, offset.stored, offset.ref), stored)
        if offset.element != "i64":
            values = lowering.once(f"sext {register(offset.element, count)} {values} to {wide}")
        elements = lowering.once(f"add {wide} {values}, {steps}")
    bytes_ = lowering.once(f"mul {wide} {elements}, {lowering.splat('i64', str(size), count)}")
    places = lowering.set(f"add {wide} {bytes_}, {distance}")
    on = lowering.splat("i1", "true", count) if mask is None else lowering.values(mask, stored)
    on = lowering.set(f"zext {register('i1', count)} {on} to {register('i8', count)}")
    place_slot, on_slot = lowering.slot(count, "i64") + "_at", lowering.slot(count, "i8") + "_on"
    lowering.slots[place_slot], lowering.slots[on_slot] = f"[{count} x i64]", f"[{count} x i8]"
    lowering.line(f"store {wide} {places}, ptr {place_slot}")
    lowering.line(f"store {register('i8', count)} {on}, ptr {on_slot}")
    lowering.helpers["outside"] = OUTSIDE
    arguments = (
        f"ptr {place_slot}, ptr {on_slot}, i32 {count}, i64 {size}, ptr %frame, i64 {pointer.origin}, i64 {site}"
    )
    bad = lowering.set(f"call i1 @outside({arguments})")
    leave, stay = lowering.label("leave"), lowering.label("stay")
    lowering.branch_if(bad, leave, stay)
    lowering.begin(leave)
    lowering.line("ret i1 true")
    lowering.begin(stay)


# Whether one of several places, in bytes from a tensor's first element, is not in it. The first thread that finds one
# says so in the frame.
OUTSIDE = f"""define internal i1 @outside(
  ptr %places, ptr %on, i32 %count, i64 %bytes, ptr %frame, i64 %origin, i64 %site
) noinline {{
start:
  %extents = getelementptr i64, ptr %frame, i64 {RECORD}
  %before_it = mul i64 %origin, {EXTENT}
  %extent = getelementptr i64, ptr %extents, i64 %before_it
  %axes = load i64, ptr %extent
  %at_size = getelementptr i64, ptr %extent, i64 1
  %size = load i64, ptr %at_size
  %at_lowest = getelementptr i64, ptr %extent, i64 2
  %lowest = load i64, ptr %at_lowest
  br label %lanes
lanes:
  %lane = phi i32 [ 0, %start ], [ %next_lane, %next ]
  %at_on = getelementptr i8, ptr %on, i32 %lane
  %is_on = load i8, ptr %at_on
  %checked = icmp ne i8 %is_on, 0
  br i1 %checked, label %check, label %next
check:
  %at_place = getelementptr i64, ptr %places, i32 %lane
  %place = load i64, ptr %at_place
  %from_lowest = sub i64 %place, %lowest
  %before = icmp slt i64 %from_lowest, 0
  %first = sdiv i64 %from_lowest, %size
  %past = add i64 %from_lowest, %bytes
  %last_byte = sub i64 %past, 1
  %last = sdiv i64 %last_byte, %size
  br i1 %before, label %bad, label %elements
elements:
  %element = phi i64 [ %first, %check ], [ %next_element, %inside ]
  br label %axes_loop
axes_loop:
  %axis = phi i64 [ 0, %elements ], [ %next_axis, %axis_body ]
  %rest = phi i64 [ %element, %elements ], [ %left, %axis_body ]
  %more = icmp slt i64 %axis, %axes
  br i1 %more, label %axis_body, label %axes_end
axis_body:
  %twice = shl i64 %axis, 1
  %at_axis = getelementptr i64, ptr %at_lowest, i64 %twice
  %at_n = getelementptr i64, ptr %at_axis, i64 1
  %at_stride = getelementptr i64, ptr %at_axis, i64 2
  %n = load i64, ptr %at_n
  %stride = load i64, ptr %at_stride
  %quotient = sdiv i64 %rest, %stride
  %most = sub i64 %n, 1
  %index = call i64 @llvm.smin.i64(i64 %quotient, i64 %most)
  %moved = mul i64 %index, %stride
  %left = sub i64 %rest, %moved
  %next_axis = add i64 %axis, 1
  br label %axes_loop
axes_end:
  %missed = icmp ne i64 %rest, 0
  br i1 %missed, label %bad, label %inside
inside:
  %next_element = add i64 %element, 1
  %more_elements = icmp sle i64 %next_element, %last
  br i1 %more_elements, label %elements, label %next
next:
  %next_lane = add i32 %lane, 1
  %again = icmp slt i32 %next_lane, %count
  br i1 %again, label %lanes, label %good
good:
  ret i1 false
bad:
  %pair = cmpxchg ptr %frame, i64 0, i64 1 monotonic monotonic, align 8
  %is_first = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %is_first, label %record, label %leave
record:
  %at_site = getelementptr i64, ptr %frame, i64 1
  %at_offset = getelementptr i64, ptr %frame, i64 2
  %at_origin = getelementptr i64, ptr %frame, i64 3
  store i64 %site, ptr %at_site
  store i64 %place, ptr %at_offset
  store i64 %origin, ptr %at_origin
  br label %leave
leave:
  ret i1 true
}}
declare i64 @llvm.smin.i64(i64, i64)"""
