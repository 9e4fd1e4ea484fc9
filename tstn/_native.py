"""Launches on the CPU: the kernels, compiled for it by tstn_cpu."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tstn._plan import Step

# With less to compute than this, one thread is done before others have begun.
LEAST_PER_THREAD = 8192
# The elements that memory has, as tstn_cpu names them.
ELEMENTS = {
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float32: "f32",
    torch.float64: "f64",
    torch.int64: "i64",
}
data_ptr = Tensor.data_ptr
# Strides that are compiled in where they are 1: neighbours in memory are then known to be such.
STRIDES = [f"{of}_stride_{axis}" for of in ("output", "input", "grad_output", "grad_input") for axis in "cw"]
# Whether every access is held against the extents of the tensors.
CHECKED = os.environ.get("TSTN_CPU_CHECK", "").lower() in ("1", "true", "yes", "on")


def run(step: Step, tensors: tuple[Tensor, ...], fill: tuple[float, ...]) -> None:
    """Launch a step, on as many threads as PyTorch uses.

    Raises:
        tstn_cpu.OutOfBoundsError: In checked mode, if a kernel would access memory outside of these tensors.
    """
    ready = step.ready.get(CHECKED)
    if ready is None:
        ready = step.ready[CHECKED] = _Ready(step, tensors, fill)
    ready(tensors, fill)


class _Ready:
    """What a step's launches have in common."""

    def __init__(self, step: Step, tensors: Sequence[Tensor], fill: Sequence[float]):
        import tstn_cpu
        import tstn_kernels
        from tstn_cpu import threads

        kernel = getattr(tstn_kernels, step.kernel)
        memories = [tstn_cpu.Memory(0, ELEMENTS[tensor.dtype]) for tensor in tensors]
        arguments = (*memories, *fill, *step.numbers)
        columns, rows = step.order
        self.compiled = tstn_cpu.compiled(
            kernel,
            arguments,
            step.constexprs,
            leading=len(memories) + len(fill),
            specialize=STRIDES,
            exclusive=rows > 0,
            checked=CHECKED,
        )
        names = [parameter.name for parameter in kernel.params if not parameter.is_constexpr]
        self.template = self.compiled.template(step.programs, dict(zip(names, arguments, strict=True)), columns)
        self.address = self.template.buffer_info()[0]
        self.entry = self.compiled.entry
        self.rows = rows
        self.all_rows = step.programs // columns
        self.columns = columns
        self.rows_of_unit, self.team = tstn_cpu.rows_of_unit, threads.team
        self.rows_alone = rows or self.rows_of_unit(self.all_rows, columns, 1)
        self.threads = step.work // LEAST_PER_THREAD

    def __call__(self, tensors: Sequence[Tensor], fill: Sequence[float]) -> None:
        many, team, rows = 1, None, self.rows_alone
        if self.threads > 1:
            many = torch.get_num_threads()
            team = self.team() if many > 1 else None
            rows = self.rows or self.rows_of_unit(self.all_rows, self.columns, many)
        if CHECKED:
            frame = self.frame(tensors)
            if self.entry(self.address, frame.buffer_info()[0], team, many, rows, *map(data_ptr, tensors), *fill):
                raise self.compiled.error(frame)
        else:
            self.entry(self.address, None, team, many, rows, *map(data_ptr, tensors), *fill)

    def frame(self, tensors: Sequence[Tensor]) -> Any:
        import tstn_cpu

        return self.compiled.frame(
            [tstn_cpu.Memory(0, ELEMENTS[t.dtype], tuple(t.shape), tuple(t.stride())) for t in tensors]
        )
