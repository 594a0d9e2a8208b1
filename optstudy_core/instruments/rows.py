"""Rows of measurements, the same from every framework."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from optstudy_core.arrays import geometry
from optstudy_core.arrays.namespace import Array
from optstudy_core.arrays.passes import to_numpy

from .measured import EMPTY, REDUCE, Exact, Measured, Reduction, Sums
from .quantities import OF_THE_WHOLE, QUANTITIES, reductions, select
from .quantities import vectors as vectors_of

Vectors = Mapping[str, Sequence[Array | None]]
"""Vectors by name: an array for each layer, or ``None`` where the layer has none."""


@np.errstate(all="ignore")
def row(
    head: Mapping[str, int],
    names: Sequence[str],
    whole: Measured,
    layers: Mapping[str, Measured] | tuple[Sequence[str], Sums] | None = None,
) -> dict[str, Any]:
    """Return the row of an epoch or a step, the same from every framework.

    Args:
        head: ``epoch`` and ``step``, their numbers.
        names: of quantities.
        whole: the sums over all layers.
        layers: those of each layer by name, or the names and the sums with an entry for each; no
            layers without.

    Returns:
        ``{"epoch": 3, "loss": …, "step_size": …, "layers": {"fc1.weight": {"step_size": …}}}``;
        the values are floats.
    """
    made = {**head, **{name: float(QUANTITIES[name](whole)) for name in names}}
    own = [name for name in names if name not in OF_THE_WHOLE]
    if layers is None or not own:
        return made
    if isinstance(layers, tuple):
        known, sums = layers
        columns = [np.broadcast_to(QUANTITIES[n](sums), len(known)).tolist() for n in own]
        entries = zip(*columns, strict=True) if known else ()
        cells = [dict(zip(own, entry, strict=True)) for entry in entries]
        return {**made, "layers": dict(zip(known, cells, strict=True))}
    return {
        **made,
        "layers": {
            layer: {name: float(QUANTITIES[name](m)) for name in own} for layer, m in layers.items()
        },
    }


def exact_row(
    head: Mapping[str, int],
    names: Sequence[str],
    vectors: Vectors,
    given: Mapping[str, Any],
    layers: Mapping[str, Mapping[str, Any]] | None,
    measures: Any = geometry,
    to_host: Callable[[Any], Any] = to_numpy,
) -> dict[str, Any]:
    """Return a row from exact sums.

    Args:
        head: ``epoch`` and ``step``, their numbers.
        names: of quantities.
        vectors: those that :func:`vectors` names.
        given: ``loss``, ``lr`` of the whole.
        layers: for each layer, by name and in order, what is given of it; ``None`` for no layers.
        measures: see :class:`Exact`.
        to_host: see :class:`Exact`.
    """
    each = None
    if layers is not None:
        each = {
            layer: Exact({u: [column[i]] for u, column in vectors.items()}, own, measures, to_host)
            for i, (layer, own) in enumerate(layers.items())
        }
    return row(head, names, Exact(vectors, given, measures, to_host), each)


def plain_row(
    head: Mapping[str, int],
    names: Sequence[str],
    sums: Sums,
    present: Mapping[str, np.ndarray[Any, Any]],
    given: Mapping[str, Any],
    layers: Sequence[str] | None,
) -> dict[str, Any]:
    """Return a row from plain sums that were brought to the host.

    Args:
        head: ``epoch`` and ``step``, their numbers.
        names: of quantities.
        sums: with an entry for each layer.
        present: see :meth:`Sums.whole`.
        given: ``loss``, ``lr`` of the whole.
        layers: their names; ``None`` for no layers.
    """
    return row(head, names, sums.whole(present, given), None if layers is None else (layers, sums))


def plain_sums(
    wanted: Sequence[Reduction], vectors: Vectors, xp: Any = np
) -> tuple[dict[Reduction, Any], dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Return plain sums, the sizes of the vectors, and which layers have them (see :class:`Sums`).

    Args:
        wanted: the reductions.
        vectors: arrays that ``xp`` computes with, in any real dtype.
        xp: a namespace with float64.
    """
    present = {u: np.array([x is not None for x in column]) for u, column in vectors.items()}
    sizes = {
        u: np.array([0 if x is None else math.prod(x.shape) for x in column])
        for u, column in vectors.items()
    }
    values = {}
    for reduction in wanted:
        columns = [vectors[u] for u in reduction.vectors]
        entries = []
        for leaves in zip(*columns, strict=True):
            if any(x is None for x in leaves):
                entry = math.nan
            elif math.prod(leaves[0].shape) == 0:
                entry = EMPTY.get(reduction.kind, math.nan)
            else:
                entry = REDUCE[reduction.kind](*(xp.astype(x, xp.float64) for x in leaves))
            entries.append(xp.asarray(entry, dtype=xp.float64))
        values[reduction] = xp.stack(entries) if entries else xp.zeros(0, dtype=xp.float64)
    return values, sizes, present


@np.errstate(all="ignore")
def measure(
    names: Iterable[str],
    *,
    exact: bool = True,
    given: Mapping[str, float] | None = None,
    **arrays: Sequence[Array | None],
) -> dict[str, float]:
    """Return quantities of arrays.

    Args:
        names: of quantities and instruments.
        exact: from exact sums; else from plain float64 sums, of NumPy arrays.
        given: ``loss``, ``lr``.
        **arrays: the vectors ``grad``, ``params``, ``step``, ``previous``, ``displacement``
            (θ − θ₀), ``m``, ``v``: a list with an array for each layer, all in one order.

    Raises:
        TypeError: if a vector is missing that a quantity is made of.
        ValueError: if there is no such quantity.

    >>> measure(["update_ratio"], params=[np.float32([3.0, 4.0])], step=[np.float32([0.0, 0.5])])
    {'update_ratio': 0.1}
    """
    chosen = select(names, "names")
    for u in sorted(vectors_of(chosen) - arrays.keys()):
        needed = [name for name in chosen if u in vectors_of([name])]
        raise TypeError(f"{u} is missing: {', '.join(needed)} cannot be measured without it")
    known = dict(given or {})
    whole: Measured = Exact(arrays, known)
    if not exact:
        values, sizes, present = plain_sums(reductions(chosen), arrays)
        whole = Sums(values, sizes, known).whole(present, known)
    return row({}, chosen, whole)
