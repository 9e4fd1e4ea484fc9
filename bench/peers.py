"""What does the jobs: tstn and its peers, and the check that each is right before it is timed.

A peer is PyTorch's own way, from theta to the warped image, set up as well as it can be:

- Several views of one input are one tall grid over it; copies of the input and a loop over views are peers of their
  own. What does not depend on theta, such as a spline's basis, is made beforehand.
- PyTorch's sampler wants the grid in the input's dtype, so that for half precision a peer gets a half theta and
  computes half coordinates: less to write and read than tstn's job, whose coordinates are float32; ``errors`` beside
  each time say what it costs. Where coordinates may then be off by more than a quarter of a pixel it is no longer the
  same job, and the peer samples a float32 copy of the image instead. So it does on a CPU for all but small images,
  where PyTorch's half sampler reads and writes stray memory.
- With ``align_corners=True`` PyTorch takes cuDNN's sampler where the dtype allows, so that both it and PyTorch's own
  are peers there. ``torch.compile`` cannot see into cuDNN's, so that it is given PyTorch's own.
- PyTorch's sampler reads channels_last inputs as they are and gives NCHW.
- Nobody runs in a CUDA graph, and nobody's matrix products are in tf32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

import tstn
from bench.grids import QUICKEST, USUAL, Grid, sample, usual_grid
from bench.workloads import DIRECTIONS, Problem, Workload, fused, truth

# From theta to a grid.
Build = Callable[[Tensor], Tensor]


def _fused(input: Tensor, theta: Tensor, workload: Workload, build: Build) -> Tensor:
    return fused(input, theta, workload)


def _affine(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    u, v = theta
    return u[0] * x + u[1] * y + u[2], v[0] * x + v[1] * y + v[2]


# An affine map that tstn does not know for one: its input gradient scatters, under the same padding.
_SCATTERING = tstn.CustomTransform(_affine, (2, 3), (1, 0, 0, 0, 1, 0))


def _scatter(input: Tensor, theta: Tensor, workload: Workload, build: Build) -> Tensor:
    return tstn.spatial_transform(input, theta, _SCATTERING, workload.size, align_corners=workload.align_corners)


def _unfused(input: Tensor, theta: Tensor, workload: Workload, build: Build) -> Tensor:
    return sample(input, build(theta), workload)


def _sampled(input: Tensor, grid: Tensor, workload: Workload, build: Build) -> Tensor:
    return sample(input, grid, workload)


def _copied(input: Tensor, theta: Tensor, workload: Workload, build: Build) -> Tensor:
    """A copy of the input for each view."""
    grid = build(theta).view(-1, *workload.size, 2)
    copies = input[:, None].expand(-1, workload.views, -1, -1, -1).flatten(0, 1)
    return F.grid_sample(copies, grid, align_corners=workload.align_corners).unflatten(0, (-1, workload.views))


def _looped(input: Tensor, theta: Tensor, workload: Workload, build: Build) -> Tensor:
    """A call for each view."""
    grid = build(theta).view(-1, workload.views, *workload.size, 2)
    views = [F.grid_sample(input, view, align_corners=workload.align_corners) for view in grid.unbind(1)]
    return torch.stack(views, dim=1)


def _kornia(input: Tensor, pixels: Tensor, workload: Workload, build: Build) -> Tensor:
    from kornia.geometry.transform import warp_affine, warp_perspective  # pyright: ignore[reportMissingImports]

    warp = warp_affine if workload.family == "affine" else warp_perspective
    return warp(input, pixels, workload.size, align_corners=workload.align_corners)


def _pixel_matrix(theta: Tensor, workload: Workload) -> Tensor:
    """What kornia calls the transform: from input pixels to output pixels, (N, 2, 3) or (N, 3, 3)."""

    def to_pixels(size: tuple[int, int]) -> Tensor:
        height, width = size
        scale = [(side - 1) / 2 if workload.align_corners else side / 2 for side in (width, height)]
        centre = [(width - 1) / 2, (height - 1) / 2]
        return theta.new_tensor([[scale[0], 0, centre[0]], [0, scale[1], centre[1]], [0, 0, 1]])

    if workload.family == "affine":
        theta = torch.cat((theta, theta.new_tensor([[[0, 0, 1]]]).expand(len(theta), 1, 3)), dim=1)
    height, width = workload.shape[2:]
    to_input = to_pixels((height, width)) @ theta @ torch.linalg.inv(to_pixels(workload.size))
    to_output = torch.linalg.inv(to_input)
    return to_output[:, :2] if workload.family == "affine" else to_output


def _none(theta: Tensor) -> Tensor:
    raise AssertionError("this implementation builds no grid")


def _as_it_is(theta: Tensor, workload: Workload) -> Tensor:
    return theta


@dataclass(frozen=True, eq=False)
class Implementation:
    """Tensors to a warped image, and how it is to be set up.

    Attributes:
        name: In tables and results.
        role: "tstn"; "eager" or "compiled", PyTorch as users write it; "peer", any other way to do the same job; or
            "reference", which starts from the grid and not from theta.
        call: From (input, second operand, workload, how to build a grid) to the output.
        grids: How it builds a grid, by family; empty if it builds none.
        second: The second operand from theta, made beforehand.
        compiled: Whether ``call`` goes through ``torch.compile``, fullgraph and with static shapes.
        cudnn: Whether PyTorch may take cuDNN's sampler.
        float32: Whether it computes float32 coordinates, and samples a float32 copy of a half input.
        backend: tstn's backend; None: the one that is chosen already.
    """

    name: str
    role: str
    call: Callable[[Tensor, Tensor, Workload, Build], Tensor]
    grids: Mapping[str, Grid]
    second: Callable[[Tensor, Workload], Tensor] = _as_it_is
    compiled: bool = False
    cudnn: bool = False
    float32: bool = False
    backend: str | None = None

    @contextmanager
    def settings(self) -> Iterator[None]:
        """The flags under which it runs, backward pass included."""
        backend = nullcontext() if self.backend is None else tstn.backend(self.backend)
        with torch.backends.cudnn.flags(enabled=self.cudnn), backend:
            yield

    def coordinates(self, workload: Workload) -> torch.dtype:
        """The dtype of theta and the grid."""
        return torch.float32 if self.float32 or self.role == "tstn" else workload.dtype

    def _builder(self, workload: Workload, like: Tensor) -> Build:
        if not self.grids:
            return _none
        grid = self.grids[workload.family]
        constants = grid.constants(workload, like)
        return lambda theta: grid.build(theta, constants, workload)

    def prepare(self, problem: Problem, direction: str) -> Callable[[], tuple[Tensor, ...]]:
        """What is timed: a function without arguments that returns the results of a direction."""
        workload, wanted = problem.workload, DIRECTIONS[direction]
        dtype = self.coordinates(workload)
        second = self.second(problem.theta.double(), workload).to(dtype)
        build = self._builder(workload, second)
        input = problem.input.detach().requires_grad_("grad_input" in wanted)
        second = second.detach().requires_grad_("grad_theta" in wanted)

        def call(input: Tensor, second: Tensor) -> Tensor:
            if not self.float32:
                return self.call(input, second, workload, build)
            return self.call(input.float(), second, workload, build).to(workload.dtype)

        if self.compiled:
            torch._dynamo.reset()
            call = torch.compile(call, fullgraph=True, dynamic=False)
        leaves = [t for t in (input, second) if t.requires_grad]
        grad_output = problem.grad_output
        if "output" not in wanted:
            out = call(input, second)
            return lambda: torch.autograd.grad(out, leaves, grad_output, retain_graph=True)

        def run() -> tuple[Tensor, ...]:
            out = call(input, second)
            return (out, *torch.autograd.grad(out, leaves, grad_output)) if leaves else (out,)

        return run


TSTN = Implementation("tstn", "tstn", _fused, {})
TSTN_SCATTER = Implementation("tstn_scatter", "tstn", _scatter, {})
EAGER = Implementation("eager", "eager", _unfused, USUAL)
READY_GRID = Implementation("ready_grid", "reference", _sampled, {}, second=usual_grid)
IMPLEMENTATIONS = (
    TSTN,
    EAGER,
    replace(EAGER, name="eager_cudnn", cudnn=True),
    replace(EAGER, name="eager_float32", float32=True),
    Implementation("broadcast", "peer", _unfused, QUICKEST),
    READY_GRID,
    Implementation("compiled", "compiled", _unfused, USUAL, compiled=True),
    Implementation("copies", "peer", _copied, QUICKEST),
    Implementation("loop", "peer", _looped, QUICKEST),
    Implementation("kornia", "peer", _kornia, {}, second=_pixel_matrix),
    Implementation("broadcast_compiled", "peer", _unfused, QUICKEST, compiled=True),
)


def coarse(workload: Workload) -> bool:
    """Whether coordinates in the input's dtype may be off by more than a quarter of a pixel, rounded once below 1."""
    return torch.finfo(workload.dtype).eps / 4 * max(workload.shape[2:]) / 2 > 0.25


