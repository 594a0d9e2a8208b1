"""Wrappers around Adam."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._loop import State, pair
from .adam import adam, moments


def _cautious(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Liang et al. 2024, their Adam: what agrees in sign, over its share from 0.001 on."""
    m, v = moments(s, g)
    mask = np.where(m * g > 0, 1.0, 0.0)
    u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta - lr * u * (mask / max(mask.mean(), 1e-3))


def _lookahead(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Zhang et al. 2019, Algorithm 1 around Adam, with k = 5 and α = 0.5."""
    if t == 1:
        s["phi"] = theta
    theta = adam(s, theta, g, t, lr)
    if t % 5:
        return theta
    s["phi"] = s["phi"] + 0.5 * (theta - s["phi"])
    return s["phi"]


def _sam(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Foret et al. 2021, Algorithm 1 with Adam's step, ρ = 0.05, and 1e-12 beside the norm."""
    if t % 2:
        s["w"] = theta
        return theta + 0.05 * g / (np.sqrt(np.sum(g**2)) + 1e-12)
    return adam(s, s["w"], g, t // 2, lr)


PEERS = [
    pair("cautious", _cautious),
    pair("lookahead", _lookahead),
    pair("sam", _sam, whole=True),
]
