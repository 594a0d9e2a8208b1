"""What processes do that test JAX on a mesh of devices; the argument lists functions to call."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import communication
import in_optax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from adapters import LR, RULES, reference
from harness import inputs_for, same, start
from home import assert_same_trees
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optstudy_jax
from optstudy_core import ALGORITHMS, accumulated, averaged, clipped, clipped_by_unit, skipping
from optstudy_core.records import Run
from optstudy_core.schedules import Cosine, PerEpoch
from optstudy_jax import Recorder, checkpoint

SHAPES = {"w": (8, 4), "u": (4, 2, 6), "b": (4,), "s": ()}
SPECS = {"w": ("a", "b"), "u": ("a",), "b": ("b",), "s": ()}
COMPILED: list[str] = []


def count_compilations() -> None:
    """Let :data:`COMPILED` have an entry for each program that is compiled."""

    def listen(event: str, _seconds: float, **_more: Any) -> None:
        if "backend_compile" in event:
            COMPILED.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)


def places_on(mesh: Any, shapes: Any = SHAPES) -> dict[str, Any]:
    """Return where each parameter lies."""
    return {name: NamedSharding(mesh, PartitionSpec(*SPECS[name])) for name in shapes}


def transformation(name: str) -> Any:
    """Return the optimizer of a rule."""
    rate = {"learning_rate": LR} if "lr" in RULES[name].defaults() else {}
    return optstudy_jax.from_core(RULES[name])(dialect=RULES[name].default_dialect, **rate)


def trained_on_a_mesh(*names: str) -> None:
    """Train on both kinds of axes: bits, places of the state, one compilation."""
    count_compilations()
    for name in names:
        begin = dict(zip(SHAPES, start(list(SHAPES.values())), strict=True))
        grads = {k: np.cos(x + 1).astype(np.float32) for k, x in begin.items()}
        steps = 3
        ends, _ = reference(
            name, RULES[name].default_dialect, [*begin.values()], [[*grads.values()]] * steps
        )
        for kind in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))
            _train(name, begin, grads, places_on(mesh), dict(zip(SHAPES, ends, strict=True)), steps)


def _train(name: str, begin: Any, grads: Any, places: Any, ends: Any, steps: int) -> None:
    tx = transformation(name)

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        more = inputs_for(RULES[name], params)
        updates, state = tx.update(grads, state, params, **more)
        return optax.apply_updates(params, updates), state

    params, grads = (jax.device_put(x, places) for x in (begin, grads))
    for state in (jax.jit(tx.init)(params), tx.init(params)):
        for path, x in jax.tree.leaves_with_path(state):
            where = name, jax.tree_util.keystr(path), x.sharding
            like = next((k for k in SHAPES if str(path[-1]) == f"['{k}']"), "s")
            place = places[like if x.shape == SHAPES[like] else "s"]
            assert x.sharding.is_equivalent_to(place, x.ndim), where
    for k in range(steps):
        if k == 1:
            COMPILED.clear()
        params, state = step(params, state, grads)
    assert not COMPILED, name
    for k, x in params.items():
        assert same(np.asarray(x), ends[k]), (name, k)
        assert x.sharding.is_equivalent_to(places[k], x.ndim), (name, k)


def wrappers_in_one_another_under_a_schedule() -> None:
    """Also where a norm in between decides, and rows are units."""
    rule = averaged(skipping(accumulated(clipped(clipped_by_unit(ALGORITHMS["adamw"])))))
    given: dict[str, Any] = {"accumulation_steps": 2, "jump_warmup": 2, "jump_threshold": 0.5}
    rate = PerEpoch(Cosine(0.1, 0.01, 4), 2)
    tx = optstudy_jax.from_core(rule)(rate, max_norm=0.5, **given)
    step = jax.jit(tx.update)
    begin = dict(zip(SHAPES, start(list(SHAPES.values())), strict=True))
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    ends = []
    for places in (None, places_on(mesh)):
        params = jax.device_put(begin, places)
        state = tx.init(params)
        for t in range(9):
            grads = {k: np.cos(x + t).astype(np.float32) for k, x in begin.items()}
            updates, state = step(jax.device_put(grads, places), state, params)
            params = optax.apply_updates(params, updates)
        ends.append(jax.tree.leaves((params, state)))
        assert jax.tree.leaves(state.inner.inner.jumps)[0].max() > 0
    for x, y in zip(*ends, strict=True):
        assert same(np.asarray(x), np.asarray(y))


def parts_are_joined_in_corners() -> None:
    """Values that are not finite, exported programs, batches, and axes that do not divide."""
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    place = NamedSharding(mesh, PartitionSpec("a", "b"))
    host = start([SHAPES["w"]])[0]
    tx = optstudy_jax.sm3(LR)

    def found(x: Any) -> Any:  # a sum, and maxima
        return optstudy_jax.geometry.norm(x), tx.update(x, tx.init(x), x)

    for bad in (np.nan, np.inf, -np.inf):
        x = np.where(np.arange(32).reshape(8, 4) == 29, np.float32(bad), host)
        many, alone = jax.jit(found)(jax.device_put(x, place)), found(jnp.asarray(x))
        assert_same_trees(many, alone)
    cut, alone = jax.device_put(host, place), found(jnp.asarray(host))
    explicit = NamedSharding(jax.make_mesh((4, 2), ("a", "b")), PartitionSpec("a", "b"))
    assert_same_trees(jax.jit(found)(jax.device_put(host, explicit)), alone)
    assert_same_trees(jax.export.export(jax.jit(found))(cut).call(cut), alone)
    batch = jax.device_put(
        np.stack([host, 2 * host]), NamedSharding(mesh, PartitionSpec(None, "a"))
    )
    assert_same_trees(jax.jit(jax.vmap(found))(batch), jax.vmap(found)(np.asarray(batch)))

    def in_uneven_parts(x: Any) -> Any:
        rows = NamedSharding(mesh, PartitionSpec("a"))
        return found(jax.lax.with_sharding_constraint(x[:5], rows))

    assert_same_trees(jax.jit(in_uneven_parts)(cut), found(jnp.asarray(host[:5])))


def communicates_no_more_than_optax(*names: str) -> None:
    communication.no_more_than_optax(*names)


def checkpoints_onto_other_meshes(folder: str) -> None:
    """Ours and Orbax', saved on one mesh and loaded onto another; the next step is a step."""
    import orbax.checkpoint as ocp

    tx = optax.chain(optax.adam(0.1), optstudy_jax.adam(0.1))  # optax's count lies on one device
    begin = dict(zip(SHAPES, start(list(SHAPES.values())), strict=True))
    meshes = [
        jax.make_mesh(n, ("a", "b"), axis_types=(AxisType.Auto,) * 2) for n in ((4, 2), (2, 2))
    ]
    first, second = (jax.device_put(begin, places_on(mesh)) for mesh in meshes)
    step = jax.jit(tx.update)
    _, state = step(first, tx.init(first), first)
    wanted, _ = step(first, state, first)
    like = tx.init(second)
    with Run.create(Path(folder, "run"), {}, tensorboard=False) as run:
        checkpoint.save(run, 1, params=first, state=state)
        found = checkpoint.load(run, params=second, state=like)
    assert found is not None
    with ocp.StandardCheckpointer() as keeper:
        keeper.save(Path(folder, "orbax"), state)
        keeper.wait_until_finished()
        again = keeper.restore(Path(folder, "orbax"), step(second, like, second)[1])
    for own in (found.trees["state"], again):
        steps, _ = step(second, own, second)
        assert all(same(np.asarray(steps[k]), np.asarray(wanted[k])) for k in begin)
        assert own[1].inner.m["w"].sharding == second["w"].sharding


