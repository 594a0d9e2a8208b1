"""The sums over the elements of vectors that quantities need.

The caller chooses exact sums of :mod:`optstudy_core.geometry` (:class:`Exact`), or plain float64
sums of any library, on any device, also inside ``jit`` (:class:`Sums`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from optstudy_core.arrays import geometry
from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.arrays.passes import to_numpy


class Measured(Protocol):
    """The measurements that a quantity can use; ``u`` and ``v`` are names of vectors."""

    def norm(self, u: str) -> Any:
        """Return ‖u‖₂."""

    def cosine(self, u: str, v: str) -> Any:
        """Return u·v / (‖u‖·‖v‖)."""

    def angle(self, u: str, v: str) -> Any:
        """Return the angle between two vectors in degrees."""

    def total(self, u: str) -> Any:
        """Return Σ uᵢ."""

    def least(self, u: str) -> Any:
        """Return the least element."""

    def greatest(self, u: str) -> Any:
        """Return the greatest element."""

    def nonfinite(self, u: str) -> Any:
        """Return the number of elements that are NaN or infinite."""

    def below(self, u: str, v: str) -> Any:
        """Return the number of elements with uᵢ² < vᵢ."""

    def size(self, u: str) -> Any:
        """Return the number of elements."""

    def given(self, name: str) -> Any:
        """Return a number that is given and not measured: ``loss``, ``lr``."""


# Quantities.


class Reduction(NamedTuple):
    """A sum, or another number, over all elements of one or two vectors.

    Attributes:
        kind: a name of :data:`REDUCE`.
        vectors: names of the vectors.
    """

    kind: str
    vectors: tuple[str, ...]


def _nonfinite(x: Array) -> Array:
    xp = namespace(x)
    return xp.sum(xp.astype(~xp.isfinite(x), x.dtype))


def _below(x: Array, y: Array) -> Array:
    xp = namespace(x)
    return xp.sum(xp.astype(x * x < y, x.dtype))


REDUCE: Final[Mapping[str, Callable[..., Array]]] = MappingProxyType(
    {
        "dot": lambda x, y: namespace(x).sum(x * y),
        "total": lambda x: namespace(x).sum(x),
        "least": lambda x: namespace(x).min(x),
        "greatest": lambda x: namespace(x).max(x),
        "nonfinite": _nonfinite,
        "below": _below,
    }
)
"""The reductions, as functions of float64 arrays of one layer that are not empty."""

EMPTY: Final[Mapping[str, float]] = MappingProxyType(
    dict.fromkeys(("dot", "total", "nonfinite", "below"), 0.0)
)
"""The results of reductions of empty arrays; NaN for all other reductions."""


class FromReductions:
    """Measurements that follow from reductions, the same for plain sums of any library."""

    xp: Any = np

    def reduction(self, kind: str, *names: str) -> Any:
        raise NotImplementedError

    def norm(self, u: str) -> Any:
        return self.xp.sqrt(self.reduction("dot", u, u))

    def cosine(self, u: str, v: str) -> Any:
        value = self.reduction("dot", u, v) / (self.norm(u) * self.norm(v))
        one = self.xp.ones_like(value)
        return self.xp.maximum(self.xp.minimum(value, one), -one)

    def angle(self, u: str, v: str) -> Any:
        # The chords of the unit vectors; within about 1e-6° of 0° and 180° from plain sums.
        cosine = self.cosine(u, v)
        between, across = (self.xp.sqrt(2.0 + sign * 2.0 * cosine) for sign in (-1.0, 1.0))
        return 2.0 * self.xp.atan2(between, across) * (180.0 / math.pi)

    def total(self, u: str) -> Any:
        return self.reduction("total", u)

    def least(self, u: str) -> Any:
        return self.reduction("least", u)

    def greatest(self, u: str) -> Any:
        return self.reduction("greatest", u)

    def nonfinite(self, u: str) -> Any:
        return self.reduction("nonfinite", u)

    def below(self, u: str, v: str) -> Any:
        return self.reduction("below", u, v)


class Sums(FromReductions):
    """Plain sums.

    Args:
        values: for each reduction, one entry for each layer (or one number for one vector). An
            entry may be an array over several steps.
        sizes: for each vector, the number of elements of each layer (or one number).
        given: ``loss``, ``lr``.
        xp: the namespace of ``values``.
    """

    def __init__(
        self,
        values: Mapping[Reduction, Any],
        sizes: Mapping[str, Any],
        given: Mapping[str, Any],
        xp: Any = np,
    ) -> None:
        self._values, self._sizes, self._given, self.xp = values, sizes, given, xp

    def reduction(self, kind: str, *names: str) -> Any:
        return self._values[Reduction(kind, names)]

    def size(self, u: str) -> Any:
        return self._sizes[u]

    def given(self, name: str) -> Any:
        return self._given.get(name, math.nan)

    def whole(self, present: Mapping[str, np.ndarray[Any, Any]], given: Mapping[str, Any]) -> Sums:
        """Return the sums over all layers as one vector.

        Args:
            present: for each vector, an array of booleans: which layers have the vector. A pair
                of vectors covers the layers that have both.
            given: ``loss``, ``lr`` of the network.
        """
        xp, values = self.xp, {}
        for reduction, column in self._values.items():
            there = np.logical_and.reduce([present[u] for u in reduction.vectors])
            if reduction.kind not in EMPTY:  # a layer without elements has none that is least
                there = there & (np.ravel(self._sizes[reduction.vectors[0]]) > 0)
            values[reduction] = xp.asarray(math.nan, dtype=xp.float64)
            if there.any():
                kept = column[np.flatnonzero(there)]
                join = {"least": xp.min, "greatest": xp.max}.get(reduction.kind, xp.sum)
                values[reduction] = join(kept, axis=0)
        sizes = {u: int(np.sum(n[present[u]])) for u, n in self._sizes.items()}
        return Sums(values, sizes, given, xp)


class Exact:
    """Norms, cosines and angles from exact sums; other sums are plain, on the host.

    A measurement is a float64 array with a number for each entry: a layer, or the network.

    Args:
        entries: for each entry the vectors by name, lists of arrays of NumPy, torch or JAX.
        given: ``loss``, ``lr`` of each entry.
        measures: a module with ``norm``, ``cosine``, ``angle`` and ``of_each``, which have the same
            bits in every library.
        to_host: a function that converts an array to NumPy, for the other sums.
    """

    def __init__(
        self,
        entries: Sequence[Mapping[str, Sequence[Array | None]]],
        given: Sequence[Mapping[str, Any]],
        measures: Any = geometry,
        to_host: Callable[[Any], Any] = to_numpy,
    ) -> None:
        self._entries, self._given, self._measures = entries, given, measures
        self._to_host = to_host
        self._known: dict[tuple[str, ...], np.ndarray[Any, Any]] = {}

    def norm(self, u: str) -> Any:
        return self._of_each("norm", u)

    def cosine(self, u: str, v: str) -> Any:
        return self._of_each("cosine", u, v)

    def angle(self, u: str, v: str) -> Any:
        return self._of_each("angle", u, v, degrees=True)

    def total(self, u: str) -> Any:
        return self._reduce("total", np.sum, u)

    def least(self, u: str) -> Any:
        return self._reduce("least", np.min, u)

    def greatest(self, u: str) -> Any:
        return self._reduce("greatest", np.max, u)

    def nonfinite(self, u: str) -> Any:
        return self._reduce("nonfinite", np.sum, u)

    def below(self, u: str, v: str) -> Any:
        return self._reduce("below", np.sum, u, v)

    def size(self, u: str) -> Any:
        return np.array(
            [sum(math.prod(x.shape) for x in own[u] if x is not None) for own in self._entries],
            np.float64,
        )

    def given(self, name: str) -> Any:
        return np.array([own.get(name, math.nan) for own in self._given], np.float64)

    def _of_each(self, function: str, *names: str, **options: Any) -> Any:
        if (key := (function, *names)) not in self._known:
            rows, measures = self._rows(*names), self._measures
            columns = (list(column) for column in zip(*rows, strict=True))
            found = measures.of_each(getattr(measures, function), *columns, **options)
            numbers = [float(x) for x in found]
            # The norm of a vector that a layer does not have is no number.
            self._known[key] = np.where([bool(x) for x, *_ in rows], numbers, math.nan)
        return self._known[key]

    def _rows(self, *names: str) -> list[tuple[list[Array], ...]]:
        """Return for each entry the arrays of vectors, of the layers that have all of them."""
        found = []
        for own in self._entries:
            rows = zip(*(own[u] for u in names), strict=True)
            kept = [row for row in rows if all(x is not None for x in row)]
            found.append(tuple([row[i] for row in kept] for i in range(len(names))))
        return found

    def _reduce(self, kind: str, join: Callable[[Any], Any], *names: str) -> Any:
        found = []
        for vectors in self._rows(*names):
            columns = geometry.leaves(*vectors)
            parts = [
                float(REDUCE[kind](*(self._to_host(x).astype(np.float64, copy=False) for x in row)))
                for row in zip(*columns, strict=True)
            ]
            found.append(join(np.array(parts)) if parts else EMPTY.get(kind, math.nan))
        return np.array(found, np.float64)
