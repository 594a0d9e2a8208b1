"""Profiles: several numbers of one vector, how its elements or its singular values are spread.

A **profile** is a pure function of one array. Unlike a quantity it is no function of sums: it takes
several passes or a decomposition, so it is recorded at an interval of its own
(:func:`~optstudy_core.instruments.only`). In a row it is a dictionary, ``row["grad_quantiles"]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import array_api_compat
import numpy as np

from optstudy_core.arrays.namespace import Array, namespace

SHARES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Of which shares of the elements are smaller: what quantiles are."""

EXPONENTS: Final = tuple(range(-40, 12, 2))
"""The bins of a histogram begin at these powers of two."""

_ENDS: Final = (*(2.0**k for k in EXPONENTS[1:]), math.inf)


def quantiles(x: Array) -> Array:
    """Return quantiles of the elements: the smallest, 5 %, 25 %, 50 %, 75 %, 95 %, the largest.

    Each is an element, that of the nearest rank; none is interpolated. NaN counts as the largest.

    Args:
        x: float array of any shape, with one element or more.

    Returns:
        array of shape (7,).

    Cost: a sort, n·log n.

    >>> import numpy as np
    >>> quantiles(np.arange(101.0)).tolist()
    [0.0, 5.0, 25.0, 50.0, 75.0, 95.0, 100.0]
    """
    xp = namespace(x)
    ordered = xp.sort(xp.reshape(x, (-1,)))
    last = ordered.shape[0] - 1
    return xp.stack([ordered[math.floor(share * last + 0.5)] for share in SHARES])


def histogram(x: Array) -> Array:
    """Return shares of the elements by their size: zeros, and each power of 4 from 2⁻⁴⁰ to 2¹⁰.

    A bin has the elements with ``2ᵏ ≤ |x| < 2ᵏ⁺²``, the first all smaller ones that are not zero,
    the last all larger ones that are finite. Elements that are not finite are in no bin.

    Args:
        x: float array of any shape, with one element or more.

    Returns:
        array of shape (27,), the share of zeros first.

    Cost: a sort, n·log n.

    Source: as in Cockpit (Schneider, Dangel and Hennig 2021), with bins of logarithms.

    >>> import numpy as np
    >>> shares = histogram(np.array([0.0, 1.0, -3.0, 4.0]))
    >>> labels = PROFILES["grad_histogram"].labels
    >>> {label: float(share) for label, share in zip(labels, shares) if share > 0}
    {'zero': 0.25, '0': 0.5, '2': 0.25}
    """
    xp = namespace(x)
    ordered = xp.sort(xp.abs(xp.reshape(x, (-1,))))
    edges, zero = _edges(ordered)
    # How many are below each edge; NaN stand last.
    below = xp.concat(
        [
            xp.searchsorted(ordered, zero, side="right"),
            xp.searchsorted(ordered, edges, side="left"),
        ]
    )
    numbers = xp.concat([below[:1], below[1:] - below[:-1]])
    return xp.astype(numbers, ordered.dtype) / ordered.shape[0]


def _edges(like: Array) -> tuple[Array, Array]:
    """Return where the bins end, and zero, as arrays like another one."""
    if array_api_compat.is_torch_array(like):
        return _kept_edges(namespace(like), like.dtype, like.device)
    xp = namespace(like)
    return xp.asarray(_ENDS, dtype=like.dtype), xp.zeros(1, dtype=like.dtype)


@lru_cache
def _kept_edges(xp: Any, dtype: Any, device: Any) -> tuple[Array, Array]:
    """Return them on a device: a copy to it waits for what it does, so they are copied once."""
    ends = xp.asarray(_ENDS, dtype=dtype, device=device)
    return ends, xp.zeros(1, dtype=dtype, device=device)


