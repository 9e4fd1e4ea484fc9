"""Triton's part: from a ``@triton.jit`` function and its arguments to the form before layouts are chosen.

The backend has the shape of Triton's own and is used by nothing but this package: it is not registered.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import triton.language as language
from triton._C.libtriton import ir, passes
from triton.backends.compiler import BaseBackend, GPUTarget
from triton.compiler import code_generator
from triton.compiler.compiler import ASTSource

from tstn_cpu import libdevice


@dataclass(frozen=True)
class Options:
    """What Triton's front end asks a backend for."""

    num_warps: int = 1
    num_ctas: int = 1
    num_stages: int = 1
    warp_size: int = 1
    enable_fp_fusion: bool = True
    supported_fp8_dtypes: tuple[str, ...] = ()
    deprecated_fp8_dot_operand_dtypes: tuple[str, ...] = ()
    default_dot_input_precision: str = "ieee"
    allowed_dot_input_precisions: tuple[str, ...] = ("ieee", "tf32", "tf32x3")
    max_num_imprecise_acc_default: int = 0
    extern_libs: tuple[Any, ...] = ()
    debug: bool = False
    backend_name: str = "cpu"
    sanitize_overflow: bool = False
    arch: str = "cpu"
    instrumentation_mode: str = ""

    def hash(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()


class Backend(BaseBackend):
    """The CPU, as Triton's compiler sees a backend."""

    binary_ext = "obj"

    @staticmethod
    def supports_target(target: GPUTarget) -> bool:
        return target.backend == "cpu"

    def hash(self) -> str:
        return "cpu"

    def parse_options(self, options: dict[str, Any]) -> Options:
        return Options(**{name: options[name] for name in Options.__dataclass_fields__ if name in options})

    def add_stages(self, stages: dict[str, Any], options: object, language: object = None) -> None:
        stages["ttir"] = lambda module, metadata: self.make_ttir(module)

    def load_dialects(self, context: Any) -> None:
        pass

    def get_codegen_implementation(self, options: object) -> dict[str, Any]:
        return {"min_dot_size": lambda left, right: (1, 1, 1)}

    def get_module_map(self) -> dict[str, ModuleType]:
        return {"triton.language.extra.libdevice": libdevice}

    def pack_metadata(self, metadata: object) -> tuple[()]:
        return ()

    @staticmethod
    def make_ttir(module: Any) -> Any:
        """Inline, simplify, and unroll what asks for it."""
        manager = ir.pass_manager(module.context)
        passes.common.add_inliner(manager)
        passes.common.add_canonicalizer(manager)
        passes.ttir.add_combine(manager)
        passes.ttir.add_reorder_broadcast(manager)
        passes.common.add_cse(manager)
        passes.ttir.add_triton_licm(manager)
        passes.common.add_symbol_dce(manager)
        passes.ttir.add_loop_unroll(manager)
        manager.run(module, "make_ttir")
        return module


@lru_cache(maxsize=1)
def _backend() -> Backend:
    return Backend(TARGET)


TARGET = GPUTarget("cpu", "cpu", 1)


_swapping = threading.RLock()
# A fork waits, as it does for LLVM.
os.register_at_fork(before=_swapping.acquire, after_in_parent=_swapping.release, after_in_child=_swapping.release)


class _Generator(code_generator.CodeGenerator):
    """Triton's generator, but for loops within loops.

    To find out what a loop carries, Triton goes through its body once before it writes it, and through the bodies of
    loops inside of it four times, eight times and so on. What a loop changes is seen by going through it once.
    """

    _rehearsals = 0

    def _find_carries(self, *arguments: Any, **keywords: Any) -> Any:
        self._rehearsals += 1
        try:
            return super()._find_carries(*arguments, **keywords)
        finally:
            self._rehearsals -= 1

    def visit_For(self, node: Any) -> None:  # noqa: N802 - Python's name for a visitor
        if not self._rehearsals or self.visit(node.iter.func) == language.static_range:
            super().visit_For(node)
            return
        kind = self._kind_of_counter([self.visit(argument) for argument in node.iter.args])
        if kind is None or any(keyword.arg in ("arg1", "arg2", "step") for keyword in node.iter.keywords):
            super().visit_For(node)
            return
        counter = self.builder.create_poison(kind.to_ir(self.builder))
        self.set_value(node.target.id, language.core.tensor(counter, kind))
        self.visit_compound_statement(node.body)

    def _kind_of_counter(self, bounds: list[Any]) -> Any:
        """The type that holds all bounds; None if they are not whole numbers, of which Triton has more to say."""
        # Where the first one or the step is not given it is a number of 32 bits.
        kind = language.int32 if len(bounds) < 3 else None
        for bound in bounds:
            of = self.semantic.to_tensor(bound).dtype
            if not of.is_int():
                return None
            kind = of if kind is None else self.semantic.integer_promote_impl(kind, of)
        return kind


@contextlib.contextmanager
def quick_front_end() -> Iterator[None]:
    """Triton's front end with this generator, whose results are the same."""
    with _swapping:
        usual = code_generator.CodeGenerator
        code_generator.CodeGenerator = _Generator
        try:
            yield
        finally:
            code_generator.CodeGenerator = usual


def ttir(kernel_source: ASTSource) -> str:
    """The kernel's text before layouts are chosen, with the places in the source that it comes from."""
    with quick_front_end():
        return _ttir(kernel_source)


def _ttir(kernel_source: ASTSource) -> str:
    """With the lock, also while what MLIR made for it is given back."""
    backend = _backend()
    options = backend.parse_options({})
    context = ir.context()
    ir.load_dialects(context)
    functions = backend.get_codegen_implementation(options)
    module = kernel_source.make_ir(TARGET, options, functions, backend.get_module_map(), context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options)
    return str(stages["ttir"](module, {}))
