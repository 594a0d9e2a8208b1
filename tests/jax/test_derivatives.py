"""Derivatives through optimizers: right, or refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from adapters import RULES
from harness import slow

import optstudy_jax
from optstudy_core.arrays.eigen import eigenvectors, orthonormal
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.matrix import gram, inverse_root, matmul
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_core.arrays.reductions import global_dot, leaf_norm, leaf_rms
from optstudy_jax import geometry
from optstudy_jax._backend import BACKEND
from optstudy_jax._rounding import OUTSIDE, Node, leaving

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SHAPES = [(2, 3), (4,)]
H = 1e-5
"""Step of the finite differences; their error is some H²."""

QUICK = {"lamb", "lion"}


def in_jax(function: Any) -> Any:
    """Return a formula of matrices as a function of arrays of JAX."""

    def run(*arrays: Any) -> Any:
        result = function(*(Leaves([Node(x, OUTSIDE)], BACKEND) for x in arrays))
        return leaving(result.values[0])

    return run


def positive(x: Any) -> Any:
    """Return a symmetric matrix with positive eigenvalues."""
    return x @ x.T + 0.1 * np.eye(len(x))


FORMULAS: dict[str, tuple[Any, Any, list[Any]]] = {
    "product": (matmul, np.matmul, [(3, 5), (5, 2)]),
    "rough product": (lambda x, y: matmul(x, y, rough=True), np.matmul, [(3, 5), (5, 2)]),
    "gram": (gram, lambda x: x @ x.T, [(3, 5)]),
    "inverse root": (lambda x: inverse_root(x, 2), None, [(4, 4)]),
    "inverse fourth root": (lambda x: inverse_root(x, 4), None, [(4, 4)]),
    "norm": (leaf_norm, np.linalg.norm, [(3, 4)]),
    "rms": (leaf_rms, lambda x: np.sqrt(np.mean(x * x)), [(3, 4)]),
    "dot": (global_dot, np.vdot, [(3, 4), (3, 4)]),
}
"""What has a rule of its own: the formula, the same in NumPy (``None``: the formula), shapes."""

ROOTS = {("inverse root", np.float64), ("inverse fourth root", np.float32)}
"""Some of those that take a second to compile."""


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        slow(name, dtype) if (name, dtype) in ROOTS else (name, dtype)
        for name in FORMULAS
        for dtype in (np.float32, np.float64)
    ],
)
def test_what_is_made_of_bits_has_the_derivative_of_what_it_stands_for(
    name: str, dtype: Any
) -> None:
    """In float32 with float64 switched off, also in reverse mode."""
    formula, plain, shapes = FORMULAS[name]
    rng = np.random.default_rng(len(name))
    points = [rng.normal(size=s) for s in shapes]
    ways = [rng.normal(size=s) for s in shapes]
    if plain is None:
        points, ways = [positive(x) for x in points], [x + x.T for x in ways]

    def definition(*arrays: Any) -> Any:
        return formula(*(Leaves([x], NumPy()) for x in arrays)).values[0]

    function = plain or definition
    ahead, behind = (
        np.asarray(function(*(x + s * H * d for x, d in zip(points, ways, strict=True))))
        for s in (1, -1)
    )
    expected = (ahead - behind) / (2 * H)
    weights = rng.normal(size=expected.shape)
    tolerance = {np.float32: 2e-4, np.float64: 1e-7}[dtype]
    with jax.enable_x64(dtype == np.float64):
        own, along = (tuple(jnp.asarray(x, dtype) for x in xs) for xs in (points, ways))
        weight = jnp.asarray(weights, dtype)

        @jax.jit
        def both(own: Any, along: Any) -> Any:
            found, back = jax.vjp(in_jax(formula), *own)
            return found, jax.jvp(in_jax(formula), own, along)[1], back(weight)

        found, forward, slopes = both(own, along)
        np.testing.assert_allclose(forward, expected, rtol=tolerance, atol=tolerance)
        assert {x.dtype for x in (found, forward, *slopes)} == {np.dtype(dtype)}
        total = sum(np.vdot(x, d) for x, d in zip(slopes, along, strict=True))
        np.testing.assert_allclose(total, np.vdot(weights, expected), rtol=10 * tolerance)


def test_norms_and_angles_have_derivatives() -> None:
    u = {"a": jnp.array([3.0, -1.0]), "b": jnp.array(2.0), "none": jnp.zeros((0,))}
    v = jax.tree.map(jnp.cos, u)

    def vector(tree: Any) -> Any:
        return jnp.append(tree["a"], tree["b"])

    def between(x: Any) -> Any:
        x, y = vector(x), vector(v)
        return jnp.linalg.norm(x / jnp.linalg.norm(x) - y / jnp.linalg.norm(y))

    pairs = {
        geometry.total: lambda x: vector(x).sum(),
        geometry.norm: lambda x: jnp.linalg.norm(vector(x)),
        lambda x: geometry.dot(x, v): lambda x: vector(x) @ vector(v),
        lambda x: geometry.chords(x, v)[0]: between,
        lambda x: geometry.norm(x, exact=False): lambda x: jnp.linalg.norm(vector(x)),
    }

    @jax.jit
    def found(u: Any, zero: Any) -> Any:
        slopes = [vector(jax.grad(ours)(u)) for ours in pairs]
        second = jax.hessian(lambda x: geometry.norm(x).astype(jnp.float32))
        return slopes, jax.grad(geometry.norm)(zero), second(jnp.array([3.0, 4.0]))

    slopes, of_zero, second = found(u, jnp.zeros(3))
    for slope, theirs in zip(slopes, pairs.values(), strict=True):
        np.testing.assert_allclose(slope, vector(jax.grad(theirs)(u)), rtol=1e-5, atol=1e-6)
    assert not of_zero.any()  # where a norm has a kink
    np.testing.assert_allclose(second, [[0.128, -0.096], [-0.096, 0.072]], rtol=1e-6)


@pytest.mark.parametrize("function", [eigenvectors, orthonormal])
def test_eigenvectors_are_refused(function: Any) -> None:
    with pytest.raises(TypeError, match="derivative through eigenvectors, of which SOAP makes"):
        jax.eval_shape(jax.jacfwd(in_jax(function)), jnp.eye(3))


def test_by_the_rate_and_the_decay() -> None:
    """Of hyperparameters that are arrays, as where they are trained."""
    grads = [jnp.asarray(x) for x in np.random.default_rng(0).normal(size=(3, 4))]

    def end(lr: Any, b1: Any) -> Any:
        tx, params = optstudy_jax.adam(lr, b1=b1), jnp.ones(4)
        state = tx.init(params)
        for g in grads:
            updates, state = tx.update(g * params, state, params)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params**3)

    with jax.enable_x64(True):
        at = jnp.array(0.05), jnp.array(0.8)
        value = jax.jit(end)
        for k, slope in enumerate(jax.jit(jax.grad(end, (0, 1)))(*at)):
            ahead, behind = (
                value(*(x + s * H * (k == i) for i, x in enumerate(at))) for s in (1, -1)
            )
            assert float(slope) == pytest.approx(float(ahead - behind) / (2 * H), rel=1e-6)


def test_where_a_gradient_is_zero() -> None:
    """Adam's first step there is g / ε; a derivative of √v would be infinite."""
    tx = optstudy_jax.adam(0.5, eps=0.25)
    params = jnp.ones(3)

    @jax.jit
    def slopes(g: Any) -> Any:
        return jax.grad(lambda g: tx.update(g, tx.init(params), params)[0].sum())(g)

    found = slopes(jnp.array([0.0, 1.0, 0.0]))
    wanted = [-0.5 / 0.25, -0.5 * 0.25 / 1.25**2, -0.5 / 0.25]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


