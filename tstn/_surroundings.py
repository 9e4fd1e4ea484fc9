"""What surrounds a call, and so decides who computes: function transforms, the compiler, tracers, dispatch modes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Types of tensors that have memory which a kernel can read, and None, where an operand is not there.
PLAIN = frozenset((Tensor, torch.nn.Parameter, type(None)))
_DISPATCH = "__torch_dispatch__"
_VMAP_OF_AUTOGRAD = torch._C._dispatch_key_parse("VmapMode")


def is_transformed() -> bool:
    """Whether torch.func or forward-mode AD is at work, which PyTorch's own operators know how to follow."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_traced() -> bool:
    """Whether TorchScript records a trace, which can hold no autograd Function."""
    return torch._C._get_tracing_state() is not None


def is_batched() -> bool:
    """Whether ``torch.autograd`` takes many rows through one backward pass: ``is_grads_batched=True`` and its users."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._dispatch_tls_is_dispatch_key_included(_VMAP_OF_AUTOGRAD)


def is_dispatched() -> bool:
    """Whether a dispatch mode is active: a tracer, fake tensors, a logger. It has to see an operator, not a launch."""
    return torch._C._len_torch_dispatch_stack() > 0


def may_read_values(tensor: Tensor) -> bool:
    """Whether the tensor's values are there to be looked at, and looking does not disturb anybody."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return type(tensor) in PLAIN and not is_dispatched() and not is_traced()


def is_plain(tensors: Iterable[Tensor | None]) -> bool:
    """Whether these have memory that a kernel can read; fake tensors and other subclasses need the dispatcher."""
    return PLAIN.issuperset(map(type, tensors))


def as_plain(tensor: Tensor | None) -> Tensor | None:
    """A subclass that only overrides functions, as torchvision's, as a plain tensor of the same memory and graph."""
    if tensor is None or type(tensor) in PLAIN or getattr(type(tensor), _DISPATCH) is not getattr(Tensor, _DISPATCH):
        return tensor
    return tensor.as_subclass(Tensor)


Scripted = TypeVar("Scripted")


def not_scriptable(entry: Scripted) -> Scripted:
    """Decorate a function or a module class so that ``torch.jit.script`` says what to use in its place."""

    def refused(*_: Any) -> NoReturn:
        raise RuntimeError(
            f"torch.jit.script does not support tstn.{getattr(entry, '__name__', entry)}; record the model with"
            " torch.jit.trace or torch.export, or compile it with torch.compile"
        )

    # PyTorch calls this on whatever it is about to script.
    entry.__prepare_scriptable__ = refused  # pyright: ignore[reportAttributeAccessIssue]
    return entry
