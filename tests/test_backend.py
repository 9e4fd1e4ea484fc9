import os
import subprocess
import sys

import pytest
import torch

import tstn

CPU = torch.zeros(1)
ON_GPU = torch.cuda.is_available()


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in a fresh process, where what is set at import can differ."""
    clean = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "TSTN_BACKEND")}
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_auto_is_plain_pytorch_on_the_cpu():
    with tstn.backend("auto"):
        assert tstn.backend_for(CPU) == "torch"


@pytest.mark.gpu
def test_auto_is_the_kernels_on_a_gpu():
    with tstn.backend("auto"):
        assert tstn.backend_for(CPU.cuda()) == "triton"


def test_context_manager_restores_and_setter_stays():
    with tstn.backend("torch"):
        with tstn.backend("auto"):
            pass
        tstn.backend("triton" if not ON_GPU else "auto")
    assert tstn.backend_for(CPU) == "torch"
    tstn.backend("torch")
    try:
        assert tstn.backend_for(torch.empty(1, device="meta")) == "torch"
    finally:
        tstn.backend("auto")


def test_unknown_backend():
    with pytest.raises(ValueError, match="name must be one of 'auto', 'triton', 'torch'; got 'cuda'"):
        tstn.backend("cuda")


def test_triton_where_it_cannot_run_says_why():
    with tstn.backend("triton"), pytest.raises(RuntimeError, match="cannot run on a meta tensor"):
        tstn.backend_for(torch.empty(1, device="meta"))
    code = "import torch, tstn; tstn.backend('triton'); tstn.spatial_transform(torch.rand(1,1,2,2), torch.rand(1,2,3))"
    result = run(code)
    assert result.returncode == 1
    assert "it cannot run on a cpu tensor" in result.stderr
    assert "TRITON_INTERPRET=1" in result.stderr


def test_environment_variable():
    code = "import torch, tstn; print(tstn.backend_for(torch.zeros(1)))"
    assert run(code, TSTN_BACKEND="triton", TRITON_INTERPRET="1").stdout == "triton\n"
    assert run(code, TRITON_INTERPRET="1").stdout == "torch\n"
    result = run(code, TSTN_BACKEND="gpu")
    assert result.returncode == 1
    assert "TSTN_BACKEND must be one of 'auto', 'triton', 'torch'; got 'gpu'" in result.stderr


def test_works_without_triton():
    """Where Triton is not installed, everything but the kernels is there, and asking for them says what to do."""
    code = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "triton" else find_spec(name, package)
sys.modules["triton"] = None
import torch, tstn
x = torch.rand(1, 1, 3, 3)
y = tstn.SpatialTransformer(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 6)))(x)
assert torch.allclose(x, y, atol=1e-5)
tstn.backend("triton")
tstn.grid_sample(x, torch.zeros(1, 2, 2, 2))
"""
    result = run(code)
    assert result.returncode == 1
    assert "RuntimeError: backend 'triton' was asked for, but Triton is not installed" in result.stderr


def test_import_is_light():
    """Importing loads neither the kernels nor anything that only the demo or the benchmarks use."""
    code = """
import sys, torch
before = set(sys.modules)
import tstn
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names)))
"""
    assert run(code).stdout == "['tstn']\n"
