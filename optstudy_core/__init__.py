"""Neural-network optimizers as pure functions: ``(state, grad) → (state, step)``.

Each algorithm is one file: ``optstudy_core/algorithms/adam.py`` is Adam. The functions are written
for the array API, so the same lines run on arrays of NumPy, PyTorch and JAX. Evaluated with NumPy
in the working dtype, they define the result to the last bit.

>>> import numpy as np
>>> from optstudy_core import adam
>>> theta = np.array([1.0, -2.0])
>>> state, step = adam.update(adam.init(theta), 2 * theta, lr=0.1)
>>> (theta + step).round(6).tolist()
[0.9, -1.9]

Each algorithm is a module here (``optstudy_core.adam``), and each wrapper is a function
(``optstudy_core.lookahead``). The parts of formulas are modules, too
(``optstudy_core.bias_correction``). These names stay the same when a file moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._lazy import Lazy
from ._version import __date__ as __date__
from ._version import __version__ as __version__
from .catalogue.algorithm import Algorithm as Algorithm
from .catalogue.table import ALGORITHMS as ALGORITHMS
from .catalogue.table import WRAPPERS as WRAPPERS
from .catalogue.table import find

if TYPE_CHECKING:  # what _lazy imports
    from .arrays import geometry as geometry
    from .arrays.namespace import namespace as namespace
    from .catalogue.citation import citation as citation
    from .parts.evaluation import eval_params as eval_params


def defaults(algorithm: str | Algorithm, dialect: str | None = None) -> dict[str, Any]:
    """Return the default hyperparameters of an algorithm in a dialect.

    Args:
        algorithm: a name of :data:`ALGORITHMS`, or an algorithm.
        dialect: the library or source of the defaults: ``"torch"``, ``"optax"``, ``"paper"``, …;
            ``None`` for the defaults of optstudy.

    Raises:
        ValueError: if the algorithm or the dialect is unknown.

    >>> defaults("adamw")["weight_decay"], defaults("adamw", "optax")["weight_decay"]
    (0.01, 0.0001)
    """
    return find(algorithm).defaults(dialect)


_PUBLIC = {
    "arrays": "axes doubles eigen exact_sum geometry leafwise leaves matrix reductions",
    "parts": "bias_correction loss_model momentum_schedule newton_schulz power schedule_free states"
    " terms trust_ratio",
    "algorithms": " ".join(ALGORITHMS),
}
"""The modules of each folder that have a short name here."""

_PLACES = {
    "citation": "catalogue.citation:citation",
    "eval_params": "parts.evaluation:eval_params",
    "epoch": "epoch",
    "instruments": "instruments",
    "namespace": "arrays.namespace:namespace",
    "records": "records",
    "schedules": "schedules",
    **{name: f"wrappers.{name}:{name}" for name in WRAPPERS},
    **{x: f"{folder}.{x}" for folder, names in _PUBLIC.items() for x in names.split()},
}
_DEFINED = ("ALGORITHMS", "Algorithm", "WRAPPERS", "defaults")


def _nothing(name: str) -> Any:
    raise KeyError(name)


_lazy = Lazy(globals(), _PLACES, lambda: _DEFINED, _nothing)
__dir__ = _lazy.dir


def __getattr__(name: str) -> Any:
    """Return a function or a module (``optstudy_core.adam``), imported at its first use."""
    return _lazy.get(name)
