"""The command ``tstn``: every subcommand, its help, its errors and its exit status."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate", reason="the GPU script runs the tests with pytest alone")
pytest.importorskip("PIL", reason="the GPU script runs the tests with pytest alone")

from PIL import Image

import tstn
from tstn import cli
from tstn.experiments import plans, results
from tstn.experiments.configs import make_config, run_name
from tstn.experiments.looks import look
from tstn.experiments.options import arguments_of, config_of
from tstn.experiments.registry import EXPERIMENTS

ROOT = Path(__file__).parents[1]
SMALL = ["--iterations", "6", "--batch-size", "16", "--width", "8", "--device", "cpu"]


def folders(folder: Path) -> list[str]:
    return ["--runs", str(folder / "runs"), "--results", str(folder / "results")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of runs and results of a spline, a network without transformers, and one with two."""
    folder = tmp_path_factory.mktemp("trained")
    for arguments in (
        ["mnist-rts", "--model", "st-fcn", "--transform", "tps"],
        ["mnist-rts", "--model", "cnn"],
        ["addition", "--model", "2st-fcn"],
    ):
        assert cli.main(["train", *arguments, *SMALL, *folders(folder)]) == 0
    return folder


def run_of(trained: Path, name: str) -> Path:
    (path,) = (trained / "runs").glob(f"*{name}*")
    return path


def parse(arguments: list[str]) -> Any:
    return cli._parser().parse_args(arguments)


