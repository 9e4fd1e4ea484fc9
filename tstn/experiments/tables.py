"""The documentation's page of results, made from JSON: the paper's tables and ours side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from tstn.experiments.config import Config
from tstn.experiments.experiment import default_options
from tstn.experiments.paper import TABLES, Cell, Table
from tstn.experiments.registry import EXPERIMENTS
from tstn.experiments.results import Result

HEAD = """\
# Results

Made by `tstn results experiments/results --output docs/results.md`; do not edit. Each cell has the paper's number and
then ours: the mean over seeds, after how many batches (the paper trains for 150,000 and more), and in brackets the row
of [All runs](#all-runs) that says how it came about. Where there are several, the longest training stands here, then
the one with most seeds, then the one with most weights. A cell without a number of ours was not run; nothing is
estimated.

The paper's numbers are from notes on it that agree with each other, and from its text. Less sure than the others are
addition's ST-FCN TPS and the digits of co-localisation.
"""
# Data of which a result may stand beside the paper's.
SAME_DATA = ("mnist", "svhn", "cub")


class Group(NamedTuple):
    """Runs that differ in nothing but their seeds."""

    number: int
    config: Config
    results: list[Result]

    @property
    def error(self) -> float:
        """Mean test error, percent."""
        return sum(r["error"] for r in self.results) / len(self.results)


def grouped(results: Sequence[Result]) -> list[Group]:
    """Runs by configuration, experiments in the paper's order, short runs first."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        key = json.dumps({**result["config"], "seed": None}, sort_keys=True)
        groups.setdefault(key, []).append(result)
    names = list(EXPERIMENTS)

    def order(runs: list[Result]) -> tuple[Any, ...]:
        config = runs[0]["config"]
        models = list(EXPERIMENTS[config["experiment"]].models)
        return (
            names.index(config["experiment"]),
            config["data"],
            config["recipe"]["iterations"],
            models.index(config["model"]),
            config["transform"],
            json.dumps(config["options"], sort_keys=True),
        )

    ordered = sorted(groups.values(), key=order)
    return [
        Group(number, Config.from_dict(runs[0]["config"]), sorted(runs, key=lambda r: r["config"]["seed"]))
        for number, runs in enumerate(ordered, start=1)
    ]


def page(results: Sequence[Result]) -> str:
    """The page, in Markdown."""
    groups = grouped(results)
    parts = [HEAD]
    parts += [_table(table, groups) for table in TABLES.values()]
    parts.append(_all_runs(groups))
    return "\n".join(parts)


def _table(table: Table, groups: list[Group]) -> str:
    what = "Accuracy" if table.accuracy else "Test error"
    heads = [f"{column}, {whose}" for column in table.columns for whose in ("paper", "ours")]
    lines = [f"## {table.title}", "", f"{what} in percent.", "", *_row("", *heads), _rule(1 + len(heads))]
    for row, cells in table.rows.items():
        shown: list[str] = []
        for cell in cells:
            shown += ["", ""] if cell is None else [_paper(cell, table), _ours(cell, table, groups)]
        lines += _row(row, *shown)
    return "\n".join([*lines, ""])


def _paper(cell: Cell, table: Table) -> str:
    if cell.paper is None:
        return ""
    return f"{100 - cell.paper if table.accuracy else cell.paper:.1f}"


def _ours(cell: Cell, table: Table, groups: list[Group]) -> str:
    fitting = [group for group in groups if _fits(group.config, cell)]
    if not fitting:
        return ""
    best = max(fitting, key=lambda g: (g.config.recipe.iterations, len(g.results), g.results[0]["parameters"]))
    value = 100 - best.error if table.accuracy else best.error
    return f"{value:.2f} after {best.config.recipe.iterations:,} [{best.number}]"


def _fits(config: Config, cell: Cell) -> bool:
    if config.data not in SAME_DATA or (config.experiment, config.model) != (cell.experiment, cell.model):
        return False
    if config.transform != cell.transform:
        return False
    # Any width will do: the paper has a range of them.
    expected = {**default_options(EXPERIMENTS[config.experiment], config.model), **cell.options}
    return all(value == expected[name] for name, value in config.options.items() if name != "width")


def _all_runs(groups: list[Group]) -> str:
    lines = [
        "## All runs",
        "",
        "Error in percent; seconds are one run's training. An asterisk marks modified code.",
        "",
    ]
    heads = ["experiment", "network", "data", "weights", "training", "seeds", "error", "seconds"]
    heads += ["machine", "date", "commit"]
    lines += [*_row("", *heads), _rule(1 + len(heads))]
    for number, config, runs in groups:
        recipe = config.recipe
        network = config.model if config.transform == "none" else f"{config.model} {config.transform}"
        defaults = default_options(EXPERIMENTS[config.experiment], config.model)
        network += "".join(f", {k.replace('_', ' ')} {v}" for k, v in config.options.items() if v != defaults[k])
        errors = [run["error"] for run in runs]
        spread = f" ({min(errors):.2f} to {max(errors):.2f})" if len(runs) > 1 else ""
        seconds = [run["seconds"] for run in runs]
        lines += _row(
            str(number),
            config.experiment,
            network,
            config.data,
            f"{runs[0]['parameters']:,}",
            f"{recipe.iterations:,} x {recipe.batch_size}, {config.schedule}",
            ", ".join(str(run["config"]["seed"]) for run in runs),
            f"{sum(errors) / len(errors):.2f}{spread}",
            f"{sum(seconds) / len(seconds):,.0f}",
            _distinct(run["machine"] for run in runs),
            _distinct(run["date"] for run in runs),
            _distinct(_commit(run) for run in runs),
        )
    return "\n".join([*lines, ""])


def _commit(run: Result) -> str:
    return "" if run["commit"] is None else run["commit"][:10] + "*" * bool(run["modified"])


def _distinct(values: Any) -> str:
    return "; ".join(dict.fromkeys(values))


def _row(*cells: str) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _rule(columns: int) -> str:
    return "|" + "---|" * columns
