"""Algorithms around algorithms: what the libraries do, how they compose, what is refused."""

from __future__ import annotations

import importlib
import pickle
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch

import optstudy_torch
from optstudy_core import ALGORITHMS, WRAPPERS, Algorithm
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_core.wrappers.averaged import averaged
from optstudy_core.wrappers.cautious import cautious
from optstudy_core.wrappers.lookahead import lookahead
from optstudy_core.wrappers.mechanic import mechanic
from optstudy_core.wrappers.sam import sam

pytestmark = pytest.mark.usefixtures("compiled_quickly")

STEPS = 200


def run(rule: Algorithm, dialect: str, **given: Any) -> tuple[np.ndarray, Any, np.ndarray]:
    """Train one leaf in float64: the parameters after each step, the last state, the gradients."""
    values = rule.resolve(dialect, given)
    rng = np.random.default_rng(1)
    grads = rng.normal(size=(STEPS, 7)) + 0.3
    theta = Leaves([rng.normal(size=7)], NumPy())
    rows = [theta.values[0]]
    state = rule.start(theta, values)
    for g in grads:
        state, step = rule.update(state, Leaves([g], NumPy()), theta, **values)
        theta = theta + step
        rows.append(theta.values[0])
    return np.stack(rows), state, grads


def assert_near(found: np.ndarray, wanted: np.ndarray) -> None:
    """Within 1e-12 of the largest parameter: roundings of 200 steps in float64."""
    assert np.max(np.abs(found - wanted)) <= 1e-12 * np.max(np.abs(wanted))


@pytest.mark.parametrize("period", [1, 3, 6])
def test_lookahead_is_that_of_optax(period: int) -> None:
    rule = lookahead(ALGORITHMS["adam"])
    given = {"lr": 0.05, "sync_period": period, "slow_step_size": 0.3}
    rows, state, grads = run(rule, "optax", **given)
    with jax.enable_x64(True):
        tx = optax.lookahead(optax.adam(0.05), period, 0.3)

        def body(carry: Any, g: Any) -> Any:
            updates, state = tx.update(g, carry[1], carry[0])
            params = optax.apply_updates(carry[0], updates)
            return (params, state), params

        params = optax.LookaheadParams.init_synced(rows[0])
        _, found = jax.lax.scan(body, (params, tx.init(params)), grads)
        assert_near(rows[1:], np.asarray(found.fast))
        assert_near(state.slow.values[0], np.asarray(found.slow)[-1])


def test_an_average_is_that_of_optax_and_of_torch() -> None:
    rows, state, _ = run(averaged(ALGORITHMS["adam"]), "torch", lr=0.05, average_decay=0.97)
    with jax.enable_x64(True):
        ema = optax.ema(0.97)
        kept = ema.init(rows[0])
        for row in rows[1:]:
            mean, kept = ema.update(row, kept)
    assert_near(state.average.values[0], np.asarray(mean))
    # torch's starts from the first weights, which weigh 0.97^199 of it at the end.
    theirs = torch.from_numpy(rows[1].copy())
    step = torch.optim.swa_utils.get_ema_avg_fn(0.97)
    for row in rows[2:]:
        theirs = step(theirs, torch.from_numpy(row), 0)
    weight = 0.97**STEPS
    debiased = (theirs.numpy() - 0.97 ** (STEPS - 1) * rows[1]) + (1 - 0.97) * (
        0.97 ** (STEPS - 1)
    ) * rows[1]
    assert_near(state.average.values[0], debiased / (1 - weight))


def test_a_plain_mean_is_the_mean() -> None:
    rows, state, _ = run(averaged(ALGORITHMS["sgd"]), "torch", lr=0.05, plain_mean=True)
    assert_near(state.average.values[0], rows[1:].mean(axis=0))


def test_few_cautious_steps_are_not_blown_up() -> None:
    """The mean is at least eps; no gradient is no agreement; tiny products do not vanish."""
    rule = cautious(ALGORITHMS["sgd"], eps=0.25)
    ones = np.ones(8, np.float32)
    state, _ = rule.update(rule.init(ones), ones, lr=1.0, momentum=0.5)
    g = np.float32([1.0, 0.0, 0, 0, 0, 0, 0, -0.125])
    _, step = rule.update(state, g, lr=1.0, momentum=0.5)
    assert step.tolist() == [-6.0, 0, 0, 0, 0, 0, 0, 0]
    _, tiny = rule.update(rule.init(ones), np.float32(1e-30) * ones, lr=1.0)
    assert tiny.tolist() == (np.float32(-1e-30) * ones).tolist()


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_climbing_is_descending_on_the_negative(wrapper: Any) -> None:
    rule = wrapper(ALGORITHMS["adam"])
    rng = np.random.default_rng(0)
    theta, g = (Leaves([x], NumPy()) for x in rng.normal(size=(2, 9)))
    each = {"accumulation_steps": 1.0} if "accumulation_steps" in rule.defaults() else {}
    _, up = rule.update(rule.init(theta), g, theta, maximize=True, **each)
    _, down = rule.update(rule.init(theta), -g, theta, **each)
    assert np.array_equal(up.values[0], down.values[0])
    assert np.all(up.values[0])


