"""Compile a launch for a GPU that need not be here, and read the machine code."""

from __future__ import annotations

import contextlib
import math
import os
import re
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import triton
import tstn_kernels
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import sm_arch_from_capability
from triton.compiler.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature
from tstn_cpu.frontend import quick_front_end

from bench.aot_cases import Case, launches
from tstn._launch import Launch, warps

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

# Variant and target.
Key = tuple[str, str]
# The variant, its case, which of the case's launches it is, and the target.
Job = tuple[str, Case, int, str]

SASS_LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE)
SASS_WIDTHS = {"U8": "1", "S8": "1", "U16": "2", "S16": "2", "64": "8", "128": "16", "256": "32"}
SASS_BYTES = 16
AMDGCN_LINE = re.compile(r"^\t([a-z]\w+)", re.MULTILINE)
AMDGCN_ACCESS = re.compile(r"(?:global|buffer|flat)_(load|store|atomic)_(\w+)")
AMDGCN_WIDTHS = {
    "byte": "1",
    "ubyte": "1",
    "sbyte": "1",
    "short": "2",
    "ushort": "2",
    "sshort": "2",
    "dword": "4",
    "dwordx2": "8",
    "dwordx3": "12",
    "dwordx4": "16",
}


@dataclass(frozen=True)
class Code:
    """What the machine code of a kernel has, each instruction counted once, also within a loop.

    Attributes:
        registers: Vector registers per thread.
        scalar_registers: Registers per wavefront (AMD).
        spills: Instructions that reach local memory (NVIDIA), or registers spilled (AMD).
        stack: Bytes of local memory per thread.
        loads: Number of loads from global memory by bytes per thread.
        stores: Number of stores to global memory by bytes per thread.
        reductions: Number of atomic operations by form: ``RED.F32x4`` adds four float32 at once, ``ATOM``
            returns the value before, ``CAS`` is a compare-and-swap.
        instructions: Instructions of the kernel, without padding.
        per_element: Instructions times threads of a program over output elements of a program.
    """

    registers: int
    scalar_registers: int
    spills: int
    stack: int
    loads: dict[str, int]
    stores: dict[str, int]
    reductions: dict[str, int]
    instructions: int
    per_element: float


def width(form: str) -> int:
    """Bytes per thread of an access; 0 for a compare-and-swap, which is worse than any reduction."""
    kind, _, operand = form.rpartition(".")
    if not kind:
        return int(operand)
    number = re.fullmatch(r"[A-Z]+(\d+)(?:x(\d+))?", operand)
    return int(number[1]) * int(number[2] or 1) // 8 if number else 0


def specialize(launch: Launch, target: GPUTarget) -> tuple[ASTSource, dict[str, Any]]:
    """A launch's source and compiler options; Triton's own launcher code specialises the arguments."""
    kernel = getattr(tstn_kernels, launch.kernel)
    backend, bind = _launcher(launch.kernel, target)
    keywords = {**launch.constexprs, **launch.options(target.backend, target.warp_size)}
    bound, specialization, options = bind(*launch.arguments, **keywords)
    options, signature, constexprs, attrs = kernel._pack_args(backend, keywords, bound, specialization, options)
    return ASTSource(kernel, signature, constexprs, attrs), options.__dict__


@cache
def _launcher(kernel: str, target: GPUTarget) -> tuple[Any, Any]:
    of = getattr(tstn_kernels, kernel)
    backend = make_backend(target)
    return backend, create_function_from_signature(of.signature, of.params, backend)


@dataclass(frozen=True)
class Cubin:
    """What NVIDIA's compiler made of a launch."""

    content: bytes
    capability: int
    threads_per_element: float


def compiled_code(launch: Launch, target: GPUTarget) -> Code:
    """Compile a launch and read what came out."""
    made = _compiled(launch, target)
    return made if isinstance(made, Code) else _codes([made])[0]


