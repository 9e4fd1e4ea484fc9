"""What a kernel is compiled for: the types of its arguments, and the values that are compiled in.

By itself because it is all that a process needs of Triton for a kernel that was compiled before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from triton.compiler.compiler import ASTSource

# Triton's names of types, by ours.
TRITON_NAMES = {"f16": "fp16", "bf16": "bf16", "f32": "fp32", "f64": "fp64"}


class Pointer(NamedTuple):
    """Memory that a kernel takes: what it points at, by a name as in "f32"."""

    element: str


def source(
    kernel: Any, arguments: Sequence[Any], constexprs: Mapping[str, Any], specialize: Collection[str] | None = None
) -> ASTSource:
    """A kernel for such arguments: integers of value 1 are compiled in, as Triton does, unless it is asked not to.

    Args:
        kernel: A ``@triton.jit`` function.
        arguments: Those that are no constexprs, in order: numbers, and a :class:`Pointer` for memory.
        constexprs: By name.
        specialize: The integers for which that is done; None: all but those that the kernel excepts.
    """
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    given = iter(arguments)
    for i, parameter in enumerate(kernel.params):
        if parameter.is_constexpr:
            kind, constants[i,] = "constexpr", constexprs[parameter.name]
        else:
            argument = next(given)
            special = not parameter.do_not_specialize if specialize is None else parameter.name in specialize
            kind = _kind(argument, parameter, special)
            if kind == "constexpr":
                constants[i,] = argument
        signature[parameter.name] = kind
    return ASTSource(kernel, signature, constants, {})


def _kind(argument: Any, parameter: Any, special: bool) -> str:
    if isinstance(argument, Pointer):
        return "*" + TRITON_NAMES.get(argument.element, argument.element)
    if parameter.annotation_type:
        return parameter.annotation_type
    if isinstance(argument, bool):
        return "i1"
    if isinstance(argument, Integral):
        if argument == 1 and special:
            return "constexpr"
        return "i32" if -(2**31) <= argument < 2**31 else "i64" if argument < 2**63 else "u64"
    if isinstance(argument, Real):
        return "fp32"
    raise TypeError(f"{parameter.name} must be memory or a number; got {type(argument).__name__}")
