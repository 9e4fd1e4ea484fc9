"""What is timed: the workloads, tstn and its peers, and the check that each is right before it is timed.

A peer is PyTorch's own way to do the same job, from theta to the warped image, set up as well as it can be:

- Several views of one input are one tall grid over it, never copies of the input.
- PyTorch's sampler wants the grid in the input's dtype, so that for bfloat16 a peer gets a bfloat16 theta and
  computes bfloat16 coordinates, up to half a pixel off in these sizes. tstn gets a float32 theta and computes float32
  coordinates. The peer's job is the easier one; ``errors`` beside each time say by how much.
- With ``align_corners=True`` PyTorch takes cuDNN's sampler where the dtype allows, so that both it and PyTorch's own
  are peers there. ``torch.compile`` cannot see into cuDNN's, so that it is given PyTorch's own.
- PyTorch's sampler reads channels_last inputs as they are and gives NCHW.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

import tstn

# What is computed in each direction, in this order.
DIRECTIONS = {
    "forward": ("output",),
    "step": ("output", "grad_input", "grad_theta"),
    # As for a transformer on a network's own input.
    "step_theta": ("output", "grad_theta"),
}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Workload:
    """One job: ``views`` warps of each of a batch of inputs.

    Attributes:
        name: What the job is like.
        shape: The input, (N, C, H, W).
        size: The output, (H_out, W_out).
        cpu_batch: N on a machine without a GPU.
        degrees: The angle of an affine rotation; None: random moderate affines.
        transform: ``"affine"``, or ``"attention"`` at half scale.
        views: How many thetas each input has.
        dtype: Of the input.
        layout: A key of ``LAYOUTS``.
        align_corners: As in :func:`tstn.spatial_transform`.
        directions: Keys of ``DIRECTIONS``.
        compiled_on_cpu: Whether ``torch.compile`` is also worth its seconds on a machine without a GPU.
    """

    name: str
    shape: tuple[int, int, int, int]
    size: tuple[int, int]
    cpu_batch: int
    degrees: float | None = None
    transform: str = "affine"
    views: int = 1
    dtype: torch.dtype = torch.float32
    layout: str = "nchw"
    align_corners: bool = False
    directions: tuple[str, ...] = ("forward", "step")
    compiled_on_cpu: bool = False

    @property
    def id(self) -> str:
        """The name with what tells variants of one job apart."""
        parts = [self.name, dtype_name(self.dtype)]
        parts += ["channels_last"] * (self.layout == "channels_last") + ["corners"] * self.align_corners
        return "-".join(parts)

    def on_cpu(self) -> Workload:
        """The same job with a batch that a CPU gets through."""
        return replace(self, shape=(self.cpu_batch, *self.shape[1:]))


def dtype_name(dtype: torch.dtype) -> str:
    """As in "float32"."""
    return str(dtype).removeprefix("torch.")


_ALL = ("forward", "step", "step_theta")
_HALF = torch.bfloat16
_MNIST = Workload("mnist", (256, 1, 28, 28), (28, 28), cpu_batch=256, directions=_ALL, compiled_on_cpu=True)
_CLUTTERED = Workload("cluttered", (256, 1, 60, 60), (30, 30), cpu_batch=64, directions=_ALL)
_SVHN = Workload("svhn", (128, 3, 64, 64), (64, 64), cpu_batch=16)
_INNER = Workload("inner", (128, 48, 32, 32), (32, 32), cpu_batch=8)
_BIRDS = Workload(
    "birds",
    (16, 3, 448, 448),
    (224, 224),
    1,
    transform="attention",
    views=4,
    directions=("forward", "step_theta"),
)
# The identity is timed a quarter of a pixel off: it costs the same, but at whole pixels the derivative jumps, and
# float32 coordinates fall on either side.
_HD = Workload("hd", (8, 3, 1080, 1920), (1080, 1920), cpu_batch=1, degrees=0.0)
_FEATURE = Workload("feature", (32, 256, 64, 64), (64, 64), cpu_batch=1, degrees=20.0)

WORKLOADS = (
    _MNIST,
    _CLUTTERED,
    replace(_SVHN, compiled_on_cpu=True),
    replace(_SVHN, dtype=_HALF),
    replace(_SVHN, align_corners=True),
    _INNER,
    replace(_INNER, dtype=_HALF),
    _BIRDS,
    replace(_BIRDS, dtype=_HALF),
    replace(_HD, name="hd_identity"),
    replace(_HD, name="hd_rotated", degrees=15.0),
    _FEATURE,
    replace(_FEATURE, layout="channels_last"),
    replace(_FEATURE, dtype=_HALF),
    replace(_FEATURE, dtype=_HALF, layout="channels_last"),
    replace(_FEATURE, align_corners=True),
)


@dataclass(frozen=True, eq=False)
class Problem:
    """A workload's tensors: input (N, C, H, W), float32 theta (N, [K,] *P), grad_output (N, [K,] C, H_out, W_out)."""

    workload: Workload
    input: Tensor
    theta: Tensor
    grad_output: Tensor

    @staticmethod
    def of(workload: Workload, device: str) -> Problem:
        """The same numbers on every device. Images are smooth, as real ones are, so that coordinates matter."""
        generator = torch.Generator().manual_seed(0)
        batch, channels, height, width = workload.shape
        input = _smooth(batch, channels, (height, width), generator).to(device, workload.dtype)
        theta = _thetas(workload, generator).to(device)
        grad_output = _smooth(batch * workload.views, channels, workload.size, generator).to(device, workload.dtype)
        memory_format = LAYOUTS[workload.layout]
        if workload.views > 1:
            grad_output = grad_output.unflatten(0, (batch, workload.views))
        else:
            grad_output = grad_output.contiguous(memory_format=memory_format)
        return Problem(workload, input.contiguous(memory_format=memory_format), theta, grad_output)