def _compiled(launch: Launch, target: GPUTarget) -> Code | Cubin:
    source, options = specialize(launch, target)
    with quick_front_end():
        kernel = triton.compile(source, target=target, options=options)
    sizes = launch.constexprs
    blocks = ("BLOCK",), ("BLOCK_ROWS", "BLOCK_M"), ("TILE_H", "TILE_W", "BLOCK_C")
    elements = next(math.prod(sizes[name] for name in names) for names in blocks if names[0] in sizes)
    threads_per_element = warps(launch.config, target.warp_size) * target.warp_size / elements
    if target.backend == "hip":
        return amdgcn_code(kernel.asm["amdgcn"], threads_per_element)
    assert isinstance(target.arch, int)
    return Cubin(kernel.asm["cubin"], target.arch, threads_per_element)


def _codes(cubins: Sequence[Cubin]) -> list[Code]:
    """Of cubins for one GPU."""
    dumps = sass([cubin.content for cubin in cubins], cubins[0].capability)
    return [sass_code(dump, cubin.threads_per_element) for dump, cubin in zip(dumps, cubins, strict=True)]


def case_codes(jobs: Sequence[Job]) -> list[tuple[Key, Code | str]]:
    """The code, or why there is none, of each job."""
    made = {(job[0], job[3]): _made(job) for job in jobs}
    codes: dict[Key, Code | str] = {key: code for key, code in made.items() if not isinstance(code, Cubin)}
    for target in TARGETS:
        cubins = {key: code for key, code in made.items() if isinstance(code, Cubin) and key[1] == target}
        if cubins:
            codes.update(zip(cubins, _codes(list(cubins.values())), strict=True))
    return [(key, codes[key]) for key in made]


def _made(job: Job) -> Code | Cubin | str:
    _, case, position, target = job
    launch = launches(case)[position]
    with tempfile.TemporaryFile("w+") as log:
        try:
            with _compiler_output(log.fileno()):
                return _compiled(launch, TARGETS[target])
        except Exception as error:
            # The compiler prints what was wrong, then the whole program, and its exception says nothing.
            log.seek(0)
            return next((line.strip() for line in log if "error: " in line), repr(error))


