"""The optax transformations: the conventions of optax and of JAX."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import flax.nnx as nnx
import flax.serialization
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import optax.contrib
import pytest
from flax.training.train_state import TrainState
from harness import (
    DELAYED,
    HEAVY_BALL,
    definition,
    draw,
    inputs_for,
    slow,
    slow_unless_quick,
    start,
)
from optax_runs import (
    SHAPES,
    assert_same,
    assert_same_trees,
    assert_state,
    run,
    step_of,
    tree,
)

import optstudy_jax
from optstudy_core import ALGORITHMS, Algorithm
from optstudy_jax import adam, adamw, amsgrad, from_core, sgd


def _called(value: Any) -> str:
    return str(value.__name__)


pytestmark = pytest.mark.usefixtures("compiled_quickly")


# Names and arguments.


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "amsgrad"])
def test_arguments_have_optaxs_names_and_positions(name: str) -> None:
    theirs = inspect.signature(getattr(optax, name)).parameters
    ours = inspect.signature(getattr(optstudy_jax, name)).parameters
    storage = {"mu_dtype", "accumulator_dtype"}  # the state has the working dtype here
    missing = {"adam": {"nesterov"}, "adamw": {"nesterov"}}.get(name, set())
    renamed = {"bias_correction_mu", "bias_correction_nu"} & set(theirs)
    assert set(theirs) - set(ours) == (storage & set(theirs)) | missing | renamed
    positional = [p.name for p in ours.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    # A value in optax's order never lands in another argument.
    assert positional == list(theirs)[: len(positional)]
    assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in ours.values())


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_from_core_gives_the_function(name: str) -> None:
    function = from_core(name)
    assert function is from_core(ALGORITHMS[name]) is getattr(optstudy_jax, name)
    assert (function.__name__, function.__module__) == (name, "optstudy_jax")
    assert isinstance(function(0.1), optax.GradientTransformationExtraArgs)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_algorithm_is_traced(name: str) -> None:
    """Without a compilation, under strict promotion: the state keeps dtypes and weak types."""
    tx, params = from_core(name)(), {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}

    def step(params: Any) -> Any:
        state = tx.init(params)
        more = inputs_for(ALGORITHMS[name], params)
        return state, *tx.update(params, state, params, **more)

    with jax.numpy_dtype_promotion("strict"):
        state, updates, new = jax.eval_shape(step, params)
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), x) for x in (state, new)]
    assert kinds[0] == kinds[1]
    assert updates["w"].dtype == jnp.float32


# Learning rates.


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param(optax.piecewise_constant_schedule(0.1, {3: 0.5}), id="piecewise"),
        slow(lambda count: 0.1 / (1 + count), id="hyperbola"),
        pytest.param(lambda count: 0.1, id="number"),
    ],
)
def test_schedules_are_called_with_the_count(schedule: Any) -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 6)
    rates = [schedule(jnp.asarray(t)) for t in range(6)]
    rates = list(map(float, rates))
    params, _ = run(adamw(schedule), tree(begin), list(map(tree, grads)))
    assert_same(params, definition("adamw", begin, grads, lambda t: {"lr": rates[t]})[0])


def test_a_schedule_in_numpy_outside_jit() -> None:
    begin, grads = start([(3,)]), draw([(3,)], 3)
    tx = sgd(lambda count: np.float64(0.5) / (1 + int(count)))
    params = tree(begin)
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update(tree(g), state, params)
        params = optax.apply_updates(params, updates)
    assert_same(params, definition("sgd", begin, grads, lambda t: {"lr": 0.5 / (1 + t)})[0])


@pytest.mark.parametrize(
    ("make", "given"),
    [
        slow(adamw, {"learning_rate": 0.1}),
        (amsgrad, {"learning_rate": 0.1, "dialect": "optax"}),
        (sgd, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
        (sgd, {"learning_rate": 0.1, "momentum": 0.0}),
    ],
)
def test_inject_hyperparams(make: Any, given: dict[str, Any]) -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 6)
    params, state = run(
        optax.inject_hyperparams(make)(**given), tree(begin), list(map(tree, grads))
    )
    values = {k: float(v) for k, v in state.hyperparams.items()}
    values["lr"] = values.pop("learning_rate")
    flags = {"nesterov": True} if "nesterov" in given else {}
    ends = definition(make.__name__, begin, grads, values | flags, dialect=given.get("dialect"))[0]
    assert_same(params, ends)


def test_inject_hyperparams_with_a_schedule() -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 6)
    schedule = optax.piecewise_constant_schedule(0.1, {3: 0.5})
    tx = optax.inject_hyperparams(adam, static_args="weight_decay")(schedule)
    params, state = run(tx, tree(begin), list(map(tree, grads)))
    values = {k: float(v) for k, v in state.hyperparams.items() if k != "learning_rate"}
    assert "weight_decay" not in values  # a number: the term is absent
    rates = [float(np.float32(schedule(t))) for t in range(6)]
    ends = definition("adam", begin, grads, lambda t: values | {"lr": rates[t]})[0]
    assert_same(params, ends)


# Masks.


@pytest.mark.parametrize(
    "mask",
    [
        {"a": {"w": np.True_, "b": jnp.asarray(False)}, "c": False},
        lambda params: jax.tree.map(lambda x: x.ndim == 2, params),
    ],
    ids=["tree", "function"],
)
def test_mask(mask: Any) -> None:
    shapes = [(4, 5), (3,), ()]
    begin, grads = start(shapes), draw(shapes, 5)

    def nest(leaves: list[Any]) -> Any:
        w, b, c = map(jnp.asarray, leaves)
        return {"a": {"w": w, "b": b}, "c": c}

    def flat(params: Any) -> list[Any]:
        return [params["a"]["w"], params["a"]["b"], params["c"]]

    params, _ = run(adamw(0.1, mask=mask), nest(begin), list(map(nest, grads)))
    decayed = definition("adamw", begin, grads, {"lr": 0.1})[0]
    others = definition("adamw", begin, grads, {"lr": 0.1, "weight_decay": 0.0})[0]
    assert_same(flat(params), [decayed[0], *others[1:]])


def test_a_mask_may_be_a_prefix_of_the_tree() -> None:
    params = {"a": {"w": jnp.ones(2), "b": jnp.ones(2)}, "c": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = adamw(1.0, weight_decay=0.5, mask={"a": True, "c": False})
    updates, _ = tx.update(zeros, tx.init(params), params)
    wanted = {"a": {"w": [-0.5] * 2, "b": [-0.5] * 2}, "c": [0.0] * 2}
    assert jax.tree.map(lambda x: x.tolist(), updates) == wanted
    for everything in (True, False):
        tx = adamw(1.0, weight_decay=0.5, mask=everything)
        updates, _ = tx.update(zeros, tx.init(params), params)
        assert updates["c"].tolist() == [-0.5 * everything] * 2


# optax's wrappers, where tests/test_every_property has them in float32 only, or not.


def test_masked() -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 4)
    mask = {f"p{i:02}": i > 0 for i in range(len(SHAPES))}
    tx = optax.chain(
        optax.masked(adamw(0.1), mask),
        optax.masked(optax.set_to_zero(), {k: not v for k, v in mask.items()}),
    )
    params, _ = run(tx, tree(begin), list(map(tree, grads)))
    ends = definition("adamw", begin, grads, {"lr": 0.1})[0]
    assert_same(params, begin[:1] + ends[1:])


def test_apply_if_finite() -> None:
    dtype = ml_dtypes.bfloat16
    begin, grads = start([(5,)], dtype=dtype), draw([(5,)], 6, dtype=dtype)
    grads[2] = [np.full(5, np.inf, dtype)]
    params, _ = run(optax.apply_if_finite(adam(0.1), 3), tree(begin), list(map(tree, grads)))
    kept = grads[:2] + grads[3:]
    assert_same(params, definition("adam", begin, kept, {"lr": 0.1})[0])


def test_multi_steps() -> None:
    dtype = ml_dtypes.bfloat16
    begin, grads = start([(5,)], dtype=dtype), draw([(5,)], 6, dtype=dtype)
    # Equal gradients, so that the mean of two is exact.
    doubled = [g for g in grads for _ in range(2)]
    tx = optax.MultiSteps(adamw(0.1), every_k_schedule=2)
    params, _ = run(tx, tree(begin), list(map(tree, doubled)))
    assert_same(params, definition("adamw", begin, grads, {"lr": 0.1})[0])


def test_train_state() -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 5)
    state = TrainState.create(apply_fn=lambda x: x, params=tree(begin), tx=adamw(0.1))
    step = jax.jit(lambda s, g: s.apply_gradients(grads=g))
    for g in grads:
        state = step(state, tree(g))
    assert_same(state.params, definition("adamw", begin, grads, {"lr": 0.1})[0])


def test_nnx_optimizer() -> None:
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, adamw(0.1), wrt=nnx.Param)
    begin = [np.asarray(model.bias[...]), np.asarray(model.kernel[...])]
    grads = draw([(2,), (3, 2)], 5)

    @nnx.jit
    def step(model: Any, optimizer: Any, bias: Any, kernel: Any) -> None:
        own = nnx.state(model, nnx.Param)
        own["bias"], own["kernel"] = nnx.Param(bias), nnx.Param(kernel)
        optimizer.update(model, own)

    for bias, kernel in grads:
        step(model, optimizer, bias, kernel)
    found = [np.asarray(model.bias[...]), np.asarray(model.kernel[...])]
    assert_same(found, definition("adamw", begin, grads, {"lr": 0.1})[0])


# JAX's transformations.


def test_donation_and_one_compilation() -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 5)
    tx = amsgrad(0.1)

    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(update, donate_argnums=(0, 1))
    for init in (tx.init, jax.jit(tx.init)):
        params = tree(begin)
        state = init(params)
        for g in grads:
            old = state
            params, state = step(params, state, tree(g))
            assert jax.tree.leaves(old.inner.m)[-1].is_deleted()
        assert_same(params, definition("amsgrad", begin, grads, {"lr": 0.1})[0])
    assert step._cache_size() == 1


@pytest.mark.parametrize("wrap", ["no", "inject", "finite", "multi"])
def test_no_recompilation_on_the_second_call(wrap: str) -> None:
    tx = {
        "no": lambda: adamw(0.1),
        "inject": lambda: optax.inject_hyperparams(adamw)(0.1),
        "finite": lambda: optax.apply_if_finite(adamw(0.1), 2),
        "multi": lambda: optax.MultiSteps(adamw(0.1), 2),
    }[wrap]()
    # A weakly typed scalar is what jnp.asarray makes of a number.
    params = {"a": jnp.asarray(0.5), "b": jnp.ones(3)}
    grads = jax.tree.map(jnp.ones_like, params)
    update = jax.jit(tx.update)
    state = tx.init(params)
    if wrap == "no":
        assert not any(x.weak_type for x in jax.tree.leaves(state))
        for _ in range(3):
            _, state = update(grads, state, params)
        assert update._cache_size() == 1
    strong = jax.tree.map(lambda x: jnp.array(x, jnp.float32), params)
    step = step_of(tx)
    state = tx.init(strong)
    for _ in range(3):
        strong, state = step(strong, state, strong)
    assert step._cache_size() == 1


# Trees and arguments.


class Weights(NamedTuple):
    w: Any
    b: Any


def test_trees_of_any_kind() -> None:
    (w, b), ((gw, gb),) = start([(3,), (2,)]), draw([(3,), (2,)], 1)
    ends = definition("adam", [w, b], [[gw, gb]], {"lr": 0.1})[0]
    makers: list[Any] = [
        lambda x, y: Weights(x, y),
        lambda x, y: {"x": [x, (y,)], "none": None},
        lambda x, y: (x, None, {"empty": {}, "y": y}),
    ]
    for make in makers:
        params, state = run(adam(0.1), make(w, b), [make(gw, gb)])
        assert jax.tree.structure(state.inner.m) == jax.tree.structure(make(w, b))
        assert_same(params, ends)


def test_one_array_is_a_tree() -> None:
    (w,), ((g,),) = start([(3,)]), draw([(3,)], 1)
    params, state = run(adam(0.1), jnp.asarray(w), [jnp.asarray(g)])
    assert_same(params, definition("adam", [w], [[g]], {"lr": 0.1})[0])
    assert state.inner.m.shape == (3,)


@pytest.mark.parametrize("empty", [{}, (), {"a": None}])
def test_empty_trees(empty: Any) -> None:
    for tx in (adamw(0.1), adamw(0.1, mask=True), sgd(0.1, momentum=0.9)):
        params, state = run(tx, empty, [empty])
        assert params == empty
        assert state.count == 1


def test_parameters_are_not_needed_where_they_are_not_read() -> None:
    begin, grads = start([(3,)]), draw([(3,)], 2)
    for tx in (adam(0.1), sgd(0.1, momentum=0.9), amsgrad(0.1), adamw(0.1, weight_decay=0.0)):
        with_params = without = tx.init(tree(begin))
        for g in grads:
            a, with_params = tx.update(tree(g), with_params, tree(begin))
            b, without = tx.update(tree(g), without)
        assert_same_trees((a, with_params), (b, without))


# Saving and loading.


def test_states_saved_by_flax_continue_on_the_same_bits() -> None:
    begin, grads = tree(start(SHAPES)), list(map(tree, draw(SHAPES, 8)))
    tx = adamw(0.1)
    middle = run(tx, begin, grads[:4])
    saved = flax.serialization.to_bytes(middle)
    loaded = flax.serialization.from_bytes((begin, tx.init(begin)), saved)
    a, b = run(tx, middle[0], grads[4:], middle[1]), run(tx, loaded[0], grads[4:], loaded[1])
    assert_same_trees(a, b)


# Update functions of the user.


@pytest.mark.parametrize("algorithm", [HEAVY_BALL, DELAYED], ids=lambda a: a.name)
def test_a_users_algorithm(algorithm: Algorithm) -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 8)
    tx = from_core(algorithm)(learning_rate=0.05)
    params, state = run(tx, tree(begin), list(map(tree, grads)))
    ends, states = definition(algorithm, begin, grads, {"lr": 0.05})
    assert_same(params, ends)
    assert_state(state.inner, params, states)
    jax.jit(tx.update, donate_argnums=1)(tree(grads[0]), tx.init(tree(begin)))


# What users of optax rely on.


@pytest.mark.parametrize("name", slow_unless_quick(sorted(ALGORITHMS)))
@pytest.mark.parametrize("dtypes", [(np.float32,), (np.float64,), (np.float32, np.float64)])
def test_tree_map_params_finds_the_fields_that_are_like_the_parameters(
    name: str, dtypes: Any
) -> None:
    """It asks for the state of a tree without leaves, as for the shardings of a state."""
    with jax.enable_x64(np.float64 in dtypes):
        params = tree([x for dtype in dtypes for x in start([(2, 3), (4,)], dtype=dtype)])
        makers = {
            "alone": from_core(name),
            "chain": lambda: optax.chain(optax.clip(1.0), from_core(name)()),
            "inject": optax.inject_hyperparams(from_core(name)),
        }
        for make in makers.values():
            tx = make()
            state = tx.init(params)
            assert_same_trees(optax.tree_map_params(tx, lambda x: x, state), state)
            places = {k: f"sharding of {k}" for k in params}
            marked = optax.tree_map_params(
                tx,
                lambda x, place: None if x is None else place,
                state,
                places,
                transform_non_params=lambda _: "all",
                is_leaf=lambda x: x is None,  # a field that a leaf does not need
            )
            # One for each leaf, or for two vectors of scalars of which either may be missing.
            jax.tree.map(lambda _mark, _leaf: None, marked, state)
            if np.float64 not in dtypes:
                assert jax.tree.structure(marked) == jax.tree.structure(state)
            marks = jax.tree.leaves(marked)
            if not ALGORITHMS[name].leafwise:
                assert marks.count("sharding of p00") == marks.count("sharding of p01")
            assert set(marks) <= {"all", *places.values()}
            assert "all" in marks


@pytest.mark.parametrize("mask", [{"p00": True, "p01": False}, lambda p: dict.fromkeys(p, True)])
def test_tree_map_params_with_a_mask(mask: Any) -> None:
    params = tree(start([(2, 3), (4,)]))
    for tx in (adamw(0.1, mask=mask), optax.masked(adam(0.1), {"p00": True, "p01": False})):
        state = tx.init(params)
        assert_same_trees(optax.tree_map_params(tx, lambda x: x, state), state)


def test_tree_map_params_gives_the_shardings_of_a_jitted_init() -> None:
    mesh = jax.make_mesh((1,), ("x",))
    of = lambda *names: jax.NamedSharding(mesh, jax.P(*names))  # noqa: E731
    params = tree(start([(2, 3), (4,)]))
    for x64 in (False, True):
        with jax.enable_x64(x64):
            tx = adamw(0.1)
            shardings = optax.tree_map_params(
                tx,
                lambda _, own: own,
                jax.eval_shape(tx.init, params),
                {"p00": of("x"), "p01": of()},
                transform_non_params=lambda _: of(),
            )
            state = jax.jit(tx.init, out_shardings=shardings)(params)
            assert state.inner.m["p00"].sharding == of("x")
            assert state.inner.t.int32.sharding == of()


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"polyak_sgd"}))  # no rate in optax
def test_a_value_in_optaxs_order_never_lands_in_another_argument(name: str) -> None:
    function = getattr(optax, name, None) or getattr(optax.contrib, name, None)
    theirs = inspect.signature(function).parameters if function else []
    ours = inspect.signature(from_core(name)).parameters.values()
    positional = [p.name for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
    here = {"beta": "b1"} if name == "signum" else {}
    for own, other in zip(positional, theirs, strict=False):
        assert own == here.get(other, other)


@pytest.mark.parametrize("name", ["adam", "schedule_free_sgd", "lars"])
def test_shapes_instead_of_parameters_give_the_shapes_of_the_state(name: str) -> None:
    """As a checkpoint is restored into them, before there are parameters."""
    params = tree(start([(2, 3), (4,)]))
    tx = from_core(name)(0.1)
    shapes = tx.init(jax.eval_shape(lambda: params))
    assert shapes == jax.eval_shape(tx.init, params)
    assert jax.tree.structure(shapes) == jax.tree.structure(tx.init(params))


@pytest.mark.parametrize("name", ["sgd", "dog", slow("adam"), slow("muon")])
def test_injected_hyperparameters_leave_out_what_is_absent(name: str) -> None:
    """A default of 0 leaves a term out, which an array of 0 would not."""
    params = tree(start([(2, 3), (4,)]))
    injected = optax.inject_hyperparams(from_core(name))(0.01)
    begin = injected.init(params)
    # They are arrays of float32: the same numbers have the same bits.
    values = {k: float(v) for k, v in begin.hyperparams.items()}
    alone = from_core(name)(**values)
    updates, state = alone.update(params, alone.init(params), params)
    found, inner = injected.update(params, begin, params)
    assert jax.tree.structure(inner.inner_state) == jax.tree.structure(state)
    assert_same_trees(found, updates)


def test_the_averages_of_a_schedule_free_training() -> None:
    params = tree(start([(2, 3), (4,)]))
    tx = optax.chain(optax.identity(), from_core("schedule_free_adamw")(0.5, b1=0.8))
    state = tx.init(params)
    for grads in map(tree, draw([(2, 3), (4,)], 3)):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    found = optstudy_jax.eval_params(state, params, b1=0.8)
    own = optax.contrib.ScheduleFreeState(0.8, None, None, None, None, state[1].inner.average.z)
    wanted = optax.contrib.schedule_free_eval_params(own, params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found, wanted)


def test_leaves_of_integers_are_refused_and_can_be_left_out() -> None:
    params = {"w": jnp.ones(3), "n": jnp.arange(3)}
    with pytest.raises(TypeError, match=r"dtype int32: .* optax\.masked leaves other leaves out"):
        adam(0.1).init(params)
    tx = optax.masked(adam(0.1), {"w": True, "n": False})
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["n"] is params["n"]


def test_nothing_keeps_an_array_that_is_traced() -> None:
    """Also of products of matrices, which have a derivative of their own that JAX keeps."""
    tx, params = from_core("muon")(0.1), [jnp.ones((3, 2))]
    with jax.checking_leaks():
        jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), params)
