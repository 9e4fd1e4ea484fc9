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
import tstn, tstn_kernels
from tstn import _configs, _launch
from tstn._warp import Needed, Operands, Warp

_configs.CPU = _configs.GPU

def launch(launch, device):
    kernel = getattr(tstn_kernels, launch.kernel)
    options = launch.options("cuda", 32)
    compiled = kernel.warmup(*launch.arguments, **launch.constexprs, **options, grid=(launch.programs,))
    print(launch.kernel, launch.config.num_warps == compiled.metadata.num_warps, "ld.global.v4" in compiled.asm["ptx"])

_launch.Launch.run = launch
transform, dtype = sys.argv[1], getattr(torch, sys.argv[2])
x = torch.rand(2, 64, 20, 20).to(dtype).contiguous(memory_format=torch.channels_last)
warp = Warp(transform, (20, 20))
theta = None if transform == "grid" else torch.rand(2, tstn.transforms.NAMED[transform].num_parameters)
flow = torch.rand(2, 20, 20, 2) if transform == "grid" else None
operands = Operands(x, theta, flow, torch.rand(64), torch.tensor([1, 0]), None)
call = _launch.call_of(operands, warp)
y = _launch.forward(*call)
_launch.backward(y, *call, Needed(True, theta is not None, flow is not None, True))
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
    gathered = [] if transform == "grid" else ["gather_backward_kernel True True"]
    assert result.stdout.splitlines() == [
        "sample_forward_kernel True True",
        *gathered,
        "sample_backward_kernel True True",
        "finish_backward_kernel True True",
    ]
