"""Clipping as a wrapper: what the state tells of it, and that the algorithm sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import optstudy_torch
from optstudy_core import (
    ALGORITHMS,
    averaged,
    clipped,
    clipped_by_unit,
    clipped_by_value,
    eval_params,
    lookahead,
)
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numpy_backend import NumPy


def tree(*leaves: Any) -> Leaves:
    return Leaves([np.float32(x) for x in leaves], NumPy())


def test_the_norm_is_that_of_all_leaves() -> None:
    rule = clipped(ALGORITHMS["sgd"])
    g = tree([3.0, 0.0], 4.0)
    state, step = rule.update(rule.init(g), g, g, lr=1.0, max_norm=2.5)
    assert [x.tolist() for x in step.values] == [[-1.5, 0.0], -2.0]
    assert [float(x) for x in state.norm.values] == [5.0, 5.0]
    assert [float(x) for x in state.clipped_norm.values] == [2.5, 2.5]
    state, step = rule.update(state, g, g, lr=1.0, max_norm=6.0)  # short enough
    assert [x.tolist() for x in step.values] == [[-3.0, 0.0], -4.0]
    assert float(state.clipped_norm.values[0]) == 5.0


def test_gradients_of_zeros_and_not_finite_ones_go_through() -> None:
    rule = clipped(ALGORITHMS["sgd"])
    zeros = tree([0.0, 0.0])
    with np.errstate(all="ignore"):
        _, step = rule.update(rule.init(zeros), zeros, zeros)
        assert not step.values[0].any()
        state, step = rule.update(rule.init(zeros), tree([np.nan, 1.0]), zeros)
    assert np.isnan(step.values[0]).all()
    assert np.isnan(state.norm.values[0])


def test_elements_are_cut() -> None:
    rule = clipped_by_value(ALGORITHMS["sgd"])
    g = tree([3.0, -4.0, 0.25])
    state, step = rule.update(rule.init(g), g, g, lr=1.0, max_value=0.5, maximize=True)
    assert step.values[0].tolist() == [0.5, -0.5, 0.25]
    assert float(state.norm.values[0]) == np.float32(np.sqrt(25.0625))
    assert float(state.clipped_norm.values[0]) == 0.75


def test_the_dialects_differ() -> None:
    adam = ALGORITHMS["adam"]
    found = {d: clipped(adam).defaults(d)["clip_eps"] for d in ("torch", "optax", "keras")}
    assert found == {"torch": 1e-6, "optax": 0.0, "keras": 0.0}
    assert averaged(clipped(adam)).defaults("torch")["clip_eps"] == 1e-6


def test_what_is_inside_sees_the_clipped_gradient() -> None:
    rule = lookahead(clipped(ALGORITHMS["adam"]))
    g = tree([3.0, 4.0])
    state, _ = rule.update(rule.init(g), g, g, max_norm=1.0)
    assert np.allclose(state.inner.inner.m.values[0], 0.1 * np.float32([0.6, 0.8]))


def test_bounds_are_checked() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    make = optstudy_torch.from_core(clipped(ALGORITHMS["adam"]))
    with pytest.raises(ValueError, match="max_norm = 0: allowed are numbers above 0"):
        make([p], max_norm=0)
    with pytest.raises(TypeError, match="both have clip_eps, max_norm"):
        clipped(clipped(ALGORITHMS["adam"]))


def test_a_unit_is_bounded_by_its_weights() -> None:
    """The layout of torch and that of Flax give the same, transposed."""
    rng = np.random.default_rng(0)
    theta, g = np.float32(rng.normal(size=(2, 4, 3)))
    found = {}
    for units_last in (False, True):
        rule = clipped_by_unit(ALGORITHMS["sgd"])
        own = [x.T if units_last else x for x in (g, theta)]
        g_own, theta_own = (Leaves([np.ascontiguousarray(x)], NumPy()) for x in own)
        given = {"lr": 1.0, "clip_factor": 0.1, "units_last": units_last}
        _, step = rule.update(rule.init(theta_own), g_own, theta_own, **given)
        found[units_last] = -step.values[0]
    assert np.array_equal(found[True], found[False].T)
    lengths = np.linalg.norm(found[False], axis=1)
    assert np.allclose(lengths, 0.1 * np.linalg.norm(theta, axis=1), rtol=1e-6)


def test_the_norms_of_units_that_are_cut_are_in_the_state() -> None:
    rule = clipped_by_unit(ALGORITHMS["sgd"])
    g, theta = tree([[3.0, 0.0], [0.0, 4.0]], 12.0), tree([[1.0, 0.0], [0.0, 9.0]], 1.0)
    state, step = rule.update(rule.init(g), g, theta, lr=1.0, clip_factor=1.0)
    assert [x.tolist() for x in step.values] == [[[-1.0, 0.0], [0.0, -4.0]], -1.0]
    assert [float(x) for x in state.norm.values] == [13.0, 13.0]
    assert [float(x) for x in state.clipped_norm.values] == [float(np.float32(np.sqrt(18)))] * 2


@pytest.mark.parametrize("wrapper", [clipped, clipped_by_unit, clipped_by_value])
def test_what_is_inside_may_keep_an_average(wrapper: Any) -> None:
    rule, g = wrapper(averaged(ALGORITHMS["sgd"])), tree([3.0, 4.0])
    state, step = rule.update(rule.init(g), g, g)
    assert np.array_equal(eval_params(state, g + step).values[0], (g + step).values[0])
