"""Sums and profiles of the layers, by the fastest way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import torch

from optstudy_core import instruments as core

from ._copies import Copies, Vectors, read
from ._layers import Layers
from ._pending import Pending
from ._small import Aside, SmallLayers
from ._sums import Blocks, Layout, Scratch, sum_blocks

STEP: Final = core.Reduction("dot", ("step", "step"))
PREVIOUS: Final = core.Reduction("dot", ("previous", "previous"))

Profiles = tuple[tuple[core.Target, ...], list[torch.Tensor]]


class Sums:
    """Sums and profiles of layers.

    Args:
        layers: the parameters.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._small = SmallLayers()
        self._layout: Layout | None = None
        self._scratch: Scratch = {}

    @property
    def is_full(self) -> bool:
        """Whether enough vectors are stored to sum them."""
        return self._small.is_full

    def of_step(
        self,
        due: core.Chosen,
        summed: Sequence[core.Reduction],
        wanted: Collection[str],
        *copies: Copies,
    ) -> tuple[Blocks | tuple[Aside, Layout], Profiles]:
        """Return the measurements of a step: sums, or stored vectors for :meth:`add_up`; profiles.

        Args:
            due: the quantities of the row of the step.
            summed: the reductions.
            wanted: names of vectors.
            *copies: as for ``Layers.vectors``.
        """
        aside: tuple[Aside, Layout] | None = None
        if not due.profiles:
            aside = self._small.put_aside(summed, wanted, self._layers, *copies)
        if aside is not None:
            return aside, ((), [])
        found = self._layers.vectors(wanted, *copies)
        profiles = self.profiles(due, found)
        aside = self._small.put_aside_whole(summed, found, self._layers)
        return self.of(summed, found) if aside is None else aside, profiles

    def add_up(self, pending: Iterable[Pending]) -> None:
        """Sum the stored vectors of pending steps."""
        asides = [made for made in pending if isinstance(made.measured["blocks"], Aside)]
        sums = self._small.sums([(made.layout, made.measured["blocks"]) for made in asides])
        for made, own in zip(asides, sums, strict=True):
            made.measured["blocks"] = own

    def of(self, reductions: Sequence[core.Reduction], vectors: Vectors) -> Blocks:
        """Return the sums of vectors."""
        made = sum_blocks(reductions, vectors, self._scratch)
        if self._layout is not None and self._layout.equals(made.layout):
            made = made._replace(layout=self._layout)  # one layout for all pending steps
        self._layout = made.layout
        return made

    def profiles(self, due: core.Chosen, vectors: Vectors) -> Profiles:
        """Return profiles on the device; differences are computed in place."""
        if not due.profiles:
            return (), []
        shaped = {}
        for u in {core.PROFILES[name].vector for name in due.profiles}:
            vectors[u] = [formed(x) for x in vectors[u]]
            shaped[u] = self._layers.shaped(vectors[u])
        targets = core.targets(due.profiles, due.shows, self._layers.names, shaped)
        columns = [shaped[core.PROFILES[name].vector] for name, _ in targets]
        made = [core.profile(t, column, 0) for t, column in zip(targets, columns, strict=True)]
        return targets, made


def formed(x: Any) -> torch.Tensor | None:
    """Return a tensor unchanged, and the tensor of a difference that was computed in place."""
    return None if x is None else read(x)
