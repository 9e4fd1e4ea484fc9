"""Triton's part: from a ``@triton.jit`` function and its arguments to the form before layouts are chosen.

The backend has the shape of Triton's own and is used by nothing but this package: it is not registered.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
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


@dataclass
class _Loop:
    """A loop whose body is being written: its place, what it may change, as it was before, and what it may carry."""

    body: Any
    place: Any
    before: dict[str, Any]
    names: list[str]
    unchanged: list[str] = field(default_factory=list)


class _Generator(code_generator.CodeGenerator):
    """Triton's generator, but it goes through the body of a loop once.

    To find out what a loop carries, Triton goes through its body before it writes it, and so through the bodies of
    loops inside of it once more for each loop around them. Here a loop carries all that its text gives a value to, and
    what turns out to have kept the value from before the loop is put back into its places: the same loop remains.
    """

    def __init__(self, *arguments: Any, **keywords: Any):
        super().__init__(*arguments, **keywords)
        self._loops: list[_Loop] = []

    def _find_carries(self, node: Any, liveins: dict[str, Any], ignore: Collection[str] = ()) -> Any:
        if not isinstance(node, ast.For):
            return super()._find_carries(node, liveins, set(ignore))
        given = _given_values(node)
        names, handles, kinds = [], [], []
        for name, value in liveins.items():
            if name in given and name not in ignore and isinstance(value, language.core.base_value):
                flat = code_generator.flatten_values_to_ir([value])
                if flat:
                    names.append(name)
                    handles += flat
                    kinds.append(value.type)
        before = {name: value for name, value in liveins.items() if name in given and name not in ignore}
        self._loops.append(_Loop(node.body, self.builder.get_loc(), before, names))
        return names, handles, kinds

    def visit_compound_statement(self, stmts: Any) -> None:
        loop = self._loops[-1] if self._loops else None
        if loop is None or loop.body is not stmts:
            super().visit_compound_statement(stmts)
            return
        arguments = {name: self.lscope[name] for name in loop.names}
        super().visit_compound_statement(stmts)
        for name, before in loop.before.items():
            if not isinstance(before, language.core.base_value):
                assert name not in self.local_defs, f"Loop carried variable {name} is not a triton value"
                continue
            after = self.lscope[name]
            self._verify_loop_carried_variable(name, after, before)
            if name not in arguments:
                continue
            places = code_generator.flatten_values_to_ir([arguments[name]])
            if places == code_generator.flatten_values_to_ir([after]):
                loop.unchanged.append(name)
                for place, value in zip(places, code_generator.flatten_values_to_ir([before]), strict=True):
                    place.replace_all_uses_with(value)

    def visit_For(self, node: Any) -> None:  # noqa: N802 - Python's name for a visitor
        depth, given = len(self._loops), self.local_defs.copy()
        super().visit_For(node)
        # A loop that is unrolled here carries nothing.
        for loop in self._loops[depth:]:
            if loop.unchanged:
                self._forget(loop, given)
        del self._loops[depth:]

    def _forget(self, loop: _Loop, given: dict[str, Any]) -> None:
        """What a loop did not change is what it was before, and the loop is named after what it changed."""
        results = code_generator.flatten_values_to_ir(self.lscope[name] for name in loop.names)
        results[0].set_loc(loop.place)
        for name in loop.names:
            if name not in loop.unchanged:
                self._maybe_set_loc_to_name(self.lscope[name], name)
                continue
            self.set_value(name, loop.before[name])
            if name not in given:
                del self.local_defs[name]


@lru_cache(maxsize=1024)
def _given_values(node: ast.For) -> frozenset[str]:
    """The names that a loop's text gives a value to."""
    names = (inner for statement in node.body for inner in ast.walk(statement) if isinstance(inner, ast.Name))
    return frozenset(name.id for name in names if isinstance(name.ctx, ast.Store))


# What functions were parsed to, by their text: no generator changes a tree. More than kernels here have functions.
_trees: dict[str, ast.Module] = {}
MANY_TREES = 1000


@contextlib.contextmanager
def quick_front_end() -> Iterator[None]:
    """Triton's front end with this generator, parsing each function once; its results are the same.

    Only in this thread: others may compile kernels of their own meanwhile, as Triton does.
    """
    with _swapping:
        usual, of, thread = code_generator.CodeGenerator, code_generator.JITCallable, threading.get_ident()
        parse = of.parse

        def generator(*arguments: Any, **keywords: Any) -> Any:
            return (_Generator if threading.get_ident() == thread else usual)(*arguments, **keywords)

        def parse_once(function: Any) -> ast.Module:
            if threading.get_ident() != thread:
                return parse(function)
            tree = _trees.get(function.src)
            if tree is None:
                if len(_trees) >= MANY_TREES:
                    _trees.clear()
                tree = _trees[function.src] = parse(function)
            return tree

        code_generator.CodeGenerator, of.parse = generator, parse_once
        try:
            yield
        finally:
            code_generator.CodeGenerator, of.parse = usual, parse


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
