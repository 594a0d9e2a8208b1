"""Rows of measurements, the same in every framework."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from optstudy_core.arrays import geometry
from optstudy_core.arrays.namespace import Array
from optstudy_core.arrays.passes import to_numpy

from .activations import activation_quantities
from .measured import EMPTY, REDUCE, Exact, Measured, Reduction, Sums
from .options import Chosen
from .profiles import PROFILES, Target, profile
from .quantities import QUANTITIES, reductions, select
from .quantities import vectors as vectors_of

Vectors = Mapping[str, Sequence[Array | None]]
"""Vectors by name: an array for each layer, or ``None`` if the layer has none."""


Profiled = Mapping[tuple[str, str | None], Sequence[float]]
"""The numbers of profiles, by profile and layer; ``None`` for the network."""


def _joined(
    made: dict[str, Any], cells: dict[str, dict[str, Any]], profiles: Profiled
) -> dict[str, Any]:
    """Return a row from numbers of the network, numbers of layers, and profiles."""
    for (name, layer), numbers in profiles.items():
        own = made if layer is None else cells.setdefault(layer, {})
        own[name] = dict(zip(PROFILES[name].labels, map(float, numbers), strict=True))
    return {**made, "layers": cells} if cells else made


def by_layer(
    profiles: Mapping[Target, Sequence[float]], layers: Sequence[str]
) -> dict[tuple[str, str | None], Sequence[float]]:
    """Return profiles by the names of the layers, instead of their numbers."""
    return {(n, None if i is None else layers[i]): found for (n, i), found in profiles.items()}


def with_activations(
    row: dict[str, Any], chosen: Chosen, seen: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Any]:
    """Return a row with quantities of activations.

    Args:
        row: the row of a step.
        chosen: the quantities of the row.
        seen: under ``"sums"`` and ``"grads"``, for each layer by name, the results of
            :func:`activation_sums` for each call of the layer.
    """
    if not seen:
        return row
    found = {}
    for layer in dict.fromkeys((*seen["sums"], *seen["grads"])):
        wanted = [name for name in chosen.activations if chosen.shows(name, layer)]
        sums, grads = (seen[kind].get(layer, ()) for kind in ("sums", "grads"))
        if wanted:
            found[layer] = dict(activation_quantities(wanted, sums, grads))
    return {**row, "activations": found} if found else row


def with_metrics(row: dict[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return a row with further numbers, placed before the layers.

    Raises:
        ValueError: if the row already has one of the names.
    """
    for name in metrics:
        if name in row or name in {"layers", "activations", "alerts"}:
            raise ValueError(f"metrics with {name!r}: the row already has this name")
    parts: dict[str, Any] = {n: row[n] for n in ("layers", "activations") if n in row}
    return {**{k: v for k, v in row.items() if k not in parts}, **metrics, **parts}


@np.errstate(all="ignore")
def exact_row(
    head: Mapping[str, int],
    chosen: Chosen,
    vectors: Vectors,
    given: Mapping[str, Any],
    layers: Mapping[str, Mapping[str, Any]],
    measures: Any = geometry,
    to_host: Callable[[Any], Any] = to_numpy,
    profiles: Profiled | None = None,
) -> dict[str, Any]:
    """Return a row from exact sums.

    Args:
        head: the numbers ``epoch`` and ``step``.
        chosen: the quantities of the row.
        vectors: the vectors that :func:`vectors` names.
        given: ``loss``, ``lr`` of the network.
        layers: for each layer, by name and in order, the given numbers of the layer.
        measures: see :class:`Exact`.
        to_host: see :class:`Exact`.
        profiles: the numbers of the profiles.
    """
    entries: dict[str | None, Vectors] = {
        layer: {u: [column[i]] for u, column in vectors.items()} for i, layer in enumerate(layers)
    }
    own: dict[str | None, Mapping[str, Any]] = {None: given}
    own.update(layers)
    entries[None] = vectors
    found: dict[str | None, dict[str, Any]] = {}
    measured: dict[tuple[str | None, ...], Measured] = {}
    for name in chosen.names:
        shown = tuple(k for k in entries if chosen.shows(name, k))
        if shown not in measured:
            columns = [entries[k] for k in shown], [own[k] for k in shown]
            measured[shown] = Exact(*columns, measures, to_host)
        values = np.broadcast_to(QUANTITIES[name](measured[shown]), len(shown)).tolist()
        for k, value in zip(shown, values, strict=True):
            found.setdefault(k, {})[name] = value
    cells = {layer: found[layer] for layer in layers if layer in found}
    return _joined({**head, **found.get(None, {})}, cells, profiles or {})


