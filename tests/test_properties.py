"""Random configurations again, by hypothesis, which shrinks a failing one."""

import dataclasses
import random

import cases
import pytest

pytest.importorskip("hypothesis", reason="the GPU script runs the tests with pytest alone")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), change=st.data())
def test_properties_of_any_configuration(place, seed, change):
    """A smaller failing configuration is searched for along the options that matter most."""
    case = dataclasses.replace(
        cases.draw(random.Random(seed)),
        channels=change.draw(st.integers(1, 5)),
        batch=change.draw(st.integers(1, 3)),
        input_size=change.draw(st.tuples(st.integers(1, 7), st.integers(1, 7))),
        cut=change.draw(st.booleans()),
    )
    cases.check(case, place.device)
