"""How long the first call of a kind takes on a CPU, and the first in a later process.

    python -m bench.cpu_compile                    print it
    python -m bench.cpu_compile --json FILE        and write it down
    python -m bench.cpu_compile --every 10         only every tenth of the ahead-of-time gate's cases

The kernels of the gate's cases are compiled for this CPU, one after the other, into an empty folder; a second process
then loads them. Times are of one core, from a launch to its ready entry, Triton's front end included; importing Triton
and llvmlite, once a process, is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.aot_cases import gate_cases, launches
from tstn import _configs
from tstn._launch import Launch
from tstn._native import ELEMENTS, STRIDES


def main(arguments: list[str] | None = None) -> int:
    """Measure; return the exit status: 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.cpu_compile", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth case")
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.load:
        print(json.dumps(_times(args.every)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = (_in_a_process(args.every, folder) for _ in range(2))
    report = {
        "calls": len(cold["calls"]),
        "import_s": round(warm["import"], 4),
        "first_call_s": _summary(cold["calls"]),
        "first_call_later_s": _summary(warm["calls"]),
        "kernels_compiled": cold["compiled"],
        "kernels_compiled_later": warm["compiled"],
    }
    print(json.dumps(report, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    missed = report["first_call_s"]["median"] > 1.5 or report["first_call_later_s"]["median"] > 0.05
    return int(missed or report["kernels_compiled_later"] > 0)


def _in_a_process(every: int, folder: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.cpu_compile", "--load", "--every", str(every)]
    environment = {**os.environ, "TSTN_CPU_CACHE": folder, "OMP_NUM_THREADS": "1", "TSTN_CPU_CHECK": "0"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _summary(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    tenths = {"median": statistics.median(ordered), "p90": ordered[int(0.9 * (len(ordered) - 1))], "most": ordered[-1]}
    return {name: round(value, 4) for name, value in tenths.items()}


def _calls(every: int) -> Iterator[list[Launch]]:
    """The launches of each pass, forward and backward by themselves: each is what a call waits for."""
    # The cases' tensors have no memory, and are taken for those of the CPU.
    _configs.GPU = _configs.CPU
    for case in gate_cases()[::every]:
        try:
            steps = launches(case)
        except ValueError:
            # An image of 2^32 pixels, of which there is not one but a thousand: too many programs for tiles of a row.
            continue
        for kind in (True, False):
            chosen = [step for step in steps if (step.kernel == "sample_forward_kernel") == kind]
            if chosen:
                yield chosen


def _times(every: int) -> dict[str, Any]:
    start = time.perf_counter()
    import tstn_cpu
    import tstn_kernels
    from tstn_cpu import cache, codegen, frontend

    assert codegen
    assert frontend
    imported = time.perf_counter() - start
    calls = []
    for steps in _calls(every):
        before = len(cache.seconds)
        start = time.perf_counter()
        for step in steps:
            memories = [
                tstn_cpu.Memory(0, ELEMENTS.get(tensor.dtype, "i64"), tuple(tensor.shape), tuple(tensor.stride()))
                for tensor in step.tensors
            ]
            tstn_cpu.compiled(
                getattr(tstn_kernels, step.kernel),
                [*memories, *step.fill, *step.step.numbers],
                step.constexprs,
                leading=len(memories) + len(step.fill),
                specialize=STRIDES,
                exclusive=step.step.order.rows > 0,
            )
        spent = time.perf_counter() - start
        # What an earlier case has compiled says nothing about a first call.
        if len(cache.seconds) > before or not cache.seconds:
            calls.append(spent)
    return {"import": imported, "calls": calls, "compiled": len(cache.seconds)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