def _smooth(batch: int, channels: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    height, width = size
    coarse = torch.randn(batch, channels, max(height // 8, 2), max(width // 8, 2), generator=generator)
    return F.interpolate(coarse, size, mode="bilinear", align_corners=False)


def _thetas(workload: Workload, generator: torch.Generator) -> Tensor:
    batch, _, height, width = workload.shape
    if workload.transform == "attention":
        centre = torch.rand(batch, workload.views, 2, generator=generator) - 0.5
        return torch.cat((torch.full_like(centre[..., :1], 0.5), centre), dim=-1)
    quarter_pixel = torch.tensor([0.5 / width, 0.5 / height]).expand(batch, 2)
    if workload.degrees is not None:
        angle, scale, shift = (
            torch.full((batch,), math.radians(workload.degrees)),
            torch.ones(batch),
            quarter_pixel,
        )
    else:
        angle, scale, x, y = torch.rand(4, batch, generator=generator)
        angle, scale, shift = (
            angle - 0.5,
            0.8 + 0.4 * scale,
            quarter_pixel + 0.2 * torch.stack((x, y), dim=-1) - 0.1,
        )
    cos, sin = scale * angle.cos(), scale * angle.sin()
    # A rotation in pixels, not in normalised coordinates, which would shear an image that is not square.
    rows = (cos, -sin * height / width, shift[:, 0], sin * width / height, cos, shift[:, 1])
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 3))


def fused(input: Tensor, theta: Tensor, workload: Workload) -> Tensor:
    """One call of tstn."""
    return tstn.spatial_transform(input, theta, workload.transform, workload.size, align_corners=workload.align_corners)


def unfused(input: Tensor, theta: Tensor, workload: Workload) -> Tensor:
    """PyTorch's way: build the grid, then sample."""
    return sample(input, grid_of(theta, workload), workload)


def grid_of(theta: Tensor, workload: Workload) -> Tensor:
    """The sampling grid (N, K * H_out, W_out, 2): the views of one input stacked to a tall one."""
    if workload.transform == "attention":
        # One small product; building the matrices entry by entry would launch more kernels.
        basis = theta.new_tensor([[1, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]])
        theta = (theta.flatten(0, 1) @ basis).unflatten(-1, (2, 3))
    height, width = workload.size
    grid = F.affine_grid(theta, [theta.shape[0], 1, height, width], align_corners=workload.align_corners)
    return grid.view(-1, workload.views * height, width, 2)


def sample(input: Tensor, grid: Tensor, workload: Workload) -> Tensor:
    """Sample at a grid of :func:`grid_of`, and take its views apart again."""
    out = F.grid_sample(input, grid, align_corners=workload.align_corners)
    return out if workload.views == 1 else out.unflatten(2, (workload.views, -1)).transpose(1, 2)


@dataclass(frozen=True)
class Implementation:
    """Tensors to a warped image, and how it is to be set up.

    Attributes:
        name: In tables and results.
        call: From (input, theta or the ready grid, workload) to the output.
        compiled: Whether ``call`` goes through ``torch.compile``, fullgraph and with static shapes.
        cudnn: Whether PyTorch may take cuDNN's sampler.
        ready_grid: Whether it starts from the grid and not from theta: a reference, not a peer.
    """

    name: str
    call: Callable[[Tensor, Tensor, Workload], Tensor]
    compiled: bool = False
    cudnn: bool = False
    ready_grid: bool = False

    def settings(self) -> AbstractContextManager[None]:
        """The flags under which it runs, backward pass included."""
        return torch.backends.cudnn.flags(enabled=self.cudnn)

    def prepare(self, problem: Problem, direction: str) -> Callable[[], tuple[Tensor, ...]]:
        """What is timed: a function without arguments that returns the results of a direction."""
        workload = problem.workload
        second = problem.theta if self.call is fused else problem.theta.to(workload.dtype)
        if self.ready_grid:
            second = grid_of(second, workload)
        input = problem.input.detach().requires_grad_("grad_input" in DIRECTIONS[direction])
        second = second.detach().requires_grad_("grad_theta" in DIRECTIONS[direction])
        call: Callable[[Tensor, Tensor], Tensor] = lambda x, t: self.call(x, t, workload)  # noqa: E731
        if self.compiled:
            torch._dynamo.reset()
            call = torch.compile(call, fullgraph=True, dynamic=False)
        wanted = [t for t in (input, second) if t.requires_grad]
        grad_output = problem.grad_output

        def run() -> tuple[Tensor, ...]:
            out = call(input, second)
            return (out, *torch.autograd.grad(out, wanted, grad_output)) if wanted else (out,)

        return run


TSTN = Implementation("tstn", fused)
EAGER = Implementation("eager", unfused)
EAGER_CUDNN = Implementation("eager_cudnn", unfused, cudnn=True)
COMPILED = Implementation("compiled", unfused, compiled=True)
READY_GRID = Implementation("ready_grid", sample, ready_grid=True)
IMPLEMENTATIONS = (TSTN, EAGER, EAGER_CUDNN, COMPILED, READY_GRID)


def implementations(workload: Workload, cuda: bool) -> Iterator[Implementation]:
    """Those that have something to show on this workload and device, tstn first."""
    half = workload.dtype != torch.float32
    _, channels, height, width = workload.shape
    span = height * width * (channels if workload.layout == "channels_last" else 1)
    # On a CPU, PyTorch's half precision sampler has 16-bit offsets: in larger images it reads stray memory.
    broken = half and not cuda and span > 2**15
    for implementation in IMPLEMENTATIONS:
        if implementation.cudnn and not (cuda and workload.align_corners and not half):
            continue
        if broken and implementation is not TSTN:
            continue
        if implementation.compiled and not (cuda or workload.compiled_on_cpu):
            continue
        yield implementation


@dataclass(frozen=True)
class Truth:
    """The float64 result, from PyTorch's own sampler, and how much of the input it looks at."""

    output: Tensor
    grad_input: Tensor
    grad_theta: Tensor
    elements_read: int


@lru_cache(maxsize=1)
def truth(problem: Problem) -> Truth:
    """What every implementation has to compute, from float64 coordinates of the float32 theta."""
    input, theta = (t.double().requires_grad_() for t in (problem.input, problem.theta))
    with EAGER.settings():
        output = unfused(input, theta, problem.workload)
        grad_input, grad_theta = torch.autograd.grad(output, (input, theta), problem.grad_output.double())
    # What gets no gradient is not looked at.
    return Truth(output.detach(), grad_input, grad_theta, int(grad_input.count_nonzero()))


# Largest relative error in the Euclidean norm. The derivative in theta jumps at whole pixels, and float32 coordinates
# put a few samples in ten thousand on the other side.
FLOAT32 = {"output": 1e-4, "grad_input": 1e-3, "grad_theta": 5e-3}
BFLOAT16 = {"output": 4e-3, "grad_input": 4e-3, "grad_theta": 5e-3}
# Coordinates in bfloat16 cost more than the rest; the float32 rows check the same code sharply.
BFLOAT16_PEER = {"output": 0.3, "grad_input": 0.3, "grad_theta": 0.3}


def check(
    problem: Problem, implementation: Implementation, direction: str, results: tuple[Tensor, ...]
) -> dict[str, float]:
    """The relative errors of one run's results.

    Raises:
        AssertionError: If a result has the wrong shape or dtype or is further off than it may be.
    """
    expected = truth(problem)
    if implementation.ready_grid and direction != "forward":
        # The gradient is the grid's; take it on to theta.
        theta = problem.theta.double().requires_grad_()
        grid = grid_of(theta, problem.workload)
        results = (*results[:-1], *torch.autograd.grad(grid, theta, results[-1].double()))
    if problem.workload.dtype == torch.float32:
        limits = FLOAT32
    else:
        limits = BFLOAT16 if implementation is TSTN else BFLOAT16_PEER
    errors: dict[str, float] = {}
    for name, result in zip(DIRECTIONS[direction], results, strict=True):
        target: Tensor = getattr(expected, name)
        if result.shape != target.shape:
            raise AssertionError(
                f"{implementation.name}: {name} has shape {tuple(result.shape)}, not {tuple(target.shape)}"
            )
        errors[name] = float((result.detach() - target).norm() / target.norm())
        # Written so that NaN fails.
        if not errors[name] <= limits[name]:
            raise AssertionError(
                f"{implementation.name} on {problem.workload.id}: the relative error of {name} is "
                f"{errors[name]:.2g}; at most {limits[name]:g} passes"
            )
    return errors


def floor_bytes(problem: Problem, direction: str) -> int:
    """The least memory traffic: each input element that is looked at read once, each result written once.

    A backward pass reads the input and the output's gradient once more, and writes the input's gradient if wanted.
    """
    size = problem.input.element_size()
    read, out = truth(problem).elements_read, problem.grad_output.numel()
    elements = read + out
    if direction != "forward":
        elements += read + out
    if direction == "step":
        elements += problem.input.numel()
    return elements * size