def test_the_wrapped_go_where_algorithms_go() -> None:
    """Composed, with the hyperparameters of all, the dialects of the inner one and saved states."""
    rule = averaged(lookahead(ALGORITHMS["adam"]))
    assert {"b1", "sync_period", "average_decay"} <= rule.defaults().keys()
    assert rule.dialects.keys() == ALGORITHMS["adam"].dialects.keys()
    param = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = optstudy_torch.from_core(rule)([param], lr=0.1, sync_period=2, average_decay=0.5)
    for _ in range(4):
        param.grad = 2 * param.detach()
        optimizer.step()
    assert torch.equal(optimizer.state[param]["inner.slow"], param)
    with pytest.raises(ValueError, match="sync_period = 0"):
        rule.resolve(None, {"sync_period": 0})


def test_what_cannot_be_wrapped_is_refused() -> None:
    with pytest.raises(TypeError, match="both have slow_step_size, sync_period"):
        lookahead(lookahead(ALGORITHMS["sgd"]))
    with pytest.raises(ValueError, match="eps = 0: allowed are numbers above 0"):
        cautious(ALGORITHMS["sgd"], eps=0)


@pytest.mark.parametrize("period", [2, 4])
def test_sam_is_that_of_optax(period: int) -> None:
    rule = sam(ALGORITHMS["adamw"])
    given = {"ascent_period": period, "ascent_radius": 0.1, "ascent_eps": 0.0}
    rows, _, grads = run(rule, "optax", lr=0.05, weight_decay=0.3, **given)
    with jax.enable_x64(True):
        climb = optax.chain(optax.contrib.normalize(), optax.sgd(0.1))
        tx = optax.contrib.sam(optax.adamw(0.05, weight_decay=0.3), climb, sync_period=period)
        assert_near(rows[1:], trained(tx, rows[0], grads))


def test_sam_without_a_climb_is_the_algorithm() -> None:
    alone, _, _ = run(ALGORITHMS["adamw"], "optax", lr=0.05)
    rows, _, _ = run(sam(ALGORITHMS["adamw"]), "optax", lr=0.05, ascent_period=1)
    assert np.array_equal(alone, rows)


@pytest.mark.parametrize("betas", [1, 6])
def test_mechanic_is_that_of_optax(betas: int) -> None:
    rule = mechanic(ALGORITHMS["adam"], num_betas=betas)
    given = {"initial_scale_factor": 1e-3, "mechanic_decay": 0.1}
    rows, _, grads = run(rule, "optax", lr=1.0, **given)
    with jax.enable_x64(True):
        tx = optax.contrib.mechanize(
            optax.adam(1.0), weight_decay=0.1, s_init=1e-3, num_betas=betas
        )
        assert_near(rows[1:], trained(tx, rows[0], grads))


def trained(tx: Any, params: np.ndarray, grads: np.ndarray) -> np.ndarray:
    """Train with optax; return the parameters after each step."""

    def body(carry: Any, g: Any) -> Any:
        updates, state = tx.update(g, carry[1], carry[0])
        params = optax.apply_updates(carry[0], updates)
        return (params, state), params

    return np.asarray(jax.lax.scan(body, (params, tx.init(params)), grads)[1])


def test_sam_climbs_the_whole_way_down() -> None:
    """In torch, with a closure: two steps for a batch; the algorithm takes every second one."""
    param = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = optstudy_torch.from_core(sam(ALGORITHMS["adam"]))([param], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (param**2).sum() / 2
        loss.backward()
        return loss

    for n in range(1, 5):
        begin = param.detach().clone()
        loss = optimizer.step(closure)
        assert optimizer.step(closure) > loss  # it was measured on top of the climb
        assert param.norm() < begin.norm()
        assert optimizer.state[param]["inner.t"].item() == n


def test_a_state_of_mechanic_is_pickled_by_name() -> None:
    state = mechanic(ALGORITHMS["sgd"], num_betas=3).init(np.ones(2))
    assert repr(pickle.loads(pickle.dumps(state))) == repr(state)
    with pytest.raises(AttributeError, match="no attribute 'Betsy'"):
        getattr(importlib.import_module("optstudy_core.wrappers.mechanic"), "Betsy")  # noqa: B009


def test_wrapped_algorithms_take_what_the_inner_one_takes() -> None:
    rule = lookahead(ALGORITHMS["polyak_sgd"])
    assert dict(rule.inputs) == {"value": True}
    with pytest.raises(TypeError, match="lookahead_polyak_sgd without value"):
        optstudy_torch.from_core(rule)([torch.nn.Parameter(torch.ones(2))]).step()


def test_a_number_of_speeds_is_a_whole_number() -> None:
    with pytest.raises(ValueError, match="num_betas = 0: allowed are whole numbers from 1"):
        mechanic(ALGORITHMS["sgd"], num_betas=0)
