"""How noisy gradients are, from those of the micro-batches that a step is made of.

A step's gradient is the sum of the gradients g₁ … gₖ of k ≥ 2 micro-batches. Of these, ‖gᵢ‖² and
‖Σgᵢ‖² are known. Two numbers are made of them:

- the trace, (Σ‖gᵢ‖² − ‖Σgᵢ‖²/k)/(k − 1): the variance of the gradient of a micro-batch;
- the signal, ‖Σgᵢ‖²/k² − trace/k: the square of the norm of the expected gradient;

both without bias (McCandlish, Kaplan and Amodei 2018). A factor common to all gradients, such as
1/k of an accumulation, changes none of the three quantities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .measured import Measured


class MicroBatches(NamedTuple):
    """What is known of the micro-batches of a step, on the host.

    Attributes:
        squares: ‖gᵢ‖², float64 array of shape (k, …), (k, layers, …).
        total: ‖Σgᵢ‖², of the same shape without k.
        samples: how many samples a micro-batch has; NaN where it is not known.
    """

    squares: np.ndarray[Any, Any]
    total: np.ndarray[Any, Any]
    samples: float

    @classmethod
    def of(cls, found: Mapping[str, Any] | None) -> MicroBatches | float:
        """Return what came to the host of one step, with an axis for the step at the end.

        ``None``, where there was no micro-batch, is NaN.

        Args:
            found: of each micro-batch an array of layers (``squares``), of their sum (``total``),
                and numbers of ``samples``.
        """
        if found is None:
            return math.nan
        squares, total = np.stack(found["squares"]), np.asarray(found["total"])
        return cls(squares[..., None], total[..., None], float(np.mean(found["samples"])))

    def whole(self) -> MicroBatches:
        """Return those of all layers as one vector."""
        return MicroBatches(self.squares.sum(axis=1), self.total.sum(axis=0), self.samples)


def noise_scale(m: Measured) -> Any:
    """Return trace / signal, in samples: the size of a batch whose noise is as large as its signal.

    Batches much smaller than it hardly differ in the progress a sample makes; larger ones waste
    samples. In micro-batches where the number of samples is not known; infinite where no signal is
    measured. An average over many steps says more than one.

    Cost: a copy of the gradients, and two passes over them for each micro-batch.

    Source: McCandlish, Kaplan and Amodei 2018 (arXiv:1812.06162), the simple noise scale.
    """
    micro = m.given("micro")
    if not isinstance(micro, MicroBatches):
        return math.nan
    trace, signal = _moments(micro)
    samples = 1.0 if math.isnan(micro.samples) else micro.samples
    return np.where(signal > 0, samples * trace / np.where(signal > 0, signal, 1.0), math.inf)


def grad_snr(m: Measured) -> Any:
    """Return √(signal / trace), the signal-to-noise ratio of one micro-batch's gradient.

    0 where no signal is measured. Cost and source as of :func:`noise_scale`.
    """
    micro = m.given("micro")
    if not isinstance(micro, MicroBatches):
        return math.nan
    trace, signal = _moments(micro)
    return np.sqrt(np.maximum(signal, 0.0) / trace)


def micro_cosine(m: Measured) -> Any:
    """Return the mean cosine between the gradients of two micro-batches, weighted by their norms.

    It is Σgᵢ·gⱼ / Σ‖gᵢ‖‖gⱼ‖ over all pairs: 1 where all agree, near 0 where noise prevails,
    negative where they undo each other. Cost as of :func:`noise_scale`.

    Source: gradient confusion, Sankararaman et al. 2020, as a mean.
    """
    micro = m.given("micro")
    if not isinstance(micro, MicroBatches):
        return math.nan
    squares = micro.squares.sum(axis=0)
    norms = np.sqrt(micro.squares).sum(axis=0)
    return (micro.total - squares) / (norms * norms - squares)


def _moments(micro: MicroBatches) -> tuple[Any, Any]:
    k = len(micro.squares)
    if k < 2:
        return math.nan, np.asarray(math.nan)
    trace = (micro.squares.sum(axis=0) - micro.total / k) / (k - 1)
    return trace, np.asarray(micro.total / k**2 - trace / k)
