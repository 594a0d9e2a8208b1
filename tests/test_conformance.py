"""Dialect by dialect against torch.optim and optax themselves, in float64.

The bound is the measured one of ``shared/conformance.md``: pairs that are the same mathematics
differ by at most 1.4e-14 of the running maximum of an element, others by far more than 1e-12. Hand
mutations at the end of the file show that no term can be missing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch

import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS, Algorithm, bias_correction

STEPS = 200
# Measured: 1.4e-14 where only the order of roundings differs. A missing term makes 1e-9 or more.
BOUND = 1e-12
SEEDS = (0, 1, 2)

Leaves = list[np.ndarray]


@functools.cache
def problem(seed: int) -> tuple[Leaves, list[Leaves]]:
    """Initial parameters and 200 gradients of five leaves."""
    rng = np.random.default_rng(seed)

    def scale(shape: Any) -> Any:
        return 10 ** rng.uniform(-6, 3, shape)

    shapes = [(40,), (6, 5), (12,), (), (10,)]
    begin = [np.asarray(rng.normal(size=s)) for s in shapes]
    begin[4] = np.zeros(10)  # starts at zero
    begin[2][:2] = 0.0
    fixed = scale((40,))
    grads = []
    for t in range(STEPS):
        g = [np.asarray(rng.normal(size=s)) for s in shapes]
        g[0] *= fixed
        g[1] *= scale((6, 5)) * (rng.random((6, 5)) > 0.2)  # a new scale each step, exact zeros
        g[2] *= t >= 10  # nothing for ten steps
        g[2][:4] = 0.0  # and here never
        g[3] = np.asarray(g[3] * scale(()))
        if t == 50:
            g = [np.zeros(s) for s in shapes]
        grads.append(g)
    return begin, grads


def distance(ours: list[Leaves], theirs: list[Leaves]) -> float:
    """Return the largest |ours − theirs| over the running maximum of |theirs|, by element."""
    worst = 0.0
    peaks = [np.full(np.shape(x), 1e-30) for x in theirs[0]]
    for a, b in zip(ours, theirs, strict=True):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            peaks[i] = np.maximum(peaks[i], np.abs(y))
            difference = np.abs(x - y) / peaks[i]
            worst = max(worst, float(np.max(np.where(np.isnan(difference), np.inf, difference))))
    return worst


def track_torch(
    make: Callable[[Any], Any],
    begin: Leaves,
    grads: list[Leaves],
    rate: Any = None,
    gaps: Any = None,
) -> list[Leaves]:
    """Return the parameters after every step; a gradient is ``None`` where ``gaps`` says so."""
    params = [torch.nn.Parameter(torch.tensor(x)) for x in begin]
    optimizer = make(params)
    found = []
    for t, g in enumerate(grads):
        for i, (p, x) in enumerate(zip(params, g, strict=True)):
            p.grad = None if gaps is not None and gaps(t, i) else torch.tensor(x)
        if rate is not None:
            optimizer.param_groups[0]["lr"] = rate(t)
        optimizer.step()
        found.append([p.detach().numpy().copy() for p in params])
    return found


def optax_tracker(tx: Any) -> Callable[[Leaves, list[Leaves]], list[Leaves]]:
    """Return what runs ``tx`` with float64 in JAX, compiled once for every seed."""

    def body(carry: Any, g: Any) -> Any:
        updates, state = tx.update(g, carry[1], carry[0])
        params = optax.apply_updates(carry[0], updates)
        return (params, state), params

    @jax.jit
    def scan(params: Any, grads: Any) -> Any:
        return jax.lax.scan(body, (params, tx.init(params)), grads)[1]

    def track(begin: Leaves, grads: list[Leaves]) -> list[Leaves]:
        with jax.enable_x64(True):
            stacked = [np.stack(column) for column in zip(*grads, strict=True)]
            columns = [np.asarray(x) for x in scan(begin, stacked)]
        return [[x[t] for x in columns] for t in range(STEPS)]

    return track


def track_optax(tx: Any, begin: Leaves, grads: list[Leaves]) -> list[Leaves]:
    return optax_tracker(tx)(begin, grads)


@pytest.fixture(autouse=True)
def torchs_counters_in_double() -> Any:
    """torch keeps its step counters in the default dtype; the reference is in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


