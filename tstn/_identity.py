"""Layers that predict the identity until they are trained."""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.weight_norm import WeightNorm

from tstn import _checks
from tstn.transforms import Transform, as_transform


def init_identity_(linear: nn.Linear, transform: str | Transform = "affine", num_heads: int = 1) -> nn.Linear:
    """Make a layer predict the identity transform whatever it is fed: zero weights, the identity as bias.

    What counts are the weights that the layer computes with. Under weight normalisation their magnitude becomes zero
    and their direction stays, so that training can move them; under other parametrisations they are assigned.

    The layer's ``reset_parameters()`` does the same from then on, so that the identity is also what a module built on
    the meta device starts at: after ``module.to_empty(device=...)`` and ``reset_parameters()`` of its layers.

    Args:
        linear: The last layer of a localisation network, with ``num_heads * transform.num_parameters`` outputs, on any
            device and of any floating dtype.
        transform: A name or a :class:`~tstn.transforms.Transform`.
        num_heads: How many transforms the layer predicts.

    Returns:
        ``linear``, changed in place.

    Raises:
        TypeError: If ``linear`` is not an ``nn.Linear``, or ``num_heads`` not an int.
        ValueError: If it has no bias, the wrong number of outputs, lazy parameters, or a parametrisation under which
            its weights cannot be zero and trained from there, such as spectral normalisation. It is then unchanged.
    """
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"linear must be an nn.Linear; got {type(linear).__name__}")
    num_heads = _checks.require_positive("num_heads", num_heads)
    transform = as_transform(transform)
    if linear.bias is None:
        raise ValueError("linear must have a bias, to hold the identity; got bias=False")
    if isinstance(linear._parameters.get("weight"), nn.UninitializedParameter):
        raise ValueError("linear must have its parameters; it is lazy: run it on a sample input first")
    identity = _identity(transform)
    count = identity.numel()
    if linear.out_features != num_heads * count:
        raise ValueError(
            f"linear must have {num_heads * count} outputs, {num_heads} head(s) of {count} parameters for "
            f"{transform!r}; got {linear.out_features}"
        )
    _set_identity(linear, identity.repeat(num_heads), anew=False)
    linear.reset_parameters = _Reset(linear, transform, num_heads)  # pyright: ignore[reportAttributeAccessIssue]
    return linear


class _Reset:
    """``reset_parameters`` of a layer that is to start at the identity. A copy of the layer has one of its own."""

    def __init__(self, linear: nn.Linear, transform: Transform, num_heads: int) -> None:
        self.__setstate__((linear, transform, num_heads))

    def __call__(self) -> None:
        linear = self._linear()
        if linear is not None:
            _set_identity(linear, _identity(self._transform).repeat(self._num_heads), anew=True)

    def __getstate__(self) -> tuple[nn.Linear | None, Transform, int]:
        return self._linear(), self._transform, self._num_heads

    def __setstate__(self, state: tuple[nn.Linear, Transform, int]) -> None:
        linear, self._transform, self._num_heads = state
        # Weak, so that the layer's memory is freed with the layer and not when cycles are collected.
        self._linear = weakref.ref(linear)


def _identity(transform: Transform) -> Tensor:
    """Its parameters on the CPU: real numbers, also where tensors are made on the meta device."""
    with torch.device("cpu"):
        return transform.identity_parameters()


def _set_identity(linear: nn.Linear, identity: Tensor, *, anew: bool) -> None:
    """Zero weights, the identity as bias; with ``anew`` nothing that the parameters were is kept."""
    with torch.no_grad():
        if "weight" in linear._parameters and "bias" in linear._parameters:
            _assign(linear, "weight", None)
            _assign(linear, "bias", identity)
            return
        with _unchanged_on_error(linear):
            normalized = _normalized_weight(linear)
            if normalized is None:
                _assign(linear, "weight", None)
            else:
                magnitude, direction = normalized
                magnitude.zero_()
                # From a direction of length zero there is no way on.
                if anew or not (direction.is_meta or _computed(linear)[0].isfinite().all()):
                    nn.init.kaiming_uniform_(direction, a=math.sqrt(5))
            _assign(linear, "bias", identity)
            if not _computed(linear)[0].is_meta:
                _verify(linear, identity)
            # Hooks keep what they compute, which is to have no graph.
            _computed(linear)


