"""Parameters of Linen in boxes that say how they are sharded."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from adapters import LR, RULES
from flax.core import meta
from flax.training.train_state import TrainState
from harness import inputs_for, slow
from jax.sharding import PartitionSpec

import optstudy_jax

pytestmark = pytest.mark.usefixtures("compiled_quickly")
QUICK = {"adafactor"}


class Model(nn.Module):
    """A layer with names for its axes, and one without."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        kernel = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
        bias = nn.with_logical_partitioning(nn.initializers.ones, ("out",))
        x = nn.Dense(6, kernel_init=kernel, bias_init=bias)(x)
        return nn.Dense(3)(x)


def is_box(x: Any) -> bool:
    return isinstance(x, meta.AxisMetadata)


def started() -> tuple[Any, Any]:
    """Return parameters and gradients."""
    model, x = Model(), jnp.ones((2, 4))
    params = model.init(jax.random.key(0), x)["params"]
    return params, jax.grad(lambda p: (model.apply({"params": p}, x) ** 2).sum())(params)


@pytest.mark.parametrize("name", [n if n in QUICK else slow(n) for n in RULES])
def test_boxes_do_not_change_a_step(name: str) -> None:
    """They are around steps and what has a parameter's shape; nothing else has their axes."""
    rule = RULES[name]
    tx = optstudy_jax.from_core(rule)(**{"learning_rate": LR} if "lr" in rule.defaults() else {})
    ends = []
    for open_ in (lambda x: x, meta.unbox):
        params, grads = map(open_, started())
        state = tx.init(params)
        kinds = jax.tree.structure(state)
        for _ in range(2):
            more = inputs_for(rule, params)
            updates, state = jax.jit(tx.update)(grads, state, params, **more)
            params = optax.apply_updates(params, updates)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        assert jax.tree.structure(state) == kinds
        ends.append((params, state))
    (boxed, state), (plain, own) = ends
    for x, y in zip(*map(jax.tree.leaves, (meta.unbox((boxed, state)), (plain, own))), strict=True):
        np.testing.assert_array_equal(x, y)
    specs = {(4, 6): PartitionSpec("in", "out"), (6,): PartitionSpec("out")}
    for box in filter(is_box, jax.tree.leaves(state, is_leaf=is_box)):
        (x,) = jax.tree.leaves(box)
        assert nn.get_partition_spec(box) == specs[x.shape]
    kept = jax.tree.leaves(state.inner, is_leaf=is_box)
    assert all(map(is_box, (x for x in kept if np.shape(x) == (4, 6))))


@pytest.mark.parametrize("name", ["adamw", slow("adafactor")])
def test_a_state_of_a_training_is_partitioned(name: str) -> None:
    params, grads = started()
    tx = optax.chain(optax.clip_by_global_norm(1.0), optstudy_jax.from_core(name)(0.1))
    state = TrainState.create(apply_fn=Model().apply, params=params, tx=tx)
    state = state.apply_gradients(grads=grads)
    found = {x for x in jax.tree.leaves(nn.get_partition_spec(state.opt_state)) if x is not None}
    wanted = {PartitionSpec("out"), PartitionSpec()}
    wanted |= {PartitionSpec("in", "out")} if name == "adamw" else set()
    assert found == wanted