def test_train_and_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "mnist-r", "--model", "st-fcn", "--transform", "projective", "--seeds", "2", "--seed", "4"]
    assert cli.main([*arguments, *SMALL, *folders(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    found = results.read_all(tmp_path / "results")
    assert [r["config"]["seed"] for r in found] == [4, 5]
    assert [r["config"]["transform"] for r in found] == ["projective"] * 2
    mean = sum(r["error"] for r in found) / 2
    assert len(printed) == 3
    assert f"error {found[0]['error']:.2f} %, {found[0]['parameters']:,} weights" in printed[0]
    assert printed[2].startswith(f"2 seeds: error {mean:.2f} %")
    folder = tmp_path / "runs" / f"mnist-r--digits--st-fcn--projective--width8--fast6x16--seed{4}"
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt", "lock", "log.csv"]


def test_stopped_by_the_clock_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "mnist-r", "--model", "fcn", *SMALL, *folders(tmp_path)]
    assert cli.main([*arguments, "--max-seconds", "1e-9"]) == cli.UNFINISHED == 75
    assert "the same command goes on" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    assert cli.main(arguments) == 0
    assert len(results.read_all(tmp_path / "results")) == 1


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tstn.experiments.engine.Run.step", interrupt)
    assert cli.main(["train", "mnist-r", "--model", "fcn", *SMALL, *folders(tmp_path)]) == 130
    assert "interrupted: the same command goes on from the last checkpoint" in capsys.readouterr().err


def test_evaluate(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(trained, "tps")
    (result,) = [r for r in results.read_all(trained / "results") if r["config"]["transform"] == "tps"]
    for checkpoint in (run, run / "checkpoint.pt"):
        assert cli.main(["evaluate", str(checkpoint), "--device", "cpu"]) == 0
        assert f"error {result['error']:.2f} % after 6 of 6 iterations" in capsys.readouterr().out
    assert cli.main(["evaluate", str(run), "--device", "cpu", "--limit", "1"]) == 0
    assert capsys.readouterr().out.split("error ")[1].split(" %")[0] in ("0.00", "100.00")


@pytest.mark.parametrize("format", ["gif", "png"])
def test_show(format: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["show", str(run_of(trained, "tps")), "--output", str(tmp_path), "--format", format, "--seconds", "1"]
    assert cli.main([*arguments, "--device", "cpu"]) == 0
    sheet, animation = tmp_path / "looks.png", tmp_path / f"training.{format}"
    assert capsys.readouterr().out.splitlines() == [str(sheet), str(animation)]
    with Image.open(sheet) as image:
        assert image.size[0] > 1000
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 20)}
        assert (0x2A, 0x8F, 0xD0) in colors
    with Image.open(animation) as image:
        # Before training, and after each of six batches.
        assert image.n_frames == 7
        first = image.convert("RGB")
        image.seek(6)
        assert first.tobytes() != image.convert("RGB").tobytes()


def test_show_two_transformers_and_none(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(trained, "2st-fcn")
    assert cli.main(["show", str(run / "checkpoint.pt"), "--seconds", "1", "--device", "cpu"]) == 0
    assert {"looks.png", "training.gif"} <= {path.name for path in run.iterdir()}
    capsys.readouterr()
    run = run_of(trained, "cnn")
    assert cli.main(["show", str(run), "--device", "cpu"]) == 0
    assert "cnn has no transformer: nothing moves, and there is no animation" in capsys.readouterr().out
    assert not (run / "training.gif").exists()


def test_quadrilaterals_and_lattices_are_where_the_network_looks() -> None:
    from tstn.experiments import pictures

    images = torch.rand(1, 1, 20, 40)
    localization = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(800, 6))
    for align_corners in (False, True):
        model = tstn.SpatialTransformer(localization, "affine", (10, 10), align_corners=align_corners)
        ((line,),) = pictures.paths(look(model, lambda model=model: model(images))[0])
        low, high = ([-0.5, -0.5], [39.5, 19.5]) if not align_corners else ([0, 0], [39, 19])
        corners = torch.tensor(line[~torch.tensor(line).isnan().any(1).numpy()])
        assert corners.amin(0).tolist() == pytest.approx(low, abs=1e-4)
        assert corners.amax(0).tolist() == pytest.approx(high, abs=1e-4)
    # A horizon inside the picture breaks the line and leads nowhere far away.
    theta = torch.tensor([[[[1.0, 0, 0], [0, 1, 0], [1.5, 0, 1]]]])
    ((line,),) = pictures._paths(theta, tstn.Projective(), (28, 28), False)
    assert torch.tensor(line).nan_to_num().abs().amax() < 2800


def test_reproduce(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "kernels")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    arguments = ["reproduce", "tc", "--only", "fcn", "--iterations", "2", "--device", "cpu", *folders(tmp_path)]
    assert cli.main([*arguments, "--jobs", "2"]) == 0
    found = results.read_all(tmp_path / "results")
    assert [(r["config"]["model"], r["config"]["recipe"]["iterations"]) for r in found] == [("fcn", 2), ("st-fcn", 2)]
    stamps = [path.stat().st_mtime_ns for path in sorted((tmp_path / "results").iterdir())]
    # Nothing is left to do, and nothing is started.
    monkeypatch.setattr(subprocess, "Popen", None)
    assert cli.main(arguments) == 0
    assert stamps == [path.stat().st_mtime_ns for path in sorted((tmp_path / "results").iterdir())]
    assert cli.main([*arguments, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{found[0]['error']:6.2f} %  tstn train mnist-tc --model fcn --iterations 2 --seed 0")


def test_reproduce_says_what_failed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    only = ["--only", "svhn--st-multi--affine--crop128"]
    arguments = ["reproduce", "svhn", *only, "--data-root", str(tmp_path / "none"), *folders(tmp_path)]
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]), "OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        assert cli.main([*arguments, "--jobs", "2", "--device", "cpu"]) == 1
    said = capfd.readouterr().err
    assert "error: 1 of 1 runs failed:" in said
    assert "svhn--svhn--st-multi--affine--crop128--fast50000x128--seed0 (exit status 1)" in said
    for output in (tmp_path / "runs").glob("*/output.txt"):
        assert f"{tmp_path / 'none'}" in output.read_text()


def test_results(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["results", str(trained / "results")]) == 0
    page = capsys.readouterr().out
    assert page.startswith("# Results")
    assert "| 2st-fcn affine, width 8 |" in page.replace("addition | ", "| ")
    assert cli.main(["results", str(trained / "results"), "--output", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == page


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert f"torch      {torch.__version__}" in printed
    assert f"tstn       {tstn.__version__}" in printed
    with tstn.backend("auto"):
        assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "fused kernels: compiled for this CPU" in printed or "TRITON_INTERPRET is set" in printed


@pytest.mark.parametrize("choice", ["torch", "triton"])
def test_info_says_why(choice: str) -> None:
    environment = {**os.environ, "TSTN_BACKEND": choice, "TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-m", "tstn", "info"],
        env={**environment, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("cpu ")]
    assert "interpreter" not in line
    expected = {
        "torch": "torch    TSTN_BACKEND=torch asks for it",
        "triton": "triton   TSTN_BACKEND=triton asks for it",
    }
    assert expected[choice] in line


@pytest.mark.parametrize(
    "arguments", [["tstn", "info"], ["tstn", "reproduce", "table1", "--list"], ["tstn.demo"]], ids=" ".join
)
def test_unknown_backend_in_the_environment(arguments: list[str]) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "TSTN_BACKEND": "nonsense", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    message = "error: the environment variable TSTN_BACKEND must be one of 'auto', 'triton', 'torch'; got 'nonsense'"
    assert done.stderr.splitlines()[-1].endswith(message)
    assert "Traceback" not in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train"],
        *(["train", name] for name in EXPERIMENTS),
        ["reproduce"],
        ["evaluate"],
        ["show"],
        ["results"],
        ["info"],
    ],
    ids=" ".join,
)
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main([*arguments, "--help"])
    assert error.value.code == 0
    printed = capsys.readouterr().out
    if arguments[:1] == ["train"] and len(arguments) == 2:
        assert all(f"  {model} " in printed for model in EXPERIMENTS[arguments[1]].models)
        assert "schedules:\n  fast" in printed
    if arguments == ["reproduce"]:
        assert all(f"  {plan} " in printed for plan in plans.PLANS)
    if not arguments:
        assert "75 stopped by --max-seconds" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["train"], "the following arguments are required: EXPERIMENT"),
        (["train", "mnist-r"], "the following arguments are required: --model"),
        (["train", "mnist-x", "--model", "fcn"], "invalid choice: 'mnist-x'"),
        (["train", "mnist-r", "--model", "fcn", "--digit", "3"], "unrecognized arguments: --digit 3"),
        (["train", "mnist-r", "--model", "fcn", "--iterations", "0"], "must be a positive whole number; got '0'"),
        (["train", "mnist-r", "--model", "fcn", "--seed", "-1"], "--seed"),
        (["train", "mnist-r", "--model", "fcn", "--lr", "0"], "must be more than 0; got 0"),
        (["train", "mnist-r", "--model", "fcn", "--lr", "nan"], "must be a number, 0 or more; got 'nan'"),
        (["train", "mnist-r", "--model", "fcn", "--decay", "0.5,0.4"], "must be rising fractions of 1"),
        (["reproduce", "table9"], "invalid choice: 'table9'"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "mnist-r", "--model", "cnn", "--transform", "tps"], "leave --transform out"),
        (["train", "mnist-r", "--model", "cnn", "--batch-size", "5000"], "--batch-size must be at most 1297"),
        (["evaluate", "{}/nothing.pt"], "nothing.pt is missing: give the checkpoint.pt of a run"),
        (["evaluate", "{}"], "holds no checkpoint: give a run's folder"),
        (["show", "{}"], "holds no checkpoint"),
        (["results", "{}/nowhere"], "nowhere is not a folder"),
        (["reproduce", "tc", "--only", "rnn"], "--only rnn leaves no run of tc"),
    ],
)
def test_errors_say_what_to_do(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(tmp_path) for argument in arguments]
    if given[0] in ("train", "reproduce"):
        given += folders(tmp_path)
    if given[0] != "results":
        given += ["--device", "cpu"]
    assert cli.main(given) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said


