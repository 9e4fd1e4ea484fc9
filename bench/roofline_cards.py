"""GPUs by their data sheets, and the time that each of their limits allows a launch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

# What bounds a launch, in the order in which it is printed.
CEILINGS: tuple[str, ...] = ("dram", "l2", "l1", "issue", "fp32", "int", "sfu", "fp64", "atomics")


@dataclass(frozen=True)
class Card:
    """A GPU. Rates are per cycle of one multiprocessor unless they say otherwise, of threads unless of warps.

    Attributes:
        name: Part of what the driver calls it.
        target: What code is compiled for.
        multiprocessors: How many it has.
        clock: Cycles per second.
        dram: Bytes per second.
        copy_share: The part of that which a large copy reaches.
        l1: Bytes of level-1 cache and shared memory of a multiprocessor.
        l2: Bytes of level-2 cache.
        l2_rate: Bytes per cycle from all of the level-2 cache.
        atomic_rate: Sectors per cycle that atomic operations change in all of the level-2 cache.
        fp32_rate: Additions, multiplications or multiply-adds.
        fp64_rate: The same in float64.
        launch: Seconds from the end of one launch to the beginning of the next.
    """

    name: str
    target: str
    multiprocessors: int
    clock: float
    dram: float
    l2: int
    l1: int
    fp32_rate: int
    fp64_rate: int
    l2_rate: float = 5120.0
    atomic_rate: float = 80.0
    copy_share: float = 0.92
    launch: float = 1e-6
    # The same on all of these: CUDA C++ programming guide, technical specifications and arithmetic throughput.
    registers: int = 65536
    threads: int = 2048
    programs: int = 32
    issue_rate: int = 128
    int_rate: int = 64
    imad_rate: int = 64
    sfu_rate: int = 16

    @property
    def copy(self) -> float:
        """Bytes per second of a large copy."""
        return self.dram * self.copy_share

    def resident(self, registers: int, shared: int, warps: int) -> int:
        """Programs that one multiprocessor has at a time."""
        by_registers = self.registers // max(registers * warps * 32, 1)
        # A kilobyte of shared memory goes with each program.
        by_shared = self.l1 // (shared + 1024)
        return max(1, min(self.programs, self.threads // (warps * 32), by_registers, by_shared))

    def l1_share(self, registers: int, shared: int, warps: int) -> int:
        """Bytes of level-1 cache that each of the resident programs has, if it is dealt out evenly."""
        resident = self.resident(registers, shared, warps)
        return max(self.l1 // resident - shared - 1024, 0)


# Multiprocessors, clocks (from the stated FP32 rate) and memory bandwidth: NVIDIA's data sheets of the H100, the H200
# and the A100 80 GB, SXM. Caches, FP32 and FP64 units: the H100 and A100 architecture white papers.
# Assumptions, not from a data sheet: the H100's level-2 cache moves as many bytes per cycle as the A100 white paper
# states, 5120, from 80 slices; each slice does one sector of atomic operations per cycle; a copy reaches 92 % of DRAM
# bandwidth; launches follow each other at a microsecond.
CARDS: Mapping[str, Card] = {
    "h100": Card("H100", "sm_90", 132, 1.98e9, 3.35e12, 50 * 2**20, 256 * 2**10, 128, 64),
    "h200": Card("H200", "sm_90", 132, 1.98e9, 4.8e12, 50 * 2**20, 256 * 2**10, 128, 64),
    "a100": Card("A100", "sm_80", 108, 1.41e9, 2.039e12, 40 * 2**20, 192 * 2**10, 64, 32),
}


@dataclass(frozen=True)
class Work:
    """What a launch asks of a card, all programs together.

    Attributes:
        programs: How many there are.
        dram_bytes: To and from DRAM.
        l2_bytes: To and from the level-2 cache.
        l1_cycles: Of the level-1 cache, for requests to memory.
        atomic_sectors: Changed in the level-2 cache by atomic operations.
        warp_instructions: By the unit that executes them.
    """

    programs: int
    dram_bytes: float
    l2_bytes: float
    l1_cycles: float = 0.0
    atomic_sectors: float = 0.0
    warp_instructions: Mapping[str, float] | None = None

    def seconds(self, card: Card) -> dict[str, float]:
        """The least time by each of CEILINGS."""
        counts = dict(self.warp_instructions or {})
        # A multiprocessor has a whole number of programs: the fullest decides.
        share = math.ceil(self.programs / card.multiprocessors) / max(self.programs, 1)
        cycle = share / card.clock

        def unit(pipe: str, rate: int) -> float:
            return counts.get(pipe, 0.0) * 32 / rate * cycle

        return {
            "dram": self.dram_bytes / card.copy,
            "l2": self.l2_bytes / (card.l2_rate * card.clock),
            # Shared memory and shuffles go the same way, a warp per cycle.
            "l1": (self.l1_cycles + counts.get("shared", 0.0)) * cycle,
            "issue": sum(counts.values()) * 32 / card.issue_rate * cycle,
            "fp32": unit("fp32", card.fp32_rate) + unit("imad", card.imad_rate),
            "int": unit("alu", card.int_rate),
            "sfu": unit("sfu", card.sfu_rate),
            "fp64": unit("fp64", card.fp64_rate),
            "atomics": self.atomic_sectors / (card.atomic_rate * card.clock),
        }
