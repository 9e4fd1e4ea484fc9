"""Errors about arguments: each names the argument, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from tstn._surroundings import may_read_values

if TYPE_CHECKING:
    from tstn.transforms import Transform

MODES = ("bilinear", "nearest", "bicubic")
PADDING_MODES = ("zeros", "border", "reflection")
STRIDED = torch.strided
INPUT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def shape(tensor: Tensor) -> tuple[int, ...]:
    """A tensor's shape as a plain tuple, for messages."""
    return tuple(tensor.shape)


def require_tensor(name: str, value: object) -> None:
    """A tensor whose elements lie in memory by strides; :func:`require_not_nested` says the rest."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
    if value.layout is not STRIDED:
        if value.is_nested:
            _refuse_nested(name)
        raise TypeError(f"{name} must be a dense tensor; got layout {value.layout}: write {name}.to_dense()")


def require_not_nested(**tensors: object) -> None:
    """An error that names the first nested tensor, of which PyTorch only says that it has no shape."""
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.is_nested:
            _refuse_nested(name)


def _refuse_nested(name: str) -> NoReturn:
    raise TypeError(
        f"{name} must be a dense tensor; got a nested one: write torch.nested.to_padded_tensor({name}, 0.0), or warp "
        "its parts one by one"
    )


def require_floating(name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must have a floating dtype; got {tensor.dtype}{_floating_advice(name, tensor)}")


def _floating_advice(name: str, tensor: Tensor) -> str:
    """What to write for a tensor that is not floating, where it is plain."""
    if tensor.is_complex():
        return f": warp {name}.real and {name}.imag one by one" if name == "input" else f": write {name}.real"
    return f": write {name}.dequantize()" if tensor.is_quantized else ""


def require_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(f"{name} must be on the input's device, {device}; got {tensor.device}")


def require_image(input: Tensor) -> None:
    require_tensor("input", input)
    if input.dtype not in INPUT_DTYPES:
        raise TypeError(
            f"input must be float16, bfloat16, float32 or float64; got {input.dtype}{_floating_advice('input', input)}"
        )
    if input.dim() != 4:
        raise ValueError(f"input must have shape (N, C, H, W); got {shape(input)}")
    if input.shape[2] == 0 or input.shape[3] == 0:
        raise ValueError(f"input must have at least one pixel; got shape {shape(input)}")


def require_option(name: str, value: object, options: Sequence[str]) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string; got {type(value).__name__}")
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}; got {value!r}")


def require_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool; got {type(value).__name__}")


def whole_number(value: object) -> int | torch.SymInt | None:
    """A whole number as plain Python's, of which NumPy's are made too; None for anything else, also for a bool."""
    if isinstance(value, (int, torch.SymInt)):
        return None if isinstance(value, bool) else value
    return int(value) if isinstance(value, Integral) else None


def plain_number(value: Real) -> float:
    """A real number as plain Python's, an int where it is whole by its type."""
    return int(value) if isinstance(value, Integral) else float(value)


def require_positive(name: str, value: object) -> int:
    number = whole_number(value)
    if number is None:
        raise TypeError(f"{name} must be an int; got {type(value).__name__}")
    if number < 1:
        raise ValueError(f"{name} must be positive; got {number}")
    return int(number)


def require_pair(name: str, value: object) -> tuple[float, float]:
    """Two finite real numbers, as plain Python's."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be two numbers, (x, y); got {type(value).__name__}")
    if any(isinstance(number, bool) or not isinstance(number, Real) for number in value):
        raise TypeError(f"{name} must be two numbers, (x, y); got {tuple(value)!r}")
    try:
        numbers = tuple(map(float, value))
    # An int may be too large to be a float.
    except OverflowError:
        numbers = ()
    if len(numbers) != 2 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} must be two finite numbers, (x, y); got {tuple(value)!r}")
    return numbers[0], numbers[1]


def require_size(size: object) -> tuple[int, int]:
    # What nearly every call gives, first: what follows costs half a microsecond.
    if type(size) is tuple and len(size) == 2:
        height, width = size
        if type(height) is int and type(width) is int and height >= 0 and width >= 0:
            return height, width
    if not isinstance(size, Sequence) or isinstance(size, str):
        raise TypeError(f"size must be (H_out, W_out); got {type(size).__name__}")
    numbers: list[Any] = [whole_number(n) for n in size]
    if any(number is None for number in numbers):
        raise TypeError(f"size must hold two ints, (H_out, W_out); got {tuple(size)!r}")
    if len(numbers) != 2 or numbers[0] < 0 or numbers[1] < 0:
        raise ValueError(f"size must be two non-negative ints, (H_out, W_out); got {tuple(size)!r}")
    return numbers[0], numbers[1]


def require_theta(theta: Tensor, theta_shape: tuple[int, ...], input: Tensor, input_index: Tensor | None) -> int | None:
    """Check theta against the input's batch; return K of (N, K, *theta_shape), or None for (M, *theta_shape)."""
    require_tensor("theta", theta)
    require_floating("theta", theta)
    require_device("theta", theta, input.device)
    batch = input.shape[0]
    extra = theta.dim() - len(theta_shape)
    if extra not in (1, 2) or tuple(theta.shape[extra:]) != theta_shape:
        trailing = ", ".join(map(str, theta_shape))
        raise ValueError(f"theta must have shape (M, {trailing}) or (M, K, {trailing}); got {shape(theta)}")
    if extra == 2:
        if input_index is not None:
            raise ValueError(f"theta must have one batch dimension when input_index is given; got shape {shape(theta)}")
        if theta.shape[0] != batch:
            raise ValueError(f"theta of shape (N, K, ...) must have the input's N = {batch}; got {shape(theta)}")
        return theta.shape[1]
    if input_index is None and batch != 1 and theta.shape[0] != batch:
        raise ValueError(
            f"theta must have one entry per input, N = {batch}, or the input N = 1; got {shape(theta)}. "
            "Use (N, K, ...) for K views of each input, or input_index to say which input each theta reads"
        )
    return None


