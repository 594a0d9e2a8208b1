"""Methods that act once an epoch, in the conventions of optax.

:func:`direction`, :func:`careful` and :func:`direction_careful` make a :class:`Control`, with pure
functions that end an epoch. There are two ways to use it.

First, as a multiplier of the updates, after any optimizer in an ``optax.chain``. An epoch has a
fixed number of steps, and ``value`` is the loss of each step:

>>> import jax, jax.numpy as jnp, optax
>>> tx = optax.chain(optax.adam(1e-3), scale_by(careful(), steps_per_epoch=100))
>>> params = jnp.zeros(2)
>>> state = tx.init(params)
>>> updates, state = tx.update(jnp.ones(2), state, params, value=1.5)

Second, as a factor of the learning rate of an optimizer, with the bits of
``optstudy_torch.lr_scheduler``. An epoch ends with a call of :func:`end_epoch` (or after
``steps_per_epoch``), and can be undone:

>>> control = careful(rollback=True)
>>> tx = with_control(optax.adam, control, 1e-3)
>>> state = tx.init(params)
>>> for loss in [1.0, 2.0]:
...     updates, state = tx.update(jnp.ones(2), state, params)
...     params, state = end_epoch(
...         control, optax.apply_updates(params, updates), state, value=loss
...     )
>>> round(float(state.control.decided.factor), 6), bool(state.control.metrics.jump)
(0.8, True)

:func:`eve`, :func:`eve_march` and :func:`eve_step` search for the lowest loss, with ``value_fn``.
:func:`extrapolate` and :func:`epoch_momentum` move the parameters at the end of an epoch. All work
in ``jit`` and ``scan``. Instead of parameters and a state of an optimizer, they also accept a
module and an optimizer of nnx, which they change in place and return. The formulas are those of
``optstudy_core.epoch``.
"""

from __future__ import annotations

from optstudy_core.epoch.eve import Choice

from ._control import (
    Control,
    ControlState,
    EpochMetrics,
    careful,
    direction,
    direction_careful,
)
from ._controlled import ControlledState, begin_epoch, end_epoch, scale_by, with_control
from ._eve import EveState, eve, eve_march, eve_step, scale_by_eve
from ._moves import backstep, epoch_momentum, epoch_momentum_init, extrapolate

__all__ = [
    "Choice",
    "Control",
    "ControlState",
    "ControlledState",
    "EpochMetrics",
    "EveState",
    "backstep",
    "begin_epoch",
    "careful",
    "direction",
    "direction_careful",
    "end_epoch",
    "epoch_momentum",
    "epoch_momentum_init",
    "eve",
    "eve_march",
    "eve_step",
    "extrapolate",
    "scale_by",
    "scale_by_eve",
    "with_control",
]
