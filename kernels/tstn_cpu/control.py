"""Loops and branches.

What a loop carries is stored as what it begins with is, if its body leaves it that way; else the body is written again
for values that are stored more fully.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from tstn_cpu.ir import Operation
from tstn_cpu.values import Pointer, Shape, Steps, Tensor, Value, broadcast_shapes, register, with_rank

if TYPE_CHECKING:
    from tstn_cpu.lower import Lowering


@dataclass
class Form:
    """How a value is stored where control flow meets."""

    # Of a tensor, or of a pointer's offset; None for a pointer without.
    stored: Shape | None
    steps: Steps | None
    # Of a pointer's offset.
    offset_element: str = ""
    # Of a pointer that is checked: the parameter that it comes from, or None if only a run tells.
    origin: int | None = 0


def form_of(lowering: Lowering, value: Value) -> Form:
    if isinstance(value, Tensor):
        return Form(with_rank(value.stored, len(value.shape)), value.steps)
    rank = len(value.shape)
    first = value.steps.first
    steps = value.steps.each(lambda step: step - first)
    origin = 0 if not lowering.checked else value.origin if isinstance(value.origin, int) else None
    if value.offset is None:
        return Form(None, steps, origin=origin)
    return Form(with_rank(value.offset.stored, rank), steps, value.offset.element, origin)


def _same_steps(a: Steps | None, b: Steps | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and a.equals(b))


def common_form(lowering: Lowering, a: Value, b: Value) -> Form:
    """One that holds both."""
    first, second = form_of(lowering, a), form_of(lowering, b)
    return _joined(first, second, isinstance(a, Pointer), len(a.shape))


def _joined(first: Form, second: Form, is_pointer: bool, rank: int) -> Form:
    stored = [with_rank(f.stored, rank) for f in (first, second) if f.stored is not None]
    same = _same_steps(first.steps, second.steps)
    if is_pointer:
        origin = first.origin if first.origin == second.origin else None
        if same:
            element = max(first.offset_element, second.offset_element)
            return Form(broadcast_shapes(*stored) if stored else None, first.steps, element, origin)
        shapes = [with_rank(f.steps.shape, rank) for f in (first, second) if f.steps is not None]
        return Form(broadcast_shapes(*stored, *shapes), Steps((1,) * rank, (0,)), "i64", origin)
    if same:
        return Form(broadcast_shapes(*stored), first.steps)
    shapes = [with_rank(f.steps.shape, rank) for f in (first, second) if f.steps is not None]
    return Form(broadcast_shapes(*stored, *shapes), None)


def parts_in(lowering: Lowering, value: Value, form: Form) -> list[tuple[str, str]]:
    """Types and names of what is stored of a value in some form."""
    if isinstance(value, Tensor):
        assert form.stored is not None
        if form.steps is not None:
            value = Tensor(value.element, value.shape, value.stored, value.ref)
        return [(register(value.element, prod(form.stored)), lowering.values(value, form.stored))]
    pointer = lowering.anchored(value)
    origin = [("i64", str(pointer.origin))] if form.origin is None else []
    if form.stored is None:
        return [("ptr", pointer.base), *origin]
    element, rank = form.offset_element, len(pointer.shape)
    offset = pointer.offset or Tensor(element, pointer.shape, (1,) * rank, "0")
    assert form.steps is not None
    rest = pointer.steps - form.steps
    if offset.element != element:
        count = prod(offset.stored)
        ref = lowering.once(f"sext {register(offset.element, count)} {offset.ref} to {register(element, count)}")
        offset = Tensor(element, offset.shape, offset.stored, ref)
    offset = Tensor(element, pointer.shape, offset.stored, offset.ref, rest if rest else None)
    offsets = (register(element, prod(form.stored)), lowering.values(offset, form.stored))
    return [("ptr", pointer.base), offsets, *origin]


def from_parts(like: Value, names: list[str], form: Form) -> Value:
    """The value that is stored under such names."""
    if isinstance(like, Tensor):
        assert form.stored is not None
        return Tensor(like.element, like.shape, form.stored, names[0], form.steps)
    offset = None
    if form.stored is not None:
        offset = Tensor(form.offset_element, like.shape, form.stored, names[1])
    assert form.steps is not None
    origin = names[-1] if form.origin is None else form.origin
    return Pointer(like.element, like.shape, names[0], offset, form.steps, origin)


def _fits(lowering: Lowering, value: Value, form: Form) -> bool:
    """Whether a value can be stored in a form."""
    joined = _joined(form, form_of(lowering, value), isinstance(value, Pointer), len(value.shape))
    return (
        joined.stored == form.stored
        and _same_steps(joined.steps, form.steps)
        and joined.offset_element == form.offset_element
        and joined.origin == form.origin
    )


def loop(lowering: Lowering, op: Operation) -> list[Value]:
    """``for`` from the first operand to the second, by the third."""
    first, last, step = (lowering.scalar(name) for name in op.operands[:3])
    carried = [lowering.environment[name] for name in op.operands[3:]]
    forms = [form_of(lowering, value) for value in carried]
    while True:
        mark = lowering.mark()
        results = _loop(lowering, op, (first, last, step), carried, forms)
        if results is not None:
            return results
        lowering.go_back(mark)


def _loop(
    lowering: Lowering, op: Operation, bounds: tuple[Tensor, Tensor, Tensor], carried: list[Value], forms: list[Form]
) -> list[Value] | None:
    """None, and wider forms, if the body does not leave what it carries in these forms."""
    first, last, step = bounds
    kind = register(first.element, 1)
    before = [parts_in(lowering, value, form) for value, form in zip(carried, forms, strict=True)]
    head, body, end = (lowering.label(name) for name in ("head", "body", "end"))
    entry = lowering.block
    lowering.branch(head)
    lowering.begin(head)
    counter = lowering.name()
    place = len(lowering.lines)
    names = [[lowering.name() for _ in parts] for parts in before]
    lowering.lines += [""] * (1 + sum(map(len, names)))
    more = lowering.set(f"icmp slt {kind} {counter}, {last.ref}")
    lowering.branch_if(more, body, end)
    lowering.begin(body)
    lowering.environment[op.inner[0]] = Tensor(first.element, (), (), counter)
    inside = [from_parts(value, n, form) for value, n, form in zip(carried, names, forms, strict=True)]
    lowering.environment.update(zip(op.inner[1:], inside, strict=True))
    with lowering.region():
        yielded = lowering.region_values(op.regions[0], "scf.yield")
        fitting = [_fits(lowering, value, form) for value, form in zip(yielded, forms, strict=True)]
        if not all(fitting):
            for i, value in enumerate(yielded):
                rank = len(value.shape)
                forms[i] = _joined(forms[i], form_of(lowering, value), isinstance(value, Pointer), rank)
            return None
        after = [parts_in(lowering, value, form) for value, form in zip(yielded, forms, strict=True)]
        following = lowering.set(f"add {kind} {counter}, {step.ref}")
        lowering.branch(head)
    leave = lowering.block
    phis = [f"  {counter} = phi {kind} [ {first.ref}, %{entry} ], [ {following}, %{leave} ]"]
    for old, new, own in zip(before, after, names, strict=True):
        for (part_kind, start), (_, again), name in zip(old, new, own, strict=True):
            phis.append(f"  {name} = phi {part_kind} [ {start}, %{entry} ], [ {again}, %{leave} ]")
    lowering.lines[place : place + len(phis)] = phis
    lowering.begin(end)
    return inside


def branch(lowering: Lowering, op: Operation) -> list[Value]:
    """``if`` on a scalar; what both branches yield."""
    condition = lowering.scalar(op.operands[0])
    then, other, end = (lowering.label(name) for name in ("then", "else", "join"))
    lowering.branch_if(condition.ref, then, other)
    lowering.begin(then)
    with lowering.region() as known_then:
        yielded = lowering.region_values(op.regions[0], "scf.yield")
    then_block, place = lowering.block, len(lowering.lines)
    lowering.begin(other)
    with lowering.region():
        otherwise = lowering.region_values(op.regions[1], "scf.yield") if len(op.regions) > 1 else []
        forms = [common_form(lowering, a, b) for a, b in zip(yielded, otherwise, strict=True)]
        right = [parts_in(lowering, value, form) for value, form in zip(otherwise, forms, strict=True)]
        lowering.branch(end)
    other_block = lowering.block
    # What the first branch has to do to meet the second's form is known only now.
    after, lowering.lines = lowering.lines[place:], lowering.lines[:place]
    lowering.block = then_block
    with lowering.region(known_then):
        left = [parts_in(lowering, value, form) for value, form in zip(yielded, forms, strict=True)]
        lowering.branch(end)
    lowering.lines += after
    lowering.begin(end)
    results: list[Value] = []
    for value, form, a, b in zip(yielded, forms, left, right, strict=True):
        names = []
        for (kind, one), (_, two) in zip(a, b, strict=True):
            names.append(lowering.set(f"phi {kind} [ {one}, %{then_block} ], [ {two}, %{other_block} ]"))
        results.append(from_parts(value, names, form))
    return results
