"""A sample of the tests in Triton's interpreter: every kernel, and the orders of programs that are made by hand there.

What runs it is Triton's own, so that a mistake of ``tstn_cpu`` would show as a difference.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tstn._backend import INTERPRETED

TESTS = Path(__file__).parent
# Halves that take as long as each other, for two processes, and how many tests they have at least and at most.
SAMPLES = {
    "gradients": (
        20,
        75,
        "test_gather.py::test_no_order_of_programs_changes_a_bit",
        "test_kernels.py::test_no_access_out_of_bounds",
        "test_kernels.py::test_bad_index_reads_nothing",
    ),
    "paths": (
        20,
        75,
        "test_determinism.py::test_no_order_of_programs_changes_a_bit",
        "test_determinism.py::test_the_order_of_programs_matters_without_determinism",
        "test_spatial_transform.py::test_broadcasting",
        "test_determinism.py::test_every_path_repeats_and_agrees_with_the_oracle[interpreter-spline_lattice-bilinear]",
        "test_determinism.py::test_every_path_repeats_and_agrees_with_the_oracle[interpreter-projective-bicubic]",
        "test_determinism.py::test_every_path_repeats_and_agrees_with_the_oracle[interpreter-flow-nearest]",
        "test_custom.py::test_what_looks_at_nothing_has_no_gradient",
    ),
}


@pytest.mark.long
@pytest.mark.skipif(INTERPRETED, reason="runs the interpreter")
@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_in_the_interpreter(name: str) -> None:
    least, most, *sample = SAMPLES[name]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:benchmark", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        [*command, "-k", "interpreter", *(str(TESTS / test) for test in sample)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=TESTS.parent,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert least <= int(passed[1]) <= most
