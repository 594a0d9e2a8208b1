"""Epoch methods of the core: what DESIGN section 6 says, in NumPy."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optstudy_core
from optstudy_core import epoch
from optstudy_core.epoch import Measured, careful, direction, direction_careful, eve, rate

FAST = settings(max_examples=150, deadline=None, database=None)
NAN, INF = math.nan, math.inf
anything = st.floats(width=32)
finite = st.floats(-1e6, 1e6)


def run(module: Any, measured: list[Measured], **values: Any) -> tuple[Any, list[Any]]:
    state, decisions = module.init(), []
    for m in measured:
        state, decision = module.update(state, m, **values)
        decisions.append(decision)
    return state, decisions


def losses(*values: float) -> list[Measured]:
    return [Measured(loss=v) for v in values]


def test_epoch_is_no_algorithm() -> None:
    assert "epoch" not in optstudy_core.ALGORITHMS


# Step.


def test_step_is_measured() -> None:
    first = epoch.step.measure({"w": np.float32([3.0, 4.0])})
    assert first.size == 5.0
    assert math.isnan(first.cosine)
    assert math.isnan(first.angle)
    second = epoch.step.measure({"w": np.float32([1.0, 1.0])}, {"w": np.float32([2.0, 0.0])})
    assert second.cosine == pytest.approx(0.5**0.5, rel=3e-16)
    assert second.angle == pytest.approx(45, rel=1e-15)
    still = epoch.step.measure(np.zeros(2), np.ones(2))
    assert still.size == 0
    assert math.isnan(still.cosine)


def test_difference_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        epoch.step.difference([np.ones(2)], [np.ones(3)])


# Direction.


def test_direction_multiplies_as_written() -> None:
    cosines = [1.0, 0.5, -0.25, NAN, 0.75]
    for r in (0.05, 0.10):
        state, _ = run(direction, [Measured(cosine=c) for c in cosines], r=r)
        wanted = math.prod(1 + r * c for c in cosines if not math.isnan(c))
        # Ten roundings of float32.
        assert float(state.factor) == pytest.approx(wanted, rel=10 * 2**-24)
        state, _ = run(direction, [Measured(cosine=c) for c in cosines], r=r, centred=True)
        wanted = math.prod(1 + 2 * r * (c - 0.5) for c in cosines if not math.isnan(c))
        assert float(state.factor) == pytest.approx(wanted, rel=10 * 2**-24)


@given(st.floats(2.0**-100, 2.0**100, width=32), st.booleans())
@FAST
def test_no_angle_changes_nothing(factor: float, centred: bool) -> None:
    state = direction.DirectionState(np.float32(factor))
    new, decision = direction.update(state, Measured(cosine=NAN), r=0.3, centred=centred)
    assert float(new.factor) == factor
    assert float(decision.multiplier) == 1.0


@given(
    st.lists(st.tuples(st.one_of(st.floats(-1, 1), st.just(NAN)), anything), max_size=30),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(1, 10),
    st.floats(0, 1e30),
    st.integers(1, 3),
)
@FAST
def test_the_rate_is_never_negative_nor_infinite(
    epochs: Any, r: float, gamma: float, growth: float, lr: float, patience: int
) -> None:
    state = direction_careful.init()
    for cosine, loss in epochs:
        state, decision = direction_careful.update(
            state, Measured(cosine, loss), r=r, gamma=gamma, growth=growth, patience=patience
        )
        assert state.factor.dtype == np.float32
        assert decision.multiplier.dtype == np.float32
        for used in (lr, np.float64(lr)):
            found = rate.scaled(used, np.float64(state.factor), min_lr=1e-8, max_lr=1e3)
            assert 1e-8 <= float(found) <= 1e3
        assert 0 <= float(rate.scaled(lr, np.float64(state.factor))) <= rate.LARGEST
        assert float(state.factor) >= rate.SMALLEST


# Bounds.


def test_a_factor_at_its_bound_comes_back_at_once() -> None:
    low, high = rate.limits(0.1, min_lr=0.05, max_lr=0.2)
    factor = np.float32(1)
    for _ in range(100):
        factor = rate.advance(factor, np.float32(1.25), low=low, high=high)
    assert float(factor) == 2.0
    factor = rate.advance(factor, np.float32(0.75), low=low, high=high)
    assert float(factor) == 1.5
    for _ in range(100):
        factor = rate.advance(factor, np.float32(0.5), low=low, high=high)
    assert float(factor) == 0.5


def test_bounds_do_not_move_a_factor() -> None:
    # In a warm-up (a small lr), min_lr must not drive the factor up, for it would stay.
    low, high = rate.limits(1e-6, min_lr=1e-3)
    assert float(rate.advance(np.float32(1), np.float32(0.8), low=low, high=high)) == 1.0
    assert float(rate.advance(np.float32(1), np.float32(1.25), low=low, high=high)) == 1.25
    low, high = rate.limits(np.array([0.0, 1.0]), min_lr=0.5, max_lr=2.0)
    factors = rate.advance(np.float32([1, 1]), np.float32(4), low=low, high=high)
    assert factors.tolist() == [4.0, 2.0]


def test_multiplier_without_information() -> None:
    assert float(rate.advance(np.float32(3), np.float32(NAN))) == 3.0
    assert float(rate.advance(np.float32(3e38), np.float32(10))) == rate.LARGEST


# Careful.


@pytest.mark.parametrize(("tau", "gamma"), [(0.02, 0.8), (0.05, 0.7)])
def test_a_jump_is_more_than_tau(tau: float, gamma: float) -> None:
    for last in (1.0, -1.0, 100.0):
        limit = last + tau * abs(last)
        for loss, jumps in ((limit + 0.001 * abs(last), True), (limit - 0.001 * abs(last), False)):
            state, decisions = run(careful, losses(last, loss), tau=tau, gamma=gamma)
            assert bool(decisions[-1].jump) is jumps
            assert float(state.factor) == float(np.float32(gamma if jumps else 1))


def test_a_negative_loss_may_rise_by_tau_too() -> None:
    # L·(1 + τ) would lie below L, and an unchanged loss would jump.
    _, decisions = run(careful, losses(-1.0, -1.0, -0.99, -0.9))
    assert [bool(d.jump) for d in decisions] == [False, False, False, True]


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 1e39])
def test_a_loss_that_is_not_finite_jumps(bad: float) -> None:
    state, decisions = run(careful, losses(bad))
    assert bool(decisions[0].jump)
    assert float(state.factor) == np.float32(0.8)
    state, decisions = run(careful, losses(1.0, bad, 1.01, 1.2))
    assert [bool(d.jump) for d in decisions] == [False, True, False, True]
    assert float(state.reference) == np.float32(1.2)  # never the bad one


def test_first_epoch_is_accepted_and_changes_nothing() -> None:
    for growth in (1.0, 1.05):
        state, (decision,) = run(careful, losses(1e30), growth=growth)
        assert not decision.jump
        assert float(state.factor) == 1.0


def test_reference_is_the_last_or_the_last_accepted() -> None:
    sequence = losses(1.0, 1.5, 1.4, 1.01)
    _, decisions = run(careful, sequence, reference="last")
    assert [bool(d.jump) for d in decisions] == [False, True, False, False]
    state, decisions = run(careful, sequence, reference="accepted")
    assert [bool(d.jump) for d in decisions] == [False, True, True, False]
    assert float(state.reference) == np.float32(1.01)


def test_patience_asks_for_jumps_in_a_row() -> None:
    _, decisions = run(careful, losses(1, 2, 1, 2, 3, 4, 5), patience=2)
    assert [bool(d.cut) for d in decisions] == [False] * 4 + [True, False, True]
    assert [bool(d.jump) for d in decisions] == [False, True, False, True, True, True, True]


def test_bold_grows_without_a_jump_only() -> None:
    state, decisions = run(careful, losses(1, 0.9, 2, 1.9, 2.9), growth=1.05, patience=2)
    found = [float(d.multiplier) for d in decisions]
    assert found == [1.0, np.float32(1.05), 1.0, np.float32(1.05), 1.0]
    assert float(state.factor) == np.float32(1.05) * np.float32(1.05)


@given(st.lists(anything, max_size=20), st.sampled_from(careful.REFERENCES), st.integers(1, 3))
@FAST
def test_the_reference_stays_finite(values: list[float], reference: str, patience: int) -> None:
    state = careful.init()
    for loss in values:
        state, decision = careful.update(
            state, Measured(loss=loss), reference=reference, patience=patience
        )
        assert not np.isinf(state.reference)
        assert bool(decision.jump) or math.isfinite(loss)
        assert 0 <= float(state.jumps) < patience


@given(st.floats(-1, 1), st.lists(finite, min_size=2, max_size=6))
@FAST
def test_both_is_the_product(cosine: float, values: list[float]) -> None:
    both, one, other = direction_careful.init(), careful.init(), direction.init()
    for loss in values:
        measured = Measured(cosine, loss)
        both, decision = direction_careful.update(both, measured)
        one, by_loss = careful.update(one, measured)
        other, by_direction = direction.update(other, measured)
        assert decision.multiplier == by_loss.multiplier * by_direction.multiplier
        assert (both.reference == one.reference) or math.isnan(one.reference)


def test_the_direction_of_an_undone_epoch_does_not_count() -> None:
    measured = [Measured(NAN, 1.0), Measured(1.0, 2.0)]
    for rollback, wanted in ((True, 0.8), (False, 1.05 * 0.8)):
        state, _ = run(direction_careful, measured, rollback=rollback)
        assert float(state.factor) == pytest.approx(wanted, rel=1e-6)


# EVE.

grids = st.lists(st.floats(0, 100), max_size=8)


@given(grids, st.lists(st.floats(), min_size=9, max_size=9))
@FAST
def test_eve_never_raises_the_loss(values: list[float], found: list[float]) -> None:
    grid = eve.check_grid(values)
    at = dict(zip(grid, found, strict=False))
    choice = eve.on_grid(at.__getitem__, grid)
    s = next(s for s in grid if s == float(choice.s))
    assert at[s] == float(choice.loss) or math.isnan(at[s])
    numbers = [v for v in at.values() if not math.isnan(v)]
    if numbers:
        assert float(choice.loss) == min(numbers)
        assert s == min(s for s in grid if at[s] == min(numbers))
    else:
        assert s == 0
    assert not (choice.loss > at[0.0])


@given(st.lists(st.floats(), min_size=8, max_size=8), st.integers(1, 7))
@FAST
def test_a_march_never_raises_the_loss(found: list[float], marches: int) -> None:
    visited = []

    def loss_at(s: float) -> float:
        visited.append(s)
        return found[len(visited) - 1]

    choice = eve.on_march(loss_at, h=0.5, marches=marches)
    made = round(float(choice.s) / 0.5)
    assert made <= marches
    assert visited == [0.5 * i for i in range(len(visited))]
    for before, after in itertools.pairwise(found[: made + 1]):
        assert after <= before
    stopped = made == marches or not found[made + 1] <= found[made]
    assert stopped
    assert choice.evaluations == len(visited)


def test_marches_go_on_while_the_loss_does_not_rise() -> None:
    assert float(eve.on_march(lambda s: 1.0).s) == 10.0  # 100 marches of 0.1
    assert float(eve.on_march(lambda s: abs(s - 0.35)).s) == np.float32(3) * np.float32(0.1)
    assert float(eve.on_march(lambda s: s).s) == 0.0


def test_ties_and_nan() -> None:
    assert float(eve.on_grid(lambda s: 1.0).s) == 0.0
    assert float(eve.on_grid(lambda s: NAN).s) == 0.0
    assert float(eve.on_grid(lambda s: NAN if s < 2 else s).s) == 2.0
    assert float(eve.on_grid(lambda s: INF if s else 1.0).s) == 0.0
    assert eve.check_grid((3, 1, 1, 10)) == (0.0, 1.0, 3.0, 10.0)


def test_losses_are_compared_in_their_own_precision() -> None:
    # In float32 these are equal.
    assert float(eve.on_grid(lambda s: 1.0 - 1e-12 * s).s) == 8.0
    assert float(eve.on_march(lambda s: 1.0 + 1e-12 * s).s) == 0.0


# Moves.


def test_extrapolation() -> None:
    theta, delta = np.array([1.0, -INF, 2.0]), np.array([2.0, -INF, 0.0])
    found = epoch.extrapolation.update(theta, delta, 0.5)
    assert found[0] == 1 + float(np.float32(0.1) * np.float32(0.5)) * 2
    same = epoch.extrapolation.update(theta, delta, NAN)
    assert same.tolist() == theta.tolist()


def test_epoch_momentum() -> None:
    state = epoch.momentum.init(np.zeros(1))
    theta = np.zeros(1)
    m = 0.0
    for _ in range(4):  # each epoch moves by 1 of its own
        start, end = theta, theta + 1.0
        state, theta = epoch.momentum.update(state, end, start)
        moved = float(end[0]) + m
        m = 0.9 * m + 0.1 * (moved - float(start[0]))
        assert theta[0] == pytest.approx(moved, rel=1e-15)
        assert state.m[0] == pytest.approx(m, rel=1e-15)


def test_backstep_restores_every_bit() -> None:
    bits = np.array([0x7FC00001, 0x80000000, 0x7F800000, 1], np.uint32).view(np.float32)
    tree = {"w": bits, "state": [np.float64(0.1), np.array(3, np.int32)]}
    other = {"w": np.zeros(4, np.float32), "state": [np.float64(1), np.array(0, np.int32)]}
    for undo in (True, np.array(True)):
        _, found = epoch.backstep.update(epoch.backstep.init(tree), other, undo)
        assert found["w"].tobytes() == bits.tobytes()
        assert float(found["state"][0]) == 0.1
        assert int(found["state"][1]) == 3
    for undo in (False, np.array(False)):
        state, found = epoch.backstep.update(epoch.backstep.init(tree), other, undo)
        assert found["w"].tolist() == [0, 0, 0, 0]
        assert state.kept["w"].tolist() == [0, 0, 0, 0]


def test_mean_of_many_losses() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(30_000).astype(np.float32)
    state = epoch.mean.init()
    for v in values:
        state = epoch.mean.add(state, v)
    exact = math.fsum(values.astype(np.float64)) / len(values)
    # One unit in the last place of the sum and one rounding of the quotient.
    assert float(epoch.mean.value(state)) == pytest.approx(exact, rel=2 * 2**-23)
    assert math.isnan(epoch.mean.value(epoch.mean.init()))
    for bad in (NAN, INF):
        state = epoch.mean.add(epoch.mean.add(epoch.mean.init(), bad), 1.0)
        assert not math.isfinite(epoch.mean.value(state))


# Errors.


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (direction.check, {"r": 1.5}, ValueError, "r = 1.5: allowed are numbers from 0 to 1"),
        (direction.check, {"r": NAN}, ValueError, "r = nan"),
        (direction.check, {"r": "0.1"}, TypeError, "r = '0.1'"),
        (direction.check, {"r": 0.5, "centred": True}, ValueError, "from 0 to 1/3"),
        (direction.check, {"centred": 1}, TypeError, "True and False"),
        (careful.check, {"tau": -0.1}, ValueError, "tau = -0.1: allowed are finite numbers >= 0"),
        (careful.check, {"gamma": 2.0}, ValueError, "gamma = 2.0"),
        (careful.check, {"growth": 0.9}, ValueError, "growth = 0.9"),
        (careful.check, {"patience": 0}, ValueError, "patience = 0: allowed are whole numbers"),
        (careful.check, {"patience": 1.0}, TypeError, "patience = 1.0"),
        (careful.check, {"reference": "lasst"}, ValueError, "did you mean 'last'"),
        (direction_careful.check, {"rollback": 1}, TypeError, "rollback = 1"),
        (epoch.extrapolation.check, {"lr": -1.0}, ValueError, "lr = -1.0"),
        (epoch.momentum.check, {"beta": 1.0}, ValueError, "beta = 1.0"),
        (rate.check_limits, {"min_lr": 2.0, "max_lr": 1.0}, ValueError, "min_lr = 2.0"),
        (rate.check_limits, {"min_lr": -1.0, "max_lr": 1.0}, ValueError, "min_lr = -1.0"),
        (rate.check_limits, {"min_lr": 0.0, "max_lr": INF}, ValueError, "max_lr = inf"),
        (eve.check_grid, {"grid": [1.0, -1.0]}, ValueError, "grid = "),
        (eve.check_grid, {"grid": [NAN]}, ValueError, "grid = "),
        (eve.check_grid, {"grid": "12"}, TypeError, "grid = '12'"),
        (eve.check_grid, {"grid": 3.0}, TypeError, "grid = 3.0"),
        (eve.check_march, {"h": 0.0, "marches": 1}, ValueError, "h = 0.0"),
        (eve.check_march, {"h": 0.1, "marches": 0}, ValueError, "marches = 0"),
    ],
)
def test_bad_values_are_refused(
    function: Any, arguments: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        function(**arguments)
