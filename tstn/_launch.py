"""Allocate, choose the tile, launch: the only file that meets the kernels.

``plan_*`` say what would be launched; they look at shapes, strides and dtypes only, so that the ahead-of-time gate
compiles just what runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tstn import _configs
from tstn._backend import INTERPRETED
from tstn._warp import Needed, Operands, Warp, is_channels_last, memory_format

INT32_MAX = 2**31 - 1
# Tiles of finish_backward_kernel: elements rounded per program; parts and columns summed at a time.
FINISH = {"BLOCK": 1024, "BLOCK_PARTS": 64, "BLOCK_P": 16, "BLOCK_C": 32}


class Launch(NamedTuple):
    """A kernel by name, how many programs run it, its arguments in order and its constexprs."""

    kernel: str
    programs: int
    arguments: tuple[Any, ...]
    constexprs: dict[str, Any]
    config: _configs.Config = _configs.FLAT

    def options(self, backend: str) -> dict[str, Any]:
        """The compiler's options for Triton's backend, "cuda" or "hip"."""
        options = {"num_warps": self.config.num_warps, "enable_fp_fusion": True}
        if backend == "cuda" and self.config.maxnreg is not None:
            options["maxnreg"] = self.config.maxnreg
        return options

    def run(self, device: torch.device) -> None:
        import tstn_kernels

        if self.programs > INT32_MAX:
            raise ValueError(f"input, theta and size need {self.programs} programs; at most {INT32_MAX} can run")
        kernel = getattr(tstn_kernels, self.kernel)
        options = self.options("cuda" if torch.version.hip is None else "hip")
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            kernel[(self.programs,)](*self.arguments, **self.constexprs, **options)


class Gradients(NamedTuple):
    """Where a backward pass writes; None where nothing is wanted."""

    input: Tensor | None = None
    # What the input's gradient is summed in: itself, a wider tensor, or int64 for sums in fixed point.
    input_sum: Tensor | None = None
    theta: Tensor | None = None
    flow: Tensor | None = None
    fill: Tensor | None = None


def forward(operands: Operands, warp: Warp) -> Tensor:
    """Warp input (N, C, H, W) by theta (M, P) and flow (M, H_out, W_out, 2) to (M, C, H_out, W_out) in one launch.

    A scalar fill of a float64 input is first put in memory, a second launch.
    """
    input = operands.input
    output = torch.empty(
        (operands.warps, input.shape[1], *warp.size),
        dtype=input.dtype,
        device=input.device,
        memory_format=memory_format(input),
    )
    if output.numel():
        plan_forward(output, operands, warp).run(input.device)
    return output


def backward(
    grad_output: Tensor, operands: Operands, warp: Warp, needed: Needed
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, theta, flow and fill, those that are needed, in at most three launches.

    When PyTorch is asked for deterministic algorithms, the input's is summed in fixed point, in three more.
    """
    grads = empty_gradients(*operands[:4], needed)
    if not grad_output.numel():
        a, b, c, d = (None if grad is None else grad.zero_() for grad in grads)
        return a, b, c, d
    grad_input, grad_theta, grad_flow, grad_fill = grads
    if warp.mode == "nearest":
        # No slope, nothing to launch for.
        grad_theta, grad_flow = (None if grad is None else grad.zero_() for grad in (grad_theta, grad_flow))
        given = Gradients(grad_input, None, None, None, grad_fill)
    else:
        given = Gradients(grad_input, None, grad_theta, grad_flow, grad_fill)
    if grad_input is not None:
        given = given._replace(input_sum=_zeroed_sum(grad_input))
    for launch in plan_backward(given, grad_output, operands, warp):
        launch.run(grad_output.device)
    return grad_input, grad_theta, grad_flow, grad_fill


