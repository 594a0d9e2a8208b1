"""optstudy for PyTorch: a ``torch.optim.Optimizer`` class for each algorithm of the core.

The classes are ``SGD``, ``Adam``, ``AdamW``, ``AMSGrad``, …

>>> import torch
>>> model = torch.nn.Linear(2, 1)
>>> optimizer = Adam(model.parameters(), lr=1e-3)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from optstudy_core import ALGORITHMS, _processes
from optstudy_core import __version__ as __version__
from optstudy_core._extras import extra
from optstudy_core._lazy import Lazy

with extra("torch"):  # missed now, not at the first optimizer
    import torch as _torch

if TYPE_CHECKING:  # what _lazy imports
    from . import geometry as geometry
    from . import lr_scheduler as lr_scheduler
    from ._selfcheck import selfcheck as selfcheck
    from ._split import split as split
    from .classes import from_core as from_core
    from .epoch import Backstep as Backstep
    from .epoch import EpochMomentum as EpochMomentum
    from .epoch import ExtrapolatedEpoch as ExtrapolatedEpoch
    from .eve import EVE as EVE
    from .hessian import curvature as curvature
    from .hessian import hutchinson as hutchinson
    from .optimizer import CoreOptimizer as CoreOptimizer
    from .recorder import Recorder as Recorder
    from .torch_optim import to_torch_optim as to_torch_optim
    from .travel import export_run as export_run
    from .travel import import_run as import_run

_PLACES = {
    "Backstep": "epoch:Backstep",
    "CoreOptimizer": "optimizer:CoreOptimizer",
    "EVE": "eve:EVE",
    "EpochMomentum": "epoch:EpochMomentum",
    "ExtrapolatedEpoch": "epoch:ExtrapolatedEpoch",
    "Recorder": "recorder:Recorder",
    "export_run": "travel:export_run",
    "from_core": "classes:from_core",
    "geometry": "geometry",
    "curvature": "hessian:curvature",
    "hutchinson": "hessian:hutchinson",
    "import_run": "travel:import_run",
    "lr_scheduler": "lr_scheduler",
    "selfcheck": "_selfcheck:selfcheck",
    "split": "_split:split",
    "to_torch_optim": "torch_optim:to_torch_optim",
}


def _rank() -> int:
    distributed = _torch.distributed
    alone = not (distributed.is_available() and distributed.is_initialized())
    return 0 if alone else distributed.get_rank()


_processes.ask(_rank)


def _class(name: str) -> type:
    # By the title alone every algorithm would have to be loaded: look at its likely name first.
    for key in sorted(ALGORITHMS, key=lambda key: key.replace("_", "") != name.lower()):
        if ALGORITHMS[key].title == name:
            return cast("type", _lazy.get("from_core")(key))
    raise KeyError(name)


_lazy = Lazy(globals(), _PLACES, lambda: [a.title for a in ALGORITHMS.values()], _class)
__dir__ = _lazy.dir


def __getattr__(name: str) -> Any:
    """Return a module, a function or the class of an algorithm, imported at its first use."""
    return _lazy.get(name)
