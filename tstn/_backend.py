"""Which implementation runs: the Triton kernels or plain PyTorch."""

from __future__ import annotations

import importlib.util
import os
from types import TracebackType

import torch
from torch import Tensor

from tstn import _checks

BACKENDS = ("auto", "triton", "torch")
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
# Triton reads this variable when the kernels are defined, so that it has to be set before tstn is imported.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"

_choice = os.environ.get("TSTN_BACKEND", "auto")
_checks.require_option("the environment variable TSTN_BACKEND", _choice, BACKENDS)


class backend:  # noqa: N801 - used like a function, as torch.set_grad_enabled
    """Choose the backend, from here on or for a ``with`` block.

    ``tstn.backend("torch")`` switches at once; ``with tstn.backend("triton"): ...`` restores the previous choice at
    the end. The choice is the process's, for all threads. The environment variable ``TSTN_BACKEND`` sets it at start.

    Args:
        name: ``"triton"``: the fused kernels, an error where they cannot run. ``"torch"``: plain PyTorch operators,
            on every device. ``"auto"``: the kernels for CUDA and ROCm tensors if Triton is installed, else plain
            PyTorch.

    Raises:
        ValueError: If ``name`` is none of these.
    """

    def __init__(self, name: str) -> None:
        global _choice
        _checks.require_option("name", name, BACKENDS)
        self._previous = _choice
        _choice = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _choice
        _choice = self._previous


def backend_for(tensor: Tensor) -> str:
    """The backend, ``"triton"`` or ``"torch"``, that a call with this input would use.

    What is recorded to run where tstn may not be is plain PyTorch: TorchScript traces and ONNX models always, programs
    of ``torch.export`` unless ``"triton"`` was asked for by name.

    Raises:
        RuntimeError: If ``"triton"`` was asked for and cannot run here; the message says why.
    """
    device = tensor.device.type
    if _choice == "torch" or _is_portable():
        return "torch"
    if _choice == "auto":
        return "triton" if device == "cuda" and TRITON_INSTALLED else "torch"
    if not TRITON_INSTALLED:
        raise RuntimeError(
            "backend 'triton' was asked for, but Triton is not installed (pip install triton; Linux only)"
        )
    if device != "cuda" and not (device == "cpu" and INTERPRETED):
        raise RuntimeError(
            f"backend 'triton' was asked for, but it cannot run on a {device} tensor: it needs a CUDA or ROCm device, "
            "or TRITON_INTERPRET=1 set before tstn is imported to run the kernels on the CPU, slowly"
        )
    return "triton"


def _is_portable() -> bool:
    """Whether what is recorded here has to run where tstn is not."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting() and (_choice != "triton" or torch.onnx.is_in_onnx_export())
    return torch._C._get_tracing_state() is not None
