"""Parameters to evaluate with: the same in both adapters, and back to the last bit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import torch
from harness import to_numpy, to_torch

import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS, averaged, clipped, eval_params

pytestmark = pytest.mark.usefixtures("compiled_quickly")

RULES = {
    "averaged": averaged(ALGORITHMS["adam"]),
    "clipped, averaged": clipped(averaged(ALGORITHMS["sgd"])),
    "an average of matrices": averaged(ALGORITHMS["adafactor"]),
    "schedule-free": ALGORITHMS["schedule_free_adamw"],
}
SHAPES = [(3,), (4, 5)]


def draw(dtype: Any) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    rng = np.random.default_rng(0)
    rows = [[rng.normal(size=s).astype(dtype) for s in SHAPES] for _ in range(4)]
    return rows[0], rows[1:]


def in_torch(rule: Any, dtype: Any = np.float32, **given: Any) -> tuple[list[Any], Any]:
    begin, grads = draw(dtype)
    params = [torch.nn.Parameter(to_torch(x)) for x in begin]
    optimizer = optstudy_torch.from_core(rule)(params, lr=0.1, **given)
    for row in grads:
        for p, g in zip(params, row, strict=True):
            p.grad = to_torch(g)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", RULES)
def test_both_adapters_evaluate_with_the_same_parameters(name: str, dtype: Any) -> None:
    params, optimizer = in_torch(RULES[name], dtype)
    trained = [p.detach().clone() for p in params]
    optimizer.eval()
    optimizer.eval()  # twice is once
    found = [to_numpy(p) for p in params]
    assert not any(torch.equal(p, t) for p, t in zip(params, trained, strict=True))

    begin, grads = draw(dtype)
    tx = optstudy_jax.from_core(RULES[name])(0.1)
    tree = list(map(jnp.asarray, begin))
    state = tx.init(tree)
    for row in grads:
        updates, state = tx.update(list(map(jnp.asarray, row)), state, tree)
        tree = optax.apply_updates(tree, updates)
    b1 = 0.9 if name == "schedule-free" else None
    theirs = jax.jit(optstudy_jax.eval_params, static_argnames="b1")(state, tree, b1=b1)
    for x, y in zip(found, theirs, strict=True):
        assert x.dtype == y.dtype
        assert x.tobytes() == np.asarray(y).tobytes()

    optimizer.train()
    assert all(torch.equal(p, t) for p, t in zip(params, trained, strict=True))


def test_what_keeps_no_average_stays() -> None:
    params, optimizer = in_torch(ALGORITHMS["adam"])
    before = [p.detach().clone() for p in params]
    optimizer.eval()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    optimizer.step()  # nothing was exchanged
    optimizer.state_dict()
    tx = optstudy_jax.adam(0.1)
    assert optstudy_jax.eval_params(tx.init(jnp.ones(2)), jnp.ones(2)).tolist() == [1, 1]


def test_leaves_of_several_optimizers() -> None:
    txs = {"a": optstudy_jax.from_core(RULES["averaged"])(0.1), "b": optstudy_jax.sgd(0.1)}
    tx = optax.chain(optax.clip(1.0), optax.multi_transform(txs, {"x": "a", "y": "b"}))
    params = {"x": jnp.ones(2), "y": jnp.ones(3)}
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(params, state, params)
        params = optax.apply_updates(params, updates)
    found = optstudy_jax.eval_params(state, params)
    assert np.array_equal(found["y"], params["y"])
    assert not np.array_equal(found["x"], params["x"])


def test_a_schedule_free_average_needs_its_beta() -> None:
    theta = np.ones(2)
    state = ALGORITHMS["schedule_free_sgd"].init(theta)
    with pytest.raises(ValueError, match="b1 = None"):
        eval_params(state, theta)
