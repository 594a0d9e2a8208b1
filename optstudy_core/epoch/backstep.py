"""Backstep: undo an epoch, to the last bit.

What belongs to the run (parameters, optimizer state, buffers, random state) is kept at the start of
each epoch, as copies. Values are selected and never computed, so nothing is rounded, and NaN and
infinities come back as well as any number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from optstudy_core.arrays.geometry import map_tree
from optstudy_core.arrays.namespace import namespace


class BackstepState(NamedTuple):
    """What the method carries.

    Attributes:
        kept: what is restored when the epoch is undone, a tree of arrays.
    """

    kept: Any


def init(tree: Any) -> BackstepState:
    """Return the state at the start of an epoch; arrays changed in place later must be copies.

    Args:
        tree: of arrays, or of anything else that is to come back.
    """
    return BackstepState(tree)


def update(state: BackstepState, tree: Any, undo: Any) -> tuple[BackstepState, Any]:
    """Return the new state and the tree at the start of the next epoch.

    Args:
        state: of :func:`init` or of the last epoch.
        tree: what the epoch ended with, like the one kept.
        undo: whether to undo the epoch: a truth value or a 0-d array of one.

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
