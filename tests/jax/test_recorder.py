"""The recorder of JAX: inside ``jit`` and ``scan``, beside a loop, and against torch's."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from harness import same, slow, to_torch

import optstudy_jax
import optstudy_torch
from optstudy_core import geometry
from optstudy_core import instruments as core
from optstudy_jax import Recorder
from optstudy_jax.recorder import RecordState, measure, record

pytestmark = pytest.mark.usefixtures("compiled_quickly")

MOVES = ("step_size", "update_ratio", "angle", "cosine", "distance", "param_norm")
SHAPES = {"fc": {"kernel": (4, 3), "bias": (3,)}, "scale": (), "none": (0, 2)}
IN_JIT = ("loss", "grad_norm", "nonfinite_grads", *MOVES)


def tree(seed: int, dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s).astype(dtype)),
        SHAPES,
        is_leaf=lambda s: isinstance(s, tuple),
    )


def identical(one: Any, other: Any) -> bool:
    a, b = jax.tree.leaves(one), jax.tree.leaves(other)
    return jax.tree.structure(one) == jax.tree.structure(other) and all(map(same, a, b))


def metrics(state: Any) -> dict[str, Any]:
    found: dict[str, Any] = optax.tree_utils.tree_get(state, "metrics")
    return found


def expected(names: Any, **trees: Any) -> dict[str, float]:
    lists = {u: [np.asarray(x) for x in jax.tree.leaves(t)] for u, t in trees.items()}
    return core.measure(names, exact=False, **lists)


# The transformation.


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(optstudy_jax.adam, id="ours"),
        slow(optax.adam, id="optax.adam"),
        pytest.param(optax.sgd, id="optax.sgd"),
    ],
)
def test_updates_pass_through_bit_for_bit(make: Any) -> None:
    """In jit and scan, with the caller's own addition, which XLA compiles together with it."""
    ends = []
    for names in ((), IN_JIT):
        tx = optax.chain(make(0.1), record(names, per_layer=True)) if names else make(0.1)
        tx = optax.with_extra_args_support(tx)

        def run(params: Any, tx: Any = tx) -> Any:
            def step(carry: Any, seed: Any) -> Any:
                params, state = carry
                grads = jax.tree.map(lambda p: jnp.sin(3 * p + seed), params)
                value = seed.astype(jnp.float32)
                updates, state = tx.update(grads, state, params, value=value, grad=grads)
                return (optax.apply_updates(params, updates), state), updates

            (params, _), updates = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(20))
            return params, updates

        ends.append(jax.jit(run)(tree(0)))
    assert identical(*ends)


@pytest.mark.parametrize("jit", [True, slow(False)])
def test_metrics_are_what_numpy_finds(jit: bool) -> None:
    tx = optax.chain(optax.adam(0.1), record(IN_JIT, per_layer=True))
    start = params = tree(0)
    state = tx.init(params)
    assert all(math.isnan(x) for x in metrics(state).values())
    update = jax.jit(tx.update) if jit else tx.update
    previous = None
    for t in range(3):
        grads = tree(t + 1)
        updates, state = update(grads, state, params, value=float(t), grad=grads)
        params = optax.apply_updates(params, updates)
        found = metrics(state)
        assert {x.dtype for x in found.values()} == {jnp.dtype("float32")}
        displacement = jax.tree.map(jnp.subtract, params, start)
        trees = {"grad": grads, "params": params, "step": updates, "displacement": displacement}
        if previous is not None:
            trees["previous"] = previous
        names = [n for n in IN_JIT if n != "loss" and core.vectors([n]) <= trees.keys()]
        for name, value in expected(names, **trees).items():
            assert float(found[name]) == pytest.approx(value, rel=2e-7), name  # float32
        layer = optax.tree_utils.tree_get(state, "layers")["fc/kernel"]
        size = geometry.norm(np.asarray(updates["fc"]["kernel"]))
        assert float(layer["step_size"]) == pytest.approx(size, rel=2e-7)  # float32
        assert "loss" not in layer
        assert float(found["loss"]) == t
        assert math.isnan(found["angle"]) == (t == 0)
        previous = updates


