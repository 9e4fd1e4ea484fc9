"""A transform from the user's own coordinate map: traced, differentiated and fused into the kernels."""

from __future__ import annotations

import functools
import hashlib
import linecache
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tstn._aside import aside
from tstn._expressions import FUNCTIONS, TAME, Expressions, needed, statements
from tstn._lowering import Elements, lowered
from tstn._tracing import MapFunction, traced
from tstn.transforms import HUGE, Transform

MAX_NUMBERS = 256

# What was generated in this process: the kernels know a map by its key only.
_sources: dict[str, str] = {}


class CustomTransform(Transform):
    """A family of coordinate maps given by a function of your own, which runs inside the kernels.

    ``fn(theta, x, y)`` is ordinary PyTorch, written as if for one pixel of one sample: ``theta`` has shape
    ``theta_shape``, ``x`` and ``y`` have shape (), and it returns a pair of tensors of shape (). It is traced once,
    here; its vector-Jacobian product is derived, and both become part of the sampling kernels, so that no grid is
    written. On devices without kernels, and for derivatives of higher order, ``fn`` itself runs, by ``torch.vmap``.

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
    Numbers and small tensors that it reads from elsewhere are constants from here on. As everywhere in PyTorch,
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
        self._fn = fn
        self.theta_shape = _checked_shape(theta_shape)
        # Aside, because grad mode, autocast, the default device and whatever else surrounds this call may not show.
        self._identity = aside(lambda: _checked_identity(identity, self.theta_shape))
        self._source, self._finite_vjp = aside(lambda: generated(fn, self.theta_shape))
        aside(self._check_plain_path)
        self._key = _key(self._source)
        _sources[self._key] = self._source

    @property
    def kernel(self) -> str:
        """The key of the generated map: the same in every process, and different for different maps."""
        return self._key

    def identity_parameters(self) -> Tensor:
        """``identity``, flat, float32."""
        return torch.tensor(self._identity, dtype=torch.float32)

    def coordinates(self, numbers: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised source coordinates, (M, H_out, W_out) each, by ``fn`` itself."""
        if 0 in (numbers.shape[0], x.numel(), y.numel()):
            # What torch.vmap cannot do over nothing.
            nothing = numbers[:, :1, None] + x + y
            return nothing, nothing
        theta, y = numbers.unflatten(1, self.theta_shape), y.flatten()
        if self._finite_vjp:
            return self._at_all_pixels(None, theta, x, y)
        # A pixel that looks too far away has gradient zero, but on its way through fn that may become 0 * inf = NaN,
        # and theta is shared by all pixels. So such pixels, which a first call finds, get a theta that stops there.
        with torch.no_grad():
            u, v = self._at_all_pixels(None, theta.detach(), x, y)
        seen = (u.abs() < HUGE) & (v.abs() < HUGE)
        theta = theta[:, None, None]
        theta = torch.where(seen.reshape(*seen.shape, *[1] * len(self.theta_shape)), theta, theta.detach())
        u, v = self._at_all_pixels(0, theta, x, y)
        return torch.where(seen, u, u.detach()), torch.where(seen, v, v.detach())

    def _at_all_pixels(self, theta_dim: int | None, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        u, v = _at_all_pixels(self._fn, theta_dim)(theta, x, y)
        # fn may have made numbers of the default dtype, as `torch.where(c, 0.1, 0.2)` does.
        return u.to(theta.dtype), v.to(theta.dtype)

    def _check_plain_path(self) -> None:
        # Whatever can be traced but not be vmapped, or works in one dtype only, is to show here and not later.
        numbers = self.identity_parameters()[None]
        x, y = numbers.new_zeros(2), numbers.new_zeros(1)
        try:
            self.coordinates(numbers, x, y[:, None])
            results = _at_all_pixels(self._fn, None)(numbers.unflatten(1, self.theta_shape), x, y)
        except RuntimeError as error:
            raise ValueError(f"fn must work in float32 and under torch.vmap: {error}") from error
        for name, result in zip("xy", results, strict=True):
            if result.dtype not in (numbers.dtype, torch.get_default_dtype()):
                raise ValueError(
                    f"fn must compute in theta's dtype; got {result.dtype} for {name} from {numbers.dtype}"
                )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CustomTransform):
            return NotImplemented
        return self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash(self.__reduce__())

    def __reduce__(self) -> tuple[type[CustomTransform], tuple[Any, ...]]:
        # Another process has to generate the code again.
        return CustomTransform, (self._fn, self.theta_shape, self._identity)

    def __repr__(self) -> str:
        fn = getattr(self._fn, "__qualname__", None) or repr(self._fn)
        return f"CustomTransform({fn}, theta_shape={self.theta_shape}, identity={self._identity})"


