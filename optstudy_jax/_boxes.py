"""Parameters of Flax in boxes, which describe the sharding.

``nn.with_partitioning`` of Linen puts a parameter into a box with the names of its axes, and nnx
puts each parameter into a ``Variable``. A rule computes with the contents. Its steps are in boxes
like the parameters, and so are fields of the state with the shape of a parameter. Rows, columns and
factors of matrices have other axes and are not in boxes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax

from .states import TransformState


def _is_box(x: Any) -> bool:
    meta: Any = sys.modules.get("flax.core.meta")
    nnx: Any = sys.modules.get("flax.nnx")
    if meta is not None and isinstance(x, meta.AxisMetadata):
        return True
    return nnx is not None and isinstance(x, nnx.Variable)


def _has_boxes(tree: Any) -> bool:
    return any(map(_is_box, jax.tree.leaves(tree, is_leaf=_is_box)))


def opened(tree: Any) -> Any:
    """Return a tree with the contents of its boxes."""

    def inside(x: Any) -> Any:
        return next(iter(jax.tree.leaves(x)), None) if _is_box(x) else x

    return jax.tree.map(inside, tree, is_leaf=_is_box)


def _closed(tree: Any, like: Any) -> Any:
    """Return a tree in boxes like another tree; arrays of other shapes are not in boxes."""

    def own(box: Any, x: Any) -> Any:
        if not _is_box(box):
            return x
        leaves, structure = jax.tree.flatten(box)
        if not leaves:  # a placeholder of optax for a parameter
            return box
        if x is None or leaves[0].shape != x.shape:
            return x
        return jax.tree.unflatten(structure, [x])

    return jax.tree.map(own, like, tree, is_leaf=_is_box)


def _state(state: Any, like: Any) -> Any:
    """Return a state with fields in boxes like the parameters."""

    def structure_of(x: Any) -> Any:
        return jax.tree.structure(x, is_leaf=lambda x: x is None)

    structure = structure_of(opened(like))

    def is_field(x: Any) -> bool:
        return bool(structure == structure_of(x))

    def field(x: Any) -> Any:
        return _closed(x, like) if is_field(x) else x

    return jax.tree.map(field, state, is_leaf=is_field)


def starting(init: Callable[[Any], TransformState]) -> Callable[[Any], TransformState]:
    """Let the ``init`` of a transformation take parameters in boxes."""

    @functools.wraps(init)
    def run(params: Any) -> TransformState:
        if not _has_boxes(params):
            return init(params)
        made: TransformState = _state(init(opened(params)), params)
        return made

    return run


def stepping(update: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Let the ``update`` of a transformation take gradients and parameters in boxes."""

    @functools.wraps(update)
    def run(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if not _has_boxes((updates, params)):
            return update(updates, state, params, **extra)
        steps, new = update(*map(opened, (updates, state, params)), **opened(extra))
        return _closed(steps, updates), _state(new, updates if params is None else params)

    return run
