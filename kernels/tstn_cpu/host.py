"""What the CPU of this machine can do, and whether kernels can run on it."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from functools import lru_cache

# Without these LLVM would call functions of a compiler's library, which is not there: fused multiply-adds, and half
# types. All x86-64 processors since 2015 have them.
NEEDED = ("avx2", "fma", "f16c")


@dataclass(frozen=True)
class Host:
    """A CPU, as LLVM names it."""

    cpu: str
    features: str
    # Whether it has instructions that load, and that store, lanes at addresses of their own.
    gathers: bool
    scatters: bool
    # Attributes of functions in LLVM's text.
    attributes: str


@lru_cache(maxsize=1)
def host() -> Host:
    """This machine's."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    wide = features.get("avx512f", False) and features.get("avx512vl", False) and features.get("avx512bw", False)
    attributes = '"prefer-vector-width"="512" "min-legal-vector-width"="512"' if wide else ""
    return Host(
        binding.get_host_cpu_name(), features.flatten(), bool(features.get("avx2", False)), bool(wide), attributes
    )


@lru_cache(maxsize=1)
def why_not() -> str | None:
    """Why kernels cannot run here, as the end of a sentence; None if they can."""
    if not sys.platform.startswith("linux"):
        return f"it runs on Linux, and this is {platform.system()}"
    if platform.machine() not in ("x86_64", "aarch64"):
        return f"it runs on x86-64 and arm64 processors, and this is {platform.machine()}"
    try:
        from llvmlite import binding
    except ImportError:
        return "llvmlite is not installed (pip install llvmlite)"
    if platform.machine() == "x86_64":
        features = binding.get_host_cpu_features()
        missing = [name for name in NEEDED if not features.get(name, False)]
        if missing:
            return f"this processor lacks {', '.join(missing)}"
    return None
