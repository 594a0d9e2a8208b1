"""States of optax: taken over, given back, and the training between."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from harness import slow

import optstudy_jax
from optstudy_jax import from_optax, to_optax
from parity.peers.optax import adapted

pytestmark = pytest.mark.usefixtures("compiled_quickly")

Make = Callable[..., optax.GradientTransformation]


def renamed(make: Make, **names: str) -> Make:
    """Return a function of optax under our names of arguments."""
    return lambda rate, **given: make(rate, **{names.get(k, k): v for k, v in given.items()})


def factored(rate: Any, large_only: bool, **given: Any) -> Any:
    return adapted.adafactor(rate, min_dim_size_to_factor=0, **given)


SAME: list[tuple[str, dict[str, Any], Make]] = [
    ("sgd", {}, optax.sgd),
    ("sgd", {"momentum": 0.9}, optax.sgd),
    ("adam", {}, optax.adam),
    ("adamw", {"weight_decay": 0.1}, optax.adamw),
    ("amsgrad", {}, optax.amsgrad),
    ("adamax", {}, optax.adamax),
    ("adamaxw", {}, optax.adamaxw),
    ("nadam", {}, optax.nadam),
    ("nadamw", {}, optax.nadamw),
    ("radam", {}, optax.radam),
    ("adagrad", {}, optax.adagrad),
    ("adadelta", {}, optax.adadelta),
    ("rmsprop", {"momentum": 0.9, "initial_scale": 0.1}, optax.rmsprop),
    ("rmsprop", {"centered": True, "eps": 1e-5}, optax.rmsprop),
    ("lion", {}, optax.lion),
    ("signum", {}, optax.signum),
    ("adabelief", {}, optax.adabelief),
    ("yogi", {}, optax.yogi),
    ("adan", {}, optax.adan),
    ("novograd", {}, optax.novograd),
    ("lamb", {}, optax.lamb),
    ("acprop", {}, optax.contrib.acprop),
    ("ademamix", {}, optax.contrib.ademamix),
    ("adopt", {}, optax.contrib.adopt),
    ("prodigy", {}, optax.contrib.prodigy),
    ("dadapt_adamw", {}, optax.contrib.dadapt_adamw),
    ("dowg", {}, optax.contrib.dowg),
    ("cocob", {}, optax.contrib.cocob),
    ("rmsprop", {"correct_bias": True}, renamed(optax.rmsprop, correct_bias="bias_correction")),
    ("rprop", {}, optax.rprop),
    ("lars", {"weight_decay": 0.1}, optax.lars),
    ("fromage", {}, optax.fromage),
    ("sign_sgd", {}, optax.sign_sgd),
    ("polyak_sgd", {}, adapted.polyak_sgd),
    ("madgrad", {}, adapted.madgrad),
    ("sm3", {}, optax.sm3),
    ("adafactor", {}, adapted.adafactor),
    ("adafactor", {"large_only": False, "momentum": 0.9}, factored),
    ("muon", {"nesterov": False}, optax.contrib.muon),
    ("dog", {}, optax.contrib.dog),
    ("momo", {}, optax.contrib.momo),
    ("momo_adam", {"adapt_lower_bound": True}, optax.contrib.momo_adam),
    ("sophia", {}, adapted.sophia),
    ("optimistic_gradient_descent", {}, optax.optimistic_gradient_descent),
    ("optimistic_adam", {}, optax.optimistic_adam_v2),
    ("schedule_free_sgd", {}, optax.contrib.schedule_free_sgd),
    ("schedule_free_adamw", {"weight_decay": 0.1}, optax.contrib.schedule_free_adamw),
]
QUICK = {"adamw", "rmsprop", "sgd", "rprop", "schedule_free_sgd"}
cases = pytest.mark.parametrize(
    ("name", "given", "theirs"),
    [c if c[0] in QUICK else slow(*c) for c in SAME],
    ids=[f"{n}-{'-'.join(g)}" for n, g, _ in SAME],
)
LABELS = {"a": "one", "b": "two", "c": "one"}


def plain(make: Any) -> Any:
    return make(0.01)


def chained(make: Any) -> Any:
    return optax.chain(optax.clip(3.0), make(lambda count: 0.01 / (1 + count)), optax.identity())


def masked(make: Any) -> Any:
    return optax.masked(make(0.01), {"a": True, "b": True, "c": False})


def injected(make: Any) -> Any:
    return optax.inject_hyperparams(make)(learning_rate=optax.linear_schedule(0.01, 0.001, 50))


def split(make: Any) -> Any:
    return optax.multi_transform({"one": make(0.01), "two": make(0.02)}, LABELS)


AROUND = [plain, chained, masked, injected, split]


def train(tx: Any, state: Any, params: Any, grads: list[Any]) -> tuple[Any, Any]:
    tx = optax.with_extra_args_support(tx)

    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        extra = {"value": 30.0 + sum(map(jnp.vdot, jax.tree.leaves(g), jax.tree.leaves(params)))}
        extra |= {"hessian": jax.tree.map(jnp.square, g)}
        updates, state = tx.update(g, state, params, **extra)
        return optax.apply_updates(params, updates), state

    for g in grads:
        params, state = step(params, state, g)
    return params, state


def drawn(steps: int, scalars: bool = True) -> list[Any]:
    rng = np.random.default_rng(0)
    shapes = {"a": (4, 3), "b": (3,), "c": () if scalars else (1,)}
    return [{k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()} for _ in range(steps)]


def assert_near(x: Any, y: Any) -> None:
    assert jax.tree.structure(x) == jax.tree.structure(y)
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        # Rounding alone: 40 steps of parameters around 1.
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def moves(ours: Any, theirs: Any, scalars: bool = True) -> None:
    """A training goes from optax to ours and back, beside one that stays."""
    with jax.enable_x64(True):
        start, *grads = drawn(41, scalars)
        params, state = train(theirs, theirs.init(start), start, grads[:7])
        mine = from_optax(state, params, ours)
        assert jax.tree.structure(mine) == jax.tree.structure(ours.init(params))
        again = to_optax(mine, params, theirs)
        assert jax.tree.structure(again) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)  # there and back
        params, mine = train(ours, mine, params, grads[7:25])
        params, state = train(theirs, to_optax(mine, params, theirs), params, grads[25:])
        stayed, other = train(theirs, theirs.init(start), start, grads)
        assert_near(params, stayed)
        assert_near(state, other)


@cases
def test_a_training_goes_on_in_either(name: str, given: dict[str, Any], theirs: Make) -> None:
    ours = functools.partial(getattr(optstudy_jax, name), dialect="optax", **given)
    moves(ours(0.01), theirs(0.01, **given), scalars=name != "sm3")  # optax's takes none


def test_optimizers_of_several_algorithms_beside_each_other() -> None:
    """The state of optax's RMSprop without momentum and of SGD with it, which RMSprop has too."""

    def both(one: Any, two: Any) -> Any:
        return optax.multi_transform({"one": one(0.01), "two": two(0.02, momentum=0.9)}, LABELS)

    rmsprop = functools.partial(optstudy_jax.rmsprop, dialect="optax")
    moves(both(rmsprop, optstudy_jax.sgd), both(optax.rmsprop, optax.sgd))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("rprop", optax.rprop), slow("dog", optax.contrib.dog), ("fromage", optax.fromage)],
)
def test_what_has_not_begun_begins_as_optax_does(name: str, theirs: Make) -> None:
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    ours = getattr(optstudy_jax, name)(0.1, dialect="optax")
    begun = theirs(0.1).init(params)
    state = to_optax(ours.init(params), params, theirs(0.1))
    assert jax.tree.map(jnp.array_equal, state, begun) == jax.tree.map(lambda _: True, begun)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", ["adamw", slow("rmsprop"), slow("lion")])
