"""Generated maps compile for every target, ahead of time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import generated
import pytest
import triton

from bench import aot
from tstn._expressions import FUNCTIONS
from tstn.custom import CustomTransform

ROOT = Path(__file__).parent.parent

# Of float32 and float64.
REGISTERS = [56, 88]

SCRIPT = """
import json, math, sys
import triton
from triton.compiler.compiler import ASTSource
from tstn_cpu.frontend import quick_front_end
from bench.aot_code import TARGETS, amdgcn_code, sass, sass_code
from generated import EXTENTS, everything, generated_map_kernel
from tstn._generated import kernel_maps
from tstn.custom import CustomTransform
from tstn.examples import moebius

TRANSFORMS = {
    "moebius": moebius(),
    "everything": CustomTransform(everything, (2,), (0.0, 0.0)),
}


def compiled(transform, dtype, target):
    names = generated_map_kernel.arg_names
    numbers = math.prod(transform.theta_shape)
    constexprs = dict(zip(names[8:], (*EXTENTS, *kernel_maps(transform.kernel), numbers, 256)))
    signature = {name: "constexpr" if name in constexprs else f"*{dtype}" for name in names}
    source = ASTSource(generated_map_kernel, signature, {(names.index(n),): v for n, v in constexprs.items()})
    with quick_front_end():
        return triton.compile(source, target=target, options={"num_warps": 4, "enable_fp_fusion": True})


def codes(transform, target):
    of = [compiled(transform, dtype, target) for dtype in ("fp32", "fp64")]
    if target.backend == "hip":
        return [amdgcn_code(code.asm["amdgcn"], 1) for code in of]
    return [sass_code(dump, 1) for dump in sass([code.asm["cubin"] for code in of], target.arch)]


for name, target in TARGETS.items():
    for code in codes(TRANSFORMS[sys.argv[1]], target):
        print(json.dumps([name, code.registers, code.spills, code.stack]))
"""


def test_everything_calls_every_function() -> None:
    source = CustomTransform(generated.everything, (2,), (0.0, 0.0))._code.sources.triton
    assert [name for name in FUNCTIONS if f" {name}(" not in source] == []


# Single maps are in the ahead-of-time gate.
@pytest.mark.long
@pytest.mark.parametrize("name", ["moebius", "everything"])
def test_compiles_without_spills(name: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    environment["PYTHONPATH"] = os.pathsep.join(str(path) for path in (ROOT, ROOT / "kernels", ROOT / "tests"))
    done = subprocess.run([sys.executable, "-c", SCRIPT, name], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    codes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [target for target, *_ in codes] == ["sm_80"] * 2 + ["sm_90"] * 2 + ["sm_100"] * 2 + ["gfx942"] * 2
    if triton.__version__ != aot.read_table(aot.TABLE)[0]:
        # Another compiler: 3.9's ptxas puts one float64 away during a division of moebius.
        return
    for (_, registers, spills, stack), most in zip(codes, REGISTERS * len(codes), strict=False):
        assert spills == stack == 0, codes
        assert registers <= most or name == "everything", codes
