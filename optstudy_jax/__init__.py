"""optstudy for JAX: a function for each algorithm of the core, which returns a transformation.

The functions are ``sgd``, ``adam``, ``adamw``, ``amsgrad``, …, and the transformations are those of
optax.

>>> import jax.numpy as jnp
>>> tx = adam(learning_rate=1e-3)
>>> state = tx.init({"w": jnp.zeros(2)})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optstudy_core import ALGORITHMS
from optstudy_core import __version__ as __version__
from optstudy_core._extras import extra
from optstudy_core._lazy import Lazy

with extra("jax"):  # missed now, not at the first optimizer
    import jax as _jax  # noqa: F401

if TYPE_CHECKING:  # what _lazy imports
    from . import epoch as epoch
    from . import geometry as geometry
    from . import recorder as recorder
    from ._selfcheck import selfcheck as selfcheck
    from ._split import split as split
    from .evaluation import eval_params as eval_params
    from .functions import from_core as from_core
    from .hessian import curvature as curvature
    from .hessian import hutchinson as hutchinson
    from .layout import in_torch_layout as in_torch_layout
    from .layout import torch_axes as torch_axes
    from .optax_states import from_optax as from_optax
    from .optax_states import to_optax as to_optax
    from .recorder import Recorder as Recorder
    from .schedules import schedule as schedule
    from .states import PerLeaf as PerLeaf
    from .states import TransformState as TransformState
    from .states import by_leaf as by_leaf
    from .states import side_by_side as side_by_side
    from .travel import export_run as export_run
    from .travel import import_run as import_run

_PLACES = {
    "PerLeaf": "states:PerLeaf",
    "Recorder": "recorder:Recorder",
    "TransformState": "states:TransformState",
    "by_leaf": "states:by_leaf",
    "epoch": "epoch",
    "eval_params": "evaluation:eval_params",
    "export_run": "travel:export_run",
    "from_core": "functions:from_core",
    "from_optax": "optax_states:from_optax",
    "geometry": "geometry",
    "curvature": "hessian:curvature",
    "hutchinson": "hessian:hutchinson",
    "import_run": "travel:import_run",
    "in_torch_layout": "layout:in_torch_layout",
    "recorder": "recorder",
    "schedule": "schedules:schedule",
    "selfcheck": "_selfcheck:selfcheck",
    "side_by_side": "states:side_by_side",
    "split": "_split:split",
    "to_optax": "optax_states:to_optax",
    "torch_axes": "layout:torch_axes",
}


def _function(name: str) -> Any:
    if name not in ALGORITHMS:
        raise KeyError(name)
    return _lazy.get("from_core")(name)


_lazy = Lazy(globals(), _PLACES, lambda: ALGORITHMS, _function)
__dir__ = _lazy.dir


def __getattr__(name: str) -> Any:
    """Return a module or a function, imported at its first use."""
    return _lazy.get(name)
