"""Gradients of the micro-batches of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


class MicroGradients:
    """Sums over the micro-batches of a step, on the device."""

    def __init__(self) -> None:
        self._squares: list[Any] = []
        self._total: list[Any] | None = None
        self._samples: list[float] = []

    def add(self, grads: Sequence[Any], samples: float) -> None:
        """Measure the gradients of a micro-batch.

        Args:
            grads: the gradients of this micro-batch alone.
            samples: the number of samples; NaN if unknown.
        """
        squares, self._total = _add(list(grads), self._total)
        self._squares.append(squares)
        self._samples.append(samples)

    def found(self) -> dict[str, Any] | None:
        """Return the sums, on the device; ``None`` if there was no micro-batch."""
        if self._total is None:
            return None
        total = _squares(self._total)
        return {"squares": self._squares, "total": total, "samples": self._samples}


def _squares(grads: list[Any]) -> Any:
    with jax.enable_x64(True):
        wide = [g.astype(jnp.float64) for g in grads]
        return jnp.stack([jnp.sum(g * g) for g in wide])


@jax.jit
def _add(grads: list[Any], total: list[Any] | None) -> tuple[Any, list[Any]]:
    together = grads if total is None else [g + s for g, s in zip(grads, total, strict=True)]
    return _squares(grads), together
