"""Steps that are left out: what is not finite, what jumps, and that nothing changes then."""

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
from optstudy_core import ALGORITHMS, accumulated, averaged, skipping
from parity import backends, suite
from parity.case import Case

RNG = np.random.default_rng(0)
GRADS = np.float32(RNG.normal(size=(30, 5)))
GRADS[7, 2] = np.nan
GRADS[11] = np.inf
GRADS[20] *= 100


def in_torch(rule: Any, grads: Any, losses: Any = None, **given: Any) -> tuple[Any, Any]:
    parts = [torch.nn.Parameter(torch.ones(n)) for n in (2, 3)]
    optimizer = optstudy_torch.from_core(rule)(parts, **given)
    for t, g in enumerate(grads):
        for p, own in zip(parts, np.split(g, [2]), strict=True):
            p.grad = torch.tensor(own)
        optimizer.step(**({} if losses is None else {"value": losses[t]}))
    return np.concatenate([p.detach().numpy() for p in parts]), optimizer.state[parts[1]]


def in_jax(rule: Any, grads: Any, losses: Any = None, **given: Any) -> np.ndarray:
    def split(x: Any) -> Any:
        return list(map(jnp.asarray, np.split(x, [2])))

    tx = optstudy_jax.from_core(rule)(given.pop("lr"), **given)
    params = split(np.ones(5, np.float32))
    state, update = tx.init(params), jax.jit(tx.update)
    for t, g in enumerate(grads):
        more = {} if losses is None else {"value": jnp.float32(losses[t])}
        updates, state = update(split(g), state, params, **more)
        params = optax.apply_updates(params, updates)
    return np.concatenate(params)


def test_what_is_skipped_never_was() -> None:
    """The steps that are taken are those of the algorithm alone, whose state counts them."""
    given = {"lr": 0.1, "jump_warmup": 5}
    ours, state = in_torch(skipping(ALGORITHMS["adam"]), GRADS, **given)
    kept = np.delete(GRADS, [7, 11, 20], axis=0)
    alone, own = in_torch(ALGORITHMS["adam"], kept, lr=0.1)
    assert np.array_equal(ours, alone)
    assert torch.equal(state["inner.m"], own["m"])
    assert int(state["inner.t"]) == int(own["t"]) == 27
    counts = [float(state[name]) for name in ("taken", "not_finite", "jumps", "in_a_row")]
    assert counts == [27, 2, 1, 0]


def test_it_is_apply_if_finite_of_optax() -> None:
    given = {"lr": 0.1, "jump_threshold": np.inf}
    ours, _ = in_torch(skipping(ALGORITHMS["sgd"]), GRADS, **given)
    tx = optax.apply_if_finite(optax.sgd(0.1), max_consecutive_errors=9)
    params = jnp.ones(5)
    state, update = tx.init(params), jax.jit(tx.update)
    for g in GRADS:
        updates, state = update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, updates)
    assert np.allclose(ours, params, rtol=1e-6)
    assert state.total_notfinite == 2


def test_a_loss_that_jumps_is_skipped_too() -> None:
    grads = GRADS[:7]
    losses = np.float32([3.0, 2.5, 2.6, 2.4, 90.0, np.nan, 2.3])
    given = {"lr": 0.1, "jump_warmup": 3}
    ours, state = in_torch(skipping(ALGORITHMS["sgd"]), grads, losses, **given)
    alone, _ = in_torch(ALGORITHMS["sgd"], grads[[0, 1, 2, 3, 6]], lr=0.1)
    assert np.array_equal(ours, alone)
    assert [float(state[n]) for n in ("not_finite", "jumps")] == [1, 1]
    assert np.array_equal(in_jax(skipping(ALGORITHMS["sgd"]), grads, losses, **given), ours)


def test_after_some_jumps_the_level_is_a_new_one() -> None:
    grads = np.float32([[1.0] * 5] * 4 + [[9.0] * 5] * 6)
    _, state = in_torch(skipping(ALGORITHMS["sgd"]), grads, jump_warmup=3, most_jumps=2)
    assert (float(state["taken"]), float(state["jumps"]), float(state["in_a_row"])) == (8, 2, 0)


NESTED = {
    "skipping within accumulation": accumulated(skipping(ALGORITHMS["adam"])),
    "accumulation within skipping": skipping(accumulated(ALGORITHMS["adam"])),
    "all three": averaged(skipping(accumulated(ALGORITHMS["sgd"]))),
}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("rule", NESTED.values(), ids=NESTED)
def test_counts_that_truths_choose_are_those_of_numpy(rule: Any, compiled: bool) -> None:
    """Also where one truth is known before the step and another after a sum."""
    case = Case(
        structure="vectors",
        dtype="float32",
        steps=40,
        seed=1,
        patterns=("mixed", "sparse"),
        groups=({"accumulation_steps": 2.0, "jump_warmup": 2.0, "jump_threshold": 0.5},),
        membership=(0, 0),
        dialect="torch",
    )
    backend = backends.make("torch-compiled" if compiled else "torch")
    assert suite.run_case(rule, case, backend, suite.Tolerated()) == {}
    run = backend.run(rule, case)
    counts = {k: int(x) for k, x in run.state.items() if k.endswith(".t")}
    assert len({*counts.values()}) > 1
    assert min(counts.values()) < 20
