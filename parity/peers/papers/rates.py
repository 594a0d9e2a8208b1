"""Rules that find a learning rate, or need no schedule."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._loop import State, pair
from .adam import moments


def _dog(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Ivgi et al. 2023, equation 1, with rε = 1e-6·(1 + ‖x₀‖)."""
    if t == 1:
        s["x0"], s["r"] = theta, 1e-6 * (1 + np.sqrt(np.sum(theta**2)))
    s["r"] = np.maximum(s["r"], np.sqrt(np.sum((theta - s["x0"]) ** 2)))
    s["G"] = s["G"] + np.sum(g**2)
    return theta - lr * s["r"] / np.sqrt(s["G"]) * g


def _schedule_free(s: State, theta: Any, u: Any, t: int, weight: Any) -> Any:
    """Defazio et al. 2024, equations 2 to 4, with β = 0.9."""
    s["total"] = s["total"] + weight
    c = weight / s["total"]
    x, z = (theta, theta) if t == 1 else (s["x"], s["z"])
    s["z"] = z + u
    s["x"] = (1 - c) * x + c * s["z"]
    return (1 - 0.9) * s["z"] + 0.9 * s["x"]


def _schedule_free_sgd(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Defazio et al. 2024, equations 2 to 4."""
    return _schedule_free(s, theta, -lr * g, t, 1.0)


def _schedule_free_adamw(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Defazio et al. 2024, Algorithm 1, with λ = 0.1 and a warm-up of 50 steps."""
    rate = lr * np.sqrt(1 - 0.999**t) * min(1, t / 50)
    s["v"] = 0.999 * s["v"] + (1 - 0.999) * g**2
    u = -rate * g / (np.sqrt(s["v"]) + 1e-8) - rate * 0.1 * theta
    return _schedule_free(s, theta, u, t, rate**2)


def _cocob(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Orabona and Tommasi 2017, Algorithm 2, with α = 100."""
    if t == 1:
        s["w1"] = theta
    s["L"] = np.maximum(s["L"], np.abs(g))
    s["G"] = s["G"] + np.abs(g)
    s["R"] = np.maximum(s["R"] - (theta - s["w1"]) * g, 0)
    s["theta"] = s["theta"] - g
    bet = s["theta"] / (s["L"] * np.maximum(s["G"] + s["L"], 100 * s["L"]))
    return s["w1"] + bet * (s["L"] + s["R"])


def _dowg(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Khaled et al. 2023, Algorithm 1, with rε = 0.01."""
    if t == 1:
        s["x0"], s["r"] = theta, 0.01
    s["r"] = np.maximum(s["r"], np.sqrt(np.sum((theta - s["x0"]) ** 2)))
    s["v"] = s["v"] + s["r"] ** 2 * np.sum(g**2)
    return theta - lr * s["r"] ** 2 / np.sqrt(s["v"]) * g


def _prodigy(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Mishchenko and Defazio 2024, the Adam version, with d₀ = 1e-6."""
    if t == 1:
        s["x0"], s["d"] = theta, 1e-6
    d, root = s["d"], np.sqrt(0.999)
    m, v = moments(s, d * g)
    s["r"] = root * s["r"] + (1 - root) * lr * d**2 * np.sum(g * (s["x0"] - theta))
    s["s"] = root * s["s"] + (1 - root) * lr * d**2 * g
    s["d"] = max(d, s["r"] / np.sum(np.abs(s["s"])))
    return theta - lr * d * m / (np.sqrt(v) + d * 1e-8)


def _dadapt_adamw(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Defazio and Mishchenko 2023, the Adam version as in their code, with d₀ = 1e-6, λ = 0.1."""
    d, root = s["d"] if t > 1 else 1e-6, np.sqrt(0.999)
    product = np.sum(g * (s["s"] / (np.sqrt(s["v"]) + 1e-8)))
    s["r"] = root * s["r"] + (1 - root) * lr * d * product
    s["s"] = root * s["s"] + (1 - root) * lr * d * g
    s["m"] = 0.9 * s["m"] + (1 - 0.9) * lr * d * g
    s["v"] = 0.999 * s["v"] + (1 - 0.999) * g**2
    s["d"] = max(d, s["r"] / ((1 - root) * np.sum(np.abs(s["s"]))))
    return theta - s["m"] / (np.sqrt(s["v"]) + 1e-8) - lr * d * 0.1 * theta


def _polyak(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Loizou et al. 2021, equation 3 (SPS_max) with c = 1/2, bound 1 and f* = 0."""
    sq_norm = g @ g
    return theta - lr * min(s["value"] / (0.5 * sq_norm), 1.0) * g


def _momo(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Schaipp et al. 2024, Algorithm 1 with β = 0.9, f* = 0 and d₀, f₀, γ₀ of the first batch."""
    for name, x in (("d", g), ("f", s["value"]), ("gamma", g @ theta)):
        s[name] = x if t == 1 else 0.1 * x + 0.9 * s[name]
    h = s["f"] + s["d"] @ theta - s["gamma"]
    return theta - min(lr, max(h, 0.0) / (s["d"] @ s["d"])) * s["d"]


def _momo_adam(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Schaipp et al. 2024, Algorithm 2 with λ = 0.1, f* = 0 and ε = 1e-8."""
    m, v = moments(s, g)
    scale = 1e-8 + np.sqrt(v / (1 - 0.999**t))
    s["f"] = 0.9 * s["f"] + 0.1 * s["value"]
    s["gamma"] = 0.9 * s["gamma"] + 0.1 * (g @ theta)
    h = (1 + lr * 0.1) * (s["f"] - s["gamma"]) + m @ theta
    tau = min(lr / (1 - 0.9**t), max(h, 0.0) / (m @ (m / scale)))
    # The paper divides the old parameters by 1 + αλ, but not the step.
    return theta / (1 + lr * 0.1) - tau * m / scale


PEERS = [
    pair("dog", _dog, lr=1.0, whole=True),
    pair("dog", _dog, lr=1.0, layerwise=True),
    pair("schedule_free_sgd", _schedule_free_sgd, lr=0.1, scheduled=False),
    pair(
        "schedule_free_adamw",
        _schedule_free_adamw,
        scheduled=False,
        weight_decay=0.1,
        warmup_steps=50,
    ),
    pair("cocob", _cocob, lr=1.0, scheduled=False),
    pair("dowg", _dowg, lr=1.0, whole=True),
    pair("prodigy", _prodigy, lr=1.0, whole=True),
    pair("polyak_sgd", _polyak, lr=1.0, whole=True, c=0.5, sq_norm_floor=0.0),
    pair("momo", _momo, lr=1.0, whole=True),
    pair("momo_adam", _momo_adam, lr=1e-2, whole=True, weight_decay=0.1),
    pair("dadapt_adamw", _dadapt_adamw, lr=1.0, whole=True, weight_decay=0.1),
]
