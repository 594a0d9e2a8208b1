"""The epoch methods decide alike and end on the same bits in NumPy, PyTorch and JAX."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from conftest import same, start, to_numpy, to_torch
from hypothesis import given, settings
from hypothesis import strategies as st

import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS, epoch, geometry
from optstudy_jax import epoch as jax_epoch
from optstudy_torch import eve as torch_eve
from optstudy_torch import lr_scheduler

FAST = settings(max_examples=40, deadline=None, database=None)
SHAPES = [(7, 3), (5,)]
EPOCHS, STEPS, LR = 12, 3, 0.05
LOSSES = [3.0, 2.0, 2.5, 2.6, float("nan"), 1.0, 0.5, 0.505, 0.6, float("inf"), -1.0, -0.5]


@functools.cache
def gradients(seed: int = 0) -> tuple[tuple[tuple[np.ndarray, ...], ...], ...]:
    """For each epoch and step: mostly one direction, so that factors move both ways."""
    rng = np.random.default_rng(seed)
    drift = [rng.normal(size=shape) for shape in SHAPES]

    def one(k: int) -> tuple[np.ndarray, ...]:
        sign = -1.0 if k % 4 == 3 else 1.0
        return tuple(
            np.asarray(sign * d + rng.normal(size=s)).astype(np.float32)
            for d, s in zip(drift, SHAPES, strict=True)
        )

    return tuple(tuple(one(k) for _ in range(STEPS)) for k in range(EPOCHS))


METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "direction": ("DirectionLR", "direction", {"r": 0.3}),
    "centred": ("DirectionLR", "direction", {"r": 0.2, "centred": True}),
    "bounded": ("DirectionLR", "direction", {"r": 0.15, "min_lr": 0.03, "max_lr": 0.07}),
    "accepted": ("CarefulLR", "careful", {"reference": "accepted", "rollback": True}),
    "bold": ("CarefulLR", "careful", {"tau": 0.05, "gamma": 0.7, "growth": 1.05, "patience": 2}),
    "patient": ("CarefulLR", "careful", {"patience": 2, "rollback": True}),
    "both": ("DirectionCarefulLR", "direction_careful", {"r": 0.3}),
    "undone": ("DirectionCarefulLR", "direction_careful", {"r": 0.3, "rollback": True}),
    "undone later": (
        "DirectionCarefulLR",
        "direction_careful",
        {"r": 0.3, "rollback": True, "patience": 2, "reference": "accepted"},
    ),
}
Run = tuple[list[np.ndarray], list[tuple[float, ...]]]


def in_numpy(algorithm: str, method: str, dtype: Any = np.float32) -> Run:
    """The definition: core functions and bare NumPy arrays, with copies kept by hand."""
    _, name, arguments = METHODS[method]
    module = getattr(epoch, name)
    values = dict(arguments)
    bounds = {k: values.pop(k) for k in ("min_lr", "max_lr") if k in values}
    rollback = values.get("rollback", False)
    if name == "careful":
        values.pop("rollback", None)
    rule = ALGORITHMS[algorithm]
    params = start(SHAPES, dtype=dtype)
    inner = [rule.start(p, rule.defaults()) for p in params]
    state, previous = module.init(), None
    kept: Any = None
    rows = []
    for k, steps in enumerate(gradients()):
        begin = [p.copy() for p in params]
        if kept is None or not (float(getattr(state, "jumps", 0)) > 0):
            kept = (begin, list(inner), previous)
        rate = float(epoch.rate.scaled(LR, np.float64(state.factor), **bounds))
        for grads in steps:
            for i, g in enumerate(grads):
                inner[i], step = rule.update(
                    inner[i], g.astype(dtype), params[i], **rule.defaults() | {"lr": rate}
                )
                params[i] = np.asarray(params[i] + step)
        delta = epoch.step.difference(params, begin)
        measured = epoch.step.measure(delta, previous)
        low, high = epoch.rate.limits(LR, **bounds)
        state, decision = module.update(
            state, epoch.Measured(measured.cosine, LOSSES[k]), low=low, high=high, **values
        )
        previous = delta
        if rollback and decision.rejected:
            params, inner, previous = [p.copy() for p in kept[0]], list(kept[1]), kept[2]
        rows.append((float(state.factor), bool(decision.jump), bool(decision.rejected)))
    return params, rows


def in_torch(algorithm: str, method: str, dtype: Any = np.float32) -> Run:
    name, _, arguments = METHODS[method]
    params = [torch.nn.Parameter(to_torch(p)) for p in start(SHAPES, dtype=dtype)]
    optimizer = optstudy_torch.from_core(algorithm)(params, lr=LR)
    scheduler = getattr(lr_scheduler, name)(optimizer, **arguments)
    rows = []
    for k, steps in enumerate(gradients()):
        for grads in steps:
            for p, g in zip(params, grads, strict=True):
                p.grad = to_torch(g.astype(dtype))
            optimizer.step()
        scheduler.step(LOSSES[k])
        decision = scheduler.decision
        rows.append((float(scheduler.factors[0]), bool(decision.jump), bool(decision.rejected)))
    return [to_numpy(p) for p in params], rows


def in_jax(algorithm: str, method: str, dtype: Any = np.float32, *, compiled: bool) -> Run:
    _, name, arguments = METHODS[method]
    control = getattr(jax_epoch, name)(**arguments)
    tx = jax_epoch.with_control(getattr(optstudy_jax, algorithm), control, LR)
    params = [jnp.asarray(p) for p in start(SHAPES, dtype=dtype)]

    def one_step(carry: Any, grads: Any) -> Any:
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    def one_epoch(carry: Any, given: Any) -> Any:
        grads, loss = given
        if compiled:
            (params, state), _ = jax.lax.scan(one_step, carry, grads)
        else:
            for g in grads:
                carry, _ = one_step(carry, [jnp.asarray(x) for x in g])
            params, state = carry
        params, state = jax_epoch.end_epoch(control, params, state, value=loss)
        metrics = state.control.metrics
        row = (state.control.decided.factor, metrics.jump, metrics.rejected)
        return (params, state), row

    carry = (params, tx.init(params))
    if not compiled:
        rows = []
        for given_ in zip(gradients(), LOSSES, strict=True):
            carry, row = one_epoch(carry, given_)
            rows.append(tuple(x.item() for x in row))
    else:
        stacked = [
            # In float32, for parameters in float64 too.
            jnp.asarray([[g[i] for g in steps] for steps in gradients()], jnp.float32)
            for i in range(len(SHAPES))
        ]

        @jax.jit
        def train(carry: Any, grads: Any, losses: Any) -> Any:
            return jax.lax.scan(one_epoch, carry, (grads, losses))

        carry, columns = train(carry, stacked, jnp.asarray(LOSSES, jnp.float32))
        rows = list(zip(*(np.asarray(c).tolist() for c in columns), strict=True))
    return [np.asarray(p) for p in carry[0]], rows


@pytest.mark.parametrize("method", METHODS)
def test_same_decisions_and_parameters(method: str) -> None:
    algorithm = "sgd" if method in {"centred", "accepted"} else "adam"
    params, rows = in_numpy(algorithm, method)
    assert len({factor for factor, *_ in rows}) > 2  # the method does something here
    runs: list[Callable[[], Run]] = [
        lambda: in_torch(algorithm, method),
        lambda: in_jax(algorithm, method, compiled=True),
    ]
    if method in {"accepted", "undone later"}:  # all of it, for less of the time
        runs.append(lambda: in_jax(algorithm, method, compiled=False))
    for run in runs:
        found, decided = run()
        assert decided == rows
        for ours, theirs in zip(found, params, strict=True):
            assert same(ours, theirs)


def test_the_same_in_float64() -> None:
    """The rate is formed in float64 everywhere; the factor and what decides stay float32."""
    params, rows = in_numpy("adam", "undone", np.float64)
    with jax.enable_x64(True):
        runs = [
            in_torch("adam", "undone", np.float64),
            in_jax("adam", "undone", np.float64, compiled=True),
        ]
    for found, decided in runs:
        assert decided == rows
        for ours, theirs in zip(found, params, strict=True):
            assert same(ours, theirs)


def test_epochs_counted_in_steps_decide_as_torch_does() -> None:
    """``steps_per_epoch`` in one jitted scan, losses averaged by the core, against torch."""
    rng = np.random.default_rng(5)
    losses = (1 + rng.random((EPOCHS, STEPS))).astype(np.float32)
    params = [torch.nn.Parameter(to_torch(p)) for p in start(SHAPES)]
    optimizer = optstudy_torch.from_core("adam")(params, lr=LR)
    scheduler = lr_scheduler.DirectionCarefulLR(optimizer, r=0.3)
    factors = []
    for k, steps in enumerate(gradients()):
        mean = epoch.mean.init()
        for loss, grads in zip(losses[k], steps, strict=True):
            mean = epoch.mean.add(mean, loss)
            for p, g in zip(params, grads, strict=True):
                p.grad = to_torch(g)
            optimizer.step()
            factors.append(float(scheduler.factors[0]))
        scheduler.step(epoch.mean.value(mean))
    control = jax_epoch.direction_careful(r=0.3)
    tx = jax_epoch.with_control(optstudy_jax.adam, control, LR, steps_per_epoch=STEPS)

    def step(carry: Any, given_: Any) -> Any:
        params, state = carry
        updates, state = tx.update(given_[0], state, params, value=given_[1])
        return (optax.apply_updates(params, updates), state), state.control.decided.factor

    @jax.jit
    def train(params: Any, grads: Any, losses: Any) -> Any:
        return jax.lax.scan(step, (params, tx.init(params)), (grads, losses))

    stacked = [
        jnp.asarray([g[i] for steps in gradients() for g in steps]) for i in range(len(SHAPES))
    ]
    (ends, _), found = train([jnp.asarray(p) for p in start(SHAPES)], stacked, losses.ravel())
    assert np.asarray(found).tolist() == factors
    for ours, theirs in zip(ends, params, strict=True):
        assert same(ours, to_numpy(theirs))


# The numbers of a decision, alone: any values, not only those of one run.

floats = st.floats(width=32, allow_subnormal=False)
positive = st.floats(2.0**-100, 2.0**100, width=32)


@functools.cache
def jitted(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    control = getattr(jax_epoch, name)(**dict(options))

    @jax.jit
    def decide(factor: Any, reference: Any, cosine: Any, loss: Any, lr: Any) -> Any:
        state = control.method.init()
        known = {"factor": factor, "reference": reference}
        state = state._replace(**{k: v for k, v in known.items() if k in state._fields})
        nan = jnp.float32(jnp.nan)
        metrics = jax_epoch.EpochMetrics(loss, nan, cosine, nan, nan, nan)
        new, decision = jax_epoch._decide(control, state, metrics, lr)
        return new.factor, decision.multiplier, decision.jump, decision.rejected

    return control, decide


@given(
    st.sampled_from(
        [
            ("direction", (("r", 0.1),)),
            ("direction", (("r", 0.3), ("centred", True), ("max_lr", 2.0))),
            ("careful", (("tau", 0.05), ("growth", 1.05))),
            ("direction_careful", (("r", 0.1), ("min_lr", 1e-3), ("max_lr", 1.0))),
        ]
    ),
    positive,
    floats,
    st.floats(-1, 1, width=32, allow_subnormal=False),
    floats,
    positive,
)
@FAST
def test_every_decision_has_the_same_bits_in_jit(
    kind: Any, factor: float, reference: float, cosine: float, loss: float, lr: float
) -> None:
    control, decide = jitted(*kind)
    numbers = [np.float32(x) for x in (factor, reference, cosine, loss, lr)]
    found = decide(*numbers)
    state = control.method.init()
    known = {"factor": numbers[0], "reference": numbers[1]}
    state = state._replace(**{k: v for k, v in known.items() if k in state._fields})
    low, high = epoch.rate.limits(numbers[4], min_lr=control.min_lr, max_lr=control.max_lr)
    new, decision = control.method.update(
        state, epoch.Measured(numbers[2], numbers[3]), low=low, high=high, **control.values
    )
    for ours, theirs in zip(found, (new.factor, *decision), strict=True):
        assert same(ours, theirs)


# EVE.


def quadratic(xp: Any, centre: float) -> Callable[[Any], Any]:
    """A loss of one element, which every library computes alike: no sum, no product in a sum."""
    return lambda leaves: abs(leaves[1][0] - centre)


@pytest.mark.parametrize(
    ("dtype", "search", "along"),
    [
        ("float32", "grid", "epoch"),
        ("float32", "march", "epoch"),
        ("float32", "grid", "step"),
        ("float32", "march", "step"),
        ("float64", "grid", "epoch"),
        ("float64", "march", "step"),
        ("bfloat16", "march", "epoch"),
        ("bfloat16", "grid", "step"),
    ],
)
def test_eve_ends_on_the_same_bits(dtype: str, search: str, along: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        import ml_dtypes

        kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        before = [p.astype(kind) for p in start(SHAPES, dtype=np.float64)]
        step = [np.asarray(0.37 * p).astype(kind) for p in start(SHAPES, seed=3, dtype=np.float64)]
        target = float(before[1][0]) + 4.3 * float(step[1][0])
        loss = quadratic(np, target)

        class Mover(torch.optim.Optimizer):
            """Adds a fixed step."""

            def step(self, closure: Any = None) -> None:  # type: ignore[override]
                with torch.no_grad():
                    for p, s in zip(params, step, strict=True):
                        p.add_(to_torch(s))

        params = [torch.nn.Parameter(to_torch(p)) for p in before]
        optimizer = Mover(params, {"lr": 1.0})
        eve = torch_eve.EVE(optimizer, along=along, search=search)
        if along == "epoch":
            optimizer.step()
        choice = eve.step(lambda: loss(params))

        theta = [jnp.asarray(p) for p in before]
        updates = [jnp.asarray(s) for s in step]
        after = optax.apply_updates(theta, updates)

        def searched(theta: Any, after: Any, updates: Any) -> Any:
            if search == "march":
                return jax_epoch.eve_march(after, theta, loss)
            if along == "epoch":
                return jax_epoch.eve(after, theta, loss)
            new, found = jax_epoch.eve_step(updates, theta, loss)
            return optax.apply_updates(theta, new), found

        for function in (searched, jax.jit(searched)):
            ends, found = function(theta, after, updates)
            assert float(found.s) == float(choice.s) > 0
            assert float(found.loss) == float(choice.loss)
            assert int(found.evaluations) == choice.evaluations
            for ours, theirs in zip(ends, params, strict=True):
                assert same(ours, to_numpy(theirs))


def test_moves_at_the_end_of_an_epoch() -> None:
    begin = start(SHAPES)
    end = [np.asarray(p + 0.3 * q) for p, q in zip(begin, start(SHAPES, seed=4), strict=True)]
    end = [p.astype(np.float32) for p in end]
    previous = [p.astype(np.float32) for p in start(SHAPES, seed=5)]
    delta = epoch.step.difference(end, begin)
    cosine = geometry.cosine(delta, previous)
    wanted = [epoch.extrapolation.update(e, d, cosine) for e, d in zip(end, delta, strict=True)]
    in_torch = [
        epoch.extrapolation.update(to_torch(e), to_torch(d), cosine)
        for e, d in zip(end, delta, strict=True)
    ]
    moves = [epoch.momentum.MomentumState(np.asarray(p)) for p in previous]
    averaged = [epoch.momentum.update(m, e, b) for m, e, b in zip(moves, end, begin, strict=True)]

    def in_jax(end: Any, begin: Any, previous: Any) -> Any:
        moved, _ = jax_epoch.extrapolate(end, begin, previous)
        state = epoch.momentum.MomentumState(previous)
        return moved, jax_epoch.epoch_momentum(state, end, begin)

    args = [[jnp.asarray(x) for x in tree] for tree in (end, begin, previous)]
    for function in (in_jax, jax.jit(in_jax)):
        moved, (state, ended) = function(*args)
        for i in range(len(SHAPES)):
            assert same(moved[i], wanted[i])
            assert same(to_numpy(in_torch[i]), wanted[i])
            assert same(state.m[i], averaged[i][0].m)
            assert same(ended[i], averaged[i][1])
