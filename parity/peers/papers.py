"""Loops written from the pseudocode of the papers, for dialects that no library ships.

Each is the rule of one element, with powers and counters as the paper has them; a dictionary holds
what it carries, which starts from 0.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from parity.conformance import Arrays, Peer, Problem, Runner, core

State = dict[str, Any]
"""What a rule carries; ``value`` and ``hessian`` are those of the step."""

Rule = Callable[[State, Any, Any, int, float], Any]
"""The parameters after step t from the state, the parameters, the gradient, t and the rate."""


def runner(rule: Rule, lr: float, whole: bool = False) -> Runner:
    """Return what trains with a rule, leaf by leaf.

    Args:
        rule: of one leaf.
        lr: the learning rate where the problem has none of its own.
        whole: whether all leaves are one vector for it.
    """

    def run(problem: Problem) -> list[Arrays]:
        theta = list(problem.begin)
        states: list[State] = [defaultdict(float) for _ in theta]
        found = []
        for t, grads in enumerate(problem.grads, 1):
            rate = lr if problem.rates is None else problem.rates[t - 1]
            for number, s in enumerate(states):
                given = problem.inputs[t - 1]
                s["value"], s["hessian"] = given["value"], given["hessian"][number]
            with np.errstate(all="ignore"):
                theta = [
                    np.asarray(rule(s, p, g, t, rate), problem.dtype)
                    for s, p, g in zip(states, theta, grads, strict=True)
                ]
            found.append(theta)
        return found

    def run_whole(problem: Problem) -> list[Arrays]:
        def join(arrays: Arrays) -> Arrays:
            return [np.concatenate([np.ravel(x) for x in arrays])]

        ends = np.cumsum([x.size for x in problem.begin])[:-1]
        inputs = [row | {"hessian": join(row["hessian"])} for row in problem.inputs]
        joined = replace(
            problem,
            begin=join(problem.begin),
            grads=[*map(join, problem.grads)],
            inputs=tuple(inputs),
        )
        return [
            [x.reshape(p.shape) for x, p in zip(np.split(row[0], ends), problem.begin, strict=True)]
            for row in run(joined)
        ]

    return run_whole if whole else run


def _momentum(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Sutskever et al. 2013, equations 1 and 2, with μ = 0.9."""
    s["v"] = 0.9 * s["v"] - lr * g
    return theta + s["v"]


def _moments(s: State, g: Any, b1: float = 0.9, b2: float = 0.999) -> tuple[Any, Any]:
    s["m"] = b1 * s["m"] + (1 - b1) * g
    s["v"] = b2 * s["v"] + (1 - b2) * g**2
    return s["m"], s["v"]