def generated(fn: MapFunction, theta_shape: tuple[int, ...]) -> tuple[str, bool]:
    """Triton code of a map and its VJP, with ``KEY`` for their key, and whether finite coordinates suffice for a VJP.

    They do if the VJP depends on x, y and their gradients alone, and only by functions that never go to infinity.
    """
    map_graph, vjp_graph = traced(fn, theta_shape)
    expressions = Expressions()
    theta = Elements([expressions.number(i) for i in range(math.prod(theta_shape))], theta_shape)
    x, y, *grads = (Elements([expressions.surrounding(name)], ()) for name in ("x", "y", "grad_x", "grad_y"))

    results = [result.items[0] for result in lowered(map_graph, (theta, x, y), expressions)]
    lines, called = statements(results, {"x": "x_norm", "y": "y_norm"})
    map_body = [*lines]
    sources = []
    for result, name, extent in zip(results, "xy", (4, 5), strict=True):
        shape = "" if result.per_pixel else " + tl.zeros(x.shape, x.dtype)"
        sources.append(f"{name}_source")
        map_body.append(f"{name}_source = {called[result]} * frame[{extent}]{shape}")
    map_body.append(f"return {', '.join(sources)}")

    (gradient,) = lowered(vjp_graph, (theta, x, y, *grads), expressions)
    gradients = gradient.items
    names = {"x": "x_norm", "y": "y_norm", "grad_x": "grad_x_norm", "grad_y": "grad_y_norm"}
    lines, called = statements(gradients, names)
    vjp_body = [
        # What a pixel adds that has no gradient may be 0 * inf.
        "live = (grad_x != 0) | (grad_y != 0)",
        "grad_x_norm = grad_x * frame[4]",
        "grad_y_norm = grad_y * frame[5]",
        *lines,
        *(f"of_{i} = tl.where(live, {called[g]}, 0.0)" for i, g in enumerate(gradients)),
        f"return ({''.join(f'of_{i}, ' for i in range(len(gradients)))})",
    ]
    finite = all(
        expression.operation in TAME and (expression.value is None or abs(expression.value) < math.inf)
        for expression in needed(gradients)
    )
    return _TEMPLATE.format(map_body="\n    ".join(map_body), vjp_body="\n    ".join(vjp_body)), finite


_TEMPLATE = '''\
@triton.jit
def custom_map_KEY(theta, constants, x, y, frame, SAMPLES: tl.constexpr):
    """A map that was generated from a function of theta, x and y."""
    x_norm = x * frame[6]
    y_norm = y * frame[7]
    {map_body}


@triton.jit
def custom_map_vjp_KEY(theta, x, y, grad_x, grad_y, frame):
    """Its vector-Jacobian product."""
    x_norm = x * frame[6]
    y_norm = y * frame[7]
    {vjp_body}
'''


@functools.cache
def kernel_maps(key: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The device functions, map and VJP, of the custom transform whose ``kernel`` is ``key``.

    Raises:
        LookupError: If no such transform was made in this process.
    """
    if key not in _sources:
        raise LookupError(
            f"no CustomTransform with the key {key!r} exists in this process; construct the transform (import the"
            " module that does) before running a program that was compiled or exported with it"
        )
    import triton
    import triton.language as tl
    from tstn_kernels import functions, maps

    source, name = _sources[key].replace("KEY", key), f"<tstn {key}>"
    namespace: dict[str, Any] = {name: getattr(functions, name) for name in FUNCTIONS}
    namespace |= {"triton": triton, "tl": tl, "theta_number": maps.theta_number}
    namespace["__name__"] = f"tstn.{key}"
    # Triton reads a function's source by its file's name.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), namespace)
    return namespace[f"custom_map_{key}"], namespace[f"custom_map_vjp_{key}"]


def _key(source: str) -> str:
    return f"custom_{hashlib.sha256(source.encode()).hexdigest()[:16]}"


def _at_all_pixels(fn: MapFunction, theta_dim: int | None) -> Callable[..., tuple[Tensor, Tensor]]:
    """``fn`` for thetas (M, ...), or with ``theta_dim`` 0 (M, H_out, W_out, ...), and all pixels."""

    # torch.vmap wants a function, with a name; fn may be any callable.
    def at_pixel(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return fn(theta, x, y)

    in_row = torch.vmap(at_pixel, (theta_dim, 0, None))
    in_sample = torch.vmap(in_row, (theta_dim, None, 0))
    return torch.vmap(in_sample, (0, None, None))


def _checked_shape(theta_shape: Sequence[int]) -> tuple[int, ...]:
    if isinstance(theta_shape, (str, Tensor)) or not isinstance(theta_shape, Sequence):
        raise TypeError(f"theta_shape must be a tuple of integers; got {theta_shape!r}")
    for size in theta_shape:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"theta_shape must be a tuple of integers; got {theta_shape!r}")
    if not theta_shape or min(theta_shape) < 1:
        raise ValueError(f"theta_shape must have at least one dimension, all positive; got {tuple(theta_shape)}")
    if math.prod(theta_shape) > MAX_NUMBERS:
        raise ValueError(f"theta_shape must have at most {MAX_NUMBERS} numbers; got {tuple(theta_shape)}")
    return tuple(theta_shape)


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
