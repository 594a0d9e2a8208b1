"""Rules of rows and columns."""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from parity.pairs import core

from ._loop import State, pair
from .adam import adam


def _adafactor(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Shazeer and Stern 2018, Algorithms 4 and 5, with the values of section 9."""

    def rms(x: Any) -> Any:
        return np.sqrt(np.mean(x**2))

    alpha = max(1e-3, rms(theta)) * min(lr, 1 / np.sqrt(t))
    b2, square = 1 - t**-0.8, g**2 + 1e-30
    if theta.ndim == 2:
        n, m = theta.shape
        s["R"] = b2 * s["R"] + (1 - b2) * square @ np.ones((m, 1))
        s["C"] = b2 * s["C"] + (1 - b2) * np.ones((1, n)) @ square
        v = s["R"] @ s["C"] / np.sum(s["R"])
    else:
        s["V"] = v = b2 * s["V"] + (1 - b2) * square
    u = g / np.sqrt(v)
    return theta - alpha * u / max(1, rms(u) / 1.0)


def _sm3(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Anil et al. 2019, Algorithm SM3-II, with rows, columns and so on as sets."""
    nu = np.zeros(theta.shape)
    new: State = defaultdict(float)
    for i in np.ndindex(theta.shape):
        sets = [f"axis {r} at {j}" for r, j in enumerate(i)] or ["itself"]
        nu[i] = min(s[r] for r in sets) + g[i] ** 2
        for r in sets:
            new[r] = max(new[r], nu[i])
    s |= new
    return theta - lr * np.divide(g, np.sqrt(nu), out=np.zeros(theta.shape), where=nu != 0)


_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
)
"""The first polynomials of Amsel et al. 2025, Algorithm 1, before the safety factor."""


_SIMPLE = ((3.4445, -4.775, 2.0315),) * 5


def _newton_schulz(x: Any, triples: Any) -> Any:
    """Jordan et al. 2024: orthogonalize a matrix; its norm counts as at least 1e-7."""
    x = x / max(np.linalg.norm(x), 1e-7)
    for a, b, c in triples:
        x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
    return x


def _muon(s: State, theta: Any, g: Any, t: int, lr: float, triples: Any = _SIMPLE) -> Any:
    """Jordan et al. 2024, with μ = 0.95 and Nesterov momentum of an average; else Adam."""
    if np.ndim(theta) != 2:
        return adam(s, theta, g, t, lr)
    s["b"] = 0.95 * s["b"] + (1 - 0.95) * g
    x = _newton_schulz((1 - 0.95) * g + 0.95 * s["b"], triples)
    return theta - lr * np.sqrt(max(1, theta.shape[0] / theta.shape[1])) * x