def test_missing_libraries(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert cli.main(["train", "mnist-r", "--model", "fcn"]) == 1
    assert "error: this needs accelerate: pip install '.[experiments]' in a checkout of tstn" in capsys.readouterr().err


def test_unusable_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").touch()
    assert cli.main(["train", "mnist-r", "--model", "fcn", *SMALL, *folders(tmp_path)]) == 1
    assert "error: cannot write to" in capsys.readouterr().err


def test_options_and_configurations_are_inverse() -> None:
    configs = [c for plan in plans.PLANS for c in plans.configs(plan, 1, "mnist", "paper")]
    changes: list[dict[str, Any]] = [
        {"lr": 0.25, "clip_grad": 1.0, "localization_lr": 0.1, "iterations": 7, "decay": (0.1, 1 / 3)},
        {"schedule": "paper", "decay": (), "momentum": 0.0, "precision": "bf16", "compile": True, "log_every": 9},
        {"options": {"padding_mode": "border", "align_corners": 1, "width": 12}, "seed": 3, "transform": "tps"},
    ]
    configs += [make_config("mnist-e", "st-cnn", **change) for change in changes]
    for config in configs:
        arguments = arguments_of(config)
        args = parse(arguments)
        assert config_of(args, args.seed) == config, " ".join(arguments)


def test_python_dash_m(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    program = "import sys; sys.modules.update(dict.fromkeys(('accelerate', 'matplotlib', 'PIL', 'tqdm', 'sklearn')));"
    program += "from tstn import cli; sys.exit(cli.main(['reproduce', 'table1', '--list']))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": paths}, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert len(io.BytesIO(done.stdout).readlines()) == 32


def test_names_of_runs_are_as_documented() -> None:
    config = make_config("mnist-rts", "st-cnn", "tps", data="mnist", iterations=1500, lr=0.002)
    assert run_name(config) == "mnist-rts--mnist--st-cnn--tps--fast1500x256--lr0.002--seed0"
