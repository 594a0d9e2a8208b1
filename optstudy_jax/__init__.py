"""optstudy for JAX: optax transformations around the pure functions of the core.

There is a function for every algorithm: ``sgd``, ``adam``, ``adamw``, ``amsgrad``, …

>>> import jax.numpy as jnp
>>> tx = adam(learning_rate=1e-3)
>>> state = tx.init({"w": jnp.zeros(2)})
"""

from __future__ import annotations

from optstudy_core import ALGORITHMS, __version__

from . import epoch, geometry, recorder
from ._selfcheck import selfcheck
from .hessian import hutchinson
from .recorder import Recorder
from .transform import TransformState, from_core

globals().update({name: from_core(name) for name in ALGORITHMS})

__all__ = [
    "Recorder",
    "TransformState",
    "__version__",
    "epoch",
    "from_core",
    "geometry",
    "hutchinson",
    "recorder",
    "selfcheck",
    *sorted(ALGORITHMS),
]
