"""Sums of small layers on a CPU: side by side in one array of NumPy, a few calls for all of them.

A call of torch costs more than the sums of a small layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch

from optstudy_core import instruments as core

from ._copies import Copies, side_by_side
from ._layers import Layers
from ._sums import Blocks, Layout

_OF_PARTS: Final[Mapping[str, Any]] = {
    "dot": lambda starts, x, y: np.add.reduceat(x * y, starts),
    "total": lambda starts, x: np.add.reduceat(x, starts),
    "least": lambda starts, x: np.minimum.reduceat(x, starts),
    "greatest": lambda starts, x: np.maximum.reduceat(x, starts),
    "nonfinite": lambda starts, x: np.add.reduceat((~np.isfinite(x)).astype(np.float64), starts),
    "below": lambda starts, x, y: np.add.reduceat((x * x < y).astype(np.float64), starts),
}
"""The reductions of :data:`optstudy_core.instruments.REDUCE`, of parts of a float64 array."""


class SmallLayers:
    """Sums of all layers at once, where all of them are small, dense and on the CPU."""

    def __init__(self) -> None:
        self._layouts: dict[Any, Layout] = {}

    @np.errstate(all="ignore")
    def blocks(
        self,
        reductions: Sequence[core.Reduction],
        wanted: Iterable[str],
        layers: Layers,
        before: Copies,
        last: Copies,
        origin: Copies,
    ) -> Blocks | None:
        """Return what ``sum_blocks`` returns; ``None`` where it has to be called.

        Args:
            reductions: what is summed.
            wanted: names of vectors.
            layers: the parameters.
            before: the parameters before the step; the step, once it is needed.
            last: the step before; nothing before the first.
            origin: the parameters from which a displacement is measured.
        """
        if not layers.small or not layers.params[0].is_cpu:
            return None
        now = side_by_side(layers.params)
        found: dict[str, torch.Tensor] = {}
        absent = set()
        for u in wanted:
            if u == "params":
                found[u] = now
            elif u == "step":
                if before.flat is None:
                    return None
                found[u] = torch.sub(now, before.flat, out=before.flat)
            elif u == "previous" and not last.tensors:
                absent.add(u)
            elif u in ("previous", "displacement"):
                own = (last if u == "previous" else origin).flat
                if own is None or own.numel() != now.numel():
                    return None
                found[u] = own if u == "previous" else now - own
            else:
                column = layers.column(u)
                if not _fit(column, layers.params):
                    return None
                found[u] = side_by_side([x for x in column if x is not None])
        wide = {u: x.to(torch.float64).numpy() for u, x in found.items()}
        usable = [(k, r) for k, r in enumerate(reductions) if absent.isdisjoint(r.vectors)]
        sums = [_OF_PARTS[r.kind](layers.starts, *(wide[u] for u in r.vectors)) for _, r in usable]
        layout = self._layout(layers, tuple(reductions), tuple(found), usable, absent)
        return Blocks([torch.from_numpy(np.concatenate(sums))] if sums else [], layout)

    def _layout(
        self,
        layers: Layers,
        reductions: tuple[core.Reduction, ...],
        found: tuple[str, ...],
        usable: Sequence[tuple[int, core.Reduction]],
        absent: set[str],
    ) -> Layout:
        sizes = tuple(p.numel() for p in layers.params)
        key = (reductions, found, bool(absent), sizes)
        if key not in self._layouts:
            count = len(sizes)
            places = [(i, k) for k, _ in usable for i in range(count)]
            vectors: dict[str, Any] = dict.fromkeys(found, layers.params)
            vectors |= dict.fromkeys(absent, [None] * count)
            self._layouts[key] = Layout([np.array(places).reshape(-1, 2)], vectors, count)
        return self._layouts[key]


def _fit(column: Sequence[torch.Tensor | None], params: Sequence[torch.Tensor]) -> bool:
    return all(
        x is not None and x.dtype == p.dtype and x.numel() == p.numel() and x.device == p.device
        for x, p in zip(column, params, strict=True)
    )