def _normuon(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Li et al. 2025, Algorithm 1, with β₁ = β₂ = 0.95, ε = 1e-8 and λ = 0.1; else Adam."""
    if np.ndim(theta) != 2:
        return adam(s, theta, g, t, lr)
    s["M"] = 0.95 * s["M"] + (1 - 0.95) * g
    o = _newton_schulz(s["M"], _SIMPLE)
    s["v"] = 0.95 * s["v"] + (1 - 0.95) * np.mean(o * o, axis=1)
    spread = np.tile(s["v"][:, None], theta.shape[1])
    o = o / (np.sqrt(spread) + 1e-8)
    size = 0.2 * lr * np.sqrt(theta.size) / np.linalg.norm(o)
    return theta - lr * 0.1 * theta - size * o


def _normuon_of_the_program(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """The authors' program, with Nesterov momentum and the norm of the orthogonalized matrix."""
    if np.ndim(theta) != 2:
        return adam(s, theta, g, t, lr)
    s["M"] = s["M"] + (1 - 0.95) * (g - s["M"])
    o = _newton_schulz(g + 0.95 * (s["M"] - g), _SIMPLE)
    norm = np.linalg.norm(o)
    s["v"] = s["v"] + (1 - 0.95) * (np.mean(o * o, axis=1, keepdims=True) - s["v"])
    o = o / (np.sqrt(s["v"]) + 1e-8)
    o = o * (norm / np.linalg.norm(o)) * max(1, theta.shape[0] / theta.shape[1]) ** 0.5
    return theta - lr * o


def _adamuon(s: State, theta: Any, g: Any, t: int, lr: float, nesterov: bool = False) -> Any:
    """Si et al. 2025, Algorithm 1, with β = 0.95, ε = 1e-8 and λ = 0.1; else Adam."""
    if np.ndim(theta) != 2:
        return adam(s, theta, g, t, lr)
    s["M"] = 0.95 * s["M"] + g
    o = _newton_schulz(np.sign(g + 0.95 * s["M"] if nesterov else s["M"]), _SIMPLE)
    s["V"] = 0.95 * s["V"] + (1 - 0.95) * o * o
    o = o / (np.sqrt(s["V"]) + 1e-8)
    gamma = 0.2 * np.sqrt(theta.size) / np.linalg.norm(o)
    return theta - lr * (gamma * o + 0.1 * theta)


def _shampoo(s: State, theta: Any, g: Any, t: int, lr: float, ridge: float = 0.0) -> Any:
    """Gupta et al. 2018, Algorithm 2, with ε = 1 and roots from eigenvectors of NumPy."""
    x = np.reshape(g, (*(np.shape(g) or (1,))[:1], -1))
    axes = [(x, "L"), (x.T, "R")][: max(1, min(np.ndim(g), 2))]
    for y, name in axes:
        s[name] = (s[name] if t > 1 else np.eye(len(y))) + y @ y.T
    for _, name in axes:
        w, q = np.linalg.eigh(s[name] + ridge * np.linalg.norm(s[name]) * np.eye(len(s[name])))
        x = ((q * w ** (-0.5 / len(axes))) @ q.T @ x).T
    return theta - lr * np.reshape(x if len(axes) == 2 else x.T, np.shape(theta))


def _soap(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Vyas et al. 2025, the authors' program, with frequency 10, λ = 0.01 and β = 0.95 thrice."""
    turned = np.ndim(g) == 2
    if turned:
        for y, name in ((g, "L"), (g.T, "R")):
            s[name] = 0.95 * s[name] + 0.05 * (y @ y.T)
        if t == 1:
            s["Q"] = [np.linalg.eigh(s[k])[1][:, ::-1] for k in "LR"]
    if t == 1:
        return theta
    left, right = s["Q"] if turned else (np.eye(1), np.eye(1))

    def into(x: Any) -> Any:
        return left.T @ x @ right if turned else x

    s["m"] = 0.95 * s["m"] + 0.05 * g
    s["v"] = 0.95 * s["v"] + 0.05 * into(g) ** 2
    scale = 1 - 0.95 ** (t - 1)
    u = into(s["m"]) / scale / (np.sqrt(s["v"] / scale) + 1e-8)
    u = left @ u @ right.T if turned else u
    if turned and (t - 1) % 10 == 0:
        for axis, k in enumerate("LR"):
            q = s["Q"][axis]
            order = np.argsort(-np.diag(q.T @ s[k] @ q), kind="stable")
            s["v"] = np.take(s["v"], order, axis)
            s["Q"][axis] = np.linalg.qr(s[k] @ q[:, order])[0]
    return theta - lr * 0.01 * theta - lr * u


PEERS = [
    pair("sm3", _sm3, lr=0.1),
    pair("adafactor", _adafactor, lr=1e-2),
    pair("muon", _muon),
    pair(
        "muon",
        functools.partial(
            _muon, triples=[(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in _POLAR_EXPRESS]
        ),
        ns_coefficients="polar_express",
        ns_steps=6,
    ),
    pair("normuon", _normuon),
    pair("normuon", _normuon_of_the_program, weight_decay=0.0, nesterov=True, consistent_rms=0.0),
    pair("adamuon", _adamuon),
    pair("adamuon", functools.partial(_adamuon, nesterov=True), nesterov=True),
    replace(pair("shampoo", _shampoo, eps=1.0), even=True),
    replace(
        pair("shampoo", functools.partial(_shampoo, ridge=1e-6), eps=1.0),
        dialect="scalable",
        ours=core("shampoo", "scalable", lr=1e-3, eps=1.0),
        even=True,
    ),
    replace(pair("soap", _soap), even=True),
]
