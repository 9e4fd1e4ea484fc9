"""The jobs that are timed: the workloads, their tensors, the right results, and the least memory traffic.

``WORKLOADS`` is the suite; ``ZOOMS`` compares ways to the input's gradient only. What does these jobs, and the check
that it does, is in :mod:`bench.peers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

import tstn
from bench.grids import sample, usual_grid

# What is computed in each direction, in this order.
DIRECTIONS = {
    "forward": ("output",),
    "step": ("output", "grad_input", "grad_theta"),
    # As for a transformer on a network's own input.
    "step_theta": ("output", "grad_theta"),
    # A backward pass alone.
    "grad_input": ("grad_input",),
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
        transform: As :func:`tstn.spatial_transform` takes it.
        degrees: The angle of an affine rotation; None: random moderate affines.
        zoom: How many times larger things appear, for affine and attention.
        views: How many thetas each input has.
        dtype: Of the input.
        layout: A key of ``LAYOUTS``.
        align_corners: As in :func:`tstn.spatial_transform`.
        directions: Keys of ``DIRECTIONS``.
        cpu_shrink: By how much images are smaller each way on a machine without a GPU.
        compiled_on_cpu: Whether ``torch.compile`` is also worth its seconds on a machine without a GPU.
    """

    name: str
    shape: tuple[int, int, int, int]
    size: tuple[int, int]
    cpu_batch: int
    transform: str | tstn.ThinPlateSpline = "affine"
    degrees: float | None = None
    zoom: float = 1.0
    views: int = 1
    dtype: torch.dtype = torch.float32
    layout: str = "nchw"
    align_corners: bool = False
    directions: tuple[str, ...] = ("forward", "step")
    cpu_shrink: int = 1
    compiled_on_cpu: bool = False

    @property
    def id(self) -> str:
        """The name with what tells variants of one job apart."""
        parts = [self.name, dtype_name(self.dtype)]
        parts += ["channels_last"] * (self.layout == "channels_last") + ["corners"] * self.align_corners
        return "-".join(parts)

    @property
    def family(self) -> str:
        """The name of the transform's family."""
        return self.transform if isinstance(self.transform, str) else self.transform.name

    def on_cpu(self) -> Workload:
        """The same job with images that a CPU gets through."""
        _, channels, *input_size = self.shape
        height, width, out_height, out_width = (side // self.cpu_shrink for side in (*input_size, *self.size))
        shape = (self.cpu_batch, channels, height, width)
        return replace(self, shape=shape, size=(out_height, out_width), cpu_shrink=1)


def dtype_name(dtype: torch.dtype) -> str:
    """As in "float32"."""
    return str(dtype).removeprefix("torch.")


def _in_types(workload: Workload, *dtypes: torch.dtype) -> list[Workload]:
    return [replace(workload, dtype=dtype) for dtype in dtypes]


_ON_DATA = ("forward", "step", "step_theta")
_F32, _BF16, _F16 = torch.float32, torch.bfloat16, torch.float16
_MNIST = Workload("mnist", (256, 1, 28, 28), (28, 28), 256, directions=_ON_DATA, compiled_on_cpu=True)
_CLUTTERED = Workload("cluttered", (256, 1, 60, 60), (30, 30), 64, directions=_ON_DATA)
_SVHN = Workload("svhn", (128, 3, 64, 64), (64, 64), 16, directions=_ON_DATA)
_INNER = Workload("inner", (128, 48, 32, 32), (32, 32), 8)
_BIRDS = Workload("birds", (16, 3, 448, 448), (224, 224), 1, "attention", zoom=2.0, views=4, directions=_ON_DATA)
_OCR = Workload("ocr", (256, 3, 64, 256), (32, 100), 16, tstn.ThinPlateSpline((2, 10)), directions=_ON_DATA)
# The identity is timed a quarter of a pixel off: it costs the same, but at whole pixels the derivative jumps, and
# float32 coordinates fall on either side.
_HD = Workload("hd", (8, 3, 1080, 1920), (1080, 1920), 1, degrees=0.0, cpu_shrink=4)
_HDS = (
    replace(_HD, name="hd_identity"),
    replace(_HD, name="hd_rotation15", degrees=15.0),
    replace(_HD, name="hd_rotation45", degrees=45.0),
    replace(_HD, name="hd_zoom_in", zoom=4.0),
    replace(_HD, name="hd_zoom_out", zoom=0.25),
    replace(_HD, name="hd_homography", transform="projective"),
    replace(_HD, name="hd_tps", transform=tstn.ThinPlateSpline((4, 4))),
)
_FEATURE = Workload("feature", (32, 256, 64, 64), (64, 64), 1, degrees=20.0)
_FLOW = Workload("flow", (4, 64, 270, 480), (270, 480), 1, "flow", cpu_shrink=3)
_CROPS = Workload("crops", (8, 256, 64, 64), (14, 14), 1, "attention", zoom=4.0, views=32)

WORKLOADS = (
    _MNIST,
    replace(_MNIST, name="mnist_tps", transform=tstn.ThinPlateSpline((4, 4)), compiled_on_cpu=False),
    _CLUTTERED,
    *_in_types(_SVHN, _F32, _BF16),
    # Where PyTorch has cuDNN's sampler to choose.
    replace(_SVHN, align_corners=True),
    *_in_types(_INNER, _F32, _BF16),
    *_in_types(_BIRDS, _F32, _BF16),
    *_in_types(_OCR, _F32, _F16),
    *(workload for hd in _HDS for workload in _in_types(hd, _F32, _BF16)),
    *_in_types(_FEATURE, _F32, _BF16),
    *_in_types(replace(_FEATURE, layout="channels_last"), _F32, _BF16),
    replace(_FEATURE, align_corners=True),
    *_in_types(_FLOW, _F32, _F16),
    *_in_types(replace(_FLOW, layout="channels_last"), _F32, _F16),
    *_in_types(_CROPS, _F32, _BF16),
)

# Few and many channels. A few degrees keep rows of pixels from falling on rows of pixels.
_ZOOM = Workload("zoom", (16, 3, 512, 512), (512, 512), 1, degrees=5.0, directions=("grad_input",), cpu_shrink=4)
_ZOOM_FEATURES = replace(_ZOOM, name="zoom_features", shape=(16, 64, 128, 128), size=(128, 128), layout="channels_last")
ZOOM_FACTORS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 1.0, 3 / 2, 2.0, 3.0, 4.0)
ZOOMS = tuple(
    replace(base, name=f"{base.name}_{zoom:.2f}", zoom=zoom)
    for base in (_ZOOM, _ZOOM_FEATURES)
    for zoom in ZOOM_FACTORS
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
        theta = _THETAS[workload.family](workload, generator).to(device)
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


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Between -1 and 1."""
    return 2 * torch.rand(shape, generator=generator) - 1


def _affine_thetas(workload: Workload, generator: torch.Generator) -> Tensor:
    batch, _, height, width = workload.shape
    shift = torch.tensor([0.5 / width, 0.5 / height]).expand(batch, 2)
    if workload.degrees is not None:
        angle, scale = torch.full((batch,), math.radians(workload.degrees)), torch.full((batch,), 1 / workload.zoom)
    else:
        angle, scale, x, y = _uniform((4, batch), generator)
        angle, scale, shift = 0.5 * angle, 1 + 0.2 * scale, shift + 0.1 * torch.stack((x, y), dim=-1)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    # A rotation in pixels, not in normalised coordinates, which would shear an image that is not square.
    rows = (cos, -sin * height / width, shift[:, 0], sin * width / height, cos, shift[:, 1])
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 3))


def _attention_thetas(workload: Workload, generator: torch.Generator) -> Tensor:
    scale = 1 / workload.zoom
    centre = (1 - scale) * _uniform((workload.shape[0], workload.views, 2), generator)
    return torch.cat((torch.full_like(centre[..., :1], scale), centre), dim=-1)


def _projective_thetas(workload: Workload, generator: torch.Generator) -> Tensor:
    """A picture taken at an angle, each a little different; w lies between 0.7 and 1.3."""
    tilted = torch.tensor([[0.95, 0.08, 0.02], [-0.05, 0.9, 0.03], [0.12, -0.08, 1.0]])
    return tilted + 0.02 * _uniform((workload.shape[0], 3, 3), generator)


def _spline_thetas(workload: Workload, generator: torch.Generator) -> Tensor:
    assert not isinstance(workload.transform, str)
    points = torch.tensor(workload.transform.points)
    return points + 0.1 * _uniform((workload.shape[0], *points.shape), generator)


def _flow_thetas(workload: Workload, generator: torch.Generator) -> Tensor:
    """Displacements of a few pixels, smooth as images are."""
    height, width = workload.size
    pixels = 3 * _smooth(workload.shape[0], 2, workload.size, generator).movedim(1, -1)
    return (pixels * torch.tensor([2 / width, 2 / height])).contiguous()


_THETAS: dict[str, Callable[[Workload, torch.Generator], Tensor]] = {
    "affine": _affine_thetas,
    "attention": _attention_thetas,
    "projective": _projective_thetas,
    "thin_plate_spline": _spline_thetas,
    "flow": _flow_thetas,
}


def fused(input: Tensor, theta: Tensor, workload: Workload) -> Tensor:
    """One call of tstn."""
    return tstn.spatial_transform(input, theta, workload.transform, workload.size, align_corners=workload.align_corners)


@dataclass(frozen=True)
class Truth:
    """The float64 results, from PyTorch's own sampler."""

    output: Tensor
    grad_input: Tensor
    grad_theta: Tensor


@lru_cache(maxsize=1)
def truth(problem: Problem) -> Truth:
    """What every implementation has to compute, from float64 coordinates of the float32 theta."""
    input, theta = (t.double().requires_grad_() for t in (problem.input, problem.theta))
    with torch.backends.cudnn.flags(enabled=False):
        output = sample(input, usual_grid(theta, problem.workload), problem.workload)
        grad_input, grad_theta = torch.autograd.grad(output, (input, theta), problem.grad_output.double())
    return Truth(output.detach(), grad_input, grad_theta)


@lru_cache(maxsize=1)
def elements_of_use(problem: Problem) -> tuple[int, int]:
    """How many of the input's elements the output depends on, and how many of the output's depend on the input."""
    batch, channels, height, width = problem.input.shape
    # All channels look at the same pixels.
    ones = torch.ones(batch, 1, height, width, dtype=torch.float64, device=problem.input.device, requires_grad=True)
    with torch.backends.cudnn.flags(enabled=False):
        output = sample(ones, usual_grid(problem.theta.double(), problem.workload), problem.workload)
        (weights,) = torch.autograd.grad(output, ones, torch.ones_like(output))
    return channels * int(weights.count_nonzero()), channels * int(output.count_nonzero())


def floor_bytes(problem: Problem, direction: str) -> int:
    """The least memory traffic: each element of the input that matters and theta read once, each result written once.

    A backward pass reads once more what matters of the output's gradient, theta and, for theta's gradient, the input.
    """
    size, theta = problem.input.element_size(), problem.theta.numel() * problem.theta.element_size()
    read, looking = (elements * size for elements in elements_of_use(problem))
    wanted = DIRECTIONS[direction]
    total = 0
    if "output" in wanted:
        total += read + theta + problem.grad_output.numel() * size
    if wanted != ("output",):
        total += looking + theta
    if "grad_input" in wanted:
        total += problem.input.numel() * size
    if "grad_theta" in wanted:
        total += read + theta
    return total


def result_bytes(problem: Problem, direction: str) -> int:
    """What a call returns in this direction."""
    results = {"output": problem.grad_output, "grad_input": problem.input, "grad_theta": problem.theta}
    return sum(results[name].numel() * results[name].element_size() for name in DIRECTIONS[direction])
