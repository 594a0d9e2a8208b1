"""Steps that were measured and are still on the device, and how they come to the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ._sums import Blocks


class Pending(NamedTuple):
    """A step that was measured and is still on the device; ``recorded``: it has a row."""

    number: int
    epoch: int
    blocks: Blocks
    rates: list[Any]
    loss: list[torch.Tensor]
    skipped: torch.Tensor | None
    recorded: bool


class Fetch:
    """Brings small tensors to the host, those of a device in one transfer."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []

    def add(self, *tensors: torch.Tensor) -> None:
        self._tensors += [t.detach().reshape(-1).to(torch.float64) for t in tensors]

    def values(self) -> Iterator[np.ndarray]:
        """Yield the values in the order in which they were added."""
        parts = {}
        for device in {t.device for t in self._tensors}:
            own = [t for t in self._tensors if t.device == device]
            host = torch.cat(own).cpu().numpy()
            parts[device] = iter(np.split(host, np.cumsum([len(t) for t in own])[:-1]))
        for t in self._tensors:
            yield next(parts[t.device])


def fetched(
    pending: Sequence[Pending],
) -> Iterator[tuple[Pending, list[np.ndarray], list[float], list[float]]]:
    """Bring steps to the host, all at once, and leave out those that the optimizer skipped.

    Yields:
        each step with the values of its blocks, its losses and its rates.
    """
    fetch = Fetch()
    for made in pending:
        fetch.add(*made.blocks.tensors, *made.loss)
        fetch.add(*(r for r in made.rates if isinstance(r, torch.Tensor)))
        if made.skipped is not None:
            fetch.add(made.skipped)
    found = fetch.values()
    for made in pending:
        values = [next(found) for _ in made.blocks.tensors]
        losses = [float(next(found)[0]) for _ in made.loss]
        rates = [
            float(next(found)[0]) if isinstance(r, torch.Tensor) else float(r) for r in made.rates
        ]
        if made.skipped is not None and next(found)[0] != 0:
            continue  # an optimizer that skips the step itself, as GradScaler tells it
        yield made, values, losses, rates
