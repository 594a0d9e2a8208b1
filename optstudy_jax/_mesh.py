"""Leaves on a mesh of devices: sharding of states, and rules that need whole rows and columns.

A state has the sharding of its parameters. A compiled ``init`` reads no parameter, so the compiler
needs the sharding; otherwise it would put the state on one device.

A rule of matrices gets each gradient and each field of the state whole on every device: each is
gathered once in its own dtype. The compiler alone would gather, permute and sum float64 parts many
times. Results are sharded like the parameters. Other rules of rows and columns gather arrays only
along the axis of a sum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optstudy_core import Algorithm

shard_alike: Any
try:
    from jax.experimental.shard_alike import shard_alike
except ImportError:  # removed in JAX 0.12
    shard_alike = None

Update = Callable[..., tuple[Any, Any]]
"""The ``update`` of a transformation."""


def mesh_of(x: Any) -> Any:
    """Return the mesh of an array on several devices; ``None`` if unknown, or without a mesh."""
    if not isinstance(x, jax.Array):
        return None
    sharding = jax.typeof(x).sharding if is_traced(x) else x.sharding
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return None if mesh is None or mesh.empty or mesh.size == 1 else mesh


def first_mesh(arrays: Iterable[Any]) -> Any:
    """Return the mesh of the first array on a mesh, or ``None``."""
    return next((mesh for mesh in map(mesh_of, arrays) if mesh is not None), None)


def is_traced(x: Any) -> bool:
    """Return whether an array has no value yet."""
    return isinstance(x, jax.core.Tracer)


def _is_explicit(mesh: Any) -> bool:
    return AxisType.Explicit in mesh.axis_types


def like(x: Any, place: Any) -> Any:
    """Return an array with the sharding of another array of the same shape."""
    mesh = mesh_of(place)
    if mesh is None or not isinstance(x, jax.Array) or x.shape != place.shape:
        return x
    if _is_explicit(mesh):
        return jax.sharding.reshard(x, NamedSharding(mesh, jax.typeof(place).sharding.spec))
    if not is_traced(place):
        return jax.device_put(x, place.sharding)
    place = jax.lax.stop_gradient(place)
    return _chosen(x, place) if shard_alike is None else shard_alike(place, x)[1]


def _chosen(x: Any, place: Any) -> Any:
    """Return an array that seems to depend on another array, as far as the compiler knows."""
    never = jax.lax.optimization_barrier(np.zeros((), bool))
    return jax.numpy.where(never, place.astype(x.dtype), x)


def laid_out(state: Any, leaves: Sequence[Any], treedef: Any) -> Any:
    """Return a new state with the sharding of the parameters; other arrays are on all devices."""
    mesh = first_mesh(leaves)
    if mesh is None:
        return state
    if any(map(is_traced, leaves)):
        # Results from parameters are on the devices of the parameters.
        state = jax.lax.optimization_barrier((state, [*leaves]))[0]
    else:
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    return _cut(state, leaves, treedef)


def whole(x: Any) -> Any:
    """Return an array, whole on every device of its mesh."""
    mesh = mesh_of(x)
    if mesh is None or not x.shape:
        return x
    everywhere = NamedSharding(mesh, PartitionSpec())
    if _is_explicit(mesh):
        return jax.sharding.reshard(x, everywhere)
    if not is_traced(x):
        return x  # each operation chooses the sharding
    return jax.lax.with_sharding_constraint(x, everywhere)


def whole_along(x: Any, axis: int) -> Any:
    """Return an array that is not sharded along an axis; other axes may be sharded."""
    mesh = mesh_of(x)
    if mesh is None or _is_explicit(mesh) or not is_traced(x):
        return x
    spec: list[Any] = [PartitionSpec.UNCONSTRAINED] * x.ndim
    spec[axis] = None
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))


def on_host(x: Any) -> np.ndarray:
    """Return a NumPy array; all processes with parts of the array must call this function."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        everywhere = NamedSharding(mesh_of(x), PartitionSpec())
        x = jax.jit(lambda x: x, out_shardings=everywhere)(x)
    return np.asarray(x)


