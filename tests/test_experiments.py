"""Every network of the paper trains, by the engine that the command line uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tstn
from tstn import data

pytest.importorskip("accelerate", reason="the GPU script runs the tests with pytest alone")

from accelerate.state import AcceleratorState

from tstn.experiments import digits, engine
from tstn.experiments.config import Config, ExperimentError, Recipe
from tstn.experiments.configs import make_config
from tstn.experiments.history import History
from tstn.experiments.optim import lr_factor, make_optimizer, set_lr
from tstn.experiments.registry import EXPERIMENTS, TRANSFORMS
from tstn.experiments.task import Order, Shard

ON_DIGITS = [
    (name, model)
    for name, experiment in EXPERIMENTS.items()
    if "digits" in experiment.data and name != "coloc"
    for model in experiment.models
]


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hundred images to train on, sixty to test on."""
    whole = data.load_digits()
    few = data.Digits(*(t[: 300 if i < 2 else 60] for i, t in enumerate(vars(whole).values())))
    monkeypatch.setattr(digits, "load", lambda name, root, device: few.to(device))


@pytest.fixture
def _fresh_accelerator() -> Iterator[None]:
    """For tests that need another precision: accelerate allows one per process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def small(experiment: str, model: str, transform: str | None = None, **settings: Any) -> Config:
    if "width" in EXPERIMENTS[experiment].models[model].options:
        settings["options"] = {"width": 24 if "fcn" in model else 6, **settings.get("options", {})}
    return make_config(experiment, model, transform, **{"iterations": 20, "batch_size": 60, "lr": 3e-3, **settings})


def train(config: Config, folder: Path, **setup: Any) -> engine.Outcome:
    accelerator = engine.make_accelerator("cpu", config.precision)
    outcome = engine.train(config, engine.Setup(folder, **setup), accelerator)
    assert outcome is not None
    return outcome


def falls(history: History) -> bool:
    """Whether the loss of the last quarter is below that of the first."""
    quarter = len(history.loss) // 4
    return sum(history.loss[-quarter:]) < sum(history.loss[:quarter])


@pytest.mark.parametrize(("experiment", "model"), ON_DIGITS)
def test_loss_of_every_network_falls(experiment: str, model: str, tmp_path: Path) -> None:
    outcome = train(small(experiment, model), tmp_path)
    assert len(outcome.history.loss) == 20
    assert falls(outcome.history)
    assert 0 < outcome.error <= 100
    assert outcome.parameters > 1000


@pytest.mark.parametrize("model", ["st-fcn", "st-cnn"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_loss_of_every_transform_falls(transform: str, model: str, tmp_path: Path) -> None:
    history = train(small("mnist-r", model, transform), tmp_path).history
    assert falls(history)
    first, last = history.theta[0][0], history.theta[-1][0]
    expected = digits_transform(transform).theta(digits_transform(transform).identity_parameters())
    assert torch.equal(first[0, 0], expected)
    assert not torch.equal(first, last)


def digits_transform(name: str) -> tstn.Transform:
    return tstn.ThinPlateSpline((4, 4)) if name == "tps" else tstn.transforms.as_transform(name)


@pytest.mark.parametrize("transform", ["affine", "projective", "tps"])
def test_kernels_train_as_plain_pytorch_does(
    transform: str, kernel_place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel_place.device != "cpu":
        pytest.skip("the engine's own device is tested here")
    # The interpreter has little time for anything but the steps.
    few = digits.load("digits", None, torch.device("cpu"))
    few = dataclasses.replace(few, test_images=few.test_images[:4], test_labels=few.test_labels[:4])
    monkeypatch.setattr(digits, "load", lambda name, root, device: few)
    monkeypatch.setattr(engine, "SNAPSHOTS", 1)
    config = small("mnist-r", "st-fcn", transform, batch_size=4, lr=1e-3)
    config = dataclasses.replace(config, evaluations=1)
    fused = train(config, tmp_path / "kernels").history
    with tstn.backend("torch"):
        plain = train(config, tmp_path / "plain").history
    torch.testing.assert_close(torch.tensor(fused.loss), torch.tensor(plain.loss), rtol=1e-3, atol=1e-3)


def test_colocalization_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tstn.experiments import colocalization

    monkeypatch.setattr(colocalization, "ENCODER_ITERATIONS", 30)
    monkeypatch.setattr(digits, "load", lambda name, root, device: data.load_digits())
    outcome = train(small("coloc", "st", batch_size=10, iterations=40, options={"digit": 3}), tmp_path)
    assert falls(outcome.history)
    assert outcome.parameters == 5947


def test_same_configuration_same_numbers(tmp_path: Path) -> None:
    config = small("mnist-rts", "st-cnn", "tps")
    first, second = (train(config, tmp_path / name).history for name in "ab")
    assert first.loss == second.loss
    other = train(dataclasses.replace(config, seed=1), tmp_path / "c").history
    assert first.loss != other.loss


def task_of(name: str) -> Any:
    model = next(iter(EXPERIMENTS[name].models))
    return EXPERIMENTS[name].task(small(name, model), None, torch.device("cpu"), 0)


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if "digits" in EXPERIMENTS[name].data])
def test_batches_are_functions_of_seed_and_iteration(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if experiment == "coloc":
        monkeypatch.setattr(digits, "load", lambda name, root, device: data.load_digits())
    task = task_of(experiment)
    whole = list(islice(task.batches(7, 0, 24, Shard()), 15))
    (later,) = islice(task.batches(7, 14, 24, Shard()), 1)
    assert all(map(torch.equal, later, whole[14]))
    shares = [next(task.batches(7, 3, 24, Shard(rank, 3))) for rank in range(3)]
    assert all(map(torch.equal, map(torch.cat, zip(*shares, strict=True)), whole[3]))
    assert not torch.equal(whole[0][0], next(task.batches(8, 0, 24, Shard()))[0])


def test_a_pass_has_every_sample_once() -> None:
    order = Order(100, 30, seed=5)
    one, other = (torch.cat([order[3 * number + k] for k in range(3)]) for number in (0, 1))
    assert len(one.unique()) == len(other.unique()) == 90
    assert not torch.equal(one, other)
    assert torch.equal(Order(100, 30, seed=5)[4], other[30:60])


def test_shards_of_the_test_set_add_up(tmp_path: Path) -> None:
    task = task_of("mnist-r")
    model = EXPERIMENTS["mnist-r"].models["fcn"].make(small("mnist-r", "fcn")).eval()
    with torch.no_grad():
        whole = task.count_wrong(model, Shard())
        shares = sum(task.count_wrong(model, Shard(rank, 4)) for rank in range(4))
    assert torch.equal(whole, shares)
    assert whole[1] == 60
    assert task.count_wrong(model, Shard(), limit=10)[1] == 10


def test_learning_rates() -> None:
    recipe = Recipe(iterations=100, batch_size=1, lr=0.5, decay=(0.2, 0.6), localization_lr=0.1)
    assert [lr_factor(recipe, i) for i in (0, 19, 20, 59, 60, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = dataclasses.replace(recipe, decay=())
    assert [lr_factor(cosine, i) for i in (0, 50, 100)] == pytest.approx([1, 0.5, 0])
    network = EXPERIMENTS["mnist-r"].models["st-fcn"].make(small("mnist-r", "st-fcn"))
    optimizer = make_optimizer(network, recipe)
    set_lr(optimizer, recipe, 30)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates == {
        id(p): pytest.approx(0.005 if "localization" in name else 0.05) for name, p in network.named_parameters()
    }


@pytest.mark.parametrize(
    ("schedule", "settings"),
    [("paper", {"lr": 0.1}), ("fast", {"weight_decay": 1e-3, "localization_lr": 0.1}), ("fast", {"clip_grad": 0.01})],
)
def test_recipes(schedule: str, settings: dict[str, Any], tmp_path: Path) -> None:
    config = small("mnist-r", "st-fcn", schedule=schedule, **settings)
    assert config.recipe.optimizer == ("sgd" if schedule == "paper" else "adam")
    plain = train(small("mnist-r", "st-fcn", schedule=schedule, lr=config.recipe.lr), tmp_path / "plain")
    outcome = train(config, tmp_path / "changed")
    assert falls(outcome.history)
    assert (outcome.history.loss == plain.history.loss) == (settings == {"lr": 0.1})


@pytest.mark.usefixtures("_fresh_accelerator")
def test_bfloat16(tmp_path: Path) -> None:
    config = small("mnist-r", "st-cnn", precision="bf16")
    outcome = train(config, tmp_path)
    assert falls(outcome.history)
    assert outcome.history.theta[-1][0].dtype == torch.float32


def test_compiled(tmp_path: Path, compile_cheaply: None) -> None:
    plain = train(small("mnist-r", "st-fcn"), tmp_path / "plain").history
    compiled = train(small("mnist-r", "st-fcn", compile=True), tmp_path / "compiled").history
    torch.testing.assert_close(torch.tensor(compiled.loss), torch.tensor(plain.loss), rtol=1e-4, atol=1e-4)


@pytest.fixture
def compile_cheaply(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The compiler without code generation."""
    compile: Callable[..., Any] = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode: compile(model, backend="aot_eager"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_dropout_draws_the_same_masks_again() -> None:
    network = nn.Dropout(0.5)

    def masks(iteration: int, rank: int) -> Tensor:
        torch.manual_seed(engine.derived_seed(0, "step", iteration, rank))
        return network(torch.ones(100))

    assert torch.equal(masks(3, 0), masks(3, 0))
    assert not torch.equal(masks(3, 0), masks(4, 0))
    assert not torch.equal(masks(3, 0), masks(3, 1))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"the loss became nan at iteration \d+: try --clip-grad"):
        train(small("mnist-r", "st-fcn", schedule="paper", lr=1e30), tmp_path)


