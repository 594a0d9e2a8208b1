"""The digits study with all that stands around an optimizer, in both frameworks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optstudy_jax
from optstudy_core import ALGORITHMS, accumulated, averaged, clipped, skipping
from optstudy_core.schedules import Cosine, PerEpoch, warmup_stable_decay
from studies.learners.optimizer import Optimizer
from studies.learners.training import make_learner
from studies.study import Study

torch = pytest.importorskip("torch")
optax = pytest.importorskip("optax")
pytest.importorskip("sklearn")

import optstudy_torch  # noqa: E402
from studies.learners.torch_learner import subnormals_flushed  # noqa: E402

RULE = averaged(skipping(accumulated(clipped(ALGORITHMS["adamw"]))))
K, STEPS = 2, 24
GIVEN: dict[str, Any] = {
    "weight_decay": 0.01,
    "max_norm": 0.5,
    "accumulation_steps": K,
    "jump_warmup": 5,
    "average_decay": 0.9,
}
RATE = PerEpoch(warmup_stable_decay(3e-3, warmup=4, stable=2, decay=6, decay_shape=Cosine), K)


def test_a_training_fed_the_same_gradients_ends_on_the_same_bits(
    study_of: Callable[[str], Study],
) -> None:
    """With warm-up, clipping, accumulation, skipping and averaging; one mini-batch is spoiled."""
    study = study_of("digits")
    learner = make_learner("torch", study, Optimizer("adamw", 1e-3))
    begin = learner.parameters()
    params = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in begin.items()}
    optimizer = optstudy_torch.from_core(RULE)(params.values(), lr=RATE, **GIVEN)
    tx = optstudy_jax.from_core(RULE)(RATE, **GIVEN)
    tree = {name: jnp.asarray(x) for name, x in begin.items()}
    state, update = tx.init(tree), jax.jit(tx.update)
    for t, batch in enumerate(islice(study.batches(1), STEPS)):
        here = {name: p.detach().numpy().copy() for name, p in params.items()}
        grads = learner.gradients(here, batch)
        if t == 15:
            grads = {name: np.full_like(g, np.nan) for name, g in grads.items()}
        for name, g in grads.items():
            params[name].grad = torch.tensor(g)
        with subnormals_flushed():
            optimizer.step()
        updates, state = update({n: jnp.asarray(g) for n, g in grads.items()}, state, tree)
        tree = optax.apply_updates(tree, updates)

    own = optimizer.state[params[next(iter(params))]]
    assert (float(own["inner.taken"]), float(own["inner.not_finite"])) == (STEPS - 1, 1)
    assert optimizer.param_groups[0]["lr"] == RATE(STEPS)
    trained = {name: p.detach().numpy().copy() for name, p in params.items()}
    optimizer.eval()
    found = optstudy_jax.eval_params(state, tree)
    for name, p in params.items():
        assert trained[name].tobytes() == np.asarray(tree[name]).tobytes()
        assert p.detach().numpy().tobytes() == np.asarray(found[name]).tobytes()
        assert not np.array_equal(trained[name], begin[name])
        assert not np.array_equal(trained[name], p.detach().numpy())
