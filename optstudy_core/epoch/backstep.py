"""Backstep: undo an epoch, to the last bit.

The method copies the state of the run (parameters, optimizer state, buffers, random state) at the
start of each epoch. It selects values and computes none: nothing is rounded, and NaN and infinities
are restored like any number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.geometry import map_tree
from optstudy_core.arrays.namespace import namespace


class BackstepState(NamedTuple):
    """The state of the method.

    Attributes:
        kept: the values at the start of the epoch, a tree of arrays.
    """

    kept: Any


def init(tree: Any) -> BackstepState:
    """Return the state at the start of an epoch.

    Args:
        tree: the values to restore, a tree of arrays or other objects. Pass copies of arrays that
            change in place.
    """
    return BackstepState(tree)


def update(state: BackstepState, tree: Any, undo: Any) -> tuple[BackstepState, Any]:
    """Return the new state and the tree at the start of the next epoch.

    Args:
        state: the state from :func:`init` or from the last epoch.
        tree: the values at the end of the epoch, a tree like the one in ``state``.
        undo: whether to undo the epoch: True or False, or a 0-d array of booleans.

    >>> import numpy as np
    >>> state = init({"w": np.array([1.0])})
    >>> state, tree = update(state, {"w": np.array([7.0])}, undo=True)
    >>> tree["w"].tolist()
    [1.0]
    """
    if isinstance(undo, bool):
        chosen = state.kept if undo else tree
    else:
        chosen = map_tree(lambda old, new: namespace(new).where(undo, old, new), state.kept, tree)
    return BackstepState(chosen), chosen
