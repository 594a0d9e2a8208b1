"""The noise of gradients, from the gradients of the micro-batches of a step.

The gradient of a step is the sum of the gradients g₁ … gₖ of k ≥ 2 micro-batches. Two estimates
follow from ‖gᵢ‖² and ‖Σgᵢ‖²:

- the trace, (Σ‖gᵢ‖² − ‖Σgᵢ‖²/k)/(k − 1): the variance of the gradient of a micro-batch;
- the signal, ‖Σgᵢ‖²/k² − trace/k: the square of the norm of the expected gradient.

Both estimates have no bias (McCandlish, Kaplan and Amodei 2018). A common factor of all gradients,
such as 1/k of an accumulation, does not change the three quantities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .measured import Measured


class MicroBatches(NamedTuple):
    """Sums over the micro-batches of a step, on the host.

    Attributes:
        squares: ‖gᵢ‖², float64 array of shape (k, …), (k, layers, …).
        total: ‖Σgᵢ‖², array of the same shape without k.
        samples: the number of samples of a micro-batch; NaN if it is not known.
    """

    squares: np.ndarray[Any, Any]
    total: np.ndarray[Any, Any]
    samples: float

    @classmethod
    def of(cls, found: Mapping[str, Any] | None) -> MicroBatches | float:
        """Return the sums of one step, with an axis for the step at the end; NaN for ``None``.

        Args:
            found: the sums on the host: for each micro-batch an array over the layers
                (``squares``), an array for the sum of the gradients (``total``), and the numbers of
                ``samples``. ``None``: there was no micro-batch.
        """
        if found is None:
            return math.nan
        squares, total = np.stack(found["squares"]), np.asarray(found["total"])
        return cls(squares[..., None], total[..., None], float(np.mean(found["samples"])))

    def whole(self) -> MicroBatches:
        """Return the sums over all layers as one vector."""
        return MicroBatches(self.squares.sum(axis=1), self.total.sum(axis=0), self.samples)


def noise_scale(m: Measured) -> Any:
    """Return trace / signal, in samples: at this batch size, noise and signal are equally large.

    Smaller batches make about the same progress for each sample; larger batches waste samples. The
    unit is one micro-batch if the number of samples is not known. The result is infinite if no
    signal is measured. Use the average over many steps.

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
    """Return √(signal / trace), the signal-to-noise ratio of the gradient of one micro-batch.

    The result is 0 if no signal is measured. Cost and source as for :func:`noise_scale`.
    """
    micro = m.given("micro")
    if not isinstance(micro, MicroBatches):
        return math.nan
    trace, signal = _moments(micro)
    return np.sqrt(np.maximum(signal, 0.0) / trace)


def micro_cosine(m: Measured) -> Any:
    """Return the mean cosine between the gradients of two micro-batches, weighted by their norms.

    The result is Σgᵢ·gⱼ / Σ‖gᵢ‖‖gⱼ‖ over all pairs: 1 if all gradients agree, near 0 if noise
    prevails, negative if the gradients undo each other. Cost as for :func:`noise_scale`.

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
