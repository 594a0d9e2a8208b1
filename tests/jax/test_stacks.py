"""Small leaves that are alike, computed as one: the bits of each alone, and code for one."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from harness import definition, draw, fields, inputs_for, on_eight_devices, same, slow, start
from jax.extend.core import jaxprs_in_params

from optstudy_core import ALGORITHMS, Algorithm
from optstudy_core.arrays.leafwise import leafwise
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.matrix import when
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_core.arrays.reductions import global_norm, leaf_norm
from optstudy_jax import _stacks, by_leaf, from_core
from optstudy_jax._rounding import apart
from optstudy_jax.states import side_by_side

STEPS, LATE = 3, 1
"""How many steps there are, and with which some leaves begin."""
FLOAT32, BFLOAT16 = np.float32, ml_dtypes.bfloat16
LAYOUT: list[tuple[Any, tuple[int, ...]]] = [
    *[(FLOAT32, (3, 2))] * 5,
    *[(BFLOAT16, (3, 2))] * 4,
    (FLOAT32, ()),
]
SCALARS: list[tuple[Any, tuple[int, ...]]] = [*[(FLOAT32, ())] * 4, *[(FLOAT32, (4,))] * 6]
CASES = [
    ("nadam", {"weight_decay": 0.1}),
    slow("adam", {}),
    slow("adamw", {"dialect": "optax"}),
    slow("asgd", {"t0": 0.0}),
    slow("adafactor", {}),
    slow("adafactor", {"dialect": "optax", "momentum": 0.9}),
    slow("sm3", {}),
    slow("lamb", {}),
    slow("muon", {}),
    slow("sophia", {}),
]


def drawn(layout: Any, steps: int) -> tuple[list[Any], list[list[Any]]]:
    """Parameters, and gradients of each step, every leaf with a dtype of its own."""
    dtypes, shapes = zip(*layout, strict=True)
    as_wanted = lambda leaves: [x.astype(d) for x, d in zip(leaves, dtypes, strict=True)]  # noqa: E731
    return as_wanted(start(shapes)), [as_wanted(g) for g in draw(shapes, steps)]


def advance(tx: Any, params: Any, state: Any, g: Any, **more: Any) -> Any:
    updates, state = tx.update(g, state, params, **more)
    return optax.apply_updates(params, updates), state


def begun_again(tx: Any, state: Any, begin: list[Any], late: set[int]) -> Any:
    """Return the state with the first state of some leaves."""

    def mixed(old: list[Any], new: list[Any]) -> list[Any]:
        return [y if i in late else x for i, (x, y) in enumerate(zip(old, new, strict=True))]

    parts = [by_leaf(x.inner, begin) for x in (state, tx.init(begin))]
    inner = jax.tree.map(mixed, *parts, is_leaf=lambda x: isinstance(x, list))
    return state._replace(inner=side_by_side(inner, state.inner))


@pytest.mark.parametrize("compiler", [jax.jit, slow(lambda f: f, id="eager")], ids=["jit", "eager"])
@pytest.mark.parametrize("layout", [LAYOUT, slow(SCALARS)], ids=["dtypes", "scalars"])
@pytest.mark.parametrize(("name", "given"), CASES)
def test_every_leaf_has_the_bits_that_it_has_alone(
    name: str, given: Any, layout: Any, compiler: Any
) -> None:
    """Of several shapes and dtypes, an odd number of leaves, some of which begin late."""
    begin, grads = drawn(layout, STEPS)
    late = {1, 3, 6, 9}
    tx = from_core(name)(0.05, **given)
    more = inputs_for(ALGORITHMS[name], begin)
    step = compiler(lambda p, s, g: advance(tx, p, s, g, **more))
    params, state = begin, tx.init(begin)
    for t, g in enumerate(grads):
        if t == LATE:
            params = [begin[i] if i in late else p for i, p in enumerate(params)]
            state = begun_again(tx, state, begin, late)
        params, state = step(params, state, g)
    waiting = [[None if i in late else x for i, x in enumerate(g)] for g in grads[:LATE]]
    values = {"lr": 0.05} | {k: v for k, v in given.items() if k != "dialect"}
    ends, states = definition(
        name, begin, waiting + grads[LATE:], values, dialect=given.get("dialect")
    )
    assert all(map(same, params, ends))
    for key, field in fields(by_leaf(state.inner, params)).items():
        for x, own in zip(field, states, strict=True):
            assert x is None or same(x, fields(own)[key]), key


def test_a_mask_parts_the_leaves_of_a_stack() -> None:
    begin, grads = drawn([(FLOAT32, (3, 2))] * 8, 3)
    mask = [i % 2 == 0 for i in range(8)]
    tx = from_core("nadam")(0.05, weight_decay=0.1, mask=mask)
    step = jax.jit(lambda p, s, g: advance(tx, p, s, g))
    params, state = begin, tx.init(begin)
    for g in grads:
        params, state = step(params, state, g)
    for i in range(8):
        values = {"lr": 0.05, "weight_decay": 0.1 if mask[i] else 0.0}
        (end,), _ = definition("nadam", begin[i : i + 1], [g[i : i + 1] for g in grads], values)
        assert same(params[i], end)


@pytest.mark.parametrize(
    "wrap", [slow("vmap"), slow("scan"), "inject_hyperparams", slow("float64")]
)
def test_around_a_stack(wrap: str) -> None:
    """What transformations of JAX and optax do to the update, they do to one with stacks."""
    dtype = np.float64 if wrap == "float64" else np.float32
    begin, drawn_grads = drawn([(dtype, (3, 2))] * 4 + [(dtype, (2,))], 3)
    grads: list[Any] = drawn_grads
    with jax.enable_x64(wrap == "float64"):
        make = from_core("adamw")
        tx = (optax.inject_hyperparams(make) if wrap == "inject_hyperparams" else make)(0.0625)
        params = list(map(jnp.asarray, begin))
        state = tx.init(params)
        if wrap == "scan":
            columns = [jnp.stack(x) for x in zip(*grads, strict=True)]
            body = lambda c, g: (advance(tx, *c, g), None)  # noqa: E731
            params = jax.jit(lambda *c: jax.lax.scan(body, c, columns)[0][0])(params, state)
        else:
            step = lambda p, s, g: advance(tx, p, s, g)  # noqa: E731
            if wrap == "vmap":
                one = lambda x: jax.tree.map(lambda y: jnp.asarray(y)[None], x)  # noqa: E731
                params, state, grads = one(params), one(state), one(grads)
                step = jax.vmap(step)
            step = jax.jit(step)
            for g in grads:
                params, state = step(params, state, g)
            assert step._cache_size() == 1
            params = [x[0] for x in params] if wrap == "vmap" else params
        values = {"lr": 0.0625, "weight_decay": 0.01}
        if wrap == "inject_hyperparams":
            float32 = ("b1", "b2", "eps", "weight_decay")
            defaults = ALGORITHMS["adamw"].defaults("torch") | values
            values |= {k: float(np.float32(defaults[k])) for k in float32}
        assert all(map(same, params, definition("adamw", begin, drawn_grads, values)[0]))


class One(NamedTuple):
    m: Any


def scaled(state: One, grad: Any, params: Any = None, *, lr: Any = 0.1) -> tuple[One, Any]:
    return One(state.m + grad), -(lr / global_norm(grad)) * grad


def test_a_sum_of_all_leaves_is_one_of_all_leaves() -> None:
    rule = Algorithm("scaled", lambda params: One(0 * params), scaled)
    begin, (g,) = drawn([(FLOAT32, (3, 2))] * 4, 1)
    tx = from_core(rule)(0.5)
    trees = (Leaves(x, NumPy()) for x in (begin, g))
    _, step = rule.update(rule.init(next(trees)), next(trees), lr=0.5)
    assert all(map(same, tx.update(g, tx.init(begin), begin)[0], step.values))


# Code.


def operations(of: Any) -> Counter[str]:
    """Count the operations of a jaxpr and of those in it."""
    found: Counter[str] = Counter()
    for equation in of.eqns:
        found[equation.primitive.name] += 1
        for inner in jaxprs_in_params(equation.params):
            found += operations(inner)
    return found


def arithmetic(name: str, count: int, shape: tuple[int, ...] = (3, 2)) -> dict[str, int]:
    begin, (g,) = drawn([(np.float32, shape)] * count, 1)
    tx = from_core(name)(0.05)
    found = operations(jax.make_jaxpr(tx.update)(g, tx.init(begin), begin).jaxpr)
    return {k: found[k] for k in ("mul", "div", "sqrt", "eq", "convert_element_type", "reduce")}


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_many_leaves_are_traced_as_one(name: str) -> None:
    assert arithmetic(name, 8) == arithmetic(name, 40)
    assert arithmetic(name, 3)["mul"] > arithmetic(name, 4)["mul"]  # each alone


def test_large_leaves_are_not_copied_to_a_stack() -> None:
    assert arithmetic("sgd", 8, (64, 65))["mul"] == 2 * arithmetic("sgd", 4, (64, 65))["mul"]


def compiled(function: Any, *args: Any) -> str:
    return str(jax.jit(function).lower(*args).compile().as_text())


def test_what_is_computed_for_a_stack_is_not_computed_anew_for_each_leaf() -> None:
    def products(count: int) -> int:
        begin, (g,) = drawn([(FLOAT32, (3, 2))] * count, 1)
        tx = from_core("adam")(0.05)
        return compiled(tx.update, g, tx.init(begin), begin).count(" multiply(")

    assert products(6) == products(12)


def test_a_step_that_is_not_jitted_compiles_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would compile it again at every step."""
    monkeypatch.setattr(jax.lax, "scan", None)
    begin, (g,) = drawn([(FLOAT32, (3, 2))] * 4, 1)
    tx = from_core("sgd")(0.5)
    tx.update(g, tx.init(begin), begin)


