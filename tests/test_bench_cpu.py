"""The benchmark of the CPU: who is compared, by which clock, what is kept, and what is a miss. None asserts a time."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tstn
from bench import cpu, cpu_cases, cpu_plot
from bench.bars import MISS, PASS, UNMEASURED
from bench.cpu_cases import SUITE, TINY, Case, Timed, calls_for, cases, contenders, interleaved, measure, ratios
from bench.cpu_report import all_pass, bars, markdown, mean_of, table
from bench.cpu_results import document, key_of, processors, put, read, resumed, validate, write
from bench.schema import RESULTS
from bench.workloads import WORKLOADS, dtype_name

ROOT = Path(__file__).parents[1]
PLANNED = cases([1, 2])


def times(median: float) -> dict[str, Any]:
    return {"median_s": median, "quartiles_s": [median, median], "min_s": median, "rounds": 5, "calls": 1}


def figure(case: Case, seconds: float = 1.0, **medians: float | str) -> dict[str, Any]:
    """A made-up case; a text in place of a median is what was wrong."""
    workload = case.workload
    chosen = {"native": 1e-3, "plain": 4e-3, "eager": 3e-3} | medians
    found: dict[str, Any] = {}
    for name, median in chosen.items():
        wrong = isinstance(median, str)
        found[name] = {
            "coordinates": "float32",
            "float32_copy": contenders(workload, False)[-1].float32 and name == "eager",
            "problem": median if wrong else None,
            "errors": {"output": 1e-7},
            "times": None if wrong else times(median),
        }
    return {
        "workload": workload.id,
        "direction": case.direction,
        "threads": case.threads,
        "clock": "processor" if case.threads == 1 else "wall",
        "seconds": seconds,
        "load": 0.5,
        "transform": workload.family,
        "dtype": dtype_name(workload.dtype),
        "layout": workload.layout,
        "shape": list(workload.shape),
        "size": list(workload.size),
        "views": workload.views,
        "implementations": found,
        "ratios": ratios(found),
    }


def planned(workload: str, direction: str, threads: int = 1) -> Case:
    return next(case for case in PLANNED if case.key == (workload, direction, threads))


def changed(workload: str, direction: str, threads: int = 1, **medians: float | str) -> list[dict[str, Any]]:
    """A run that meets every bar but for what changes in one case."""
    key = (workload, direction, threads)
    return [figure(case, **(medians if case.key == key else {})) for case in PLANNED]


def test_the_suite_has_the_workloads_and_lone_images_of_each_layout():
    assert len({w.id for w in SUITE}) == len(SUITE)
    assert [w.id for w in SUITE[: len(WORKLOADS)]] == [w.id for w in WORKLOADS]
    alone = {(w.shape, w.dtype, w.layout) for w in SUITE[len(WORKLOADS) :]}
    both = {(dtype, layout) for dtype in (torch.float32, torch.bfloat16) for layout in ("nchw", "channels_last")}
    for shape in ((1, 3, 224, 224), (1, 3, 270, 480), (1, 3, 1080, 1920)):
        missing = {(shape, *kind) for kind in both} - alone
        assert missing == (set() if shape[2] != 270 else {(shape, dtype, "nchw") for dtype, _ in both})
    assert {w.shape for w in SUITE if w.name == TINY} == {(1, 1, 8, 8)}


def test_half_images_that_pytorchs_sampler_leaves_are_copied():
    copied: dict[str, int] = {}
    for workload in SUITE:
        large = max(*workload.shape[2:], *workload.size) > 128
        for implementation in contenders(workload, True):
            assert not large or implementation.coordinates(workload) == torch.float32
            copied[workload.name] = copied.get(workload.name, 0) + implementation.float32
    # Eager and compiled; small images of many channels only where a pixel's channels lie side by side.
    assert copied["feature"] == 2
    assert {name for name, count in copied.items() if not count} == {
        *("mnist", "mnist_tps", "cluttered", "svhn", "inner", "crops", TINY)
    }


def test_each_runs_on_the_backend_of_its_name():
    native, plain, eager, compiled = contenders(SUITE[0], True)
    assert [i.name for i in (native, plain, eager, compiled)] == ["native", "plain", "eager", "compiled"]
    assert compiled.compiled
    assert not eager.compiled
    assert len(contenders(SUITE[0], False)) == 3
    with tstn.backend("torch"), native.settings():
        assert tstn.backend_for(torch.ones(1)) == "triton"
    with tstn.backend("triton"):
        with plain.settings():
            assert tstn.backend_for(torch.ones(1)) == "torch"
        assert tstn.backend_for(torch.ones(1)) == "triton"


def test_cases_are_chosen_by_text_and_compiled_where_it_is_worth_it():
    assert {case.key for case in cases([2], only="svhn-float32 step_")} == {("svhn-float32", "step_theta", 2)}
    assert {case.workload.name for case in PLANNED if case.compiled} == {"mnist"}
    assert all(case.compiled for case in cases([1], "all"))
    assert not any(case.compiled for case in cases([1], "none"))
    # A pool of threads that once ran may spin beside a lone one.
    counts = [case.threads for case in cases(cpu._threads("2,1"))]
    assert counts == sorted(counts)


class World:
    """A clock that functions move on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []

    def clock(self) -> float:
        return self.now

    def job(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.called.append(name)
            self.now += seconds

        return run


def test_rounds_are_interleaved_until_the_time_is_up():
    world = World()
    runs = {name: Timed(world.job(name, s), nullcontext, calls) for name, s, calls in (("a", 0.25, 2), ("b", 0.5, 1))}
    samples = interleaved(runs, world.clock, 6.5, world.clock)
    assert samples == {"a": [0.25] * 7, "b": [0.5] * 7}
    # Each goes first in turn.
    assert world.called[:9] == ["a", "a", "b", "b", "a", "a", "a", "a", "b"]
    assert len(interleaved(runs, world.clock, 0.0, world.clock)["a"]) == 5
    assert gc.isenabled()
    assert interleaved({}, world.clock, 1.0, world.clock) == {}


def test_what_runs_between_samples_is_not_in_them():
    world = World()
    slow = Timed(world.job("a", 1.0), lambda: world.job("settings", 50.0)() or nullcontext(), 1)
    assert interleaved({"a": slow}, world.clock, 0.0, world.clock) == {"a": [1.0] * 5}


@pytest.mark.parametrize(("seconds", "calls"), [(1.0, 1), (2.1e-3, 1), (1.1e-3, 2), (3e-4, 7), (0.0, 1000)])
def test_short_calls_are_sampled_several_at_a_time(seconds: float, calls: int):
    world = World()
    assert calls_for(world.job("a", seconds), world.clock) == calls


def test_ratios_are_over_the_kernels_and_the_best_is_the_faster():
    tiny = planned("tiny-float32", "step")
    found = figure(tiny, eager=3e-3, compiled=2e-3, plain=5e-3)["ratios"]
    assert found == pytest.approx({"eager": 3, "best": 2, "plain": 5})
    assert figure(tiny, eager="wrong: by far", compiled=2e-3)["ratios"]["eager"] is None
    assert figure(tiny, eager="wrong: by far", compiled=2e-3)["ratios"]["best"] == pytest.approx(2)
    assert set(figure(tiny, native="wrong: by far")["ratios"].values()) == {None}


@pytest.fixture
def threads() -> Iterator[None]:
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


@pytest.mark.usefixtures("threads")
def test_who_is_wrong_or_fails_is_told_and_not_timed(monkeypatch: pytest.MonkeyPatch):
    genuine = cpu_cases.check

    def check(problem: Any, implementation: Any, direction: str, results: Any) -> dict[str, float]:
        if implementation.name == "plain":
            raise AssertionError("by far")
        if implementation.name == "eager":
            raise RuntimeError("no memory")
        return genuine(problem, implementation, direction, results)

    monkeypatch.setattr(cpu_cases, "check", check)
    tiny = planned("tiny-float32", "forward").workload
    measured = measure(Case(tiny, "step", 1, True), 0.0, "there is no compiler")
    found = measured["implementations"]
    assert found["plain"]["problem"] == "wrong: by far"
    assert found["eager"]["problem"] == "failed: RuntimeError: no memory"
    assert found["compiled"]["problem"] == "skipped: there is no compiler"
    assert [name for name, entry in found.items() if entry["times"] is not None] == ["native"]
    assert found["native"]["errors"].keys() == {"output", "grad_input", "grad_theta"}
    assert measured["clock"] == "processor"
    assert cpu_cases.clock_of(2)[0] == "wall"
    (line,) = [line for line in table([measured]) if line.startswith("tiny")]
    assert "plain wrong: by far" in line
    whole = document()
    put(whole, measured)
    validate(whole)


def test_a_fast_run_meets_every_bar():
    judged = bars(changed("mnist-float32", "step"), PLANNED)
    assert all_pass(judged)
    assert len(judged) == 2 * 7
    assert any("1 thread, step: 2.2x the better of eager and compiled" in bar.name for bar in judged)


@pytest.mark.parametrize(
    ("run", "names"),
    [
        (changed("svhn-float32", "step_theta", eager=1.19e-3), ["1 thread: each workload at least 1.2x eager"]),
        (changed("svhn-float32", "step_theta", 2, eager=1.1e-3), ["2 threads: each workload at least 1.2x eager"]),
        (changed("tiny-bfloat16", "forward", eager=0.99e-3), ["1 thread: 1x1x8x8 at least 1x eager"]),
        (changed("tiny-bfloat16", "forward", eager=1.01e-3), []),
        (changed("flow-float16", "step", native="wrong: by far"), ["1 thread: the kernels are right"]),
    ],
)
def test_what_falls_short_is_named(run: list[dict[str, Any]], names: list[str]):
    judged = bars(run, PLANNED)
    missed = [bar for bar in judged if bar.verdict == MISS]
    assert [bar.name for bar in missed] == names
    assert all_pass(judged) == (not names)
    assert all(len(bar.short) == 1 for bar in missed)
    if names:
        assert any(name in missed[0].short[0] for name in ("svhn-float32 step_theta", "tiny-bfloat16", "flow-float16"))


@pytest.mark.parametrize(
    ("direction", "eager", "compiled", "missed"),
    [
        ("forward", 2.4e-3, 2.6e-3, {"forward: 2.5x eager", "forward: 2.5x the better"}),
        ("forward", 2.6e-3, 2.4e-3, {"forward: 2.5x the better"}),
        ("step", 2.6e-3, 2.3e-3, set()),
        ("step", 2.6e-3, 2.1e-3, {"step: 2.2x the better"}),
        ("step_theta", 1.3e-3, 1.3e-3, set()),
    ],
)
def test_means_are_held_to_their_bars(direction: str, eager: float, compiled: float, missed: set[str]):
    slow = {"eager": eager, "compiled": compiled}
    run = [figure(case, **(slow if case.direction == direction else {})) for case in PLANNED]
    found = [bar.name for bar in bars(run, PLANNED) if bar.verdict == MISS]
    assert len(found) == 2 * len(missed)
    assert all(any(part in name for part in missed) for name in found)


def test_a_lone_digit_is_in_no_mean_and_a_wrong_peer_is_none():
    run = changed("tiny-float32", "step", eager=100.0)
    assert mean_of(run, "eager") == (pytest.approx(3), len([c for c in PLANNED if c.workload.name != TINY]))
    run = changed("svhn-float32", "step", eager="wrong: by far")
    assert all_pass(bars(run, PLANNED))
    assert mean_of(run, "eager")[1] == len([c for c in PLANNED if c.workload.name != TINY]) - 1


def test_what_was_not_measured_is_no_pass():
    run = [f for f in changed("mnist-float32", "step") if key_of(f) != ("crops-float32", "step", 2)]
    short = {bar.name: bar for bar in bars(run, PLANNED) if bar.verdict != PASS}
    assert len(short) == 4
    assert all(bar.verdict == UNMEASURED and "crops-float32 step" in bar.figure for bar in short.values())
    assert not all_pass(bars([], PLANNED))
    assert {bar.verdict for bar in bars([], PLANNED)} == {UNMEASURED}


def test_tables_show_losses_copies_and_means():
    run = changed("crops-bfloat16", "step", eager=0.5e-3)
    lines = table(run)
    assert "1 thread, processor time" in lines
    assert "2 threads, wall time" in lines
    (lost,) = [line for line in lines if "slower" in line]
    assert lost.startswith("crops-bfloat16")
    assert lost.endswith("slower than eager")
    assert any(line.startswith("hd_full-bfloat16 ") and line.endswith("eager on a float32 copy") for line in lines)
    assert not any(line.startswith("hd_full-float32 ") and "copy" in line for line in lines)
    assert sum(line.startswith("half ") for line in lines) == 2 * 3
    whole = document()
    for f in run:
        put(whole, f)
    text = "\n".join(markdown(whole))
    assert text.count("**0.50x**") == 2
    assert r"| hd_full-bfloat16 \* | step | 1.000 | 3.00x | 3.00x | 4.00x | 1.000 |" in text
    assert "| step_theta | 3.00x | 3.00x | 4.00x | 3.00x | 3.00x | 4.00x |" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith(("| mnist", "| workload", "|---|---|"))}
    assert widths == {11}


