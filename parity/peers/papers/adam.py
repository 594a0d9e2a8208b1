"""Adam and related rules, with averages of the gradient and of its square."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._loop import State, pair
from .gradient import optimistic


def moments(s: State, g: Any, b1: float = 0.9, b2: float = 0.999) -> tuple[Any, Any]:
    """Return the next averages of the gradient and of its square."""
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * g**2
    return s["m"], s["v"]


def adam(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Kingma and Ba 2015, Algorithm 1."""
    m, v = moments(s, g)
    return theta - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def _adamw(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Loshchilov and Hutter 2019, Algorithm 2, with λ = 0.01 and the rate as α."""
    return adam(s, theta, g, t, lr) - 0.01 * theta


def _adamw_cautious_decay(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Chen et al. 2025, Algorithm 1, with λ = 0.1: AdamW that decays where uₜ ⊙ θ ≥ 0."""
    m, v = moments(s, g)
    u = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta - lr * (u + 0.1 * np.where(u * theta >= 0, theta, 0.0))


def _amsgrad(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Reddi et al. 2018, Algorithm 2."""
    m, v = moments(s, g)
    s["v_hat"] = np.maximum(s["v_hat"], v)
    return theta - lr * m / np.sqrt(s["v_hat"])


def _adamax(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Kingma and Ba 2015, Algorithm 2."""
    s["m"] = 0.9 * s["m"] + (1 - 0.9) * g
    s["u"] = np.maximum(0.999 * s["u"], np.abs(g))
    return theta - (lr / (1 - 0.9**t)) * s["m"] / s["u"]


def _nadam(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Dozat 2016, Algorithm 2, with μ = 0.99, ν = 0.999 and its schedule."""
    mu, following = (0.99 * (1 - 0.5 * 0.96 ** (n / 250)) for n in (t, t + 1))
    s["product"] = mu * (s["product"] if t > 1 else 1.0)
    s["m"] = mu * s["m"] + (1 - mu) * g
    s["n"] = 0.999 * s["n"] + (1 - 0.999) * g**2
    m_hat = following * s["m"] / (1 - s["product"] * following)
    m_hat = m_hat + (1 - mu) * g / (1 - s["product"])
    n_hat = 0.999 * s["n"] / (1 - 0.999**t)
    return theta - lr * m_hat / (np.sqrt(n_hat) + 1e-8)


def _radam(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Liu et al. 2020, Algorithm 2."""
    m, v = moments(s, g)
    m_hat = m / (1 - 0.9**t)
    limit = 2 / (1 - 0.999) - 1
    rho = limit - 2 * t * 0.999**t / (1 - 0.999**t)
    if rho <= 4:
        return theta - lr * m_hat
    length = np.sqrt((1 - 0.999**t) / v)
    r = np.sqrt(((rho - 4) * (rho - 2) * limit) / ((limit - 4) * (limit - 2) * rho))
    return theta - lr * r * m_hat * length


def _adabelief(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Zhuang et al. 2020, Algorithm 2."""
    s["m"] = 0.9 * s["m"] + (1 - 0.9) * g
    s["s"] = 0.999 * s["s"] + (1 - 0.999) * (g - s["m"]) ** 2 + 1e-8
    return theta - lr * (s["m"] / (1 - 0.9**t)) / (np.sqrt(s["s"] / (1 - 0.999**t)) + 1e-8)


def _yogi(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Zaheer et al. 2018, Algorithm 2."""
    s["m"] = 0.9 * s["m"] + (1 - 0.9) * g
    s["v"] = s["v"] - (1 - 0.999) * np.sign(s["v"] - g**2) * g**2
    return theta - lr * s["m"] / (np.sqrt(s["v"]) + 1e-3)


def _adan(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Xie et al. 2024, Algorithm 1, with β as there, λ = 0.02 and the bias corrected."""
    b1, b2, b3 = 0.02, 0.08, 0.01
    difference = g - (g if t == 1 else s["g"])
    s["m"] = (1 - b1) * s["m"] + b1 * g
    s["v"] = (1 - b2) * s["v"] + b2 * difference
    s["n"] = (1 - b3) * s["n"] + b3 * (g + (1 - b2) * difference) ** 2
    s["g"] = g
    m, v, n = (s[k] / (1 - (1 - b) ** t) for k, b in (("m", b1), ("v", b2), ("n", b3)))
    return (theta - lr / (np.sqrt(n) + 1e-8) * (m + (1 - b2) * v)) / (1 + 0.02 * lr)


def _optimistic_adam(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Daskalakis et al. 2018, Algorithm 1."""
    m, v = moments(s, g)
    return optimistic(s, theta, m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), t, lr)


def _acprop(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Zhuang et al. 2021, Algorithm 2, with the bias corrected and a plain first step."""
    root = np.sqrt(s["s"] / (1 - 0.999 ** (t - 1))) if t > 1 else 1.0
    s["m"] = 0.9 * s["m"] + (1 - 0.9) * g
    s["s"] = 0.999 * s["s"] + (1 - 0.999) * (g - s["m"]) ** 2 + 1e-16
    return theta - lr * g / (root + 1e-16)


def _adopt(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Taniguchi et al. 2024, Algorithm 2."""
    if t == 1:
        s["v"] = g**2
        return theta
    s["m"] = 0.9 * s["m"] + (1 - 0.9) * g / np.maximum(np.sqrt(s["v"]), 1e-6)
    s["v"] = 0.9999 * s["v"] + (1 - 0.9999) * g**2
    return theta - lr * s["m"]


def _grams(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Cao et al. 2024, with λ = 0.1."""
    m, v = moments(s, g)
    u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6)
    return theta - lr * (np.sign(g) * np.abs(u) + 0.1 * theta)


def _mars(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Yuan et al. 2025, Algorithm 2 without clipping, with λ = 0.1."""
    last, s["g"] = (g if t == 1 else s["g"]), g
    m, v = moments(s, g + 0.025 * 0.95 / (1 - 0.95) * (g - last), 0.95, 0.99)
    u = m / (1 - 0.95**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    return theta - lr * (u + 0.1 * theta)


def _mars_clipped(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Yuan et al. 2025, Algorithm 2."""
    last, s["g"] = (g if t == 1 else s["g"]), g
    c = g + 0.025 * 0.95 / (1 - 0.95) * (g - last)
    norm = np.sqrt(np.sum(c**2))
    m, v = moments(s, c / norm if norm > 1 else c, 0.95, 0.99)
    return theta - lr * m / (1 - 0.95**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)


def _stable_adamw(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Wortsman et al. 2023, Algorithm 2, with ε = 1e-6 and λ = 0.1."""
    b1, b2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (0.9, 0.99))
    v, u = moments(s, g, b1, b2)
    rms = np.sqrt(np.sum(g**2 / np.maximum(u, 1e-6**2)) / max(1, g.size))
    eta = lr / max(1.0, rms)
    return theta - eta * 0.1 * theta - eta * v / (np.sqrt(u) + 1e-6)


def _ademamix(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Pagliardini et al. 2025, Algorithm 1 after its warm-ups, α = 5, β₃ = 0.9999, λ = 0.1."""
    m1, v = moments(s, g)
    s["m2"] = 0.9999 * s["m2"] + (1 - 0.9999) * g
    u = (m1 / (1 - 0.9**t) + 5.0 * s["m2"]) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta - lr * (u + 0.1 * theta)


def _sophia(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Liu et al. 2024, Algorithm 3, with β₁ = 0.965, γ = 0.01, ε = 1e-12 and λ = 0.2."""
    s["m"] = 0.965 * s["m"] + (1 - 0.965) * g
    if t % 10 == 1:
        s["h"] = 0.99 * s["h"] + (1 - 0.99) * s["hessian"]
    theta = theta - lr * 0.2 * theta
    return theta - lr * np.clip(s["m"] / np.maximum(0.01 * s["h"], 1e-12), -1, 1)


PEERS = [
    pair("ademamix", _ademamix, weight_decay=0.1),
    pair("adam", adam),
    pair("adamw", _adamw, weight_decay=0.01),
    pair("adamw", _adamw_cautious_decay, weight_decay=0.1, lr_in_decay=True, cautious_decay=True),
    pair("amsgrad", _amsgrad),
    pair("adamax", _adamax),
    pair("nadam", _nadam),
    pair("radam", _radam),
    pair("adabelief", _adabelief),
    pair("yogi", _yogi, lr=1e-2),
    pair("adan", _adan, weight_decay=0.02),
    pair("optimistic_adam", _optimistic_adam),
    pair("acprop", _acprop),
    pair("adopt", _adopt),
    pair("grams", _grams, weight_decay=0.1),
    pair("mars", _mars, lr=3e-3, weight_decay=0.1, clipping=False),
    pair("mars", _mars_clipped, lr=3e-3),
    pair("stable_adamw", _stable_adamw, weight_decay=0.1),
    pair("sophia", _sophia),
]