def test_loops_that_take_a_stack_apart_are_the_same_and_compiled_once() -> None:
    text = compiled(apart, jnp.zeros((12, 3, 2)))
    loops = re.findall(r"^%fused\S* .*?^}", text, re.DOTALL | re.MULTILINE)
    plain = {re.sub(r"metadata=\{.*?\}|(?<=[a-z])[._]\d+(\.\d+)?", "", loop) for loop in loops}
    assert len(loops) >= 12
    assert len(plain) == 1


def test_a_stack_is_made_of_rows() -> None:
    text = compiled(_stacks._stack, [jnp.zeros((3, 2))] * 64)
    widths = [line.count("%") - 1 for line in text.splitlines() if " concatenate(" in line]
    assert 2 <= max(widths) <= 9


@leafwise
def started(params: Any) -> One:
    return One(0 * params)


@leafwise
def seldom(state: One, grad: Any, params: Any = None, *, lr: Any = 0.1) -> tuple[One, Any]:
    (m,) = when(leaf_norm(grad) > 1, lambda x: (x + x,), (grad,), (state.m,))
    return One(m), -lr * m


def test_what_asks_of_a_leaf_whether_something_holds_sees_one_leaf() -> None:
    """Of several, both ways would be computed."""
    tx = from_core(Algorithm("seldom", started, seldom))(0.1)
    begin, (g,) = drawn([(FLOAT32, (3, 2))] * 4, 1)
    assert operations(jax.make_jaxpr(tx.update)(g, tx.init(begin), begin).jaxpr)["cond"] == 4


