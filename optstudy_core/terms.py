"""Terms that many update rules share: the direction of the gradient and the L2 penalty."""

from __future__ import annotations

from typing import Any

from ._namespace import Array, absent


def objective_gradient(
    grad: Array, params: Array, *, weight_decay: Any = 0.0, maximize: bool = False
) -> Array:
    """Return the gradient of what is minimized: ±f(θ) + (λ/2)·‖θ‖².

        g ← −g if maximize, then g ← g + λ·θ

    The penalty λ = ``weight_decay`` is the coupled one (L2): it passes through the moments.

    Raises:
        ValueError: if there is a penalty and ``params`` is ``None``.
    """
    g = -grad if maximize else grad
    if absent(weight_decay):
        return g
    return g + weight_decay * needed(params, "weight_decay")


def needed(params: Array, argument: str) -> Array:
    """Return ``params``, which a term of the formula reads.

    Raises:
        ValueError: if they are ``None``.
    """
    if params is None:
        raise ValueError(f"params = None, but {argument} reads the parameters: pass them to update")
    return params
