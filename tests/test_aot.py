from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import triton

from bench import aot
from bench.aot_cases import AXES, COMMON, cover, everything, gate_cases, possible
from bench.aot_code import TARGETS, Code, amdgcn_code, sass_code, width

Gate = dict[tuple[str, str], Any]
ROOT = Path(__file__).parents[1]

SASS = """
 Function sample_backward_kernel:
  REG:168 STACK:8 SHARED:0 LOCAL:0 CONSTANT[0]:520 TEXTURE:0 SURFACE:0 SAMPLER:0
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;    /* 0x00000a00ff017624 */
                                                                              /* 0x000fe400078e00ff */
        /*0010*/                   STL [R1], R14 ;                            /* 0x0000000e01007387 */
        /*0020*/              @!P1 LDG.E R2, desc[UR4][R2.64] ;               /* 0x0000000402021981 */
        /*0030*/               @P0 LDG.E.64 R4, [R4.64] ;                     /* 0x0000000402021981 */
        /*0040*/                   LDG.E.128 R4, desc[UR4][R4.64+0x10] ;      /* 0x0000000402021981 */
        /*0050*/                   LDG.E.U16 R9, [R8.64] ;                    /* 0x0000000402021981 */
        /*0060*/             @!UP0 BRA 0x20 ;                                 /* 0xfffffff000007947 */
        /*0070*/                   LDL.LU R36, [R1] ;                         /* 0x0000000001247983 */
        /*0080*/                   REDG.E.ADD.F32.FTZ.RN.STRONG.GPU desc[UR4][R2.64], R9 ; /* 0x0 */
        /*0090*/                   REDG.E.ADD.F32x4.FTZ.RN.STRONG.GPU desc[UR4][R2.64], R8 ; /* 0x0 */
        /*00a0*/                   RED.E.ADD.F64.RN.STRONG.GPU [R2.64], R8 ;  /* 0x0000000001247983 */
        /*00b0*/                   ATOMG.E.CAS.STRONG.GPU PT, R5, [R2], R4, R5 ; /* 0x000000040205738b */
        /*00c0*/                   STG.E.128 [R2.64], R8 ;                    /* 0x0000000802007986 */
        /*00d0*/                   EXIT ;                                     /* 0x000000000000794d */
        /*00e0*/                   BRA 0xe0;                                  /* 0xfffffff000007947 */
        /*00f0*/                   NOP;                                       /* 0x0000000000007918 */
"""

AMDGCN = """
\t.globl\tsample_backward_kernel          ; -- Begin function sample_backward_kernel
sample_backward_kernel:                 ; @sample_backward_kernel
.Lfunc_begin0:
\t.loc\t1 11 0 prologue_end             ; backward.py:11:0
\ts_load_dwordx2 s[2:3], s[0:1], 0x0
; %bb.8:
\ts_nop 0
\tbuffer_load_dword v1, v2, s[4:7], 0 offen
\tbuffer_load_ushort v1, v2, s[4:7], 0 offen
\tbuffer_load_short_d16_hi v1, v2, s[4:7], 0 offen
\tglobal_load_dwordx4 v[0:3], v[4:5], off
\tglobal_load_ubyte v0, v[4:5], off
\tglobal_store_dwordx2 v4, v[0:1], s[2:3]
\tbuffer_store_short v4, v0, s[4:7], 0 offen
\tbuffer_atomic_add_f32 v1, v2, s[4:7], 0 offen
\tglobal_atomic_pk_add_bf16 v1, v2, s[4:5]
\tglobal_atomic_cmpswap_x2 v[0:1], v4, v[0:3], s[4:5] sc0
\tscratch_store_dword off, v0, s32
\ts_endpgm
.Lfunc_end0:
\tnot_part_of_it
    .private_segment_fixed_size: 12
    .sgpr_count:     54
    .sgpr_spill_count: 1
    .vgpr_count:     64
    .vgpr_spill_count: 3
"""

CODE = Code(
    registers=72,
    scalar_registers=0,
    spills=0,
    stack=0,
    loads={"4": 6, "16": 8},
    stores={"16": 2},
    reductions={"RED.F32x4": 8},
    instructions=800,
    per_element=100.0,
)


