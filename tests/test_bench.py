"""The benchmarks: every peer does the same job, and the GPU command keeps its promises."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up import document, figure

from bench import gpu, timing
from bench.peers import EAGER, IMPLEMENTATIONS, TSTN, check, coarse, implementations
from bench.schema import OUT_OF_TIME, read_figures, validate
from bench.workloads import (
    DIRECTIONS,
    LAYOUTS,
    WORKLOADS,
    ZOOMS,
    Problem,
    Workload,
    elements_of_use,
    floor_bytes,
    fused,
    truth,
)

ROOT = Path(__file__).parents[1]


def small(workload: Workload) -> Problem:
    return Problem.of(workload.on_cpu(), "cpu")


def named(name: str) -> Workload:
    return next(w for w in WORKLOADS if w.id == name)


FIGURE = figure(named("svhn-float32"), "step", "tstn", "tstn")


def test_workloads_are_distinct_and_named_from_the_tables():
    suite = (*WORKLOADS, *ZOOMS)
    assert len({w.id for w in suite}) == len(suite)
    for workload in suite:
        assert workload.layout in LAYOUTS
        assert set(workload.directions) <= DIRECTIONS.keys()
        cpu = workload.on_cpu()
        assert 1 <= cpu.shape[0] <= workload.shape[0]
        assert cpu.id == workload.id
        assert cpu.shape[1] == workload.shape[1]


# The table that the project's speed is promised on.
SUITE = {
    ("mnist", "affine", (256, 1, 28, 28), (28, 28), 1): {"float32"},
    ("mnist_tps", "thin_plate_spline", (256, 1, 28, 28), (28, 28), 1): {"float32"},
    ("cluttered", "affine", (256, 1, 60, 60), (30, 30), 1): {"float32"},
    ("svhn", "affine", (128, 3, 64, 64), (64, 64), 1): {"float32", "bfloat16"},
    ("inner", "affine", (128, 48, 32, 32), (32, 32), 1): {"float32", "bfloat16"},
    ("birds", "attention", (16, 3, 448, 448), (224, 224), 4): {"float32", "bfloat16"},
    ("ocr", "thin_plate_spline", (256, 3, 64, 256), (32, 100), 1): {"float32", "float16"},
    ("hd_identity", "affine", (8, 3, 1080, 1920), (1080, 1920), 1): {"float32", "bfloat16"},
    ("hd_rotation15", "affine", (8, 3, 1080, 1920), (1080, 1920), 1): {"float32", "bfloat16"},
    ("hd_rotation45", "affine", (8, 3, 1080, 1920), (1080, 1920), 1): {"float32", "bfloat16"},
    ("hd_zoom_in", "affine", (8, 3, 1080, 1920), (1080, 1920), 1): {"float32", "bfloat16"},
    ("hd_zoom_out", "affine", (8, 3, 1080, 1920), (1080, 1920), 1): {"float32", "bfloat16"},
    ("hd_homography", "projective", (8, 3, 1080, 1920), (1080, 1920), 1): {"float32", "bfloat16"},
    ("hd_tps", "thin_plate_spline", (8, 3, 1080, 1920), (1080, 1920), 1): {"float32", "bfloat16"},
    ("feature", "affine", (32, 256, 64, 64), (64, 64), 1): {"float32", "bfloat16"},
    ("flow", "flow", (4, 64, 270, 480), (270, 480), 1): {"float32", "float16"},
    ("crops", "attention", (8, 256, 64, 64), (14, 14), 32): {"float32", "bfloat16"},
}
POINTS = {"mnist_tps": 16, "ocr": 20, "hd_tps": 16}


def test_the_suite_is_the_promised_one():
    found: dict[Any, set[str]] = {}
    for w in WORKLOADS:
        key = (w.name, w.family, w.shape, w.size, w.views)
        found.setdefault(key, set()).add(str(w.dtype).removeprefix("torch."))
        assert {"forward", "step"} <= set(w.directions)
        if w.family == "thin_plate_spline":
            assert len(w.transform.points) == POINTS[w.name]
    assert found == SUITE
    for name in ("feature", "flow"):
        assert {(w.dtype, w.layout) for w in WORKLOADS if w.name == name and not w.align_corners} == {
            (dtype, layout) for dtype in {w.dtype for w in WORKLOADS if w.name == name} for layout in LAYOUTS
        }


def source_pixels(workload: Workload, theta: torch.Tensor) -> torch.Tensor:
    """How many input pixels apart neighbouring output pixels look, (N, 2, 2): along x, along y."""
    (_, _, height, width), (out_height, out_width) = workload.shape, workload.size
    to_input, to_output = torch.tensor([width / 2, height / 2]), torch.tensor([out_width / 2, out_height / 2])
    return to_input[:, None] * theta[:, :2, :2] / to_output


@pytest.mark.parametrize(
    ("name", "zoom", "degrees"),
    [
        ("hd_identity", 1, 0),
        ("hd_rotation15", 1, 15),
        ("hd_rotation45", 1, 45),
        ("hd_zoom_in", 4, 0),
        ("hd_zoom_out", 0.25, 0),
        ("feature", 1, 20),
    ],
)
def test_thetas_turn_and_zoom_as_their_names_say(name: str, zoom: float, degrees: float):
    problem = small(named(f"{name}-float32"))
    steps = source_pixels(problem.workload, problem.theta)
    angle = torch.deg2rad(torch.tensor(float(degrees)))
    expected = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]]) / zoom
    torch.testing.assert_close(steps, expected.expand_as(steps))


@pytest.mark.parametrize("workload", [*WORKLOADS, *ZOOMS], ids=lambda w: w.id)
def test_every_implementation_does_the_job(workload: Workload):
    problem = small(workload)
    for direction in workload.directions:
        for implementation in implementations(problem.workload, cuda=False):
            # What needs compiling or another library has its own test; so has what the forward pass repeats.
            if implementation.compiled or implementation.name == "kornia" or direction == "forward":
                continue
            with implementation.settings():
                results = implementation.prepare(problem, direction)()
            errors = check(problem, implementation, direction, results)
            assert tuple(errors) == DIRECTIONS[direction]


@pytest.mark.parametrize("family", ["affine", "attention", "projective", "thin_plate_spline", "flow"])
@pytest.mark.parametrize("float32", [False, True], ids=["input's dtype", "float32 copy"])
def test_what_is_compiled_is_one_graph_and_right(family: str, float32: bool, monkeypatch: pytest.MonkeyPatch):
    workload = next(w for w in WORKLOADS if w.family == family and (w.dtype != torch.float32) == float32)
    problem = small(workload)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    compiled = [i for i in implementations(problem.workload, cuda=True) if i.compiled]
    assert compiled
    for implementation in compiled:
        if float32:
            implementation = replace(implementation, float32=True)
        with implementation.settings():
            results = implementation.prepare(problem, "step")()
        check(problem, implementation, "step", results)


@pytest.mark.skipif(find_spec("kornia") is None, reason="kornia is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["cluttered-float32", "svhn-float32-corners", "hd_homography-float32"])
def test_kornia_is_given_the_same_map(name: str):
    problem = small(named(name))
    kornia = next(i for i in IMPLEMENTATIONS if i.name == "kornia")
    check(problem, kornia, "step", kornia.prepare(problem, "step")())


def test_tstn_is_the_first_implementation_everywhere():
    for workload in (*WORKLOADS, *ZOOMS):
        assert next(implementations(workload, cuda=True)) is TSTN


def test_cudnn_is_a_peer_only_where_it_would_run():
    with_cudnn = [w for w in WORKLOADS if any(i.cudnn for i in implementations(w, cuda=True))]
    assert with_cudnn
    assert all(w.align_corners and w.dtype == torch.float32 for w in with_cudnn)
    assert not any(i.cudnn for w in WORKLOADS for i in implementations(w, cuda=False))


def test_every_workload_has_eager_compiled_and_best_peers_on_a_gpu():
    for workload in WORKLOADS:
        found = {i.name: i for i in implementations(workload, cuda=True)}
        assert {"tstn", "eager", "compiled", "ready_grid"} <= found.keys()
        assert ("broadcast" in found) == (workload.family != "flow")
        assert ({"copies", "loop"} <= found.keys()) == (workload.views > 1)


def test_half_coordinates_only_where_they_are_within_a_quarter_of_a_pixel():
    large = {w.name for w in WORKLOADS if w.name.startswith(("hd_", "birds"))}
    assert {w.name for w in WORKLOADS if coarse(w)} == large
    for workload in WORKLOADS:
        for implementation in implementations(workload, cuda=True):
            if implementation.role in ("eager", "compiled", "peer"):
                whole = workload.dtype == torch.float32 or coarse(workload) or implementation.name == "eager_float32"
                assert (implementation.coordinates(workload) == torch.float32) == whole


def test_half_images_that_the_cpus_sampler_leaves_are_copied():
    for workload in WORKLOADS:
        cpu = workload.on_cpu()
        large = max(*cpu.shape[2:], *cpu.size) > 128
        for implementation in implementations(cpu, cuda=False):
            half = implementation.coordinates(cpu) != torch.float32
            assert not (half and large)
            # Offsets of channels_last pixels count channels.
            assert not (half and cpu.layout == "channels_last" and cpu.name == "feature")


@pytest.mark.parametrize("spoil", [lambda t: t * 1.01, lambda t: t * float("nan"), lambda t: t[:-1]])
@pytest.mark.parametrize("which", range(3))
def test_a_wrong_result_is_not_timed(spoil: Any, which: int):
    problem = small(named("svhn-float32"))
    results = list(EAGER.prepare(problem, "step")())
    results[which] = spoil(results[which])
    with pytest.raises(AssertionError, match=tuple(DIRECTIONS["step"])[which]):
        check(problem, EAGER, "step", tuple(results))


def test_a_result_of_another_dtype_is_not_timed():
    problem = small(named("svhn-bfloat16"))
    output = fused(problem.input, problem.theta, problem.workload)
    with pytest.raises(AssertionError, match=r"float32, not torch\.bfloat16"):
        check(problem, TSTN, "forward", (output.float(),))


def test_floor_counts_what_is_looked_at_and_what_is_written():
    identity = small(named("hd_identity-float32"))
    elements, theta = identity.input.numel(), 6
    assert floor_bytes(identity, "forward") == (2 * elements + theta) * 4
    # Forward, then grad_output and the input read and grad_input written, theta read and its gradient written.
    assert floor_bytes(identity, "step") == (5 * elements + 3 * theta) * 4
    assert floor_bytes(identity, "grad_input") == (2 * elements + theta) * 4
    crops = small(named("birds-bfloat16"))
    outputs = crops.grad_output.numel()
    assert outputs * 2 < floor_bytes(crops, "forward") < (crops.input.numel() + outputs) * 2
    flow = small(named("flow-float32"))
    read, _ = elements_of_use(flow)
    assert floor_bytes(flow, "forward") == (read + flow.grad_output.numel() + flow.theta.numel()) * 4


def test_what_is_looked_at_is_what_gets_a_gradient():
    problem = small(named("hd_zoom_out-float32"))
    read, looking = elements_of_use(problem)
    assert read == int(truth(problem).grad_input.count_nonzero())
    assert looking == int(truth(problem).output.count_nonzero())
    # A sixteenth of the output sees the image, each pixel four of its pixels.
    assert looking == pytest.approx(problem.grad_output.numel() / 16, rel=0.05)
    assert read == pytest.approx(problem.input.numel() / 4, rel=0.05)


def test_times_are_summed_up():
    assert timing.times([4.0, 1.0, 3.0, 2.0, 5.0]) == {"median_s": 3.0, "iqr_s": 2.0, "min_s": 1.0, "rounds": 5}


class FakeEvent:
    """Recorded in a world where the host takes 12 million cycles to queue a call of 3 milliseconds."""

    def __init__(self, enable_timing: bool):
        assert enable_timing

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return FakeEvent.slept < 12_000_000

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: FakeEvent) -> float:
        return 99.0 if self.query() else 3.0

    slept = 0


def test_the_gpu_is_not_left_waiting_for_the_host(monkeypatch: pytest.MonkeyPatch):
    slept: list[int] = []

    def sleep(cycles: int) -> None:
        slept.append(cycles)
        FakeEvent.slept = cycles

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "_sleep", sleep)
    monkeypatch.setattr(timing, "flush", lambda: None)
    assert timing.gpu_seconds(lambda: None, 4) == pytest.approx([3e-3] * 4)
    assert slept == [5_000_000, 10_000_000, *[20_000_000] * 4]


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
    monkeypatch.setattr(gpu, "stages", lambda out, quick: [stage("one", code), stage("two", ""), stage("three", "")])
    monkeypatch.setattr(gpu.signal, "signal", lambda *_: None)
    assert gpu.main(["--out", str(tmp_path), "--stages", "one,two"]) == expected
    document_of_run = json.loads((tmp_path / "gpu.json").read_text())
    assert [s["name"] for s in document_of_run["stages"]] == ["one", "two"]
    validate(document_of_run)
    assert "NVIDIA H200, copy bandwidth 4000 GB/s" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path), "--stages", "four"])


def test_the_stages_are_in_the_order_of_their_worth(tmp_path: Path):
    tests, sanitizer, bench, tune = gpu.stages(tmp_path, quick=True)
    assert [s.name for s in (tests, sanitizer, bench, tune)] == ["tests", "sanitizer", "bench", "tune"]
    assert tests.command is not None
    assert bench.command is not None
    assert tune.command is not None
    assert {"tests", "gpu"} <= set(tests.command(100.0))
    assert {"--quick", "--deadline=60.0"} <= set(bench.command(100.0))
    assert "--seconds=200.0" in tune.command(300.0)


def test_reports_are_read(tmp_path: Path):
    xml = tmp_path / "tests.xml"
    xml.write_text(
        '<testsuites><testsuite><testcase classname="tests.a" name="ok"/>'
        '<testcase classname="tests.a" name="bad"><failure/></testcase>'
        '<testcase classname="tests.a" name="no"><skipped/></testcase>'
        f'<testcase classname="tests.a" name="later"><skipped message="{OUT_OF_TIME}"/></testcase>'
        "</testsuite></testsuites>"
    )
    assert gpu.junit(xml) == ({"passed": 1, "failed": 1, "skipped": 1, gpu.LEFT: 1}, ["tests.a::bad"], True)
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


def test_a_stage_with_more_to_do_is_unfinished(tmp_path: Path):
    more = gpu.Stage("bench", lambda _: [sys.executable, "-c", ""], 1.0, lambda: gpu.Findings({gpu.LEFT: 3}, []))
    assert gpu.run_stage(more, tmp_path, 30)["status"] == "unfinished"
    nothing = stage("bench", f"raise SystemExit({gpu.NOTHING_LEFT})")._replace(fine=(0, gpu.NOTHING_LEFT))
    assert gpu.run_stage(nothing, tmp_path, 30)["status"] == "passed"


def test_a_second_call_goes_on_where_the_first_stopped(tmp_path: Path):
    (tmp_path / "figures.jsonl").write_text(json.dumps(FIGURE) + "\n")
    more = gpu.Stage("bench", lambda _: [sys.executable, "-c", ""], 1.0, lambda: gpu.Findings({gpu.LEFT: 1}, []))
    gpu.measure(tmp_path, [stage("tests", ""), more], 60.0, document())
    again = gpu.resumed(tmp_path, document())
    assert [s["status"] for s in again["stages"]] == ["passed", "unfinished"]
    final = gpu.measure(tmp_path, [stage("tests", "raise SystemExit(1)"), stage("bench", "")], 60.0, again)
    assert [(s["name"], s["status"]) for s in final["stages"][2:]] == [("bench", "passed")]
    assert final["figures"] == [FIGURE]


@pytest.mark.parametrize("change", [{"source": "f" * 16}, {"versions": {"tstn": "0.2.0"}}, {"gpu": "NVIDIA H100"}])
def test_other_code_or_another_gpu_starts_anew(change: dict[str, Any], tmp_path: Path):
    (tmp_path / "figures.jsonl").write_text(json.dumps(FIGURE) + "\n")
    gpu.measure(tmp_path, [stage("tests", "")], 60.0, document())
    fresh = document(gpu=change["gpu"]) if "gpu" in change else document() | change
    assert gpu.resumed(tmp_path, fresh) is fresh
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_what_is_measured_is_left_out(tmp_path: Path):
    figures = tmp_path / "figures.jsonl"
    cluttered = named("cluttered-float32")
    done = [figure(cluttered, "step_theta", name, "peer") for name in ("tstn", "eager", "broadcast", "kornia")]
    # The last line was cut short, and would swallow the next.
    figures.write_text("".join(json.dumps(line) + "\n" for line in done) + '{"workload": "cut sh')
    report = run_suite(figures, "cluttered and step_theta")
    assert "1 passed" in report
    assert [f["implementation"] for f in read_figures(figures)[4:]] == ["ready_grid"]
    assert read_figures(figures)[:4] == done


def test_the_digest_is_of_the_code(tmp_path: Path):
    (tmp_path / "tstn").mkdir()
    before = gpu.source_digest(tmp_path)
    (tmp_path / "tstn" / "a.py").write_text("x = 1")
    after = gpu.source_digest(tmp_path)
    (tmp_path / "tstn" / "a.txt").write_text("")
    assert before != after == gpu.source_digest(tmp_path)


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


def run_suite(figures: Path, only: str) -> str:
    # Nor may the suite take itself for a worker of this run.
    kept_out = ("TRITON_INTERPRET", "TSTN_BACKEND", "TSTN_CPU_CHECK", "PYTEST_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(kept_out)}
    command = [sys.executable, "-m", "pytest", "bench", "-o", "python_files=bench_*.py", "-p", "no:cacheprovider"]
    command += ["--benchmark-only", "-q", "--quick", "-k", only, f"--figures={figures}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_the_suite_runs(tmp_path: Path):
    figures = tmp_path / "figures.jsonl"
    report = run_suite(figures, "ocr-float32 and step_theta and not broadcast")
    written = read_figures(figures)
    assert [f["implementation"] for f in written] == ["tstn", "eager", "ready_grid"]
    validate(document(written))
    assert written[0]["repeats"] == {"output": True, "grad_theta": True}
    assert "above 1, tstn is faster" in report
    if not torch.cuda.is_available():
        assert "it says nothing about GPUs" in report
