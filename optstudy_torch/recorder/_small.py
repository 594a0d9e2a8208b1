"""Sums of small layers on a CPU: concatenated in one NumPy array, for many steps together.

A call costs more than the sums of a small layer, so a step only stores its vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from optstudy_core import instruments as core

from ._copies import Copies, Vectors, flat, read, side_by_side
from ._layers import Layers
from ._sums import Layout

_OF_PARTS: Final[Mapping[str, Any]] = {
    "dot": lambda starts, x, y: np.add.reduceat(x * y, starts, axis=1),
    "total": lambda starts, x: np.add.reduceat(x, starts, axis=1),
    "least": lambda starts, x: np.minimum.reduceat(x, starts, axis=1),
    "greatest": lambda starts, x: np.maximum.reduceat(x, starts, axis=1),
    "nonfinite": lambda starts, x: np.add.reduceat(
        (~np.isfinite(x)).astype(np.float64), starts, axis=1
    ),
    "below": lambda starts, x, y: np.add.reduceat((x * x < y).astype(np.float64), starts, axis=1),
}
"""The reductions in :data:`optstudy_core.instruments.REDUCE`, for parts of arrays (steps, n)."""

MOST: Final = 1 << 21
"""The largest number of stored elements."""


class Aside(NamedTuple):
    """Stored vectors of a step: one tensor for all layers each."""

    usable: tuple[core.Reduction, ...]
    starts: np.ndarray
    flat: dict[str, torch.Tensor]


_COPIED: Final = ("step", "previous", "displacement")


class SmallLayers:
    """Sums of all layers at once, if all layers are small, dense and on the CPU."""

    def __init__(self) -> None:
        self._layouts: dict[Any, tuple[tuple[core.Reduction, ...], Layout, Any]] = {}
        self._held = 0

    @property
    def is_full(self) -> bool:
        """Whether enough vectors are stored to sum them."""
        return self._held > MOST

    def put_aside(
        self,
        reductions: Sequence[core.Reduction],
        wanted: Iterable[str],
        layers: Layers,
        before: Copies,
        last: Copies,
        origin: Copies,
    ) -> tuple[Aside, Layout] | None:
        """Return the vectors of a step, to sum later; ``None`` if layers are not small.

        Args:
            reductions: the reductions.
            wanted: names of vectors.
            layers: the parameters.
            before: the parameters before the step; the step, once it is needed.
            last: the previous step; empty before the first step.
            origin: the parameters at the origin of displacements.
        """
        if layers.together is None or not layers.params[0].is_cpu:
            return None
        size, dtype = sum(layers.sizes), layers.params[0].dtype
        # Compute nothing in place until all vectors are known to exist.
        known: dict[str, torch.Tensor | None] = {}
        absent = set()
        for u in wanted:
            if u == "previous" and last.is_empty:
                absent.add(u)
            elif u in _COPIED:
                own = {"step": before, "previous": last, "displacement": origin}[u].flat
                if own is None or own.numel() != size:
                    return None
                known[u] = own
            elif u == "params":
                known[u] = None
            else:
                column = layers.column(u)
                if not _fit(column, layers.sizes):
                    return None
                known[u] = own = side_by_side([x for x in column if x is not None])
                if own.dtype != dtype:
                    return None
        now = side_by_side(layers.params)
        found: dict[str, torch.Tensor] = {}
        for u, own in known.items():
            if own is None:
                found[u] = now
            elif u == "step":
                found[u] = torch.sub(now, own, out=own)
            else:
                found[u] = now - own if u == "displacement" else own
        return self._aside(reductions, layers, found, absent)

    def put_aside_whole(
        self, reductions: Sequence[core.Reduction], vectors: Vectors, layers: Layers
    ) -> tuple[Aside, Layout] | None:
        """Return the same, with the same bits, from vectors that are not concatenated.

        Args:
            reductions: the reductions.
            vectors: tensors and differences of each layer, which are computed here; ``DTensor``s
                are gathered.
            layers: the parameters.
        """
        if not layers.small_as_whole:
            return None
        absent = {u for u, c in vectors.items() if u == "previous" and all(x is None for x in c)}
        there = {u: column for u, column in vectors.items() if u not in absent}
        if not there or not all(_fit(column, layers.sizes) for column in there.values()):
            return None
        if any(x.dtype != layers.params[0].dtype for column in there.values() for x in column):
            return None
        found = {u: side_by_side([read(flat(x)) for x in c]) for u, c in there.items()}
        return self._aside(reductions, layers, found, absent)

    def _aside(
        self,
        reductions: Sequence[core.Reduction],
        layers: Layers,
        found: dict[str, torch.Tensor],
        absent: set[str],
    ) -> tuple[Aside, Layout]:
        self._held += sum(x.numel() for x in found.values())
        usable, layout = self._layout(layers, reductions, tuple(found), absent)
        return Aside(usable, layers.starts, found), layout

    @np.errstate(all="ignore")
    def sums(self, steps: Sequence[tuple[Layout, Aside]]) -> list[list[np.ndarray]]:
        """Return the sums of steps with stored vectors, as those of ``Blocks`` on the host."""
        self._held = 0
        made: list[list[np.ndarray]] = []
        for _, group in groupby(steps, lambda step: id(step[0])):
            asides = [aside for _, aside in group]
            usable, starts, first = asides[0]
            if not usable:
                made += [[] for _ in asides]
                continue
            wide = {
                u: np.stack([aside.flat[u].numpy() for aside in asides]).astype(np.float64)
                for u in first
            }
            found = [_OF_PARTS[r.kind](starts, *(wide[u] for u in r.vectors)) for r in usable]
            made += [[row] for row in np.concatenate(found, axis=1)]
        return made

    def _layout(
        self,
        layers: Layers,
        reductions: Sequence[core.Reduction],
        found: tuple[str, ...],
        absent: set[str],
    ) -> tuple[tuple[core.Reduction, ...], Layout]:
        key = id(reductions), found, id(layers.sizes)
        if key not in self._layouts:
            count = len(layers.sizes)
            usable = [(k, r) for k, r in enumerate(reductions) if absent.isdisjoint(r.vectors)]
            places = [(i, k) for k, _ in usable for i in range(count)]
            vectors: dict[str, Any] = dict.fromkeys(found, layers.params)
            vectors |= dict.fromkeys(absent, [None] * count)
            layout = Layout([np.array(places).reshape(-1, 2)], vectors, count)
            # The objects of the key are kept, so that no other has their identity.
            kept = reductions, layers.sizes
            self._layouts[key] = tuple(r for _, r in usable), layout, kept
        return self._layouts[key][:2]


def _fit(column: Sequence[Any], sizes: Sequence[int]) -> bool:
    return all(
        x is not None and x.device.type == "cpu" and x.numel() == size
        for x, size in zip(column, sizes, strict=True)
    )
