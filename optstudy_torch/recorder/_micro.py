"""Gradients of the micro-batches of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from optstudy_torch._meshes import whole


class MicroGradients:
    """Sums over the micro-batches of a step, whose gradients add up in ``.grad``."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin the next step."""
        self._squares: list[torch.Tensor] = []
        self._before: list[torch.Tensor | None] = []
        self._samples: list[float] = []

    def add(self, params: Sequence[torch.Tensor], samples: float) -> None:
        """Measure the gradients after a micro-batch.

        Args:
            params: the parameters with the sum of the gradients so far.
            samples: the number of samples; NaN if unknown.
        """
        now = [None if p.grad is None else p.grad.detach() for p in params]
        before = self._before or [None] * len(now)
        own = [g if g is None or b is None else g - b for g, b in zip(now, before, strict=True)]
        self._squares.append(_squares(own, params))
        self._before = [None if g is None else g.clone() for g in now]
        self._samples.append(samples)

    def take(self, params: Sequence[torch.Tensor]) -> dict[str, Any] | None:
        """Return the sums, on the device; ``None`` if there was no micro-batch."""
        if not self._squares:
            return None
        total = _squares(self._before, params)
        found = {"squares": self._squares, "total": total, "samples": self._samples}
        self.clear()
        return found


def _squares(grads: Sequence[torch.Tensor | None], params: Sequence[torch.Tensor]) -> torch.Tensor:
    norms = [
        torch.zeros((), dtype=torch.float64, device=p.device)
        if g is None
        else whole(torch.linalg.vector_norm(g, dtype=torch.float64))
        for g, p in zip(grads, params, strict=True)
    ]
    home = norms[0].device
    return torch.stack([n.to(home) for n in norms]).square()