def test_state_is_stable_and_small() -> None:
    tx = record(["step_size"])
    params = tree(0)
    state = tx.init(params)
    assert state.previous is None
    assert state.origin is None
    _, after = tx.update(params, state, params)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    assert [x.dtype for x in jax.tree.leaves(state)] == [x.dtype for x in jax.tree.leaves(after)]
    assert isinstance(after, RecordState)
    traces = 0

    def update(*args: Any) -> Any:
        nonlocal traces
        traces += 1
        return tx.update(*args)

    jitted = jax.jit(update)
    for _ in range(3):
        _, state = jitted(params, state, params)
    assert traces == 1


def test_measure_in_jit() -> None:
    u, v = tree(1), tree(2)
    names = ("angle", "cosine", "below_noise", "m_min", "v_max", "m_mean")
    found, layers = jax.jit(
        lambda u, v: measure(names, per_layer=True, step=u, previous=v, m=u, v=v)
    )(u, v)
    for name, value in expected(names, step=u, previous=v, m=u, v=v).items():
        assert float(found[name]) == pytest.approx(value, rel=2e-7), name  # float32
    assert set(layers) == {"fc/bias", "fc/kernel", "none", "scale"}
    assert math.isnan(layers["none"]["m_min"])


def test_refused_in_a_chain() -> None:
    with pytest.raises(ValueError, match="did you mean 'angle'"):
        record(["angel"])
    with pytest.raises(ValueError, match="quantities with 'lr': allowed in Recorder"):
        record(["lr"])
    params = tree(0)
    tx = record(["grad_norm"])
    with pytest.raises(TypeError, match="grad is missing: grad_norm cannot be measured"):
        tx.update(params, tx.init(params), params)
    tx = record(["loss"])
    with pytest.raises(TypeError, match="value is missing"):
        tx.update(params, tx.init(params), params)
    tx = record(["update_ratio"])
    with pytest.raises(TypeError, match="params is missing"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="step of structure"):
        measure(["angle"], step={"a": jnp.ones(1)}, previous={"b": jnp.ones(1)})


# Beside a loop.


def test_the_rate_of_an_optimizer_of_nnx_is_found() -> None:
    net = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    tx = optax.inject_hyperparams(optax.adam)(learning_rate=0.25)
    optimizer = nnx.Optimizer(net, tx, wrt=nnx.Param)
    recorder = Recorder(nnx.state(net, nnx.Param), epoch=["lr"], step=["lr", "moments"])
    grads = nnx.grad(lambda net: jnp.sum(net(jnp.ones((1, 2)))))(net)
    optimizer.update(net, grads)
    recorder.step(nnx.state(net, nnx.Param), grads=grads, state=optimizer.opt_state)
    recorder.flush()
    assert recorder.steps[0]["lr"] == 0.25


