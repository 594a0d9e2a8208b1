"""Exact sums over what the devices of a mesh hold together, all of a pass at once.

A sum is a few passes over its vectors: the largest magnitude, then whole numbers. Each device passes
over its part, and one all-reduce joins what all sums of a pass have found, along all axes of the
mesh: maxima, or integers modulo 2⁶⁴, exact in any order. XLA by itself would gather each number of
each leaf along each axis.

A function of the core that needs such a pass is ended there and called again once the pass is
joined; what it computes twice is the same, and XLA keeps one.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import (
    ArrayMapping,
    SdyShardingRule,
    custom_partitioning,
)
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optstudy_core.arrays.bits import from_bits, to_bits
from optstudy_core.arrays.exact_sum import Parts, Terms, Vector

from ._mesh import mesh_of
from ._passes import Traced

OfShares = Callable[[Any, Traced], Any]
"""From the columns of a row and a library, what is summed of it."""

_JOIN = {"max": jax.lax.pmax, "sum": jax.lax.psum}


def is_joined(rows: Any) -> bool:
    """Tell whether arrays lie on a mesh, whose axes are all of one kind, Auto or Explicit."""
    meshes = {mesh for mesh in map(mesh_of, jax.tree.leaves(rows)) if mesh is not None}
    kinds = {kind for mesh in meshes for kind in mesh.axis_types}
    return len(meshes) == 1 and kinds in ({AxisType.Auto}, {AxisType.Explicit})


def joined(of_shares: OfShares, of_row: Callable[[Any], Any], rows: Sequence[Any]) -> Any:
    """Return what is summed of each row of arrays that :func:`is_joined` tells of.

    Args:
        of_shares: it.
        of_row: the same of whole arrays.
        rows: columns of arrays each.
    """
    arrays, structure = jax.tree.flatten(rows)
    sums = _Sums(of_shares, structure, tuple(map(jnp.shape, arrays)))

    def plain(*arrays: Any) -> Any:
        return [of_row(columns) for columns in jax.tree.unflatten(structure, arrays)]

    if any(AxisType.Explicit in mesh.axis_types for mesh in map(mesh_of, arrays) if mesh):
        mesh = next(mesh for mesh in map(mesh_of, arrays) if mesh is not None)
        specs = [jax.typeof(x).sharding.spec for x in arrays]
        local = functools.partial(sums.local, dict(mesh.shape), list(map(_axes, specs)))
        run = jax.shard_map(
            lambda *arrays: tuple(local(*arrays)),
            mesh=mesh,
            in_specs=tuple(specs),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        found: Any = run(*arrays)
    else:
        with jax.enable_x64(True):
            alone = jax.make_jaxpr(lambda *arrays: jax.tree.leaves(plain(*arrays)))(*arrays)
            together = jax.make_jaxpr(sums.of_whole(alone))(*arrays)
        found = _PRIMITIVE.bind(*arrays, alone=alone, together=together)
    return jax.tree.unflatten(jax.tree.structure(jax.eval_shape(plain, *arrays)), found)


class _Waiting(Exception):  # noqa: N818
    """A function needs a pass that is not joined yet."""


class _Share(Traced):
    """Passes over what one device holds.

    Args:
        count: how many terms a sum has on all devices.
        counted: of each leaf, whether what this device holds counts: of copies one does.
    """

    def __init__(self, count: int, counted: Sequence[Any]) -> None:
        self._count, self.counted = count, counted
        self._known: list[list[Any]] = []
        self._next = 0
        self.asked: tuple[str, list[Any]] = "", []

    def call(self, of_shares: OfShares, columns: Any) -> Any:
        """Return what is summed of columns.

        Raises:
            _Waiting: if it needs what is ``asked``, to be given to :meth:`tell`.
        """
        self._next = 0
        return of_shares(columns, self)

    def tell(self, values: Sequence[Any]) -> None:
        """Take what was asked, of all devices."""
        self._known.append(list(values))

    def _joined(self, operation: str, values: Callable[[], list[Any]]) -> list[Any]:
        if self._next == len(self._known):
            self.asked = operation, values()
            raise _Waiting
        self._next += 1
        return self._known[self._next - 1]

    def count(self, vector: Vector) -> int:
        return self._count if vector else 0

    def largest(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        def own() -> list[Any]:
            found = super(_Share, self).largest(terms, vectors)
            # As integers, of which NaN is the largest: libraries' maxima may lose it.
            return [to_bits(self.unwrap(x)) & _NOT_NEGATIVE for pair in found for x in pair]

        values = [self.wrap(from_bits(x)) for x in self._joined("max", own)]
        return list(zip(values[::2], values[1::2], strict=True))

    def totals(self, parts: Parts, vectors: Sequence[Vector], after: Sequence[Any]) -> list[Any]:
        def own() -> list[Any]:
            return super(_Share, self).totals(parts, vectors, after)

        return self._joined("sum", own)


_NOT_NEGATIVE = np.iinfo(np.int64).max


class _Sums:
    """The sums of rows of arrays, which lie on a mesh.

    Args:
        of_shares: what is summed of a row.
        structure: of the rows.
        shapes: of the whole arrays.
    """

    def __init__(self, of_shares: OfShares, structure: Any, shapes: Sequence[Any]) -> None:
        self._of_shares, self._structure, self._shapes = of_shares, structure, shapes

    def local(self, sizes: dict[str, int], axes: Sequence[Sequence[str]], *arrays: Any) -> Any:
        """Return the sums, each device from what it holds and what all tell each other.

        Args:
            sizes: of the axes of the mesh.
            axes: along which each array is cut.
            *arrays: what this device holds of each.
        """
        along = tuple(name for name in sizes if any(name in own for own in axes))
        with jax.enable_x64(True):
            shares = self._shares(along, axes)
            rows = jax.tree.unflatten(self._structure, arrays)
            results: list[Any] = [None] * len(rows)
            waiting = list(range(len(rows)))
            while waiting:
                asking = []
                for i in waiting:
                    try:
                        results[i] = shares[i].call(self._of_shares, rows[i])
                    except _Waiting:
                        asking.append(shares[i])
                waiting = [i for i in waiting if shares[i] in asking]
                for operation in _JOIN:
                    _join(operation, [x for x in asking if x.asked[0] == operation], along)
        return jax.tree.leaves(results)

    def _shares(self, along: Sequence[str], axes: Sequence[Sequence[str]]) -> list[_Share]:
        numbers = jax.tree.unflatten(self._structure, range(len(self._shapes)))
        shares = []
        for columns in numbers:
            full = [i for i in columns[0] if np.prod(self._shapes[i])]
            count = sum(int(np.prod(self._shapes[i])) for i in full)
            shares.append(_Share(count, [_is_first(set(along).difference(axes[i])) for i in full]))
        return shares

    def of_whole(self, alone: Any) -> Callable[..., Any]:
        """Return the function of whole arrays, which tells XLA how devices compute it."""
        function = custom_partitioning(lambda arrays: jaxpr_as_fun(alone)(*arrays))
        function.def_partition(partition=self._partition, sharding_rule=_any_sharding)
        return lambda *arrays: function(arrays)

    def _partition(self, mesh: Any, arguments: Any, results: Any) -> Any:
        (arrays,) = arguments
        specs = [_even(x) for x in arrays]
        local = functools.partial(self.local, dict(mesh.shape), list(map(_axes, specs)))
        everywhere = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), results)
        places = tuple(NamedSharding(mesh, spec) for spec in specs)
        return mesh, lambda arrays: local(*arrays), everywhere, (places,)


def _even(x: Any) -> PartitionSpec:
    """Return how an array is cut, but for axes that do not divide it."""
    spec = x.sharding.spec
    shape = x.sharding.mesh.shape
    return PartitionSpec(
        *(
            None if part is None or n % math.prod(shape[name] for name in _axes([part])) else part
            for n, part in zip(x.shape, spec, strict=True)
        )
    )


def _any_sharding(mesh: Any, arguments: Any, results: Any) -> SdyShardingRule:
    """Return that each array may be cut in any way, and that each sum is on all devices."""
    del mesh
    names = iter(f"n{i}" for i in itertools.count())
    whole = [ArrayMapping(*itertools.islice(names, x.rank)) for x in arguments]
    return SdyShardingRule(tuple(whole), tuple(ArrayMapping() for _ in results))


def _lowered(context: Any, *arrays: Any, alone: Any, together: Any) -> Any:
    """Return the sums; in an exported program, which can ask nobody, XLA joins them by itself."""
    exported = context.module_context.lowering_parameters.for_export
    run = jaxpr_as_fun(alone if exported else together)
    return mlir.lower_fun(run, multiple_results=True)(context, *arrays)


def _batched(arrays: Any, axes: Any, *, alone: Any, together: Any) -> Any:
    """Return the sums of batches, which XLA joins by itself."""
    del together
    found = jax.vmap(jaxpr_as_fun(alone), in_axes=axes)(*arrays)
    return found, [0] * len(found)


_PRIMITIVE = Primitive("joined_sums")
_PRIMITIVE.multiple_results = True
_PRIMITIVE.def_abstract_eval(lambda *arrays, alone, together: alone.out_avals)
mlir.register_lowering(_PRIMITIVE, _lowered)
batching.primitive_batchers[_PRIMITIVE] = _batched


def _axes(spec: Any) -> list[str]:
    """Return the axes of a mesh that a sharding names."""
    parts = [part if isinstance(part, tuple) else (part,) for part in spec if part is not None]
    return [name for part in parts for name in part]


def _is_first(axes: Any) -> Any:
    """Return whether this device is the first along some axes."""
    found = jnp.asarray(True)
    for name in sorted(axes):
        found = found & (jax.lax.axis_index(name) == 0)
    return found


def _join(operation: str, shares: Sequence[_Share], along: Sequence[str]) -> None:
    """Tell shares what all devices have found."""
    values = [x for share in shares for x in share.asked[1]]
    if along and values:
        values = list(_JOIN[operation](jnp.stack(values), along))
    rest: Iterator[Any] = iter(values)
    for share in shares:
        share.tell([next(rest) for _ in share.asked[1]])
