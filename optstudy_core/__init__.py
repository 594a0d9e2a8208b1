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

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from . import epoch, geometry
from ._citation import entry as _entry
from ._citation import implementation as _implementation
from ._namespace import namespace
from .algorithm import Algorithm
from .algorithm import discover as _discover
from .algorithm import find as _find
from .wrappers import WRAPPERS as _WRAPPERS

__version__ = "0.1.0"
__date__ = ""  # of its release, 2030-12-31 for example; CITATION.cff has both

ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(_discover(sys.modules[__name__]))
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
    if isinstance(algorithm, str) and algorithm in _WRAPPERS:
        name, keys = algorithm, _WRAPPERS[algorithm](ALGORITHMS["sgd"]).bibtex[:1]
    else:
        found = _find(algorithm, ALGORITHMS)
        name, keys = found.name, found.bibtex
    entries = [_entry(key) for key in keys]
    if implementation:
        entries.append(_implementation(name, __version__, __date__))
    return "\n\n".join(entries)


__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "__version__",
    "citation",
    "defaults",
    "epoch",
    "geometry",
    "namespace",
]
