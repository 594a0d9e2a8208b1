"""Rules of the gradient, its sign and its squares, without the two averages of Adam."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._loop import State, pair


def _momentum(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Sutskever et al. 2013, equations 1 and 2, with μ = 0.9."""
    s["v"] = 0.9 * s["v"] - lr * g
    return theta + s["v"]


def _adagrad(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Duchi et al. 2011, Figure 1 with diagonal matrices and δ = 1e-10."""
    s["s"] = s["s"] + g**2
    return theta - lr * g / (1e-10 + np.sqrt(s["s"]))


def _adadelta(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Zeiler 2012, Algorithm 1, with ρ = 0.95 and ε = 1e-6."""
    s["g"] = 0.95 * s["g"] + 0.05 * g**2
    step = -np.sqrt(s["x"] + 1e-6) / np.sqrt(s["g"] + 1e-6) * g
    s["x"] = 0.95 * s["x"] + 0.05 * step**2
    return theta + step


def _rmsprop(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Tieleman and Hinton 2012, slide 29."""
    s["ms"] = 0.9 * s["ms"] + 0.1 * g**2
    return theta - lr * g / np.sqrt(s["ms"])


def _graves(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Graves 2013, equations 38 to 45."""
    s["n"] = 0.95 * s["n"] + (1 - 0.95) * g**2
    s["g"] = 0.95 * s["g"] + (1 - 0.95) * g
    s["d"] = 0.9 * s["d"] - lr * g / np.sqrt(s["n"] - s["g"] ** 2 + 1e-4)
    return theta + s["d"]


def _rprop(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Riedmiller and Braun 1993: the adaptation rule and the learning rule, branch by branch."""
    delta = np.full(np.shape(g), 0.1) if t == 1 else s["delta"]
    before = s["g"] * g
    up, down = before > 0, before < 0
    s["delta"] = np.where(up, np.minimum(delta * 1.2, 50.0), delta)
    s["delta"] = np.where(down, np.maximum(delta * 0.5, 1e-6), s["delta"])
    s["step"] = np.where(down, -s["step"], -np.sign(g) * s["delta"])
    s["g"] = np.where(down, 0.0, g)
    return theta + s["step"]


def _lion(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Chen et al. 2023, Algorithm 2, with λ = 0.1."""
    c = 0.9 * s["m"] + (1 - 0.9) * g
    s["m"] = 0.99 * s["m"] + (1 - 0.99) * g
    return theta - lr * (np.sign(c) + 0.1 * theta)


def _lion_cautious_decay(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Chen et al. 2025, with λ = 0.1: Lion that decays where uₜ ⊙ θ ≥ 0."""
    u = np.sign(0.9 * s["m"] + (1 - 0.9) * g)
    s["m"] = 0.99 * s["m"] + (1 - 0.99) * g
    return theta - lr * (u + 0.1 * np.where(u * theta >= 0, theta, 0.0))


def optimistic(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Daskalakis et al. 2018, the update rule of optimistic mirror descent."""
    last, s["g"] = s["g"], g
    return theta - 2 * lr * g + lr * last


def _madgrad(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Defazio and Jelassi 2022, Algorithm 1, with c = 0.1."""
    if t == 1:
        s["x0"] = theta
    rate = lr * np.sqrt(t)
    s["s"] = s["s"] + rate * g
    s["v"] = s["v"] + rate * g**2
    z = s["x0"] - s["s"] / (np.cbrt(s["v"]) + 1e-6)
    return 0.9 * theta + (1 - 0.9) * z


def _sign_sgd(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Bernstein et al. 2018, Algorithm 1."""
    return theta - lr * np.sign(g)


def _signum(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Bernstein et al. 2018, Algorithm 2, with β = 0.9."""
    s["m"] = 0.9 * s["m"] + (1 - 0.9) * g
    return theta - lr * np.sign(s["m"])


PEERS = [
    pair("sign_sgd", _sign_sgd),
    pair("signum", _signum),
    pair("sgd", _momentum, momentum=0.9),
    pair("adagrad", _adagrad),
    pair("adadelta", _adadelta, lr=1.0, scheduled=False),
    pair("rmsprop", _rmsprop),
    pair(
        "rmsprop",
        _graves,
        lr=1e-4,
        alpha=0.95,
        momentum=0.9,
        centered=True,
        eps=1e-4,
        eps_in_root=True,
        lr_in_momentum=True,
    ),
    pair("rprop", _rprop, lr=0.1, scheduled=False),
    pair("lion", _lion, lr=1e-4, weight_decay=0.1),
    pair("lion", _lion_cautious_decay, lr=1e-4, weight_decay=0.1, cautious_decay=True),
    pair("optimistic_gradient_descent", optimistic),
    pair("madgrad", _madgrad, lr=1e-2),
]