@functools.cache
def trained_step(donate: bool) -> Any:
    """Return the transformation and the step that all trainings share, compiled once."""
    tx = optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(0.1, 0.05, 6))

    def advance(params: Any, state: Any, t: Any) -> Any:
        loss, grads = jax.value_and_grad(
            lambda p: sum(jnp.sum((x - t) ** 2) for x in jax.tree.leaves(p))
        )(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, grads, updates, loss

    return tx, jax.jit(advance, donate_argnums=(0, 1) if donate else ())


def train(
    recorder: Recorder | None, *, epochs: int = 2, steps: int = 3, donate: bool = False
) -> Any:
    tx, jitted = trained_step(donate)
    params = tree(0)
    state = tx.init(params)
    for k in range(epochs):
        for t in range(steps):
            params, state, grads, _, loss = jitted(params, state, float(k * steps + t))
            if recorder is not None:
                recorder.step(params, grads=grads, value=loss, state=state)
        if recorder is not None:
            recorder.end_epoch(params, grads=grads, state=state)
    return params, state


def test_the_run_has_the_same_bits() -> None:
    assert identical(train(None), train(Recorder(tree(0), epoch=["all"], step=["all"])))


@pytest.mark.parametrize("every", [1, slow(2), 3])
def test_donated_parameters(every: int) -> None:
    rows = []
    for donate in (False, True):
        recorder = Recorder(tree(0), epoch=["all"], step=["all"], every=every)
        train(recorder, donate=donate, steps=4)
        rows.append((recorder.epochs, recorder.steps))
    assert [row["step"] for row in rows[0][1]] == list(range(every, 9, every))
    assert same_rows(*rows)


def same_rows(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_rows(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_rows, one, other))
    return bool(one == other or (one != one and other != other))


def test_every_is_a_choice_of_the_same_rows() -> None:
    full, some = Recorder(tree(0), step=["all"]), Recorder(tree(0), step=["all"], every=3)
    train(full, steps=4)
    train(some, steps=4)
    # Sums of one program and of another: the same products in another order.
    for a, b in zip([full.steps[2], full.steps[5]], some.steps, strict=True):
        assert a["step"] == b["step"]
        for name in core.INSTRUMENTS["all"]:
            assert a[name] == pytest.approx(b[name], rel=1e-9), name


def test_rows() -> None:
    recorder = Recorder(tree(0), epoch=["all"], step=["all"])
    train(recorder)
    assert list(recorder.steps[0]) == ["epoch", "step", *core.INSTRUMENTS["all"], "layers"]
    assert list(recorder.epochs[0]) == ["epoch", *core.INSTRUMENTS["all"], "layers"]
    assert set(recorder.steps[0]["layers"]) == {"fc/bias", "fc/kernel", "none", "scale"}
    assert math.isnan(recorder.steps[0]["angle"])
    assert 0 < recorder.steps[1]["angle"] < 180
    assert [round(row["lr"], 6) for row in recorder.steps][:3] == [0.1, 0.091667, 0.083333]
    losses = [row["loss"] for row in recorder.steps[:3]]
    assert recorder.epochs[0]["loss"] == sum(losses) / 3
    assert recorder.steps[1]["m_min"] < recorder.steps[1]["m_mean"] < recorder.steps[1]["m_max"]


def test_updates_spare_a_copy() -> None:
    params = tree(0)
    recorder = Recorder(params, epoch=(), step=["step_size", "angle"])
    for t in range(3):
        updates = tree(t + 1)
        params = optax.apply_updates(params, updates)
        recorder.step(params, updates=updates)
        assert recorder._before is None
    recorder.flush()
    assert recorder.steps[2]["step_size"] == pytest.approx(geometry_norm(updates), rel=1e-12)
    with pytest.raises(TypeError, match="updates is missing"):
        recorder.step(params)


def geometry_norm(tree: Any) -> float:
    return geometry.norm([np.asarray(x) for x in jax.tree.leaves(tree)])


def test_a_step_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(tree(0), epoch=["step_size"], step=["all"])
    train(recorder, epochs=1)  # what is read on the host while compiling

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("an array was read on the host")

    params, state = train(None)
    kind = type(jnp.ones(()))
    with monkeypatch.context() as patch:
        for method in ("__array__", "__float__", "__bool__", "item", "tolist", "block_until_ready"):
            patch.setattr(kind, method, refuse)
        patch.setattr(kind, "_value", property(refuse))
        with pytest.raises(AssertionError):
            float(params["scale"])
        for _ in range(2):
            recorder.step(params, grads=params, value=params["scale"], state=state)
    recorder.flush()
    assert len(recorder.steps) == 5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_epochs_have_the_bits_of_torch(dtype: str) -> None:
    points = [tree(k, jnp.dtype(dtype)) for k in range(4)]
    names = ("loss", "lr", *MOVES)
    recorder = Recorder(points[0], epoch=names)
    layers = recorder._layers
    params = [torch.nn.Parameter(to_torch(np.asarray(x))) for x in jax.tree.leaves(points[0])]
    optimizer = torch.optim.SGD(list(zip(layers, params, strict=True)), lr=0.5)
    twin = optstudy_torch.Recorder(optimizer, epoch=names)
    for k, point in enumerate(points[1:]):
        with torch.no_grad():
            for p, x in zip(params, jax.tree.leaves(point), strict=True):
                p.copy_(to_torch(np.asarray(x)))
        theirs = twin.end_epoch(float(k))
        ours = recorder.end_epoch(point, float(k), lr=0.5)
        assert list(ours) == list(theirs)
        assert same_rows(ours, theirs)
    assert math.isfinite(ours["angle"])


def test_steps_are_close_to_those_of_torch() -> None:
    start = tree(0)
    names = ("loss", "lr", "grad_norm", "moments", *MOVES)
    recorder = Recorder(start, epoch=(), step=names)
    params = [torch.nn.Parameter(to_torch(np.asarray(x))) for x in jax.tree.leaves(start)]
    optimizer = optstudy_torch.Adam(list(zip(recorder._layers, params, strict=True)), lr=1e-2)
    twin = optstudy_torch.Recorder(optimizer, epoch=(), step=names)
    tx = optstudy_jax.adam(1e-2)
    state, now = tx.init(start), start
    update = jax.jit(tx.update)
    for t in range(3):
        grads = tree(10 + t)
        for p, g in zip(params, jax.tree.leaves(grads), strict=True):
            p.grad = to_torch(np.asarray(g))
        optimizer.step()
        twin.step(float(t))
        updates, state = update(grads, state, now)
        now = optax.apply_updates(now, updates)
        recorder.step(now, grads=grads, value=float(t), state=state, lr=1e-2)
    recorder.flush()
    twin.flush()
    for ours, theirs in zip(recorder.steps, twin.steps, strict=True):
        assert list(ours) == list(theirs)
        for name in core.QUANTITIES.keys() & ours.keys():
            # The same products, in another order; the angle by the root of a rounding.
            assert ours[name] == pytest.approx(theirs[name], rel=1e-9, nan_ok=True), name
        assert ours["layers"].keys() == theirs["layers"].keys()


@pytest.mark.parametrize("exact", [True, False])
def test_a_resumed_run_goes_on_with_the_same_rows(exact: bool) -> None:
    points = [tree(k) for k in range(8)]

    def part(recorder: Recorder, begin: int, end: int) -> None:
        for t in range(begin, end):
            recorder.step(points[t + 1], grads=points[t], value=1 / (t + 3), lr=0.1)
            if t % 3 == 2:
                recorder.end_epoch(points[t + 1])

    names = ("loss", "lr", *MOVES)
    options: dict[str, Any] = {"epoch": names, "step": (*names, "grad_norm"), "exact": exact}
    whole = Recorder(points[0], **options)
    part(whole, 0, 4)
    saved = whole.state_dict()
    kinds = {type(x) for x in jax.tree.leaves(saved)}
    assert kinds <= {np.ndarray, int, float, str, bool}
    part(whole, 4, 7)
    resumed = Recorder(points[3], **options)
    resumed.load_state_dict(saved)
    part(resumed, 4, 7)
    whole.flush()
    resumed.flush()
    assert len(whole.epochs) == 2
    assert same_rows(resumed.epochs, whole.epochs)
    assert same_rows(resumed.steps, whole.steps)


def test_flax_nnx() -> None:
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    recorder = Recorder(nnx.state(model, nnx.Param), epoch=["step_size"], step=["all"])
    x = jnp.ones((4, 3))

    @nnx.jit
    def step(model: Any, optimizer: Any) -> Any:
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(x) - 1) ** 2))(model)
        optimizer.update(model, grads)
        return loss, grads

    for _ in range(2):
        loss, grads = step(model, optimizer)
        recorder.step(
            nnx.state(model, nnx.Param), grads=grads, value=loss, state=optimizer.opt_state, lr=1e-2
        )
    row = recorder.end_epoch(nnx.state(model, nnx.Param))
    assert list(row["layers"]) == ["bias", "kernel"]
    assert row["step_size"] > 0
    assert math.isfinite(recorder.steps[1]["angle"])
    assert math.isfinite(recorder.steps[1]["v_mean"])


