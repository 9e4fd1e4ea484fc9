"""The functions users call: they check arguments, give theta its batch, and hand over to :mod:`tstn.ops`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from tstn import _checks, ops
from tstn._surroundings import not_scriptable
from tstn._warp import Operands, Warp
from tstn.transforms import NAMED, Transform, as_transform, compute_dtype

GRID = NAMED["grid"]


@not_scriptable
def spatial_transform(
    input: Tensor,
    theta: Tensor,
    transform: str | Transform = "affine",
    size: tuple[int, int] | None = None,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    fill_value: float | Tensor | None = None,
    align_corners: bool = False,
    input_index: Tensor | None = None,
    flow: Tensor | None = None,
) -> Tensor:
    """Warp images by a parametrised transform, with no sampling grid in memory.

    Output pixel (x, y) of sample m is ``input`` sampled at ``T_theta[m](x, y)``, eq. 1 and 3 of Jaderberg et al.
    2015. Values and gradients are those of ``affine_grid`` followed by ``grid_sample``.

    Convention:
        theta maps target to source, (x, y) with x to the right, normalised to [-1, 1]; see :mod:`tstn.transforms`.
        On images that are not square equal steps in x and y are not equal in pixels: ``"similarity"`` shears there;
        :class:`~tstn.transforms.Similarity` says by which ``"affine"`` theta one turns the pixels.
        Coordinates are computed in float32 (float64 for a float64 input) whatever the dtypes, also under autocast.
        NaN, infinite and huge coordinates sample the outside. Where padding clips a coordinate, and with
        ``mode="nearest"``, its gradient is zero; at a whole pixel x the derivative is that of x + 0. Derivatives of
        higher order, forward-mode AD and function transforms (``torch.func``) go through plain PyTorch on every
        backend.

    Args:
        input: (N, C, H, W), float16, bfloat16, float32 or float64; any strides.
        theta: (M, *P) or (N, K, *P), any floating dtype, P = ``transform.theta_shape``. M == N pairs thetas with
            inputs; N == 1 gives M views of the one image; (N, K, *P) gives K views of each input.
        transform: ``"translation"``, ``"attention"``, ``"similarity"``, ``"affine"``, ``"projective"``, ``"flow"``,
            ``"grid"`` or a :class:`~tstn.transforms.Transform`, such as :class:`~tstn.ThinPlateSpline` or
            :class:`~tstn.CustomTransform`.
        size: (H_out, W_out); None: the input's.
        mode: ``"bilinear"``, ``"nearest"`` (halves to even) or ``"bicubic"`` (a = -0.75).
        padding_mode: ``"zeros"``, ``"border"`` or ``"reflection"``, as in ``grid_sample``.
        fill_value: What lies outside, a float or one value per channel (C,), differentiable; only with
            ``padding_mode="zeros"``. out = sum of the inside taps + (1 - sum of their weights) * fill_value.
        align_corners: Whether -1 and 1 are the centres of the outermost pixels instead of their outer edges.
        input_index: (M,) int64, the input that each theta reads. On a GPU an entry out of range gives NaN.
        flow: (M, H_out, W_out, 2), or (N, K, H_out, W_out, 2) for such a theta, any floating dtype and strides: a
            displacement (x, y), normalised, for every output pixel. Output pixel (x, y) then looks at
            ``T_theta[m](x, y) + flow[m, i, j]``. Not for ``"flow"`` and ``"grid"``, whose theta is such a field.

    Returns:
        (M, C, H_out, W_out), or (N, K, C, H_out, W_out) for theta (N, K, *P), in the input's dtype and memory format.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape, device or option is wrong.
        RuntimeError: If the backend ``"triton"`` was asked for and cannot run.
    """
    if has_torch_function_variadic(input, theta, fill_value, input_index, flow):
        return handle_torch_function(
            spatial_transform,
            (input, theta, fill_value, input_index, flow),
            input,
            theta,
            transform,
            size,
            mode=mode,
            padding_mode=padding_mode,
            fill_value=fill_value,
            align_corners=align_corners,
            input_index=input_index,
            flow=flow,
        )
    try:
        _checks.require_image(input)
        transform = as_transform(transform)
        size = (input.shape[2], input.shape[3]) if size is None else _checks.require_size(size)
        _checks.require_option("mode", mode, _checks.MODES)
        _checks.require_option("padding_mode", padding_mode, _checks.PADDING_MODES)
        _checks.require_bool("align_corners", align_corners)
        _checks.require_fill(fill_value, padding_mode, input)
        views = _checks.require_theta(theta, transform.shape_for(size), input, input_index)
        if flow is not None:
            _checks.require_flow(flow, theta, size, transform)
        if views is not None:
            theta = theta.flatten(0, 1)
            flow = None if flow is None else flow.flatten(0, 1)
        if input_index is not None:
            _checks.require_input_index(input_index, theta.shape[0], input)
    # A nested tensor has no shape; to ask each for it costs more than to find out by the error.
    except RuntimeError:
        _checks.require_not_nested(input=input, theta=theta, fill_value=fill_value, flow=flow, input_index=input_index)
        raise

    theta, transform = ops.lowered(theta, transform, input)
    if transform.is_dense:
        numbers, flow = None, theta
    else:
        numbers = ops.pack(theta, transform, input)
    fill, constant = _fill(fill_value, input)
    operands = Operands(input, numbers, flow, fill, input_index, transform.constants(input.device))
    warp = Warp(transform.kernel, size, mode, padding_mode, align_corners, constant)
    out = ops.spatial_transform(operands, transform, warp)
    return out if views is None else out.unflatten(0, (input.shape[0], views))


def _fill(fill_value: float | Tensor | None, input: Tensor) -> tuple[Tensor | None, float]:
    """The fill as a tensor (C,), if it is or has to be one, and as a number otherwise."""
    if fill_value is None or isinstance(fill_value, Tensor):
        return fill_value, 0.0
    if torch.compiler.is_dynamo_compiling() and fill_value != 0:
        # A number would be part of the graph, compiled again for each value. A product is computed anew.
        dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
        return (input.new_ones((), dtype=dtype) * fill_value).expand(input.shape[1]), 0.0
    return None, float(fill_value)


@not_scriptable
def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """Drop-in for :func:`torch.nn.functional.grid_sample` on images (N, C, H, W).

    Beyond it: ``input`` and ``grid`` may have different dtypes (half images with float32 grids), one image serves
    many grids, and the output keeps the input's memory format.

    Convention:
        As :func:`spatial_transform` with ``transform="grid"``.

    Args:
        input: (N, C, H, W), float16, bfloat16, float32 or float64.
        grid: (M, H_out, W_out, 2), normalised source coordinates (x, y), any floating dtype; M == N or N == 1.
        mode: ``"bilinear"``, ``"nearest"`` or ``"bicubic"``.
        padding_mode: ``"zeros"``, ``"border"`` or ``"reflection"``.
        align_corners: Whether -1 and 1 are the centres of the outermost pixels instead of their outer edges. None is
            False, as in PyTorch.

    Returns:
        (M, C, H_out, W_out).

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape, device or option is wrong.
    """
    if has_torch_function_variadic(input, grid):
        options = (mode, padding_mode, align_corners)
        return handle_torch_function(grid_sample, (input, grid), input, grid, *options)
    align_corners = False if align_corners is None else align_corners
    try:
        _checks.require_image(input)
        _checks.require_grid(grid, input)
    except RuntimeError:
        _checks.require_not_nested(input=input, grid=grid)
        raise
    _checks.require_option("mode", mode, _checks.MODES)
    _checks.require_option("padding_mode", padding_mode, _checks.PADDING_MODES)
    _checks.require_bool("align_corners", align_corners)
    warp = Warp(GRID.kernel, (grid.shape[1], grid.shape[2]), mode, padding_mode, align_corners)
    return ops.spatial_transform(Operands(input, None, grid, None, None, None), GRID, warp)


@not_scriptable
def sampling_grid(
    theta: Tensor, transform: str | Transform, size: tuple[int, int], align_corners: bool = False
) -> Tensor:
    """The sampling grid that :func:`spatial_transform` never builds, in plain, differentiable PyTorch.

    Convention:
        Normalised source coordinates (x, y) of every target pixel, as ``grid_sample`` takes them.

    Args:
        theta: (..., *P), P = ``transform.theta_shape``, any floating dtype.
        transform: A name or a :class:`~tstn.transforms.Transform`.
        size: (H_out, W_out).
        align_corners: Whether -1 and 1 are the centres of the outermost pixels instead of their outer edges.

    Returns:
        (..., H_out, W_out, 2), float32 (float64 for a float64 theta).

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If theta's shape does not end in P, or ``size`` is not two non-negative ints.
    """
    if has_torch_function_variadic(theta):
        return handle_torch_function(sampling_grid, (theta,), theta, transform, size, align_corners)
    transform = as_transform(transform)
    size = _checks.require_size(size)
    _checks.require_bool("align_corners", align_corners)
    _checks.require_not_nested(theta=theta)
    _checks.require_tensor("theta", theta)
    _checks.require_floating("theta", theta)
    expected = transform.shape_for(size)
    if theta.dim() < len(expected) or tuple(theta.shape[theta.dim() - len(expected) :]) != expected:
        trailing = ", ".join(map(str, expected))
        raise ValueError(f"theta must have shape (..., {trailing}); got {_checks.shape(theta)}")
    theta, transform = transform.lowered(theta, compute_dtype(theta))
    return transform.grid(theta, size, align_corners)
