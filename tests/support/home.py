"""What holds of every rule in JAX: its tools and its switches (see ``test_every_property.py``)."""

from __future__ import annotations

import contextlib
import pickle
import tempfile
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from adapters import RULES
from flax import nnx
from harness import draw, inputs_for, same, start
from quickly import compiling_quickly

SWITCHES = {
    "jax_debug_infs": True,
    "jax_debug_nans": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
}
"""Switches of JAX that find mistakes, all on at once."""

SHAPES = {"w": (3, 2), "k": (2, 3, 4), "s": ()}


@contextlib.contextmanager
def switched(**values: Any) -> Any:
    """Set switches of JAX for a while."""
    before = {name: getattr(jax.config, name) for name in values}
    try:
        for name, value in values.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _arrays(seed: int, dtype: Any = np.float32) -> dict[str, Any]:
    if not seed:
        values = start(list(SHAPES.values()), dtype=dtype)
    else:
        (values,) = draw(list(SHAPES.values()), 1, seed=seed, dtype=dtype)
        values = [np.where(x == 0, x.dtype.type(0.5), x) for x in values]
    return dict(zip(SHAPES, map(jnp.asarray, values), strict=True))


def switches_of_jax_find_nothing(make: Any, name: str, dialect: str | None) -> None:
    """Eager and compiled; a guard of transfers allows no operation that is not compiled.

    With the search for leaks JAX traces every operation anew, so that is a trace of its own.
    """
    tx, rule = make(name, dialect, []).tx, RULES[name]
    params, grads = map(_arrays, (0, 1))
    more = inputs_for(rule, params)
    with switched(jax_check_tracer_leaks=True):
        jax.eval_shape(lambda p, g: tx.update(g, tx.init(p), p, **more), params, grads)
    with compiling_quickly(), switched(**SWITCHES):
        steps, state = tx.update(grads, tx.init(params), params, **more)
        with jax.enable_x64(True), jax.transfer_guard("disallow"):
            again = jax.jit(tx.update)(grads, jax.jit(tx.init)(params), params, **more)
    assert_same_trees(again, (steps, state))


def every_tool_takes_its_state(make: Any, name: str, dialect: str | None) -> None:
    """Pickle, msgpack and Flax's state dictionaries, ``nnx``, shapes, and exported programs."""
    with compiling_quickly():
        _every_tool_takes_its_state(make, name, dialect)


def _every_tool_takes_its_state(make: Any, name: str, dialect: str | None) -> None:
    tx, rule = make(name, dialect, []).tx, RULES[name]
    params, grads = _arrays(0), _arrays(1)
    more = inputs_for(rule, params)
    step = jax.jit(tx.update)
    begun = tx.init(params)
    _, state = step(grads, begun, params, **more)
    wanted = step(grads, state, params, **more)

    shapes = jax.eval_shape(tx.init, params)
    assert_same_kinds(shapes, state)
    assert not any(0 in x.shape for x in jax.tree.leaves(state))

    if "(" not in name:  # the class of a wrapped rule is made while the program runs
        assert_goes_on(step, (grads, pickle.loads(pickle.dumps(state)), params), more, wanted)
    saved = flax.serialization.to_bytes(state)
    assert_goes_on(step, (grads, flax.serialization.from_bytes(begun, saved), params), more, wanted)
    as_dictionary = flax.serialization.to_state_dict(state)
    again = flax.serialization.from_state_dict(begun, as_dictionary)
    assert_goes_on(step, (grads, again, params), more, wanted)

    with tempfile.TemporaryDirectory() as folder:
        for kind in (ocp.StandardCheckpointHandler, ocp.PyTreeCheckpointHandler):
            with ocp.AsyncCheckpointer(kind()) as keeper:
                keeper.save(Path(folder, kind.__name__), state)
                keeper.wait_until_finished()
                how = {}
                if kind is ocp.PyTreeCheckpointHandler:
                    how["restore_args"] = ocp.checkpoint_utils.construct_restore_args(begun)
                again = keeper.restore(Path(folder, kind.__name__), item=begun, **how)
            assert_goes_on(step, (grads, again, params), more, wanted)

    program = jax.export.export(step)(grads, state, params, **more)
    assert_same_trees(_called(program, grads, state, params, more), wanted)

    model = _model(params)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    in_nnx = {k: _variables(x) if isinstance(x, dict) else x for k, x in more.items()}
    optimizer.update(model, _variables(grads), **in_nnx)
    assert_same_trees(nnx.as_pure(optimizer.opt_state), state)


def _called(program: Any, *args: Any) -> Any:
    *args, more = args
    return program.call(*args, **more)


def _variables(tree: Any) -> Any:
    return nnx.State({name: nnx.Param(x) for name, x in tree.items()})


def _model(params: Any) -> Any:
    class Model(nnx.Module):
        def __init__(self) -> None:
            for name, x in params.items():
                setattr(self, name, nnx.Param(x))

    return Model()


def assert_same_kinds(shapes: Any, state: Any) -> None:
    """Hold shapes and dtypes of trees against each other."""
    kinds = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (shapes, state))
    assert next(kinds) == next(kinds)


def assert_goes_on(step: Any, args: Any, more: Any, wanted: Any) -> None:
    """Hold what a step makes of a state against what it made of the one that was saved."""
    assert_same_trees(step(*args, **more), wanted)


def assert_same_trees(found: Any, wanted: Any) -> None:
    """Hold trees of arrays against each other, bit for bit."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    assert all(same(np.asarray(x), np.asarray(y)) for x, y in pairs)


HOME = (switches_of_jax_find_nothing, every_tool_takes_its_state)
