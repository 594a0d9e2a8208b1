"""optstudy for PyTorch: ``torch.optim.Optimizer`` classes around the pure functions of the core.

There is a class for every algorithm: ``SGD``, ``Adam``, ``AdamW``, ``AMSGrad``, …

>>> import torch
>>> model = torch.nn.Linear(2, 1)
>>> optimizer = Adam(model.parameters(), lr=1e-3)
"""

from __future__ import annotations

from typing import Any

from optstudy_core import ALGORITHMS, __version__
from optstudy_core.hyperparameters import nearest

from . import geometry, lr_scheduler
from ._selfcheck import selfcheck
from .epoch import Backstep, EpochMomentum, ExtrapolatedEpoch
from .eve import EVE
from .hessian import hutchinson
from .optimizer import CoreOptimizer, from_core
from .recorder import Recorder

_NAMES = {algorithm.title: name for name, algorithm in ALGORITHMS.items()}

__all__ = [
    "EVE",
    "Backstep",
    "CoreOptimizer",
    "EpochMomentum",
    "ExtrapolatedEpoch",
    "Recorder",
    "__version__",
    "from_core",
    "geometry",
    "hutchinson",
    "lr_scheduler",
    "selfcheck",
    *sorted(_NAMES),
]


def __getattr__(name: str) -> Any:
    """Return the class of an algorithm, which is made when it is first asked for."""
    if name not in _NAMES:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}: {nearest(name, __all__)}"
        )
    cls = globals()[name] = from_core(_NAMES[name])
    return cls


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