def spectrum(w: Array) -> Array:
    """Return what the singular values σ of a matrix say: σ₁, stable rank, distance from orthogonal.

    - ``largest``: σ₁, the spectral norm.
    - ``stable_rank``: ‖W‖² / σ₁² = Σσ² / σ₁², from 1 to the rank.
    - ``from_orthogonal``: √(1 − (Σσ)² / (r·Σσ²)), the sine of the angle between W and the
      orthogonal matrix that is nearest to it, r the smaller side: 0 where all σ are equal (an
      update of Muon), near 1 where one is much larger than the others.

    NaN where an element is not finite; the latter two for zeros.

    Args:
        w: float array of shape (rows, columns).

    Returns:
        array of shape (3,).

    Cost: a singular value decomposition, rows·columns·min(rows, columns).

    Source: Rudelson and Vershynin 2007 for the stable rank; Higham 1986 for the polar factor.

    >>> import numpy as np
    >>> spectrum(np.diag([3.0, 3.0])).round(6).tolist()
    [3.0, 2.0, 0.0]
    """
    xp = namespace(w)
    fits = xp.all(xp.isfinite(w))
    sigma = xp.linalg.svdvals(xp.where(fits, w, xp.zeros_like(w)))
    nan = xp.full_like(sigma, math.nan)
    sigma = xp.where(fits, sigma, nan)
    squares, largest = xp.sum(sigma * sigma), xp.max(sigma)
    total = xp.sum(sigma)
    left = 1.0 - total * total / (sigma.shape[0] * squares)
    away = xp.sqrt(xp.where(left < 0, xp.zeros_like(left), left))
    return xp.stack([largest, squares / (largest * largest), away])


class Profile(NamedTuple):
    """What a profile is made of.

    Attributes:
        vector: name of the vector.
        labels: names of its numbers.
        function: of an array.
        of_matrices: whether it is of layers that are matrices alone.
    """

    vector: str
    labels: tuple[str, ...]
    function: Callable[[Array], Array]
    of_matrices: bool = False


_QUANTILES = tuple(f"{100 * share:g}" for share in SHARES)
_BINS = ("zero", *map(str, EXPONENTS))
_SPECTRUM = ("largest", "stable_rank", "from_orthogonal")
_VECTORS = {"grad": "grad", "step": "step", "param": "params"}

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        f"{word}_{kind}": Profile(vector, labels, function, of_matrices)
        for kind, labels, function, of_matrices in (
            ("quantiles", _QUANTILES, quantiles, False),
            ("histogram", _BINS, histogram, False),
            ("spectrum", _SPECTRUM, spectrum, True),
        )
        for word, vector in _VECTORS.items()
    }
)
"""Every profile by name: ``grad_``, ``step_`` or ``param_`` and ``quantiles``, ``histogram`` or
``spectrum``."""

Target = tuple[str, int | None]
"""A profile and the number of a layer; ``None``: of all layers together."""


@np.errstate(all="ignore")
def profile(target: Target, column: Sequence[Array | None], axis: int) -> Array:
    """Return a profile of a layer, or of all as one vector.

    Args:
        target: which one.
        column: the vector, an array of each layer in its shape.
        axis: which axis of a layer has the columns of a matrix; all others together are its rows.
    """
    made, i = PROFILES[target[0]], target[1]
    leaves = [x for x in (column if i is None else [column[i]]) if x is not None]
    xp = namespace(leaves[0])
    wide = [_wide(x) for x in leaves if math.prod(x.shape)]
    if made.of_matrices:
        (x,) = wide
        columns = x.shape[axis]
        shape = (columns, -1) if axis == 0 else (-1, columns)
        return made.function(xp.reshape(x, shape))
    flat = [xp.reshape(x, (-1,)) for x in wide]
    return made.function(flat[0] if len(flat) == 1 else xp.concat(flat))


def _wide(x: Array) -> Array:
    xp = namespace(x)
    return x if x.dtype in (xp.float32, xp.float64) else xp.astype(x, xp.float32)


def targets(
    names: Sequence[str],
    shows: Callable[[str, str | None], bool],
    layers: Sequence[str],
    vectors: Mapping[str, Sequence[Array | None]],
) -> tuple[Target, ...]:
    """Return which profiles of which layers there are.

    Args:
        names: of profiles.
        shows: whether a row has one, of a layer by name, or of all (``None``).
        layers: their names.
        vectors: by name; only shapes are looked at.
    """
    return tuple(_targets(names, shows, layers, vectors))


def _targets(
    names: Sequence[str],
    shows: Callable[[str, str | None], bool],
    layers: Sequence[str],
    vectors: Mapping[str, Sequence[Array | None]],
) -> Iterator[Target]:
    for name in names:
        made = PROFILES[name]
        column = vectors[made.vector]
        there = [x is not None and math.prod(x.shape) > 0 for x in column]
        if not made.of_matrices and any(there) and shows(name, None):
            yield name, None
        for i, layer in enumerate(layers):
            x: Any = column[i]
            if there[i] and (len(x.shape) > 1 or not made.of_matrices) and shows(name, layer):
                yield name, i
