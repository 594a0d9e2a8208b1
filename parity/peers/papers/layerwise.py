"""Rules with a norm of each leaf."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._loop import State, pair
from .adam import moments


def _ratio(weights: Any, update: Any) -> Any:
    """Return a trust ratio; 1 for a layer or an update that is zero, which papers leave open."""
    return weights / update if weights != 0 and update != 0 else 1.0


def _novograd(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Ginsburg et al. 2019, Algorithm 1, with d = 0.1, and ε = 1e-8 in the first step too."""
    square = np.sum(g**2)
    s["v"] = square if t == 1 else 0.98 * s["v"] + (1 - 0.98) * square
    s["m"] = 0.95 * s["m"] + (g / (np.sqrt(s["v"]) + 1e-8) + 0.1 * theta)
    return theta - lr * s["m"]


def _fromage(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Bernstein et al. 2020, Algorithm 1."""
    ratio = _ratio(np.sqrt(np.sum(theta**2)), np.sqrt(np.sum(g**2)))
    return (theta - lr * ratio * g) / np.sqrt(1 + lr**2)


def _lamb(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """You et al. 2020, Algorithm 2, with the identity as φ and λ = 0.1."""
    m, v = moments(s, g)
    r = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6)
    u = r + 0.1 * theta
    return theta - lr * _ratio(np.sqrt(np.sum(theta**2)), np.sqrt(np.sum(u**2))) * u


def _lars(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """You et al. 2017, Algorithm 1, with η = 0.001, m = 0.9 and β = 0.1."""
    length = np.sqrt(np.sum(theta**2))
    local = _ratio(0.001 * length, np.sqrt(np.sum(g**2)) + 0.1 * length)
    s["v"] = 0.9 * s["v"] + lr * local * (g + 0.1 * theta)
    return theta - s["v"]


PEERS = [
    pair("novograd", _novograd, weight_decay=0.1),
    pair("fromage", _fromage, lr=1e-2),
    pair("lamb", _lamb, weight_decay=0.1),
    pair("lars", _lars, lr=1.0, weight_decay=0.1),
]
