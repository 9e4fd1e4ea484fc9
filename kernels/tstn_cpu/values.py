"""Values of a kernel while it is lowered: scalars, tensors of lanes, and pointers.

A tensor of shape (P, C) that is the same along an axis is stored once: its ``stored`` shape has a 1 there, and one
that is the same in all lanes is a scalar. What follows from the program's id, sizes and strides is computed once for
all lanes then, and once for all programs where it is the same for all of them.

Integers may have ``steps`` beside what is stored: numbers known at compile time, to be added. The columns of a row of
pixels are a scalar and the steps 0, 1, 2, ..., so that a load of them is known to be one from contiguous memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]

# Of an element in a register. Half types are bit patterns there: arithmetic goes by float32.
REGISTER = {
    "i1": "i1",
    "i8": "i8",
    "i16": "i16",
    "i32": "i32",
    "i64": "i64",
    "f16": "i16",
    "bf16": "i16",
    "f32": "float",
    "f64": "double",
}
BYTES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8}
# Types of arguments only: Triton's form tells by operations what is signed.
BYTES |= {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
HALVES = ("f16", "bf16")
FLOATS = (*HALVES, "f32", "f64")


def with_rank(shape: Shape, rank: int) -> Shape:
    """With axes of size 1 before, to have so many."""
    return (1,) * (rank - len(shape)) + shape


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The shape in which all of them fit; axes of size 1 are repeated."""
    rank = max(map(len, shapes))
    return tuple(max(sizes) for sizes in zip(*(with_rank(shape, rank) for shape in shapes), strict=True))


def strides_of(shape: Shape) -> list[int]:
    """From one place to the next along each axis, in row-major order."""
    strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return [0 if size == 1 else stride for size, stride in zip(shape, strides, strict=True)]


def lanes_of(shape: Shape, strides: list[int], first: int = 0) -> list[int]:
    """Places in memory of all elements of a shape, in its order."""
    axes = [[i * stride for i in range(size)] for size, stride in zip(shape, strides, strict=True)]
    return [first + sum(places) for places in itertools.product(*axes)]


# Of steps; see there.
SMALL = 2**24


class Steps:
    """Whole numbers known at compile time, an array of them."""

    __slots__ = ("shape", "values")

    def __init__(self, shape: Shape, values: Iterable[int]):
        self.shape = shape
        self.values = tuple(values)

    @property
    def first(self) -> int:
        return self.values[0]

    def __bool__(self) -> bool:
        """Whether there is any but 0."""
        return any(self.values)

    def over(self, shape: Shape) -> Steps:
        """Repeated to fill a shape."""
        have = with_rank(self.shape, len(shape))
        if have == shape:
            return Steps(shape, self.values)
        return Steps(shape, (self.values[lane] for lane in lanes_of(shape, strides_of(have))))

    def with_rank(self, rank: int) -> Steps:
        return Steps(with_rank(self.shape, rank), self.values)

    def each(self, function: Callable[[int], int]) -> Steps:
        return Steps(self.shape, map(function, self.values))

    def of(self, element: str) -> Steps:
        """As numbers of a type, which begin anew where they end."""
        half = 1 << (8 * BYTES[element] - 1)
        return Steps(self.shape, ((value + half) % (2 * half) - half for value in self.values))

    @property
    def are_small(self) -> bool:
        """Whether a sum with them is taken not to overflow 32 bits: as numbers of places in memory are not meant to."""
        return min(self.values) > -SMALL and max(self.values) < SMALL

    def __add__(self, other: Steps) -> Steps:
        shape = broadcast_shapes(self.shape, other.shape)
        pairs = zip(self.over(shape).values, other.over(shape).values, strict=True)
        return Steps(shape, (a + b for a, b in pairs))

    def __sub__(self, other: Steps) -> Steps:
        return self + other.each(lambda value: -value)

    @property
    def reduced(self) -> Steps:
        """The same with a size of 1 along axes along which nothing changes."""
        steps = self
        for axis, size in enumerate(self.shape):
            if size > 1 and (one := steps.first_along(axis)).equals(steps):
                steps = one
        return steps

    def first_along(self, axis: int) -> Steps:
        """Only those at the beginning of an axis."""
        sizes = self.shape
        inner, size = prod(sizes[axis + 1 :]), sizes[axis]
        values = (value for i, value in enumerate(self.values) if i // inner % size == 0)
        return Steps((*sizes[:axis], 1, *sizes[axis + 1 :]), values)

    def equals(self, other: Steps) -> bool:
        """Whether they are the same where both are repeated."""
        shape = broadcast_shapes(self.shape, other.shape)
        return self.over(shape).values == other.over(shape).values


NO_STEPS = Steps((), (0,))


@dataclass(eq=False)
class Tensor:
    """A scalar, () in shape, or a tensor. ``ref`` is LLVM's name of what is stored."""

    element: str
    shape: Shape
    stored: Shape
    ref: str
    steps: Steps | None = None
    # Whether it is known not to be NaN.
    number: bool = False

    @property
    def is_uniform(self) -> bool:
        """Whether all lanes are the same."""
        return self.steps is None and prod(self.stored) == 1

    @property
    def constant(self) -> int | None:
        """The value of an integer that is the same in all lanes and known."""
        if self.is_uniform and self.element[0] == "i" and self.ref.lstrip("-").isdigit():
            return int(self.ref)
        return None


@dataclass(eq=False)
class Pointer:
    """``base`` plus ``offset`` plus ``steps``, both in elements; () in shape for one address."""

    element: str
    shape: Shape
    base: str
    offset: Tensor | None = None
    steps: Steps = NO_STEPS
    # The kernel's parameter that it comes from, for checks and for what an error says: which, or LLVM's name of that
    # where only a run tells.
    origin: int | str = 0


Value = Tensor | Pointer


def suffix(kind: str) -> str:
    """How the names of intrinsics tell a type."""
    return {"float": "f32", "double": "f64"}.get(kind, kind)


def register(element: str, count: int) -> str:
    """LLVM's type of so many lanes; a scalar's of one."""
    return REGISTER[element] if count == 1 else f"<{count} x {REGISTER[element]}>"


def integers(values: Iterable[int], element: str = "i32") -> str:
    """A constant vector, or a scalar where there is one value."""
    numbers = list(values)
    if len(numbers) == 1:
        return str(numbers[0])
    if not any(numbers):
        return "zeroinitializer"
    return "<" + ", ".join(f"{REGISTER[element]} {number}" for number in numbers) + ">"
