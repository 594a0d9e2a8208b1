"""The optax transformations have the bits of the definition, whatever is compiled around them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from harness import (
    definition,
    draw,
    on_eight_devices,
    same,
    slow,
    start,
)
from optax_runs import (
    SHAPES,
    assert_same,
    assert_same_trees,
    assert_state,
    core_names,
    run,
    tree,
)

from optstudy_core.arrays.doubles import Doubles
from optstudy_jax import adam, adamw, from_core, sgd
from optstudy_jax._backend import BACKEND
from optstudy_jax._rounding import OUTSIDE, Node, _in_a_loop, _unrolled, of_counts

DTYPES = [np.float32, np.float64, ml_dtypes.bfloat16, np.float16]
CASES = [
    slow("sgd", {}),
    slow("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    slow("sgd", {"momentum": 0.9, "dampening": 0.3, "maximize": True}),
    slow("sgd", {"dialect": "paper", "momentum": 0.9}),
    slow("adam", {}),
    slow("adam", {"dialect": "optax", "eps_root": 1e-12}),
    slow("adamw", {}),
    slow("adamw", {"dialect": "paper", "weight_decay": 1e-3}),
    ("amsgrad", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    slow("amsgrad", {"dialect": "optax"}),
]
"""The quick one has roots, quotients and products; tests/test_every_property has the others."""


def _name(value: Any) -> str:
    return "-".join(map(str, value.values())) if isinstance(value, dict) else str(value)


settings_of = pytest.mark.parametrize(("name", "given"), CASES, ids=_name)


@settings_of
@pytest.mark.parametrize(
    "dtypes", [slow([np.float32], id="float32"), pytest.param(DTYPES, id="all dtypes")]
)
def test_parameters_and_state_have_the_definitions_bits(name: str, given: Any, dtypes: Any) -> None:
    shapes = SHAPES if len(dtypes) == 1 else [(), (4, 5)]
    begin = [x for d in dtypes for x in start(shapes, dtype=d)]
    columns = [draw(shapes, 12, dtype=d, seed=i) for i, d in enumerate(dtypes)]
    grads = [[g for column in columns for g in column[t]] for t in range(12)]
    dialect = given.get("dialect")
    ends, states = definition(name, begin, grads, {"lr": 0.01} | core_names(given), dialect=dialect)
    with jax.enable_x64(len(dtypes) > 1):
        params, state = run(from_core(name)(0.01, **given), tree(begin), list(map(tree, grads)))
        assert_same(list(params.values()), ends)
        assert_state(state.inner, params, states)
        assert state.count == 12


def test_float16_of_every_size() -> None:
    """Steps and gradients in float16's subnormal range, which reduce_precision takes for zero."""
    values = np.arange(1, 0x7C00, 7, dtype=np.uint16).view(np.float16)
    begin = [np.zeros(values.shape, np.float16)]
    params, _ = run(sgd(0.5), tree(begin), [tree([values])])
    assert same(params["p00"], np.float16(-0.5) * values)
    assert np.count_nonzero(params["p00"]) >= values.size - 1


