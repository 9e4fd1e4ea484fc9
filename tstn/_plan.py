"""What would be launched for a call: kernels, programs, numbers and options, from shapes, strides and dtypes only.

A plan is made once for all calls that look alike, and the ahead-of-time gate compiles just what would run.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tstn import _configs
from tstn._backend import INTERPRETED
from tstn._warp import Needed, Operands, Warp, is_channels_last
from tstn.transforms import half_extent, half_extent_out

INT32_MAX = 2**31 - 1
# Calls of different shapes whose plans are kept, for each coordinate map.
PLANS = 1024


class Layout(NamedTuple):
    """All that a plan needs to know of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def channels_last(self) -> bool:
        """Of an image batch."""
        return is_channels_last(self.shape, self.stride)


def layout(tensor: Tensor) -> Layout:
    return Layout(tensor.dtype, tensor.shape, tensor.stride())


class Layouts(NamedTuple):
    """Those of the operands, in their order, and where the kernels run."""

    input: Layout
    theta: Layout | None
    flow: Layout | None
    fill: Layout | None
    input_index: Layout | None
    constants: Layout | None
    place: _configs.Place

    @property
    def warps(self) -> int:
        """M."""
        theta = self.flow if self.theta is None else self.theta
        assert theta is not None
        return theta.shape[0]


# What a tensor is to a call; a launch names its tensors by these, and the first has none.
ROLES = (
    *("none", "input", "theta", "flow", "fill", "input_index", "constants", "output", "grad_output"),
    *("grad_input", "grad_theta", "grad_flow", "grad_fill"),
    *("grad_input_sum", "grad_theta_parts", "grad_fill_parts", "order", "starts"),
)
OPERANDS = ROLES[1:7]


class Order(NamedTuple):
    """The order of programs on a CPU: one of ``columns`` columns after the other; program ``row * columns + column``.

    So many rows have to run in one thread, one after the other, because they add to the same memory; 0 where none have.
    """

    columns: int
    rows: int = 0


class Step(NamedTuple):
    """One launch but for its tensors: how to pick them, then numbers and constexprs, in the kernel's order."""

    kernel: str
    programs: int
    # From tensors in the order of ROLES. A role that no enabled branch of the kernel follows may have any.
    pick: Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
    numbers: tuple[int | float, ...]
    constexprs: Mapping[str, Any]
    config: _configs.Config
    # Elements that there are to compute.
    work: int
    # Whether the scalar fill value comes before the numbers: plans do not depend on it.
    takes_fill: bool
    order: Order
    # How to launch what was compiled of it, by device and alignment of the tensors.
    ready: dict[Any, Any]


class Scratch(NamedTuple):
    """Memory that a backward pass needs beside operands and results."""

    role: int
    numel: int
    dtype: torch.dtype
    zeroed: bool = False


class Backward(NamedTuple):
    """The launches of a backward pass in order, and what they need beforehand."""

    steps: tuple[Step, ...]
    scratch: tuple[Scratch, ...]
    # Whether the input's gradient has to start as zeros.
    zeroed: bool
    # Whether the thetas have to be listed by the input that they read.
    listed: bool


Strides = tuple[tuple[int, ...], tuple[int, ...] | None]
"""Of the output's gradient and of the flow's; those of the other gradients follow from the operands."""


class Call:
    """What is planned for all calls with the same layouts and options, but for the value of a scalar fill."""

    def __init__(self, operands: Layouts, warp: Warp):
        self.operands = operands
        self.warp = warp
        self.is_readable = _is_readable(operands)
        self._backward: dict[Any, Backward] = {}
        self._exclusive = operands.place.exclusive

    @cached_property
    def output(self) -> Layout:
        """Of the result."""
        return _output(self.operands, self.warp)

    @cached_property
    def forward(self) -> Step:
        """The launch that fills the output."""
        return _forward(self.operands, self.warp)

    def backward(self, strides: Strides, needed: Needed, deterministic: bool) -> Backward:
        """The launches that fill the gradients: at most three, or four when sums have to be in fixed point."""
        # In one thread sums are always in the same order; there have to be enough of them for all threads.
        threads = torch.get_num_threads() if self._exclusive else 1
        key = (strides, needed, deterministic, threads)
        plan = self._backward.get(key)
        if plan is None:
            deterministic = deterministic and not self._exclusive
            plan = _backward(self.operands, strides, needed, self.warp, deterministic, threads)
            self._backward[key] = plan
        return plan