SHARDED = """
import sys
sys.path.insert(0, "tests/support")
import jax, optax
from jax.extend.core import jaxprs_in_params
from harness import definition, draw, same, start
from optstudy_jax import adamw, sgd

shapes = [(8, 4)] * 4 + [(8, 4)] * 5 + [(16,)] * 4
specs = [("a", "b")] * 4 + [(None, "b")] * 5 + [("b",)] * 4
begin, grads = start(shapes), draw(shapes, 2)
ends = definition("adamw", begin, grads, {"lr": 0.1})[0]
tx = adamw(0.1)

@jax.jit
def step(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

for kind in (jax.sharding.AxisType.Explicit, jax.sharding.AxisType.Auto):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        places = [jax.NamedSharding(mesh, jax.P(*s)) for s in specs]
        put = lambda leaves: list(map(jax.device_put, leaves, places))
        params = put(begin)
        state = tx.init(params)
        for g in grads:
            params, state = step(params, state, put(g))
        assert all(map(same, params, ends)), kind
        for x, m, place in zip(params, state.inner.m, places):
            assert x.sharding.is_equivalent_to(place, x.ndim), (kind, x.sharding, place)
            assert m.sharding.is_equivalent_to(place, x.ndim), (kind, m.sharding, place)
        text = step.lower(params, state, put(grads[0])).compile().as_text()
        for word in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
            assert word not in text, (kind, word)
    step.clear_cache()

moved, _ = sgd(0.1).update(params[:8], sgd(0.1).init(params[:8]))  # not jitted
for x, place in zip(moved, places):
    assert x.sharding.is_equivalent_to(place, x.ndim), (x.sharding, place)
"""


def test_sharded_over_eight_devices() -> None:
    """Without communication, under both kinds of meshes."""
    on_eight_devices(SHARDED)
