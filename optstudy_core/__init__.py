"""Neural-network optimizers as pure functions: ``(state, grad) → (state, step)``.

One algorithm, one file: ``optstudy_core/adam.py`` is Adam. The functions are written for the
array API, so the same lines run on NumPy, PyTorch and JAX arrays; evaluated in NumPy in the
working dtype, they are the definition of the result to the last bit.

>>> import numpy as np
>>> from optstudy_core import adam
>>> theta = np.array([1.0, -2.0])
>>> state, step = adam.update(adam.init(theta), 2 * theta, lr=0.1)
>>> (theta + step).round(6).tolist()
[0.9, -1.9]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._lazy import Lazy
from .algorithm import Algorithm as Algorithm
from .algorithm import Table
from .algorithm import find as _find

if TYPE_CHECKING:  # what _lazy imports
    from . import epoch as epoch
    from . import geometry as geometry
    from ._namespace import namespace as namespace

__version__ = "0.1.0"
__date__ = ""  # of its release, 2030-12-31 for example; CITATION.cff has both

_NAMES = [
    "acprop",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "amsgrad",
    "asgd",
    "cocob",
    "dadapt_adamw",
    "dog",
    "dowg",
    "fromage",
    "grams",
    "lamb",
    "lars",
    "lion",
    "madgrad",
    "mars",
    "momo",
    "momo_adam",
    "muon",
    "nadam",
    "nadamw",
    "novograd",
    "optimistic_adam",
    "optimistic_gradient_descent",
    "polyak_sgd",
    "prodigy",
    "radam",
    "rmsprop",
    "rprop",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "sgd",
    "shampoo",
    "sign_sgd",
    "signum",
    "sm3",
    "soap",
    "sophia",
    "stable_adamw",
    "yogi",
]

ALGORITHMS: Mapping[str, Algorithm] = Table(__name__, _NAMES)
"""Every algorithm by name (optax's name where optax has it, else torch's in lower case)."""


def defaults(algorithm: str | Algorithm, dialect: str | None = None) -> dict[str, Any]:
    """Return the default hyperparameters of an algorithm in a dialect.

    Args:
        algorithm: a name of :data:`ALGORITHMS`, or an algorithm.
        dialect: whose defaults: ``"torch"``, ``"optax"``, ``"paper"``, …; ``None`` for ours.

    Raises:
        ValueError: if there is no such algorithm or dialect.

    >>> defaults("adamw")["weight_decay"], defaults("adamw", "optax")["weight_decay"]
    (0.01, 0.0001)
    """
    return _find(algorithm, ALGORITHMS).defaults(dialect)


def citation(algorithm: str | Algorithm, *, implementation: bool = False) -> str:
    """Return the BibTeX entries of an algorithm's sources.

    Args:
        algorithm: a name of :data:`ALGORITHMS` or of a wrapper, or an algorithm.
        implementation: with an entry for this implementation: version, file and its digest.

    Raises:
        ValueError: if there is no such algorithm, or its file is asked for and it has none.

    >>> print(citation("adam").splitlines()[0])
    @inproceedings{kingma2015adam,
    >>> print(citation("adam", implementation=True).splitlines()[-9])
    @misc{optstudy-adam-0.1.0,
    """
    from . import _citation
    from .wrappers import WRAPPERS

    if isinstance(algorithm, str) and algorithm in WRAPPERS:
        name, keys = algorithm, WRAPPERS[algorithm](ALGORITHMS["sgd"]).bibtex[:1]
    else:
        found = _find(algorithm, ALGORITHMS)
        name, keys = found.name, found.bibtex
    entries = [_citation.entry(key) for key in keys]
    if implementation:
        entries.append(_citation.implementation(name, __version__, __date__))
    return "\n\n".join(entries)


_PLACES = {"epoch": "epoch", "geometry": "geometry", "namespace": "_namespace"}
_DEFINED = ("ALGORITHMS", "Algorithm", "citation", "defaults")


def _nothing(name: str) -> Any:
    raise KeyError(name)


_lazy = Lazy(globals(), _PLACES, lambda: _DEFINED, _nothing)
__dir__ = _lazy.dir


def __getattr__(name: str) -> Any:
    """Return a function or a module (``optstudy_core.adam``) when it is first asked for."""
    return _lazy.get(name)
