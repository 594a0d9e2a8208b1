"""Recorders of quantities of a training: inside ``jit``, and for an ordinary training loop.

:func:`record` is the last element of an ``optax.chain``. Its state holds the measurements of the
last step:

>>> import jax.numpy as jnp, optax
>>> tx = optax.chain(optax.sgd(0.5), record(["loss", "step_size", "angle"]))
>>> params = jnp.array([3.0, 4.0])
>>> state = tx.init(params)
>>> updates, state = tx.update(params, state, params, value=12.5)
>>> float(optax.tree_utils.tree_get(state, "metrics")["step_size"])
2.5

:class:`Recorder` makes rows of epochs and steps, the same rows as ``optstudy_torch.Recorder``:

>>> recorder = Recorder(params, epoch=["loss", "step_size"], step=["grad_norm", "step_size"])
>>> for _ in range(3):
...     grads = params
...     updates, state = tx.update(grads, state, params, value=0.0)
...     params = optax.apply_updates(params, updates)
...     recorder.step(params, grads=grads, value=jnp.sum(params**2) / 2)
>>> recorder.end_epoch(params)["step_size"], len(recorder.steps)
(4.375, 3)

The quantities are those of :mod:`optstudy_core.instruments`.
"""

from __future__ import annotations

from .inside_jit import RecordState, measure, record
from .training_loop import Recorder

__all__ = ["RecordState", "Recorder", "measure", "record"]