_calls: dict[str, Callable[..., Call]] = {}
"""By coordinate map, from :func:`_planned`'s other arguments."""


def call(operands: Operands, warp: Warp) -> Call:
    """The plans for such calls; those of one coordinate map are kept together."""
    calls = _calls.get(warp.kernel)
    if calls is None:
        calls = _calls[warp.kernel] = lru_cache(maxsize=PLANS)(_planned)
    # Every call comes by here: the key is of plain tuples, which are quick to make and to look up. One plan serves all
    # fill values but 0, which needs no filling.
    input, theta, flow, fill, index, constants = operands
    return calls(
        warp[:5],
        warp.fill_value != 0,
        input.is_cpu,
        (input.dtype, input.shape, input.stride()),
        None if theta is None else (theta.dtype, theta.shape, theta.stride()),
        None if flow is None else (flow.dtype, flow.shape, flow.stride()),
        None if fill is None else (fill.dtype, fill.shape, fill.stride()),
        None if index is None else (index.dtype, index.shape, index.stride()),
        None if constants is None else (constants.dtype, constants.shape, constants.stride()),
    )


def _planned(options: tuple[Any, ...], filled: bool, on_cpu: bool, *tensors: tuple[Any, ...] | None) -> Call:
    input, *others = (None if tensor is None else Layout(*tensor) for tensor in tensors)
    assert input is not None
    layouts = Layouts(input, *others, place=place(on_cpu))
    return Call(layouts, Warp(*options, fill_value=1.0 if filled else 0.0))


def place(on_cpu: bool) -> _configs.Place:
    """Where the kernels run for tensors of the CPU, or of another device."""
    if INTERPRETED:
        return _configs.INTERPRETED
    return _configs.CPU if on_cpu else _configs.GPU


def _is_readable(operands: Layouts) -> bool:
    """Whether the numbers of one theta lie evenly, and those of an index and of constants one after the other."""
    for tensor in (operands.input_index, operands.constants):
        axes = [] if tensor is None else _axes(tensor)
        if (axes and axes[-1][1] != 1) or not _lie_evenly(axes):
            return False
    return _lie_evenly(_theta_axes(operands))


def _lie_evenly(axes: list[tuple[int, int]]) -> bool:
    """Whether one stride leads from each element to the next."""
    return all(step == size * inner for (_, step), (size, inner) in itertools.pairwise(axes))


def _axes(tensor: Layout) -> list[tuple[int, int]]:
    """Size and stride of each axis, but for those of size 1, which may have any stride."""
    return [(size, step) for size, step in zip(tensor.shape, tensor.stride, strict=True) if size > 1]


def _theta_axes(operands: Layouts) -> list[tuple[int, int]]:
    """Those of one theta."""
    theta = operands.theta
    return [] if theta is None else _axes(Layout(theta.dtype, theta.shape[1:], theta.stride[1:]))


def forget(kernel: str | None = None) -> None:
    """Drop the plans of a coordinate map that there will be no more, or of all."""
    if kernel is None:
        _calls.clear()
    else:
        _calls.pop(kernel, None)


def _forward(operands: Layouts, warp: Warp) -> Step:
    cut = _cut(operands, warp, "forward")
    output = _output(operands, warp)
    strides, sizes = _arguments(operands, warp)
    constexprs = _constexprs(cut, operands, warp, (output,))
    constexprs["MAP"] = _maps(warp)[0]
    numbers = (
        *output.stride,
        *strides,
        *sizes,
        cut.run_of_channels,
        *_scales(operands, warp),
        *divisor(_views(operands)),
        *divisor(cut.across),
        *divisor(cut.tiles),
        *divisor(cut.splits),
    )
    programs = cut.groups * cut.tiles * cut.splits
    work = output.numel()
    # Neighbouring pixels of the same channels come one after the other.
    order = Order(cut.splits)
    return _step("sample_forward_kernel", programs, ("output", *OPERANDS), numbers, constexprs, work, cut.config, order)


