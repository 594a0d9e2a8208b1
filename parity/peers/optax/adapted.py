"""Functions of optax with changes that allow a comparison; each docstring has the change."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import numpy as np
import optax
from optax._src import factorized


def madgrad(rate: Any, **given: Any) -> Any:
    """Return that of optax with a float64 counter; optax takes √(k + 1) of an int32, in float32."""
    schedule = (lambda count: rate(count.astype(np.int32))) if callable(rate) else rate
    tx = optax.contrib.madgrad(schedule, **given)

    def init(params: Any) -> Any:
        double = jax.tree.leaves(params)[0].dtype == np.float64
        decay, state = tx.init(params)
        return decay, state._replace(count=state.count.astype(np.float64)) if double else state

    return optax.GradientTransformationExtraArgs(init, tx.update)


def _counting_in_double(make: Callable[..., Any], **given: Any) -> Any:
    """Return that of optax with float64 counters; its warm-up divides an int32, in float32."""
    tx = make(**given)

    def init(params: Any) -> Any:
        double = jax.tree.leaves(params)[0].dtype == np.float64
        counts = (lambda x: x.astype(np.float64) if x.dtype == np.int32 else x) if double else None
        return jax.tree.map(counts, tx.init(params)) if counts else tx.init(params)

    return optax.GradientTransformationExtraArgs(init, tx.update)


def schedule_free_sgd(rate: float, **given: Any) -> Any:
    """Return that of optax with float64 counters."""
    return _counting_in_double(optax.contrib.schedule_free_sgd, learning_rate=rate, **given)


def schedule_free_adamw(rate: float, **given: Any) -> Any:
    """Return that of optax with float64 counters."""
    return _counting_in_double(optax.contrib.schedule_free_adamw, learning_rate=rate, **given)


def first_optimistic_adam(rate: float, **given: Any) -> Any:
    """Return the predecessor of ``optimistic_adam_v2``, without the warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # in favour of optimistic_adam_v2
        return optax.optimistic_adam(rate, **given)


def adafactor(rate: Any, **given: Any) -> Any:
    """Return that of optax with t^-0.8 and momentum in the parameter dtype instead of float32."""

    def in_double(i: Any, exponent: Any = 0.8) -> Any:
        return 1 - (i + 1).astype(float) ** -exponent

    function = factorized.scale_by_factored_rms
    with mock.patch.object(
        factorized, "scale_by_factored_rms", lambda *a: function(*a, decay_rate_fn=in_double)
    ):
        return optax.adafactor(rate, dtype_momentum=None, **given)


def sm3(rate: float, **given: Any) -> Any:
    """Return that of optax with scalars as vectors of one element; optax fails for scalars."""
    tx = optax.sm3(rate, **given)

    def raised(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(x.shape or 1), tree)

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        updates, state = tx.update(raised(grads), state, raised(params))
        return jax.tree.map(lambda u, g: u.reshape(g.shape), updates, grads), state

    return optax.GradientTransformation(lambda params: tx.init(raised(params)), update)


def muon(rate: Any, **given: Any) -> Any:
    """Return that of optax for matrices, and AdamW without Nesterov momentum for the rest."""

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda p: "muon" if p.ndim == 2 else "adamw", params)

    rules = {
        "muon": optax.contrib.muon(rate, **given),
        "adamw": optax.adamw(rate, weight_decay=0.0),
    }
    return optax.transforms.partition(rules, labels)


def polyak_sgd(rate: Any, max_lr: float = 1.0, **given: Any) -> Any:
    """Return that of optax with its scaling as our learning rate."""
    return optax.polyak_sgd(max_learning_rate=max_lr, scaling=rate, **given)


def sophia(rate: Any, **given: Any) -> Any:
    """Return that of optax with given estimates."""
    handed = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(),
        lambda updates, state, params=None, *, hessian, **extra: (hessian, state),
    )
    return optax.contrib.sophia(rate, hessian_diagonal_fn=handed, **given)


def lookahead(rate: Any, **given: Any) -> Any:
    """Return that of optax with the slow weights in the state."""
    tx = optax.lookahead(optax.adam(rate), **given)

    def update(grads: Any, state: Any, params: Any) -> Any:
        inner, slow = state
        updates, inner = tx.update(grads, inner, optax.LookaheadParams(params, slow))
        return updates.fast, (inner, optax.apply_updates(slow, updates.slow))

    return optax.GradientTransformation(
        lambda params: (tx.init(optax.LookaheadParams.init_synced(params)), params), update
    )


def sam(rate: float, rho: float, **given: Any) -> Any:
    """Return that of optax with ε added to the norm; otherwise zero gradients give NaN."""

    def along(grads: Any, params: Any) -> Any:
        length = optax.tree.norm(grads) + 1e-12
        return jax.tree.map(lambda g: g / length, grads)

    climb = optax.chain(optax.stateless(along), optax.sgd(rho))
    return optax.contrib.sam(optax.adam(rate), climb, **given)


def mechanize(rate: Any, **given: Any) -> Any:
    """Return that of optax around Adam."""
    return optax.contrib.mechanize(optax.adam(rate), **given)


def clip_by_global_norm(rate: Any, max_norm: float) -> Any:
    """Return that of optax before Adam."""
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(rate))


def clip(rate: Any, max_delta: float) -> Any:
    """Return that of optax before Adam."""
    return optax.chain(optax.clip(max_delta), optax.adam(rate))


def adaptive_grad_clip(rate: Any, clipping: float) -> Any:
    """Return that of optax before Adam."""
    return optax.chain(optax.adaptive_grad_clip(clipping), optax.adam(rate))


def multi_steps(rate: Any, every_k_schedule: int) -> Any:
    """Return that of optax around Adam, with a mean in the parameter dtype instead of float32."""
    tx = optax.MultiSteps(optax.adam(rate), every_k_schedule, accumulator_dtype=np.float64)
    return tx.gradient_transformation()


def ema(rate: Any, decay: float) -> Any:
    """Return Adam with the parameter average of optax at the end of the state."""
    tx, mean = optax.adam(rate), optax.ema(decay)

    def update(grads: Any, state: Any, params: Any) -> Any:
        inner, kept, _ = state
        updates, inner = tx.update(grads, inner, params)
        average, kept = mean.update(optax.apply_updates(params, updates), kept)
        return updates, (inner, kept, average)

    return optax.GradientTransformation(
        lambda params: (tx.init(params), mean.init(params), params), update
    )


def _two(make: Callable[[], Any]) -> Any:
    """Return optax.multi_transform of two transformations, for alternate leaves."""
    return optax.multi_transform({"a": make(), "b": make()}, ["a", "b", "a", "b", "a"])


def _every_third(make: Callable[[], Any]) -> Any:
    return optax.MultiSteps(make(), 3).gradient_transformation()


AROUND: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "multi_transform": _two,
    "MultiSteps": _every_third,
}
"""Transformations around others."""
