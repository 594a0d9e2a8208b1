"""What every algorithm of the table promises in every dialect, whatever its formula.

Dtypes, shapes and compiled code stay the same from step to step; optax's wrappers and torch's
schedulers, groups and saved states go around it; and it trains.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from harness import QUICK, draw, inputs_for, same, slow_unless_quick

import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numbers import is_number
from optstudy_core.arrays.numpy_backend import NumPy

CASES = [(name, dialect) for name, a in ALGORITHMS.items() for dialect in a.dialects]


def cases(slow: Callable[[str, str], bool]) -> Any:
    """All algorithms in all their dialects, of which some are slow tests."""
    marks = {case: [pytest.mark.slow] * slow(*case) for case in CASES}
    return pytest.mark.parametrize(
        ("name", "dialect"),
        [pytest.param(n, d, marks=marks[n, d], id=f"{n}-{d}") for n, d in CASES],
    )


each_case = cases(slow=lambda name, dialect: False)
# Tracing and compiling take seconds, and dialects differ little in that.
each_traced = cases(slow=lambda name, dialect: ALGORITHMS[name].default_dialect != dialect)
each_compiled = cases(slow=lambda name, dialect: name not in QUICK)
each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)

SHAPES = [(7,), (2, 3), (), (0,)]

# Where nothing keeps the divisor of an element without a gradient from being 0.
NEEDS_GRADIENTS = {
    (name, dialect) for name, dialect in CASES if ALGORITHMS[name].defaults(dialect).get("eps") == 0
}
# Where an element moves that never had a gradient: the first moment does not start from 0, or the
# parameters shrink.
MOVES_BY_ITSELF = {("yogi", "optax"), ("fromage", "optax"), ("fromage", "paper")}


def gradients(name: str, dialect: str, steps: int, seed: int = 0) -> list[list[np.ndarray]]:
    """Gradients from 1e-6 to 1e3 with exact zeros, but for those that cannot have any."""
    grads = draw(SHAPES, steps, seed=seed)
    if (name, dialect) in NEEDS_GRADIENTS:
        return [[np.where(g == 0, np.float32(0.5), g) for g in row] for row in grads]
    return grads


def start() -> list[np.ndarray]:
    rng = np.random.default_rng(99)
    return [np.asarray(rng.normal(size=shape), np.float32) for shape in SHAPES]


def without_decay(name: str, dialect: str) -> dict[str, Any]:
    return {k: 0.0 for k in ("weight_decay", "lambd") if k in ALGORITHMS[name].defaults(dialect)}


# In JAX.


def avals(tree: Any) -> Any:
    """The shape, dtype and weakness of every array: what a compiled function is kept for."""
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), jax.eval_shape(lambda: tree))


@each_compiled
def test_one_compiled_step_serves_every_step(name: str, dialect: str) -> None:
    """Traced once, with finite steps of the gradient's dtype, also for 0-d and empty leaves."""
    tx = optstudy_jax.from_core(name)(dialect=dialect)
    traced = []

    @jax.jit
    def advance(grads: Any, state: Any, params: Any) -> Any:
        traced.append(1)
        more = inputs_for(ALGORITHMS[name], params)
        updates, state = tx.update(grads, state, params, **more)
        return updates, state, optax.apply_updates(params, updates)

    params = jax.tree.map(jnp.asarray, start())
    state = tx.init(params)
    kept = avals(state)
    for grads in gradients(name, dialect, 6):
        updates, state, params = advance(grads, state, params)
        assert all(bool(jnp.isfinite(u).all()) for u in updates)
        assert [u.dtype for u in updates] == [g.dtype for g in grads]
    assert avals(state) == kept
    assert len(traced) == 1


