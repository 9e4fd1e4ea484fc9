"""The tuner: it finds what is faster and right, and rewrites numbers and nothing else."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tstn
from bench import tune
from bench.config_rows import neighbours, rewritten, rows
from bench.workloads import WORKLOADS
from tstn import _configs
from tstn._backend import INTERPRETED

TABLE = '''"""Launch configurations: ½ frozen."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    tile_h: int
    block_c: int
    num_warps: int = 4  # a default


# Few channels: Config(tile_h=1) is no row.
FEW = Config(tile_h=16, block_c=8)  # 16 is not ½ of 8
MANY = Config(
    tile_h=8,
    block_c=64,  # wide
    num_warps=8,
)
LIMIT = 16


def choose(channels: int) -> Config:
    return FEW if channels <= LIMIT else Config(tile_h=8, block_c=8)
'''


def test_rows_are_the_named_configurations():
    found = rows(TABLE)
    assert {name: row.numbers for name, row in found.items()} == {
        "FEW": {"tile_h": 16, "block_c": 8},
        "MANY": {"tile_h": 8, "block_c": 64, "num_warps": 8},
    }


def test_the_librarys_own_table_is_read_as_it_is_imported():
    found = rows(Path(_configs.__file__).read_text())
    assert {name for name, row in vars(_configs).items() if isinstance(row, _configs.Config)} == found.keys()
    for name, row in found.items():
        assert {field: getattr(getattr(_configs, name), field) for field in row.numbers} == row.numbers


@pytest.mark.parametrize(
    "row", ["X = Config(16, 8)", "X = Config(tile_h=a)", "X = Config(tile_h=True)", "X = Config()"]
)
def test_a_row_of_anything_else_is_an_error(row: str):
    with pytest.raises(ValueError, match=r"X must be Config\(field=number, \.\.\.\)"):
        rows(row)


def test_only_numbers_are_rewritten():
    new = rewritten(TABLE, {"FEW": {"block_c": 128, "num_warps": 2}, "MANY": {"tile_h": 4}})
    expected = TABLE.replace("block_c=8)  # 16", "block_c=128, num_warps=2)  # 16").replace(
        "    tile_h=8,", "    tile_h=4,"
    )
    assert new == expected
    assert rewritten(TABLE, {}) == TABLE
    assert rewritten(TABLE, {"MANY": {"num_warps": 8}}) == TABLE


def test_the_librarys_own_table_survives():
    source = Path(_configs.__file__).read_text()
    name, row = next(iter(rows(source).items()))
    new = rewritten(source, {name: {"tile_h": 123}})
    assert rows(new)[name].numbers == row.numbers | {"tile_h": 123}
    assert rewritten(new, {name: {"tile_h": row.numbers["tile_h"]}}) == source


def test_neighbours_are_one_step_away_and_keep_lanes_busy():
    numbers = {"tile_h": 16, "tile_w": 8, "block_c": 4, "num_warps": 4, "maxnreg": None, "other": 3}
    found = list(neighbours(numbers))
    assert {**numbers, "tile_h": 32} in found
    assert {**numbers, "maxnreg": 128} in found
    assert all(sum(candidate[k] != numbers[k] for k in numbers) == 1 for candidate in found)
    assert all(candidate["other"] == 3 for candidate in found)
    # One value for each of 128 lanes: fewer values or more lanes would leave lanes idle.
    tight = list(neighbours({"tile_h": 16, "tile_w": 8, "block_c": 1, "num_warps": 4}))
    assert {c["num_warps"] for c in tight if c["num_warps"] != 4} == {2}
    assert all(
        math.prod(c[k] or 1 for k in ("tile_h", "tile_w", "block_c")) >= 128 for c in tight if c["num_warps"] == 4
    )
    assert not list(neighbours({"tile_h": 0, "tile_w": 0, "block_c": 0, "num_warps": 4}))


class Landscape:
    """Times that are least at one place; some numbers are wrong, some do not compile."""

    def __init__(self, block_c: int, num_warps: int):
        self.best = {"block_c": block_c, "num_warps": num_warps}
        self.asked: list[dict[str, int]] = []

    def __call__(self, name: str, numbers: dict[str, int], job: str) -> float:
        self.asked.append(numbers)
        return 1.0 + sum(abs(math.log2(numbers[field] / best)) for field, best in self.best.items())


def test_the_search_goes_to_the_top_and_the_table_follows(capsys: pytest.CaptureFixture[str]):
    users = {"FEW": ["a", "b"], "MANY": []}
    kept: list[str] = []
    (gain,) = tune.tune(TABLE, users, Landscape(64, 2), defaults={"num_warps": 4}, keep=kept.append)
    assert gain.changes == {"block_c": 64, "num_warps": 2}
    assert gain.seconds == {"a": (5.0, 1.0), "b": (5.0, 1.0)}
    assert gain.ratio == pytest.approx(5)
    assert kept == [TABLE.replace("block_c=8)  # 16", "block_c=64, num_warps=2)  # 16")]
    out = capsys.readouterr().out
    assert "FEW: block_c=64, num_warps=2 is 5.000x as fast" in out
    assert "MANY: no workload uses it" in out


def test_what_is_wrong_or_fails_is_not_taken():
    def timer(name: str, numbers: dict[str, int], job: str) -> float:
        # Larger is faster, and wrong.
        return math.inf if numbers["block_c"] > 8 else 1.0 / numbers["block_c"]

    kept: list[str] = []
    (gain,) = tune.tune(TABLE, {"FEW": ["a"]}, timer, keep=kept.append)
    assert not gain.changes
    assert gain.tried > 0
    assert kept == [TABLE]


def test_what_helps_a_few_jobs_has_to_hold_for_all():
    jobs = [f"job {i}" for i in range(4 * tune.FEW_JOBS)]
    judges = jobs[::4]

    def timer(name: str, numbers: dict[str, int], job: str) -> float:
        return numbers["block_c"] / 8 if job not in judges else 8 / numbers["block_c"]

    (gain,) = tune.tune(TABLE, {"FEW": jobs}, timer)
    assert not gain.changes
    assert gain.tried > 0


def test_noise_is_no_gain():
    (gain,) = tune.tune(TABLE, {"FEW": ["a"]}, lambda name, numbers, job: 1.0 - 1e-5 * (numbers["block_c"] or 0))
    assert not gain.changes


def test_a_table_that_is_wrong_is_an_error():
    with pytest.raises(RuntimeError, match="FEW, as it is in the table, fails or is wrong on a"):
        tune.tune(TABLE, {"FEW": ["a"]}, lambda *_: math.inf)


def test_out_of_time_nothing_begins():
    landscape = Landscape(64, 2)
    gains = tune.tune(TABLE, {"FEW": ["a"], "MANY": ["a"]}, landscape, out_of_time=lambda: True)
    assert not gains
    assert not landscape.asked


def test_only_the_rows_asked_for():
    gains = tune.tune(TABLE, {"FEW": ["a"], "MANY": ["a"]}, Landscape(8, 8), ["MANY"], defaults={"num_warps": 4})
    assert [gain.name for gain in gains] == ["MANY"]
    with pytest.raises(ValueError, match="rows must be some of FEW, MANY; got NONE"):
        tune.tune(TABLE, {}, Landscape(8, 8), ["NONE"])


@pytest.fixture
def bench() -> tune.Bench:
    """The library's own kernels, with a made-up clock."""
    tiny = next(w for w in WORKLOADS if w.name == "cluttered")
    tiny = replace(tiny, shape=(2, 1, 20, 20), size=(10, 10))
    return tune.Bench({"tiny step": (tiny, "step")}, "cpu", lambda run: [1.0, 2.0, 4.0])


def test_a_candidate_reaches_the_kernels_and_is_checked(bench: tune.Bench, capsys: pytest.CaptureFixture[str]):
    row = "INTERPRETER" if INTERPRETED else "CPU_PIXELS_1"

    def numbers() -> dict[str, Any]:
        return {field.name: getattr(getattr(_configs, row), field.name) for field in fields(_configs.Config)}

    before = numbers()
    with tstn.backend("triton"):
        users = bench.users()
        assert users[row] == ["tiny step"]
        assert bench(row, {"tile_h": 16}, "tiny step") == 2.0
        # No power of two: it does not compile.
        assert bench(row, {"tile_h": 15}, "tiny step") == math.inf
        assert "tile_h=15 on tiny step: " in capsys.readouterr().out
        unused = next(name for name in rows(Path(_configs.__file__).read_text()) if name not in users)
        with pytest.raises(tune.StaleRowError, match=f"does not read {unused}"):
            bench(unused, {"tile_h": 16}, "tiny step")
    assert numbers() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_nothing_is_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert tune.main(["--write", str(tmp_path / "table.py")]) == 2
    assert "needs a GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