def test_flax_linen() -> None:
    linen = pytest.importorskip("flax.linen")
    train_state = pytest.importorskip("flax.training.train_state")
    model = linen.Dense(2)
    x = jnp.ones((4, 3))
    state = train_state.TrainState.create(
        apply_fn=model.apply, params=model.init(jax.random.key(0), x), tx=optax.sgd(0.1)
    )
    recorder = Recorder(state.params, epoch=["loss", "step_size"], step=["update_ratio"])
    grads = jax.grad(lambda p: jnp.mean(model.apply(p, x) ** 2))(state.params)
    state = state.apply_gradients(grads=grads)
    recorder.step(state.params)
    row = recorder.end_epoch(state.params, 1.0)
    assert list(row["layers"]) == ["params/bias", "params/kernel"]
    assert recorder.steps[0]["update_ratio"] > 0


class FakeRun:
    def __init__(self) -> None:
        self.rows: dict[str, list[Any]] = {"epochs": [], "steps": []}

    def epoch(self, number: int, row: Any) -> None:
        self.rows["epochs"].append((number, row))

    def steps(self, rows: Any) -> None:
        self.rows["steps"] += list(rows)

    def attach(self, recorder: Any) -> None:
        self.recorder = recorder

    def detach(self, recorder: Any) -> None:
        assert self.recorder is recorder
        self.recorder = None


