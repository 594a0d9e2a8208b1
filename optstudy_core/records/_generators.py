"""The states of random generators of Python and NumPy as trees for a checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np


def random_state(generator: Any) -> Any:
    """Return the state of a generator as a tree for :func:`optstudy_core.records.pack`.

    Args:
        generator: a ``numpy.random.Generator``, a ``random.Random``, or another object with
            ``getstate`` and ``setstate`` (the module ``random``) or with ``get_state`` and
            ``set_state`` (``numpy.random.RandomState``, the module ``numpy.random``).

    Raises:
        TypeError: if the object is no random generator.

    >>> import random
    >>> generator = random.Random(1)
    >>> state = random_state(generator)
    >>> first = generator.random()
    >>> restore_random_state(generator, state)
    >>> generator.random() == first
    True
    """
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    for get, put in _PAIRS:
        if hasattr(generator, get) and hasattr(generator, put):
            return getattr(generator, get)()
    raise TypeError(
        f"generator of type {type(generator).__name__}: allowed are generators of NumPy and Python"
    )


def restore_random_state(generator: Any, state: Any) -> None:
    """Load a state from :func:`random_state` into a generator.

    Args:
        generator: a generator of the same kind as that of the state.
        state: the result of :func:`random_state`.
    """
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
        return
    for get, put in _PAIRS:
        if hasattr(generator, get) and hasattr(generator, put):
            getattr(generator, put)(state)
            return
    random_state(generator)  # raises


_PAIRS = (("getstate", "setstate"), ("get_state", "set_state"))
