"""Methods that look at a training run once an epoch: ``(state, measurements) → (state, decision)``.

θ are all parameters as one vector, k counts epochs, L is an epoch's mean training loss, and
Δₖ = θ(end of k) − θ(start of k) is its step.

- :mod:`.step`: the size of Δₖ and its angle to Δₖ₋₁.
- :mod:`.direction`, :mod:`.careful`, :mod:`.direction_careful`: multipliers on the learning rate,
  kept and bounded by :mod:`.rate`.
- :mod:`.eve`: where the loss is lowest along a step.
- :mod:`.extrapolation`, :mod:`.momentum`, :mod:`.backstep`: moves at the end of an epoch.
- :mod:`.mean`: the epoch's mean loss.

Whatever a decision about the learning rate is made of is a float32 number on every library (the
cosine is computed in float64 and rounded once), and + − × ÷ are all that is done to it: so NumPy,
PyTorch and JAX decide alike, to the last bit. The functions take Python and NumPy numbers, arrays
of any library, and traced arrays.
"""

from __future__ import annotations

from . import (
    backstep,
    careful,
    direction,
    direction_careful,
    eve,
    extrapolation,
    mean,
    momentum,
    rate,
    step,
)
from .measured import Decision, Measured

__all__ = [
    "Decision",
    "Measured",
    "backstep",
    "careful",
    "direction",
    "direction_careful",
    "eve",
    "extrapolation",
    "mean",
    "momentum",
    "rate",
    "step",
]
