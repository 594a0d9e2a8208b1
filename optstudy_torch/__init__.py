"""optstudy for PyTorch: ``torch.optim.Optimizer`` classes around the pure functions of the core.

There is a class for every algorithm: ``SGD``, ``Adam``, ``AdamW``, ``AMSGrad``, …

>>> import torch
>>> model = torch.nn.Linear(2, 1)
>>> optimizer = Adam(model.parameters(), lr=1e-3)
"""

from __future__ import annotations

from optstudy_core import ALGORITHMS, __version__

from . import geometry, lr_scheduler
from ._selfcheck import selfcheck
from .epoch import Backstep, EpochMomentum, ExtrapolatedEpoch
from .eve import EVE
from .hessian import hutchinson
from .optimizer import CoreOptimizer, from_core
from .recorder import Recorder

_CLASSES = {cls.__name__: cls for cls in map(from_core, ALGORITHMS)}
globals().update(_CLASSES)

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
    *sorted(_CLASSES),
]