@each_traced
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_states_of_small_dtypes_are_stable(name: str, dialect: str, dtype: str) -> None:
    params = [jnp.asarray(x, dtype) for x in start()]
    tx = optax.chain(optax.clip(1.0), optstudy_jax.from_core(name)(dialect=dialect))

    def twice(params: Any) -> Any:
        """Extra arguments that it does not know are for others in the chain."""
        before = tx.init(params)
        updates, after = tx.update(params, before, params, value=1.0, unknown="text")
        return before, after, updates, tx.update(updates, after, params, value=1.0)[1]

    before, after, updates, last = jax.eval_shape(twice, params)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (before, after, last)]
    assert shapes[0] == shapes[1] == shapes[2]
    assert all(u.dtype == dtype for u in updates)


# Compiled for a second or two each: some here, and all of them among the slow tests.
WRAPPED = {"adam", "sgd", "sign_sgd"}
some_algorithms = pytest.mark.parametrize("name", slow_unless_quick(ALGORITHMS, WRAPPED))


@some_algorithms
def test_optaxs_wrappers_go_around_it(name: str) -> None:
    """Each wrapper gives what the transformation alone gives, in one compiled function."""
    make = optstudy_jax.from_core(name)
    dialect = ALGORITHMS[name].default_dialect
    alone = make(0.01)
    wrapped = {
        "chain": optax.chain(optax.identity(), alone),
        "multi_transform": optax.multi_transform(
            {"ours": alone, "still": optax.set_to_zero()},
            ["ours", "ours", "still", "ours"],
            mask_compatible_extra_args=True,
        ),
        "apply_if_finite": optax.apply_if_finite(alone, 3),
        "inject": optax.inject_hyperparams(make)(learning_rate=0.01),
    }
    multi = optax.MultiSteps(alone, 2)

    @jax.jit
    def run(params: Any, g1: Any, g2: Any) -> Any:
        more = inputs_for(ALGORITHMS[name], params)

        def two(tx: Any) -> Any:
            u1, state = tx.update(g1, tx.init(params), params, **more)
            return u1, tx.update(g2, state, params, **more)[0]

        found = {key: two(tx) for key, tx in wrapped.items()}
        infinite = jax.tree.map(lambda g: g + jnp.inf, g1)
        tx = wrapped["apply_if_finite"]
        skipped, state = tx.update(infinite, tx.init(params), params, **more)
        found["after infinity"] = tx.update(g1, state, params, **more)[0], skipped
        waiting, state = multi.update(g1, multi.init(params), params, **more)
        mean = multi.update(g1, state, params, **more)[0]
        return two(alone), found, (waiting, mean)

    @jax.jit
    def without_one(params: Any, g1: Any, g2: Any) -> Any:
        """What is summed over all leaves is summed over those that are ours."""
        params, g1, g2 = ([*x[:2], *x[3:]] for x in (params, g1, g2))
        more = inputs_for(ALGORITHMS[name], params)
        u1, state = alone.update(g1, alone.init(params), params, **more)
        return u1, alone.update(g2, state, params, **more)[0]

    g1, g2 = gradients(name, dialect, 2, seed=3)
    (u1, u2), found, (waiting, mean) = run(start(), g1, g2)
    for key in ("chain", "apply_if_finite"):
        pairs = zip([*u1, *u2], [*found[key][0], *found[key][1]], strict=True)
        assert all(same(a, b) for a, b in pairs), key
    # The rate is an array there: rounded to float32 first, which a step shows in some last bits,
    # and many of them where the step is a small difference.
    for a, b in zip([*u1, *u2], [*found["inject"][0], *found["inject"][1]], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8)
    for a, b in zip(without_one(start(), g1, g2), found["multi_transform"], strict=True):
        assert all(same(x, y) for x, y in zip(a, [*b[:2], *b[3:]], strict=True)), "multi_transform"
        assert not np.any(b[2])
    first, skipped = found["after infinity"]
    assert all(same(a, b) for a, b in zip(u1, first, strict=True))
    assert not any(np.any(u) for u in skipped)
    assert not any(np.any(u) for u in waiting)
    assert all(same(a, b) for a, b in zip(u1, mean, strict=True))  # of two equal gradients


# The rule itself.


