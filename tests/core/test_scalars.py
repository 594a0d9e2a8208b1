"""The scalars that update rules carry, in float32 against what they stand for in double."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import optstudy_torch
from optstudy_core import nadam, namespace, radam
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_core.parts.momentum_schedule import share

ULP = 2.0**-24  # half a unit in the last place of a float32 from 1 to 2, relative
DECAYS = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)


@pytest.mark.parametrize("b2", [b for b in DECAYS if b >= 0.9])
def test_radam_rectifies_from_step_six_on_in_float32(b2: float) -> None:
    """optax's ρ cancels in float32, and rectifies at step 1 for β₂ = 0.99999."""
    state, exact = (radam.init(np.zeros(1, d)) for d in (np.float32, np.float64))
    with np.errstate(invalid="ignore"):  # the root that is not used before step 6
        for t in range(1, 60):
            g = np.array([1.0 + t % 3])
            state, step = radam.update(state, g.astype(np.float32), b1=0.0, b2=b2, lr=1.0)
            exact, wanted = radam.update(exact, g, b1=0.0, b2=b2, lr=1.0)
            assert (step[0] == -g[0]) == (t < 6)
            # r is a root of a quotient of six factors, each with its rounding.
            assert abs(float(step[0]) / wanted[0] - 1) < 12 * ULP


@pytest.mark.parametrize("psi", [1e-9, 1e-3, 4e-3, 0.3, 1.0, 7.3, 20.0, 61.7, 200.0, 1e3, 1e9])
def test_the_share_of_the_momentum_schedule(psi: float) -> None:
    rate = 0.04082199452025513  # −ln 0.96; the logarithm of the double 0.96 is another
    exact = -math.expm1(-psi * rate)
    # Measured over 2000 values of ψ: 5.7 units in double, 5.1 in float32.
    assert abs(share(psi) / exact - 1) < 8 * 2.0**-53


def test_nadams_product_in_float32() -> None:
    """After 100 steps it is where torch's is, and in the end it is 0."""
    state, exact = nadam.init(np.zeros(1, np.float32)), 1.0
    for t in range(1, 101):
        state, _ = nadam.update(state, np.ones(1, np.float32))
        exact *= 0.9 * (1 - 0.5 * 0.96 ** (t * 0.004))
        assert abs(float(state.product) / exact - 1) < (2 * t + 2) * ULP  # two roundings a step
    assert state.product.dtype == np.float32


def test_rprops_tuples_live_in_the_group_and_in_a_saved_state() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = optstudy_torch.Rprop([p], etas=(0.4, 1.5), step_sizes=(1e-3, 0.3))
    assert optimizer.param_groups[0]["etas"] == (0.4, 1.5)
    for g in (1.0, 1.0, -1.0):
        p.grad = torch.full((2,), g)
        optimizer.step()
    other = optstudy_torch.Rprop([torch.nn.Parameter(p.detach().clone())])
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["step_sizes"] == (1e-3, 0.3)
    q = other.param_groups[0]["params"][0]
    for x, opt in ((p, optimizer), (q, other)):
        x.grad = torch.full((2,), -1.0)
        opt.step()
    assert torch.equal(p, q)


class Counting(NumPy):
    """NumPy, and how often it was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def apply(self, operation: str, *args: Any) -> Any:
        self.calls.append(operation)
        return super().apply(operation, *args)


def test_scalars_of_many_leaves_cost_one_call() -> None:
    backend = Counting()
    t = Leaves([np.float32(i) for i in range(50)], backend)
    x = Leaves([np.full(3, i, np.float32) for i in range(50)], backend)
    rate = 1 / namespace(t).sqrt(t + 1)
    assert backend.calls == ["add", "sqrt", "divide"]
    assert [y.dtype for y in rate.values] == [np.float32] * 50
    roots = [1 / np.sqrt(np.float32(i + 1)) for i in range(50)]
    assert np.array_equal(rate.values, roots)
    step = rate * x  # arrays are computed each on its own
    assert backend.calls[3:] == ["multiply"] * 50
    assert step.values[8].tolist() == [8 * np.float32(1 / 3)] * 3


def test_scalars_of_several_dtypes_keep_theirs() -> None:
    tree = Leaves([np.float32(2.0), np.float64(2.0)], NumPy())
    root = namespace(tree).sqrt(tree)
    assert [x.dtype for x in root.values] == [np.float32, np.float64]
    assert root.values[0] == np.sqrt(np.float32(2.0))
    assert root.values[1] == np.sqrt(2.0)


def test_scalars_of_trees_that_do_not_match_are_refused() -> None:
    two, three = (Leaves([np.float32(1.0)] * n, NumPy()) for n in (2, 3))
    with pytest.raises(ValueError, match=r"add of trees with \[2, 3\] leaves"):
        (two + 1) + (three + 1)
