"""optstudy for JAX: optax transformations around the pure functions of the core.

There is a function for every algorithm: ``sgd``, ``adam``, ``adamw``, ``amsgrad``, …

>>> import jax.numpy as jnp
>>> tx = adam(learning_rate=1e-3)
>>> state = tx.init({"w": jnp.zeros(2)})
"""

from __future__ import annotations

from typing import Any

from optstudy_core import ALGORITHMS, __version__
from optstudy_core.hyperparameters import nearest

from . import epoch, geometry, recorder
from ._selfcheck import selfcheck
from .hessian import hutchinson
from .recorder import Recorder
from .transform import PerLeaf, TransformState, by_leaf, from_core, side_by_side

__all__ = [
    "PerLeaf",
    "Recorder",
    "TransformState",
    "__version__",
    "by_leaf",
    "epoch",
    "from_core",
    "geometry",
    "hutchinson",
    "recorder",
    "selfcheck",
    "side_by_side",
    *sorted(ALGORITHMS),
]


def __getattr__(name: str) -> Any:
    """Return the function of an algorithm, which is made when it is first asked for."""
    if name not in ALGORITHMS:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}: {nearest(name, __all__)}"
        )
    function = globals()[name] = from_core(name)
    return function


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