def descend(
    name: str,
    dialect: str,
    gradient: Callable[[np.ndarray], np.ndarray],
    theta: np.ndarray,
    steps: int,
    inputs: Mapping[str, Callable[[np.ndarray], Any]] = MappingProxyType({}),
    **given: Any,
) -> np.ndarray:
    """Train one leaf in NumPy, in float64; ``inputs`` are the loss and the Hessian's diagonal."""
    algorithm = ALGORITHMS[name]
    values = algorithm.resolve(dialect, given)
    leaf = Leaves([theta], NumPy())
    state = algorithm.start(leaf, values)
    for _ in range(steps):
        x = leaf.values[0]
        more = {
            "value": np.asarray(inputs.get("value", np.sum)(x)),
            "hessian": np.asarray(inputs.get("hessian", np.ones_like)(x)),
        }
        more = {name: Leaves([more[name]], NumPy()) for name in algorithm.inputs}
        state, step = algorithm.update(
            state, Leaves([gradient(x)], NumPy()), leaf, **more, **values
        )
        leaf = leaf + step
    return np.asarray(leaf.values[0])


@each_case
def test_zero_gradients_move_nothing(name: str, dialect: str) -> None:
    if (name, dialect) in NEEDS_GRADIENTS:
        pytest.skip("0/0 without an eps")
    theta = np.array([0.3, -2.0, 0.0])
    end = descend(name, dialect, np.zeros_like, theta, 3, **without_decay(name, dialect))
    assert np.array_equal(end, theta) == ((name, dialect) not in MOVES_BY_ITSELF)


CURVATURE = np.geomspace(0.1, 10.0, 8)


def quadratic(x: np.ndarray) -> float:
    return float(np.sum(CURVATURE * x * x) / 2)


