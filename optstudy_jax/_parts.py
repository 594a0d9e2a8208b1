"""Functions of arrays on a mesh, computed from local parts with explicit communication.

XLA partitions a program operation by operation, with communication after each. A function with its
own communication needs the sharding of its arrays. On Explicit axes the types have the sharding. On
Auto axes XLA asks for the function when the sharding is known.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental.custom_partitioning import (
    ArrayMapping,
    SdyShardingRule,
    custom_partitioning,
)
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ._mesh import first_mesh, mesh_of

Cuts = list[list[tuple[str, ...]]]
"""For each array and each of its axes, the axes of the mesh that shard it."""

OfParts = Callable[..., Sequence[Any]]
"""A function of the sizes of mesh axes, :data:`Cuts` and local parts: results on all devices."""


def are_on_a_mesh(arrays: Any) -> bool:
    """Return whether arrays are on one mesh with axes of one kind, Auto or Explicit."""
    meshes = {mesh for mesh in map(mesh_of, jax.tree.leaves(arrays)) if mesh is not None}
    kinds = {kind for mesh in meshes for kind in mesh.axis_types}
    return len(meshes) == 1 and kinds in ({AxisType.Auto}, {AxisType.Explicit})


def on_parts(
    of_parts: OfParts, of_whole: Callable[..., Sequence[Any]], arrays: Sequence[Any]
) -> Any:
    """Return the results of a function of arrays that satisfy :func:`are_on_a_mesh`.

    Args:
        of_parts: the function of the parts of a device.
        of_whole: the same function of whole arrays.
        arrays: the traced arguments, at least one.

    Returns:
        a list of results, each whole on every device.
    """
    mesh = first_mesh(arrays)
    with jax.enable_x64(True):
        if AxisType.Explicit in mesh.axis_types:
            specs = tuple(jax.typeof(x).sharding.spec for x in arrays)
            local = functools.partial(of_parts, dict(mesh.shape), [*map(_cuts, specs)])
            run = jax.shard_map(
                local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
            )
            return run(*arrays)
        alone = jax.make_jaxpr(of_whole)(*arrays)
        together = jax.make_jaxpr(_asked(of_parts, alone))(*arrays)
        return _PRIMITIVE.bind(*arrays, alone=alone, together=together)


def _asked(of_parts: OfParts, alone: Any) -> Callable[..., Any]:
    """Return the function of whole arrays, with its partition for XLA."""

    def partition(mesh: Any, arguments: Any, results: Any) -> Any:
        (arrays,) = arguments
        specs = [_even(x) for x in arrays]
        local = functools.partial(of_parts, dict(mesh.shape), [*map(_cuts, specs)])
        everywhere = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), results)
        places = tuple(NamedSharding(mesh, spec) for spec in specs)
        return mesh, lambda parts: local(*parts), everywhere, (places,)

    function = custom_partitioning(lambda arrays: jaxpr_as_fun(alone)(*arrays))
    function.def_partition(partition=partition, sharding_rule=_any_sharding)
    return lambda *arrays: function(arrays)


def _any_sharding(mesh: Any, arguments: Any, results: Any) -> SdyShardingRule:
    """Return the rule that arrays may have any sharding, and results have none."""
    del mesh
    names = iter(f"n{i}" for i in itertools.count())
    mappings = [
        [ArrayMapping(*itertools.islice(names, x.rank)) for x in own]
        for own in (arguments, results)
    ]
    return SdyShardingRule(*map(tuple, mappings))


def _even(x: Any) -> PartitionSpec:
    """Return the sharding of an array, without mesh axes that do not divide it."""
    mesh = x.sharding.mesh
    parts = zip(x.shape, _cuts(x.sharding.spec), strict=True)
    return PartitionSpec(
        *[c if n % math.prod(mesh.shape[a] for a in c) == 0 else () for n, c in parts]
    )


def _cuts(spec: Any) -> list[tuple[str, ...]]:
    return [() if part is None else part if isinstance(part, tuple) else (part,) for part in spec]


def _lowered(context: Any, *arrays: Any, alone: Any, together: Any) -> Any:
    """Return the results; XLA partitions an exported program by itself."""
    exported = context.module_context.lowering_parameters.for_export
    run = jaxpr_as_fun(alone if exported else together)
    return mlir.lower_fun(run, multiple_results=True)(context, *arrays)


def _batched(arrays: Any, axes: Any, *, alone: Any, together: Any) -> Any:
    """Return the results of batches, which XLA partitions by itself."""
    del together
    found = jax.vmap(jaxpr_as_fun(alone), in_axes=axes)(*arrays)
    return found, [0] * len(found)


_PRIMITIVE = Primitive("on_parts")
_PRIMITIVE.multiple_results = True
_PRIMITIVE.def_abstract_eval(lambda *arrays, alone, together: alone.out_avals)
mlir.register_lowering(_PRIMITIVE, _lowered)
batching.primitive_batchers[_PRIMITIVE] = _batched
