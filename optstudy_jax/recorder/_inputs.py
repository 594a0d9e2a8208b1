"""The inputs of measurements: leaves of trees, moments and rates of states, scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optstudy_core import instruments as core
from optstudy_core.arrays.numbers import is_number
from optstudy_jax._paths import leaf_name

MOMENTS: Final = {"m": ("m", "mu"), "v": ("v", "nu")}
"""Names of the moments in states of optstudy and of optax."""


def flatten(tree: Any) -> tuple[list[str], Any]:
    """Return the names of the leaves, and the structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [leaf_name(path) or "params" for path, _ in leaves]
    return names, structure


def copied(leaves: Sequence[Any]) -> list[Any]:
    """Return copies, which a donation of the arrays does not change."""
    return [jnp.array(x, copy=True) for x in leaves]


def columns_of(trees: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the leaves of trees of one structure."""
    found: dict[str, list[Any]] = {}
    structure: Any = None
    for u, tree in trees.items():
        leaves, own = jax.tree.flatten(tree)
        structure = own if structure is None else structure
        if own != structure:
            raise ValueError(f"{u} of structure {own}: the other trees have {structure}")
        found[u] = leaves
    return found


def require(chosen: Sequence[str], arguments: Mapping[str, tuple[str, Any]]) -> None:
    """Refuse missing arguments that quantities need."""
    for u in sorted(core.vectors(chosen) & arguments.keys()):
        argument, value = arguments[u]
        if value is None:
            users = [name for name in chosen if u in core.vectors([name])]
            raise TypeError(
                f"{argument} is missing: {', '.join(users)} cannot be measured without it"
            )


def moment_of(state: Any, u: str) -> Any:
    """Return the tree of a moment in the state of an optimizer.

    Raises:
        ValueError: if there is no such moment, or more than one.
    """
    found = [
        tree
        for name in MOMENTS[u]
        for path, tree in optax.tree_utils.tree_get_all_with_path(state, name)
        if isinstance(path[-1], optax.tree_utils.NamedTupleKey)
    ]
    if len(found) != 1:
        raise ValueError(
            f"state with {len(found)} fields {' or '.join(map(repr, MOMENTS[u]))}: allowed is a "
            "state with exactly one such field"
        )
    return found[0]


def of_wrappers(wanted: frozenset[str], state: Any) -> dict[str, Any]:
    """Return the numbers of wrappers in a state: norms around clipping, skipped steps."""
    found = {}
    for name in sorted(wanted & core.OF_WRAPPERS.keys()):
        mark, *fields = core.OF_WRAPPERS[name]
        own = _part_with(state, mark)
        if own is not None:
            found[name] = sum(_first(getattr(own, field)) for field in fields)
    return found


def _part_with(state: Any, field: str) -> Any:
    """Return the first part of a state with this field, also inside wrappers."""

    def has(x: Any) -> bool:
        return field in getattr(x, "_fields", ())

    return next((x for x in jax.tree.leaves(state, is_leaf=has) if has(x)), None)


def _first(tree: Any) -> Any:
    """Return the first of the numbers, which are the same for all leaves."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.size(x)]
    return jnp.ravel(leaves[0])[0].astype(jnp.float32)


def rate_of(lr: Any, state: Any) -> Any:
    """Return the given learning rate, or the learning rate in the state."""
    if lr is not None or state is None:
        return lr
    found = optax.tree_utils.tree_get_all_with_path(state, "learning_rate")
    # In nnx each is a variable, a tree of one leaf.
    leaves = (x for _, tree in found for x in jax.tree.leaves(tree))
    return next((x for x in leaves if isinstance(x, jax.Array) and x.shape == ()), None)


def single(value: Any) -> Any:
    return jnp.asarray(value).astype(jnp.float32)


def scalar(name: str, value: Any) -> Any:
    """Return a value as a new float64 scalar on the device; ``None`` for ``None``."""
    if value is None:
        return None
    if not (isinstance(value, jax.Array | np.ndarray) or is_number(value)):
        raise TypeError(f"{name} = {value!r}: allowed are numbers and 0-d arrays")
    if np.shape(value) != ():
        raise ValueError(f"{name} of shape {np.shape(value)}: allowed are numbers and 0-d arrays")
    with jax.enable_x64(True):
        return jnp.array(value, jnp.float64, copy=True)


def add(x: Any, y: Any) -> Any:
    with jax.enable_x64(True):
        return x + y
