"""Modules and optimizers of Flax's nnx, taken as they are."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from harness import slow

import optstudy_jax
from optstudy_core.records import Run
from optstudy_jax import Recorder, checkpoint, epoch

pytestmark = pytest.mark.usefixtures("compiled_quickly")

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32))


class Network(nnx.Module):
    """With statistics and random numbers, which no optimizer trains."""

    def __init__(self, seed: int = 0) -> None:
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(4, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.second = nnx.Linear(5, 1, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.second(self.dropout(jnp.tanh(self.norm(self.first(x)))))


def loss_of(model: Any) -> Any:
    return jnp.mean((model(X) - X[:, :1]) ** 2)


def gradients(model: Any, k: int) -> Any:
    """Return gradients that are the same in every run."""
    state = nnx.state(model, nnx.Param)
    return jax.tree.map(lambda x: 0.1 * jnp.cos(k + jnp.arange(x.size)).reshape(x.shape), state)


def arrays(model: Any) -> list[np.ndarray]:
    """Return copies of all arrays of a module or an optimizer."""
    data = jax.tree.leaves(nnx.as_pure(nnx.state(model)))
    keys = jax.dtypes.prng_key
    return [np.array(jax.random.key_data(x) if jnp.issubdtype(x.dtype, keys) else x) for x in data]


def assert_same(found: Any, wanted: Any) -> None:
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(x, y)


CONTROLS = {
    "rollback": epoch.careful(rollback=True),
    "direction": epoch.direction(),
}


@pytest.mark.parametrize("name", ["rollback", slow("direction")])
def test_an_epoch_ends_in_place_as_that_of_trees(name: str) -> None:
    control = CONTROLS[name]
    tx = epoch.with_control(optstudy_jax.adam, control, 0.1)
    model = Network()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    state = tx.init(params)
    end = jax.jit(functools.partial(epoch.end_epoch, control))
    end_in_nnx = nnx.jit(functools.partial(epoch.end_epoch, control))
    update = jax.jit(tx.update)
    for k, loss in enumerate([1.0, 2.0, 0.5]):
        grads = gradients(model, k)
        nnx.jit(nnx.Optimizer.update)(optimizer, model, grads)
        updates, state = update(nnx.as_pure(grads), state, params)
        params, state = end(optax.apply_updates(params, updates), state, value=loss)
        end_in_nnx(model, optimizer, value=loss)
        assert_same(jax.tree.leaves(nnx.as_pure(optimizer.opt_state)), jax.tree.leaves(state))
        kept = nnx.as_pure(nnx.state(model, nnx.Param))
        assert_same(jax.tree.leaves(kept), jax.tree.leaves(params))
    begun = epoch.begin_epoch(control, model, optimizer)
    assert begun is optimizer
    assert int(optimizer.opt_state.control.epoch[...]) == 3


def test_eve_and_moves_are_made_in_place() -> None:
    model = Network()
    start = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(model, optstudy_jax.sgd(0.5), wrt=nnx.Param)
    optimizer.update(model, nnx.grad(loss_of)(model))

    def value(model: Any) -> Any:
        model.eval()
        return loss_of(model)

    def tree_value(params: Any) -> Any:
        copy = nnx.clone(model)
        nnx.update(copy, params)
        return value(copy)

    pure = nnx.as_pure(nnx.state(model, nnx.Param))
    others, begin = arrays(model), nnx.as_pure(start)
    for search in (epoch.eve, functools.partial(epoch.eve_march, marches=3)):
        wanted, choice = jax.jit(lambda x, y, f=search: f(x, y, tree_value))(pure, begin)
        found = nnx.jit(lambda x, y, f=search: f(x, y, value)[1])(model, start)
        assert_same(jax.tree.leaves(found), jax.tree.leaves(choice))
        assert_same(
            jax.tree.leaves(nnx.as_pure(nnx.state(model, nnx.Param))), jax.tree.leaves(wanted)
        )
        nnx.update(model, pure)
    assert_same(arrays(model), others)  # a search changes no statistics and no random numbers

    zeros = jax.tree.map(jnp.zeros_like, start)
    wanted, step = epoch.extrapolate(pure, begin, nnx.as_pure(zeros))
    same, delta = epoch.extrapolate(model, start, zeros)
    assert same is model
    assert_same(jax.tree.leaves(delta), jax.tree.leaves(step))
    nnx.update(model, pure)
    average = epoch.epoch_momentum_init(model)
    _, wanted = epoch.epoch_momentum(average, pure, begin)
    average, same = epoch.epoch_momentum(average, model, start)
    assert same is model
    assert_same(jax.tree.leaves(nnx.as_pure(nnx.state(model, nnx.Param))), jax.tree.leaves(wanted))


def test_the_recorder_takes_a_module_and_an_optimizer() -> None:
    """And finds the rate with the factor, and the moments."""
    control = epoch.careful(gamma=0.5)
    model = Network()
    tx = epoch.with_control(optstudy_jax.adam, control, 0.25)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    wanted = ["lr", "step_size", "grad_norm", "moments"]
    recorder, of_trees = (Recorder(x, step=wanted) for x in (model, nnx.state(model, nnx.Param)))
    for k, loss in enumerate([1.0, 2.0, 3.0]):
        grads = gradients(model, k)
        optimizer.update(model, grads)
        recorder.step(model, grads=grads, state=optimizer)
        pure = nnx.as_pure(nnx.state(model, nnx.Param))
        of_trees.step(pure, grads=nnx.as_pure(grads), state=nnx.as_pure(optimizer.opt_state))
        rows = recorder.end_epoch(model, loss), of_trees.end_epoch(pure, loss)
        assert str(rows[0]) == str(rows[1])  # a first angle is NaN
        same, again = epoch.end_epoch(control, model, optimizer, value=loss)
        assert same is model
        assert again is optimizer
    assert recorder.steps == of_trees.steps
    assert [row["lr"] for row in recorder.steps] == [0.25, 0.25, 0.125]
    assert [row["lr"] for row in recorder.epochs] == [0.25, 0.25, 0.125]


def test_the_rate_is_within_its_bounds() -> None:
    control = epoch.careful(gamma=0.5, min_lr=0.2)
    tx = epoch.with_control(optax.sgd, control, lambda count: 0.25)
    params = {"w": jnp.ones(2)}
    state = tx.init(params)
    assert float(state.learning_rate) == 0.25
    for loss in (1.0, 2.0):
        params, state = epoch.end_epoch(control, params, state, value=loss)
    _, state = tx.update(params, state, params)
    assert float(state.learning_rate) == np.float32(0.2)


def test_a_checkpoint_is_loaded_into_a_module_and_an_optimizer(tmp_path: Path) -> None:
    def begun(seed: int) -> Any:
        model = Network(seed)
        return model, nnx.Optimizer(model, optstudy_jax.adamw(0.1), wrt=nnx.Param)

    model, optimizer = begun(0)
    loss_of(model)  # moves statistics and random numbers
    optimizer.update(model, gradients(model, 0))
    with Run.create(tmp_path / "run", {}, tensorboard=False) as run:
        checkpoint.save(run, 1, model=model, optimizer=optimizer)
        other, again = begun(1)
        before = arrays(other)
        with pytest.raises(ValueError, match=r"allowed is float32 of shape"):
            checkpoint.load(run, model=_wider(), optimizer=again)
        assert_same(arrays(other), before)
        found = checkpoint.load(run, model=other, optimizer=again)
    assert found is not None
    assert found.trees["model"] is other
    assert found.trees["optimizer"] is again
    assert_same(arrays(other), arrays(model))
    assert_same(arrays(again), arrays(optimizer))
    for m, o in ((model, optimizer), (other, again)):
        o.update(m, gradients(m, 1))
    assert_same(arrays(other), arrays(model))
    assert float(loss_of(other)) == float(loss_of(model))  # of the same random numbers


def _wider() -> Network:
    model = Network(1)
    model.second = nnx.Linear(5, 2, rngs=nnx.Rngs(0))
    return model


def test_leaves_of_several_optimizers_in_a_model() -> None:
    """A state of a part of the model has no array in the place of the others' leaves."""
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda x: "a" if x.ndim > 1 else "b", params)

    rules = {"a": optstudy_jax.adam(0.1), "b": optstudy_jax.sgd(0.1)}
    optimizer = nnx.Optimizer(model, optax.multi_transform(rules, labels), wrt=nnx.Param)
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    optimizer.update(model, jax.tree.map(jnp.ones_like, before))
    np.testing.assert_allclose(model.kernel[...], before["kernel"][...] - 0.1, rtol=1e-5)
    np.testing.assert_allclose(model.bias[...], before["bias"][...] - 0.1, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["adam", "sm3", *(slow(n) for n in ("adafactor", "muon", "shampoo", "soap"))]
)
def test_states_of_parameters_go_through_updates(name: str) -> None:
    """Fields of another shape than the parameter are no variables of nnx, before and after."""
    model = Network()
    params = nnx.state(model, nnx.Param)
    tx = getattr(optstudy_jax, name)(0.1)
    state = tx.init(params)
    updates, new = jax.jit(tx.update)(gradients(model, 0), state, params)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    bare = jax.tree.map(lambda x: x, nnx.to_pure_dict(params))
    plain = jax.jit(tx.update)(nnx.to_pure_dict(gradients(model, 0)), tx.init(bare), bare)[0]
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(a, b)