def test_cover_holds_every_possible_pair_of_settings() -> None:
    rows = cover(AXES, possible)
    covered = {frozenset(pair) for row in rows for pair in combinations(row.items(), 2)}
    settings = [[(axis, value) for value in values] for axis, values in AXES.items()]
    pairs = [pair for a, b in combinations(settings, 2) for pair in product(a, b)]
    assert covered == {frozenset(pair) for pair in pairs if possible(*pair)}
    assert len(rows) < 2 * len(AXES["transform"]) * len(AXES["gradients"])
    assert rows == cover(AXES, possible)


def test_cover_and_everything_on_a_small_example() -> None:
    axes = {"a": ("1", "2"), "b": ("1", "2"), "c": ("1", "2")}
    assert len(list(everything(axes, lambda *_: True))) == 8
    assert len(cover(axes, lambda *_: True)) == 4
    rows = list(everything(axes, lambda *pair: set(pair) != {("a", "1"), ("b", "2")}))
    assert len(rows) == 6
    assert {"a": "1", "b": "2", "c": "1"} not in rows


def test_impossible_pairs() -> None:
    assert not possible(("mode", "nearest"), ("gradients", "input+theta"))
    assert not possible(("gradients", "fill"), ("outside", "scalar_fill"))
    assert possible(("mode", "nearest"), ("gradients", "input"))
    assert possible(("outside", "channel_fill"), ("gradients", "fill"))
    assert possible(("gradients", "fill"), ("dtype", "float16"))


def test_cases_have_names_of_their_own() -> None:
    names = [case.name for case in gate_cases()]
    assert len(set(names)) == len(names) > len(COMMON)


def test_sass() -> None:
    assert sass_code(SASS, 0.5) == Code(
        registers=168,
        scalar_registers=0,
        spills=2,
        stack=8,
        loads={"2": 1, "4": 1, "8": 1, "16": 1},
        stores={"16": 1},
        reductions={"ATOM.CAS": 1, "RED.F32": 1, "RED.F64": 1, "RED.F32x4": 1},
        instructions=14,
        per_element=7.0,
    )


def test_amdgcn() -> None:
    assert amdgcn_code(AMDGCN, 2.0) == Code(
        registers=64,
        scalar_registers=54,
        spills=3,
        stack=12,
        loads={"1": 1, "2": 2, "4": 1, "16": 1},
        stores={"2": 1, "8": 1},
        reductions={"RED.CAS": 1, "RED.BF16x2": 1, "RED.F32": 1},
        instructions=13,
        per_element=26.0,
    )


@pytest.mark.parametrize(
    ("form", "bytes_"),
    [
        ("1", 1),
        ("16", 16),
        ("RED.F32", 4),
        ("RED.F32x4", 16),
        ("RED.BF16x2", 4),
        ("ATOM.F64", 8),
        ("RED.CAS", 0),
    ],
)
def test_width(form: str, bytes_: int) -> None:
    assert width(form) == bytes_


@pytest.mark.parametrize(
    ("before", "now", "worse"),
    [
        pytest.param({"4": 6, "16": 8}, {"4": 38}, True, id="all_scalar"),
        pytest.param({"4": 6, "16": 8}, {"4": 6, "8": 2, "16": 7}, True, id="one_halved"),
        pytest.param({"RED.F32x4": 8}, {"RED.F32": 32}, True, id="scalar_reductions"),
        pytest.param({"RED.F32": 4}, {"ATOM.CAS": 4}, True, id="compare_and_swap"),
        pytest.param({"4": 6, "16": 8}, {"4": 6, "16": 8}, False, id="same"),
        pytest.param({"4": 6, "16": 8}, {"4": 9, "16": 8}, False, id="more_scalars"),
        pytest.param({"4": 6, "16": 8}, {"4": 6, "16": 4}, False, id="fewer"),
        pytest.param({"4": 32}, {"16": 8}, False, id="widened"),
        pytest.param({}, {"4": 1}, False, id="new"),
    ],
)
def test_narrowed(before: dict[str, int], now: dict[str, int], worse: bool) -> None:
    assert aot.narrowed(before, now) is worse


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gate:
    """What is compiled in place of the kernels; the table holds CODE for a variant and two targets."""
    codes: Gate = {("mnist/forward", "sm_90"): CODE, ("mnist/forward", "gfx942"): CODE}
    monkeypatch.setattr(aot, "INTERPRETED", False)
    monkeypatch.setattr(aot, "TABLE", tmp_path / "table.json")
    monkeypatch.setattr(aot, "compile_cases", lambda *_: iter(codes.items()))
    aot.write_table(aot.TABLE, codes)
    return codes


