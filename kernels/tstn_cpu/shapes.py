"""Operations that move lanes about, and those that bring them together."""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING

from tstn_cpu.arithmetic import narrowed, widened
from tstn_cpu.ir import Operation
from tstn_cpu.values import (
    HALVES,
    REGISTER,
    Pointer,
    Shape,
    Steps,
    Tensor,
    Value,
    broadcast_shapes,
    lanes_of,
    register,
    strides_of,
    with_rank,
)

if TYPE_CHECKING:
    from tstn_cpu.lower import Lowering


def make_range(op: Operation) -> Tensor:
    start, end = (int(re.findall(rf"{name} = (-?\d+)", op.text)[0]) for name in ("start", "end"))
    return Tensor("i32", (end - start,), (1,), "0", Steps((end - start,), range(start, end)))


def splat(value: Value, shape: Shape) -> Value:
    ones = (1,) * len(shape)
    if isinstance(value, Pointer):
        return Pointer(value.element, shape, value.base, None, Steps(ones, value.steps.values), value.origin)
    steps = None if value.steps is None else Steps(ones, value.steps.values)
    return Tensor(value.element, shape, ones, value.ref, steps, value.number)


def expand_dims(value: Value, axis: int) -> Value:
    def longer(shape: Shape) -> Shape:
        return (*shape[:axis], 1, *shape[axis:])

    return _reshaped(value, longer(value.shape), longer)


def _reshaped(value: Value, shape: Shape, change: object) -> Value:
    """Stored shapes changed as the shape is; what is stored stays."""
    assert callable(change)
    rank = len(value.shape)
    if isinstance(value, Pointer):
        offset = None
        if value.offset is not None:
            offset = _reshaped(value.offset, shape, change)
            assert isinstance(offset, Tensor)
        steps = Steps(change(with_rank(value.steps.shape, rank)), value.steps.values)
        return Pointer(value.element, shape, value.base, offset, steps, value.origin)
    steps = None
    if value.steps is not None:
        steps = Steps(change(with_rank(value.steps.shape, rank)), value.steps.values)
    stored = change(with_rank(value.stored, rank))
    return Tensor(value.element, shape, stored, value.ref, steps, value.number)


def broadcast(value: Value, shape: Shape) -> Value:
    """Nothing to do: what is stored serves all lanes."""
    if isinstance(value, Pointer):
        offset = None if value.offset is None else broadcast(value.offset, shape)
        assert offset is None or isinstance(offset, Tensor)
        return Pointer(value.element, shape, value.base, offset, value.steps, value.origin)
    return Tensor(value.element, shape, value.stored, value.ref, value.steps, value.number)


def reshape(lowering: Lowering, tensor: Tensor, shape: Shape) -> Tensor:
    ones = (1,) * len(shape)
    if prod(tensor.stored) == 1 and tensor.steps is None:
        return Tensor(tensor.element, shape, ones, tensor.ref, number=tensor.number)
    if tensor.steps is not None and prod(tensor.stored) == 1:
        steps = Steps(shape, tensor.steps.over(tensor.shape).values)
        return Tensor(tensor.element, shape, ones, tensor.ref, steps)
    return Tensor(tensor.element, shape, shape, lowering.values(tensor, tensor.shape), number=tensor.number)


def transpose(lowering: Lowering, tensor: Tensor, order: list[int]) -> Tensor:
    tensor = lowering.whole(tensor)
    shape = tuple(tensor.shape[i] for i in order)
    stored = with_rank(tensor.stored, len(order))
    strides = strides_of(stored)
    moved = tuple(stored[i] for i in order)
    return _picked(lowering, tensor, shape, moved, lanes_of(moved, [strides[i] for i in order]))


def _picked(lowering: Lowering, tensor: Tensor, shape: Shape, stored: Shape, lanes: list[int]) -> Tensor:
    """Some of the stored lanes, in some order."""
    count = prod(tensor.stored)
    if count == 1 or lanes == list(range(count)):
        return Tensor(tensor.element, shape, stored, tensor.ref, number=tensor.number)
    ref = lowering.shuffle(REGISTER[tensor.element], tensor.ref, count, lanes)
    return Tensor(tensor.element, shape, stored, ref, number=tensor.number)


def join(lowering: Lowering, x: Tensor, y: Tensor) -> Tensor:
    """Two tensors side by side, along a new last axis."""
    stored = broadcast_shapes(lowering.stored(x), lowering.stored(y))
    count, kind = prod(stored), REGISTER[x.element]
    a, b = lowering.values(x, stored), lowering.values(y, stored)
    if count == 1:
        first = lowering.once(f"insertelement <2 x {kind}> poison, {kind} {a}, i64 0")
        ref = lowering.once(f"insertelement <2 x {kind}> {first}, {kind} {b}, i64 1")
    else:
        lanes = [lane for i in range(count) for lane in (i, i + count)]
        ref = lowering.shuffle(kind, a, count, lanes, b)
    return Tensor(x.element, (*x.shape, 2), (*stored, 2), ref, number=x.number and y.number)