@pytest.mark.parametrize(
    ("world", "size", "message"),
    [
        (3, 32, "--batch-size must be a multiple of the 3 processes; got 32"),
        (1, 301, "--batch-size must be at most 300"),
    ],
)
def test_impossible_batches(world: int, size: int, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        next(task_of("mnist-r").batches(0, 0, size, Shard(0, world)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experiment": "mnist-x"}, "experiment must be one of mnist-r, "),
        ({"model": "rnn"}, "--model of mnist-r must be one of fcn, cnn, st-fcn, st-cnn; got 'rnn'"),
        ({"model": "fcn", "transform": "tps"}, "--model fcn has no transformer: leave --transform out"),
        ({"transform": "swirl"}, "--transform of mnist-r's st-fcn must be one of affine, "),
        ({"data": "letters"}, "--data of mnist-r must be one of digits, mnist; got 'letters'"),
        ({"schedule": "slow"}, "--schedule must be one of fast, paper; got 'slow'"),
        ({"options": {"digit": 3}}, "--digit is not an option of mnist-r's st-fcn; got 3"),
        ({"options": {"align_corners": 2}}, "--align-corners must be one of 0, 1; got 2"),
        ({"options": {"width": -1}}, "--width must be a positive whole number; got -1"),
        ({"momentum": 0.9}, "momentum is SGD's; got 0.9 with optimizer='adam'"),
        ({"iterations": 0}, "iterations must be positive; got 0"),
    ],
)
def test_wrong_configurations(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        make_config(**{"experiment": "mnist-r", "model": "st-fcn", **settings})


def test_devices_that_are_not_there() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ExperimentError, match=r"--device cuda cannot be used: PyTorch .* finds none but the CPU"):
            engine.make_accelerator("cuda", "fp32")
    with pytest.raises(ExperimentError, match="--precision fp16 needs a GPU"):
        engine.make_accelerator("cpu", "fp16")