def _adam(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Kingma and Ba 2015, Algorithm 1."""
    m, v = _moments(s, g)
    return theta - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def _adamw(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Loshchilov and Hutter 2019, Algorithm 2, with λ = 0.01 and the rate as α."""
    return _adam(s, theta, g, t, lr) - 0.01 * theta


def _amsgrad(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Reddi et al. 2018, Algorithm 2."""
    m, v = _moments(s, g)
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
    m, v = _moments(s, g)
    m_hat = m / (1 - 0.9**t)
    limit = 2 / (1 - 0.999) - 1
    rho = limit - 2 * t * 0.999**t / (1 - 0.999**t)
    if rho <= 4:
        return theta - lr * m_hat
    length = np.sqrt((1 - 0.999**t) / v)
    r = np.sqrt(((rho - 4) * (rho - 2) * limit) / ((limit - 4) * (limit - 2) * rho))
    return theta - lr * r * m_hat * length


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


def _optimistic(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Daskalakis et al. 2018, the update rule of optimistic mirror descent."""
    last, s["g"] = s["g"], g
    return theta - 2 * lr * g + lr * last


def _optimistic_adam(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Daskalakis et al. 2018, Algorithm 1."""
    m, v = _moments(s, g)
    return _optimistic(s, theta, m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), t, lr)


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
    m, v = _moments(s, g)
    u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6)
    return theta - lr * (np.sign(g) * np.abs(u) + 0.1 * theta)


def _mars(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Yuan et al. 2025, Algorithm 2 without clipping, with λ = 0.1."""
    last, s["g"] = (g if t == 1 else s["g"]), g
    m, v = _moments(s, g + 0.025 * 0.95 / (1 - 0.95) * (g - last), 0.95, 0.99)
    u = m / (1 - 0.95**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    return theta - lr * (u + 0.1 * theta)


def _mars_clipped(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Yuan et al. 2025, Algorithm 2."""
    last, s["g"] = (g if t == 1 else s["g"]), g
    c = g + 0.025 * 0.95 / (1 - 0.95) * (g - last)
    norm = np.sqrt(np.sum(c**2))
    m, v = _moments(s, c / norm if norm > 1 else c, 0.95, 0.99)
    return theta - lr * m / (1 - 0.95**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)


def _madgrad(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Defazio and Jelassi 2022, Algorithm 1, with c = 0.1."""
    if t == 1:
        s["x0"] = theta
    rate = lr * np.sqrt(t)
    s["s"] = s["s"] + rate * g
    s["v"] = s["v"] + rate * g**2
    z = s["x0"] - s["s"] / (np.cbrt(s["v"]) + 1e-6)
    return 0.9 * theta + (1 - 0.9) * z


def _dog(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Ivgi et al. 2023, equation 1, with rε = 1e-6·(1 + ‖x₀‖)."""
    if t == 1:
        s["x0"], s["r"] = theta, 1e-6 * (1 + np.sqrt(np.sum(theta**2)))
    s["r"] = np.maximum(s["r"], np.sqrt(np.sum((theta - s["x0"]) ** 2)))
    s["G"] = s["G"] + np.sum(g**2)
    return theta - lr * s["r"] / np.sqrt(s["G"]) * g


def _ratio(weights: Any, update: Any) -> Any:
    """Return a trust ratio: 1 for a layer or an update that is zero; papers do not say."""
    return weights / update if weights != 0 and update != 0 else 1.0


def _stable_adamw(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Wortsman et al. 2023, Algorithm 2, with ε = 1e-6 and λ = 0.1."""
    b1, b2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (0.9, 0.99))
    v, u = _moments(s, g, b1, b2)
    rms = np.sqrt(np.sum(g**2 / np.maximum(u, 1e-6**2)) / max(1, g.size))
    eta = lr / max(1.0, rms)
    return theta - eta * 0.1 * theta - eta * v / (np.sqrt(u) + 1e-6)


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
    m, v = _moments(s, g)
    r = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6)
    u = r + 0.1 * theta
    return theta - lr * _ratio(np.sqrt(np.sum(theta**2)), np.sqrt(np.sum(u**2))) * u


def _lars(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """You et al. 2017, Algorithm 1, with η = 0.001, m = 0.9 and β = 0.1."""
    length = np.sqrt(np.sum(theta**2))
    local = _ratio(0.001 * length, np.sqrt(np.sum(g**2)) + 0.1 * length)
    s["v"] = 0.9 * s["v"] + lr * local * (g + 0.1 * theta)
    return theta - s["v"]


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
    m, v = _moments(s, d * g)
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
    """Anil et al. 2019, Algorithm SM3-II, whose sets are the rows, the columns and so on."""
    nu = np.zeros(theta.shape)
    new: State = defaultdict(float)
    for i in np.ndindex(theta.shape):
        sets = [f"axis {r} at {j}" for r, j in enumerate(i)] or ["itself"]
        nu[i] = min(s[r] for r in sets) + g[i] ** 2
        for r in sets:
            new[r] = max(new[r], nu[i])
    s |= new
    return theta - lr * np.divide(g, np.sqrt(nu), out=np.zeros(theta.shape), where=nu != 0)


def pair(
    algorithm: str,
    rule: Rule,
    *,
    lr: float = 1e-3,
    scheduled: bool = True,
    whole: bool = False,
    **ours: Any,
) -> Peer:
    """Return our dialect "paper" and a loop.

    Args:
        algorithm: a name of ``ALGORITHMS`` or of ``WRAPPERS``.
        rule: the loop.
        lr: the learning rate of both.
        scheduled: whether the rule reads it at every step.
        whole: whether all leaves are one vector for the rule.
        ours: our hyperparameters.
    """
    return Peer(
        algorithm,
        "paper",
        "the paper's pseudocode",
        {"lr": lr} | ours,
        core(algorithm, "paper", lr=lr, **ours),
        runner(rule, lr, whole),
        scheduled=scheduled,
    )


def _muon(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Jordan et al. 2024, with μ = 0.95 and Nesterov's momentum of an average; else Adam."""
    if np.ndim(theta) != 2:
        return _adam(s, theta, g, t, lr)
    s["b"] = 0.95 * s["b"] + (1 - 0.95) * g
    x = (1 - 0.95) * g + 0.95 * s["b"]
    x = x / max(np.linalg.norm(x), 1e-7)
    a, b, c = 3.4445, -4.775, 2.0315
    for _ in range(5):
        x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
    return theta - lr * np.sqrt(max(1, theta.shape[0] / theta.shape[1])) * x


def _shampoo(s: State, theta: Any, g: Any, t: int, lr: float, ridge: float = 0.0) -> Any:
    """Gupta et al. 2018, Algorithm 2, with ε = 1 and roots by NumPy's eigenvectors."""
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


def _ademamix(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Pagliardini et al. 2025, Algorithm 1 after its warm-ups, α = 5, β₃ = 0.9999, λ = 0.1."""
    m1, v = _moments(s, g)
    s["m2"] = 0.9999 * s["m2"] + (1 - 0.9999) * g
    u = (m1 / (1 - 0.9**t) + 5.0 * s["m2"]) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta - lr * (u + 0.1 * theta)


def _sign_sgd(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Bernstein et al. 2018, Algorithm 1."""
    return theta - lr * np.sign(g)


def _signum(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Bernstein et al. 2018, Algorithm 2, with β = 0.9."""
    s["m"] = 0.9 * s["m"] + (1 - 0.9) * g
    return theta - lr * np.sign(s["m"])


def _cautious(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Liang et al. 2024, their Adam: what agrees in sign, over its share from 0.001 on."""
    m, v = _moments(s, g)
    mask = np.where(m * g > 0, 1.0, 0.0)
    u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta - lr * u * (mask / max(mask.mean(), 1e-3))


def _lookahead(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Zhang et al. 2019, Algorithm 1 around Adam, with k = 5 and α = 0.5."""
    if t == 1:
        s["phi"] = theta
    theta = _adam(s, theta, g, t, lr)
    if t % 5:
        return theta
    s["phi"] = s["phi"] + 0.5 * (theta - s["phi"])
    return s["phi"]


def _sam(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Foret et al. 2021, Algorithm 1 with Adam's step, ρ = 0.05, and 1e-12 beside the norm."""
    if t % 2:
        s["w"] = theta
        return theta + 0.05 * g / (np.sqrt(np.sum(g**2)) + 1e-12)
    return _adam(s, s["w"], g, t // 2, lr)


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
    m, v = _moments(s, g)
    scale = 1e-8 + np.sqrt(v / (1 - 0.999**t))
    s["f"] = 0.9 * s["f"] + 0.1 * s["value"]
    s["gamma"] = 0.9 * s["gamma"] + 0.1 * (g @ theta)
    h = (1 + lr * 0.1) * (s["f"] - s["gamma"]) + m @ theta
    tau = min(lr / (1 - 0.9**t), max(h, 0.0) / (m @ (m / scale)))
    # The paper divides the stepped parameters' old part by 1 + αλ, and the step not.
    return theta / (1 + lr * 0.1) - tau * m / scale


def _sophia(s: State, theta: Any, g: Any, t: int, lr: float) -> Any:
    """Liu et al. 2024, Algorithm 3, with β₁ = 0.965, γ = 0.01, ε = 1e-12 and λ = 0.2."""
    s["m"] = 0.965 * s["m"] + (1 - 0.965) * g
    if t % 10 == 1:
        s["h"] = 0.99 * s["h"] + (1 - 0.99) * s["hessian"]
    theta = theta - lr * 0.2 * theta
    return theta - lr * np.clip(s["m"] / np.maximum(0.01 * s["h"], 1e-12), -1, 1)


PEERS = [
    pair("ademamix", _ademamix, weight_decay=0.1),
    pair("sign_sgd", _sign_sgd),
    pair("signum", _signum),
    pair("cautious", _cautious),
    pair("lookahead", _lookahead),
    pair("sam", _sam, whole=True),
    pair("sgd", _momentum, momentum=0.9),
    pair("adam", _adam),
    pair("adamw", _adamw, weight_decay=0.01),
    pair("amsgrad", _amsgrad),
    pair("adamax", _adamax),
    pair("nadam", _nadam),
    pair("radam", _radam),
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
    pair("adabelief", _adabelief),
    pair("yogi", _yogi, lr=1e-2),
    pair("adan", _adan, weight_decay=0.02),
    pair("optimistic_gradient_descent", _optimistic),
    pair("optimistic_adam", _optimistic_adam),
    pair("acprop", _acprop),
    pair("adopt", _adopt),
    pair("grams", _grams, weight_decay=0.1),
    pair("mars", _mars, lr=3e-3, weight_decay=0.1, clipping=False),
    pair("mars", _mars_clipped, lr=3e-3),
    pair("madgrad", _madgrad, lr=1e-2),
    pair("dog", _dog, lr=1.0, whole=True),
    pair("dog", _dog, lr=1.0, layerwise=True),
    pair("sm3", _sm3, lr=0.1),
    pair("adafactor", _adafactor, lr=1e-2),
    pair("stable_adamw", _stable_adamw, weight_decay=0.1),
    pair("schedule_free_sgd", _schedule_free_sgd, lr=0.1, scheduled=False),
    pair(
        "schedule_free_adamw",
        _schedule_free_adamw,
        scheduled=False,
        weight_decay=0.1,
        warmup_steps=50,
    ),
    pair("cocob", _cocob, lr=1.0, scheduled=False),
    pair("novograd", _novograd, weight_decay=0.1),
    pair("fromage", _fromage, lr=1e-2),
    pair("lamb", _lamb, weight_decay=0.1),
    pair("lars", _lars, lr=1.0, weight_decay=0.1),
    pair("dowg", _dowg, lr=1.0, whole=True),
    pair("prodigy", _prodigy, lr=1.0, whole=True),
    pair("muon", _muon),
    replace(pair("shampoo", _shampoo, eps=1.0), even=True),
    replace(
        pair("shampoo", functools.partial(_shampoo, ridge=1e-6), eps=1.0),
        dialect="scalable",
        ours=core("shampoo", "scalable", lr=1e-3, eps=1.0),
        even=True,
    ),
    replace(pair("soap", _soap), even=True),
    pair("polyak_sgd", _polyak, lr=1.0, whole=True, c=0.5, sq_norm_floor=0.0),
    pair("momo", _momo, lr=1.0, whole=True),
    pair("momo_adam", _momo_adam, lr=1e-2, whole=True, weight_decay=0.1),
    pair("sophia", _sophia),
    pair("dadapt_adamw", _dadapt_adamw, lr=1.0, whole=True, weight_decay=0.1),
]
