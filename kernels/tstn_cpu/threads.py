"""Several threads for one launch: those of the OpenMP library that is in the process already, or Python's own.

A library that computes on threads of its own, as PyTorch does, brings an OpenMP library with it. Its threads wait for
work, spinning for a while; another pool beside it would take their cores. Its entry point for compilers,
``GOMP_parallel(function, data, threads, flags)``, is a function of the ABI of GCC that LLVM's and Intel's libraries have
too. After a fork its threads are gone, and it would wait for them forever: there Python's threads take their place.
"""

from __future__ import annotations

import ctypes
import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

Function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
Parallel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)

_state: dict[str, Any] = {}


def team() -> int:
    """The address of a function that runs another on several threads at once."""
    address = _state.get("team")
    if address is None:
        address = _state["team"] = (None if _state.get("forked") else _openmp()) or _python()
    return address


def _after_fork() -> None:
    _state.clear()
    _state["forked"] = True


os.register_at_fork(after_in_child=_after_fork)


def _openmp() -> int | None:
    """``GOMP_parallel`` of a library that is loaded already."""
    for path in _loaded_libraries():
        if re.search(r"/lib(gomp|omp|iomp5)[-.\w]*\.so[.\d]*$", path):
            try:
                library = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
                return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value
            except (OSError, AttributeError):
                continue
    return None


def _loaded_libraries() -> list[str]:
    """Paths of what is mapped into this process, in the order of loading or of addresses."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return list(dict.fromkeys(re.findall(r"(/\S.*\.so[.\d]*)$", maps, re.MULTILINE)))


def _python() -> int:
    """The same by Python's threads: the interpreter's lock is not held while they run what is compiled."""
    address = ctypes.cast(_parallel, ctypes.c_void_p).value
    assert address is not None
    return address


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="tstn_cpu")


@Parallel
def _parallel(function: int, data: int, many: int, flags: int) -> None:
    run = Function(function)
    others = [_pool(os.getpid()).submit(run, data) for _ in range(many - 1)]
    run(data)
    for other in others:
        other.result()