# PyTorch's half precision sampler on a CPU has pixel indices in half precision and offsets of 16 bits. In larger images
# indices are rounded and offsets wrap, and it reads and writes beside the image.
MOST_HALF_SIDE, MOST_HALF_SPAN = 128, 2**15


def strays(workload: Workload) -> bool:
    """Whether PyTorch's sampler on a CPU may leave an image of the input's dtype."""
    _, channels, height, width = workload.shape
    span = height * width * (channels if workload.layout == "channels_last" else 1)
    large = max(height, width, *workload.size) > MOST_HALF_SIDE or span > MOST_HALF_SPAN
    return workload.dtype != torch.float32 and large


def implementations(workload: Workload, cuda: bool) -> Iterator[Implementation]:
    """Those that have something to show on this workload and device, tstn first."""
    if "grad_input" in workload.directions:
        yield from (TSTN, TSTN_SCATTER, READY_GRID)
        return
    half = workload.dtype != torch.float32
    copied = half and (coarse(workload) or (not cuda and strays(workload)))
    for implementation in IMPLEMENTATIONS:
        if copied and implementation is not TSTN:
            implementation = replace(implementation, float32=True)
        name = implementation.name
        apt = {
            "eager_cudnn": cuda and workload.align_corners and not half,
            "eager_float32": half and not copied,
            # For a flow PyTorch's usual way is this one already.
            "broadcast": workload.family != "flow",
            "broadcast_compiled": workload.family != "flow" and cuda,
            "compiled": cuda or workload.compiled_on_cpu,
            "copies": workload.views > 1,
            "loop": workload.views > 1,
            "kornia": workload.family in ("affine", "projective") and not half and find_spec("kornia") is not None,
        }
        if apt.get(name, True):
            yield implementation


