"""Triton's interpreter, made faster for tests, and its multiply-add exact."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np


def _fused(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z with one rounding, as hardware has it: the interpreter's own rounds the product too."""
    wide = {"float32": np.float64, "float64": np.longdouble}.get(z.data.dtype.name, z.data.dtype)
    product = np.multiply(x.data, y.data, dtype=wide)
    with np.errstate(all="ignore"):
        result = np.add(product, z.data, dtype=wide).astype(z.data.dtype)
    return type(z)(result, z.dtype.scalar)


def _typed(binary_op: Callable[..., Any], truth: Any) -> Callable[..., Any]:
    """A binary operation whose truth values are known as such.

    The interpreter gives a comparison's result the type of what was compared. Where Triton 3.9 spreads such a scalar
    over a block it then makes whole numbers of it, and refuses them as a mask.
    """

    def typed(builder: Any, x: Any, y: Any, operation: Any) -> Any:
        result = binary_op(builder, x, y, operation)
        return type(result)(result.data, truth) if result.data.dtype == np.bool_ else result

    return typed


def _cached_by_name(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of a Triton type, asked once for types of one name."""
    known: dict[str, Any] = {}

    def of(dtype: Any) -> Any:
        name = dtype.name
        if name not in known:
            known[name] = function(dtype)
        return known[name]

    return of


def speed_up() -> None:
    """Patch ``triton.language`` once per kernel, not again in every device function that a kernel calls.

    The interpreter replaces the language's builtins before it runs a kernel, and looks for what is left to replace at
    each call of a device function: half of all its time. What a nested call would replace has been replaced by then,
    unless the function sees another of the language's modules.
    """
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    interpreter.InterpreterBuilder.create_fma = _fused  # pyright: ignore[reportAttributeAccessIssue]
    # Each sum and product of integers is computed again in 64 bits otherwise; tests of sizes look for overflows.
    options = dataclasses.replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
    interpreter.interpreter_builder.options = options
    # It makes its table of all dtypes anew at each call.
    interpreter._get_np_dtype = _cached_by_name(interpreter._get_np_dtype)
    patch = interpreter._patch_lang
    if getattr(patch, "is_fast", False):
        return
    interpreter.InterpreterBuilder.binary_op = _typed(interpreter.InterpreterBuilder.binary_op, interpreter.tl.int1)
    patched: set[int] = set()

    class OnceScope:
        def __init__(self, scope: Any):
            self.scope = scope

        def restore(self) -> None:
            patched.clear()
            self.scope.restore()

    def patch_once(function: Any) -> Any:
        visible = {id(v) for v in function.__globals__.values() if inspect.ismodule(v) and _is_language(v)}
        nested = bool(patched)
        if nested and visible <= patched:
            return interpreter._LangPatchScope()
        patched.update(visible)
        try:
            scope = patch(function)
        except BaseException:
            patched.clear()
            raise
        return scope if nested else OnceScope(scope)

    def _is_language(module: Any) -> bool:
        return module is interpreter.tl or module is interpreter.tl.core

    patch_once.is_fast = True  # pyright: ignore[reportFunctionMemberAccess]
    interpreter._patch_lang = patch_once