@np.errstate(all="ignore")
def plain_rows(
    heads: Sequence[Mapping[str, int]],
    chosen: Chosen,
    sums: Sums,
    present: Mapping[str, np.ndarray[Any, Any]],
    given: Mapping[str, Any],
    layers: Sequence[str],
    profiles: Sequence[Profiled],
) -> list[dict[str, Any]]:
    """Return the rows of several steps from plain sums on the host.

    Args:
        heads: for each row, the numbers ``epoch`` and ``step``.
        chosen: the quantities of the rows.
        sums: arrays of shape (layers, rows), and sizes of shape (layers, 1).
        present: see :meth:`Sums.whole`.
        given: ``loss``, ``lr`` of the network, arrays of shape (rows,).
        layers: the names of the layers.
        profiles: for each row, the numbers of the profiles.
    """
    count, known = len(heads), len(layers)
    whole = sums.whole(present, given)
    names = [name for name in chosen.names if chosen.shows(name, None)]
    tops = [np.broadcast_to(QUANTITIES[name](whole), (count,)).tolist() for name in names]
    shown = [[name for name in chosen.names if chosen.shows(name, layer)] for layer in layers]
    used = list(dict.fromkeys(name for own in shown for name in own))
    columns = {
        name: np.broadcast_to(QUANTITIES[name](sums), (known, count)).T.tolist() for name in used
    }
    rows = []
    for k, head in enumerate(heads):
        made = {**head, **{name: top[k] for name, top in zip(names, tops, strict=True)}}
        cells = {
            layer: {name: columns[name][k][i] for name in own}
            for i, (layer, own) in enumerate(zip(layers, shown, strict=True))
            if own
        }
        rows.append(_joined(made, cells, profiles[k]))
    return rows


def plain_sums(
    wanted: Sequence[Reduction], vectors: Vectors, xp: Any = np
) -> tuple[dict[Reduction, Any], dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Return plain sums, the sizes of the vectors, and which layers have them (see :class:`Sums`).

    Args:
        wanted: the reductions.
        vectors: the vectors, arrays of the library of ``xp`` in any real dtype.
        xp: the namespace of a library with float64.
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
) -> dict[str, Any]:
    """Return quantities (numbers) and profiles (dictionaries) of arrays, by name.

    Args:
        names: names of quantities, profiles and instruments. A spectrum takes one matrix, with rows
            along the first axis.
        exact: use exact sums; otherwise plain float64 sums, for NumPy arrays only.
        given: ``loss``, ``lr``.
        **arrays: the vectors ``grad``, ``params``, ``step``, ``previous``, ``displacement``
            (θ − θ₀), ``m``, ``v``: lists with one array for each layer, all in the same order.

    Raises:
        TypeError: if a vector is missing that a quantity needs.
        ValueError: if a quantity is unknown.

    >>> measure(["update_ratio"], params=[np.float32([3.0, 4.0])], step=[np.float32([0.0, 0.5])])
    {'update_ratio': 0.1}
    """
    chosen = select(names, "names")
    for u in sorted(vectors_of(chosen) - arrays.keys()):
        needed = [name for name in chosen if u in vectors_of([name])]
        raise TypeError(f"{u} is missing: {', '.join(needed)} cannot be measured without it")
    known = dict(given or {})
    wanted = Chosen.of("names", chosen, per_layer=False)
    columns = {name: arrays[PROFILES[name].vector] for name in wanted.profiles}
    profiles: Profiled = {(n, None): profile((n, None), column, 0) for n, column in columns.items()}
    if exact:
        return exact_row({}, wanted, arrays, known, {}, profiles=profiles)
    values, sizes, present = plain_sums(reductions(chosen), arrays)
    sums = Sums(
        {r: column[:, None] for r, column in values.items()},
        {u: size[:, None] for u, size in sizes.items()},
        known,
    )
    (found,) = plain_rows([{}], wanted, sums, present, known, [], [profiles])
    return found