def drawn(run: list[dict[str, Any]]) -> dict[str, Any]:
    whole = document()
    for f in run:
        put(whole, f)
    return whole


def test_the_picture_has_every_workload_and_losses_left_of_one(tmp_path: Path):
    path = tmp_path / "cpu.json"
    write(path, drawn(changed("crops-bfloat16", "step", 2, eager=0.25e-3)))
    pictures = []
    for name in ("a.svg", "b.svg"):
        assert cpu.main(["--plot", str(path), str(tmp_path / name)]) == 0
        pictures.append((tmp_path / name).read_text())
    assert pictures[0] == pictures[1]
    assert all(workload.id in pictures[0] for workload in SUITE)
    drawing = cpu_plot.draw(read(path))
    forward, step, _ = drawing.axes
    line = [label.get_text() for label in forward.get_yticklabels()].index("crops-bfloat16")
    label = "affine_grid + grid_sample, 2 threads, wall time"
    (eager,) = [c for c in step.collections if c.get_label() == label]
    assert [x for x, y in np.asarray(eager.get_offsets()) if y == line] == [pytest.approx(0.25)]
    assert step.get_xlim()[0] < 0.25


def test_nothing_to_draw_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path / "cpu.json", document())
    assert cpu.main(["--plot", str(tmp_path / "cpu.json"), str(tmp_path / "a.svg")]) == 2
    assert "nothing to draw" in capsys.readouterr().err
    (tmp_path / "cpu.json").write_text('{"suite": "warp"}')
    assert cpu.main(["--markdown", str(tmp_path / "cpu.json")]) == 2
    assert "suite and schema" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "says"), [("CHECKED", True, "TSTN_CPU_CHECK"), ("INTERPRETED", True, "TRITON_INTERPRET")]
)
def test_what_would_say_nothing_is_refused(
    name: str, value: bool, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(cpu, "CHECKED", False)
    monkeypatch.setattr(cpu, "INTERPRETED", False)
    monkeypatch.setattr(cpu, "run", lambda *_: pytest.fail("it was not refused"))
    monkeypatch.setattr(cpu, name, value)
    assert cpu.main([]) == 2
    assert f"unset {says}" in capsys.readouterr().err


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """The cases that were measured, with made-up figures; the fifth measurement is interrupted."""
    seen: list[tuple[str, str, int]] = []

    def made_up(case: Case, seconds: float, no_compiler: str | None) -> dict[str, Any]:
        seen.append(case.key)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return figure(case, seconds, **({"compiled": 3e-3} if case.compiled else {}))

    monkeypatch.setattr(cpu, "measure", made_up)
    monkeypatch.setattr(cpu, "CHECKED", False)
    monkeypatch.setattr(cpu, "INTERPRETED", False)
    monkeypatch.setattr(cpu, "why_not_native", lambda: None)
    monkeypatch.setattr(cpu, "why_no_compiler", lambda: None)
    return seen


Measured = list[tuple[str, str, int]]


def test_an_interrupted_run_goes_on(measured: Measured, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "out" / "cpu.json"
    command = ["--threads", "1,2", "--only", "svhn", "--json", str(path), "--check"]
    keys = [case.key for case in PLANNED if case.workload.name == "svhn"]
    assert cpu.main(command) == 130
    assert "goes on from" in capsys.readouterr().out
    assert [key_of(f) for f in read(path)["cases"]] == measured[:4] == keys[:4]
    assert cpu.main(command) == 0
    assert [key_of(f) for f in read(path)["cases"]] == keys
    assert measured[5:] == keys[4:]
    assert [p.name for p in path.parent.iterdir()] == ["cpu.json"]
    before = len(measured)
    assert cpu.main(command) == 0
    assert cpu.main([*command, "--quick"]) == 0
    assert len(measured) == before


def test_more_time_or_another_implementation_is_measured_anew(measured: Measured, tmp_path: Path):
    path = tmp_path / "cpu.json"
    command = ["--json", str(path), "--only", "tiny-float32"]
    assert cpu.main([*command, "--threads", "2"]) == 0
    assert cpu.main([*command, "--threads", "1", "--seconds", "0.5"]) == 0
    keys = [("tiny-float32", direction, threads) for threads in (1, 2) for direction in ("forward", "step")]
    # As in the suite, in whatever order they were measured.
    assert [key_of(f) for f in read(path)["cases"]] == keys
    assert cpu.main([*command, "--threads", "1,2"]) == 130
    assert cpu.main([*command, "--threads", "1,2"]) == 0
    assert measured[5:] == keys[:2]
    assert cpu.main([*command, "--threads", "2", "--compiled", "all"]) == 0
    assert measured[7:] == keys[2:]
    assert [key_of(f) for f in read(path)["cases"]] == keys


def test_a_miss_is_the_exit_code_if_asked_for(
    measured: Measured, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    command = ["--threads", "1", "--only", "svhn-bfloat16 forward"]
    assert cpu.main([*command, "--check"]) == 0
    monkeypatch.setattr(cpu, "measure", lambda case, *rest: figure(case, eager=1e-3))
    assert cpu.main(command) == 0
    assert cpu.main([*command, "--check"]) == 1
    assert "svhn-bfloat16 forward: 1.00x" in capsys.readouterr().out
    assert cpu.main(["--only", "nothing"]) == 2
    assert len(measured) == 1


@pytest.mark.parametrize("what", ["source", "versions", "machine"])
def test_figures_of_something_else_are_refused(what: str, tmp_path: Path):
    path = tmp_path / "cpu.json"
    fresh = document()
    put(fresh, figure(PLANNED[0]))
    write(path, fresh)
    assert resumed(path, document()) == fresh
    other = "f" * 16 if what == "source" else fresh[what] | {"tstn": "0.0.1", "cpu": "a better one"}
    with pytest.raises(ValueError, match=f"another {what}"):
        resumed(path, document() | {what: other})
    assert resumed(None, fresh) is fresh
    assert resumed(tmp_path / "new.json", fresh) is fresh


def test_processors_are_told(tmp_path: Path):
    info = tmp_path / "cpuinfo"
    one = "processor\t: {}\nmodel name\t: A CPU @ 2: fast\nphysical id\t: 0\ncore id\t\t: {}\nflags\t\t: sse\n"
    info.write_text("\n".join(one.format(i, i // 2) for i in range(4)) + "\n")
    assert processors(info) == ("A CPU @ 2: fast", 2)
    info.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n\n")
    name, cores = processors(info)
    assert name
    assert cores == os.cpu_count()
    assert processors(tmp_path / "none")[1] == os.cpu_count()


def test_every_kept_result_has_the_form():
    for path in RESULTS.glob("*/cpu--*.json"):
        read(path)


def test_a_case_is_measured(tmp_path: Path):
    path = tmp_path / "cpu.json"
    command = [sys.executable, "-m", "bench.cpu", "--quick", "--seconds", "9", "--threads", "1", "--check"]
    command += ["--only", "tiny-bfloat16", "--json", str(path)]
    kept_out = ("TRITON_INTERPRET", "TSTN_BACKEND", "TSTN_CPU_CHECK")
    environment = {name: value for name, value in os.environ.items() if name not in kept_out}
    reason = cpu.why_not_native()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    if reason is not None:
        assert done.returncode == 2
        assert reason in done.stderr
        return
    # How fast it is, is not for a test to say.
    assert done.returncode in (0, 1), done.stderr
    found = read(path)
    assert [key_of(f) for f in found["cases"]] == [("tiny-bfloat16", d, 1) for d in ("forward", "step")]
    for f in found["cases"]:
        assert list(f["implementations"]) == ["native", "plain", "eager"]
        assert all(
            entry["problem"] is None and entry["times"]["rounds"] >= 5 for entry in f["implementations"].values()
        )
        assert f["seconds"] == cpu.QUICK_S
        assert set(f["ratios"]) == {"eager", "best", "plain"}
    assert json.loads(path.read_text())["machine"]["cores"] >= 1
    assert "1 thread: 1x1x8x8 at least 1x eager" in done.stdout
    assert "tiny-bfloat16" in done.stdout
