import contextlib
import os
import subprocess
import sys

import pytest
import torch

import tstn
from tstn import _backend

CPU = torch.zeros(1)


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


@pytest.mark.skipif(_backend.INTERPRETED, reason="the interpreter is for those who ask for it")
def test_auto_is_the_kernels_on_the_cpu():
    with tstn.backend("auto"):
        assert tstn.backend_for(CPU) == "triton"


@pytest.mark.gpu
def test_auto_is_the_kernels_on_a_gpu():
    with tstn.backend("auto"):
        assert tstn.backend_for(CPU.cuda()) == "triton"


def test_context_manager_restores_and_setter_stays():
    with tstn.backend("torch"):
        with tstn.backend("auto"):
            pass
        assert tstn.backend_for(CPU) == "torch"
        tstn.backend("triton")
    assert _backend._choice == "auto"
    tstn.backend("torch")
    try:
        assert tstn.backend_for(torch.empty(1, device="meta")) == "torch"
    finally:
        tstn.backend("auto")


def test_an_object_may_be_entered_again_and_in_itself():
    def chosen():
        return _backend._choice

    with tstn.backend("auto"):
        kept = tstn.backend("torch")
        assert chosen() == "torch"
        tstn.backend("triton")
        for _ in range(2):
            with kept:
                assert chosen() == "torch"
                tstn.backend("auto")
                with kept:
                    assert chosen() == "torch"
                    with kept:
                        pass
                    assert chosen() == "torch"
                assert chosen() == "auto"
            assert chosen() == "triton"
        tstn.backend("torch")
        with kept:
            pass
        assert chosen() == "torch"
        with tstn.backend("triton") as made, contextlib.suppress(KeyError), kept:
            assert made is None
            raise KeyError
        assert chosen() == "torch"
    again = tstn.backend("torch")
    with again, again:
        assert chosen() == "torch"
    assert chosen() == "auto"


def test_unknown_backend():
    with pytest.raises(ValueError, match="name must be one of 'auto', 'triton', 'torch'; got 'cuda'"):
        tstn.backend("cuda")


def test_triton_where_it_cannot_run_says_why():
    with tstn.backend("triton"), pytest.raises(RuntimeError, match="cannot run on a meta tensor"):
        tstn.backend_for(torch.empty(1, device="meta"))
    calls = "tstn.backend('triton'); tstn.spatial_transform(torch.rand(1, 1, 2, 2), torch.rand(1, 2, 3))"
    result = run(f"import sys, torch, tstn; sys.modules['llvmlite'] = None; {calls}")
    assert result.returncode == 1
    assert "it cannot run on this CPU: llvmlite is not installed (pip install llvmlite)" in result.stderr


def test_auto_is_plain_pytorch_where_the_cpu_cannot_run_the_kernels():
    code = "import sys, torch, tstn; sys.modules['llvmlite'] = None; print(tstn.backend_for(torch.zeros(1)))"
    assert run(code).stdout == "torch\n"
    code = "import platform, torch, tstn; platform.machine = lambda: 'riscv64'; print(tstn.backend_for(torch.zeros(1)))"
    assert run(code).stdout == "torch\n"


def test_environment_variable():
    code = "import torch, tstn; print(tstn.backend_for(torch.zeros(1)))"
    assert run(code, TSTN_BACKEND="triton", TRITON_INTERPRET="1").stdout == "triton\n"
    assert run(code, TRITON_INTERPRET="1").stdout == "torch\n"
    assert run(code, TSTN_BACKEND="torch").stdout == "torch\n"
    assert run(code, TSTN_BACKEND="").stdout == "triton\n"
    result = run(code, TSTN_BACKEND="gpu")
    assert result.returncode == 1
    assert (
        "ValueError: the environment variable TSTN_BACKEND must be one of 'auto', 'triton', 'torch'; got 'gpu'"
        in result.stderr
    )


@pytest.mark.parametrize("value", ["1", "true", "YES", "On", "y", "0", "false", "no", "2", " 1", ""])
def test_interpreted_is_what_triton_says_it_is(value, monkeypatch):
    knobs = pytest.importorskip("triton").knobs
    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert _backend._is_true("TRITON_INTERPRET") == knobs.runtime.interpret


