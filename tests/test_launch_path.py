"""Triton's own launcher, as on a GPU up to the last step, driven with no GPU by a driver that only names a target."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys, torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

class Target:
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)

driver.set_active(Target())
import tstn_kernels
from tstn import _launch
from tstn._warp import Warp
from tstn.transforms import NAMED

def launch(launch, device):
    kernel = getattr(tstn_kernels, launch.kernel)
    options = dict(num_warps=launch.num_warps, enable_fp_fusion=True)
    compiled = kernel.warmup(*launch.arguments, **launch.constexprs, **options, grid=(launch.programs,))
    print(launch.kernel, compiled.metadata.num_warps, "ld.global.v4" in compiled.asm["ptx"])

_launch.Launch.run = launch
transform, dtype = sys.argv[1], getattr(torch, sys.argv[2])
x = torch.rand(2, 64, 20, 20).to(dtype).contiguous(memory_format=torch.channels_last)
warp = Warp(NAMED[transform], (20, 20))
theta = torch.rand(2, 800 if transform == "grid" else NAMED[transform].num_parameters)
y = _launch.forward(x, theta, torch.rand(64), torch.tensor([1, 0]), warp)
_launch.backward(y, x, theta, torch.rand(64), torch.tensor([1, 0]), warp, (True, True, True))
"""


@pytest.mark.parametrize(
    ("transform", "dtype"), [("affine", "float32"), ("grid", "bfloat16"), ("attention", "float16")]
)
def test_arguments_reach_the_compiler(tmp_path, transform, dtype):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "TRITON_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, transform, dtype], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "sample_forward_kernel 4 True",
        "sample_backward_kernel 4 True",
        "finish_backward_kernel 4 True",
    ]
