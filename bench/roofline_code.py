"""What a launch compiles to: its operations, its machine code, and how often each instruction runs."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import triton
import tstn_kernels
from triton import knobs
from triton.backends.compiler import GPUTarget
from tstn_cpu.ir import Kernel, parse

from bench.aot_code import SASS_LINE, SASS_WIDTHS, specialize
from tstn._launch import Launch

Place = tuple[str, int]
# Where in the source, and what of ``ACCESSES``.
Site = tuple[Place | None, str]

ACCESS_OPCODES = {"LDG": "load", "STG": "store", "RED": "atomic", "REDG": "atomic", "ATOM": "atomic", "ATOMG": "atomic"}
# Which part of a multiprocessor executes what; all else is the integer and logic unit's.
PIPES = {
    "fp32": ("FADD", "FMUL", "FFMA", "FFMA32I", "HADD2", "HMUL2", "HFMA2"),
    "imad": ("IMAD", "IMUL"),
    "fp64": ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX"),
    # Conversions share a unit with reciprocals, roots, exponentials and sines.
    "sfu": ("MUFU", "I2F", "F2I", "F2F", "I2I", "FRND", "FLO", "POPC"),
    "memory": (*ACCESS_OPCODES, "LDL", "STL"),
    "shared": ("LDS", "STS", "ATOMS", "LDSM", "STSM", "SHFL"),
    # Take an issue slot and none of the above.
    "control": ("BRA", "EXIT", "BSSY", "BSYNC", "BAR", "WARPSYNC", "CALL", "RET", "S2R", "CS2R", "LDC", "NOP", "BREAK"),
}
_PIPE_OF = {opcode: pipe for pipe, opcodes in PIPES.items() for opcode in opcodes}

_SOURCE = re.compile(r'//## File "([^"]+)", line (\d+)')
_LABEL = re.compile(r"^([.$]\S+):$")
_TARGET = re.compile(r"`\((\S+)\)")


class Instruction(NamedTuple):
    """One machine instruction."""

    address: int
    opcode: str
    # Where a branch goes.
    target: int | None
    place: Place | None

    @property
    def pipe(self) -> str:
        """What executes it: a key of ``PIPES``, or "alu"."""
        kind = self.opcode.partition(".")[0]
        return _PIPE_OF.get(kind, "control" if kind.startswith(("U", "R2U")) else "alu")

    @property
    def site(self) -> Site | None:
        """For an access to global memory, where and what."""
        kind = ACCESS_OPCODES.get(self.opcode.partition(".")[0])
        return None if kind is None else (self.place, kind)

    @property
    def width(self) -> int:
        """Bytes per thread of an access."""
        for modifier in self.opcode.split(".")[1:]:
            if modifier in SASS_WIDTHS:
                return int(SASS_WIDTHS[modifier])
            if number := re.fullmatch(r"B?F(\d+)(?:x(\d+))?", modifier):
                return int(number[1]) * int(number[2] or 1) // 8
        return 4


@dataclass(frozen=True)
class Compiled:
    """A kernel, compiled.

    Attributes:
        kernel: Its operations.
        code: Its instructions, without slow paths out of line.
        registers: Per thread.
        shared: Bytes of shared memory per program.
        warps: Per program.
    """

    kernel: Kernel
    code: tuple[Instruction, ...]
    registers: int
    shared: int
    warps: int

    def widths(self) -> dict[Site, int]:
        """Bytes per thread of the accesses of each place, the widest."""
        widths: dict[Site, int] = {}
        for instruction in self.code:
            if site := instruction.site:
                widths[site] = max(widths.get(site, 0), instruction.width)
        return widths

    def executed(self, issues: Mapping[Site, float]) -> Counter[str]:
        """Instructions that a warp executes, by pipe, given how often it issues the accesses of each place."""
        counts: Counter[str] = Counter()
        for instruction, times in zip(self.code, _times(self.code, issues), strict=True):
            counts[instruction.pipe] += times  # pyright: ignore[reportArgumentType] - a Counter adds floats too
        return counts


def compiled(launch: Launch, target: GPUTarget) -> tuple[Compiled, list[int]]:
    """Compile a launch, the same code once per process; the positions of the arguments that the code still has."""
    source, options = specialize(launch, target)
    names = getattr(tstn_kernels, launch.kernel).arg_names[: len(launch.arguments)]
    kept = [i for i, name in enumerate(names) if source.signature[name] != "constexpr"]
    return _compiled(source.hash(), str(options), target, _Uncompared((source, options))), kept


class _Uncompared(tuple):
    """Rides along with a key."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=256)
