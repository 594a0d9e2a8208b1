"""Accumulation over mini-batches: the mean, what waits for it, and optax's own to the last bit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS, accumulated, clipped
from optstudy_core.schedules import Linear, PerEpoch

K = 3
GRADS = np.float32(np.random.default_rng(0).normal(size=(2 * K + 1, 5)))


def in_torch(rule: Any, grads: Any, dtype: Any = torch.float32, **given: Any) -> tuple[Any, Any]:
    w = torch.nn.Parameter(torch.ones(5, dtype=dtype))
    optimizer = optstudy_torch.from_core(rule)([w], **given)
    for g in grads:
        w.grad = torch.tensor(g, dtype=dtype)
        optimizer.step()
    return w.detach(), optimizer.state[w]


def test_the_mean_is_that_of_optax_to_the_last_bit() -> None:
    tx = optax.MultiSteps(optax.sgd(0.1), K)
    state = tx.init(jnp.ones(5))
    for g in GRADS[: K - 1]:
        updates, state = tx.update(jnp.asarray(g), state)
        assert not updates.any()
    w, own = in_torch(accumulated(ALGORITHMS["sgd"]), GRADS[: K - 1], accumulation_steps=K)
    assert np.array_equal(own["mean"], state.acc_grads)
    assert torch.equal(w, torch.ones(5))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_k_mini_batches_are_one_step_of_their_mean(dtype: str) -> None:
    """The mean is float32, and steps count for the algorithm only when it takes one."""
    kind = getattr(torch, dtype)
    w, state = in_torch(accumulated(ALGORITHMS["adam"]), GRADS, kind, lr=0.1, accumulation_steps=K)
    assert (int(state["t"]), int(state["inner.t"]), state["mean"].dtype) == (1, 2, torch.float32)
    means = []
    for rows in (GRADS[:K], GRADS[K : 2 * K]):
        mean = np.zeros(5, np.float32)
        for n, g in enumerate(rows, 1):
            mean = mean + (torch.tensor(g, dtype=kind).float().numpy() - mean) / np.float32(n)
        means.append(mean)
    theta = np.ones(5, np.float32)
    own = ALGORITHMS["adam"].init(theta)
    for mean in means:
        own, step = ALGORITHMS["adam"].update(own, mean, theta, lr=0.1)
        theta = (torch.tensor(theta).to(kind) + torch.tensor(step).to(kind)).float().numpy()
    assert np.array_equal(w.float().numpy(), theta)


def test_both_frameworks_agree_and_a_schedule_may_count_steps() -> None:
    rule = accumulated(clipped(ALGORITHMS["adam"]))
    rate = PerEpoch(Linear(0.1, 0.3, 2), K)
    w, _ = in_torch(rule, GRADS, lr=rate, accumulation_steps=K, max_norm=0.5)
    tx = optstudy_jax.from_core(rule)(rate, accumulation_steps=K, max_norm=0.5)
    params = jnp.ones(5)
    state, update = tx.init(params), jax.jit(tx.update)
    for g in GRADS:
        updates, state = update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, updates)
    assert np.array_equal(w, params)
    assert not np.array_equal(w, np.ones(5))