# Largest relative error in the Euclidean norm. The derivative in theta jumps at whole pixels, and float32 coordinates
# put a few samples in ten thousand on the other side.
LIMITS = {
    torch.float32: {"output": 1e-4, "grad_input": 1e-3, "grad_theta": 5e-3},
    torch.bfloat16: {"output": 4e-3, "grad_input": 4e-3, "grad_theta": 5e-3},
    torch.float16: {"output": 1e-3, "grad_input": 1e-3, "grad_theta": 5e-3},
}
# Half coordinates cost more than the rest; the float32 rows check the same code sharply.
HALF_COORDINATES = {"output": 0.3, "grad_input": 0.3, "grad_theta": 0.3}


def check(
    problem: Problem, implementation: Implementation, direction: str, results: tuple[Tensor, ...]
) -> dict[str, float]:
    """The relative errors of one run's results.

    Raises:
        AssertionError: If a result has the wrong shape or dtype or is further off than it may be.
    """
    workload, expected = problem.workload, truth(problem)
    if implementation.second is not _as_it_is and "grad_theta" in DIRECTIONS[direction]:
        # The gradient is the second operand's; take it on to theta.
        theta = problem.theta.double().requires_grad_()
        second = implementation.second(theta, workload)
        results = (*results[:-1], *torch.autograd.grad(second, theta, results[-1].double()))
    half_coordinates = implementation.coordinates(workload) != torch.float32
    limits = HALF_COORDINATES if half_coordinates else LIMITS[workload.dtype]
    errors: dict[str, float] = {}
    for name, result in zip(DIRECTIONS[direction], results, strict=True):
        target: Tensor = getattr(expected, name)
        if result.shape != target.shape:
            raise AssertionError(
                f"{implementation.name}: {name} has shape {tuple(result.shape)}, not {tuple(target.shape)}"
            )
        if name != "grad_theta" and result.dtype != workload.dtype:
            raise AssertionError(f"{implementation.name}: {name} is {result.dtype}, not {workload.dtype}")
        errors[name] = float((result.detach() - target).norm() / target.norm())
        # Written so that NaN fails.
        if not errors[name] <= limits[name]:
            raise AssertionError(
                f"{implementation.name} on {workload.id}: the relative error of {name} is {errors[name]:.2g}; "
                f"at most {limits[name]:g} passes"
            )
    return errors