def models_of_nnx_say_where_they_lie(*names: str) -> None:
    """Only fields with a parameter's shape lie as it does; rows and columns do not."""
    from flax import nnx

    normal = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("a", "b"))
    for kind, name in itertools.product((AxisType.Auto, AxisType.Explicit), names):
        mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))
        with jax.set_mesh(mesh):
            model = nnx.Linear(8, 4, kernel_init=normal, rngs=nnx.Rngs(0))
            optimizer = nnx.Optimizer(model, transformation(name), wrt=nnx.Param)
            grads = nnx.state(model, nnx.Param)
            nnx.jit(nnx.Optimizer.update)(optimizer, model, jax.tree.map(jnp.copy, grads))
        specs = jax.tree.leaves(nnx.get_partition_spec(nnx.state(optimizer)))
        state = jax.tree.leaves(nnx.as_pure(nnx.state(optimizer)))
        for x, spec in zip(state, specs, strict=True):
            assert (spec == PartitionSpec("a", "b")) == (x.shape == (8, 4)), (name, x.shape, spec)


def states_lie_as_optaxs_tests_ask() -> None:
    with pytest.MonkeyPatch.context() as patch:
        in_optax.sharding(patch)


def one_of_two_processes(index: str, port: str, folder: str) -> None:
    """Record, save and load parameters of which each process holds a part."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, int(index))
    mesh = jax.make_mesh((jax.device_count(),), ("a",), axis_types=(AxisType.Auto,))
    place = NamedSharding(mesh, PartitionSpec("a"))
    host = np.arange(32, dtype=np.float32).reshape(8, 4) + 1

    def put(x: Any) -> Any:
        return {"w": jax.make_array_from_callback(x.shape, place, lambda index: x[index])}

    params, tx = put(host), optstudy_jax.muon(0.1)
    state = tx.init(params)
    with Recorder(params, step=["step_size"], run=Path(folder, "recorder")) as recorder:
        recorder.step(put(2 * host), value=1.0)
        row = recorder.end_epoch(put(2 * host))
    assert row["step_size"] == float(optstudy_jax.geometry.norm(params))
    run = Run.create(Path(folder, "run"), {}, tensorboard=False) if index == "0" else None
    checkpoint.save(run, 1, params=params, state=state)
    jax.experimental.multihost_utils.sync_global_devices("saved")
    with run or Run.read(Path(folder, "run")) as read:
        found = checkpoint.load(read, params=put(0 * host), state=state)
    assert found is not None
    assert float(optstudy_jax.geometry.norm(found.trees["params"])) == row["step_size"]
    jax.jit(tx.update)(params, found.trees["state"], found.trees["params"])
    jax.experimental.multihost_utils.sync_global_devices("done")
    assert Run.read(Path(folder, "recorder")).column("step_size").tolist() == [row["step_size"]]
    if index == "1":
        return
    with pytest.raises(TypeError, match="None only if another process writes"):
        checkpoint.save(None, 2, params={})


if __name__ == "__main__":
    for _function, *_arguments in json.loads(sys.argv[1]):
        globals()[_function](*_arguments)