def test_within_other_transformations(name: str, around: Any) -> None:
    ours, theirs = getattr(optstudy_jax, name), getattr(optax, name)

    @functools.wraps(theirs)
    def in_dialect(learning_rate: Any) -> Any:
        return ours(learning_rate, dialect="optax")

    moves(around(lambda learning_rate: in_dialect(learning_rate)), around(theirs))


def test_what_does_not_fit_is_refused() -> None:
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    adam = optax.adam(0.1).init(params)
    ours = optstudy_jax.adam(0.1)
    for state, tx, words in (
        (optax.lion(0.1).init(params), ours, "has ScaleByLionState, which adam does not"),
        (optax.sgd(0.1).init(params), ours, "without m, v of adam: allowed is a state with"),
        ((adam, adam), ours, "also has ScaleByAdamState"),
        (adam, optstudy_jax.sgd(0.1), "has ScaleByAdamState, which sgd does not"),
        (optax.adam(0.1).init({"w": params["w"]}), ours, "m of adam of structure"),
        (optax.adam(0.1).init(params | {"b": jnp.ones(4)}), ours, r"m of adam of shape \(4,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            from_optax(state, params, tx)
    with pytest.raises(ValueError, match="has TraceState, which sgd does not"):
        from_optax(optax.sgd(0.1, momentum=0.9).init(params), params, optstudy_jax.sgd(0.1))
    with pytest.raises(TypeError, match="state of shampoo cannot be converted"):
        from_optax(adam, params, optstudy_jax.shampoo(0.1))


def test_what_optax_does_not_hold_is_refused() -> None:
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    tx = optstudy_jax.adam(0.1)
    state = tx.init(params)
    for theirs, words in (
        (optax.sgd(0.1), "state of adam has m, v: allowed is a tx of optax with ScaleByAdamState"),
        (optax.lion(0.1), "state of adam has m, v"),
    ):
        with pytest.raises(ValueError, match=words):
            to_optax(state, params, theirs)
    with pytest.raises(ValueError, match="mu of optax of structure"):
        to_optax(tx.init({"w": params["w"]}), params, optax.adam(0.1))
    late = state._replace(inner=state.inner._replace(t=state.inner.t._replace(int32=[0, 3])))
    with pytest.raises(ValueError, match="leaves of adam have taken 0, 3 steps"):
        to_optax(late, params, optax.adam(0.1))
    plain = optstudy_jax.sgd(0.1)
    with pytest.raises(ValueError, match="state of sgd without b, which optax has"):
        to_optax(plain.init(params), params, optax.sgd(0.1, momentum=0.9))