def _compiled(key: str, option_key: str, target: GPUTarget, given: _Uncompared) -> Compiled:
    source, options = given
    kernel = triton.compile(source, target=target, options=dict(options))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        command = [knobs.nvidia.nvdisasm.path, "-g", "-c", cubin.name]
        dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return read(kernel.asm["ttgir"], dump, kernel.metadata.shared, kernel.metadata.num_warps)


def read(dialect: str, dump: str, shared: int, warps: int) -> Compiled:
    """From Triton's GPU dialect and ``nvdisasm -g -c``'s listing."""
    code = machine_code(dump)
    registers = 1 + max((int(n) for n in re.findall(r"\bR(\d+)\b", dump)), default=0)
    # Registers are given out eight at a time.
    return Compiled(parse(dialect), code, -(-registers // 8) * 8, shared, warps)


def machine_code(dump: str) -> tuple[Instruction, ...]:
    """The instructions of a listing with the source's lines."""
    place: Place | None = None
    labels: dict[str, int] = {}
    waiting: list[str] = []
    rows: list[tuple[int, str, str, Place | None]] = []
    for line in dump.splitlines():
        if source := _SOURCE.search(line):
            place = source[1], int(source[2])
        elif label := _LABEL.match(line.strip()):
            if label[1].startswith("$"):
                # A function that is called where a quick division does not do.
                break
            waiting.append(label[1])
        elif found := SASS_LINE.match(line):
            address = int(found[1], 16)
            labels.update(dict.fromkeys(waiting, address))
            waiting.clear()
            rows.append((address, found[2], found[3], place))
    code = []
    for address, opcode, operands, where in rows:
        target = _TARGET.search(operands) if opcode.startswith("BRA") else None
        goal = labels.get(target[1]) if target else None
        # A kernel ends in a branch to itself and NOPs, which never run.
        if opcode != "NOP" and goal != address:
            code.append(Instruction(address, opcode, goal, where))
    return tuple(code)


def _times(code: tuple[Instruction, ...], issues: Mapping[Site, float]) -> list[float]:
    """How often a warp executes each instruction.

    Once, but for what a loop or a condition decides: accesses are executed as often as the program was seen to make
    them, and what is in one basic block with them as often as they; a block without an access as often as the rarest
    access of the innermost loop around it.
    """
    static = Counter(site for instruction in code if (site := instruction.site))
    leaders = {instruction.target for instruction in code} | {
        after.address for before, after in pairwise(code) if before.target is not None
    }
    blocks: list[list[Instruction]] = []
    for instruction in code:
        if instruction.address in leaders or not blocks:
            blocks.append([])
        blocks[-1].append(instruction)
    loops = [(i.target, i.address) for i in code if i.target is not None and i.target <= i.address]
    loops.sort(key=lambda loop: loop[1] - loop[0])

    known: list[float | None] = []
    for block in blocks:
        sites = [site for instruction in block if (site := instruction.site)]
        known.append(sum(issues.get(site, 0.0) / static[site] for site in sites) / len(sites) if sites else None)
    in_loop: dict[tuple[int, int], list[float]] = defaultdict(list)
    for block, times in zip(blocks, known, strict=True):
        for first, last in loops:
            if times is not None and first <= block[0].address <= last:
                in_loop[first, last].append(times)
    out: list[float] = []
    for block, times in zip(blocks, known, strict=True):
        if times is None:
            around = (in_loop[loop] for loop in loops if loop[0] <= block[0].address <= loop[1])
            times = min(next((found for found in around if found), [1.0]))
        out += [times] * len(block)
    return out