def _assign(linear: nn.Linear, name: str, value: Tensor | None) -> None:
    """Give the layer's weight or bias a value, None for zeros, or the parameter that a hook computes it from."""
    parameter = linear._parameters.get(name, linear._parameters.get(f"{name}_orig"))
    if is_parametrized(linear, name):
        tensor: Tensor = getattr(linear, name)
        try:
            setattr(linear, name, torch.zeros_like(tensor) if value is None else value.to(tensor))
        # Many parametrisations that cannot be assigned to give zero for zero, as will be seen.
        except (RuntimeError, NotImplementedError):
            parametrizations: Any = linear.parametrizations
            parameter = parametrizations[name].original
        else:
            return
    if parameter is None:
        raise ValueError(f"no parameter that its {name} is computed from is known")
    if value is None:
        parameter.zero_()
    elif hasattr(parameter, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        # Every process has the value: none is sent.
        value = value.to(device=parameter.device, dtype=parameter.dtype)
        mesh, placements = parameter.device_mesh, parameter.placements  # pyright: ignore[reportAttributeAccessIssue]
        parameter.copy_(distribute_tensor(value, mesh, placements, src_data_rank=None))
    else:
        parameter.copy_(value)


def _normalized_weight(linear: nn.Linear) -> tuple[Tensor, Tensor] | None:
    """Magnitude and direction of a weight under PyTorch's weight normalisation, the old one by a hook or the new."""
    if is_parametrized(linear, "weight"):
        parametrizations: Any = linear.parametrizations
        chain = parametrizations["weight"]
        if isinstance(chain[0], _WeightNorm):
            return chain.original0, chain.original1
    if any(isinstance(hook, WeightNorm) and hook.name == "weight" for hook in linear._forward_pre_hooks.values()):
        return linear.weight_g, linear.weight_v  # pyright: ignore[reportReturnType]
    return None


def _computed(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """The weight and the bias that the layer would use, computed now."""
    for hook in linear._forward_pre_hooks.values():
        if any(base.__module__.startswith("torch.nn.utils.") for base in inspect.getmro(type(hook))):
            hook(linear, ())
    return linear.weight, linear.bias


@contextmanager
def _unchanged_on_error(linear: nn.Linear) -> Iterator[None]:
    """Undo what was done to the layer if it raises, and say what is in the way."""
    cached = {name: linear.__dict__[name] for name in ("weight", "bias") if name in linear.__dict__}
    modules = [(module, module._parameters.copy(), module._buffers.copy()) for module in linear.modules()]
    kept = [(tensor, tensor.detach().clone()) for tensor in (*linear.parameters(), *linear.buffers())]
    try:
        yield
    except Exception as error:
        for module, parameters, buffers in modules:
            module._parameters.update(parameters)
            module._buffers.update(buffers)
        for tensor, value in kept:
            tensor.copy_(value)
        linear.__dict__.update(cached)
        raise ValueError(
            "linear must be able to have zero weights and to be trained from there, which its parametrisation does not "
            f"allow ({error}). Leave the parametrisation of this layer out, or initialise the network yourself"
        ) from error


def _verify(linear: nn.Linear, identity: Tensor) -> None:
    """An error unless the layer predicts the identity, in training and afterwards, and its weights can be trained."""
    modes = [(module, module.training) for module in linear.modules()]
    parameters = [p for name, p in linear.named_parameters() if "weight" in name and p.requires_grad]
    try:
        for training in (True, False):
            linear.train(training)
            with torch.enable_grad():
                weight, bias = _computed(linear)
                if not (weight == 0).all():
                    raise ValueError("the weights would not be zero")
                if not torch.equal(bias, identity.to(bias)):
                    raise ValueError("the bias would not be the identity")
                if not (parameters and weight.requires_grad):
                    continue
                # Different for every weight: antisymmetric parametrisations give sums nothing.
                direction = torch.arange(1, weight.numel() + 1).to(weight).view_as(weight)
                grads = torch.autograd.grad(weight, parameters, direction, allow_unused=True)
            moved = [grad for grad in grads if grad is not None]
            if not all(grad.isfinite().all() for grad in moved) or not any((grad != 0).any() for grad in moved):
                raise ValueError("the weights' gradient would be zero or not finite")
    finally:
        for module, training in modes:
            module.training = training
