"""House numbers and birds, from files in the formats in which they are distributed to a result."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate", reason="the GPU script runs the tests with pytest alone")

import photographs

from tstn import cli
from tstn.experiments import engine
from tstn.experiments.config import ExperimentError
from tstn.experiments.configs import make_config
from tstn.experiments.registry import EXPERIMENTS
from tstn.experiments.task import Shard
from tstn.models import GoogLeNet

TINY = {"iterations": 2, "batch_size": 2}


@pytest.fixture(scope="module")
def house_numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("svhn")
    box = (10.0, 8.0, 12.0, 20.0)
    for split, count in (("train", 6), ("extra", 4), ("test", 5)):
        numbers = [
            (f"{i + 1}.png", [(i + k) % 10 for k in range(1 + i % 3)], [box] * (1 + i % 3)) for i in range(count)
        ]
        photographs.write_house_numbers(root / split, numbers, (48, 40))
    return root


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("birds") / "CUB_200_2011"
    pictures = [(f"{i % 3 + 1:03}.Bird/Bird_{i}.jpg", i % 3 + 1, i < 4) for i in range(7)]
    photographs.write_birds(root, pictures, [(60 + 7 * i, 50 + 5 * i) for i in range(7)])
    return root


def config(experiment: str, model: str, **settings: Any) -> Any:
    options = {"width_percent": 3, **settings.pop("options", {})}
    return make_config(experiment, model, options=options, **{**TINY, **settings})


def train(config: Any, root: Path, folder: Path, workers: int = 0) -> engine.Outcome:
    setup = engine.Setup(folder, data_root=root, workers=workers)
    outcome = engine.train(config, setup, engine.make_accelerator("cpu", "fp32"))
    assert outcome is not None
    return outcome


@pytest.mark.parametrize("model", EXPERIMENTS["svhn"].models)
def test_loss_of_every_house_number_network_falls(model: str, house_numbers: Path, tmp_path: Path) -> None:
    settings = config(
        "svhn", model, iterations=20, batch_size=8, lr=3e-3, localization_lr=1.0, options={"validation": 2}
    )
    history = train(settings, house_numbers, tmp_path).history
    assert sum(history.loss[-5:]) < sum(history.loss[:5])
    assert len(history.theta[-1]) == {"cnn": 0, "st-single": 1, "st-multi": 4}[model]


@pytest.mark.long
@pytest.mark.parametrize(("model", "size"), [("cnn", None), ("2st-cnn", 224), ("4st-cnn", 448)])
def test_birds_train(model: str, size: int | None, birds: Path, tmp_path: Path) -> None:
    options = {"pretrained": 0} | ({} if size is None else {"size": size})
    # Of four photographs the loss falls soon enough.
    settings = config(
        "birds", model, iterations=20 if model != "4st-cnn" else 2, batch_size=4, lr=0.05, options=options
    )
    outcome = train(settings, birds, tmp_path)
    assert outcome.error <= 100
    if model == "4st-cnn":
        centres = outcome.history.theta[0][0][0, :, 1:]
        assert centres.tolist() == [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    else:
        assert sum(outcome.history.loss[-5:]) < sum(outcome.history.loss[:5])


def test_workers_read_what_the_process_itself_would(birds: Path) -> None:
    def batches(workers: int, start: int, shard: Shard) -> list[Any]:
        settings = config("birds", "cnn", options={"pretrained": 0})
        task = EXPERIMENTS["birds"].task(settings, birds, torch.device("cpu"), workers)
        return list(islice(task.batches(3, start, 4, shard), 3))

    plain = batches(0, 0, Shard())
    for other in (batches(1, 0, Shard()), [*plain[:2], batches(0, 2, Shard())[0]]):
        assert all(
            torch.equal(x, y) for one, two in zip(plain, other, strict=True) for x, y in zip(one, two, strict=True)
        )
    halves = [batches(0, 0, Shard(rank, 2))[0][0] for rank in range(2)]
    assert torch.equal(torch.cat(halves), plain[0][0])
    assert not torch.equal(plain[0][0], plain[1][0])


def test_pretrained_weights(birds: Path, tmp_path: Path) -> None:
    settings = config("birds", "cnn", iterations=1, options={"pretrained": 1})
    with pytest.raises(ExperimentError, match=r"googlenet\.pth is missing: put torchvision's pretrained googlenet"):
        train(settings, birds, tmp_path / "missing")
    path = birds / "googlenet.pth"
    try:
        weights = {name: value + 1 for name, value in GoogLeNet(10, width=0.03).state_dict().items()}
        torch.save(weights, path)
        setup = engine.Setup(tmp_path / "loaded", data_root=birds)
        run = engine.Run(settings, setup, engine.make_accelerator("cpu", "fp32"))
        assert torch.equal(run.raw.state_dict()["conv1.conv.weight"], weights["conv1.conv.weight"])
        path.write_bytes(b"nothing")
        with pytest.raises(ExperimentError, match=r"googlenet\.pth is not a state dict of torchvision's googlenet"):
            train(settings, birds, tmp_path / "damaged")
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("experiment", "damage", "message"),
    [
        ("svhn", "test/3.png", "3.png"),
        ("svhn", "train/digitStruct.mat", "digitStruct.mat"),
        ("birds", "images/002.Bird/Bird_1.jpg", "Bird_1.jpg"),
        ("birds", "train_test_split.txt", "train_test_split.txt"),
    ],
)
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_missing_or_damaged_file_is_named(
    experiment: str, damage: str, message: str, how: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: Any
) -> None:
    root: Path = request.getfixturevalue("house_numbers" if experiment == "svhn" else "birds")
    path, kept = root / damage, (root / damage).read_bytes()
    path.unlink()
    if how == "damaged":
        path.write_bytes(kept[: len(kept) // 2] if not damage.endswith(".txt") else b"nonsense\n")
    model = "cnn"
    arguments = ["train", experiment, "--model", model, "--width-percent", "3", "--batch-size", "2"]
    arguments += ["--validation", "2"] if experiment == "svhn" else ["--pretrained", "0"]
    arguments += ["--iterations", "4", "--device", "cpu", "--runs", str(tmp_path), "--results", str(tmp_path)]
    try:
        assert cli.main([*arguments, "--data-root", str(root)]) == 1
    finally:
        path.write_bytes(kept)
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said


def test_data_must_be_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for experiment in ("svhn", "birds"):
        arguments = ["train", experiment, "--model", "cnn", "--device", "cpu", "--runs", str(tmp_path)]
        assert cli.main([*arguments, "--results", str(tmp_path)]) == 1
        assert "error: --data-root must say where" in capsys.readouterr().err


def test_too_many_pictures_kept_out(house_numbers: Path, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="--validation: validation must be from 0 to 10"):
        train(config("svhn", "cnn"), house_numbers, tmp_path)
