"""Terms that many update rules share: the direction of the gradient and weight decay."""

from __future__ import annotations

from typing import Any

from optstudy_core.arrays.namespace import Array, absent, namespace


def objective_gradient(
    grad: Array, params: Array, *, weight_decay: Any = 0.0, maximize: bool = False
) -> Array:
    """Return the gradient of the minimized function ±f(θ) + (λ/2)·‖θ‖².

        g ← −g if maximize, then g ← g + λ·θ

    The penalty λ = ``weight_decay`` is coupled (L2): it enters the moments.

    Raises:
        ValueError: if there is a penalty and ``params`` is ``None``.
    """
    g = -grad if maximize else grad
    if absent(weight_decay):
        return g
    return g + weight_decay * needed(params, "weight_decay")


def objective_value(value: Array, *, maximize: bool) -> Array:
    """Return the minimized loss ±f(θ)."""
    return -value if maximize else value


def decoupled_decay(
    step: Array, params: Array, *, lr: Any, weight_decay: Any, cautious: bool = False
) -> Array:
    """Return a step with weight decay outside of the moments: step − lr·λ·θ.

    A cautious decay changes only elements with step·θ ≤ 0 (Chen et al. 2025, `chen2025cautious`).

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.
    """
    if absent(weight_decay):
        return step
    decayed = step - (lr * weight_decay) * needed(params, "weight_decay")
    return _cautious(step, params, decayed) if cautious else decayed


def proximal_decay(
    step: Array, params: Array, *, lr: Any, weight_decay: Any, cautious: bool = False
) -> Array:
    """Return a step with decay after the step: (θ + step) / (1 + lr·λ) − θ.

    ``cautious`` is as for :func:`decoupled_decay`.

    Raises:
        ValueError: if there is decay and ``params`` is ``None``.
    """
    if absent(weight_decay):
        return step
    rate = lr * weight_decay
    decayed = (step - rate * needed(params, "weight_decay")) / (1 + rate)
    return _cautious(step, params, decayed) if cautious else decayed


def _cautious(step: Array, params: Array, decayed: Array) -> Array:
    """Return ``decayed`` where step·θ ≤ 0, and ``step`` elsewhere."""
    xp = namespace(step)
    return xp.where(xp.sign(step) * params <= 0, decayed, step)  # step·θ itself could underflow


def needed(params: Array, argument: str) -> Array:
    """Return ``params``, which a term of the formula reads.

    Raises:
        ValueError: if ``params`` is ``None``.
    """
    if params is None:
        raise ValueError(f"params = None, but {argument} reads the parameters: pass them to update")
    return params


def split_decay(weight_decay: Any, decoupled: bool) -> tuple[Any, Any]:
    """Return λ as ``(penalty, decay)``, one of them 0, for the two functions above.

    The 0 is a Python number, so the term is left out.

    >>> split_decay(0.1, decoupled=True), split_decay(0.1, decoupled=False)
    ((0.0, 0.1), (0.1, 0.0))
    """
    return (0.0, weight_decay) if decoupled else (weight_decay, 0.0)
