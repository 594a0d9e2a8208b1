"""Methods that act once an epoch, as pure functions: ``(state, measurements) → (state, decision)``.

θ are all parameters as one vector, k counts epochs, L is the mean training loss of an epoch, and
Δₖ = θ(end of k) − θ(start of k) is the step of epoch k.

- :mod:`.step`: the size of Δₖ and its angle to Δₖ₋₁.
- :mod:`.direction`, :mod:`.careful`, :mod:`.direction_careful`: multipliers of the learning rate.
  :mod:`.rate` keeps and bounds their product.
- :mod:`.eve`: a search for the lowest loss along a step.
- :mod:`.extrapolation`, :mod:`.momentum`, :mod:`.backstep`: moves at the end of an epoch.
- :mod:`.mean`: the mean loss of an epoch.

Decisions about the learning rate use float32 numbers in every library (the cosine is computed in
float64 and rounded once), and only the operations + − × ÷. So NumPy, PyTorch and JAX decide the
same, to the last bit. The functions take Python and NumPy numbers, arrays of any library, and
traced arrays.
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
