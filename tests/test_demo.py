from __future__ import annotations

import json
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tstn
from tstn import data, demo

OPTIONS = ["--device", "cpu", "--iterations", "3", "--batch-size", "32"]


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "folder"
    assert demo.main([*OPTIONS, "--seed", "7", "--output", str(folder)]) == 0

    report = results(folder)
    assert report["data"] == "digits"
    assert report["settings"] == {"iterations": 3, "batch_size": 32, "seed": 7, "test_seed": demo.TEST_SEED}
    assert report["versions"]["tstn"] == tstn.__version__
    assert report["versions"]["torch"] == torch.__version__
    assert report["device"] == "cpu"
    assert report["backend"] == tstn.backend_for(torch.empty(0))
    assert {name: r["parameters"] for name, r in report["models"].items()} == {
        "FCN": 377866,
        "ST-FCN": 240304,
    }
    for result in report["models"].values():
        assert result["iteration"] == [1, 2, 3]
        assert len(result["train_loss"]) == len(result["test_error"]) == 3
        assert result["error"] == result["test_error"][-1]
        assert 50 < result["error"] <= 100
        assert result["seconds"] > 0

    picture = (folder / "demo.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">2I", picture[16:24])
    assert width == 1600
    assert 800 < height < 1400
    assert 20_000 < len(picture) < 2_000_000
    assert sorted(path.name for path in folder.iterdir()) == ["demo.png", "results.json"]

    printed = capsys.readouterr().out
    assert str(folder / "demo.png") in printed
    for name, result in report["models"].items():
        row = next(line for line in printed.splitlines() if line.startswith(f"{name} "))
        assert f"{result['error']:.2f} %" in row


def test_is_reproducible(tmp_path: Path) -> None:
    for name in "ab":
        demo.main([*OPTIONS, "--output", str(tmp_path / name)])
    first, second = (results(tmp_path / name)["models"]["ST-FCN"] for name in "ab")
    assert first["train_loss"] == second["train_loss"]
    assert first["test_error"] == second["test_error"]


def stop_training(monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException) -> None:
    """Make the distortion fail after it made the test set and ``after`` batches."""
    calls = 0

    def rts(images: Tensor, generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 1 + after:
            raise error
        return torch.zeros(len(images), 1, 42, 42)

    monkeypatch.setattr(data, "rts", rts)


def test_interrupt_keeps_the_finished_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_training(monkeypatch, 4, KeyboardInterrupt())
    assert demo.main([*OPTIONS, "--output", str(tmp_path)]) == 130
    assert list(results(tmp_path)["models"]) == ["FCN"]
    assert f"interrupted; FCN saved in {tmp_path / 'results.json'}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_interrupt_before_anything_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_training(monkeypatch, 1, KeyboardInterrupt())
    assert demo.main([*OPTIONS, "--output", str(tmp_path)]) == 130
    assert "nothing is saved" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_crash_keeps_the_finished_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_training(monkeypatch, 4, RuntimeError("crash"))
    with pytest.raises(RuntimeError, match="crash"):
        demo.main([*OPTIONS, "--output", str(tmp_path)])
    assert list(results(tmp_path)["models"]) == ["FCN"]


def test_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert demo.main([*OPTIONS, "--data", "mnist", "--data-root", str(tmp_path / "mnist")]) == 1
    assert "error: train-images-idx3-ubyte.gz could not be downloaded" in capsys.readouterr().err


def test_unusable_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert demo.main([*OPTIONS, "--output", str(tmp_path / "file")]) == 1
    assert "error: cannot write" in capsys.readouterr().err


def test_batch_larger_than_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--device", "cpu", "--batch-size", "1298"]) == 1
    assert "--batch-size must be at most 1297" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iterations", "0"], "must be a positive whole number; got '0'"),
        (["--batch-size", "many"], "must be a positive whole number; got 'many'"),
        (["--data", "letters"], "invalid choice"),
        (["--device", "nowhere"], "--device nowhere cannot be used"),
    ],
)
def test_wrong_options(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        demo.main(options)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_extras(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("matplotlib", "tqdm"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit):
        demo.main([])
    assert "the demo needs matplotlib and tqdm: pip install '.[demo]' in a checkout of tstn" in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        demo.main(["--help"])
    assert error.value.code == 0
    printed = capsys.readouterr().out
    for option in ("data", "data-root", "iterations", "batch-size", "seed", "output", "device"):
        assert f"--{option} " in printed


def test_imports_need_no_extras() -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('matplotlib', 'sklearn', 'tqdm')));"
        "import tstn, tstn.data, tstn.models, tstn.demo"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(demo.__file__).parents[1]).returncode == 0


def test_table_is_aligned() -> None:
    rows = demo.table({"FCN": demo.Result(1000, 9.5, 3.25), "ST-FCN": demo.Result(999, 10.25, 10.5)}, 1500)
    assert rows.splitlines() == [
        "        parameters  iterations  seconds  test error",
        "FCN          1,000       1,500      3.2      9.50 %",
        "ST-FCN         999       1,500     10.5     10.25 %",
    ]


@pytest.mark.parametrize(("fcn", "st_fcn"), [(0.0, 0.0), (90.0, 90.0), (20.0, 21.0), (80.0, 0.3)])
def test_picture_of_any_errors(fcn: float, st_fcn: float) -> None:
    networks = {name: make() for name, make in demo.MODELS.items()}
    curves = {
        name: demo.Result(1, error, 1.0, [1, 2], [2.0, 1.0], [90.0, error])
        for name, error in (("FCN", fcn), ("ST-FCN", st_fcn))
    }
    picture = demo.picture(networks, curves, torch.rand(12, 1, 42, 42), torch.arange(12) % 10, "noise")
    assert picture.startswith(b"\x89PNG")


def test_quadrilateral_of_the_identity_is_the_image_frame() -> None:
    corners = demo._to_pixels(tstn.Affine().corners(torch.eye(2, 3)), 42)
    assert corners.tolist() == [[-0.5, -0.5], [41.5, -0.5], [41.5, 41.5], [-0.5, 41.5]]
