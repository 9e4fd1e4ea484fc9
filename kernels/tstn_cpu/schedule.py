"""The order of a block's operations: loads that do not wait for each other come side by side.

Memory does not change between two operations that write, so that loads may come in any order there. What is known of
several of them at once is worth much: neighbours are loaded together.
"""

from __future__ import annotations

from collections.abc import Iterator

from tstn_cpu.ir import Operation

# Operations that write, or hold others that may.
BARRIERS = ("tt.store", "tt.atomic_cas", "scf.for", "scf.if", "scf.while", "tt.return", "scf.yield")


def segments(operations: list[Operation]) -> Iterator[list[Operation]]:
    """Runs of operations that write nothing, runs of sums to memory, and the others one by one.

    Between sums there may be what neither loads nor waits for one of them.
    """
    run: list[Operation] = []
    sums: set[str] = set()
    for op in operations:
        if op.name == "tt.atomic_rmw":
            if run and not sums:
                yield run
                run = []
            if not sums.intersection(op.operands):
                run.append(op)
                sums.update(op.results)
                continue
        if sums:
            if op.name not in (*BARRIERS, "tt.load") and not op.regions and not sums.intersection(op.operands):
                run.append(op)
                continue
            yield run
            run, sums = [], set()
            if op.name == "tt.atomic_rmw":
                run.append(op)
                sums.update(op.results)
                continue
        if op.name in BARRIERS or (op.regions and op.name != "tt.reduce"):
            if run:
                yield run
            yield [op]
            run = []
        else:
            run.append(op)
    if run:
        yield run


ACCESSES = ("tt.load", "tt.atomic_rmw")


def rounds(run: list[Operation]) -> Iterator[list[Operation]]:
    """What is ready, in turn: others as soon as they can, then all loads, or all sums to memory, that are ready."""
    waiting = list(run)
    missing = {name for op in run for name in op.results}
    while waiting:
        loads, later = [], []
        for op in waiting:
            if missing.intersection(op.operands):
                later.append(op)
            elif op.name in ACCESSES:
                loads.append(op)
            else:
                missing.difference_update(op.results)
                yield [op]
        if loads:
            yield loads
        for op in loads:
            missing.difference_update(op.results)
        waiting = later
