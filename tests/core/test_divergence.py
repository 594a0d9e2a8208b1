"""The first difference of two recordings, and the cause that it tells."""

from __future__ import annotations

import math
from typing import Any

import pytest

from optstudy_core.instruments import first_difference


def row(step: int, **numbers: Any) -> dict[str, Any]:
    usual = {"lr": 0.1, "loss": 2.0, "grad_norm": 3.0, "step_size": 0.2, "param_norm": 5.0}
    return {"step": step, **usual, **numbers}


@pytest.mark.parametrize(
    ("numbers", "cause"),
    [
        ({"lr": 0.2, "loss": 1.0, "step_size": 0.3}, "the schedule"),
        ({"loss": 1.0, "grad_norm": 1.0, "step_size": 0.3}, "the data"),
        ({"grad_norm": 1.0, "step_size": 0.3}, "the backward pass"),
        ({"step_size": 0.3}, "the optimizer"),
        ({"param_norm": math.nan}, "the optimizer"),
    ],
)
def test_what_differs_first_tells_the_cause(numbers, cause):
    found = first_difference([row(1), row(2)], [row(1), row(2, **numbers)])
    assert (found.at, found.quantities, found.layers) == (2, list(numbers), {})
    assert found.cause.startswith(cause)


def test_what_both_have_is_compared():
    # NaN equals NaN; what one has not, texts and truth values are no numbers.
    one = row(1, angle=math.nan, note="a", skipped=True, only=1.0)
    assert first_difference([one], [row(1, angle=math.nan, note="b", skipped=False)]) is None
    assert first_difference([one, row(2)], [row(1, angle=math.nan)]) is None  # the common rows
    assert first_difference([{"epoch": 3, "loss": 1.0}], [{"epoch": 3, "loss": 2.0}]).at == 3


@pytest.mark.parametrize(("tolerance", "differs"), [(0.0, True), (0.9e-6, True), (1.1e-6, False)])
def test_a_relative_difference_may_be_allowed(tolerance, differs):
    found = first_difference([row(1)], [row(1, loss=2.0 * (1 + 1e-6))], tolerance=tolerance)
    assert (found is not None) == differs


def test_layers_are_compared_by_their_names():
    own = row(1, layers={"weight": {"grad_norm": 1.0}, "bias": {"grad_norm": 1.0}})
    its = row(1, layers={"kernel": {"grad_norm": 1.5}, "bias": {"grad_norm": 1.0}})
    assert first_difference([own], [its]) is None  # no layer "weight" there
    found = first_difference([own], [its], layers={"weight": "kernel", "bias": "bias"})
    assert found.layers == {"weight": ["grad_norm"]}
    assert found.quantities == []
    assert found.cause.startswith("the backward pass")


def test_rows_of_other_steps_are_refused():
    with pytest.raises(ValueError, match="step 2 of the first training is beside step 4"):
        first_difference([row(2)], [row(4)])
    with pytest.raises(ValueError, match="tolerance = -1"):
        first_difference([row(2)], [row(2)], tolerance=-1)
