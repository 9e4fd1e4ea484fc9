"""Several threads for one launch: those of the OpenMP library that is in the process already, or some of its own.

A library that computes on threads of its own, as PyTorch does, brings an OpenMP library with it. Its threads wait for
work, spinning for a while; another pool beside it would take their cores. Its entry point for compilers,
``GOMP_parallel(function, data, threads, flags)``, is a function of the ABI of GCC that LLVM's and Intel's libraries
have too. After a fork its threads are gone, and it would wait for them forever: there, and where there is no such
library, a launch starts threads for itself (``lower.TEAM``), without Python, which may be interrupted or at its end.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

_state: dict[str, int | None] = {}


def team() -> int | None:
    """The address of a function that runs another on several threads at once; None if there is no such team."""
    if "team" not in _state:
        _state["team"] = _openmp()
    return _state["team"]


def _after_fork() -> None:
    _state["team"] = None


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