TORCH: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {"weight_decay": 0.01}),
    ("SGD", {"maximize": True, "weight_decay": 0.01}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "maximize": True}),
    ("SGD", {"momentum": 0.5, "dampening": 0.5, "weight_decay": 0.01, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"betas": (0.8, 0.95), "eps": 1e-6}),
    ("Adam", {"weight_decay": 0.01}),
    ("Adam", {"weight_decay": 0.01, "maximize": True}),
    ("Adam", {"amsgrad": True}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.01, "maximize": True}),
    ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.01}),
    ("AdamW", {}),
    ("AdamW", {"weight_decay": 0.1, "maximize": True}),
    ("AdamW", {"amsgrad": True}),
    ("AdamW", {"amsgrad": True, "weight_decay": 0.1, "maximize": True}),
]
torch_cases = pytest.mark.parametrize(
    ("name", "given"),
    TORCH,
    ids=[f"{n}-{'-'.join(f'{k}={v}' for k, v in g.items())}" for n, g in TORCH],
)


def pair(name: str, given: dict[str, Any]) -> tuple[Any, Any]:
    ours, theirs = getattr(optstudy_torch, name), getattr(torch.optim, name)
    return (lambda p: ours(p, **given)), (lambda p: theirs(p, foreach=False, **given))


@torch_cases
@pytest.mark.parametrize("seed", SEEDS)
def test_torch(name: str, given: dict[str, Any], seed: int) -> None:
    ours, theirs = pair(name, given)
    begin, grads = problem(seed)
    assert distance(track_torch(ours, begin, grads), track_torch(theirs, begin, grads)) <= BOUND


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("seed", SEEDS)
def test_torch_with_a_changing_rate(name: str, seed: int) -> None:
    ours, theirs = pair(name, {"momentum": 0.9} if name == "SGD" else {})
    begin, grads = problem(seed)
    a, b = (
        track_torch(f, begin, grads, rate=lambda t: 1e-2 if t < 100 else 1e-3)
        for f in (ours, theirs)
    )
    assert distance(a, b) <= BOUND


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("SGD", {"momentum": 0.5, "dampening": 0.5, "weight_decay": 0.01}),
        ("Adam", {"weight_decay": 0.01}),
        ("AdamW", {}),
        ("AdamW", {"amsgrad": True}),
    ],
)
def test_torch_with_gradients_that_are_none(name: str, given: dict[str, Any]) -> None:
    ours, theirs = pair(name, given)
    begin, grads = problem(0)
    a, b = (
        track_torch(f, begin, grads, gaps=lambda t, i: t < 5 * i or (t + i) % 7 == 0)
        for f in (ours, theirs)
    )
    assert distance(a, b) <= BOUND


def halve(count: Any) -> Any:
    return 1e-2 * 0.5 ** (count // 40)


def wide(leaves: Any) -> Any:
    return [x.ndim > 1 for x in leaves]


OPTAX: dict[str, tuple[Any, Any]] = {
    "sgd": ((1e-3,), {}),
    "sgd momentum": ((1e-3,), {"momentum": 0.9}),
    "sgd nesterov": ((1e-3,), {"momentum": 0.9, "nesterov": True}),
    "sgd schedule": ((halve,), {"momentum": 0.9}),
    "adam": ((1e-3,), {}),
    "adam betas": ((1e-3, 0.8, 0.95, 1e-6), {}),
    "adam eps_root": ((1e-3,), {"eps_root": 1e-10}),
    "adam schedule": ((halve,), {}),
    "adamw": ((1e-3,), {}),
    "adamw decay": ((1e-2,), {"weight_decay": 0.1}),
    "adamw mask": ((1e-2,), {"weight_decay": 0.1, "mask": wide}),
    "adamw schedule": ((halve,), {"weight_decay": 0.1}),
    "amsgrad": ((1e-3,), {}),
    "amsgrad eps_root": ((1e-3,), {"eps_root": 1e-10}),
    "amsgrad schedule": ((halve,), {}),
}


@pytest.mark.parametrize("case", OPTAX)
def test_optax(case: str) -> None:
    args, given = OPTAX[case]
    name = case.split()[0]
    ours = optax_tracker(getattr(optstudy_jax, name)(*args, dialect="optax", **given))
    theirs = optax_tracker(getattr(optax, name)(*args, **given))
    for begin, grads in map(problem, SEEDS):
        assert distance(ours(begin, grads), theirs(begin, grads)) <= BOUND


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "AMSGrad"])
def test_optaxs_dialect_in_torch(name: str) -> None:
    begin, grads = problem(0)
    ours = track_torch(
        lambda p: getattr(optstudy_torch, name)(p, lr=1e-3, dialect="optax"), begin, grads
    )
    theirs = track_optax(getattr(optax, name.lower())(1e-3), begin, grads)
    assert distance(ours, theirs) <= BOUND