@contextlib.contextmanager
def _compiler_output(descriptor: int) -> Iterator[None]:
    """Send what native code writes to standard error to another file descriptor."""
    stderr = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def sass(cubins: Sequence[bytes], capability: int) -> list[str]:
    """What ``cuobjdump -res-usage -sass`` says of each cubin, for one GPU.

    The disassembler takes longer to start than for all of a kernel, so it is given the code of all at once.
    """
    codes = [_machine_code(cubin) for cubin in cubins]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code"
        path.write_bytes(b"".join(codes))
        arch = sm_arch_from_capability(capability).replace("sm_", "SM")
        listing = _output(knobs.nvidia.nvdisasm.path, "-b", arch, str(path))
        usages = []
        for cubin in cubins:
            path.write_bytes(cubin)
            usages.append(_output(knobs.nvidia.cuobjdump.path, "-res-usage", str(path)))
    lines = [line[0] for line in SASS_LINE.finditer(listing)]
    counts = [len(code) // SASS_BYTES for code in codes]
    if len(lines) != sum(counts):
        raise ValueError(f"the disassembler found {len(lines)} instructions; got {sum(counts)}")
    rest = iter(lines)
    return ["\n".join([usage, *islice(rest, count)]) for usage, count in zip(usages, counts, strict=True)]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _machine_code(cubin: bytes) -> bytes:
    """Of all functions in an ELF file: its sections that are called .text and so on."""
    (start,), (count, names) = struct.unpack_from("<Q", cubin, 0x28), struct.unpack_from("<HH", cubin, 0x3C)
    # Each has a name's offset, type, flags, address, offset and size.
    sections = [struct.unpack_from("<IIQQQQ", cubin, start + 64 * i) for i in range(count)]
    texts = sections[names][4]
    return b"".join(
        cubin[offset : offset + size]
        for name, _, _, _, offset, size in sections
        if cubin.startswith(b".text.", texts + name)
    )


def sass_code(dump: str, threads_per_element: float) -> Code:
    """Read NVIDIA machine code, as ``cuobjdump -res-usage -sass`` prints it."""
    usage = re.search(r"REG:(\d+) STACK:(\d+)", dump)
    if usage is None:
        raise ValueError("the dump says nothing about registers")
    counts = {"loads": Counter[str](), "stores": Counter[str](), "reductions": Counter[str]()}
    spills = instructions = 0
    for address, opcode, operands in SASS_LINE.findall(dump):
        # A kernel ends in a branch to itself and NOPs, which never run.
        if opcode == "NOP" or (opcode == "BRA" and operands.strip() == f"0x{int(address, 16):x}"):
            continue
        instructions += 1
        kind, *modifiers = opcode.split(".")
        if kind in ("LDL", "STL"):
            spills += 1
        elif kind in ("LDG", "STG"):
            widths = [SASS_WIDTHS[modifier] for modifier in modifiers if modifier in SASS_WIDTHS]
            counts["loads" if kind == "LDG" else "stores"][widths[0] if widths else "4"] += 1
        elif kind in ("RED", "REDG", "ATOM", "ATOMG"):
            operand = next((m for m in modifiers if m == "CAS" or re.fullmatch(r"(B?F|[SU])\d+(x\d+)?", m)), "U32")
            counts["reductions"][f"{kind.removesuffix('G')}.{operand}"] += 1
    return Code(
        registers=int(usage[1]),
        scalar_registers=0,
        spills=spills,
        stack=int(usage[2]),
        **{name: _by_width(forms) for name, forms in counts.items()},
        instructions=instructions,
        per_element=round(instructions * threads_per_element, 3),
    )


def amdgcn_code(assembly: str, threads_per_element: float) -> Code:
    """Read AMD assembly, as Triton returns it."""
    counts = {"loads": Counter[str](), "stores": Counter[str](), "reductions": Counter[str]()}
    instructions = 0
    for opcode in AMDGCN_LINE.findall(assembly.partition("\n.Lfunc_end")[0]):
        if opcode == "s_nop":
            continue
        instructions += 1
        access = AMDGCN_ACCESS.fullmatch(opcode)
        if access is None:
            continue
        if access[1] == "atomic":
            counts["reductions"][_amdgcn_reduction(access[2])] += 1
        else:
            counts[f"{access[1]}s"][AMDGCN_WIDTHS[access[2].partition("_d16")[0]]] += 1

    def field(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", assembly)
        if found is None:
            raise ValueError(f"the assembly's metadata has no {name}")
        return int(found[1])

    return Code(
        registers=field("vgpr_count"),
        scalar_registers=field("sgpr_count"),
        # Scalar registers are spilled to lanes of vector registers, or, if there are none left, to the stack.
        spills=field("vgpr_spill_count"),
        stack=field("private_segment_fixed_size"),
        **{name: _by_width(forms) for name, forms in counts.items()},
        instructions=instructions,
        per_element=round(instructions * threads_per_element, 3),
    )


def _amdgcn_reduction(name: str) -> str:
    """``add_f32`` as RED.F32, ``pk_add_bf16`` as RED.BF16x2."""
    if name.startswith("cmpswap"):
        return "RED.CAS"
    operand = name.split("_")[-1].upper()
    if not re.fullmatch(r"(B?F|[SUI])\d+", operand):
        operand = "U64" if name.endswith("_x2") else "U32"
    return f"RED.{operand}x2" if name.startswith("pk_") else f"RED.{operand}"


def _by_width(forms: Counter[str]) -> dict[str, int]:
    return dict(sorted(forms.items(), key=lambda item: (width(item[0]), item[0])))