def require_matrix(matrix: Tensor) -> None:
    require_not_nested(matrix=matrix)
    require_tensor("matrix", matrix)
    require_floating("matrix", matrix)
    if tuple(matrix.shape[-2:]) not in ((2, 3), (3, 3)):
        raise ValueError(f"matrix must have shape (..., 2, 3) or (..., 3, 3); got {shape(matrix)}")


def require_grid(grid: Tensor, input: Tensor) -> None:
    """Check a sampling grid against the input, which has been checked."""
    require_tensor("grid", grid)
    require_floating("grid", grid)
    require_device("grid", grid, input.device)
    if grid.dim() != 4 or grid.shape[-1] != 2:
        raise ValueError(f"grid must have shape (M, H_out, W_out, 2); got {shape(grid)}")
    batch = input.shape[0]
    if batch != 1 and grid.shape[0] != batch:
        raise ValueError(f"grid must have one entry per input, N = {batch}, or the input N = 1; got {shape(grid)}")


def require_flow(flow: Tensor, theta: Tensor, size: tuple[int, int], transform: Transform) -> None:
    """Check a displacement field against theta, which has been checked."""
    require_tensor("flow", flow)
    if transform.is_dense:
        raise ValueError(f"flow must be None for {transform!r}, whose theta is a field already; got {shape(flow)}")
    require_floating("flow", flow)
    require_device("flow", flow, theta.device)
    expected = (*theta.shape[: theta.dim() - len(transform.theta_shape)], *size, 2)
    if tuple(flow.shape) != expected:
        raise ValueError(f"flow must have shape {expected}, theta's batch and (H_out, W_out, 2); got {shape(flow)}")


def require_input_index(input_index: Tensor, thetas: int, input: Tensor) -> None:
    require_tensor("input_index", input_index)
    if input_index.dtype != torch.int64:
        raise TypeError(f"input_index must be int64; got {input_index.dtype}")
    if input_index.dim() != 1 or input_index.shape[0] != thetas:
        raise ValueError(f"input_index must have shape ({thetas},), one entry per theta; got {shape(input_index)}")
    require_device("input_index", input_index, input.device)
    # On a GPU reading the values would stall the stream; there the kernels turn a bad entry into NaN.
    if input_index.device.type == "cpu" and thetas > 0 and may_read_values(input_index):
        low, high = (int(v) for v in input_index.aminmax())
        if low < 0 or high >= input.shape[0]:
            raise ValueError(f"input_index must lie in [0, {input.shape[0]}); got values from {low} to {high}")


def require_fill_option(fill_value: object, padding_mode: str) -> None:
    """What can be said of fill_value without an input."""
    if fill_value is None:
        return
    if isinstance(fill_value, bool) or not isinstance(fill_value, (int, float, Tensor, Real)):
        raise TypeError(f"fill_value must be None, a float or a (C,) tensor; got {type(fill_value).__name__}")
    if padding_mode != "zeros":
        raise ValueError(f"fill_value needs padding_mode='zeros'; got padding_mode={padding_mode!r}")


def require_fill(fill_value: object, padding_mode: str, input: Tensor) -> None:
    require_fill_option(fill_value, padding_mode)
    if isinstance(fill_value, Tensor):
        require_tensor("fill_value", fill_value)
        require_floating("fill_value", fill_value)
        if fill_value.dim() != 1 or fill_value.shape[0] != input.shape[1]:
            raise ValueError(
                f"fill_value must be a float or have shape (C,) = ({input.shape[1]},); got {shape(fill_value)}"
            )
        require_device("fill_value", fill_value, input.device)
