"""Allocate, choose the tile, launch: the only file that meets the kernels.

``plan_*`` say what would be launched; they look at shapes, strides and dtypes only, so that the ahead-of-time gate
compiles just what runs.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tstn import _configs
from tstn._backend import INTERPRETED
from tstn._warp import Warp, is_channels_last, memory_format

INT32_MAX = 2**31 - 1
# Tiles of finish_backward_kernel: elements rounded per program; parts and columns summed at a time.
FINISH = {"BLOCK": 1024, "BLOCK_PARTS": 64, "BLOCK_C": 32}


class Launch(NamedTuple):
    """A kernel by name, how many programs run it, its arguments in order and its constexprs."""

    kernel: str
    programs: int
    arguments: tuple[Any, ...]
    constexprs: dict[str, Any]
    num_warps: int = 4

    def run(self, device: torch.device) -> None:
        import tstn_kernels

        if self.programs > INT32_MAX:
            raise ValueError(f"input, theta and size need {self.programs} programs; at most {INT32_MAX} can run")
        kernel = getattr(tstn_kernels, self.kernel)
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            kernel[(self.programs,)](
                *self.arguments, **self.constexprs, num_warps=self.num_warps, enable_fp_fusion=True
            )


def forward(input: Tensor, theta: Tensor, fill: Tensor | None, input_index: Tensor | None, warp: Warp) -> Tensor:
    """Warp input (N, C, H, W) by theta (M, P) to (M, C, H_out, W_out) in one launch.

    A scalar fill of a float64 input is first put in memory, a second launch.
    """
    output = torch.empty(
        (theta.shape[0], input.shape[1], *warp.size),
        dtype=input.dtype,
        device=input.device,
        memory_format=memory_format(input),
    )
    if output.numel():
        plan_forward(output, input, theta, fill, input_index, warp).run(input.device)
    return output


def backward(
    grad_output: Tensor,
    input: Tensor,
    theta: Tensor,
    fill: Tensor | None,
    input_index: Tensor | None,
    warp: Warp,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, theta and fill, those that are needed, in at most three launches."""
    need_input, need_theta, need_fill = needed
    dtype = _accumulator(input)
    grad_input = grad_theta = grad_fill = grad_input_sum = None
    if need_input:
        # Half-precision gradients are summed in float32 and rounded once.
        grad_input_sum = torch.empty_like(input, dtype=dtype, memory_format=memory_format(input)).zero_()
        grad_input = grad_input_sum
        if input.dtype != dtype:
            grad_input = torch.empty_like(grad_input_sum, dtype=input.dtype)
    no_slope = warp.mode == "nearest"
    if need_theta:
        allocate = torch.zeros if no_slope or not grad_output.numel() else torch.empty
        grad_theta = allocate(theta.shape, dtype=theta.dtype, device=theta.device)
    if need_fill:
        assert fill is not None
        grad_fill = fill.new_zeros(fill.shape) if not grad_output.numel() else torch.empty_like(fill)
    if grad_output.numel():
        grads = (grad_input, grad_input_sum, None if no_slope else grad_theta, grad_fill)
        for launch in plan_backward(*grads, grad_output, input, theta, fill, input_index, warp):
            launch.run(input.device)
    elif grad_input is not grad_input_sum and grad_input is not None:
        grad_input.zero_()
    return grad_input, grad_theta, grad_fill


def plan_forward(
    output: Tensor, input: Tensor, theta: Tensor, fill: Tensor | None, input_index: Tensor | None, warp: Warp
) -> Launch:
    import tstn_kernels

    config, programs, run_of_channels = _cut(input, theta, warp, splittable=True)
    fill = _precise_fill(input, fill, warp)
    pointers, strides, scalars = _operands(input, theta, fill, input_index, warp, run_of_channels)
    constexprs = _constexprs(config, input, fill, input_index, warp, (output, input))
    constexprs["MAP"] = tstn_kernels.MAPS[warp.transform.name][0]
    return Launch(
        "sample_forward_kernel",
        programs,
        (output, *pointers, *output.stride(), *strides, *scalars),
        constexprs,
        config.num_warps,
    )


