"""Compile a kernel for arguments of some kinds, and run ranges of its programs on several threads.

A launch has ``columns`` times as many programs as it has rows; program ``row * columns + column``. Threads take units
of work: ``rows`` rows of one column, one after the other. Programs that add to the same memory belong to one unit if a
launch is ``exclusive``: then no two threads write there, and sums are always in the same order.

The compiled entry is called with a template, which holds what does not change from call to call: the number of
programs, of columns, and the kernel's arguments in 64 bits each; then the frame of checked mode, the function that
runs a function on several threads, how many, how many rows a unit has, and the leading arguments of the call.
"""

from __future__ import annotations

import array
import ctypes
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tstn_cpu import cache, threads
from tstn_cpu.checks import EXTENT, RECORD, Site, extent
from tstn_cpu.errors import OutOfBoundsError
from tstn_cpu.host import host
from tstn_cpu.values import BYTES, FLOATS

# Of arguments in LLVM's types, as Python calls with them.
C_TYPES = {"ptr": ctypes.c_void_p, "f32": ctypes.c_float, "f64": ctypes.c_double}
# Units of work for each thread: fast ones take from slow ones.
UNITS_PER_THREAD = 4


class Memory(NamedTuple):
    """A tensor, as a kernel sees it: strides in elements, ``element`` as in "f32"."""

    address: int
    element: str
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """A kernel for arguments of some kinds."""

    name: str
    # Of the parameters that are no constexprs and were not compiled in, in order.
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    sites: tuple[Site, ...]
    entry: Callable[..., int]
    leading: int

    def template(self, programs: int, numbers: Mapping[str, Any], columns: int = 1) -> array.array[int]:
        """What does not change from call to call; ``numbers`` are arguments by name."""
        slots = [programs, columns]
        for i, (name, kind) in enumerate(zip(self.names, self.kinds, strict=True)):
            slots.append(0 if i < self.leading else _slot(numbers[name], kind))
        return array.array("q", slots)

    def frame(self, memories: Sequence[Memory]) -> array.array[int]:
        """For checked mode: the extents of the tensors, in the order of the kernel's pointers."""
        numbers = [0] * RECORD
        given = iter(memories)
        for kind in self.kinds:
            if kind == "ptr":
                memory = next(given)
                numbers += extent(memory.shape, memory.strides, BYTES[memory.element])
            else:
                numbers += [0] * EXTENT
        return array.array("q", numbers)

    def error(self, frame: array.array[int]) -> OutOfBoundsError:
        """What a frame says after a launch that failed."""
        _, site, offset, parameter, *_ = frame
        at = self.sites[site]
        article = "an" if at.kind[0] == "a" else "a"
        return OutOfBoundsError(
            f"{self.name}: {article} {at.kind} of {self.names[parameter]} at byte {offset} is outside of the tensor "
            f"(line {at.line} of {at.file})"
        )


def _slot(value: Any, kind: str) -> int:
    """An argument's bits, as a number with a sign."""
    if kind in FLOATS:
        bits = int.from_bytes(struct.pack({"f16": "<e", "f64": "<d"}.get(kind, "<f"), value), "little")
        value = bits >> 16 if kind == "bf16" else bits
    return (int(value) + 2**63) % 2**64 - 2**63


def compiled(
    kernel: Any,
    arguments: Sequence[Any],
    constexprs: Mapping[str, Any],
    *,
    leading: int = 0,
    specialize: Collection[str] | None = None,
    exclusive: bool = False,
    checked: bool = False,
) -> Compiled:
    """A kernel for such arguments, from the disk if it was compiled before.

    Args:
        kernel: A ``@triton.jit`` function.
        arguments: Those that are no constexprs, in order; tensors as :class:`Memory` or ``specialize.Pointer``.
        constexprs: By name.
        leading: How many of the arguments are given anew with each call; they must be no integers.
        specialize: The parameters that are compiled in where they are 1; None: those that Triton would.
        exclusive: See above.
        checked: Hold every access against the extents of the tensors.

    Raises:
        UnsupportedOperationError: Naming an operation that cannot be run on a CPU, and its line.
    """
    from tstn_cpu import codegen
    from tstn_cpu import specialize as specialized

    kinds = [specialized.Pointer(a.element) if isinstance(a, Memory) else a for a in arguments]
    source = specialized.source(kernel, kinds, constexprs, specialize)
    name = kernel.__name__
    options = f"{leading} {exclusive} {checked}"

    def build() -> cache.Entry:
        from tstn_cpu import frontend
        from tstn_cpu.ir import parse
        from tstn_cpu.lower import lower

        parsed = parse(frontend.ttir(source))
        lowered = lower(parsed, name, host(), leading=leading, exclusive=exclusive, checked=checked)
        facts = {
            # Triton's form may call a parameter by another name that it is given in the kernel.
            "names": [name for name, kind in source.signature.items() if kind != "constexpr"],
            "kinds": lowered.kinds,
            "sites": [[s.kind, s.file, s.line] for s in lowered.sites],
        }
        return cache.Entry(facts, codegen.object_code(lowered.text, quick=checked))

    entry = cache.fetch(f"{source.hash()} {options}", name, build)
    facts = entry.facts
    leading_kinds = [C_TYPES[kind] for kind in facts["kinds"][:leading]]
    function = codegen.function(
        codegen.load(entry.code, "launch"),
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64),
        *leading_kinds,
    )
    sites = tuple(Site(*site) for site in facts["sites"])
    return Compiled(name, tuple(facts["names"]), tuple(facts["kinds"]), sites, function, leading)


def rows_of_unit(rows: int, columns: int, many: int) -> int:
    """How many rows a unit has, where programs have nothing in common."""
    if many == 1 or columns >= UNITS_PER_THREAD * many:
        return max(rows, 1)
    return max(1, -(-rows * columns // (UNITS_PER_THREAD * many)))


def launch(
    kernel: Any,
    programs: int,
    arguments: Sequence[Any],
    constexprs: Mapping[str, Any] | None = None,
    *,
    many: int = 1,
    columns: int = 1,
    rows: int | None = None,
    exclusive: bool = False,
    checked: bool = False,
) -> None:
    """Run ``programs`` programs of a kernel on ``many`` threads: compile, bind and call, for those who call once.

    Raises:
        OutOfBoundsError: In checked mode, naming kernel, argument, line and offset, before the access.
        UnsupportedOperationError: Naming an operation that cannot be run on a CPU, and its line.
    """
    leading = 0
    while leading < len(arguments) and isinstance(arguments[leading], Memory):
        leading += 1
    code = compiled(kernel, arguments, constexprs or {}, leading=leading, exclusive=exclusive, checked=checked)
    if programs % columns:
        raise ValueError(f"{programs} programs are no whole rows of {columns}")
    names = [parameter.name for parameter in kernel.params if not parameter.is_constexpr]
    numbers = [argument.address if isinstance(argument, Memory) else argument for argument in arguments]
    template = code.template(programs, dict(zip(names, numbers, strict=True)), columns)
    memories = [argument for argument in arguments if isinstance(argument, Memory)]
    frame = code.frame(memories) if checked else None
    unit = rows or rows_of_unit(programs // columns, columns, many)
    failed = code.entry(
        template.buffer_info()[0],
        None if frame is None else frame.buffer_info()[0],
        threads.team() if many > 1 else None,
        many,
        unit,
        *(memory.address for memory in memories[:leading]),
    )
    if failed and frame is not None:
        raise code.error(frame)
