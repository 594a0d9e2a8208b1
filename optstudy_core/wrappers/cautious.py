"""Cautious steps: only the elements of a step that go against the current gradient.

    φ = 1 where uₜ·gₜ < 0, else 0
    θₜ = θₜ₋₁ + uₜ·φ / max(mean of φ, ε)

where uₜ is the step of an algorithm and gₜ the gradient. The mean is taken over each leaf. Decay
inside the step is masked with it. The lower bound ε of the mean is that in the code of the authors.

Source: Liang, Chen, Liu and Liu 2024 (`liang2024cautious`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from optstudy_core.arrays.namespace import Array, namespace
from optstudy_core.arrays.reductions import leaf_mean

from ._around import Rule, around


class CautiousState(NamedTuple):
    """The state of a cautious algorithm.

    Attributes:
        inner: the state of the algorithm.
    """

    inner: Any


def cautious(algorithm: Rule, eps: float = 1e-3) -> Rule:
    """Return an algorithm with masked steps.

    Args:
        algorithm: the algorithm that takes the steps.
        eps: ε > 0, the lower bound of the mean.

    Raises:
        ValueError: if ``eps`` is not above 0.

    >>> import numpy as np
    >>> from optstudy_core import ALGORITHMS
    >>> rule = cautious(ALGORITHMS["sgd"])
    >>> state = rule.init(np.zeros(2))
    >>> state, _ = rule.update(state, np.array([1.0, 1.0]), lr=0.5, momentum=0.75)
    >>> rule.update(state, np.array([1.0, -0.25]), lr=0.5, momentum=0.75)[1].tolist()
    [-1.75, -0.0]
    """
    if not eps > 0:
        raise ValueError(f"eps = {eps!r}: allowed are numbers above 0")

    def init(inner: Any, params: Array) -> CautiousState:
        return CautiousState(inner)

    def update(
        advance: Callable[..., Any], state: CautiousState, g: Array, params: Array
    ) -> tuple[CautiousState, Array]:
        xp = namespace(g)
        inner, u = advance(state.inner)
        down = xp.where(xp.sign(u) * g < 0, xp.ones_like(u), 0.0)
        return CautiousState(inner), u * (down / xp.maximum(leaf_mean(down), eps))

    return around(algorithm, "cautious", init, update, {}, ("liang2024cautious",))
