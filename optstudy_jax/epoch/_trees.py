"""Conversion between trees and scalars of the caller and arrays of the core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optstudy_core.arrays.leaves import Leaves, map_leaves
from optstudy_jax._backend import BACKEND, working_dtype
from optstudy_jax._rounding import isolate, leaving, outside, rounded


def number(x: Any) -> Leaves:
    """Convert a scalar to the core, in float32."""
    return Leaves([outside(x, jnp.float32)], BACKEND)


def loss_scalar(x: Any) -> Leaves:
    """Convert a loss to the core, in its working dtype."""
    if jnp.shape(x) != ():
        raise ValueError(f"loss of shape {jnp.shape(x)}: allowed are scalars")
    return Leaves([outside(x, working_dtype(jnp.result_type(x)))], BACKEND)


def arrays(state: Any) -> Any:
    """Convert a state of numbers from the core."""
    return map_leaves(lambda leaf: leaving(leaf.values[0]), state)


def to_float32(x: Any) -> Any:
    """Round a float64 measurement to float32, the dtype of decisions."""
    with jax.enable_x64(True):
        return isolate(x.astype(jnp.float32))


def copies(tree: Any) -> Any:
    """Return a copy, so that both trees can be donated."""
    return jax.tree.map(jnp.copy, tree)


def where(condition: Any, ours: Any, theirs: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), ours, theirs)


def map_trees(function: Callable[..., Leaves], *trees: Any, scalars: Sequence[Any] = ()) -> Any:
    """Compute with whole trees in the working dtype; the result has the dtypes of the first."""
    first, structure = jax.tree.flatten(trees[0])
    treedef: Any = structure
    dtypes = [jnp.result_type(x) for x in first]
    work = [working_dtype(dtype) for dtype in dtypes]
    columns = [first] + [treedef.flatten_up_to(tree) for tree in trees[1:]]
    columns += [[x] * len(first) for x in scalars]
    if not first:
        return trees[0]
    for leaves in zip(*columns[: len(trees)], strict=True):
        if len({jnp.shape(x) for x in leaves}) > 1:
            shapes = " and ".join(str(jnp.shape(x)) for x in leaves)
            raise ValueError(f"shapes differ: {shapes}")
    operands = [
        Leaves([outside(x, dtype) for x, dtype in zip(column, work, strict=True)], BACKEND)
        for column in columns
    ]
    result = function(*operands).values
    return treedef.unflatten(
        [rounded(isolate(node.value), dtype) for node, dtype in zip(result, dtypes, strict=True)]
    )


def times(tree: Any, s: Any) -> Any:
    """Return s·tree."""
    return map_trees(lambda x, scale: scale * x, tree, scalars=(s,))


def further(params: Any, step: Any, s: Any) -> Any:
    """Return θ + s·Δ, and θ itself for s = 0 (also where Δ is not finite)."""
    there = map_trees(lambda p, d: p + d, params, times(step, s))
    return where(jnp.asarray(s) == 0, params, there)