def on_meshes(update: Update, algorithm: Algorithm) -> Update:
    """Let the ``update`` of a rule of rows and columns accept leaves on a mesh."""

    @functools.wraps(update)
    def run(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        leaves, treedef = jax.tree.flatten(updates if params is None else params)
        mesh = first_mesh(leaves)
        if mesh is None:
            return update(updates, state, params, **extra)
        if algorithm.has_matrices:
            return _gathered(update, leaves, treedef, (updates, state, params), extra)
        if _is_explicit(mesh):
            return _on_free_axes(update, mesh, leaves, treedef, (updates, state, params), extra)
        steps, new = update(updates, state, params, **extra)
        return _steps_like(leaves, treedef, steps), _each_field(new, leaves, treedef, _settled)

    return run


def _gathered(update: Update, leaves: Any, treedef: Any, args: Any, extra: Any) -> tuple[Any, Any]:
    """Return the sharded result of an ``update`` of whole arrays."""
    args, extra = jax.tree.map(whole, (args, extra))
    steps, new = jax.tree.map(whole, update(*args, **extra))
    return _steps_like(leaves, treedef, steps), _cut(new, leaves, treedef)


def _on_free_axes(
    update: Update, mesh: Any, leaves: Any, treedef: Any, args: Any, extra: Any
) -> tuple[Any, Any]:
    """Return the result of an ``update`` when the compiler chooses the sharding."""
    everywhere = NamedSharding(mesh, PartitionSpec())

    def place(x: Any) -> Any:
        return everywhere if mesh_of(x) is None else jax.typeof(x).sharding

    def like_its_parameter(x: Any, leaf: Any) -> Any:
        return place(leaf) if leaf is not None and x.shape == leaf.shape else everywhere

    given = {k: x for k, x in extra.items() if _is_of_arrays(x)}
    free = jax.sharding.auto_axes(
        lambda args, given: update(*args, **extra | given),
        out_sharding=(
            treedef.unflatten(map(place, leaves)),
            _each_field(args[1], leaves, treedef, like_its_parameter),
        ),
    )
    made: tuple[Any, Any] = free(args, given)
    return made


def _steps_like(leaves: Any, treedef: Any, steps: Any) -> Any:
    return treedef.unflatten(map(like, treedef.flatten_up_to(steps), leaves))


def _is_of_arrays(tree: Any) -> bool:
    return all(isinstance(x, jax.Array | np.ndarray) for x in jax.tree.leaves(tree))


def _settled(x: Any, leaf: Any) -> Any:
    return whole(x) if leaf is None or x.shape != leaf.shape else like(x, leaf)


def _cut(state: Any, leaves: Sequence[Any], treedef: Any) -> Any:
    """Return a state in which fields like the parameters have the sharding of the parameters."""
    return _each_field(state, leaves, treedef, lambda x, leaf: x if leaf is None else like(x, leaf))


def _each_field(
    state: Any, leaves: Sequence[Any], treedef: Any, function: Callable[[Any, Any], Any]
) -> Any:
    """Return a state with a function applied to its arrays.

    Args:
        state: the state.
        leaves: the parameters.
        treedef: the structure of the parameters.
        function: a function of an array and of its parameter or ``None``.
    """

    def own(x: Any) -> bool:
        return jax.tree.structure(x, is_leaf=lambda x: x is None) == treedef

    def of_field(field: Any) -> Any:
        if not own(field):
            return function(field, None)
        made = [
            None if x is None else function(x, leaf)
            for x, leaf in zip(treedef.flatten_up_to(field), leaves, strict=True)
        ]
        return treedef.unflatten(made)

    return jax.tree.map(of_field, state, is_leaf=own)
