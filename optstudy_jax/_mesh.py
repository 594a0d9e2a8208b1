"""Leaves on a mesh of devices: where a state lies, and rules that need whole rows and columns.

A state lies where its parameters lie. A compiled ``init`` reads no parameter, so the compiler has
to be told; else it would put all of it on one device.

A rule of rows and columns gets each gradient, and each field of the state, whole on every device:
one gathering of each in its own dtype, where the compiler would gather, permute and sum float64
parts of it again and again. Results are cut as the parameters are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

shard_alike: Any
try:
    from jax.experimental.shard_alike import shard_alike
except ImportError:  # JAX 0.12 has it no more
    shard_alike = None


def _mesh(x: Any) -> Any:
    """Return the mesh of several devices on which an array lies; ``None``: not known, or none."""
    if not isinstance(x, jax.Array):
        return None
    sharding = jax.typeof(x).sharding if isinstance(x, jax.core.Tracer) else x.sharding
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return None if mesh is None or mesh.empty or mesh.size == 1 else mesh


def _is_explicit(mesh: Any) -> bool:
    return AxisType.Explicit in mesh.axis_types


def like(x: Any, place: Any) -> Any:
    """Return an array where another of its shape lies."""
    mesh = _mesh(place)
    if mesh is None or not isinstance(x, jax.Array) or x.shape != place.shape:
        return x
    if _is_explicit(mesh):
        return jax.sharding.reshard(x, NamedSharding(mesh, jax.typeof(place).sharding.spec))
    if not isinstance(place, jax.core.Tracer):
        return jax.device_put(x, place.sharding)
    place = jax.lax.stop_gradient(place)
    return _chosen(x, place) if shard_alike is None else shard_alike(place, x)[1]


def _chosen(x: Any, place: Any) -> Any:
    """Return an array, of which the compiler cannot know that nothing of the other is in it."""
    never = jax.lax.optimization_barrier(np.zeros((), bool))
    return jax.numpy.where(never, place.astype(x.dtype), x)


def laid_out(state: Any, leaves: Sequence[Any], treedef: Any) -> Any:
    """Return a new state that lies where the parameters lie, what is like none on all devices."""
    mesh = next((m for m in map(_mesh, leaves) if m is not None), None)
    if mesh is None:
        return state
    if any(isinstance(x, jax.core.Tracer) for x in leaves):
        # Results of the parameters are made on their devices.
        state = jax.lax.optimization_barrier((state, [*leaves]))[0]
    else:
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    return _cut(state, leaves, treedef)


def whole(x: Any) -> Any:
    """Return an array, all of it on every device of its mesh."""
    mesh = _mesh(x)
    if mesh is None or not x.shape:
        return x
    everywhere = NamedSharding(mesh, PartitionSpec())
    if _is_explicit(mesh):
        return jax.sharding.reshard(x, everywhere)
    if not isinstance(x, jax.core.Tracer):
        return x  # each operation finds its own way
    return jax.lax.with_sharding_constraint(x, everywhere)


def on_host(x: Any) -> np.ndarray:
    """Return an array of NumPy; of one that several processes hold, all of them have to call."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        everywhere = NamedSharding(_mesh(x), PartitionSpec())
        x = jax.jit(lambda x: x, out_shardings=everywhere)(x)
    return np.asarray(x)


def gathering(update: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Let the ``update`` of a transformation see whole arrays, and cut its results."""

    @functools.wraps(update)
    def run(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(updates if params is None else params)
        treedef: Any = structure
        if all(_mesh(x) is None for x in leaves):
            return update(updates, state, params, **extra)
        updates, state, params, extra = jax.tree.map(whole, (updates, state, params, extra))
        steps, new = jax.tree.map(whole, update(updates, state, params, **extra))
        steps = treedef.unflatten(map(like, treedef.flatten_up_to(steps), leaves))
        return steps, _cut(new, leaves, treedef)

    return run


def _cut(state: Any, leaves: Sequence[Any], treedef: Any) -> Any:
    """Return a state whose fields that are like the parameters lie where these lie."""

    def own(x: Any) -> bool:
        return jax.tree.structure(x, is_leaf=lambda x: x is None) == treedef

    def cut(field: Any) -> Any:
        if not own(field):
            return field
        return treedef.unflatten(map(like, treedef.flatten_up_to(field), leaves))

    return jax.tree.map(cut, state, is_leaf=own)
