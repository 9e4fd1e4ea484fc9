"""A transform from the user's own coordinate map: traced, differentiated and fused into the kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor

from tstn._aside import aside
from tstn._generated import Sources, code_of, generated
from tstn._tracing import MapFunction
from tstn.transforms import Transform

MAX_NUMBERS = 256


class CustomTransform(Transform):
    """A family of coordinate maps given by a function of your own, which runs inside the kernels.

    ``fn(theta, x, y)`` is ordinary PyTorch, written as if for one pixel of one sample: ``theta`` has shape
    ``theta_shape``, ``x`` and ``y`` have shape (), and it returns a pair of tensors of shape (). It is traced once,
    here; its vector-Jacobian product is derived, and both become part of the sampling kernels, so that no grid is
    written. Devices without kernels, and derivatives of higher order, have the same code in PyTorch.

    Convention:
        Target to source: ``x, y`` are an output pixel's normalised coordinates in [-1, 1], the result is where in
        the input it looks. Pixels whose result is infinite or NaN sample the outside and have gradient zero.

    Example::

        def swirl(theta, x, y):
            angle = theta[0] * torch.exp(-(x * x + y * y))
            return x * torch.cos(angle) - y * torch.sin(angle), x * torch.sin(angle) + y * torch.cos(angle)

        y = tstn.spatial_transform(images, theta, tstn.CustomTransform(swirl, (1,), [0.0]))

    What ``fn`` may do: elementwise functions, comparisons, ``torch.where``, and to theta also indexing, reshaping,
    stacking, sums and matrix products. It must not branch on values in Python, draw random numbers or change its
    arguments. It has to follow theta's dtype: make constants from Python numbers or by ``theta.new_tensor``.
    Numbers and small tensors that it reads from elsewhere, globals, closures, attributes, are what they are now, on
    every backend, in copies and in pickles: what is to change belongs into theta. As everywhere in PyTorch,
    derivatives that are infinite or NaN at some pixel (``sqrt`` at 0) spoil theta's gradient: keep away by
    ``torch.where`` on the argument.

    Args:
        fn: The coordinate map.
        theta_shape: Shape of one sample's theta.
        identity: Theta, flat or in its shape, that leaves an image as it is, or the nearest that there is: the
            point where a :class:`tstn.SpatialTransformer` starts.

    Raises:
        TypeError: If an argument or what ``fn`` returns has the wrong type.
        ValueError: If a shape or a number is wrong, or ``fn`` does what the kernels cannot do; the message says what.
    """

    name: ClassVar[str] = "custom"

    def __init__(
        self,
        fn: MapFunction,
        theta_shape: Sequence[int],
        identity: Sequence[Any] | Tensor,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"fn must be a function (theta, x, y) -> (x, y); got {type(fn).__name__}")
        self._name = getattr(fn, "__qualname__", None) or repr(fn)
        self.theta_shape = _checked_shape(theta_shape)
        # Aside, because grad mode, autocast, the default device and whatever else surrounds this call may not show.
        self._identity = aside(lambda: _checked_identity(identity, self.theta_shape))
        sources = aside(lambda: _generated_and_checked(fn, self.theta_shape))
        self._code = code_of(sources)

    @property
    def kernel(self) -> str:
        """The key of the generated map: the same in every process, and different for different maps."""
        return self._code.key

    def identity_parameters(self) -> Tensor:
        """``identity``, flat, float32."""
        return torch.tensor(self._identity, dtype=torch.float32)

    def coordinates(self, numbers: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised source coordinates, (M, H_out, W_out) each."""
        return self._code.coordinates(numbers, x, y)

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, CustomTransform) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())

    def _value(self) -> tuple[Any, ...]:
        return self.kernel, self.theta_shape, self._identity

    def __reduce__(self) -> tuple[Callable[..., CustomTransform], tuple[Any, ...]]:
        # The code, not the function: what it reads may be something else by then, or somewhere else.
        return _restored, (type(self), self._code.sources, self.theta_shape, self._identity, self._name)

    def __repr__(self) -> str:
        return f"CustomTransform({self._name}, theta_shape={self.theta_shape}, identity={self._identity})"


def _restored(
    kind: type[CustomTransform],
    sources: Sources,
    theta_shape: tuple[int, ...],
    identity: tuple[float, ...],
    name: str,
) -> CustomTransform:
    """A transform from its pickle."""
    transform = kind.__new__(kind)
    transform.theta_shape, transform._identity, transform._name = theta_shape, identity, name
    transform._code = code_of(sources)
    return transform


def _generated_and_checked(fn: MapFunction, theta_shape: tuple[int, ...]) -> Sources:
    sources = generated(fn, theta_shape)
    # In double precision, in which it was traced, nobody sees that it asks for it.
    theta = torch.zeros(theta_shape, dtype=torch.float32)
    try:
        results = fn(theta, theta.new_tensor(0.5), theta.new_tensor(0.25))
    except RuntimeError as error:
        raise ValueError(f"fn must work in float32: {error}") from error
    for name, result in zip("xy", results, strict=True):
        # The default dtype is that of numbers in `torch.where(c, 0.1, 0.2)`.
        if result.dtype not in (theta.dtype, torch.get_default_dtype()):
            raise ValueError(f"fn must compute in theta's dtype; got {result.dtype} for {name} from {theta.dtype}")
    return sources


def _checked_shape(theta_shape: Sequence[int]) -> tuple[int, ...]:
    if isinstance(theta_shape, (str, Tensor)) or not isinstance(theta_shape, Sequence):
        raise TypeError(f"theta_shape must be a tuple of integers; got {theta_shape!r}")
    for size in theta_shape:
        if isinstance(size, bool) or not isinstance(size, Integral):
            raise TypeError(f"theta_shape must be a tuple of integers; got {theta_shape!r}")
    theta_shape = tuple(map(int, theta_shape))
    if not theta_shape or min(theta_shape) < 1:
        raise ValueError(f"theta_shape must have at least one dimension, all positive; got {theta_shape}")
    if math.prod(theta_shape) > MAX_NUMBERS:
        raise ValueError(f"theta_shape must have at most {MAX_NUMBERS} numbers; got {theta_shape}")
    return theta_shape


def _checked_identity(identity: Sequence[Any] | Tensor, theta_shape: tuple[int, ...]) -> tuple[float, ...]:
    try:
        tensor = torch.as_tensor(identity, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"identity must be a sequence or tensor of numbers; got {identity!r}") from error
    count = math.prod(theta_shape)
    if tuple(tensor.shape) not in ((count,), theta_shape):
        raise ValueError(f"identity must have shape {(count,)} or {theta_shape}; got {tuple(tensor.shape)}")
    if not tensor.isfinite().all():
        raise ValueError(f"identity must be finite; got {identity!r}")
    return tuple(tensor.flatten().tolist())
