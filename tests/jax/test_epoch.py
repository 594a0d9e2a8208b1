"""Epoch methods of ``optstudy_jax``: optax's conventions, ``jit`` and ``scan``, every bit back."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from harness import slow

import optstudy_jax
from optstudy_core.epoch import backstep as core_backstep
from optstudy_jax import epoch

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PARAMS = {"w": np.float32([[1.0, -2.0], [3.0, 0.5]]), "b": np.float32([0.1, -0.2])}


def params() -> Any:
    return jax.tree.map(jnp.asarray, PARAMS)


def loss_fn(p: Any, x: Any) -> Any:
    return jnp.mean(jnp.square(x @ p["w"] + p["b"] - x))


def data(steps: int, seed: int = 0) -> Any:
    return jax.random.normal(jax.random.key(seed), (steps, 8, 2))


def equal(a: Any, b: Any) -> bool:
    ours, theirs = jax.tree.leaves(a), jax.tree.leaves(b)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() and jnp.result_type(x) == y.dtype
        for x, y in zip(ours, theirs, strict=True)
    )


# A multiplier in a chain.


def test_a_multiplier_after_any_optimizer() -> None:
    control = epoch.careful(gamma=0.5)
    plain = optax.sgd(0.1, momentum=0.9)
    tx = optax.chain(plain, epoch.scale_by(control, steps_per_epoch=2))
    p = params()
    state, alone = tx.init(p), plain.init(p)
    grads = jax.tree.map(jnp.ones_like, p)
    found = []
    for value in [1.0, 1.0, 3.0, 1.0, 1.0, 3.0, 9.0, 9.0]:  # means 1, 2 (a jump), 2, 9
        updates, state = tx.update(grads, state, p, value=value)
        wanted, alone = plain.update(grads, alone, p)
        found.append(float(state[1].control.decided.factor))
        for ours, theirs in zip(jax.tree.leaves(updates), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_array_equal(ours, theirs * np.float32(found[-1]))
    assert found == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]
    metrics = state[1].control.metrics
    assert (float(metrics.loss), bool(metrics.jump)) == (2.0, False)
    assert int(state[1].control.epoch) == 3


def test_the_step_of_an_epoch_is_that_of_the_parameters() -> None:
    tx = epoch.scale_by(epoch.direction(0.1), steps_per_epoch=1)
    p = jnp.zeros(2)
    state = tx.init(p)
    rows = []
    for step in ([1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 0.0]):
        updates, state = tx.update(jnp.asarray(step), state, p)
        factor = float(state.control.decided.factor)
        rows.append((factor, float(state.control.metrics.size)))
        p = p + jnp.asarray(step)  # what moves the parameters is the caller's own
    up = np.float32(1.1)
    assert [r[0] for r in rows] == [1, 1, up, up]
    assert [r[1] for r in rows[1:]] == [1, 3, 2]
    assert updates.tolist() == [0, 0]


def test_extra_arguments_of_others_pass_by() -> None:
    control = epoch.careful()
    tx = optax.chain(
        epoch.with_control(optax.sgd, control, 0.1, steps_per_epoch=3),
        epoch.scale_by(control, steps_per_epoch=3),
        epoch.scale_by_eve((0.0, 1.0)),
        optax.scale_by_backtracking_linesearch(max_backtracking_steps=3),
    )
    p = params()
    x = data(1)[0]

    def update(p: Any) -> Any:
        value, grads = jax.value_and_grad(loss_fn)(p, x)
        more = {"value": value, "grad": grads, "value_fn": lambda q: loss_fn(q, x)}
        return tx.update(grads, tx.init(p), p, **more)[0]

    updates = jax.eval_shape(update, p)
    assert jax.tree.structure(updates) == jax.tree.structure(p)


# A factor on the rate.


@pytest.mark.parametrize(
    "make",
    [optax.adam, optax.sgd, optstudy_jax.adamw],
    ids=lambda make: f"{make.__module__}.{make.__name__}",
)
def test_the_rate_of_any_optimizer(make: Any) -> None:
    control = epoch.careful(gamma=0.5)
    tx = epoch.with_control(make, control, 0.1)
    p = params()
    grads = jax.tree.map(jnp.ones_like, p)
    state = tx.init(p)
    for value in (1.0, 2.0):
        _, state = epoch.end_epoch(control, p, state, value=value)
    updates, _ = tx.update(grads, state, p)
    half = make(jnp.float32(0.05))
    wanted, _ = half.update(grads, half.init(p), p)
    assert equal(updates, wanted)


def test_schedules_are_multiplied() -> None:
    control = epoch.careful(gamma=0.5)
    tx = epoch.with_control(optax.sgd, control, lambda t: 1.0 / (1 + t))
    p, one = jnp.zeros(1), jnp.ones(1)
    state = tx.init(p)
    found = []
    for value in (1.0, 2.0, 4.0):
        for _ in range(2):
            updates, state = tx.update(one, state, p)
            found.append(-updates.item())
        p, state = epoch.end_epoch(control, p, state, value=value)
    factors = [1, 1, 1, 1, 0.5, 0.5]
    assert found == pytest.approx([f / (1 + t) for t, f in enumerate(factors)], rel=2**-22)


def test_bounds_of_the_rate() -> None:
    control = epoch.careful(gamma=0.5, growth=2.0, min_lr=0.04, max_lr=0.15)
    tx = epoch.with_control(optax.sgd, control, 0.1)
    p, one = jnp.zeros(1), jnp.ones(1)
    state = tx.init(p)
    found = []
    for value in (1, 2, 4, 8, 7, 6, 5, 10):
        p, state = epoch.end_epoch(control, p, state, value=value)
        updates, state = tx.update(one, state, p)
        found.append(-updates.item())
    # At 0.4 it falls no further, so it doubles at once to 0.8 and is at 1.5 then.
    assert found == pytest.approx([0.1, 0.05, 0.04, 0.04, 0.08, 0.15, 0.15, 0.075], rel=1e-6)
    assert all(np.float32(0.04) <= f <= np.float32(0.15) for f in found)


# Rollback.


@pytest.mark.parametrize(
    ("method", "patience"),
    [("careful", 1), ("direction_careful", 2), slow("careful", 2), slow("direction_careful", 1)],
)
def test_rollback_restores_every_bit(method: str, patience: int) -> None:
    control = getattr(epoch, method)(rollback=True, patience=patience)
    tx = epoch.with_control(optax.adam, control, 0.1)
    end = jax.jit(lambda p, state, value: epoch.end_epoch(control, p, state, value=value))

    def train(p: Any, state: Any, seed: int) -> Any:
        for x in data(2, seed):
            updates, state = tx.update(jax.grad(loss_fn)(p, x), state, p)
            p = optax.apply_updates(p, updates)
        return p, state

    p = params()
    p, state = end(*train(p, tx.init(p), 0), 1.0)
    wanted = (p, state.inner)
    for i in range(2 * patience):
        p, state = train(p, state, i + 1)
        assert not equal((p, state.inner), wanted)
        p, state = end(p, state, math.nan)
        assert bool(state.control.metrics.jump)
        assert equal((p, state.inner), wanted) == ((i + 1) % patience == 0)
        assert bool(state.control.metrics.cut) == ((i + 1) % patience == 0)
    p, state = end(*train(p, state, 9), 1.0)
    assert not equal((p, state.inner), wanted)


@pytest.mark.parametrize("patience", [1, 2])
def test_an_epoch_begins_where_it_is_told_to(patience: int) -> None:
    control = epoch.direction_careful(rollback=True, patience=patience)
    tx = epoch.with_control(optax.sgd, control, 1.0)
    p = jnp.zeros(2)
    state = tx.init(p)
    p, state = epoch.end_epoch(control, p + jnp.float32([1, 0]), state, value=1.0)
    moved = p + 5
    state = epoch.begin_epoch(control, moved, state)
    ended, after = epoch.end_epoch(control, moved + jnp.float32([0, 2]), state, value=1.0)
    assert float(after.control.metrics.size) == 2.0
    assert float(after.control.metrics.cosine) == 0.0
    for _ in range(patience):
        ended, state = epoch.end_epoch(control, ended + 1, state, value=math.nan)
        state = epoch.begin_epoch(control, ended, state)
    assert ended.tolist() == moved.tolist()


def test_whatever_is_carried_returns() -> None:
    control = epoch.careful(rollback=True)
    p = jnp.float32([jnp.nan, -0.0, jnp.inf])
    carried = {"key": jax.random.key(7), "stats": jnp.arange(3), "none": None}
    state = control.init(p, carried)
    other = {"key": jax.random.key(8), "stats": jnp.zeros(3, jnp.int32), "none": None}
    end = jax.jit(lambda *a: control.end_epoch(*a, value=jnp.inf))
    state, q, found = end(state, jnp.zeros(3), other)
    assert np.asarray(q).tobytes() == np.asarray(p).tobytes()
    assert found["stats"].tolist() == [0, 1, 2]
    assert (jax.random.key_data(found["key"]) == jax.random.key_data(carried["key"])).all()
    state, q, found = jax.jit(lambda *a: control.end_epoch(*a, value=1.0))(state, p + 1, other)
    assert found["stats"].tolist() == [0, 0, 0]


def test_memory_is_kept_only_where_it_is_needed() -> None:
    p = params()
    size = sum(x.size for x in jax.tree.leaves(p))

    def held(control: Any) -> int:
        return sum(x.size for x in jax.tree.leaves(control.init(p)) if x.ndim)

    assert held(epoch.careful()) == 0
    assert held(epoch.direction()) == 2 * size
    assert held(epoch.careful(rollback=True)) == size
    assert held(epoch.direction_careful(rollback=True)) == 2 * size


# Compiled code.


def test_one_compilation_for_all_epochs() -> None:
    control = epoch.direction_careful(rollback=True)
    tx = epoch.with_control(optax.adam, control, 0.1)
    traces = []

    @jax.jit
    def one_epoch(p: Any, state: Any, value: Any) -> Any:
        traces.append(1)
        updates, state = tx.update(p, state, p)
        return epoch.end_epoch(control, optax.apply_updates(p, updates), state, value=value)

    p = params()
    state = tx.init(p)
    for value in (1.0, 2.0, math.nan):
        p, state = one_epoch(p, state, value)
    assert len(traces) == 1
    dtypes = {str(x.dtype) for x in jax.tree.leaves(state)}
    assert dtypes == {"float32", "int32", "bool"}


def test_parameters_and_state_can_be_donated() -> None:
    control = epoch.direction_careful(rollback=True, patience=2)
    tx = epoch.with_control(optax.adam, control, 0.1)

    def one_epoch(p: Any, state: Any) -> Any:
        updates, state = tx.update(p, state, p)
        return epoch.end_epoch(control, optax.apply_updates(p, updates), state, value=1.0)

    p = params()
    state = tx.init(p)
    step = jax.jit(one_epoch, donate_argnums=(0, 1))
    for _ in range(3):
        p, state = step(p, state)
    assert int(state.control.epoch) == 3


def test_training_with_every_method_in_one_scan() -> None:
    control = epoch.direction_careful(rollback=True, reference="accepted")
    tx = epoch.with_control(optstudy_jax.adam, control, 0.05)
    xs = data(60).reshape(12, 5, 8, 2)
    everything = data(1, seed=3)[0]

    def step(carry: Any, x: Any) -> Any:
        p, state = carry
        value, grads = jax.value_and_grad(loss_fn)(p, x)
        updates, state = tx.update(grads, state, p, value=value)
        return (optax.apply_updates(p, updates), state), None

    def one_epoch(carry: Any, x: Any) -> Any:
        begin = carry[0]
        (p, state), _ = jax.lax.scan(step, carry, x)
        p, state = epoch.end_epoch(control, p, state)  # the mean of the values
        p, choice = epoch.eve(p, begin, lambda q: loss_fn(q, everything))
        state = epoch.begin_epoch(control, p, state)  # the next Δ is measured from here
        return (p, state), (choice.start, choice.loss)

    p = params()
    (_, state), (before, after) = jax.jit(lambda c: jax.lax.scan(one_epoch, c, xs))((p, tx.init(p)))
    assert (np.asarray(after) <= np.asarray(before)).all()
    assert after[-1] < 0.1 * loss_fn(p, everything)
    assert int(state.control.epoch) == 12
    assert math.isfinite(state.control.metrics.loss)


# EVE.


def test_eve_along_the_epoch() -> None:
    begin, end = jnp.float32([0.0, 0.0]), jnp.float32([1.0, 0.0])
    for target, wanted in ((1.0, 0.0), (1.4, 0.5), (4.9, 4.0), (50.0, 8.0), (math.nan, 0.0)):
        found, choice = jax.jit(lambda e, b, t=target: epoch.eve(e, b, lambda p: abs(p[0] - t)))(
            end, begin
        )
        assert float(choice.s) == wanted
        assert found.tolist() == [1 + wanted, 0]
        assert choice.evaluations == 6
    found, choice = epoch.eve_march(end, begin, lambda p: abs(p[0] - 1.27))
    assert float(choice.s) == np.float32(3) * np.float32(0.1)
    assert int(choice.evaluations) == 5
    found, choice = epoch.eve_march(end, begin, lambda p: jnp.float32(1.0), marches=7)
    assert float(choice.s) == np.float32(7) * np.float32(0.1)
    found, choice = epoch.eve_march(end, begin, lambda p: jnp.float32(jnp.nan))
    assert found.tolist() == end.tolist()


def test_eve_in_a_chain() -> None:
    tx = optax.chain(optax.sgd(1.0), epoch.scale_by_eve())
    p = jnp.float32([0.0])
    state = tx.init(p)
    for target, s in ((0.1, 0), (-1.0, 1), (-3.2, 3), (-70.0, 100)):
        updates, new = tx.update(jnp.ones(1), state, p, value_fn=lambda q, t=target: abs(q[0] - t))
        assert float(new[1].s) == s
        assert optax.apply_updates(p, updates).item() == -s
        assert float(new[1].loss) == pytest.approx(abs(-s - target), rel=1e-6)


def test_the_ends_of_a_step_keep_their_bits() -> None:
    rng = np.random.default_rng(0)
    p = (rng.normal(size=1000) * 10.0 ** rng.uniform(-3, 3, 1000)).astype(np.float32)
    updates = rng.normal(size=1000).astype(np.float32)
    for value_fn, s in ((lambda q: -abs(q - p).sum(), 1.0), (lambda q: abs(q - p).sum(), 0.0)):
        found, choice = epoch.eve_step(updates, p, value_fn, grid=[1])
        assert float(choice.s) == s
        assert equal(found, updates * np.float32(s)) or not (s or np.any(found))
    far = jnp.float32([jnp.inf, 1.0])
    found, _ = epoch.eve(far, jnp.zeros(2), lambda q: jnp.float32(1.0))
    assert found.tolist() == far.tolist()  # 0 times infinity is not computed


@pytest.mark.parametrize("dtype", [jnp.bfloat16, slow(jnp.float32)])
def test_dtypes_stay(dtype: Any) -> None:
    p = jax.tree.map(lambda x: jnp.asarray(x, dtype), PARAMS)
    grads = jax.tree.map(jnp.ones_like, p)
    control = epoch.direction_careful()
    chain = optax.chain(optax.sgd(0.1), epoch.scale_by(control, 1), epoch.scale_by_eve())
    zeros = jax.tree.map(jnp.zeros_like, p)

    def everything(p: Any) -> Any:
        def size(q: Any) -> Any:
            return q["w"].astype(jnp.float32).sum()

        updates, _ = chain.update(grads, chain.init(p), p, value=1.0, value_fn=size)
        moved, _ = epoch.eve(optax.apply_updates(p, updates), p, lambda q: q["w"].sum())
        state, ended = epoch.epoch_momentum(epoch.epoch_momentum_init(p), moved, p)
        return state, (updates, moved, ended, epoch.extrapolate(moved, p, zeros))

    state, trees = jax.eval_shape(everything, p)
    assert {x.dtype for x in jax.tree.leaves(trees)} == {jnp.dtype(dtype)}
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}
    assert equal(epoch.extrapolate(grads, p, zeros)[0], grads)  # no direction before, no move


def test_backstep_restores_every_bit() -> None:
    p = jnp.float32([jnp.nan, -0.0, jnp.inf])
    state = core_backstep.init(p)
    for undo in (True, jnp.array(True)):
        _, found = epoch.backstep(state, jnp.zeros(3), undo)
        assert np.asarray(found).tobytes() == np.asarray(p).tobytes()
    _, found = epoch.backstep(state, jnp.ones(3), False)
    assert found.tolist() == [1, 1, 1]


# Errors.


@pytest.mark.parametrize(
    ("make_it", "error", "message"),
    [
        (lambda: epoch.careful(gamma=2.0), ValueError, "gamma = 2.0"),
        (lambda: epoch.careful(rollback=1), TypeError, "rollback = 1"),
        (lambda: epoch.direction(0.5, centred=True), ValueError, "1/3"),
        (lambda: epoch.direction(min_lr=1.0, max_lr=0.5), ValueError, "min_lr = 1.0"),
        (lambda: epoch.scale_by(epoch.careful(), 0), ValueError, "steps_per_epoch = 0"),
        (lambda: epoch.scale_by(epoch.careful(), 1.5), TypeError, "steps_per_epoch = 1.5"),
        (lambda: epoch.scale_by(epoch.careful(rollback=True), 3), ValueError, "end_epoch"),
        (
            lambda: epoch.with_control(optax.sgd, epoch.careful(), -1.0),
            ValueError,
            "lr = -1.0",
        ),
        (
            lambda: epoch.with_control(optax.sgd, epoch.careful(rollback=True), 0.1, 3),
            ValueError,
            "end_epoch",
        ),
        (lambda: epoch.scale_by_eve((1.0, math.nan)), ValueError, "grid = "),
        (
            lambda: epoch.eve(jnp.ones(1), jnp.ones(1), lambda p: p),
            ValueError,
            r"loss of shape \(1,\)",
        ),
        (lambda: epoch.eve(jnp.ones(1), jnp.ones(2), jnp.sum), ValueError, "shapes differ"),
        (lambda: epoch.eve_march(jnp.ones(1), jnp.ones(1), jnp.sum, h=0), ValueError, "h = 0"),
        (
            lambda: epoch.end_epoch(epoch.careful(), jnp.ones(1), (), value=1.0),
            TypeError,
            "state of type tuple",
        ),
        (
            lambda: epoch.careful().end_epoch(epoch.careful().init(jnp.ones(1)), jnp.ones(1)),
            ValueError,
            "value = None",
        ),
    ],
)
def test_bad_values_are_refused(make_it: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make_it()


@pytest.mark.parametrize(
    ("tx", "arguments", "message"),
    [
        (epoch.scale_by(epoch.careful(), 3), {"params": jnp.ones(1)}, "value = None"),
        (epoch.scale_by(epoch.direction(), 3), {"value": 1.0}, "params = None"),
        (epoch.scale_by_eve(), {"params": jnp.ones(1)}, "value_fn = None"),
    ],
)
def test_what_update_needs(tx: Any, arguments: dict[str, Any], message: str) -> None:
    p = jnp.ones(1)
    with pytest.raises(ValueError, match=message):
        tx.update(p, tx.init(p), **arguments)


def test_a_layout_hands_the_rate_on_in_double() -> None:
    """Muon forms a product of the rate before the rate meets an array."""
    params, grads = (
        jnp.asarray(np.random.default_rng(seed).normal(size=(32, 64)), jnp.float32)
        for seed in range(2)
    )

    def turned(lr: Any) -> Any:
        return optstudy_jax.in_torch_layout(optstudy_jax.muon(lr), lambda name, leaf: None)

    found = []
    for make in (optstudy_jax.muon, turned):
        tx = epoch.with_control(make, epoch.direction(), 0.01)
        found.append(tx.update(grads, tx.init(params), params)[0])
    assert found[0].tobytes() == found[1].tobytes()