# Whole trainings.


def numbers(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=s) for s in SHAPES]


BEGIN, WAY, TARGET, WEIGHTS = map(numbers, range(4))


def losses(xp: Any, params: Any, step: Any) -> Any:
    """Return the sum of the losses after each of two steps, of gradients that move along."""
    total = 0.0
    for k in range(2):
        grads = [xp.tanh(p - t) + 0.1 * (k + 1) * p for p, t in zip(params, TARGET, strict=True)]
        params = step(params, grads)
        total = total + sum((w * xp.sin(p)).sum() for w, p in zip(WEIGHTS, params, strict=True))
    return total


def derivatives(tx: Any, more: Any) -> tuple[float, float]:
    """Return the derivative of the losses along a way, in forward and in reverse mode."""

    def function(params: Any) -> Any:
        state = tx.init(params)

        def step(params: Any, grads: Any) -> Any:
            nonlocal state
            updates, state = tx.update(grads, state, params, **more(params))
            return optax.apply_updates(params, updates)

        return losses(jnp, params, step)

    def both(params: Any, way: Any) -> Any:
        slopes = jax.grad(function)(params)
        along = jax.jvp(function, (params,), (way,))[1]
        return along, sum(jnp.vdot(x, d) for x, d in zip(slopes, way, strict=True))

    forward, reverse = jax.jit(both)(*(list(map(jnp.asarray, x)) for x in (BEGIN, WAY)))
    return float(forward), float(reverse)


