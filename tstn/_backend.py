"""Which implementation runs: the Triton kernels or plain PyTorch."""

from __future__ import annotations

import importlib.util
import itertools
import os
from importlib.machinery import PathFinder
from types import TracebackType

import torch
from torch import Tensor

from tstn import _checks

BACKENDS = ("auto", "triton", "torch")


def _is_installed(package: str, module: str | None = None) -> bool:
    """Whether a package is there, with this module in it, found without importing any of it."""
    try:
        spec = importlib.util.find_spec(package)
    # A module that somebody made up has no spec.
    except ValueError:
        return False
    if spec is None or module is None:
        return spec is not None
    inside = PathFinder.find_spec(module, list(spec.submodule_search_locations or ()))
    # A folder without code in it has no origin.
    return inside is not None and inside.origin is not None


def _is_true(variable: str) -> bool:
    """Whether an environment variable switches something on, as Triton reads it."""
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "on", "y")


TRITON_INSTALLED = _is_installed("triton", "language")
# Triton reads this variable when the kernels are defined, so that it has to be set before tstn is imported.
INTERPRETED = _is_true("TRITON_INTERPRET")
# Of Triton, only its interpreter needs it.
NUMPY_INSTALLED = _is_installed("numpy")

# Not checked here, so that importing tstn does not fail and the command can say what is wrong.
_choice = os.environ.get("TSTN_BACKEND") or "auto"
# Which object made the choice; 0 is the environment.
_chosen_by = 0
_numbers = itertools.count(1)


def why_not_native() -> str | None:
    """Why the kernels cannot run on this CPU, as the end of a sentence; None if they can."""
    if not TRITON_INSTALLED:
        return "Triton is not installed (pip install triton; Linux only)"
    import tstn_cpu

    return tstn_cpu.why_not()


# What torch.compiler.assume_constant_result sets, which imports the compiler; torch.compile then follows no imports.
why_not_native._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


class backend:  # noqa: N801 - used like a function, as torch.set_grad_enabled
    """Choose the backend, from here on or for a ``with`` block.

    ``tstn.backend("torch")`` switches at once; ``with tstn.backend("triton"): ...`` restores at the end what was chosen
    before. An object may be kept and entered again, also inside itself: each block sets its choice and restores what it
    found. The choice is the process's, for all threads. The environment variable ``TSTN_BACKEND`` sets it at start.

    Args:
        name: ``"triton"``: the fused kernels, an error where they cannot run. ``"torch"``: plain PyTorch operators,
            on every device. ``"auto"``: the kernels for CUDA and ROCm tensors if Triton is installed, and for CPU
            tensors if they can be compiled for this CPU (Linux on x86-64 or arm64, Triton and llvmlite); else plain
            PyTorch.

    Raises:
        ValueError: If ``name`` is none of these.
    """

    def __init__(self, name: str) -> None:
        _checks.require_option("name", name, BACKENDS)
        self._name = name
        self._number = next(_numbers)
        self._before = _choice, _chosen_by
        self._found: list[tuple[str, int]] = []
        _choose(name, self._number)

    def __enter__(self) -> None:
        # In ``with tstn.backend(...)`` the object has made its choice already: what the block found is older.
        made = _chosen_by == self._number and not self._found
        self._found.append(self._before if made else (_choice, _chosen_by))
        _choose(self._name, self._number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _choose(*self._found.pop())


def _choose(name: str, number: int) -> None:
    global _choice, _chosen_by
    _choice, _chosen_by = name, number


def require_choice() -> None:
    """An error if the environment variable names no backend."""
    _checks.require_option("the environment variable TSTN_BACKEND", _choice, BACKENDS)


def backend_for(tensor: Tensor) -> str:
    """The backend, ``"triton"`` or ``"torch"``, that a call with this input would use.

    What is recorded to run where tstn may not be is plain PyTorch: TorchScript traces and ONNX models always, programs
    of ``torch.export`` unless ``"triton"`` was asked for by name.

    Raises:
        RuntimeError: If ``"triton"`` was asked for and cannot run here; the message says why.
        ValueError: If the environment variable ``TSTN_BACKEND`` names no backend.
    """
    device = tensor.device.type
    if _choice == "torch" or _is_portable():
        return "torch"
    if _choice == "auto":
        if not TRITON_INSTALLED or (device != "cuda" and (device != "cpu" or INTERPRETED or why_not_native())):
            return "torch"
    else:
        if _choice != "triton":
            require_choice()
        if not TRITON_INSTALLED:
            raise RuntimeError(
                "backend 'triton' was asked for, but Triton is not installed (pip install triton; Linux only)"
            )
        if device not in ("cuda", "cpu"):
            raise RuntimeError(
                f"backend 'triton' was asked for, but it cannot run on a {device} tensor: it needs a CPU or a CUDA or "
                "ROCm device"
            )
        if device == "cpu" and not INTERPRETED:
            reason = why_not_native()
            if reason is not None:
                raise RuntimeError(f"backend 'triton' was asked for, but it cannot run on this CPU: {reason}")
    if INTERPRETED and not NUMPY_INSTALLED:
        raise RuntimeError(
            "Triton's interpreter, which TRITON_INTERPRET asks for, needs NumPy, and it is not installed "
            "(pip install numpy)"
        )
    return "triton"


def _is_portable() -> bool:
    """Whether what is recorded here has to run where tstn is not."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting() and (_choice != "triton" or torch.onnx.is_in_onnx_export())
    return torch._C._get_tracing_state() is not None