def test_interpreted_in_another_spelling():
    code = "import torch, tstn; print(tstn.grid_sample(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 1, 2)).item())"
    assert run(code, TSTN_BACKEND="triton", TRITON_INTERPRET="Yes").stdout == "1.0\n"


STUBS = {
    "no-spec": "sys.modules['triton'] = types.ModuleType('triton')",
    "module": "sys.modules['triton'] = m = types.ModuleType('triton'); m.__spec__ = ModuleSpec('triton', None)",
    "halted": "sys.modules['triton'] = None",
    "empty-package": "os.mkdir(root / 'triton'); (root / 'triton/__init__.py').touch(); sys.path.insert(0, str(root))",
    "empty-language": "os.makedirs(root / 'triton/language'); (root / 'triton/__init__.py').touch();"
    "sys.path.insert(0, str(root))",
    "file": "(root / 'triton.py').touch(); sys.path.insert(0, str(root))",
}


@pytest.mark.parametrize("stub", STUBS.values(), ids=STUBS)
def test_what_only_has_tritons_name_is_not_triton(stub, tmp_path):
    code = f"""
import os, pathlib, sys, types
from importlib.machinery import ModuleSpec
root = pathlib.Path({str(tmp_path)!r})
{stub}
import torch, tstn
x = torch.rand(1, 1, 3, 3)
tstn.grid_sample(x, torch.zeros(1, 2, 2, 2))
print("ran")
tstn.backend("triton")
tstn.grid_sample(x, torch.zeros(1, 2, 2, 2))
"""
    result = run(code, TRITON_INTERPRET="1")
    assert result.stdout == "ran\n", result.stderr
    assert "RuntimeError: backend 'triton' was asked for, but Triton is not installed" in result.stderr


def test_works_without_numpy():
    """PyTorch warns of it when it is imported; tstn needs it for Triton's interpreter only, and says so."""
    code = """
import sys
sys.modules["numpy"] = None
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    torch.rand(2).tolist()
warnings.simplefilter("error")
import tstn
x = torch.rand(1, 1, 3, 3, requires_grad=True)
stn = tstn.SpatialTransformer(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 6)))
stn(x).sum().backward()
for transform in (tstn.ThinPlateSpline((2, 2)), tstn.examples.lens_distortion()):
    theta = transform.theta(transform.identity_parameters())[None]
    assert torch.allclose(tstn.spatial_transform(x, theta, transform, fill_value=0.5), x, atol=1e-5)
print("ran")
tstn.backend("triton")
stn(x)
"""
    result = run(code, TRITON_INTERPRET="1")
    assert result.stdout == "ran\n", result.stderr
    assert result.stderr.count("Traceback") == 1
    assert "RuntimeError: Triton's interpreter, which TRITON_INTERPRET asks for, needs NumPy" in result.stderr


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


def test_subpackages_are_imported_when_they_are_used():
    code = """
import sys
import torch
before = set(sys.modules)
import tstn
assert {"data", "experiments", "models", "SpatialTransformer", "__version__"} <= set(dir(tstn))
loaded = set(sys.modules) - before
parts = ("tstn.data", "tstn.experiments", "tstn.models", "sklearn", "matplotlib", "accelerate", "PIL", "h5py", "tqdm")
assert not [name for name in loaded for part in parts if name == part or name.startswith(part + ".")]
assert tstn.models.FCN.__module__ == "tstn.models.mnist"
assert tstn.models is sys.modules["tstn.models"] is vars(tstn)["models"]
assert "tstn.experiments" not in sys.modules
assert tstn.data.Digits and tstn.experiments.__name__ == "tstn.experiments"
for name in ("nonsense", "__wrapped__"):
    try:
        getattr(tstn, name)
    except AttributeError as error:
        assert str(error) == f"module 'tstn' has no attribute '{name}'"
    else:
        raise AssertionError(name)
try:
    from tstn import nonsense
except ImportError as error:
    assert "cannot import name 'nonsense' from 'tstn'" in str(error)
print("ran")
"""
    result = run(code)
    assert result.stdout == "ran\n", result.stderr
