"""Runs of optax transformations, whose step is compiled once."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from harness import (
    fields,
    same,
)

from optstudy_jax import by_leaf

SHAPES = [(), (0,), (4, 5)]


def tree(leaves: list[Any]) -> dict[str, Any]:
    return {f"p{i:02}": jnp.asarray(x) for i, x in enumerate(leaves)}


@functools.cache
def step_of(tx: Any) -> Any:
    """The usual step, update and apply, as one compiled function."""

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def run(tx: Any, params: Any, grads: list[Any], state: Any = None) -> tuple[Any, Any]:
    step = step_of(tx)
    state = tx.init(params) if state is None else state
    for g in grads:
        params, state = step(params, state, g)
    return params, state


def assert_same(params: Any, expected: Any) -> None:
    for i, (p, e) in enumerate(zip(jax.tree.leaves(params), expected, strict=True)):
        assert same(p, e), f"leaf {i}"


def assert_same_trees(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert all(map(same, jax.tree.leaves(a), jax.tree.leaves(b)))


def assert_state(inner: Any, params: Any, expected: list[Any]) -> None:
    for name, field in fields(by_leaf(inner, params)).items():
        for i, e in enumerate(expected):
            assert same(field[f"p{i:02}"], fields(e)[name]), f"{name} of leaf {i}"


def core_names(given: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in given.items() if k != "dialect"}
