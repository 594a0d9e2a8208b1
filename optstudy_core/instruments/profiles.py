"""Profiles: several numbers that describe the elements, or the singular values, of one vector.

A **profile** is a pure function of one array. It needs several passes or a decomposition instead of
a few sums, so record it at a longer interval (:func:`~optstudy_core.instruments.only`). In a row a
profile is a dictionary, ``row["grad_quantiles"]``.
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
"""The quantiles, as fractions of the elements that are smaller."""

EXPONENTS: Final = tuple(range(-40, 12, 2))
"""The bins of a histogram begin at these powers of two."""

_ENDS: Final = (*(2.0**k for k in EXPONENTS[1:]), math.inf)


def quantiles(x: Array) -> Array:
    """Return quantiles of the elements: the smallest, 5 %, 25 %, 50 %, 75 %, 95 %, the largest.

    Each is the element of the nearest rank, without interpolation. NaN counts as the largest.

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
    """Return a histogram of ``|x|``: the fraction of zeros and of each power of 4, 2⁻⁴⁰ to 2¹⁰.

    A bin has the elements with ``2ᵏ ≤ |x| < 2ᵏ⁺²``. The first bin also has all smaller elements
    that are not zero, and the last bin all larger elements that are finite. Elements that are not
    finite are in no bin.

    Args:
        x: float array of any shape, with one element or more.

    Returns:
        array of shape (27,), with the fraction of zeros first.

    Cost: a sort, n·log n.

    Source: as in Cockpit (Schneider, Dangel and Hennig 2021), with logarithmic bins.

    >>> import numpy as np
    >>> shares = histogram(np.array([0.0, 1.0, -3.0, 4.0]))
    >>> labels = PROFILES["grad_histogram"].labels
    >>> {label: float(share) for label, share in zip(labels, shares) if share > 0}
    {'zero': 0.25, '0': 0.5, '2': 0.25}
    """
    xp = namespace(x)
    ordered = xp.sort(xp.abs(xp.reshape(x, (-1,))))
    edges, zero = _edges(ordered)
    # The number of elements below each edge; NaN are sorted last.
    below = xp.concat(
        [
            xp.searchsorted(ordered, zero, side="right"),
            xp.searchsorted(ordered, edges, side="left"),
        ]
    )
    numbers = xp.concat([below[:1], below[1:] - below[:-1]])
    return xp.astype(numbers, ordered.dtype) / ordered.shape[0]


def _edges(like: Array) -> tuple[Array, Array]:
    """Return the ends of the bins, and zero, as arrays of the library and dtype of ``like``."""
    if array_api_compat.is_torch_array(like):
        return _kept_edges(namespace(like), like.dtype, like.device)
    xp = namespace(like)
    return xp.asarray(_ENDS, dtype=like.dtype), xp.zeros(1, dtype=like.dtype)


@lru_cache
def _kept_edges(xp: Any, dtype: Any, device: Any) -> tuple[Array, Array]:
    """Return the ends and zero on a device; cached, since a copy to a device waits for its work."""
    ends = xp.asarray(_ENDS, dtype=dtype, device=device)
    return ends, xp.zeros(1, dtype=dtype, device=device)


def spectrum(w: Array) -> Array:
    """Return σ₁, stable rank and distance from orthogonal of a matrix with singular values σ.

    - ``largest``: σ₁, the spectral norm.
    - ``stable_rank``: ‖W‖² / σ₁² = Σσ² / σ₁², from 1 to the rank.
    - ``from_orthogonal``: √(1 − (Σσ)² / (r·Σσ²)), the sine of the angle between W and the nearest
      orthogonal matrix, where r is the smaller dimension. It is 0 if all σ are equal (an update of
      Muon), and near 1 if one σ is much larger than the others.

    All three are NaN if an element is not finite. For a matrix of zeros, ``stable_rank`` and
    ``from_orthogonal`` are NaN.

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
    """The definition of a profile.

    Attributes:
        vector: the name of the vector.
        labels: the names of the numbers.
        function: the profile as a function of an array.
        of_matrices: whether the profile exists for matrices only.
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
"""The name of a profile, and the number of a layer; ``None`` for all layers together."""


@np.errstate(all="ignore")
def profile(target: Target, column: Sequence[Array | None], axis: int) -> Array:
    """Return a profile of a layer, or of all layers as one vector.

    Args:
        target: the profile and the layer.
        column: the vector, one array for each layer in the shape of the layer.
        axis: the axis of a layer that counts as the columns of a matrix; all other axes together
            are the rows.
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
    """Return the profiles to measure, each with its layer.

    Args:
        names: names of profiles.
        shows: a function that returns whether rows have a profile of a layer (its name) or of all
            layers (``None``).
        layers: the names of the layers.
        vectors: the vectors by name; only the shapes of their arrays are used.
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
