"""Choosing between two states of a rule, leaf by leaf."""

from __future__ import annotations

from typing import Any

from optstudy_core.arrays import doubles
from optstudy_core.arrays.namespace import Array, namespace


def chosen(condition: Array, new: Any, old: Any) -> Any:
    """Return the fields of ``new`` where ``condition``, a boolean for each leaf, else of ``old``.

    A field that the old state does not have (of a term added later) counts as 0.

    >>> import numpy as np
    >>> chosen(np.bool_(False), (np.ones(2), None), (np.zeros(2), None))
    (array([0., 0.]), None)
    """
    if new is None:
        return None
    if isinstance(new, tuple):
        pairs = zip(new, [None] * len(new) if old is None else old, strict=True)
        fields = [chosen(condition, *pair) for pair in pairs]
        return type(new)(*fields) if hasattr(new, "_fields") else tuple(fields)
    return doubles.where(condition, new, namespace(new).zeros_like(new) if old is None else old)
