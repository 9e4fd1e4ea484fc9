"""Write LLVM's text: names, blocks, shuffles, and what is known already."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from math import prod

from tstn_cpu.values import (
    REGISTER,
    Pointer,
    Shape,
    Tensor,
    broadcast_shapes,
    integers,
    lanes_of,
    register,
    strides_of,
    suffix,
    with_rank,
)

# What a name was given to, by what it was made of.
Known = dict[object, str]


class Emitter:
    """The body of one function, while it is written."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        # Of intrinsics and library functions.
        self.declared: set[str] = set()
        # Functions of their own, by name: loops over lanes.
        self.helpers: dict[str, str] = {}
        # Sums of 64 bits, by name: the names of what differs between lanes, and of what does not. A name does not tell
        # of what shape a tensor is: it may have been given another since.
        self.sums: dict[str, tuple[str, str]] = {}
        # Numbers of 64 bits that were made of such of 32, by name.
        self.narrow: dict[str, str] = {}
        # Room on the stack, by name: LLVM's type.
        self.slots: dict[str, str] = {}
        # Bytes of zeros to read in place of what must not be read.
        self.zeros = 64
        self.block = "start"
        # What was computed once need not be again, in this region or one inside of it.
        self._known: list[Known] = [{}]
        self._names = 0

    def line(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def name(self) -> str:
        """A new one for a value."""
        self._names += 1
        return f"%v{self._names}"

    def set(self, text: str) -> str:
        """The name of an instruction's result."""
        name = self.name()
        self.line(f"{name} = {text}")
        return name

    def once(self, text: str) -> str:
        """The same for what depends on nothing but its operands: written once."""
        for known in self._known:
            if text in known:
                return known[text]
        name = self._known[-1][text] = self.set(text)
        return name

    def recall(self, key: str) -> str | None:
        """What was remembered under a key, in this region or around it."""
        return next((known[key] for known in self._known if key in known), None)

    def remember(self, key: str, name: str) -> None:
        self._known[-1][key] = name

    def label(self, kind: str) -> str:
        """A new one for a block."""
        self._names += 1
        return f"{kind}{self._names}"

    def begin(self, label: str) -> None:
        """A block, from here on."""
        self.lines.append(f"{label}:")
        self.block = label

    def branch(self, label: str) -> None:
        self.line(f"br label %{label}")

    def branch_if(self, condition: str, then: str, other: str) -> None:
        self.line(f"br i1 {condition}, label %{then}, label %{other}")

    @contextlib.contextmanager
    def region(self, known: Known | None = None) -> Iterator[Known]:
        """What becomes known inside is forgotten at the end."""
        known = {} if known is None else known
        self._known.append(known)
        try:
            yield known
        finally:
            self._known.pop()

    def mark(self) -> tuple[int, str, Known]:
        """Where the text ends, to come back to."""
        return len(self.lines), self.block, dict(self._known[-1])

    def go_back(self, mark: tuple[int, str, Known]) -> None:
        count, self.block, known = mark
        del self.lines[count:]
        self._known[-1].clear()
        self._known[-1].update(known)

    def slot(self, count: int, element: str) -> str:
        """Room for so many values on the stack; the same for all who ask, as nobody keeps it."""
        name = f"%slot_{element}_{count}"
        self.slots[name] = f"[{count} x {element}]"
        return name

    def room(self, count: int, element: str) -> str:
        """Room for so many values on the stack, which nobody else has."""
        name = f"%room{len(self.slots)}"
        self.slots[name] = f"[{count} x {element}]"
        return name

    def intrinsic(self, name: str, result: str, arguments: Sequence[tuple[str, str]], flags: str = "") -> str:
        """The name of a call's result, or "" if it has none; arguments are types and values."""
        self.declared.add(f"declare {result} @{name}({', '.join(kind for kind, _ in arguments)})")
        call = f"call {flags}{result} @{name}({', '.join(f'{kind} {value}' for kind, value in arguments)})"
        if result == "void":
            self.line(call)
            return ""
        return self.set(call)

    def masked_load(self, kind: str, lanes: int, arguments: Sequence[tuple[str, str]]) -> str:
        """Arguments are address, alignment, mask and what lanes that are off have."""
        return self.intrinsic(f"llvm.masked.load.v{lanes}{suffix(kind)}.p0", f"<{lanes} x {kind}>", arguments)

    def masked_store(self, kind: str, lanes: int, arguments: Sequence[tuple[str, str]]) -> None:
        """Arguments are values, address, alignment and mask."""
        self.intrinsic(f"llvm.masked.store.v{lanes}{suffix(kind)}.p0", "void", arguments)

    def shuffle(self, kind: str, ref: str, count: int, lanes: Sequence[int], other: str = "poison") -> str:
        """Some lanes of one vector, or of two; ``kind`` is the type of a lane."""
        if len(lanes) == 1:
            return self.once(f"extractelement <{count} x {kind}> {ref}, i64 {lanes[0]}")
        vector = f"<{count} x {kind}>"
        mask = integers(lanes)
        return self.once(f"shufflevector {vector} {ref}, {vector} {other}, <{len(lanes)} x i32> {mask}")

    def splat(self, kind: str, ref: str, count: int) -> str:
        if count == 1:
            return ref
        # Literals, which need no instruction.
        if ref[0] != "%":
            return "zeroinitializer" if ref == "0" else "<" + ", ".join([f"{kind} {ref}"] * count) + ">"
        one = self.once(f"insertelement <{count} x {kind}> poison, {kind} {ref}, i64 0")
        return self.once(
            f"shufflevector <{count} x {kind}> {one}, <{count} x {kind}> poison, <{count} x i32> zeroinitializer"
        )

    def part(self, kind: str, ref: str, count: int, first: int, size: int) -> str:
        """Neighbouring lanes of a vector."""
        if size == count:
            return ref
        return self.shuffle(kind, ref, count, range(first, first + size))

    def joined(self, kind: str, refs: Sequence[str], size: int) -> str:
        """Vectors of one size, one after the other; a power of two of them."""
        parts = list(refs)
        if size == 1 and len(parts) > 1:
            result = "poison"
            for lane, part in enumerate(parts):
                result = self.set(f"insertelement <{len(parts)} x {kind}> {result}, {kind} {part}, i64 {lane}")
            return result
        while len(parts) > 1:
            lanes = range(2 * size)
            parts = [self.shuffle(kind, a, size, lanes, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            size *= 2
        return parts[0]

    def spread(self, kind: str, ref: str, have: Shape, want: Shape) -> str:
        """From one stored shape to another, in which it is repeated."""
        have = with_rank(have, len(want))
        if have == want or prod(want) == 1:
            return ref
        if prod(have) == 1:
            return self.splat(kind, ref, prod(want))
        if prod(have) == prod(want):
            return ref
        return self.shuffle(kind, ref, prod(have), lanes_of(want, strides_of(have)))

    def stored(self, tensor: Tensor) -> Shape:
        """The shape that its values take, steps included."""
        if tensor.steps is None:
            return tensor.stored
        rank = len(tensor.shape)
        return broadcast_shapes(with_rank(tensor.stored, rank), with_rank(tensor.steps.shape, rank))

    def values(self, tensor: Tensor, want: Shape) -> str:
        """The name of a tensor's values, in a stored shape that holds them."""
        kind, count = REGISTER[tensor.element], prod(want)
        spread = self.spread(kind, tensor.ref, tensor.stored, want)
        if tensor.steps is None:
            return spread
        steps = tensor.steps.over(want)
        if not steps:
            return spread
        added = integers(steps.values, tensor.element)
        if spread in ("0", "zeroinitializer"):
            return added
        return self.once(f"add {register(tensor.element, count)} {spread}, {added}")

    def whole(self, tensor: Tensor) -> Tensor:
        """Without steps beside it."""
        if tensor.steps is None:
            return tensor
        stored = self.stored(tensor)
        return Tensor(tensor.element, tensor.shape, stored, self.values(tensor, stored))

    def moved(self, base: str, element: str, index: str, kind: str) -> str:
        """An address so many elements further on."""
        if index == "0":
            return base
        memory = "i8" if element == "i1" else REGISTER[element]
        return self.once(f"getelementptr {memory}, ptr {base}, {kind} {index}")

    def anchored(self, pointer: Pointer) -> Pointer:
        """The same, with steps that begin at 0."""
        first = pointer.steps.first
        if not first:
            return pointer
        base = self.moved(pointer.base, pointer.element, str(first), "i64")
        steps = pointer.steps.each(lambda step: step - first)
        return Pointer(pointer.element, pointer.shape, base, pointer.offset, steps, pointer.origin)