def inputs(name: str, xp: Any, params: Any) -> dict[str, Any]:
    """Return what a rule asks for besides: a loss, and a Hessian that is not the gradient."""
    known = {
        "value": (params[0] ** 2).sum() + 1.0,
        "hessian": [xp.abs(p) + 1.0 for p in params],
    }
    return {key: known[key] for key in RULES[name].inputs}


def difference(name: str, dialect: str) -> float:
    """Return the finite difference of the losses, of the formula in NumPy."""
    rule = RULES[name]
    values = rule.resolve(dialect, {"lr": 0.05} if "lr" in rule.defaults() else {})

    def function(params: Any) -> Any:
        tree = lambda xs: Leaves(map(np.asarray, xs), NumPy())  # noqa: E731
        state = rule.start(tree(params), values)

        def step(params: Any, grads: Any) -> Any:
            nonlocal state
            given = inputs(name, np, params)
            more = {k: tree(x if k == "hessian" else [x] * len(params)) for k, x in given.items()}
            state, moved = rule.update(state, tree(grads), tree(params), **more, **values)
            return [p + u for p, u in zip(params, moved.values, strict=True)]

        return losses(np, params, step)

    ahead, behind = (
        function([p + s * H * d for p, d in zip(BEGIN, WAY, strict=True)]) for s in (1, -1)
    )
    return float((ahead - behind) / (2 * H))


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        (name, dialect)
        if name in QUICK and dialect == rule.default_dialect
        else slow(name, dialect, id=f"{name}-{dialect}")
        for name, rule in RULES.items()
        for dialect in rule.dialects
        if (name, dialect) != ("muon", "torch")  # which takes matrices alone
    ],
)
def test_through_two_updates(name: str, dialect: str) -> None:
    """Forward and reverse, against finite differences of the formula in NumPy."""
    rule = RULES[name]
    rate = {"learning_rate": 0.05} if "lr" in rule.defaults() else {}
    tx = optstudy_jax.from_core(rule)(**rate, dialect=dialect)
    with jax.enable_x64(True):
        if name == "soap":
            with pytest.raises(TypeError, match="derivative through eigenvectors"):
                derivatives(tx, lambda p: {})
            return
        forward, reverse = derivatives(tx, lambda p: inputs(name, jnp, p))
    assert reverse == pytest.approx(forward, rel=1e-9)
    assert forward == pytest.approx(difference(name, dialect), rel=1e-5, abs=1e-9)


AS_IN_OPTAX = ["lamb", "lars", "adabelief", "adamw", "fromage", "novograd", "yogi"]
"""Not RAdam: in reverse mode optax' derivative is NaN."""


@pytest.mark.parametrize("name", [n if n == "adamw" else slow(n) for n in AS_IN_OPTAX])
def test_as_optaxs_derivatives(name: str) -> None:
    with jax.enable_x64(True):
        ours = optstudy_jax.from_core(name)(0.05, dialect="optax")
        theirs = getattr(optax, name)(0.05)
        found, wanted = (derivatives(tx, lambda p: {}) for tx in (ours, theirs))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