def test_the_default_weight_decays() -> None:
    """By default it is torch's, a hundred times optax's."""
    begin, grads = problem(0)
    ours = track_optax(optstudy_jax.adamw(1e-3), begin, grads)
    assert distance(ours, track_optax(optax.adamw(1e-3, weight_decay=1e-2), begin, grads)) <= BOUND
    assert distance(ours, track_optax(optax.adamw(1e-3), begin, grads)) > BOUND


# The dialects do differ, and a missing term is seen.


REFERENCES: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
}


@functools.cache
def reference(name: str) -> list[Leaves]:
    cls, given = REFERENCES[name]
    return track_torch(lambda p: cls(p, foreach=False, **given), *problem(0))


def distance_with(name: str, update: Any) -> float:
    """Return how far from torch.optim an algorithm is with another update function."""
    own = ALGORITHMS[name]
    given = {k: v for k, v in REFERENCES[name][1].items() if k != "amsgrad"}

    @functools.wraps(own.update)  # with its signature
    def changed(*args: Any, **kwargs: Any) -> Any:
        return update(*args, **kwargs)

    cls = optstudy_torch.from_core(Algorithm(name, own.init, changed, own.dialects))
    return distance(track_torch(lambda p: cls(p, **given), *problem(0)), reference(name))


@pytest.mark.parametrize("name", REFERENCES)
def test_the_unchanged_update(name: str) -> None:
    assert distance_with(name, ALGORITHMS[name].update) <= BOUND


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad"])
@pytest.mark.parametrize("moment", [0, 1], ids=["m", "v"])
def test_a_missing_bias_correction_is_seen(
    name: str, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, calls = bias_correction.advance, itertools.cycle([0, 1])

    def one_only(c: Any, b: Any) -> Any:
        new = advance(c, b)
        # advance is called for m and v in turn.
        return new if next(calls) != moment else new._replace(value=0 * c.value + 1)

    monkeypatch.setattr(bias_correction, "advance", one_only)
    assert distance_with(name, ALGORITHMS[name].update) > BOUND


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("adam", "eps", 0.0),
        ("adam", "eps", 1.00001e-8),
        ("adam", "eps_root", 1e-16),  # as if eps were inside the root too
        ("adam", "b1", 0.9000000001),
        ("adam", "b2", 0.9990000001),
        ("adam", "maximize", True),
        ("adam", "weight_decay", 1e-6),
        ("adamw", "eps", 0.0),
        ("adamw", "weight_decay", 0.0),
        ("adamw", "weight_decay", 0.0100001),
        ("adamw", "lr_in_decay", False),
        ("amsgrad", "eps", 0.0),
        ("amsgrad", "corrected_maximum", True),
        ("amsgrad", "correct_bias", False),
        ("sgd", "momentum", 0.9000000001),
        ("sgd", "dampening", 0.0),
        ("sgd", "weight_decay", 0.0),
    ],
)
def test_a_changed_term_is_seen(name: str, argument: str, value: Any) -> None:
    update = ALGORITHMS[name].update
    assert distance_with(name, lambda *a, **kw: update(*a, **(kw | {argument: value}))) > BOUND


def test_dampening_at_the_first_step_is_seen() -> None:
    update = ALGORITHMS["sgd"].update

    def damped(state: Any, *args: Any, **given: Any) -> Any:
        return update(state._replace(started=0 * state.started + 1), *args, **given)

    assert distance_with("sgd", damped) > BOUND


def test_a_missing_maximum_is_seen() -> None:
    update = ALGORITHMS["amsgrad"].update

    def forgetful(state: Any, *args: Any, **given: Any) -> Any:
        return update(state._replace(v_max=0 * state.v_max), *args, **given)

    assert distance_with("amsgrad", forgetful) > BOUND