@settings_of
def test_without_jit(name: str, given: Any) -> None:
    begin, grads = start(SHAPES), draw(SHAPES, 5)
    tx = from_core(name)(0.01, **given)
    params = tree(begin)
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update(tree(g), state, params)
        params = optax.apply_updates(params, updates)
    dialect = given.get("dialect")
    wanted = {"lr": 0.01} | core_names(given)
    assert_same(params, definition(name, begin, grads, wanted, dialect=dialect)[0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_updates_of_small_dtypes(dtype: Any) -> None:
    shapes = [(4, 5)]
    begin, grads = start(shapes, dtype=dtype), draw(shapes, 20, dtype=dtype)
    params = tree(begin)
    for step_dtype, wanted in [(None, dtype), ("float32", jnp.float32)]:
        tx = adamw(0.003, step_dtype=step_dtype)
        state = tx.init(params)
        updates, state = jax.eval_shape(tx.update, tree(grads[0]), state, params)
        assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(wanted)}
        kinds = {x.dtype for x in jax.tree.leaves(state.inner)}
        assert kinds == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
        ends = definition("adamw", begin, grads, {"lr": 0.003}, step_dtype=step_dtype)[0]
        assert_same(run(tx, params, list(map(tree, grads)))[0], ends)


def test_float32_gradients_of_small_parameters() -> None:
    begin, grads = start([(6,)], dtype=jnp.bfloat16), draw([(6,)], 5)
    params, _ = run(adam(0.01), tree(begin), list(map(tree, grads)))
    assert_same(params, definition("adam", begin, grads, {"lr": 0.01})[0])


def test_huge_and_tiny_gradients() -> None:
    # No intermediate is subnormal: XLA's CPU code flushes those. 1e-18 squared is 1e-36.
    values = np.array([1e-15, -1e-15, 3e38, -3e38, 1e19, 1e-7], np.float32)
    begin = [np.ones(6, np.float32)]
    grads = [[values], [values[::-1]]] * 3
    params, _ = run(adam(0.1), tree(begin), list(map(tree, grads)))
    assert_same(params, definition("adam", begin, grads, {"lr": 0.1})[0])


@pytest.mark.parametrize(
    "number", [np.float64, slow(np.float32), slow(int)], ids=lambda x: str(x.__name__)
)
def test_numbers_of_numpy_are_numbers(number: Any) -> None:
    begin, grads = start([(5,)]), draw([(5,)], 4)
    tx = adamw(number(1), weight_decay=number(0))
    # Without decay the parameters are not needed: a number of NumPy is no array.
    jax.eval_shape(tx.update, tree(grads[0]), tx.init(tree(begin)))
    wanted = {"lr": 1.0, "weight_decay": 0.0}
    assert_same(
        run(tx, tree(begin), list(map(tree, grads)))[0],
        definition("adamw", begin, grads, wanted)[0],
    )


def test_chain_with_clipping() -> None:
    """What made the gradients within the same jit does not reach into the formula."""
    begin, grads = start(SHAPES), draw(SHAPES, 8)
    clip = optax.clip_by_global_norm(1.0)
    params, _ = run(optax.chain(clip, adamw(0.1)), tree(begin), list(map(tree, grads)))
    again = jax.jit(lambda g: clip.update(g, clip.init(g))[0])
    wanted = [[np.asarray(x) for x in again(tree(g)).values()] for g in grads]
    assert_same(params, definition("adamw", begin, wanted, {"lr": 0.1})[0])


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def test_scan_equals_the_loop(dtype: Any) -> None:
    begin, grads = start(SHAPES, dtype=dtype), draw(SHAPES, 50, dtype=dtype)
    tx = adamw(optax.constant_schedule(0.01))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(tree, grads))

    def body(carry: Any, g: Any) -> Any:
        updates, state = tx.update(g, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    params = tree(begin)
    scanned = jax.jit(lambda c: jax.lax.scan(body, c, stacked)[0])((params, tx.init(params)))
    looped = run(tx, params, list(map(tree, grads)))
    assert_same_trees(scanned, looped)
    rate = 0.01  # what such a schedule returns
    assert_same(scanned[0], definition("adamw", begin, grads, {"lr": rate})[0])


def test_a_quotient_of_rates_that_are_arrays_is_rounded_once() -> None:
    """Of several leaves XLA may take it for a product with the reciprocal."""
    shapes = [(4, 3), (3,)]
    begin, grads = start(shapes), draw(shapes, 5)
    lr = np.asarray(np.float32(7.3))

    @jax.jit
    def all_of_it(lr: Any, params: Any, grads: Any) -> Any:
        tx = from_core("fromage")(lr)
        state = tx.init(params)
        for g in grads:
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
        return params

    params = all_of_it(lr, tree(begin), list(map(tree, grads)))
    assert_same(params, definition("fromage", begin, grads, {"lr": float(lr)})[0])


def test_what_is_made_of_a_count_of_steps_is_rounded_before_it_is_added() -> None:
    """It can be no NaN: a compiler that knows sees through the isolation of a product."""

    @jax.jit
    def scaled(t: Any) -> Any:
        with jax.enable_x64(True):
            number = Doubles(Node(of_counts(t), OUTSIDE), BACKEND)
            return (0.047 / (1 + number * 0.29)).value.value

    for t in (0, 1, 5, 10, 23, 100):  # 5 and others would differ
        found = np.asarray(scaled(jnp.full(4, t, jnp.int32)))
        assert found.tolist() == [0.047 / (1 + t * 0.29)] * 4


def test_many_steps_within_one_jit() -> None:
    begin, grads = start([(5,)]), draw([(5,)], 4)
    tx = adamw(0.1)

    @jax.jit
    def all_of_it(params: Any, grads: Any) -> Any:
        state = tx.init(params)
        for g in grads:
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
        return params

    params = all_of_it(tree(begin), list(map(tree, grads)))
    assert_same(params, definition("adamw", begin, grads, {"lr": 0.1})[0])


def test_what_the_caller_does_to_the_state_within_the_jit_keeps_its_roundings() -> None:
    (begin,), grads = start([(500,)]), draw([(500,)], 2)
    tx = adam(0.1)

    def update(m: Any, params: Any, state: Any, g: Any) -> Any:
        state = state._replace(inner=state.inner._replace(m=m))
        return tx.update(g, state, params)

    _, state = run(tx, {"p00": begin}, [tree(grads[0])])
    shrink = lambda m: jax.tree.map(lambda x: 0.7 * x, m)  # noqa: E731
    together = jax.jit(lambda p, s, g: update(shrink(s.inner.m), p, s, g))
    apart = jax.jit(lambda p, s, g, m: update(m, p, s, g))
    params, g = {"p00": jnp.asarray(begin)}, tree(grads[1])
    smaller = jax.jit(shrink)(state.inner.m)
    assert_same_trees(together(params, state, g), apart(params, state, g, smaller))


def test_vmap() -> None:
    begin, grads = start([(3, 4)]), draw([(3, 4)], 5)
    tx = adamw(0.1)
    params = jnp.asarray(begin[0])
    state = jax.vmap(tx.init)(params)
    assert state.inner.t.int32.shape == (3, 1)

    def one(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(jax.vmap(one))
    for (g,) in grads:
        params, state = step(params, state, jnp.asarray(g))
    assert_same(params, definition("adamw", begin, grads, {"lr": 0.1})[0])


SHARDED = """
import sys
sys.path.insert(0, "tests/support")
import jax, numpy as np, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from harness import definition, draw, same, start
from optstudy_jax import adamw

assert len(jax.devices()) == 8
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
shapes, specs = [(8, 6), (16,), ()], [("a", "b"), ("b",), ()]
begin, grads = start(shapes), draw(shapes, 6)
put = lambda leaves: [
    jax.device_put(x, NamedSharding(mesh, PartitionSpec(*s))) for x, s in zip(leaves, specs)
]
tx = adamw(0.1)

@jax.jit
def step(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

params = put(begin)
state = tx.init(params)
for g in grads:
    params, state = step(params, state, put(g))
for p, e in zip(params, definition("adamw", begin, grads, {"lr": 0.1})[0]):
    assert same(p, e)
assert params[0].sharding.spec == PartitionSpec("a", "b")
assert state.inner.m[0].sharding.is_equivalent_to(params[0].sharding, 2)
"""


def test_sharded_over_eight_devices() -> None:
    on_eight_devices(SHARDED)


@pytest.mark.parametrize("b", [0.0, 0.37, 0.9, 0.999])
def test_powers_for_a_gpu_have_the_bits_of_those_for_a_cpu(b: float) -> None:
    with jax.enable_x64(True):
        counts = jnp.array([0, 1, 2, 3, 7, 1000, 123_456_789], jnp.int32)
        part = jnp.full(counts.shape, 1 - b)
        start = part, jnp.zeros_like(part), counts
        looped, unrolled = (np.asarray(jax.jit(f)(start)) for f in (_in_a_loop, _unrolled))
        assert looped.tobytes() == unrolled.tobytes()


@pytest.mark.parametrize(("platform", "loops"), [("cpu", True), ("cuda", False), ("tpu", True)])
def test_only_a_gpu_computes_powers_without_a_loop(platform: str, loops: bool) -> None:
    """A GPU launches some kernels for each of the 31 turns."""
    tx = adam(1e-3)
    params = jnp.ones(3)
    traced = jax.jit(tx.update).trace(params, tx.init(params))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.while" in text) == loops
