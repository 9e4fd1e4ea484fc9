"""What the ahead-of-time gate compiles: the benchmark suite, other common calls, and a cover of every pair of options.

A case is one call of :func:`tstn.spatial_transform`; its launches are the library's own, for tensors without
memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from unittest import mock

import torch

from bench.workloads import WORKLOADS, ZOOMS, dtype_name
from tstn import _checks, _launch, examples, ops
from tstn._warp import Needed, Operands, Warp
from tstn.thin_plate import ThinPlateSpline
from tstn.transforms import NAMED, Transform

Setting = tuple[str, str]
Axes = Mapping[str, tuple[str, ...]]

TRANSFORMS: Mapping[str, Transform] = {
    **NAMED,
    "thin_plate_spline": ThinPlateSpline((4, 5)),
    "lens": examples.lens_distortion(),
    "polar": examples.polar(),
    "moebius": examples.moebius(),
}

# What of the benchmark suite's directions has a backward pass, and the gradients it is asked for.
GRADIENTS = {"step": "input+theta", "step_theta": "theta", "grad_input": "input"}

# Every option that changes what is compiled. The first value of each is the usual one.
AXES: Axes = {
    "transform": ("affine", *(name for name in TRANSFORMS if name != "affine")),
    "mode": _checks.MODES,
    "outside": (*_checks.PADDING_MODES, "scalar_fill", "channel_fill"),
    "corners": ("edges", "corners"),
    "dtype": ("float32", "float16", "bfloat16", "float64"),
    "theta_dtype": ("theta_float32", "theta_float16", "theta_bfloat16", "theta_float64"),
    "layout": ("nchw1", "nchw2", "nchw3", "nchw64", "nhwc64", "nhwc3"),
    # Enough tiles that a spline takes all the samples a program can, and few.
    "size": ("384x384", "33x35"),
    # One: a spline's samples have no company. Many: lanes carry the sums of theta's gradient over several tiles.
    "thetas": ("8thetas", "1theta", "1024thetas"),
    "index": ("paired", "indexed"),
    "offsets": ("int32", "int64"),
    # A displacement field beside theta, read or also differentiated.
    "flow": ("plain", "flow", "flow_gradient"),
    "sums": ("atomic", "deterministic"),
    "gradients": ("input+theta", "input", "theta", "fill", "input+fill", "theta+fill", "input+theta+fill"),
}


@dataclass(frozen=True)
class Case:
    """One call: input of ``shape`` (N, C, H, W), ``thetas`` warps to ``size``, and the gradients wanted."""

    name: str
    shape: tuple[int, int, int, int]
    size: tuple[int, int]
    thetas: int
    # A key of TRANSFORMS, or the transform itself.
    transform: str | Transform = "affine"
    mode: str = "bilinear"
    # A padding mode, or "scalar_fill" or "channel_fill".
    outside: str = "zeros"
    align_corners: bool = False
    dtype: str = "float32"
    theta_dtype: str = "float32"
    channels_last: bool = False
    indexed: bool = False
    flow: str = "plain"
    deterministic: bool = False
    # Names joined by "+"; empty for the forward pass alone. A dense theta's is its field's.
    gradients: str = "input+theta"


def suite_cases() -> Iterator[Case]:
    """The calls of the benchmark suite."""
    for workload in (*WORKLOADS, *ZOOMS):
        for direction, gradients in GRADIENTS.items():
            if direction in workload.directions:
                yield Case(
                    f"{workload.id}-{direction}",
                    workload.shape,
                    workload.size,
                    workload.shape[0] * workload.views,
                    workload.transform,
                    align_corners=workload.align_corners,
                    dtype=dtype_name(workload.dtype),
                    channels_last=workload.layout == "channels_last",
                    gradients=gradients,
                )


COMMON = (
    *suite_cases(),
    Case("augmentation", (64, 3, 224, 224), (224, 224), 64, outside="reflection", gradients=""),
    Case("grid_sample", (8, 3, 256, 256), (256, 256), 8, "grid"),
    Case("bicubic", (64, 3, 224, 224), (224, 224), 64, mode="bicubic"),
    Case("registration", (4, 1, 256, 256), (256, 256), 4, flow="flow_gradient"),
    Case("lens", (64, 3, 224, 224), (224, 224), 64, "lens"),
    Case("polar", (64, 3, 224, 224), (224, 224), 64, "polar"),
    Case("moebius", (64, 3, 224, 224), (224, 224), 64, "moebius"),
)


def possible(a: Setting, b: Setting) -> bool:
    """Whether one call can have both: nearest has no slope, a scalar fill no gradient, dense theta no second field."""
    chosen = dict((a, b))
    gradients = chosen.get("gradients", "").split("+")
    if chosen.get("mode") == "nearest" and ("theta" in gradients or chosen.get("flow") == "flow_gradient"):
        return False
    if chosen.get("transform") in ("flow", "grid") and chosen.get("flow", "plain") != "plain":
        return False
    return "fill" not in gradients or chosen.get("outside", "channel_fill") == "channel_fill"


def cover(axes: Axes, possible: Callable[[Setting, Setting], bool]) -> list[dict[str, str]]:
    """Few rows, one value per axis, in which every possible pair of settings occurs; always the same ones.

    Each row starts from the first pair still missing and takes, axis by axis, the value that adds most pairs,
    among equals the one used least.
    """
    settings = [[(axis, value) for value in values] for axis, values in axes.items()]
    missing = {frozenset(pair): None for a, b in combinations(settings, 2) for pair in product(a, b) if possible(*pair)}
    used = Counter[Setting]()

    def gain(choice: Setting, row: list[Setting]) -> int:
        return sum(frozenset((choice, other)) in missing for other in row)

    rows = []
    while missing:
        row = list(next(iter(missing)))
        for choices in settings:
            if any(choice in row for choice in choices):
                continue
            allowed = [choice for choice in choices if all(possible(choice, other) for other in row)]
            row.append(max(allowed, key=lambda choice: (gain(choice, row), -used[choice])))
        used.update(row)
        for pair in combinations(row, 2):
            missing.pop(frozenset(pair), None)
        rows.append({axis: dict(row)[axis] for axis in axes})
    return rows


def everything(axes: Axes, possible: Callable[[Setting, Setting], bool]) -> Iterator[dict[str, str]]:
    """Every possible combination of settings."""
    for values in product(*axes.values()):
        row = dict(zip(axes, values, strict=True))
        if all(possible(*pair) for pair in combinations(row.items(), 2)):
            yield row


def case_of(row: Mapping[str, str]) -> Case:
    """The call that has the given value on each of AXES."""
    height, width = (int(side) for side in row["size"].split("x"))
    far = row["offsets"] == "int64"
    # Too many pixels for 32-bit offsets within one sample; a multiple of 16, so that sizes divide as before.
    beyond = 65536 if far else 0
    return Case(
        name="-".join(row.values()),
        shape=(1 if far or row["thetas"] == "1theta" else 8, int(row["layout"][4:]), height + beyond, width + beyond),
        size=(height, width),
        thetas=int(row["thetas"].partition("theta")[0]),
        transform=row["transform"],
        mode=row["mode"],
        outside=row["outside"],
        align_corners=row["corners"] == "corners",
        dtype=row["dtype"],
        theta_dtype=row["theta_dtype"].removeprefix("theta_"),
        channels_last=row["layout"].startswith("nhwc"),
        indexed=row["index"] == "indexed",
        flow=row["flow"],
        deterministic=row["sums"] == "deterministic",
        gradients=row["gradients"],
    )


def heaviest(axes: Axes) -> list[dict[str, str]]:
    """Where registers are scarcest, in each layout: a cover of pairs does not bring these settings together."""
    usual = {axis: values[0] for axis, values in axes.items()}
    extras = (
        {"dtype": "float64"},
        {"dtype": "float64", "outside": "reflection", "index": "indexed", "offsets": "int64"},
        {"outside": "channel_fill", "index": "indexed", "offsets": "int64", "gradients": "input+theta+fill"},
        {"mode": "bicubic", "outside": "reflection", "transform": "thin_plate_spline", "flow": "flow_gradient"},
        {"mode": "bicubic", "dtype": "float64", "transform": "moebius", "sums": "deterministic"},
        {"mode": "bicubic", "transform": "projective", "outside": "channel_fill", "gradients": "input+theta+fill"},
        {"transform": "thin_plate_spline", "dtype": "float64"},
        {"transform": "thin_plate_spline"},
        {"transform": "thin_plate_spline", "gradients": "theta"},
    )
    return [usual | {"layout": layout} | extra for layout in axes["layout"] for extra in extras]


def gate_cases() -> list[Case]:
    """The cases that the table holds."""
    rows = [*heaviest(AXES), *cover(AXES, possible)]
    return [*COMMON, *(case_of(row) for row in rows)]


def all_cases() -> Iterator[Case]:
    """The common cases, then every combination of options."""
    yield from COMMON
    yield from map(case_of, everything(AXES, possible))


def launches(case: Case) -> list[_launch.Launch]:
    """What the forward and backward passes of a call launch, in order."""
    dtype = getattr(torch, case.dtype)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    transform = TRANSFORMS[case.transform] if isinstance(case.transform, str) else case.transform
    input = torch.empty(case.shape, dtype=dtype, device="meta", memory_format=layout)
    theta_dtype = getattr(torch, case.theta_dtype)
    theta = flow = constants = None
    wanted = case.gradients.split("+")
    field = torch.empty(case.thetas, *case.size, 2, dtype=theta_dtype, device="meta")
    if transform.is_dense:
        flow = field
    else:
        theta = torch.empty(case.thetas, math.prod(transform.theta_shape), dtype=theta_dtype, device="meta")
        flow = None if case.flow == "plain" else field
    if isinstance(transform, ThinPlateSpline):
        constants = torch.empty(len(transform.points), 2, device="meta")
    fill = input.new_empty(case.shape[1]) if case.outside == "channel_fill" else None
    index = torch.empty(case.thetas, dtype=torch.int64, device="meta") if case.indexed else None
    padding = "zeros" if case.outside.endswith("fill") else case.outside
    value = 0.5 if case.outside == "scalar_fill" else 0.0
    operands = Operands(input, theta, flow, fill, index, constants)
    warp = Warp(transform.kernel, case.size, case.mode, padding, case.align_corners, value)
    needed = Needed(
        input="input" in wanted,
        theta="theta" in wanted and theta is not None,
        flow=case.flow == "flow_gradient" or ("theta" in wanted and transform.is_dense),
        fill="fill" in wanted,
    )
    recorded: list[_launch.Launch] = []

    def record(launch: _launch.Launch, device: torch.device) -> None:
        recorded.append(launch)

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(case.deterministic)
    try:
        with (
            mock.patch.object(_launch.Launch, "run", record),
            mock.patch.object(ops, "backend_for", return_value="triton"),
        ):
            if isinstance(transform, ThinPlateSpline):
                assert theta is not None
                theta = theta.unflatten(1, (-1, 2)).requires_grad_(needed.theta)
                theta = ops.pack(theta, transform, input)
                operands = operands._replace(theta=theta.detach())
            call = _launch.call_of(operands, warp)
            output = _launch.forward(*call)
            if case.gradients:
                grads = _launch.backward(output, *call, needed)
                if theta is not None and theta.requires_grad:
                    theta.backward(grads[1])
    finally:
        torch.use_deterministic_algorithms(before)
    return recorded
