"""The model of traffic and time: cases that can be counted by hand, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_up import document, figure
from torch import Tensor
from tstn_cpu.ir import parse

from bench import roofline
from bench.roofline_cards import CARDS, CEILINGS, Work
from bench.roofline_code import Compiled, machine_code
from bench.roofline_interpreter import Interpreter, Memory
from bench.roofline_lanes import requests
from bench.roofline_memory import MOST_RUNS, WARM, Buffer, Run, Traffic, hits, past_l1, past_l2, runs, simulate
from bench.roofline_model import Geometry, Prediction, _Kept
from bench.roofline_notes import NOTES, note
from bench.roofline_watch import ATOMIC, LOAD, REGION_BITS, STORE, Space, Stream
from bench.workloads import WORKLOADS, Problem, floor_bytes

ROOT = Path(__file__).parents[1]
SVHN = next(w for w in WORKLOADS if w.id == "svhn-float32")
L1, L2 = 2**14, 2**25

# Each program copies 128 elements: out[i] = in[i * stride].
COPY = """
#blocked = #ttg.blocked<{sizePerThread = [1], threadsPerWarp = [32], warpsPerCTA = [4], order = [0]}>
#loc1 = loc("kernel.py":5:10)
#loc2 = loc("kernel.py":6:10)
#loc3 = loc("tap"(#loc1))
module attributes {"ttg.num-warps" = 4 : i32} {
  tt.func public @copy(PARAMETERS) attributes {noinline = false} {
    %c128_i32 = arith.constant 128 : i32 loc(#loc)
    %cst = arith.constant dense<0.000000e+00> : tensor<128xf32, #blocked> loc(#loc)
    %0 = tt.get_program_id x : i32 loc(#loc)
    %1 = arith.muli %0, %c128_i32 : i32 loc(#loc)
    %2 = tt.make_range {end = 128 : i32, start = 0 : i32} : tensor<128xi32, #blocked> loc(#loc)
    %3 = tt.splat %1 : i32 -> tensor<128xi32, #blocked> loc(#loc)
    %4 = arith.addi %3, %2 : tensor<128xi32, #blocked> loc(#loc)
    %5 = tt.splat %numel : i32 -> tensor<128xi32, #blocked> loc(#loc)
    %6 = arith.cmpi slt, %4, %5 : tensor<128xi32, #blocked> loc(#loc)
    %7 = tt.splat %stride : i32 -> tensor<128xi32, #blocked> loc(#loc)
    %8 = arith.muli %4, %7 : tensor<128xi32, #blocked> loc(#loc)
    %9 = tt.splat %in_ptr : !tt.ptr<f32> -> tensor<128x!tt.ptr<f32>, #blocked> loc(#loc)
    %10 = tt.addptr %9, %8 : tensor<128x!tt.ptr<f32>, #blocked>, tensor<128xi32, #blocked> loc(#loc)
    %11 = tt.load %10, %6, %cst : tensor<128x!tt.ptr<f32>, #blocked> loc(#loc3)
    %12 = tt.splat %out_ptr : !tt.ptr<f32> -> tensor<128x!tt.ptr<f32>, #blocked> loc(#loc)
    %13 = tt.addptr %12, %4 : tensor<128x!tt.ptr<f32>, #blocked>, tensor<128xi32, #blocked> loc(#loc)
    STORE
    tt.return loc(#loc)
  } loc(#loc)
} loc(#loc)
"""
PARAMETERS = (
    '%out_ptr: !tt.ptr<f32> {tt.divisibility = 16 : i32} loc("out"(#loc)), %in_ptr: !tt.ptr<f32> loc("in"(#loc)), '
    '%stride: i32 loc("stride"(#loc)), %numel: i32 loc("numel"(#loc))'
)
STORES = "tt.store %13, %11, %6 : tensor<128x!tt.ptr<f32>, #blocked> loc(#loc2)"
ADDS = (
    "%14 = tt.atomic_rmw fadd, relaxed, gpu, %13, %11, %6 : (tensor<128x!tt.ptr<f32>, #blocked>, "
    "tensor<128xf32, #blocked>, tensor<128xi1, #blocked>) -> tensor<128xf32, #blocked> loc(#loc2)"
)


def compiled(last: str = STORES, listing: str = "") -> Compiled:
    """A copy with another last operation, or with machine code."""
    dialect = COPY.replace("PARAMETERS", PARAMETERS).replace("STORE", last)
    return Compiled(parse(dialect), machine_code(listing), registers=32, shared=0, warps=4)


def copied(
    numel: int, stride: int = 1, write: str = STORES, budget: int = 2**24, size: int | None = None
) -> tuple[Traffic, Buffer, Buffer]:
    """The traffic of a copy of ``numel`` elements, and of its output and input."""
    output = torch.empty(numel, device="meta")
    input = torch.empty(size or numel * stride, device="meta")
    launch: Any = SimpleNamespace(programs=-(-numel // 128), arguments=(output, input, stride, numel))
    space = Space()
    traffic = simulate(launch, compiled(write), range(4), space, L1, L2, budget=budget)
    return traffic, traffic.buffers[space.region(output)], traffic.buffers[space.region(input)]


def test_a_copy_touches_its_input_and_its_output_once():
    traffic, output, input = copied(1000)
    assert traffic.simulated == 8
    assert output == Buffer(touched=4000, written=4000)
    assert input == Buffer(touched=4000, fetched=4000)
    assert traffic.l2_bytes == 8000
    # 31 warps and a fourth of one have something to do, a sector for each eight of their lanes.
    assert (traffic.requests, traffic.sectors) == (2 * 4 * 8, 2 * 125)
    assert traffic.atomic_sectors == 0


def test_a_transposed_read_touches_a_sector_for_each_element():
    traffic, output, input = copied(1024, stride=64)
    assert output.written == 4096
    assert input.fetched == input.touched == 1024 * 32
    reads, writes = 32 * 32, 32 * 4
    assert traffic.requests == 64
    assert traffic.sectors == reads + writes
    # Four sectors a cycle.
    assert traffic.cycles == (reads + writes) / 4
    assert traffic.l2_bytes == 32 * (reads + writes)


def test_atomics_read_and_write_where_they_add():
    traffic, output, _ = copied(1024, write=ADDS)
    assert output == Buffer(touched=4096, fetched=4096, written=4096)
    assert traffic.atomic_sectors == 128
    assert traffic.l2_bytes == 8192


def test_a_read_out_of_bounds_is_an_error():
    with pytest.raises(ValueError, match="outside"):
        copied(1024, stride=2, size=2000)


def test_a_sample_says_the_same_as_all_programs():
    # Neighbours share a sector where a program's elements, 3 apart, end within one.
    whole, *whole_buffers = copied(2**17 + 77, stride=3)
    sample, *sample_buffers = copied(2**17 + 77, stride=3, budget=2**16)
    assert whole.simulated == 1025
    assert sample.simulated < 300
    for a, b in zip(whole_buffers, sample_buffers, strict=True):
        assert b.fetched == pytest.approx(a.fetched, rel=5e-3)
        assert b.written == pytest.approx(a.written, rel=5e-3)
    for name in ("requests", "sectors", "cycles", "l2_bytes"):
        assert getattr(sample, name) == pytest.approx(getattr(whole, name), rel=5e-3)


def test_samples_are_whole_units_or_runs_with_a_start_that_does_not_count():
    assert runs(1000, None, 1000) == [Run(0, 0, 1000)]
    assert runs(1000, 10, 40) == [Run(120, 0, 10), Run(370, 0, 10), Run(620, 0, 10), Run(870, 0, 10)]
    sample = runs(100_000, 10_000, 8 * 2 * WARM)
    assert len(sample) == MOST_RUNS == 8
    assert all((run.warm, run.counted) == (WARM, WARM) for run in sample)
    assert all(0 <= run.start <= 100_000 - 2 * WARM for run in sample)
    # In another part of another unit each time.
    counted = [run.start + run.warm for run in sample]
    assert len({place // 10_000 for place in counted}) == len({place % 10_000 for place in counted}) == 8


@pytest.mark.parametrize("capacity", [1, 3, 8, 100])
def test_hits_are_those_of_a_least_recently_used_cache(capacity: int):
    sectors = np.random.default_rng(0).integers(0, 20, 400)
    cache: OrderedDict[int, None] = OrderedDict()
    expected = []
    for sector in sectors.tolist():
        expected.append(sector in cache)
        cache[sector] = None
        cache.move_to_end(sector)
        if len(cache) > capacity:
            cache.popitem(last=False)
    assert hits(sectors, capacity).tolist() == expected


def stream(*accesses: tuple[int, int, int]) -> Stream:
    return Stream(*(np.array(column) for column in zip(*accesses, strict=True)))


def test_l1_serves_the_same_programs_loads_again():
    accesses = stream(
        (0, 7, LOAD), (0, 7, LOAD), (0, 8, LOAD), (0, 7, STORE), (0, 7, LOAD), (1, 7, LOAD), (1, 7, ATOMIC)
    )
    passed = past_l1(accesses, 2)
    assert list(zip(*(column.tolist() for column in passed), strict=True)) == [
        (0, 7, LOAD),
        (0, 8, LOAD),
        (0, 7, STORE),
        (1, 7, LOAD),
        (1, 7, ATOMIC),
    ]
    # Sector 8 drives out sector 7.
    assert len(past_l1(accesses, 1).sector) == 6


def dram(capacity: int, *accesses: tuple[int, int, int], first_program: int = 0) -> dict[int, Buffer]:
    buffers: dict[int, Buffer] = {}
    first = 1 << (REGION_BITS - 5)
    past_l2(buffers, stream(*((p, first + s, k) for p, s, k in accesses)), capacity, first_program)
    return buffers


def test_l2_fetches_what_is_read_and_writes_back_what_was_changed():
    assert dram(9, (0, 0, LOAD), (1, 0, LOAD), (1, 1, LOAD)) == {1: Buffer(touched=64, fetched=64)}
    assert dram(9, (0, 0, STORE), (1, 0, STORE), (2, 0, LOAD)) == {1: Buffer(touched=32, written=32)}
    assert dram(9, (0, 0, ATOMIC), (1, 0, ATOMIC)) == {1: Buffer(touched=32, fetched=32, written=32)}
    # No room for a second sector: fetched again, and written back twice.
    assert dram(1, (0, 0, ATOMIC), (1, 1, LOAD), (2, 0, ATOMIC)) == {
        1: Buffer(touched=64, fetched=64, refetched=32, written=64)
    }
    # What the first programs leave in the cache costs the others nothing.
    assert dram(9, (0, 0, LOAD), (1, 0, LOAD), (1, 1, STORE), first_program=1) == {1: Buffer(touched=32, written=32)}


def test_l2_keeps_a_tensor_from_launch_to_launch_if_all_between_fits():
    kept = _Kept(capacity=300)
    kept.add({1: Buffer(touched=100, written=100)})
    kept.add({1: Buffer(touched=100, fetched=100, written=100), 2: Buffer(touched=100, fetched=100)})
    # Zeroed and added to without a way to DRAM in between.
    assert kept.dram == [0, 200]
    kept.add({3: Buffer(touched=100, written=100)})
    kept.add({2: Buffer(touched=100, fetched=100), 3: Buffer(touched=10, fetched=10)})
    assert kept.dram == [0, 200, 100, 100]


class Recorded(Memory):
    """What is stored, by address."""

    def __init__(self) -> None:
        self.stored: dict[int, float] = {}

    def load(self, operation: Any, address: Any, mask: Any, other: Any) -> Any:
        return address * 10

    def store(self, operation: Any, address: Any, mask: Any, value: Any) -> None:
        where, mask, value = np.broadcast_arrays(address, mask, value)
        self.stored |= dict(zip(where[mask].tolist(), value[mask].tolist(), strict=True))

    def atomic(self, operation: Any, address: Any, mask: Any, value: Any) -> Any:
        pytest.fail("nothing here is atomic")


def test_loops_and_conditions_run_program_by_program():
    kernel = parse(
        """
#blocked = #ttg.blocked<{sizePerThread = [1, 1], threadsPerWarp = [4, 8], warpsPerCTA = [1, 1], order = [1, 0]}>
module {
  tt.func public @f(%out_ptr: !tt.ptr<i32> loc(#loc), %n: i32 loc(#loc)) attributes {noinline = false} {
    %c0_i32 = arith.constant 0 : i32 loc(#loc)
    %c1_i32 = arith.constant 1 : i32 loc(#loc)
    %c2_i32 = arith.constant 2 : i32 loc(#loc)
    %cst = arith.constant dense<3> : tensor<4x8xi32, #blocked> loc(#loc)
    %p = tt.get_program_id x : i32 loc(#loc)
    %r:2 = scf.for %i = %c0_i32 to %p step %c1_i32 iter_args(%a = %c0_i32, %b = %n) -> (i32, i32)  : i32 {
      %a2 = arith.addi %a, %i : i32 loc(#loc)
      %b2 = arith.muli %b, %c2_i32 : i32 loc(#loc)
      scf.yield %a2, %b2 : i32, i32 loc(#loc)
    } loc(#loc)
    %odd = arith.remsi %p, %c2_i32 : i32 loc(#loc)
    %is_odd = arith.cmpi ne, %odd, %c0_i32 : i32 loc(#loc)
    %x = scf.if %is_odd -> (i32) {
      scf.yield %r#1 : i32 loc(#loc)
    } else {
      %s = tt.splat %r#0 : i32 -> tensor<4x8xi32, #blocked> loc(#loc)
      %t = arith.addi %s, %cst : tensor<4x8xi32, #blocked> loc(#loc)
      %u = "tt.reduce"(%t) <{axis = 1 : i32}> ({
      ^bb0(%l: i32 loc(unknown), %m: i32 loc(unknown)):
        %o = arith.addi %l, %m : i32 loc(#loc)
        tt.reduce.return %o : i32 loc(#loc)
      }) : (tensor<4x8xi32, #blocked>) -> tensor<4xi32, #ttg.slice<{dim = 1, parent = #blocked}>> loc(#loc)
      %v = "tt.reduce"(%u) <{axis = 0 : i32}> ({
      ^bb0(%l: i32 loc(unknown), %m: i32 loc(unknown)):
        %o = arith.maxsi %l, %m : i32 loc(#loc)
        tt.reduce.return %o : i32 loc(#loc)
      }) : (tensor<4xi32, #ttg.slice<{dim = 1, parent = #blocked}>>) -> i32 loc(#loc)
      scf.yield %v : i32 loc(#loc)
    } loc(#loc)
    %at = tt.addptr %out_ptr, %p : !tt.ptr<i32>, i32 loc(#loc)
    tt.store %at, %x : !tt.ptr<i32> loc(#loc)
    scf.if %is_odd {
      %far = tt.addptr %at, %n : !tt.ptr<i32>, i32 loc(#loc)
      tt.store %far, %p : !tt.ptr<i32> loc(#loc)
    } loc(#loc)
    tt.return loc(#loc)
  } loc(#loc)
} loc(#loc)
"""
    )
    memory = Recorded()
    Interpreter(kernel, memory, 4).run(range(4), [0, 100])
    # Even programs: the sum below p plus 3, times 8; odd ones: 100 doubled p times.
    expected = {0: 24.0, 4: 200.0, 8: 32.0, 12: 800.0, 404: 1.0, 412: 3.0}
    assert memory.stored == expected


def test_an_operation_without_a_rule_is_named():
    kernel = compiled("%14 = tt.mystery %11 : tensor<128xf32, #blocked> loc(#loc2)").kernel
    with pytest.raises(NotImplementedError, match=r"tt\.mystery.*kernel\.py"):
        Interpreter(kernel, Recorded(), 1).run([0], [0, 0, 1, 1])


BLOCKED = "#ttg.blocked<{sizePerThread = [1, 4], threadsPerWarp = [4, 8], warpsPerCTA = [2, 1], order = [1, 0]}>"


def test_requests_follow_the_layout():
    table = requests("#b", {"#b": BLOCKED}, (16, 32), 2, 1, writes=False)
    # Two warps, twice four registers; a lane's four are side by side.
    assert table.shape == (16, 32)
    assert sorted(table.ravel()) == list(range(512))
    assert table[0, :9].tolist() == [0, 4, 8, 12, 16, 20, 24, 28, 32]
    assert table[1, 0] == 1
    wide = requests("#b", {"#b": BLOCKED}, (16, 32), 2, 4, writes=False)
    assert wide.shape == (4, 128)
    assert sorted(wide[0]) == list(range(128))


def test_what_several_threads_hold_is_loaded_by_all_and_stored_by_one():
    row = "#ttg.slice<{dim = 0, parent = #b}>"
    loads = requests(row, {"#b": BLOCKED}, (32,), 2, 4, writes=False)
    assert loads.shape == (2, 128)
    assert set(loads[0]) == set(loads[1]) == set(range(32))
    stores = requests(row, {"#b": BLOCKED}, (32,), 2, 4, writes=True)
    assert sorted(stores[stores >= 0]) == list(range(32))
    assert (stores[1] < 0).all()
    assert requests("", {}, (), 2, 1, writes=False).shape == (2, 1)
    assert requests("", {}, (), 2, 1, writes=True).shape == (1, 1)


def test_linear_layouts_say_the_same_in_bits():
    linear = (
        "#ttg.linear<{register = [[0, 1], [0, 2], [8, 0]], lane = [[0, 4], [0, 8], [0, 16], [1, 0], [2, 0]], "
        "warp = [[4, 0]], block = []}>"
    )
    same = [requests(layout, {}, (16, 32), 2, 1, writes=False) for layout in (BLOCKED, linear)]
    np.testing.assert_array_equal(*same)


LISTING = """
.text.f:
\t//## File "kernel.py", line 2
        /*0000*/                   MUFU.RCP R4, R4 ;
\t//## File "kernel.py", line 5
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
\t//## File "kernel.py", line 2
.L_x_0:
        /*0020*/                   FFMA R4, R5, R6, R7 ;
        /*0030*/                   IMAD R4, R5, R6, R7 ;
\t//## File "kernel.py", line 6
        /*0040*/               @P6 STG.E desc[UR4][R46.64], R71 ;
        /*0050*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0060*/              @!P6 BRA `(.L_x_0) ;
        /*0070*/                   SHFL.BFLY PT, R2, R3, 0x2, 0x1f ;
        /*0080*/                   EXIT ;
.L_x_1:
        /*0090*/                   BRA `(.L_x_1);
        /*00a0*/                   NOP;
$f$__internal_0_$__cuda_sm3x_div_rn_noftz_f32_slowpath:
        /*00b0*/                   FADD R4, R5, R6 ;
"""


def test_instructions_in_a_loop_run_as_often_as_its_accesses():
    code = compiled(listing=LISTING)
    assert code.widths() == {(("kernel.py", 5), "load"): 16, (("kernel.py", 6), "store"): 4}
    executed = code.executed({(("kernel.py", 5), "load"): 1.0, (("kernel.py", 6), "store"): 7.0})
    assert executed == {"sfu": 1, "memory": 1 + 7, "fp32": 7, "imad": 7, "alu": 7, "control": 7 + 1, "shared": 1}


def test_ceilings_are_work_over_rates():
    card = CARDS["h100"]
    counts = {"fp32": 4e6, "imad": 1e6, "alu": 2e6, "sfu": 3e5, "shared": 1e5, "control": 6e5}
    seconds = Work(132 * 10, card.copy, card.l2_rate * card.clock, 132e3, 8e3, counts).seconds(card)
    assert tuple(seconds) == CEILINGS
    cycle = 1 / (132 * card.clock)
    assert seconds["dram"] == seconds["l2"] == 1
    assert seconds["issue"] == pytest.approx(8e6 / 4 * cycle)
    assert seconds["fp32"] == pytest.approx((4e6 / 4 + 1e6 / 2) * cycle)
    assert seconds["int"] == pytest.approx(2e6 / 2 * cycle)
    assert seconds["sfu"] == pytest.approx(3e5 * 2 * cycle)
    assert seconds["l1"] == pytest.approx((132e3 + 1e5) * cycle)
    assert seconds["atomics"] == pytest.approx(100 / card.clock)
    # One program more than fits evenly: a multiprocessor has eleven.
    more = Work(132 * 10 + 1, 0, 0, 132e3).seconds(card)
    assert more["l1"] == pytest.approx(132e3 * 11 / 1321 / card.clock)


def test_resident_programs_share_the_level_1_cache():
    card = CARDS["h100"]
    assert card.resident(registers=32, shared=0, warps=4) == 16
    assert card.resident(registers=128, shared=0, warps=4) == 4
    assert card.resident(registers=32, shared=99 * 2**10, warps=4) == 2
    assert card.l1_share(registers=128, shared=2**10, warps=4) == 62 * 2**10


def test_the_floor_is_that_of_the_timed_problem():
    # The same angle for all: the thetas do not depend on images drawn before.
    whole = replace(SVHN, shape=(2, 3, 64, 64), degrees=30.0)
    for workload in (whole, replace(whole, dtype=torch.bfloat16)):
        geometry, problem = Geometry.of_workload(workload), Problem.of(workload, "cpu")
        for direction in workload.directions:
            assert floor_bytes(geometry, direction) == floor_bytes(problem, direction)


def predicted(workload: str = "svhn-float32", direction: str = "step", ratio: float = 1.0) -> Prediction:
    ceilings = dict.fromkeys(CEILINGS, 1e-6)
    return Prediction(
        workload, direction, 10**6, round(ratio * 10**6), 10**6, 10**6, 3, ceilings, 3e-6, "dram", 4.0, []
    )


def test_an_excess_needs_a_note(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.roofline_notes.NOTES", {"svhn": {"step": "read twice"}})
    explained, unexplained = predicted(ratio=1.3), predicted("mnist-float32", ratio=1.3)
    assert roofline.verdict([predicted(), explained], check=True) == 0
    assert "svhn-float32 step: read twice" in capsys.readouterr().out
    assert roofline.verdict([explained, unexplained], check=True) == 1
    assert "mnist-float32 step: 1.30x of the floor" in capsys.readouterr().out
    assert roofline.verdict([unexplained], check=False) == 0


def test_notes_are_about_workloads_that_there_are():
    for beginning, by_direction in NOTES.items():
        directions = {d for w in WORKLOADS if w.id.startswith(beginning) for d in w.directions}
        assert set(by_direction) <= directions
    assert note("none", "step") is None


def test_measured_times_stand_beside(tmp_path: Path):
    card = CARDS["h200"]
    run = document([figure(SVHN, "step", "tstn", "tstn")], gpu="NVIDIA H200")
    old = document([], gpu="NVIDIA H200") | {"started": "1999-01-01T00:00:00+00:00"}
    other = document([], gpu="NVIDIA H100 80GB HBM3")
    for i, content in enumerate((run, old, other)):
        path = tmp_path / f"0.{i}.0" / "warp--nvidia-h200.json"
        path.parent.mkdir()
        path.write_text(json.dumps(content))
    (tmp_path / "0.0.0" / "cpu--of-some-make.json").write_text('{"suite": "cpu"}')
    found = roofline.measured_document(tmp_path, card)
    assert found == run
    assert roofline.measured_document(tmp_path, CARDS["a100"]) is None
    times = roofline.measured_seconds(found)
    assert times == {("svhn-float32", "step"): run["figures"][0]["gpu"]["median_s"]}
    row = roofline.line(predicted(), card, times["svhn-float32", "step"])
    assert float(row.split()[-1]) == pytest.approx(times["svhn-float32", "step"] * 1e6, abs=0.05)
    assert roofline.line(predicted(), card, None).endswith(" -")
    assert "NVIDIA H200" in "\n".join(roofline.heading(card, found))


def test_the_interpreter_and_unknown_workloads_are_refused(capsys: pytest.CaptureFixture[str], monkeypatch: Any):
    monkeypatch.setattr(roofline, "INTERPRETED", True)
    assert roofline.main([]) == 2
    monkeypatch.setattr(roofline, "INTERPRETED", False)
    assert roofline.main(["--only", "nothing has this name"]) == 2
    assert "TRITON_INTERPRET" in capsys.readouterr().err


# In a process of its own: in the tests' the kernels do not compile.
WHOLE = """
import json, sys
from dataclasses import replace

import torch
import torch.nn.functional as F

import tstn
from bench import roofline
from bench.aot_code import TARGETS
from bench.roofline_calls import Recorder
from bench.roofline_cards import CARDS
from bench.roofline_code import compiled
from bench.roofline_memory import simulate
from bench.roofline_model import Model
from bench.roofline_watch import Space
from bench.workloads import WORKLOADS
from tstn import _configs
from tstn.transforms import NAMED

# Tensors with numbers in them are on the CPU, and launched as on a GPU.
_configs.CPU = _configs.GPU
status = roofline.main(["--only", "mnist-float32", "--check", "--card", "h100", "--json", sys.argv[1]])
identity = next(w for w in WORKLOADS if w.name == "hd_identity")
identity = replace(identity, shape=(2, 3, 64, 96), size=(64, 96))
rows = [Model(replace(identity, layout=layout), CARDS["h200"]).predict("step") for layout in ("nchw", "channels_last")]

torch.manual_seed(0)
input, grad = torch.rand(2, 3, 20, 28, requires_grad=True), torch.rand(2, 3, 18, 30)
theta = torch.tensor([[0.9, 0.3, 0.1], [-0.2, 1.1, 0.2]]) + 0.1 * torch.rand(2, 2, 3)
theta.requires_grad_()
with Recorder(NAMED["affine"]) as recorder:
    output = tstn.spatial_transform(input, theta, "affine", (18, 30))
    results = output.detach(), *torch.autograd.grad(output, (input, theta), grad)
space = Space()
for step in recorder.steps:
    if step.launch is not None:
        simulate(step.launch, *compiled(step.launch, TARGETS["sm_90"]), space, 2**14, 2**25)
leaves = [t.detach().double().requires_grad_() for t in (input, theta)]
expected = F.grid_sample(leaves[0], F.affine_grid(leaves[1], [2, 3, 18, 30], align_corners=False), align_corners=False)
targets = expected, *torch.autograd.grad(expected, leaves, grad.double())
errors = []
for result, target in zip(results, targets):
    found = torch.from_numpy(space.values[space.region(result)]).view(target.shape)
    errors.append(float((found - target).norm() / target.norm()))
print(json.dumps([[row.details for row in rows], errors]))
sys.exit(status)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Any, Any, Any]:
    """What the command prints and writes, launches of a small workload, and errors of simulated results."""
    path = tmp_path_factory.mktemp("roofline") / "model.json"
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    done = subprocess.run(
        [sys.executable, "-c", WHOLE, str(path)], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    return table, json.loads(path.read_text()), *json.loads(last)


def test_the_command_prints_and_writes_the_same(whole: tuple[list[str], Any, Any, Any]):
    table, written, _, _ = whole
    rows = [line.split() for line in table if line.startswith("mnist-float32 ")]
    assert [row[1] for row in rows] == ["forward", "step", "step_theta"]
    assert written["card"]["name"] == "H100"
    for cells, row in zip(rows, written["rows"], strict=True):
        assert (row["workload"], row["direction"]) == tuple(cells[:2])
        assert row["bytes"] / row["floor_bytes"] == pytest.approx(float(cells[4].rstrip("*")), abs=0.006)
        assert row["seconds"] >= 0.999 * max(row["ceilings"].values())
        assert len(row["details"]) == row["launches"] <= 5


def test_memory_is_the_results_and_partial_sums(whole: tuple[list[str], Any, Any, Any]):
    forward, step, step_theta = whole[1]["rows"]
    image, theta = 256 * 28 * 28 * 4, 256 * 6 * 4
    assert forward["peak_bytes"] == forward["result_bytes"] == image
    assert step["result_bytes"] == 2 * image + theta
    assert step_theta["result_bytes"] == image + theta
    for row in (step, step_theta):
        assert row["result_bytes"] < row["peak_bytes"] < 1.05 * row["result_bytes"]


def test_real_kernels_look_at_each_pixel_once(whole: tuple[list[str], Any, Any, Any]):
    # A quarter of a pixel off the identity; what is over 2 images is thetas.
    image = 2 * 3 * 64 * 96 * 4
    for launches in whole[2]:
        assert launches[0]["launch"] == "sample_forward_kernel"
        assert launches[0]["simulated"] == launches[0]["programs"]
        assert 0 <= launches[0]["dram_bytes"] - 2 * image <= 64


def test_simulated_kernels_compute_the_right_results(whole: tuple[list[str], Any, Any, Any]):
    assert max(whole[3]) < 1e-5


def test_spaces_keep_small_numbers_and_give_addresses_to_large_tensors():
    space = Space()
    theta, image = torch.arange(6.0), torch.empty(2**22, device="meta")
    whole: Tensor = image.view(2, -1)
    assert space.region(theta) != space.region(image) == space.region(whole)
    assert space.address(whole[1]) - space.address(image) == 2**23
    assert space.values[space.region(image)] is None
    np.testing.assert_array_equal(space.values[space.region(theta)], theta.numpy())
