"""The benchmarks: every peer does the same job, results have their form, and the GPU command keeps its promises."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu
from bench.report import SCHEMA_VERSION, table, validate
from bench.workloads import (
    DIRECTIONS,
    EAGER,
    LAYOUTS,
    TSTN,
    WORKLOADS,
    Problem,
    Workload,
    check,
    floor_bytes,
    implementations,
)

ROOT = Path(__file__).parents[1]
FIGURE: dict[str, Any] = {
    "workload": "svhn-float32",
    "direction": "step",
    "implementation": "tstn",
    "dtype": "float32",
    "layout": "nchw",
    "backend": "torch",
    "shape": [1, 3, 64, 64],
    "size": [64, 64],
    "errors": {"output": 1e-7},
    "wall": {"median_s": 2e-3, "iqr_s": 1e-4, "min_s": 1e-3, "rounds": 9},
    "gpu": None,
    "peak_bytes": None,
    "floor_bytes": 12,
    "gb_per_s": None,
    "copy_gb_per_s": None,
    "share_of_copy": None,
}


def small(workload: Workload) -> Problem:
    return Problem.of(workload.on_cpu(), "cpu")


def named(name: str) -> Workload:
    return next(w for w in WORKLOADS if w.id == name)


def document() -> dict[str, Any]:
    return {
        "schema": SCHEMA_VERSION,
        "started": "2000-01-01T00:00:00+00:00",
        "commit": None,
        "dirty": None,
        "versions": {"torch": torch.__version__, "triton": None},
        "gpu": {"name": "none", "driver": None, "clocks_before": {}, "clocks_after": {}},
        "copy_gb_per_s": None,
        "stages": [],
        "figures": [],
    }


def test_workloads_are_distinct_and_named_from_the_tables():
    assert len({w.id for w in WORKLOADS}) == len(WORKLOADS)
    for workload in WORKLOADS:
        assert workload.layout in LAYOUTS
        assert set(workload.directions) <= DIRECTIONS.keys()
        assert 1 <= workload.on_cpu().shape[0] <= workload.shape[0]


@pytest.mark.parametrize("workload", [w for w in WORKLOADS if not w.name.startswith("hd")], ids=lambda w: w.id)
def test_every_implementation_does_the_job(workload: Workload):
    problem = small(workload)
    for direction in workload.directions:
        for implementation in implementations(problem.workload, cuda=False):
            if not implementation.compiled:
                with implementation.settings():
                    results = implementation.prepare(problem, direction)()
                errors = check(problem, implementation, direction, results)
                assert tuple(errors) == DIRECTIONS[direction]


def test_tstn_is_the_first_implementation_everywhere():
    for workload in WORKLOADS:
        assert next(implementations(workload, cuda=True)) is TSTN


def test_cudnn_is_a_peer_only_where_it_would_run():
    with_cudnn = [w for w in WORKLOADS if any(i.cudnn for i in implementations(w, cuda=True))]
    assert with_cudnn
    assert all(w.align_corners and w.dtype == torch.float32 for w in with_cudnn)
    assert not any(i.cudnn for w in WORKLOADS for i in implementations(w, cuda=False))


@pytest.mark.parametrize("spoil", [lambda t: t * 1.01, lambda t: t * float("nan"), lambda t: t[:-1]])
@pytest.mark.parametrize("which", range(3))
def test_a_wrong_result_is_not_timed(spoil: Any, which: int):
    problem = small(named("svhn-float32"))
    results = list(EAGER.prepare(problem, "step")())
    results[which] = spoil(results[which])
    with pytest.raises(AssertionError, match=tuple(DIRECTIONS["step"])[which]):
        check(problem, EAGER, "step", tuple(results))


def test_floor_counts_what_is_looked_at_and_what_is_written():
    identity = small(named("hd_identity-float32"))
    elements = identity.input.numel()
    assert floor_bytes(identity, "forward") == 2 * elements * 4
    assert floor_bytes(identity, "step") == 5 * elements * 4
    crops = small(named("birds-bfloat16"))
    outputs = crops.grad_output.numel()
    assert outputs * 2 < floor_bytes(crops, "forward") < (crops.input.numel() + outputs) * 2


def test_a_document_has_the_form():
    filled = document()
    filled["figures"].append(FIGURE)
    validate(filled)
    for spoil in (
        lambda d: d.update(schema=SCHEMA_VERSION + 1),
        lambda d: d.pop("commit"),
        lambda d: d.update(surprise=1),
        lambda d: d["figures"][0].update(floor_bytes=True),
        lambda d: d["figures"][0]["wall"].update(median_s="fast"),
        lambda d: d["stages"].append({"name": "tests"}),
    ):
        spoilt = copy.deepcopy(filled)
        spoil(spoilt)
        with pytest.raises(ValueError, match=r"must (be|have)"):
            validate(spoilt)


def test_the_table_keeps_losses():
    peer = FIGURE | {"implementation": "eager", "wall": FIGURE["wall"] | {"median_s": 1e-3}}
    header, row = table([FIGURE, peer], "wall")
    assert header.split()[-2:] == ["ms", "eager"]
    assert row.split() == ["svhn-float32", "step", "2.000", "0.50x"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_there_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    assert "needs a GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def stage(name: str, code: str, share: float = 1.0) -> gpu.Stage:
    return gpu.Stage(name, lambda _: [sys.executable, "-c", code], share, lambda: gpu.Findings({}, []))


def test_stages_succeed_fail_and_are_left_out(tmp_path: Path):
    assert gpu.run_stage(stage("good", "print('so far')"), tmp_path, 30)["status"] == "passed"
    assert (tmp_path / "good.log").read_text() == "so far\n"
    bad = gpu.run_stage(stage("bad", "raise SystemExit(3)"), tmp_path, 30)
    assert (bad["status"], bad["returncode"]) == ("failed", 3)
    absent = gpu.Stage("absent", None, 1.0, lambda: gpu.Findings({}, []))
    assert gpu.run_stage(absent, tmp_path, 30)["status"] == "unavailable"


def test_a_stage_out_of_time_is_killed_with_its_children(tmp_path: Path):
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    began = time.monotonic()
    result = gpu.run_stage(stage("slow", code), tmp_path, 3)
    assert (result["status"], result["returncode"]) == ("timed out", None)
    assert time.monotonic() - began < 30
    child = Path("/proc") / (tmp_path / "slow.log").read_text().strip() / "stat"
    # It dies in its own time, and may linger as a zombie until init reaps it.
    for _ in range(50):
        if not child.exists() or ") Z " in child.read_text():
            return
        time.sleep(0.1)
    pytest.fail("the stage's child still runs")


def test_the_document_is_written_after_each_stage(tmp_path: Path):
    figures = tmp_path / "figures.jsonl"
    figures.write_text(json.dumps(FIGURE) + "\n" + '{"workload": "cut sh')
    # Each stage keeps what the one before it left.
    keep = "import shutil, sys; shutil.copy({0!r}, {1!r})"
    path, seen = str(tmp_path / "gpu.json"), str(tmp_path / "seen.json")
    todo = [stage("first", "raise SystemExit(1)"), stage("second", keep.format(path, seen)), stage("third", "")]
    result = gpu.measure(tmp_path, todo, 60.0, document())
    after_first, final = (json.loads(Path(p).read_text()) for p in (seen, path))
    validate(after_first)
    validate(final)
    assert [s["status"] for s in after_first["stages"]] == ["failed"]
    assert [s["status"] for s in final["stages"]] == ["failed", "passed", "passed"]
    assert final["figures"] == [FIGURE] == result["figures"]
    assert any("first" in line and "failed" in line for line in gpu.summary(result))


def test_the_budget_is_shared_out(tmp_path: Path):
    budget = 100.0
    stages = gpu.measure(tmp_path, [stage("a", "", 0.5), stage("b", "", 1.0)], budget, document())["stages"]
    assert stages[0]["limit_s"] == pytest.approx((budget - gpu.RESERVE_S) / 2, abs=1)
    assert sum(s["limit_s"] for s in stages) < 1.5 * budget
    assert stages[1]["limit_s"] <= budget - gpu.RESERVE_S


@pytest.mark.parametrize(("code", "expected"), [("", 0), ("raise SystemExit(1)", 1)])
def test_the_exit_code_says_whether_all_passed(
    code: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "describe", document)
    monkeypatch.setattr(gpu, "stages", lambda out, quick: [stage("one", code), stage("two", "")])
    monkeypatch.setattr(gpu.signal, "signal", lambda *_: None)
    assert gpu.main(["--out", str(tmp_path)]) == expected
    validate(json.loads((tmp_path / "gpu.json").read_text()))
    assert "not measured" in capsys.readouterr().out


def test_the_stages_are_in_the_order_of_their_worth(tmp_path: Path):
    tests, sanitizer, bench = gpu.stages(tmp_path, quick=True)
    assert [tests.name, sanitizer.name, bench.name] == ["tests", "sanitizer", "bench"]
    assert tests.command is not None
    assert bench.command is not None
    assert {"tests", "gpu"} <= set(tests.command(100.0))
    assert {"--quick", "--deadline=60.0"} <= set(bench.command(100.0))


def test_reports_are_read(tmp_path: Path):
    xml = tmp_path / "tests.xml"
    xml.write_text(
        '<testsuites><testsuite><testcase classname="tests.a" name="ok"/>'
        '<testcase classname="tests.a" name="bad"><failure/></testcase>'
        '<testcase classname="tests.a" name="no"><skipped/></testcase></testsuite></testsuites>'
    )
    assert gpu.junit(xml) == ({"passed": 1, "failed": 1, "skipped": 1}, ["tests.a::bad"], True)
    assert gpu.junit(tmp_path / "missing.xml").counts == {}
    log = tmp_path / "sanitizer.log"
    log.write_text(
        f"{gpu.SANITIZER_STARTED}\n"
        "========= Invalid __global__ read of size 4 bytes\n"
        "========= ERROR SUMMARY: 3 errors\n"
    )
    assert gpu.sanitizer_errors(log) == ({"errors": 3}, ["Invalid __global__ read of size 4 bytes"], True)
    log.write_text("========= Error: Device not supported\n")
    assert not gpu.sanitizer_errors(log).available


def test_commit_and_changes(tmp_path: Path):
    assert gpu.revision(tmp_path) == (None, None)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "core.hooksPath="]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    commit, dirty = gpu.revision(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    assert dirty is False
    (tmp_path / "new.txt").write_text("")
    assert gpu.revision(tmp_path) == (commit, True)


def test_the_suite_runs(tmp_path: Path):
    figures = tmp_path / "figures.jsonl"
    # Nor may the suite take itself for a worker of this run.
    kept_out = ("TRITON_INTERPRET", "TSTN_BACKEND", "PYTEST_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(kept_out)}
    command = [sys.executable, "-m", "pytest", "bench", "-o", "python_files=bench_*.py", "-p", "no:cacheprovider"]
    command += ["--benchmark-only", "-q", "--quick", "-k", "cluttered and step_theta", f"--figures={figures}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    written = gpu.read_figures(figures)
    assert [f["implementation"] for f in written][:2] == ["tstn", "eager"]
    validate(document() | {"figures": written})
    assert "above 1, tstn is faster" in done.stdout
    if not torch.cuda.is_available():
        assert "It says nothing about the kernels" in done.stdout
