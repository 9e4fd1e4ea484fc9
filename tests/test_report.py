"""Results have their form, bars are judged as they are worded, and docs show losses."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import document, fast_run, figure, seconds

from bench import plot, report
from bench.aot_cases import COMMON
from bench.bars import MISS, PASS, UNMEASURED, Bar, code_bar, gpu_bars, overhead_bar, traffic_bar
from bench.schema import SCHEMA_VERSION, newest, place, read, validate
from bench.tables import markdown, table
from bench.workloads import WORKLOADS, ZOOMS

Change = Callable[[dict[str, Any]], object]
SVHN = next(w for w in WORKLOADS if w.id == "svhn-float32")


def changed(name: str, direction: str, implementation: str, change: Change) -> dict[str, Any]:
    """The fast run with one figure changed."""
    run = fast_run()
    (found,) = (
        f
        for f in run["figures"]
        if (f["workload"], f["direction"], f["implementation"]) == (name, direction, implementation)
    )
    change(found)
    return run


def slow(factor: float) -> Change:
    return lambda f: f.update(gpu=seconds(f["gpu"]["median_s"] * factor))


def verdicts(run: dict[str, Any] | None) -> list[str]:
    return [bar.verdict for bar in gpu_bars(run)]


def test_a_document_has_the_form():
    filled = document([figure(SVHN, "step", "tstn", "tstn"), figure(SVHN, "step", "eager", "eager", None)])
    validate(filled)
    for spoil in (
        lambda d: d.update(schema=SCHEMA_VERSION + 1),
        lambda d: d.pop("commit"),
        lambda d: d.update(surprise=1),
        lambda d: d["figures"][0].update(floor_bytes=True),
        lambda d: d["figures"][0].update(repeats={"output": 1}),
        lambda d: d["figures"][0]["wall"].update(median_s="fast"),
        lambda d: d["stages"].append({"name": "tests"}),
    ):
        spoilt = copy.deepcopy(filled)
        spoil(spoilt)
        with pytest.raises(ValueError, match=r"must (be|have)"):
            validate(spoilt)


def test_every_kept_result_has_the_form():
    for path in report.RESULTS.glob("*/warp--*.json"):
        assert place(read(path)) == path


def keep(results: Path, version: str, started: str, gpu: str = "NVIDIA H200") -> Path:
    run: dict[str, Any] = document(gpu=gpu) | {"started": started}
    run["versions"] = run["versions"] | {"tstn": version}
    path = results / "new.json"
    path.write_text(json.dumps(run))
    kept = report.add(path, results)
    path.unlink()
    return kept


def test_results_are_kept_by_version_and_gpu_and_the_newest_is_read(tmp_path: Path):
    assert newest(tmp_path) is None
    first = keep(tmp_path, "0.9.0", "2030-01-01")
    assert first == tmp_path / "0.9.0" / "warp--nvidia-h200.json"
    later = keep(tmp_path, "0.10.0", "2020-01-01")
    other = keep(tmp_path, "0.10.0", "2021-01-01", "NVIDIA H100 80GB HBM3")
    assert other.name == "warp--nvidia-h100-80gb-hbm3.json"

    def path(found: tuple[Path, Any] | None) -> Path:
        assert found is not None
        return found[0]

    assert path(newest(tmp_path)) == other
    assert path(newest(tmp_path, gpu="H200")) == later
    later.unlink()
    assert path(newest(tmp_path, gpu="H200")) == other


def test_what_is_no_result_is_an_error_that_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    for option in ("--results", "--add"):
        assert report.main([option, str(bad)], tmp_path) == 2
        assert str(bad) in capsys.readouterr().err
    assert report.main(["--results", str(tmp_path / "missing.json")], tmp_path) == 2


def test_the_tables_keep_losses():
    run = [figure(SVHN, "step", "tstn", "tstn", 2e-3), figure(SVHN, "step", "eager", "eager", 1e-3)]
    run.append(figure(SVHN, "step", "compiled", "compiled", 3e-3))
    header, row = table(run, "gpu")
    assert header.split()[-3:] == ["ms", "eager", "compiled"]
    assert row.split() == ["svhn-float32", "step", "2.000", "0.50x", "1.50x"]
    *_, row = markdown(run, "gpu")
    assert row == "| svhn-float32 | step | 2.000 | 0.200 | 50% | 1.00x | **0.50x** | 1.50x |"


def test_a_fast_run_passes_and_no_run_is_unmeasured():
    bars = gpu_bars(fast_run())
    assert [bar.verdict for bar in bars] == [PASS] * 5, bars
    assert "geometric mean 5.00x eager, 3.00x compiled; worst 2.00x" in bars[1].figure
    assert verdicts(None) == [UNMEASURED] * 5
    assert verdicts(document()) == [UNMEASURED] * 5


def test_another_gpu_is_told_and_judges_nothing():
    run = changed("hd_identity-float32", "forward", "tstn", slow(10))
    run["gpu"]["name"] = "NVIDIA H100"
    bars = gpu_bars(run)
    assert [bar.verdict for bar in bars] == [UNMEASURED] * 5
    assert all(bar.figure.endswith("(not an H200)") for bar in bars)


@pytest.mark.parametrize(
    ("name", "share", "verdict"),
    [
        ("hd_identity-bfloat16", 0.84, MISS),
        ("hd_rotation15-float32", 0.84, MISS),
        ("feature-float32-channels_last", 0.84, MISS),
        ("feature-float32", 0.1, PASS),
        ("hd_rotation45-float32", 0.61, PASS),
        ("hd_rotation45-float32", 0.59, MISS),
    ],
)
def test_bar_1_asks_a_share_of_the_copy_bandwidth(name: str, share: float, verdict: str):
    run = changed(name, "forward", "tstn", lambda f: f.update(share_of_copy=share))
    bar = gpu_bars(run)[0]
    assert bar.verdict == verdict
    assert [name in line for line in bar.short] == [True] * (verdict == MISS)


def test_bars_2_and_3_ask_geometric_means():
    run = fast_run()
    for f in run["figures"]:
        if f["implementation"] == "eager":
            f["gpu"] = seconds(3.9e-3)
        if f["implementation"] == "compiled" and f["direction"] == "forward":
            f["gpu"] = seconds(1.9e-3)
    bars = gpu_bars(run)
    assert [bar.verdict for bar in bars] == [PASS, MISS, MISS, PASS, PASS]
    assert bars[1].short == ["geometric mean 3.90x eager, at least 4.0x"]
    assert bars[2].short == ["geometric mean 1.90x compiled, at least 2.0x"]


def test_eager_is_the_faster_of_its_ways():
    run = fast_run()
    for workload in WORKLOADS:
        for direction in workload.directions:
            run["figures"].append(figure(workload, direction, "eager_cudnn", "eager", 2.5e-3))
    assert "geometric mean 2.50x eager" in gpu_bars(run)[1].figure


def test_no_workload_may_lose_unless_it_runs_at_the_copy_bandwidth():
    run = changed("crops-bfloat16", "step", "broadcast", slow(0.6))
    bar = gpu_bars(run)[1]
    assert bar.verdict == MISS
    assert bar.short == ["crops-bfloat16 step: 1.20x of broadcast, at least 1.3x"]
    for f in run["figures"]:
        if f["workload"] == "crops-bfloat16" and f["implementation"] == "tstn":
            f["share_of_copy"] = 0.9
    assert gpu_bars(run)[1].verdict == PASS
    # The forward pass has its own limit.
    assert verdicts(changed("crops-bfloat16", "forward", "broadcast", slow(0.6)))[2] == PASS
    assert verdicts(changed("crops-bfloat16", "forward", "broadcast", slow(0.5)))[2] == MISS


def test_a_ready_grid_is_no_peer():
    assert verdicts(changed("crops-bfloat16", "step", "ready_grid", slow(0.01))) == [PASS] * 5


def test_bar_4_tells_what_is_planned_until_it_is_measured():
    rows = [{"workload": "a", "direction": "step", "peak_bytes": n, "result_bytes": 100} for n in (105, 120)]
    bar = gpu_bars(None, {"rows": rows})[3]
    assert bar.verdict == UNMEASURED
    assert bar.figure == "no results; planned: at most 1.20x (a step), 1 of 1 above"
    assert "planned" not in gpu_bars(fast_run(), {"rows": rows})[3].figure
    assert gpu_bars(None, {"rows": [{"workload": "a"}]})[3].figure == "no results"


def test_bar_4_asks_for_no_more_memory_than_the_results():
    bar = gpu_bars(changed("flow-float16", "step", "tstn", lambda f: f.update(peak_bytes=1051)))[3]
    assert bar.verdict == MISS
    assert bar.short == ["flow-float16 step: 1.05x, at most 1.05x"]
    assert verdicts(changed("flow-float16", "step", "tstn", lambda f: f.update(peak_bytes=1050)))[3] == PASS


@pytest.mark.parametrize("implementation", ["tstn_scatter", "ready_grid"])
def test_bar_5_asks_to_beat_both_scatters(implementation: str):
    run = changed(ZOOMS[0].id, "grad_input", implementation, slow(0.4))
    bar = gpu_bars(run)[4]
    assert bar.verdict == MISS
    assert implementation in bar.short[0]


def test_bar_5_asks_for_the_same_bits():
    run = changed(ZOOMS[3].id, "grad_input", "tstn", lambda f: f.update(repeats={"grad_input": False}))
    assert gpu_bars(run)[4].short == [f"{ZOOMS[3].id}: other bits in a second run"]


@pytest.mark.parametrize(
    ("implementation", "bars"),
    [("tstn", [1, 2, 3]), ("compiled", [1, 2]), ("eager", [1, 2])],
)
def test_part_of_a_suite_never_passes(implementation: str, bars: list[int]):
    run = fast_run()
    run["figures"] = [
        f for f in run["figures"] if (f["workload"], f["implementation"]) != ("mnist-float32", implementation)
    ]
    found = gpu_bars(run)
    assert [i for i, bar in enumerate(found) if bar.verdict == UNMEASURED] == bars
    assert all("mnist-float32" in found[i].figure for i in bars)


def test_part_of_a_suite_may_miss():
    run = changed("crops-bfloat16", "step", "tstn", slow(3))
    run["figures"] = [f for f in run["figures"] if f["workload"] == "crops-bfloat16"]
    assert verdicts(run) == [UNMEASURED, MISS, UNMEASURED, UNMEASURED, UNMEASURED]


def code(**changes: Any) -> dict[str, Any]:
    return {
        "registers": 64,
        "spills": 0,
        "stack": 0,
        "loads": {"4": 2, "16": 4},
        "stores": {"16": 1},
        "reductions": {},
    } | changes


LAST = next(case.name for case in COMMON if case.channels_last)
FIRST = next(case.name for case in COMMON if not case.channels_last)


@pytest.mark.parametrize(
    ("name", "changes", "verdict", "reason"),
    [
        (f"{LAST}/sample_forward sm_90", {}, PASS, ""),
        (f"{LAST}/sample_backward sm_90", {"reductions": {"RED.F32x4": 8}, "stores": {"4": 6}}, PASS, ""),
        (f"{LAST}/sample_backward sm_90", {"reductions": {"RED.BF16x2": 8}, "stores": {"4": 6}}, PASS, ""),
        (f"{LAST}/sample_backward sm_90", {"reductions": {"RED.F32": 8}}, MISS, "narrow reductions RED.F32"),
        (f"{LAST}/sample_forward sm_90", {"loads": {"4": 9}}, MISS, "no 16-byte loads"),
        (f"{LAST}/sample_forward sm_90", {"stores": {"8": 9}}, MISS, "neither 16-byte stores"),
        (f"{LAST}/sample_forward sm_80", {"stores": {"8": 9}}, UNMEASURED, ""),
        (f"{LAST}/finish_backward sm_90", {"stores": {"8": 9}}, UNMEASURED, ""),
        (f"{FIRST}/sample_forward sm_90", {"stores": {"4": 1}, "loads": {"4": 1}}, PASS, ""),
        (f"{FIRST}/sample_forward sm_90", {"registers": 65}, MISS, "65 registers, occupancy 44%"),
        (f"{FIRST}/sample_forward sm_90", {"registers": 255}, MISS, "255 registers, occupancy 12%"),
        ("some-other/sample_forward gfx942", {"spills": 1}, UNMEASURED, ""),
    ],
)
def test_bar_6_reads_machine_code(name: str, changes: dict[str, Any], verdict: str, reason: str):
    bar = code_bar({name: code(**changes)})
    assert bar.verdict == verdict
    assert reason in "".join(bar.short)


def test_bar_6_counts_spills_on_every_target():
    table = {f"{FIRST}/sample_forward sm_90": code(), "some-other/sample_forward gfx942": code(stack=8)}
    bar = code_bar(table)
    assert bar.verdict == MISS
    assert bar.short == ["some-other/sample_forward gfx942: spills"]
    assert code_bar(None).verdict == UNMEASURED


def test_bar_6_reads_the_librarys_own_table():
    (bar,) = (bar for bar in report.bars(None) if bar.name.startswith("6"))
    assert bar.verdict in (PASS, MISS)
    assert "common kernels on sm_90" in bar.figure


def model(**changes: Any) -> dict[str, Any]:
    rows = [
        {"workload": w.id, "direction": d, "bytes": 110, "floor_bytes": 100} for w in WORKLOADS for d in w.directions
    ]
    rows[3].update(changes)
    return {"rows": rows}


def test_bar_7_asks_for_little_traffic_or_a_reason():
    assert traffic_bar(model()).verdict == PASS
    assert traffic_bar(model(bytes=116)).verdict == MISS
    assert traffic_bar(model(bytes=116, note="the spline's basis is read once per tile")).verdict == PASS
    assert traffic_bar(model(workload="unknown")).verdict == UNMEASURED
    for nothing in (None, [], {}, {"rows": []}, {"rows": "none"}, {"rows": [{"workload": "svhn-float32"}]}):
        assert traffic_bar(nothing).verdict == UNMEASURED


def test_bar_8_asks_for_little_overhead():
    assert overhead_bar({"forward_us": 12.0, "step_us": 30.0, "launches": 4}).verdict == PASS
    assert overhead_bar({"forward_us": 12.1, "step_us": 30.0}).verdict == MISS
    assert overhead_bar({"forward_us": 1.0, "step_us": 30.1}).short == ["step: 30.1 us, at most 30 us"]
    for nothing in (None, [], {"forward_us": 1.0}, {"forward_us": 1.0, "step_us": None}):
        assert overhead_bar(nothing).verdict == UNMEASURED


def test_the_report_names_every_bar_and_exits_by_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main = partial(report.main, results=tmp_path, aot_table=tmp_path / "missing.json")
    assert main(["--check"]) == 0
    out = capsys.readouterr().out
    assert "No GPU has been measured" in out
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["unmeasured", str(n)] for n in range(1, 9)]

    run = tmp_path / "gpu.json"
    run.write_text(json.dumps(fast_run()))
    (tmp_path / "overhead.json").write_text(json.dumps({"forward_us": 5.0, "step_us": 40.0}))
    assert main(["--add", str(run), "--table"]) == 0
    out = capsys.readouterr().out
    assert "warp--nvidia-h200.json: NVIDIA H200, copies at 4000 GB/s" in out
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("pass", "miss", "unm"))] == [
        *[PASS] * 5,
        *[UNMEASURED] * 2,
        MISS,
    ]
    assert "median by the wall clock" in out
    assert main(["--check"]) == 1


def test_long_lists_are_cut_unless_asked_for():
    bar = Bar("a bar", MISS, "figure", [f"thing {i}" for i in range(9)])
    assert report.lines([bar])[-1].strip() == "and 4 more: python -m bench.report --all"
    assert report.lines([bar], None)[-1].strip() == "thing 8"


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"# Before\n{plot.BEGIN}\nof an earlier run\n{plot.END}\nafter\n")
    return tmp_path


def test_docs_get_pictures_and_tables(docs: Path):
    run = docs / "gpu.json"
    run.write_text(json.dumps(changed("crops-bfloat16", "step", "broadcast", slow(0.4))))
    assert plot.main(["--results", str(run), "--docs", str(docs)]) == 0
    page = (docs / "benchmarks.md").read_text()
    assert page.startswith("# Before\n")
    assert page.endswith("after\n")
    assert "of an earlier run" not in page
    assert "**0.80x**" in page
    assert "miss        2 forward+backward" in page
    pictures = {path.name: path.read_text() for path in docs.glob("*.svg")}
    assert all(f"]({name})" in page for name in pictures)
    # Every workload has its line, the one that lost too.
    assert all(workload.id in pictures["benchmarks.svg"] for workload in WORKLOADS)
    assert "PyTorch's, 64 channels" in pictures["benchmarks-zoom.svg"]
    # The same figures, the same files.
    assert plot.main(["--results", str(run), "--docs", str(docs)]) == 0
    assert {path.name: path.read_text() for path in docs.glob("*.svg")} == pictures
    assert (docs / "benchmarks.md").read_text() == page


def test_losses_are_drawn_left_of_one():
    drawing = plot.draw(changed("crops-bfloat16", "step", "broadcast", slow(0.25)))
    forward, step, _ = drawing.axes
    line = [label.get_text() for label in forward.get_yticklabels()].index("crops-bfloat16")
    peers = next(c for c in step.collections if c.get_label() == plot.MARKS["peer"][0])
    assert [x for x, y in np.asarray(peers.get_offsets()) if y == line] == [0.5]
    assert step.get_xlim()[0] < 0.5


def test_docs_without_results_say_so(docs: Path, tmp_path: Path):
    assert plot.main(["--docs", str(docs)], tmp_path / "results") == 0
    assert plot.UNMEASURED in (docs / "benchmarks.md").read_text()
    (docs / "benchmarks.md").write_text("no marks")
    assert plot.main(["--docs", str(docs)], tmp_path / "results") == 2


def test_the_page_says_what_was_measured():
    page = (plot.DOCS / "benchmarks.md").read_text()
    found = newest(gpu="H200")
    assert (plot.UNMEASURED in page) == (found is None)
    if found is not None:
        assert report.describe(*found) in page
