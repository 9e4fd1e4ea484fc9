"""What ``tstn info`` prints: all that a bug report should say."""

from __future__ import annotations

import os

import torch

import tstn
from tstn import _backend, data
from tstn.experiments import results


def report() -> str:
    """Versions, devices, and which backend each device gets and why."""
    lines = [f"{name:<11}{version or 'not installed'}" for name, version in results.versions().items()]
    lines += ["", "device      backend  why"]
    for device, name in _devices().items():
        backend, why = _backend_of(device)
        lines.append(f"{device:<11} {backend:<8} {why}")
        lines.append(f"{'':<11} {name}")
    root = data.default_root()
    state = (
        "there" if all((root / name).exists() for name in data.MNIST_MD5) else "not there yet, downloaded when needed"
    )
    lines += ["", f"mnist      {root}: {state}"]
    return "\n".join(lines)


def _devices() -> dict[str, str]:
    found = {"cpu": results.machine(torch.device("cpu"))}
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        found[f"cuda:{i}"] = f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB"
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None and accelerator.type != "cuda":
        found[accelerator.type] = "accelerator"
    return found


def _backend_of(device: str) -> tuple[str, str]:
    """The backend of a device, and the reason in words."""
    try:
        backend = tstn.backend_for(torch.empty(0, device=device))
    except RuntimeError as error:
        return "none", str(error)
    chosen = os.environ.get("TSTN_BACKEND") or "auto"
    if chosen != "auto":
        interpreted = backend == "triton" and device == "cpu" and _backend.INTERPRETED
        how = ", its kernels in Triton's interpreter, slowly" if interpreted else ""
        return backend, f"TSTN_BACKEND={chosen} asks for it{how}"
    if backend == "triton":
        how = "compiled for this CPU" if device == "cpu" else "Triton is installed, and runs on this device"
        return backend, f"fused kernels: {how}"
    if device.startswith("cuda"):
        return backend, "plain PyTorch: Triton is not installed (pip install triton; Linux only)"
    if device == "cpu":
        reason = "TRITON_INTERPRET is set" if _backend.INTERPRETED else _backend.why_not_native()
        return backend, f"plain PyTorch: {reason}"
    return backend, "plain PyTorch: the kernels need a CPU or a CUDA or ROCm device"