class Gradients(NamedTuple):
    """Layouts of the gradients that are wanted."""

    input: Layout | None
    theta: Layout | None
    flow: Layout | None
    fill: Layout | None


def _backward(
    operands: Layouts, strides: Strides, needed: Needed, warp: Warp, deterministic: bool, threads: int
) -> Backward:
    steps: list[Step] = []
    scratch: dict[str, Scratch] = {}

    def need(role: str, numel: int, dtype: torch.dtype, zeroed: bool = False) -> None:
        scratch[role] = Scratch(ROLES.index(role), numel, dtype, zeroed)

    input = operands.input
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    grad_output = Layout(input.dtype, (operands.warps, input.shape[1], *warp.size), strides[0])
    sloped = warp.mode != "nearest"
    grads = Gradients(
        _dense(input, input.channels_last) if needed.input else None,
        operands.theta if needed.theta and sloped else None,
        operands.flow._replace(stride=strides[1]) if operands.flow and strides[1] and sloped else None,
        operands.fill if needed.fill else None,
    )

    scatter = "none"
    finish = _Finish()
    zeroed = listed = False
    if grads.input is not None:
        if gathers(operands, warp):
            step, shares = _gather(operands, grad_output, grads.input, warp)
            steps.append(step)
            listed = operands.input_index is not None
            if shares > 1:
                need("grad_input_sum", shares * input.numel(), wide)
                finish = finish._replace(input_parts=shares)
        elif deterministic:
            scatter, zeroed = "fixed", True
            limbs = 2 if wide == torch.float64 else 1
            need("grad_input_sum", input.shape[0] + limbs * input.numel(), torch.int64, zeroed=True)
            finish = finish._replace(input_parts=1, fixed=True)
            steps.append(_peak(operands, grad_output, wide))
        elif input.dtype == wide:
            scatter, zeroed = "atomic", True
        else:
            # Half precision is summed in float32 and rounded once.
            scatter = "atomic"
            need("grad_input_sum", input.numel(), wide, zeroed=True)
            finish = finish._replace(input_parts=1)

    if scatter != "none" or any(grad is not None for grad in grads[1:]):
        fixed = scatter == "fixed"
        numbers = _numbers(operands)
        kind = "theta" if scatter == "none" else "scatter"
        parts_of = 0 if grads.theta is None else numbers
        # What scatters into few images is dealt to threads by channels.
        splits = -(-threads // input.shape[0]) if scatter == "atomic" and operands.place.exclusive else 1
        cut = _cut(operands, warp, kind, parts_of, splittable=grads.flow is None, fixed=fixed, splits=splits)
        if grads.theta is not None and (cut.parts * cut.splits > 1 or grads.theta.dtype != wide):
            need("grad_theta_parts", operands.warps * cut.parts * cut.splits * numbers, wide)
            finish = finish._replace(theta_parts=cut.parts * cut.splits)
        if grads.fill is not None:
            need("grad_fill_parts", cut.groups * cut.parts * input.shape[1], wide)
            finish = finish._replace(fill_parts=cut.groups * cut.parts)
        steps.append(_scatter(operands, grad_output, grads, warp, cut, scatter, scratch))
    steps += _finish(operands, grads, warp, wide, finish)
    return Backward(tuple(steps), tuple(scratch.values()), zeroed, listed)


@lru_cache(maxsize=PLANS)
def spline_product(on_cpu: bool, out: Layout, vectors: Layout, matrix: Layout, centred: bool) -> Step:
    """The launch that fills ``out`` (M, rows, 2) with matrix (rows, columns) @ (vectors (M, columns, 2) - centres)."""
    samples, rows, _ = out.shape
    here = place(on_cpu)
    blocks = -(-rows // here.block_rows)
    programs = blocks * -(-samples // here.block_m)
    sizes = (samples, rows, matrix.shape[1], blocks)
    numbers = (*out.stride, *vectors.stride, *matrix.stride, *sizes)
    constexprs = {"CENTRED": centred, "BLOCK_ROWS": here.block_rows, "BLOCK_M": here.block_m}
    work, config = out.numel() * matrix.shape[1], _configs.SPLINE_PRODUCT
    return Step("spline_product_kernel", programs, tuple, numbers, constexprs, config, work, False, Order(1), {})


def _dense(layout: Layout, channels_last: bool) -> Layout:
    """Without gaps, in one of the two memory formats."""
    _, c, h, w = layout.shape
    if not channels_last:
        # As PyTorch has it; in the other format it counts an empty axis as empty.
        c, h, w = (max(size, 1) for size in (c, h, w))
    stride = (c * h * w, 1, w * c, c) if channels_last else (c * h * w, h * w, w, 1)
    return layout._replace(stride=stride)


def _output(operands: Layouts, warp: Warp) -> Layout:
    """Of the result."""
    input = operands.input
    return _dense(input._replace(shape=(operands.warps, input.shape[1], *warp.size)), input.channels_last)


def _numbers(operands: Layouts) -> int:
    """P."""
    return 0 if operands.theta is None else math.prod(operands.theta.shape[1:])


def _lane_numbers(operands: Layouts, warp: Warp) -> int:
    """How many of theta's numbers each lane has a term of: none of a spline's, whose sums are a product of matrices."""
    return 0 if warp.kernel == "thin_plate_spline" else _numbers(operands)


def gathers(operands: Layouts, warp: Warp) -> bool:
    """Whether the input's gradient is gathered: by a map that has an inverse, where nothing is padded."""
    import tstn_kernels

    inverse = warp.kernel in tstn_kernels.MATRICES and warp.padding_mode == "zeros" and operands.flow is None
    return inverse and operands.place.gathers


def _gather(operands: Layouts, grad_output: Layout, grad_input: Layout, warp: Warp) -> tuple[Step, int]:
    """The launch that gathers the input's gradient, in how many shares of the thetas."""
    import tstn_kernels

    batch, channels, height, width = operands.input.shape
    config = _config(operands, warp, "gather")
    tiles, across = config.tiles((height, width))
    run = operands.place.channels_per_program(config, batch * tiles, channels, _over_channels(operands))
    splits = -(-channels // run)
    programs = batch * tiles * splits
    shares = operands.place.shares_per_input(programs, -(-operands.warps // batch))
    share_stride = 0 if shares == 1 else grad_input.numel()
    assert operands.theta is not None
    constexprs = {
        **tstn_kernels.MATRICES[warp.kernel],
        "MODE": warp.mode,
        "ALIGN_CORNERS": warp.align_corners,
        "INDEXED": operands.input_index is not None,
        **_tile_constexprs(config, operands, (grad_input, grad_output)),
    }
    step = _step(
        "gather_backward_kernel",
        programs * shares,
        ("grad_input" if shares == 1 else "grad_input_sum", "grad_output", "theta", "order", "starts"),
        (
            share_stride,
            *grad_input.stride,
            *grad_output.stride,
            *_theta_strides(operands),
            _views(operands),
            channels,
            height,
            width,
            *warp.size,
            run,
            *_scales(operands, warp),
            *divisor(shares),
            *divisor(across),
            *divisor(tiles),
            *divisor(splits),
        ),
        constexprs,
        grad_output.numel(),
        config,
    )
    return step, shares


def _scatter(
    operands: Layouts,
    grad_output: Layout,
    grads: Gradients,
    warp: Warp,
    cut: _Cut,
    scatter: str,
    scratch: Mapping[str, Any],
) -> Step:
    """The launch that goes through the output's gradient."""
    numbers = _numbers(operands)
    strides, sizes = _arguments(operands, warp)
    # What the kernel adds to, by input pixel.
    into = grads.input if scatter != "none" else None
    addressed = tuple(t for t in (into, grad_output, grads.flow) if t is not None)
    constexprs = _constexprs(cut, operands, warp, addressed)
    constexprs["MAP"], constexprs["MAP_VJP"] = _maps(warp)
    constexprs["INPUT_GRAD"] = scatter
    constexprs["THETA_GRAD"] = grads.theta is not None
    constexprs["FLOW_GRAD"] = grads.flow is not None
    constexprs["FILL_GRAD"] = grads.fill is not None
    constexprs["LOOPED"] = cut.parts < cut.tiles
    # A thread has the cache of its core to itself; on a GPU all programs share one.
    constexprs["SIDE_BY_SIDE"] = operands.place.exclusive
    constexprs["CARRIED"] = cut.carried
    constexprs["NUMBERS"] = _lane_numbers(operands, warp)
    atomic_sum = scatter == "atomic" and "grad_input_sum" in scratch
    roles = (
        "grad_input_sum" if atomic_sum else "grad_input" if into is not None else "none",
        "grad_input_sum",
        "grad_theta_parts" if "grad_theta_parts" in scratch else "grad_theta",
        "grad_flow",
        "grad_fill_parts",
        "grad_output",
        *OPERANDS,
    )
    return _step(
        "sample_backward_kernel",
        cut.groups * cut.parts * cut.splits,
        roles,
        (
            *((0, 0, 0, 0) if into is None else into.stride),
            cut.parts * cut.splits * numbers,
            numbers,
            *((0, 0, 0, 0) if grads.flow is None else grads.flow.stride),
            *grad_output.stride,
            *strides,
            *sizes,
            -(-cut.tiles // cut.parts),
            cut.run_of_channels,
            0 if into is None else into.numel(),
            _count_bits(operands, warp),
            *_scales(operands, warp),
            *divisor(_views(operands)),
            *divisor(cut.across),
            *divisor(cut.parts),
            *divisor(cut.splits),
        ),
        constexprs,
        grad_output.numel(),
        cut.config,
        _order(operands, cut) if scatter == "atomic" and operands.place.exclusive else Order(cut.splits),
    )


def _order(operands: Layouts, cut: _Cut) -> Order:
    """Programs that add to the same image and channels go together."""
    if operands.input_index is not None:
        return Order(cut.splits, cut.groups * cut.parts)
    samples, views = cut.config.samples, _views(operands)
    return Order(cut.splits, math.lcm(samples, views) // samples * cut.parts)


class _Finish(NamedTuple):
    """How many parts are left to be summed, of each gradient; 0 where it is finished already."""

    theta_parts: int = 0
    fill_parts: int = 0
    input_parts: int = 0
    fixed: bool = False


def _finish(operands: Layouts, grads: Gradients, warp: Warp, wide: torch.dtype, finish: _Finish) -> list[Step]:
    """The launch that sums parts and rounds, if anything is left to do."""
    import triton.language as tl

    batch, channels = operands.input.shape[:2]
    numbers = _numbers(operands)
    here = operands.place
    theta_blocks = -(-numbers // here.block_p)
    theta_programs = operands.warps * theta_blocks if finish.theta_parts else 0
    fill_programs = -(-channels // here.block_c) if finish.fill_parts else 0
    numel = grads.input.numel() if grads.input is not None and finish.input_parts else 0
    programs = theta_programs + fill_programs + -(-numel // here.block)
    if not programs:
        return []
    roles = ("grad_input", "grad_input_sum", "grad_theta", "grad_theta_parts", "grad_fill", "grad_fill_parts")
    sizes = (
        theta_programs,
        theta_blocks,
        fill_programs,
        finish.theta_parts,
        finish.fill_parts,
        finish.input_parts,
        numel,
        batch,
        numbers,
        channels,
        _count_bits(operands, warp),
    )
    constexprs = {
        "FIXED": finish.fixed,
        "DTYPE": tl.float64 if wide == torch.float64 else tl.float32,
        "BLOCK": here.block,
        "BLOCK_PARTS": here.block_parts,
        "BLOCK_P": here.block_p,
        "BLOCK_C": here.block_c,
    }
    work = numel * finish.input_parts + operands.warps * numbers * finish.theta_parts + channels * finish.fill_parts
    return [_step("finish_backward_kernel", programs, roles, sizes, constexprs, work)]


def _peak(operands: Layouts, grad_output: Layout, wide: torch.dtype) -> Step:
    """The largest finite |grad_output| of each input, from which sums in fixed point take their scale."""
    import triton.language as tl

    batch = operands.input.shape[0]
    block = operands.place.block
    blocks = -(-math.prod(grad_output.shape[1:]) // block)
    return _step(
        "peak_kernel",
        operands.warps * blocks,
        ("grad_input_sum", "grad_output", "input_index"),
        (
            *grad_output.stride,
            batch,
            operands.warps,
            *grad_output.shape[1:],
            *divisor(_views(operands)),
            *divisor(blocks),
        ),
        {
            "INDEXED": operands.input_index is not None,
            "DTYPE": tl.float64 if wide == torch.float64 else tl.float32,
            "BLOCK": block,
        },
        grad_output.numel(),
    )


def _theta_strides(operands: Layouts) -> tuple[int, int]:
    """Between samples and between the numbers of one, which lie evenly."""
    if operands.theta is None:
        return 0, 0
    axes = _theta_axes(operands)
    return operands.theta.stride[0], axes[-1][1] if axes else 0


def _views(operands: Layouts) -> int:
    """How many thetas each input has, unless an index says otherwise."""
    return max(operands.warps // max(operands.input.shape[0], 1), 1)


def divisor(d: int) -> tuple[int, int, int]:
    """d, and by what to multiply and shift instead of dividing by it; see ``divided`` in the kernels' coords.

    With l = ceil(log2 d) the multiplier m = ceil(2^(31 + l) / d) has 32 bits, and n m / 2^(31 + l) is too large by less
    than 1 / d for n < 2^31.
    """
    shift = (d - 1).bit_length()
    multiplier = -(-(2 ** (31 + shift)) // d)
    # As a signed number, so that every one has the same type to Triton.
    return d, multiplier - 2**32 if multiplier >= 2**31 else multiplier, shift


def _scales(operands: Layouts, warp: Warp) -> tuple[float, ...]:
    """The frame of ``target_frame``, in float64; the kernels see float32, or compute it themselves."""
    height, width = (half_extent(n, warp.align_corners) for n in operands.input.shape[2:])
    height_out, width_out = (half_extent_out(n, warp.align_corners) for n in warp.size)
    return (
        width / width_out,
        width / height_out,
        height / width_out,
        height / height_out,
        width,
        height,
        1 / width_out,
        1 / height_out,
    )


def _count_bits(operands: Layouts, warp: Warp) -> int:
    """Bits for the number of terms that a pixel of the input's gradient may have, with room for bicubic weights."""
    per_input = operands.warps if operands.input_index is not None else -(-operands.warps // operands.input.shape[0])
    return (4 * per_input * warp.size[0] * warp.size[1]).bit_length()


def _step(
    kernel: str,
    programs: int,
    roles: tuple[str, ...],
    numbers: tuple[int | float, ...],
    constexprs: Mapping[str, Any],
    work: int,
    config: _configs.Config = _configs.FLAT,
    order: Order = Order(1),  # noqa: B008 - a tuple
) -> Step:
    if programs > INT32_MAX:
        raise ValueError(f"input, theta and size need {programs} programs; at most {INT32_MAX} can run")
    takes_fill = kernel in ("sample_forward_kernel", "sample_backward_kernel")
    pick = itemgetter(*map(ROLES.index, roles))
    return Step(kernel, programs, pick, numbers, constexprs, config, work, takes_fill, order, {})


def _config(operands: Layouts, warp: Warp, kind: str, fixed: bool = False) -> _configs.Config:
    """How a kernel of some kind, see ``_configs.Work``, is cut."""
    import tstn_kernels

    map = {"projective": "projective", "thin_plate_spline": "spline"}.get(warp.kernel, "other")
    if warp.kernel not in tstn_kernels.MAPS:
        map = "custom"
    input = operands.input
    image = input.channels_last, input.shape[1], input.dtype.itemsize
    far = _are_far((input, _output(operands, warp)))
    laden = operands.flow is not None or operands.fill is not None or warp.fill_value != 0
    options = warp.mode == "bicubic", fixed, warp.padding_mode != "zeros", far, laden
    config = operands.place.choose(_configs.Work(*image, map, kind, *options))
    samples = operands.place.samples_per_program(config, config.tiles(warp.size)[0], operands.warps)
    return config if samples == config.samples else dataclasses.replace(config, samples=samples)


class _Cut(NamedTuple):
    """How a call is cut into programs: groups of samples x tiles, or parts of the tiles, x runs of channels."""

    config: _configs.Config
    groups: int
    # Side by side, and in all.
    across: int
    tiles: int
    parts: int
    # Whether lanes carry sums of theta's gradient from tile to tile.
    carried: bool
    splits: int
    run_of_channels: int


def _cut(
    operands: Layouts,
    warp: Warp,
    kind: str,
    parts_of: int = 0,
    splittable: bool = True,
    fixed: bool = False,
    splits: int = 1,
) -> _Cut:
    """``parts_of`` is how many numbers each part leaves behind for each sample; channels are cut into ``splits``."""
    thetas, channels = operands.warps, operands.input.shape[1]

    def dealt(config: _configs.Config) -> tuple[int, int, int, int]:
        tiles, across = config.tiles(warp.size)
        groups = -(-thetas // config.samples)
        parts = operands.place.parts_per_sample(tiles, thetas, groups, parts_of, operands.input.channels_last)
        return groups, across, tiles, parts

    config = _config(operands, warp, kind, fixed)
    groups, across, tiles, parts = dealt(config)
    few = 0 < min(parts_of, _lane_numbers(operands, warp)) <= _configs.FEW_NUMBERS
    if kind == "theta" and few and parts < tiles:
        config = _config(operands, warp, "carried", fixed)
        groups, across, tiles, parts = dealt(config)
    carried = few and parts < tiles
    run = operands.place.channels_per_program(config, groups * parts, channels, _over_channels(operands), splittable)
    if splits > 1 and splittable:
        blocks = -(-channels // config.block_c)
        run = min(run, -(-blocks // splits) * config.block_c)
    return _Cut(config, groups, across, tiles, parts, carried, -(-channels // run), run)


def _arguments(operands: Layouts, warp: Warp) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What both sampling kernels read: strides and sizes, in their order."""
    input, _, flow, fill, _, constants, _ = operands
    batch, channels, height, width = input.shape
    strides = (
        *input.stride,
        *_theta_strides(operands),
        *((0, 0, 0, 0) if flow is None else flow.stride),
        0 if fill is None else fill.stride[0],
    )
    count = 0 if constants is None else constants.shape[0]
    return strides, (batch, operands.warps, channels, height, width, *warp.size, count)


def _constexprs(cut: _Cut, operands: Layouts, warp: Warp, addressed: tuple[Layout, ...]) -> dict[str, Any]:
    """Those that both sampling kernels have."""
    flow, fill, input_index = operands.flow, operands.fill, operands.input_index
    return {
        "SAMPLES": cut.config.samples,
        "FLOW": flow is not None,
        "MODE": warp.mode,
        "PADDING": warp.padding_mode,
        "FILL": "channel" if fill is not None else "scalar" if warp.fill_value != 0 else "none",
        "ALIGN_CORNERS": warp.align_corners,
        "INDEXED": input_index is not None,
        **_tile_constexprs(cut.config, operands, (operands.input, *addressed, *(() if flow is None else (flow,)))),
    }


def _tile_constexprs(config: _configs.Config, operands: Layouts, addressed: tuple[Layout, ...]) -> dict[str, Any]:
    """How tiles lie, in which dtype values are computed and of which width offsets are."""
    import triton.language as tl

    return {
        "CHANNELS_LAST": _over_channels(operands),
        "PART_BLOCKS": operands.input.shape[1] % config.block_c != 0,
        "ONE_BLOCK": operands.input.shape[1] <= config.block_c,
        "DTYPE": tl.float64 if operands.input.dtype == torch.float64 else tl.float32,
        "OFFSET": tl.int64 if _are_far(addressed) else tl.int32,
        "TILE_H": config.tile_h,
        "TILE_W": config.tile_w,
        "BLOCK_C": config.block_c,
    }


def _over_channels(operands: Layouts) -> bool:
    return operands.place.over_channels(operands.input.channels_last, operands.input.shape[1])


def _maps(warp: Warp) -> tuple[Any, Any]:
    """The coordinate map and its vector-Jacobian product."""
    import tstn_kernels

    if warp.kernel in tstn_kernels.MAPS:
        return tstn_kernels.MAPS[warp.kernel]
    from tstn import _generated

    return _generated.kernel_maps(warp.kernel)


def _are_far(addressed: Sequence[Layout]) -> bool:
    """Whether offsets within one sample take 64 bits."""
    return max(map(_reach, addressed)) > INT32_MAX


def _reach(tensor: Layout) -> int:
    """The largest offset within one sample, with a pixel to spare on each side."""
    return sum((size + 2) * stride for size, stride in zip(tensor.shape[1:], tensor.stride[1:], strict=True))