@functools.cache
def sample() -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping classes in four dimensions and a constant."""
    rng = np.random.default_rng(5)
    x = np.column_stack([rng.normal(size=(200, 4)), np.ones(200)])
    return x, np.sign(x @ np.array([2.0, -1.0, 0.5, 0.0, 0.3]) + 0.3 * rng.normal(size=200))


def logistic(w: np.ndarray) -> float:
    x, y = sample()
    return float(np.mean(np.logaddexp(0.0, -y * (x @ w))))


def logistic_gradient(w: np.ndarray) -> np.ndarray:
    x, y = sample()
    return -(x.T @ (y / (1 + np.exp(y * (x @ w))))) / len(y)


def logistic_curvature(w: np.ndarray) -> np.ndarray:
    x, y = sample()
    p = 1 / (1 + np.exp(y * (x @ w)))
    return np.asarray((x * x).T @ (p * (1 - p)) / len(y))


# Learning rates with which 300 steps do it, where 0.03 is not one.
RATES: dict[str, float] = {
    "schedule_free_sgd": 0.15,
    "cocob": 1.0,
    "fromage": 0.1,  # of the parameters
    "lars": 10.0,  # times its trust coefficient of 0.001
    "adadelta": 10.0,
    "adagrad": 0.5,
    "sgd": 0.1,
    "optimistic_gradient_descent": 0.05,
    "acprop": 0.01,
    "dog": 1.0,
    "sm3": 0.5,
    "adafactor": 0.1,
    "dowg": 1.0,
    "polyak_sgd": 1.0,
    "shampoo": 0.5,
    "momo": 1.0,
    "prodigy": 1.0,
    "dadapt_adamw": 1.0,
}


# Roots of matrices at each of 300 steps take ten seconds; dialects train alike.
@cases(slow=lambda name, dialect: name == "shampoo" or dialect != ALGORITHMS[name].default_dialect)
def test_it_trains(name: str, dialect: str) -> None:
    """In 300 steps the quadratic falls to 5 %, the logistic loss from 0.693 to below 0.35."""
    given = without_decay(name, dialect) | {"lr": RATES.get(name, 0.03)}
    begin = np.array([1.0, -1.5, 0.8, -0.7, 1.2, -0.9, 1.1, -1.3])
    of_bowl = {"value": quadratic, "hessian": lambda x: CURVATURE}
    end = descend(name, dialect, lambda x: CURVATURE * x, begin, 300, of_bowl, **given)
    assert quadratic(end) <= 0.05 * quadratic(begin)
    of_classes = {"value": logistic, "hessian": logistic_curvature}
    w = descend(name, dialect, logistic_gradient, np.zeros(5), 300, of_classes, **given)
    assert logistic(w) <= 0.35


# In torch.


class Run:
    """A model of two groups with a scheduler, trained by a closure."""

    def __init__(self, name: str, dialect: str, groups: Any = (slice(0, 2), slice(2, 4))) -> None:
        self.params = [torch.nn.Parameter(torch.from_numpy(x.copy())) for x in start()]
        own = ({"lr": 0.01}, {"lr": 0.003} | without_decay(name, dialect))
        self.optimizer = optstudy_torch.from_core(name)(
            [{"params": self.params[g]} | x for g, x in zip(groups, own, strict=True) if g],
            dialect=dialect,
        )
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)

    def step(self, grads: list[np.ndarray]) -> None:
        def closure() -> float:
            for p, g in zip(self.params, grads, strict=True):
                p.grad = torch.from_numpy(g.copy())
            return 0.25

        assert self.optimizer.step(closure) == 0.25
        self.scheduler.step()

    def states(self) -> list[dict[str, torch.Tensor]]:
        return [dict(self.optimizer.state[p]) for p in self.params]


@each_case
def test_a_torch_run_goes_on_from_its_saved_state(name: str, dialect: str) -> None:
    grads = gradients(name, dialect, 6)
    run, other = Run(name, dialect), Run(name, dialect)
    kept = None
    for g in grads[:3]:
        run.step(g)
        dtypes = [{k: (v.dtype, v.shape) for k, v in s.items()} for s in run.states()]
        assert kept is None or dtypes == kept
        kept = dtypes
    saved = copy.deepcopy((run.optimizer.state_dict(), run.scheduler.state_dict()))
    with torch.no_grad():
        for p, q in zip(other.params, run.params, strict=True):
            p.copy_(q)
    other.optimizer.load_state_dict(saved[0])
    other.scheduler.load_state_dict(saved[1])
    for g in grads[3:]:
        run.step(g)
        other.step(g)
    assert [g["lr"] for g in other.optimizer.param_groups] == [
        pytest.approx(0.01 * 0.9**6),
        pytest.approx(0.003 * 0.9**6),
    ]
    for p, q in zip(run.params, other.params, strict=True):
        assert torch.equal(p, q)
        assert bool(torch.isfinite(p).all())
    for s, t in zip(run.states(), other.states(), strict=True):
        assert s.keys() == t.keys()
        assert all(torch.equal(s[k], t[k]) for k in s)


@each_algorithm
def test_one_optimizer_of_two_groups_is_two_optimizers(name: str) -> None:
    dialect = ALGORITHMS[name].default_dialect
    assert dialect is not None
    together = Run(name, dialect)
    first = Run(name, dialect, groups=(slice(0, 2), None))
    second = Run(name, dialect, groups=(None, slice(2, 4)))
    for g in gradients(name, dialect, 3):
        for run in (together, first, second):
            run.step(g)
    for p, q in zip(together.params, [*first.params[:2], *second.params[2:]], strict=True):
        assert torch.equal(p, q)
    for run, still in ((first, slice(2, 4)), (second, slice(0, 2))):
        for p, x in zip(run.params[still], start()[still], strict=True):
            assert np.array_equal(p.detach().numpy(), x)


def test_the_defaults_are_numbers_and_truth_values() -> None:
    """Or tuples of them, which are never arrays."""

    def allowed(value: Any) -> bool:
        if isinstance(value, tuple):
            return all(map(allowed, value))
        return isinstance(value, bool) or is_number(value)

    for name, dialect in CASES:
        for key, value in ALGORITHMS[name].defaults(dialect).items():
            assert allowed(value), (name, dialect, key)
