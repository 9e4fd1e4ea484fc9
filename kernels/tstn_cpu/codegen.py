"""LLVM's part: from text to object code for this CPU, and from there into memory."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import threading
from typing import Any

from llvmlite import binding

from tstn_cpu.host import host

_lock = threading.RLock()
# A fork waits for what is being compiled: in the child, locks of LLVM's would stay locked.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_names = itertools.count()
# Of what was loaded, so that it stays; and what loads it.
_state: dict[str, Any] = {}


def _machine(level: int) -> Any:
    """LLVM's description of this CPU, for code of some level of optimisation."""
    name = f"machine{level}"
    if name not in _state:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        target = binding.Target.from_default_triple()
        of = host()
        _state[name] = target.create_target_machine(cpu=of.cpu, features=of.features, opt=level, reloc="pic", jit=True)
    return _state[name]


def object_code(text: str, *, quick: bool = False) -> bytes:
    """Compile LLVM's text; ``quick``: code that takes longer to run than to make."""
    with _lock:
        return _object_code(text, quick)


def _object_code(text: str, quick: bool) -> bytes:
    """With the lock, also while what LLVM made for it is given back."""
    machine = _machine(0 if quick else 2)
    context = binding.create_context()
    module = binding.parse_assembly(text, context)
    # Code that is not valid may still compile, into something else.
    module.verify()
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    options = binding.create_pipeline_tuning_options(speed_level=0 if quick else 2)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)


def load(code: bytes, symbol: str) -> int:
    """The address of a function of some object code, which stays in memory, once."""
    with _lock:
        return _load(code, symbol)


def _load(code: bytes, symbol: str) -> int:
    if "jit" not in _state:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        _state["jit"] = binding.create_lljit_compiler()
        _state["loaded"] = {}
    loaded, key = _state["loaded"], hashlib.sha256(code).digest()
    if key not in loaded:
        library = binding.JITLibraryBuilder().add_object_img(code).add_current_process().export_symbol(symbol)
        loaded[key] = library.link(_state["jit"], f"kernel{next(_names)}")
    return loaded[key][symbol]


def function(address: int, *arguments: Any) -> Any:
    """What is at an address, as Python calls it: without holding the interpreter's lock."""
    return ctypes.CFUNCTYPE(ctypes.c_int32, *arguments)(address)