def split(lowering: Lowering, tensor: Tensor) -> list[Tensor]:
    """The two halves of what was joined."""
    tensor = lowering.whole(tensor)
    stored = (*tensor.stored[:-1], 2)
    values = Tensor(tensor.element, tensor.shape, stored, lowering.values(tensor, stored), number=tensor.number)
    places = [list(range(i, prod(stored), 2)) for i in range(2)]
    return [_picked(lowering, values, tensor.shape[:-1], stored[:-1], lanes) for lanes in places]


def concatenate(lowering: Lowering, x: Tensor, y: Tensor, shape: Shape) -> Tensor:
    """One tensor after the other, along the first axis."""
    a, b = lowering.values(x, x.shape), lowering.values(y, y.shape)
    kind, count = REGISTER[x.element], prod(x.shape)
    if count == 1:
        return reshape(lowering, join(lowering, x, y), shape)
    return Tensor(x.element, shape, shape, lowering.shuffle(kind, a, count, list(range(2 * count)), b))


def reduce(lowering: Lowering, op: Operation, operands: list[Tensor]) -> list[Tensor]:
    """Halves of an axis combined until one is left, always in the same order."""
    found = re.search(r"axis = (\d+)", op.text)
    assert found is not None
    axis = int(found[1])
    shape = operands[0].shape
    stored = broadcast_shapes(*(with_rank(lowering.stored(operand), len(shape)) for operand in operands))
    stored = (*stored[:axis], shape[axis], *stored[axis + 1 :])
    values = [Tensor(t.element, shape, stored, lowering.values(t, stored)) for t in operands]
    size = shape[axis]
    while size > 1:
        half = size // 2
        strides = strides_of(stored)
        stored = (*stored[:axis], half, *stored[axis + 1 :])
        shape = (*shape[:axis], half, *shape[axis + 1 :])
        first = lanes_of(stored, strides)
        second = lanes_of(stored, strides, half * strides[axis])
        halves = [_picked(lowering, t, shape, stored, part) for part in (first, second) for t in values]
        lowering.environment.update(zip(op.inner, halves, strict=True))
        combined = lowering.region_values(op.regions[0], "tt.reduce.return")
        values = []
        for t in combined:
            assert isinstance(t, Tensor)
            values.append(Tensor(t.element, shape, stored, lowering.values(t, stored)))
        size = half

    def shorter(s: Shape) -> Shape:
        return (*s[:axis], *s[axis + 1 :])

    return [Tensor(t.element, shorter(shape), shorter(stored), t.ref) for t in values]


def dot(lowering: Lowering, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """A @ b + c, row by row of the result, in float32 or wider; of one pair of matrices, or of several."""
    *batch, rows, inner = a.shape
    columns, count = b.shape[-1], prod(batch)
    element = c.element
    wide = "f32" if element in HALVES else element
    left, right, total = (_as_wide(lowering, t, wide) for t in (a, b, c))
    kind, vector = REGISTER[wide], register(wide, columns)
    is_float = wide[0] == "f"
    all_right, all_left, all_sums = (count * n for n in (inner * columns, rows * inner, rows * columns))
    row_refs = [lowering.part(kind, right, all_right, k * columns, columns) for k in range(count * inner)]
    results = []
    for m in range(count * rows):
        sums = lowering.part(kind, total, all_sums, m * columns, columns)
        for k in range(inner):
            lane = lowering.part(kind, left, all_left, m * inner + k, 1)
            factor = lowering.splat(kind, lane, columns)
            row = row_refs[m // rows * inner + k]
            if is_float:
                suffix = (f"v{columns}" if columns > 1 else "") + wide
                arguments = [(vector, factor), (vector, row), (vector, sums)]
                sums = lowering.intrinsic(f"llvm.fma.{suffix}", vector, arguments)
            else:
                sums = lowering.set(f"add {vector} {lowering.set(f'mul {vector} {factor}, {row}')}, {sums}")
        results.append(sums)
    ref = lowering.joined(kind, results, columns)
    result = Tensor(wide, c.shape, c.shape, ref)
    return narrowed(lowering, result, element) if wide != element else result


def _as_wide(lowering: Lowering, tensor: Tensor, element: str) -> str:
    """All values, in the type that sums have."""
    tensor = widened(lowering, lowering.whole(tensor))
    ref = lowering.values(tensor, tensor.shape)
    if tensor.element == element:
        return ref
    count = prod(tensor.shape)
    instruction = "fpext" if element == "f64" else "sext"
    return lowering.once(f"{instruction} {register(tensor.element, count)} {ref} to {register(element, count)}")
