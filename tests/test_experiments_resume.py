"""What ends a run costs nothing but time: checkpoints, kill -9, several processes."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="the GPU script runs the tests with pytest alone")

from tstn.experiments import checkpoint, engine, runs
from tstn.experiments.config import Config, ExperimentError
from tstn.experiments.configs import make_config, run_name
from tstn.experiments.history import COLUMNS, History
from tstn.experiments.logs import Log

ROOT = Path(__file__).parents[1]
OPTIONS = ["--model", "st-fcn", "--width", "16", "--device", "cpu"]


def config(iterations: int = 12) -> Config:
    return make_config("mnist-r", "st-fcn", iterations=iterations, batch_size=16, options={"width": 8})


def train(folder: Path, max_seconds: float | None = None) -> engine.Outcome | None:
    setup = engine.Setup(folder, checkpoint_seconds=0, max_seconds=max_seconds)
    return engine.train(config(), setup, engine.make_accelerator("cpu", "fp32"))


def command(folder: Path, *options: str) -> list[str]:
    return ["-m", "tstn", "train", "mnist-rts", *OPTIONS, "--runs", str(folder), "--results", str(folder), *options]


def run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "TRITON_INTERPRET": "0"}


def final(folder: Path) -> checkpoint.State:
    # A kill between two renames leaves the one before.
    (run,) = {path.parent for path in folder.glob("*/checkpoint*.pt")}
    state = checkpoint.latest(run, warn=pytest.fail)
    assert state is not None
    return state


def log(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("*/log.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def assert_same(first: checkpoint.State, second: checkpoint.State) -> None:
    """All but the time is equal, to the last bit."""
    assert first.keys() == second.keys()
    assert first["iteration"] == second["iteration"]
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    for index, state in first["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, second["optimizer"]["state"][index][name]), name
    for name, values in first["history"].items():
        others = second["history"][name]
        if name == "theta":
            assert all(
                torch.equal(a, b) for x, y in zip(values, others, strict=True) for a, b in zip(x, y, strict=True)
            )
        elif name != "seconds":
            assert values == others, name


@pytest.mark.long
def test_killed_at_any_moment(tmp_path: Path) -> None:
    options = ["--iterations", "150", "--batch-size", "16", "--log-every", "3", "--checkpoint-seconds", "0.05"]
    run(*command(tmp_path / "undisturbed", *options))
    # Once while it starts or soon after, twice in the middle of training.
    moments = random.Random(3)
    for kill in range(3):
        process = subprocess.Popen(
            [sys.executable, *command(tmp_path / "killed", *options)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if kill == 0:
            time.sleep(moments.uniform(0.5, 2))
        else:
            known = entries(tmp_path / "killed")
            while process.poll() is None and entries(tmp_path / "killed") < known + 2:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.wait()
    assert not list((tmp_path / "killed").glob("*.json"))
    assert final(tmp_path / "killed")["iteration"] < 150
    run(*command(tmp_path / "killed", *options))
    assert_same(final(tmp_path / "undisturbed"), final(tmp_path / "killed"))
    undisturbed, killed = ([dict(row, seconds="") for row in log(tmp_path / n)] for n in ("undisturbed", "killed"))
    assert undisturbed == killed
    assert len(killed) == 50


def entries(folder: Path) -> int:
    return sum(path.read_text().count("\n") for path in folder.glob("*/log.csv"))


@pytest.mark.long
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    options = ["--iterations", "12", "--batch-size", "32", "--log-every", "1"]
    run(*command(tmp_path / "one", *options))
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *command(tmp_path / "two", *options),
    ]
    run(*launch)
    one, two = ([float(row["loss"]) for row in log(tmp_path / name)] for name in ("one", "two"))
    assert len(one) == 12
    assert one == pytest.approx(two, abs=1e-4)
    assert one != two
    assert [row["error"] for row in log(tmp_path / "one")] == [row["error"] for row in log(tmp_path / "two")]


def test_time_that_is_over(tmp_path: Path) -> None:
    assert train(tmp_path / "pieces", max_seconds=1e-9) is None
    assert checkpoint.load(tmp_path / "pieces" / checkpoint.NAME)["iteration"] == 1
    for _ in range(10):
        assert train(tmp_path / "pieces", max_seconds=1e-9) is None
    assert train(tmp_path / "pieces", max_seconds=1e-9) is not None
    whole = train(tmp_path / "whole")
    assert whole is not None
    states = [checkpoint.load(tmp_path / name / checkpoint.NAME) for name in ("pieces", "whole")]
    assert_same(*states)


def test_a_finished_run_is_only_measured_again(tmp_path: Path) -> None:
    first, second = train(tmp_path), train(tmp_path)
    assert first is not None
    assert second is not None
    assert (first.error, first.seconds) == (second.error, second.seconds)


def test_the_previous_checkpoint_is_kept(tmp_path: Path) -> None:
    said: list[str] = []
    assert checkpoint.latest(tmp_path, said.append) is None
    for iteration in (1, 2):
        checkpoint.save(tmp_path, {"config": {}, "model": {"w": torch.ones(3)}, "iteration": iteration})
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint.PREVIOUS, checkpoint.NAME]

    newest = tmp_path / checkpoint.NAME
    whole = newest.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        newest.write_bytes(whole[:length])
        state = checkpoint.latest(tmp_path, said.append)
        assert state is not None
        assert state["iteration"] == 1
        assert "is damaged or no checkpoint" in said[-1]
        assert f"going on from {tmp_path / checkpoint.PREVIOUS}" in said[-1]
    # Killed between the two renames.
    newest.unlink()
    state = checkpoint.latest(tmp_path, said.append)
    assert state is not None
    assert state["iteration"] == 1

    (tmp_path / checkpoint.PREVIOUS).write_bytes(b"nothing")
    with pytest.raises(checkpoint.CheckpointError, match="give --fresh, to start the run anew"):
        checkpoint.latest(tmp_path, said.append)


def test_a_failing_write_leaves_the_checkpoint_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, {"config": {}, "model": {}, "iteration": 1})

    def full(state: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, {"config": {}, "model": {}, "iteration": 2})
    assert checkpoint.load(tmp_path / checkpoint.NAME)["iteration"] == 1


@pytest.mark.parametrize(
    ("state", "message"),
    [([1, 2], "is not a checkpoint of a tstn run"), ({"model": {}}, "is not a checkpoint of a tstn run")],
)
def test_other_files_are_not_checkpoints(state: object, message: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "file.pt")
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.load(tmp_path / "file.pt")


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match="holds a checkpoint of another configuration"):
        engine.train(config(13), engine.Setup(tmp_path), engine.make_accelerator("cpu", "fp32"))


def test_a_run_is_trained_by_one_process_only(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with (
        runs.locked(tmp_path),
        pytest.raises(ExperimentError, match="is in use: another process"),
        runs.locked(tmp_path),
    ):
        pass
    with runs.locked(tmp_path):
        pass


def test_results_are_not_trained_again_unless_fresh(tmp_path: Path) -> None:
    accelerator = engine.make_accelerator("cpu", "fp32")
    setup = engine.Setup(tmp_path / "runs")

    def carry_out(fresh: bool = False) -> runs.Result | None:
        return runs.carry_out(config(), setup, tmp_path / "results", accelerator, fresh)

    first = carry_out()
    assert first is not None
    stamp = (tmp_path / "runs" / run_name(config()) / checkpoint.NAME).stat().st_mtime_ns
    assert carry_out() == first
    assert (tmp_path / "runs" / run_name(config()) / checkpoint.NAME).stat().st_mtime_ns == stamp
    again = carry_out(fresh=True)
    assert again is not None
    assert again["error"] == first["error"]
    assert (tmp_path / "runs" / run_name(config()) / checkpoint.NAME).stat().st_mtime_ns > stamp


def test_the_log_forgets_what_the_checkpoint_does_not_know(tmp_path: Path) -> None:
    def history(entries: int) -> History:
        steps = list(range(1, entries + 1))
        rates = [0.1] * entries
        return History(steps, [1.0 / step for step in steps], rates, [float(s) for s in steps], [None] * entries)

    log = Log(tmp_path, history(0), tensorboard=True)
    for entries in range(1, 6):
        log.write(history(entries))
    log.close()
    log = Log(tmp_path, history(3), tensorboard=True)
    log.write(history(4))
    log.close()
    head, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert head == ",".join(COLUMNS)
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3", "4"]
    assert len(list((tmp_path / "tensorboard").glob("events.*"))) == 2
