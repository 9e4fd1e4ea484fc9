"""Results as JSON, and the page that is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tstn.experiments import paper, plans, results, tables
from tstn.experiments.config import Config, ExperimentError
from tstn.experiments.configs import make_config, run_name
from tstn.experiments.history import History, Outcome
from tstn.experiments.registry import EXPERIMENTS

ROOT = Path(__file__).parents[1]


def result(config: Config, error: float = 1.5) -> results.Result:
    history = History([1, 2], [2.0, 1.23456789], [0.1, 0.1], [0.5, 1.0], [None, error])
    return results.record(config, Outcome(error, 1234, 12.34, history), torch.device("cpu"), 1)


def on_mnist(experiment: str, model: str, transform: str | None = None, **settings: Any) -> Config:
    return make_config(experiment, model, transform, data="mnist", **settings)


def test_a_result_says_how_it_came_about(tmp_path: Path) -> None:
    config = on_mnist("mnist-r", "st-cnn", "tps", seed=3)
    written = result(config)
    path = results.write(tmp_path, written)
    assert path.name == f"{run_name(config)}.json"
    read = results.read(path)
    assert read == written
    assert Config.from_dict(read["config"]) == config
    assert read["versions"]["torch"] == torch.__version__
    assert read["curve"] == {"iteration": [2], "loss": [1.23457], "error": [1.5]}
    assert str(Path.home()) not in path.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 0}, "schema must be 1; got 0"),
        ({"error": "low"}, "error must not be 'low'"),
        ({"extra": 1}, "must have the keys"),
        ({"config": {}}, "not a configuration of this version"),
        ({"config": None}, "config must not be None"),
    ],
)
def test_what_is_no_result_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = results.write(tmp_path, result(on_mnist("mnist-r", "fcn")))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ExperimentError, match=f"{path.name} is not a result: .*{message}"):
        results.read_all(tmp_path)


def test_results_that_were_renamed_are_refused(tmp_path: Path) -> None:
    path = results.write(tmp_path, result(on_mnist("mnist-r", "fcn")))
    path.rename(tmp_path / "other.json")
    with pytest.raises(ExperimentError, match="is not the run that the file is named after"):
        results.read_all(tmp_path)


def cells(page: str, row: str, section: str) -> list[str]:
    (part,) = [part for part in page.split("\n## ") if part.startswith(section)]
    (line,) = [line for line in part.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_cells_that_were_not_run_are_empty() -> None:
    page = tables.page([])
    assert cells(page, "ST-CNN TPS", "Distorted MNIST") == ["ST-CNN TPS", "0.7", "", "0.5", "", "0.8", "", "1.1", ""]
    assert cells(page, "digit 3", "Co-localisation")[1:] == ["100.0", "", "75.0", ""]
    assert cells(page, "4xST-CNN 448 px", "CUB")[1:] == ["84.1", ""]


def test_cells_are_means_over_seeds_of_the_longest_runs() -> None:
    runs = [
        result(on_mnist("mnist-rts", "st-fcn", "tps", iterations=100), 9.0),
        *(result(on_mnist("mnist-rts", "st-fcn", "tps", iterations=200, seed=k), 2.0 + k) for k in range(3)),
        # None of these is the paper's: another transform, other data, another padding.
        result(on_mnist("mnist-rts", "st-fcn", "similarity", iterations=900), 0.1),
        result(make_config("mnist-rts", "st-fcn", "tps", iterations=900), 0.1),
        result(on_mnist("mnist-rts", "st-fcn", "tps", iterations=900, options={"padding_mode": "border"}), 0.1),
        result(on_mnist("coloc", "st", options={"digit": 4}), 2.0),
        result(on_mnist("coloc", "st", options={"digit": 4, "distractors": 16}), 30.0),
    ]
    page = tables.page(runs)
    number = cells(page, "ST-FCN TPS", "Distorted MNIST")[4]
    assert number.startswith("3.00 after 200 [")
    assert page.count("0.10 after") == 0
    digit = cells(page, "digit 4", "Co-localisation")
    assert (digit[2][:9], digit[4][:9]) == ("98.00 aft", "70.00 aft")
    row = cells(page, number.partition("[")[2].rstrip("]"), "All runs")
    assert row[1:9] == [
        "mnist-rts",
        "st-fcn tps",
        "mnist",
        "1,234",
        "200 x 256, fast",
        "0, 1, 2",
        "3.00 (2.00 to 4.00)",
        "12",
    ]


def test_every_cell_of_the_paper_is_an_experiment_of_ours() -> None:
    planned = {
        (c.experiment, c.model, c.transform, json.dumps(c.options, sort_keys=True))
        for plan in ("table1", "tc", "addition", "coloc", "svhn", "birds")
        for c in plans.configs(plan, 1, "mnist", "fast")
    }
    wanted = set()
    for table in paper.TABLES.values():
        for row in table.rows.values():
            assert len(row) == len(table.columns)
            for cell in row:
                assert cell is not None
                settings = {"options": cell.options}
                transform = None if cell.transform == "none" else cell.transform
                c = make_config(cell.experiment, cell.model, transform, **settings)
                wanted.add((c.experiment, c.model, c.transform, json.dumps(c.options, sort_keys=True)))
    assert wanted == planned


def test_the_page_in_the_documentation_is_made_of_the_results() -> None:
    page = tables.page(results.read_all(ROOT / "experiments" / "results"))
    assert (ROOT / "docs" / "results.md").read_text() == page, (
        "tstn results experiments/results --output docs/results.md"
    )


def test_names_tell_configurations_apart() -> None:
    configs = [c for plan in plans.PLANS for c in plans.configs(plan, 2, "mnist", "fast")]
    for changes in ({"lr": 0.1}, {"decay": (0.5,)}, {"precision": "bf16"}, {"compile": True}, {"log_every": 7}):
        configs.append(make_config("mnist-r", "fcn", **changes))
    different = {json.dumps(c.to_dict(), sort_keys=True) for c in configs}
    assert len({run_name(c) for c in configs}) == len(different)
    assert all("/" not in run_name(c) for c in configs)
    assert {c.experiment for c in configs} == set(EXPERIMENTS)
