"""Read a kernel in the form in which Triton prints it, before or after layouts are chosen.

Before, tensors are lanes without a place; after, in Triton's GPU dialect, what is dead is gone, what is invariant has
left its loop, and every access says which lane has which element.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

# Bytes of an element in memory.
SIZES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8}

_TENSOR = re.compile(r"tensor<((?:\d+x)*)([^,]+?)(?:, (.*))?>")
_POINTER = re.compile(r"!tt\.ptr<(\w+)(?:, \d+)?>")
_VALUE = re.compile(r"%[\w.$-]+(?:#\d+)?")
_LOCATION = re.compile(r" loc\(([^()]*)\)$")
_OPERATION = re.compile(r'(?:(%[^=]+?) = )?"?([a-z_]+\.[\w.]+)"?(.*)')


class Type(NamedTuple):
    """A scalar, () in shape, or a tensor with its layout; ``element`` as in "f32", of a pointer what it points at."""

    shape: tuple[int, ...]
    element: str
    pointer: bool
    layout: str


@dataclass
class Operation:
    """One operation: names of values, the text between them, the type of its result or of what it stores."""

    name: str
    results: list[str]
    operands: list[str]
    text: str
    type: Type | None
    # Of its first operand, where that is told beside the result's.
    source: Type | None
    # Where in the source it comes from, innermost.
    place: tuple[str, int] | None
    regions: list[list[Operation]] = field(default_factory=list)
    # Names that a loop's body has for its counter and what it carries.
    inner: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kernel:
    """A parsed kernel: its parameters, operations and the definitions of its layouts."""

    parameters: dict[str, Type]
    body: list[Operation]
    layouts: dict[str, str]


ACCESSES = {"tt.load": "load", "tt.store": "store", "tt.atomic_rmw": "atomic", "tt.atomic_cas": "atomic"}


def parse(text: str) -> Kernel:
    """Read a module of one function, as Triton prints it."""
    lines = text.replace("->", "→").splitlines()
    definitions = dict(line.split(" = ", 1) for line in lines if line.startswith("#"))
    places = _Places(definitions)
    parameters: dict[str, Type] = {}
    body: list[Operation] = []
    # Open operations with regions.
    stack: list[Operation] = []
    block = body
    inside = True
    for raw in lines:
        found = _LOCATION.search(raw)
        line = _LOCATION.sub("", raw).strip()
        if line.startswith("tt.func"):
            # Functions that were not inlined are none of the kernel's.
            inside = " private " not in line
        if not inside:
            continue
        if line.startswith("tt.func"):
            given = re.findall(r"(%\w+): (!tt\.ptr<[^>]*>|\w+)", line)
            parameters = {name: kind for name, text in given if (kind := _type(text))}
        elif line.startswith(("}", "^bb")) and stack:
            if line in ("} else {", "} do {"):
                block = []
                stack[-1].regions.append(block)
            elif line.startswith("}"):
                closed = stack.pop()
                if found and closed.place is None:
                    closed.place = places.resolve(found[1])
                if line.startswith("}) : "):
                    closed.source, closed.type = _types(line[5:])
                block = stack[-1].regions[-1] if stack else body
            else:
                stack[-1].inner = re.findall(r"(%[\w.$-]+): ", line)
        elif parameters and (matched := _OPERATION.match(line)):
            results, name, rest = matched.groups()
            operation = _operation(results, name, rest, places.resolve(found[1]) if found else None)
            block.append(operation)
            if line.endswith("{"):
                stack.append(operation)
                block = []
                operation.regions.append(block)
    if not parameters:
        raise ValueError("text must hold a tt.func with parameters")
    return Kernel(parameters, body, {name: value.replace("→", "->") for name, value in definitions.items()})


def _operation(results: str | None, name: str, rest: str, place: tuple[str, int] | None) -> Operation:
    names: list[str] = []
    for part in (results or "").split(", "):
        base, _, count = part.strip().partition(":")
        if base:
            names += [f"{base}#{i}" for i in range(int(count))] if count else [base]
    inner: list[str] = []
    if name == "scf.for":
        head, _, carried = rest.partition(" iter_args(")
        pairs = re.findall(r"(%[\w.$-]+) = (%[\w.$-]+(?:#\d+)?)", carried.partition(") →")[0])
        inner = [_VALUE.findall(head)[0], *(a for a, _ in pairs)]
        operands = [*_VALUE.findall(head)[1:], *(b for _, b in pairs)]
        return Operation(name, names, operands, rest, None, None, place, [], inner)
    text, types = _cut(rest, " : ")
    source, kind = _types(types)
    if name == "arith.constant" and kind is None:
        # Of a lone truth value no type is told.
        kind = Type((), "i1", False, "")
    return Operation(name, names, _VALUE.findall(text), text, kind, source, place)


def _cut(text: str, separator: str) -> tuple[str, str]:
    """Split at the first separator that is not within brackets."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "<({[") - (character in ">)}]")
        if depth == 0 and text.startswith(separator, i):
            return text[:i], text[i + len(separator) :]
    return text, ""


def _types(text: str) -> tuple[Type | None, Type | None]:
    """Of the first operand, and the type after the arrow or else the first: a pointer's, where it is followed."""
    source, *result = re.split(r" → | to ", text)
    kind = _type(source)
    return (kind, _type(result[-1])) if result else (kind, kind)


def _type(text: str) -> Type | None:
    """The first of several types; None if it is none that is known here."""
    one = _cut(text.strip().strip("()"), ", ")[0]
    tensor = _TENSOR.fullmatch(one)
    shape, element, layout = tensor.groups() if tensor else ("", one, "")
    pointer = _POINTER.fullmatch(element)
    if not pointer and element not in SIZES:
        return None
    size = tuple(int(n) for n in shape.split("x")[:-1])
    return Type(size, pointer[1] if pointer else element, pointer is not None, layout or "")


class _Places:
    """Locations, which refer to each other by name."""

    def __init__(self, definitions: dict[str, str]):
        self._definitions = definitions
        self._resolved: dict[str, tuple[str, int] | None] = {}

    def resolve(self, name: str) -> tuple[str, int] | None:
        """File and line of a location: the innermost where functions were inlined, but for Triton's own."""
        if name not in self._resolved:
            self._resolved[name] = self._resolve(name)
        return self._resolved[name]

    def _resolve(self, name: str) -> tuple[str, int] | None:
        definition = self._definitions.get(name, "")
        if known := re.search(r'"([^"]+)":(\d+):\d+', definition):
            return known[1], int(known[2])
        place = None
        for referred in re.findall(r"#loc\d*", definition):
            place = self.resolve(referred) or place
            if place is not None and "/triton/language/" not in place[0]:
                break
        return place
