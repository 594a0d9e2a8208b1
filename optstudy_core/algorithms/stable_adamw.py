"""StableAdamW: AdamW with a lower rate while the second moment lags behind the gradient.

    RMSₜ = √(mean of gₜ² / max(v̂ₜ, ε²)),    ηₜ = lr / max(1, RMSₜ)
    θₜ = θₜ₋₁ − ηₜ·m̂ₜ / (√v̂ₜ + ε) − ηₜ·λ·θₜ₋₁

with m̂ₜ and v̂ₜ of Adam (`optstudy_core/algorithms/adam.py`), and the mean over each leaf
(Adafactor's update clipping). The paper has the bias correction in the decays, βₜ = β·(1 − βᵗ⁻¹)/(1
− βᵗ), which gives the same m̂ₜ and v̂ₜ. The defaults of β₂, ε and λ are those of the library
optimi.

Source: Wortsman et al. 2023, Algorithm 2 (`wortsman2023stable`).
"""

from __future__ import annotations

from typing import Any

from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.arrays.reductions import leaf_mean
from optstudy_core.parts.bias_correction import correction
from optstudy_core.parts.terms import decoupled_decay

from . import adam

BIBTEX = ("wortsman2023stable",)

DIALECTS: dict[str, dict[str, Any]] = {"paper": {}}


class StableAdamWState(adam.AdamState):
    """The state of StableAdamW: the moments and bias corrections of Adam."""

    __slots__ = ()


def init(params: Array) -> StableAdamWState:
    """Return the state before the first step: every field is zero."""
    return StableAdamWState(*adam.init(params))


def update(
    state: StableAdamWState,
    grad: Array,
    params: Array | None = None,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.99,
    eps: Any = 1e-6,
    weight_decay: Any = 1e-2,
    maximize: bool = False,
    cautious_decay: bool = False,
) -> tuple[StableAdamWState, Array]:
    """Return the new state and the step, which is added to the parameters.

    Args:
        state: from :func:`init` or from the last update.
        grad: gradient gₜ, like the parameters.
        params: parameters θₜ₋₁; only read if there is weight decay.
        lr: learning rate, ≥ 0.
        b1: decay β₁ of the first moment, in [0, 1).
        b2: decay β₂ of the second moment, in [0, 1).
        eps: ε ≥ 0, added to the root; ε² is the smallest divisor in RMSₜ.
        weight_decay: decoupled decay rate λ ≥ 0.
        maximize: climb instead of descend (the decay keeps its sign).
        cautious_decay: decay only elements with step·θ ≤ 0 (`chen2025cautious`).

    Returns:
        ``(state, step)``; ``step`` has the shape and dtype of ``grad``.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.

    >>> import numpy as np
    >>> theta = np.zeros(1)
    >>> state, step = update(init(theta), np.array([0.5]), theta, lr=0.1)
    >>> step.round(6).tolist()
    [-0.1]
    >>> state, step = update(state, np.array([50.0]), theta, lr=0.1)  # RMS is about √2
    >>> (step / 0.1).round(3).tolist()
    [-0.531]
    """
    xp = namespace(grad)
    moments, u = adam.update(state, grad, lr=1.0, b1=b1, b2=b2, eps=eps, maximize=maximize)
    v_hat = moments.v / correction(b2, moments.t)
    rms = xp.sqrt(leaf_mean(grad * grad / xp.maximum(v_hat, eps * eps)))
    rate = lr / xp.maximum(rms, 1.0)
    step = decoupled_decay(
        rate * u, params, lr=rate, weight_decay=weight_decay, cautious=cautious_decay
    )
    return StableAdamWState(*moments), step
