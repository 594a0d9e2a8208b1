"""NumPy with the same number of threads as torch, for rules that run as written, without C.

The results are those of NumPy in one thread: operations are split into parts, exact sums do not
depend on the split, and sums along an axis are split along the other axes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from optstudy_core.arrays.exact_sum import Vector
from optstudy_core.arrays.leaves import Leaves, Reduction
from optstudy_core.arrays.namespace import Array
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_core.arrays.passes import Host

from .threads import BLOCK, in_threads

_PLAIN = NumPy()
_CREATION = frozenset({"zeros_like", "ones_like"})


class ThreadedNumPy(NumPy):
    """Operations of NumPy, with threads for large arrays."""

    def apply(self, operation: str, *args: Any) -> Any:
        arrays = [x for x in args if isinstance(x, np.ndarray) and x.ndim]
        if math.prod(x.size for x in arrays) < 2 * BLOCK or operation in _CREATION:
            return super().apply(operation, *args)
        alike = len({x.ndim for x in arrays}) == 1
        shape = np.broadcast_shapes(*(x.shape for x in arrays)) if alike else ()
        if math.prod(shape) < 2 * BLOCK:
            return super().apply(operation, *args)
        compute = functools.partial(super().apply, operation)
        function = getattr(np, operation)
        axis = max(range(len(shape)), key=shape.__getitem__)
        cuts = _cuts(shape, axis, BLOCK)

        def part(cut: Any) -> list[Any]:
            return [x[cut] if np.ndim(x) and x.shape[axis] > 1 else x for x in args]

        whole = next((x for x in arrays if x.shape == shape), None)
        dtype = compute(*part((*cuts[0][:-1], slice(0)))).dtype  # without elements
        out = np.empty(shape, dtype) if whole is None else np.empty_like(whole, dtype)

        def work(own: Sequence[Any]) -> None:
            for cut in own:
                # isfinite is wrong where it writes to memory with gaps (NumPy 2.4.6).
                if isinstance(function, np.ufunc) and operation != "isfinite":
                    with np.errstate(all="ignore"):
                        function(*part(cut), out=out[cut])
                else:
                    out[cut] = compute(*part(cut))

        in_threads(work, cuts, len(cuts))
        return out

    def scalar_of(self, function: Reduction, vectors: Sequence[Sequence[Any]]) -> Any:
        with np.errstate(all="ignore"):
            return function(_SUMS, *vectors, exact=True)

    def each(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        found: dict[int, Any] = {}

        def work(own: Sequence[int]) -> None:
            for i in own:
                found[i] = function(items[i])

        in_threads(work, range(len(items)), len(items))
        return [found[i] for i in range(len(items))]

    def doubled_along(self, axis: int, function: Callable[..., Leaves], *leaves: Any) -> Any:
        shape = leaves[0].shape
        others = [i for i in range(len(shape)) if i != axis % len(shape)]
        if not others or leaves[0].size < 2 * BLOCK:
            return super().doubled_along(axis, function, *leaves)
        along = max(others, key=shape.__getitem__)
        cuts = _cuts(shape, along, 4 * BLOCK)  # some thirty operations for each element
        alone = functools.partial(function, axis=axis)

        def part(cut: tuple[slice, ...]) -> Any:
            return _PLAIN.doubled(alone, *(x[cut] for x in leaves))

        return np.concatenate(self.each(part, cuts), along)


THREADED = ThreadedNumPy()
"""The backend for rules that run as written on the CPU."""


class _ThreadedHost(Host):
    """Passes over vectors, split over threads."""

    block = BLOCK  # longer than for one thread, because threads take turns in Python

    def pass_over(
        self,
        function: Callable[..., Iterator[Array]],
        vectors: Sequence[Vector],
        operation: str,
    ) -> list[Any]:
        rows = [piece for row in zip(*vectors, strict=True) for piece in _pieces(row)]
        found: list[Any] = []
        alone = functools.partial(super().pass_over, function)

        def work(own: Sequence[Any]) -> None:
            with np.errstate(all="ignore"):
                found.append(alone(list(zip(*own, strict=True)), operation))

        in_threads(work, rows, 1 + self.count(vectors[0]) // (2 * BLOCK))
        return list(self.reduce(operation, self.stack(found), 0))


_SUMS = _ThreadedHost()


def _cuts(shape: tuple[int, ...], axis: int, length: int) -> list[tuple[slice, ...]]:
    """Return slices that split an array along an axis into parts of about ``length`` elements."""
    others = math.prod(shape) // shape[axis]
    step = max(1, length // others)
    before = (slice(None),) * axis
    return [(*before, slice(i, i + step)) for i in range(0, shape[axis], step)]


def _pieces(row: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield parts of arrays of one shape, or the arrays themselves."""
    if row[0].size <= BLOCK or not all(x.flags.c_contiguous for x in row):
        yield tuple(row)
        return
    flat = [x.reshape(-1) for x in row]
    for i in range(0, flat[0].size, BLOCK):
        yield tuple(x[i : i + BLOCK] for x in flat)