def plan_backward(
    grad_input: Tensor | None,
    grad_input_sum: Tensor | None,
    grad_theta: Tensor | None,
    grad_fill: Tensor | None,
    grad_output: Tensor,
    input: Tensor,
    theta: Tensor,
    fill: Tensor | None,
    input_index: Tensor | None,
    warp: Warp,
) -> list[Launch]:
    """The launches that fill the given gradients; ``grad_input_sum`` is zeroed, and may be ``grad_input`` itself."""
    import tstn_kernels

    dense = warp.transform.is_dense
    # The numbers of a dense theta belong to one pixel each, which one program must then see whole.
    config, programs, run_of_channels = _cut(input, theta, warp, splittable=not (dense and grad_theta is not None))
    thetas, numbers = theta.shape
    channels = input.shape[1]
    splits = -(-channels // run_of_channels)
    theta_parts = 1 if dense else programs // thetas
    fill_parts = programs // splits
    dtype = _accumulator(input)
    grad_theta_parts = grad_theta
    if grad_theta is not None and not dense and (theta_parts > 1 or grad_theta.dtype != dtype):
        grad_theta_parts = grad_theta.new_empty((thetas, theta_parts, numbers), dtype=dtype)
    grad_fill_parts = None if grad_fill is None else grad_fill.new_empty((fill_parts, channels), dtype=dtype)

    fill = _precise_fill(input, fill, warp)
    pointers, strides, scalars = _operands(input, theta, fill, input_index, warp, run_of_channels)
    into = grad_input_sum if grad_input_sum is not None else grad_output
    constexprs = _constexprs(config, input, fill, input_index, warp, (into, grad_output, input))
    constexprs["MAP"], constexprs["MAP_VJP"] = tstn_kernels.MAPS[warp.transform.name]
    constexprs["INPUT_GRAD"] = grad_input is not None
    constexprs["THETA_GRAD"] = grad_theta is not None
    constexprs["FILL_GRAD"] = grad_fill is not None
    # A pointer that no enabled branch follows still needs something to point at.
    launches = [
        Launch(
            "sample_backward_kernel",
            programs,
            (
                into,
                _or(grad_theta_parts, grad_output),
                _or(grad_fill_parts, grad_output),
                grad_output,
                *pointers,
                *into.stride(),
                theta_parts * numbers,
                0 if dense else numbers,
                *grad_output.stride(),
                *strides,
                *scalars,
            ),
            constexprs,
            config.num_warps,
        )
    ]

    theta_programs = thetas if grad_theta_parts is not grad_theta else 0
    columns = 64 if INTERPRETED else FINISH["BLOCK_C"]
    fill_programs = 0 if grad_fill is None else -(-channels // columns)
    block = 2**20 if INTERPRETED else FINISH["BLOCK"]
    numel = 0 if grad_input is grad_input_sum else into.numel()
    finish_programs = theta_programs + fill_programs + -(-numel // block)
    if finish_programs:
        launches.append(
            Launch(
                "finish_backward_kernel",
                finish_programs,
                (
                    _or(grad_input, grad_output),
                    into,
                    _or(grad_theta, grad_output),
                    _or(grad_theta_parts, grad_output),
                    _or(grad_fill, grad_output),
                    _or(grad_fill_parts, grad_output),
                    theta_programs,
                    fill_programs,
                    theta_parts,
                    fill_parts,
                    numel,
                    numbers,
                    channels,
                ),
                {
                    "BLOCK": block,
                    "BLOCK_PARTS": FINISH["BLOCK_PARTS"],
                    "BLOCK_P": 8 if theta_programs == 0 else 1 << (numbers - 1).bit_length(),
                    "BLOCK_C": columns,
                },
            )
        )
    return launches


def _cut(input: Tensor, theta: Tensor, warp: Warp, splittable: bool) -> tuple[_configs.Config, int, int]:
    """The configuration, the number of programs, and the channels that one of them has."""
    channels = input.shape[1]
    config = _configs.INTERPRETER
    if not INTERPRETED:
        config = _configs.choose(is_channels_last(input), channels, input.element_size())
    height, width = warp.size
    programs = theta.shape[0] * -(-height // config.tile_h) * -(-width // config.tile_w)
    run_of_channels = _configs.channels_per_program(config, programs if splittable else INT32_MAX, channels)
    return config, programs * -(-channels // run_of_channels), run_of_channels


def _operands(
    input: Tensor,
    theta: Tensor,
    fill: Tensor | None,
    input_index: Tensor | None,
    warp: Warp,
    run_of_channels: int,
) -> tuple[tuple[Any, ...], tuple[int, ...], tuple[int | float, ...]]:
    """What both kernels read: pointers, strides and sizes, in their order."""
    batch, channels, height, width = input.shape
    views = theta.shape[0] // batch if batch else 1
    pointers = (input, theta, _or(fill, input), _or(input_index, input))
    strides = (*input.stride(), *theta.stride(), 0 if fill is None else fill.stride(0))
    return pointers, strides, (batch, views, channels, height, width, *warp.size, run_of_channels, warp.fill_value)


def _constexprs(
    config: _configs.Config,
    input: Tensor,
    fill: Tensor | None,
    input_index: Tensor | None,
    warp: Warp,
    addressed: tuple[Tensor, ...],
) -> dict[str, Any]:
    import triton.language as tl

    reach = max(_reach(tensor) for tensor in addressed)
    if warp.transform.is_dense:
        reach = max(reach, 2 * warp.size[0] * warp.size[1])
    return {
        "MODE": warp.mode,
        "PADDING": warp.padding_mode,
        "FILL": "channel" if fill is not None else "scalar" if warp.fill_value != 0 else "none",
        "ALIGN_CORNERS": warp.align_corners,
        "INDEXED": input_index is not None,
        "CHANNELS_LAST": is_channels_last(input),
        "DTYPE": tl.float64 if input.dtype == torch.float64 else tl.float32,
        "OFFSET": tl.int32 if reach <= INT32_MAX else tl.int64,
        "TILE_H": config.tile_h,
        "TILE_W": config.tile_w,
        "BLOCK_C": config.block_c,
    }


def _reach(tensor: Tensor) -> int:
    """The largest offset within one sample, with a pixel to spare on each side."""
    sizes, strides = tensor.shape[1:], tensor.stride()[1:]
    return sum((size + 2) * stride for size, stride in zip(sizes, strides, strict=True))


def _accumulator(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def _precise_fill(input: Tensor, fill: Tensor | None, warp: Warp) -> Tensor | None:
    """The fill, as a tensor where it is one per channel, or where a kernel's float32 argument would not hold it."""
    if fill is None and warp.fill_value != 0 and input.dtype == torch.float64:
        return torch.full((), warp.fill_value, dtype=input.dtype, device=input.device).expand(input.shape[1])
    return fill


def _or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    return stand_in if tensor is None else tensor