def empty_gradients(
    input: Tensor, theta: Tensor | None, flow: Tensor | None, fill: Tensor | None, needed: Needed
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Memory for the gradients that are needed. The input's keeps its memory format, the flow's its strides."""
    return (
        torch.empty_like(input, memory_format=memory_format(input)) if needed.input else None,
        theta.new_empty(theta.shape) if needed.theta and theta is not None else None,
        torch.empty_like(flow) if needed.flow and flow is not None else None,
        fill.new_empty(fill.shape) if needed.fill and fill is not None else None,
    )


def _zeroed_sum(grad_input: Tensor) -> Tensor:
    """What the input's gradient is summed in. Half precision is summed in float32 and rounded once."""
    if torch.are_deterministic_algorithms_enabled():
        grad_input.zero_()
        limbs = 2 if grad_input.dtype == torch.float64 else 1
        return torch.zeros(1 + limbs * grad_input.numel(), dtype=torch.int64, device=grad_input.device)
    if grad_input.dtype in (torch.float32, torch.float64):
        return grad_input.zero_()
    return torch.empty_like(grad_input, dtype=torch.float32).zero_()


def plan_forward(output: Tensor, operands: Operands, warp: Warp) -> Launch:
    cut = _cut(operands, warp)
    operands = _with_precise_fill(operands, warp)
    pointers, strides, sizes = _arguments(operands, warp, cut)
    constexprs = _constexprs(cut, operands, warp, (output,))
    constexprs["MAP"] = _maps(warp)[0]
    return Launch(
        "sample_forward_kernel",
        cut.groups * cut.tiles * cut.splits,
        (output, *pointers, *output.stride(), *strides, *sizes, cut.tiles, cut.run_of_channels, warp.fill_value),
        constexprs,
        cut.config,
    )


def plan_backward(grads: Gradients, grad_output: Tensor, operands: Operands, warp: Warp) -> list[Launch]:
    """The launches that fill the given gradients; ``grads.input_sum`` is zeroed."""
    input = operands.input
    thetas, channels = operands.warps, input.shape[1]
    numbers = 0 if operands.theta is None else operands.theta.shape[1]
    fixed = grads.input_sum is not None and grads.input_sum.dtype == torch.int64
    # The field's gradient belongs to one pixel, which one program must then see whole.
    cut = _cut(operands, warp, 0 if grads.theta is None else numbers, splittable=grads.flow is None, fixed=fixed)
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    theta_parts = cut.parts * cut.splits
    fill_parts = cut.groups * cut.parts
    grad_theta_parts = grads.theta
    if grads.theta is not None and (theta_parts > 1 or grads.theta.dtype != dtype):
        grad_theta_parts = grads.theta.new_empty((thetas, theta_parts, numbers), dtype=dtype)
    grad_fill_parts = None if grads.fill is None else grads.fill.new_empty((fill_parts, channels), dtype=dtype)
    # What the kernel adds to, by input pixel.
    into = grads.input if fixed else grads.input_sum
    into = grad_output if into is None else into
    per_input = thetas if operands.input_index is not None else -(-thetas // max(input.shape[0], 1))
    count_bits = (4 * per_input * warp.size[0] * warp.size[1]).bit_length()

    operands = _with_precise_fill(operands, warp)
    pointers, strides, sizes = _arguments(operands, warp, cut)
    constexprs = _constexprs(cut, operands, warp, (into, grad_output, *(() if grads.flow is None else (grads.flow,))))
    constexprs["MAP"], constexprs["MAP_VJP"] = _maps(warp)
    constexprs["INPUT_GRAD"] = "none" if grads.input is None else "fixed" if fixed else "atomic"
    constexprs["THETA_GRAD"] = grads.theta is not None
    constexprs["FLOW_GRAD"] = grads.flow is not None
    constexprs["FILL_GRAD"] = grads.fill is not None
    constexprs["LOOPED"] = cut.parts < cut.tiles
    launches = []
    if fixed:
        launches.append(_plan_peak(grads.input_sum, grad_output, constexprs["DTYPE"]))
    # A pointer that no enabled branch follows still needs something to point at.
    launches.append(
        Launch(
            "sample_backward_kernel",
            cut.groups * cut.parts * cut.splits,
            (
                into,
                grads.input_sum if fixed else grad_output,
                _or(grad_theta_parts, grad_output),
                _or(grads.flow, grad_output),
                _or(grad_fill_parts, grad_output),
                grad_output,
                *pointers,
                *into.stride(),
                theta_parts * numbers,
                numbers,
                *((0, 0, 0, 0) if grads.flow is None else grads.flow.stride()),
                *grad_output.stride(),
                *strides,
                *sizes,
                cut.tiles,
                cut.parts,
                cut.run_of_channels,
                warp.fill_value,
                into.numel(),
                count_bits,
            ),
            constexprs,
            cut.config,
        )
    )

    theta_blocks = -(-numbers // FINISH["BLOCK_P"])
    theta_programs = thetas * theta_blocks if grad_theta_parts is not grads.theta else 0
    columns = 64 if INTERPRETED else FINISH["BLOCK_C"]
    fill_programs = 0 if grads.fill is None else -(-channels // columns)
    block = 2**20 if INTERPRETED else FINISH["BLOCK"]
    numel = 0 if grads.input is grads.input_sum else into.numel()
    finish_programs = theta_programs + fill_programs + -(-numel // block)
    if finish_programs:
        launches.append(
            Launch(
                "finish_backward_kernel",
                finish_programs,
                (
                    _or(grads.input, grad_output),
                    _or(grads.input_sum, grad_output),
                    _or(grads.theta, grad_output),
                    _or(grad_theta_parts, grad_output),
                    _or(grads.fill, grad_output),
                    _or(grad_fill_parts, grad_output),
                    theta_programs,
                    theta_blocks,
                    fill_programs,
                    theta_parts,
                    fill_parts,
                    numel,
                    numbers,
                    channels,
                    count_bits,
                ),
                {
                    "FIXED": fixed,
                    "DTYPE": constexprs["DTYPE"],
                    "BLOCK": block,
                    "BLOCK_PARTS": FINISH["BLOCK_PARTS"],
                    "BLOCK_P": FINISH["BLOCK_P"],
                    "BLOCK_C": columns,
                },
            )
        )
    return launches


def _plan_peak(fixed: Tensor | None, grad_output: Tensor, dtype: Any) -> Launch:
    """The largest finite |grad_output|, from which sums in fixed point take their scale."""
    block = 2**20 if INTERPRETED else FINISH["BLOCK"]
    numel = grad_output.numel()
    return Launch(
        "peak_kernel",
        -(-numel // block),
        (fixed, grad_output, *grad_output.stride(), *grad_output.shape[1:], numel),
        {"DTYPE": dtype, "BLOCK": block},
    )


class _Cut(NamedTuple):
    """How a call is cut into programs: groups of samples x tiles, or parts of the tiles, x runs of channels."""

    config: _configs.Config
    groups: int
    tiles: int
    parts: int
    splits: int
    run_of_channels: int


def _cut(operands: Operands, warp: Warp, parts_of: int = 0, splittable: bool = True, fixed: bool = False) -> _Cut:
    """``parts_of`` is how many numbers each part leaves behind for each sample."""
    input, thetas = operands.input, operands.warps
    channels = input.shape[1]
    if INTERPRETED:
        config = _configs.INTERPRETER
        if warp.kernel == "thin_plate_spline":
            config = dataclasses.replace(config, samples=2)
    else:
        heavy = fixed or warp.mode == "bicubic"
        config = _configs.choose(is_channels_last(input), channels, input.element_size(), warp.kernel, heavy)
    height, width = warp.size
    groups = -(-thetas // config.samples)
    tiles = -(-height // config.tile_h) * -(-width // config.tile_w)
    parts = _configs.parts_per_sample(tiles, thetas, parts_of)
    run = _configs.channels_per_program(config, groups * parts if splittable else INT32_MAX, channels)
    return _Cut(config, groups, tiles, parts, -(-channels // run), run)


def _arguments(
    operands: Operands, warp: Warp, cut: _Cut
) -> tuple[tuple[Any, ...], tuple[int, ...], tuple[int | float, ...]]:
    """What both kernels read: pointers, strides and sizes, in their order."""
    input, theta, flow, fill, input_index, constants = operands
    batch, channels, height, width = input.shape
    views = operands.warps // batch if batch else 1
    pointers = tuple(_or(t, input) for t in (input, theta, flow, fill, input_index, constants))
    strides = (
        *input.stride(),
        *((0, 0) if theta is None else theta.stride()),
        *((0, 0, 0, 0) if flow is None else flow.stride()),
        0 if fill is None else fill.stride(0),
    )
    count = 0 if constants is None else constants.shape[0]
    return pointers, strides, (batch, operands.warps, views, channels, height, width, *warp.size, count)


def _constexprs(cut: _Cut, operands: Operands, warp: Warp, addressed: tuple[Tensor, ...]) -> dict[str, Any]:
    import triton.language as tl

    input, _, flow, fill, input_index, _ = operands
    reach = max(_reach(tensor) for tensor in (input, *addressed, *(() if flow is None else (flow,))))
    return {
        "SAMPLES": cut.config.samples,
        "FLOW": flow is not None,
        "MODE": warp.mode,
        "PADDING": warp.padding_mode,
        "FILL": "channel" if fill is not None else "scalar" if warp.fill_value != 0 else "none",
        "ALIGN_CORNERS": warp.align_corners,
        "INDEXED": input_index is not None,
        "CHANNELS_LAST": is_channels_last(input),
        "DTYPE": tl.float64 if input.dtype == torch.float64 else tl.float32,
        "OFFSET": tl.int32 if reach <= INT32_MAX else tl.int64,
        "TILE_H": cut.config.tile_h,
        "TILE_W": cut.config.tile_w,
        "BLOCK_C": cut.config.block_c,
    }


def _maps(warp: Warp) -> tuple[Any, Any]:
    """The coordinate map and its vector-Jacobian product."""
    import tstn_kernels

    if warp.kernel in tstn_kernels.MAPS:
        return tstn_kernels.MAPS[warp.kernel]
    from tstn import custom

    return custom.kernel_maps(warp.kernel)


def _reach(tensor: Tensor) -> int:
    """The largest offset within one sample, with a pixel to spare on each side."""
    sizes, strides = tensor.shape[1:], tensor.stride()[1:]
    return sum((size + 2) * stride for size, stride in zip(sizes, strides, strict=True))


def _with_precise_fill(operands: Operands, warp: Warp) -> Operands:
    """The fill as a tensor where it is one per channel, or where a kernel's float32 argument would not hold it."""
    input = operands.input
    if operands.fill is None and warp.fill_value != 0 and input.dtype == torch.float64:
        fill = torch.full((), warp.fill_value, dtype=input.dtype, device=input.device).expand(input.shape[1])
        return operands._replace(fill=fill)
    return operands


def _or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    return stand_in if tensor is None else tensor