def test_rows_go_to_a_run() -> None:
    run = FakeRun()
    with Recorder(tree(0), step=["step_size"], run=run) as recorder:
        train(recorder)
    assert [number for number, _ in run.rows["epochs"]] == [1, 2]
    assert [number for number, _ in run.rows["steps"]] == [1, 2, 3, 4, 5, 6]
    assert recorder.epochs == recorder.steps == []


def test_a_folder_is_made_and_resumed(tmp_path: Path) -> None:
    records = pytest.importorskip("optstudy_core.records")
    for _ in range(2):
        with Recorder(tree(0), step=["loss"], run=tmp_path / "a") as recorder:
            train(recorder)
    run = records.Run.read(tmp_path / "a")
    assert [row["epoch"] for row in run.epochs] == [1, 2]
    assert len(run.step_rows) == 6
    run.close()


def test_refused() -> None:
    params = tree(0)
    with pytest.raises(ValueError, match="step = 'stepsize': did you mean 'step_size'"):
        Recorder(params, step=["stepsize"])
    with pytest.raises(ValueError, match="every = 0"):
        Recorder(params, every=0)
    with pytest.raises(TypeError, match="per_layer = 'yes'"):
        Recorder(params, per_layer="yes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="w of dtype int32: allowed are real floating dtypes"):
        Recorder({"w": jnp.arange(3)})
    recorder = Recorder(params, epoch=["grad_norm"], step=["moments"])
    with pytest.raises(TypeError, match="state is missing: m_mean"):
        recorder.step(params)
    with pytest.raises(ValueError, match="state with 0 fields 'm' or 'mu'"):
        recorder.step(params, state=optax.sgd(0.1).init(params))
    with pytest.raises(TypeError, match="grads is missing: grad_norm"):
        recorder.end_epoch(params)
    with pytest.raises(ValueError, match="params of structure"):
        recorder.step({"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"loss of shape \(2,\)"):
        recorder.end_epoch(params, jnp.ones(2), grads=params)
    with pytest.raises(ValueError, match="state_dict with config"):
        recorder.load_state_dict(Recorder(params).state_dict())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_sinks_are_given_each_row() -> None:
    rows: list[Any] = []
    params = tree(0)
    recorder = Recorder(params, epoch=["loss"], step=["loss"], every=2, sinks=[rows.append])
    for value in (1.0, 2.0, 3.0):
        recorder.step(params, value=value)
    recorder.end_epoch(params)
    assert rows == [*recorder.steps, *recorder.epochs]
    assert [(row["epoch"], row.get("step"), row["loss"]) for row in rows] == [
        (1, 2, 2.0), (1, None, 2.0)
    ]  # fmt: skip