WORSE = {
    "spill": replace(CODE, spills=2),
    "stack": replace(CODE, stack=8),
    "narrowed loads": replace(CODE, loads={"4": 38}),
    "narrowed stores": replace(CODE, stores={"8": 4}),
    "narrowed reductions": replace(CODE, reductions={"RED.F32": 32}),
    "110.10 instructions per output element": replace(CODE, per_element=110.1),
}


def test_check_passes_what_the_table_holds(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    gate["mnist/forward", "sm_90"] = replace(CODE, registers=90, per_element=109.9, loads={"16": 9})
    assert aot.main(["--check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("passed")


@pytest.mark.parametrize("complaint", WORSE)
def test_check_fails_and_names_what_got_worse(complaint: str, gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    gate["mnist/forward", "sm_90"] = WORSE[complaint]
    assert aot.main(["--check"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("mnist/forward sm_90: ")
    assert complaint in first
    assert "FAILED" in last


def test_check_fails_on_a_known_spill(gate: Gate) -> None:
    gate["mnist/forward", "sm_90"] = WORSE["spill"]
    aot.write_table(aot.TABLE, gate)
    assert aot.main(["--check"]) == 1


def test_check_fails_on_missing_and_stale_entries(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    gate["birds/forward", "sm_90"] = gate.pop(("mnist/forward", "gfx942"))
    assert aot.main(["--check"]) == 1
    missing, stale, _ = capsys.readouterr().out.splitlines()
    assert missing.startswith("birds/forward sm_90: not in the table")
    assert stale.startswith("mnist/forward gfx942: in the table only")
    assert "--write" in missing
    assert "--write" in stale


def test_check_of_a_part_knows_no_stale_entries_elsewhere(gate: Gate) -> None:
    del gate["mnist/forward", "gfx942"]
    assert aot.main(["--check"]) == 1
    assert aot.main(["--check", "--only", "sm_90"]) == 0


def test_another_triton_is_judged_by_spills_alone(
    gate: Gate, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "__version__", "0.0.1")
    gate["mnist/forward", "sm_90"] = WORSE["narrowed loads"]
    assert aot.main(["--check"]) == 0
    assert "Triton 0.0.1 here" in capsys.readouterr().out
    gate["mnist/forward", "sm_90"] = WORSE["spill"]
    assert aot.main(["--check"]) == 1


def test_all_fails_on_a_spill(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    assert aot.main(["--all"]) == 0
    gate["mnist/forward", "sm_90"] = WORSE["spill"]
    assert aot.main(["--all"]) == 1
    assert "mnist/forward sm_90: spill" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--check"], ["--all"], ["--write"], []])
def test_what_does_not_compile_fails(arguments: list[str], gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    gate["mnist/forward", "sm_90"] = "error: 'arith.select' op"
    assert aot.main(arguments) == 1
    *_, complaint, last = capsys.readouterr().out.splitlines()
    assert complaint == "mnist/forward sm_90: does not compile, error: 'arith.select' op"
    assert last.endswith("FAILED, complaints: 1")


def test_print_and_write(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    assert aot.main([]) == 0
    assert "4 x 6 16 x 8" in capsys.readouterr().out
    gate["mnist/forward", "sm_90"] = replace(CODE, registers=40)
    assert aot.main(["--write"]) == 0
    assert aot.read_table(aot.TABLE) == (triton.__version__, gate)
    assert len(aot.TABLE.read_text().splitlines()) == len(gate) + 2
    with pytest.raises(SystemExit):
        aot.main(["--write", "--only", "mnist"])


def test_the_checked_in_table_can_be_read() -> None:
    _, codes = aot.read_table(aot.TABLE)
    assert {target for _, target in codes} == set(TARGETS)


def run(script: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script where kernels compile, unless the environment says that they are interpreted."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), inherited.get("PYTHONPATH", "")])
    inherited |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True)


def test_interpreted_kernels_are_refused(tmp_path: Path) -> None:
    done = run("import sys; from bench.aot import main; sys.exit(main(['--check']))", tmp_path, TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "TRITON_INTERPRET" in done.stderr


COMPILE = """
import json, subprocess, tempfile
from dataclasses import asdict
from triton import knobs
from bench.aot_cases import Case, launches
from bench.aot_code import TARGETS, case_codes, compiled_code, sass_code

def alone(cubins, capability):
    for cubin in cubins:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(cubin)
            file.flush()
            command = [knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", file.name]
            yield subprocess.run(command, capture_output=True, text=True, check=True).stdout

case = Case("", (8, 64, 32, 32), (32, 32), 8, "flow", channels_last=True)
jobs = [(f"{i}", case, i, target) for target in ("sm_90", "gfx942") for i in range(2)]
print(json.dumps([asdict(code) for _, code in case_codes(jobs)]))
import bench.aot_code
bench.aot_code.sass = alone
print(json.dumps([asdict(compiled_code(launch, TARGETS["sm_90"])) for launch in launches(case)]))
"""


@pytest.mark.long
def test_channels_last_compiles_to_wide_accesses(tmp_path: Path) -> None:
    done = run(COMPILE, tmp_path)
    assert done.returncode == 0, done.stderr
    *nvidia, forward, backward = (Code(**code) for code in json.loads(done.stdout.splitlines()[0]))
    codes = {"sm_90": nvidia, "gfx942": [forward, backward]}
    # Kernels are disassembled together, and are what they are alone.
    assert nvidia == [Code(**code) for code in json.loads(done.stdout.splitlines()[1])]
    for forward, backward in codes.values():
        assert forward.spills == forward.stack == backward.spills == backward.stack == 0
        assert 16 < forward.registers < 256
        assert forward.instructions > 100
        assert forward.loads["16"] >= 4
        assert set(forward.stores) == {"16"}
        assert not forward.reductions
    assert set(codes["sm_90"][1].reductions) == {"RED.F32x4"}
    assert set(codes["gfx942"][1].reductions) == {"RED.F32"}


SPECIALIZE = """
from unittest import mock

import torch
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from bench.aot import find_jobs
from bench.aot_cases import COMMON, gate_cases, launches
from bench.aot_code import TARGETS, specialize


class Driver:
    def __init__(self, target):
        self.target = target

    def get_current_target(self):
        return TARGETS[self.target]

    def get_current_device(self):
        return self.target

    def get_current_stream(self, device):
        return 0


def compile(kernel, key, signature, device, constexprs, options, attrs, warmup):
    compiled.append((kernel, signature, constexprs, attrs, options.__dict__))


names = set()
for variant, case, position, target in find_jobs(gate_cases()):
    assert (variant, target) not in names, variant
    names.add((variant, target))
    compiled = []
    driver.set_active(Driver(target))
    launch = launches(case)[position]
    with mock.patch.object(JITFunction, "_do_compile", compile):
        launch._run(torch.device("meta"))
    source, options = specialize(launch, TARGETS[target])
    # The launcher skips what it has compiled, but here nothing was.
    assert compiled == [(source.fn, source.signature, source.constants, source.attrs, options)], variant
# They are among the first cases, which name their code whatever follows.
some = {(variant, target) for variant, _, _, target in find_jobs(COMMON, "feature_")}
assert some == {key for key in names if "feature_" in key[0]}
print(len(names))
"""


@pytest.mark.long
def test_variants_are_specialised_as_a_launch_would(tmp_path: Path) -> None:
    done = run(SPECIALIZE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 4 * len(COMMON)
