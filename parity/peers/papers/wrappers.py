"""Wrappers around Adam."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._loop import State, pair
from .adam import adam, moments


def _cautious(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Liang et al. 2024, for Adam: elements that agree in sign, divided by their share ≥ 0.001."""
    m, v = moments(s, g)
    mask = np.where(m * g > 0, 1.0, 0.0)
    u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta - lr * u * (mask / max(mask.mean(), 1e-3))


def _by_unit(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Brock et al. 2021, equation 3 before Adam, with the rows of a matrix as units."""

    def norm(x: Any) -> Any:
        axes = tuple(range(1, x.ndim)) if x.ndim > 1 else None
        return np.sqrt(np.sum(x**2, axis=axes, keepdims=True))

    bound = 0.05 * np.maximum(norm(theta), 1e-3)
    cut = np.where(norm(g) < bound, g, g * bound / np.maximum(norm(g), 1e-6))
    return adam(s, theta, cut.reshape(g.shape), t, lr)


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
    """Foret et al. 2021, Algorithm 1 around Adam, ρ = 0.05, and 1e-12 added to the norm."""
    if t % 2:
        s["w"] = theta
        return theta + 0.05 * g / (np.sqrt(np.sum(g**2)) + 1e-12)
    return adam(s, s["w"], g, t // 2, lr)


def _skipping(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Kumar et al. 2025: Adam that skips steps with jumps of the norm or of the loss."""
    now = np.array([np.sqrt(np.sum(g**2)), s["value"]], np.float64)
    seen = s.setdefault("seen", [])
    if len(seen) >= 5 and s["row"] < 3:
        w = 0.9 ** np.arange(len(seen))[::-1]
        mean = np.average(seen, axis=0, weights=w)
        deviation = np.sqrt(np.average((np.array(seen) - mean) ** 2, axis=0, weights=w))
        if np.any(now > mean + 0.7 * deviation):
            s["row"] += 1
            return theta
    seen.append(now)
    s["row"] = 0
    return adam(s, theta, g, len(seen), lr)


_OFTEN: dict[str, Any] = {
    "jump_threshold": 0.7,
    "level_decay": 0.9,
    "jump_warmup": 5,
    "most_jumps": 3,
}

PEERS = [
    pair("cautious", _cautious),
    pair("clipped_by_unit", _by_unit, clip_factor=0.05),
    pair("lookahead", _lookahead),
    pair("sam", _sam, whole=True),
    pair("skipping", _skipping, whole=True, **_OFTEN),
]
