"""Schedules of the core in both adapters: the same rates, and trainings with the same bits."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.optim import lr_scheduler

import optstudy_jax
import optstudy_torch
from optstudy_core.schedules import Cosine, Linear, one_cycle_momentum, warmup_stable_decay
from optstudy_jax.schedules import at
from optstudy_torch.lr_scheduler import CarefulLR, ScheduleLR
from parity.curves import COUNTS, CURVES

RATE = warmup_stable_decay(0.1, warmup=3, stable=2, decay=7, decay_shape=Cosine)
MOMENTUM = one_cycle_momentum(0.8, 0.95, 12)
DECAY = Linear(0.1, 0.3, 9)
STEPS = 14


def gradients() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return np.float32(rng.normal(size=5)), np.float32(rng.normal(size=(STEPS, 5)))


@pytest.fixture(scope="module")
def compiled() -> dict[str, tuple[list[float], Any]]:
    """In double for all counts at once, and for one count in float32: two programs for all."""

    def each(function: Any) -> Any:
        return jax.jit(lambda t: {name: function(curve, t) for name, curve in CURVES.items()})

    with jax.enable_x64(True):
        of_each = each(lambda curve, all_: jax.lax.map(lambda t: 1.0 * at(curve, t), all_))
        wide = of_each(np.int32(COUNTS))
    single = each(lambda curve, t: optstudy_jax.schedule(curve)(t))(jnp.int32(7))
    return {name: (wide[name].tolist(), single[name]) for name in CURVES}


@pytest.mark.parametrize("name", CURVES)
def test_jax_computes_the_same_value(name: str, compiled: Any) -> None:
    """Compiled, and operation by operation."""
    curve, (found, single) = CURVES[name], compiled[name]
    wanted = [curve(count) for count in COUNTS]
    assert found == wanted
    with jax.enable_x64(True):
        assert [float(at(curve, jnp.int32(count))) for count in COUNTS[5:60:11]] == wanted[5:60:11]
    assert single.dtype == jnp.float32
    assert single == np.float32(curve(7))


def in_torch(optimizer: Any, p: Any, grads: Any) -> np.ndarray:
    for g in grads:
        p.grad = torch.tensor(g)
        optimizer.step()
    return p.detach().numpy().copy()


def in_jax(tx: Any, begin: Any, grads: Any) -> np.ndarray:
    params = jnp.asarray(begin)
    state, update = tx.init(params), jax.jit(tx.update)
    for g in grads:
        updates, state = update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params)


def reference() -> np.ndarray:
    """Train with numbers: what the schedules say, given by hand."""
    begin, grads = gradients()
    p = torch.nn.Parameter(torch.tensor(begin))
    optimizer = optstudy_torch.AdamW([p])
    for t, g in enumerate(grads):
        values = {"lr": RATE(t), "betas": (MOMENTUM(t), 0.99), "weight_decay": DECAY(t)}
        optimizer.param_groups[0].update(values)
        in_torch(optimizer, p, [g])
    return p.detach().numpy()


def ours(p: Any, **more: Any) -> Any:
    given = {"lr": RATE, "betas": (MOMENTUM, 0.99), "weight_decay": DECAY}
    return optstudy_torch.AdamW([p], **given | more)


def test_hyperparameters_follow_schedules_with_the_same_bits() -> None:
    begin, grads = gradients()
    p = torch.nn.Parameter(torch.tensor(begin))
    optimizer = ours(p)
    assert optimizer.param_groups[0]["lr"] == RATE(0)
    wanted = reference()
    assert np.array_equal(in_torch(optimizer, p, grads), wanted)
    assert optimizer.param_groups[0]["scheduled_steps"] == STEPS
    given = {"b1": MOMENTUM, "b2": 0.99, "weight_decay": DECAY}
    assert np.array_equal(in_jax(optstudy_jax.adamw(RATE, **given), begin, grads), wanted)
    with jax.enable_x64(True):  # of a schedule of optax ours take the curve
        assert float(at(optstudy_jax.schedule(RATE), 8)) == RATE(8)


def test_a_momentum_that_begins_at_0_has_a_buffer() -> None:
    begin, grads = gradients()
    momentum = Linear(0.0, 0.9, 5)
    p = torch.nn.Parameter(torch.tensor(begin))
    found = in_torch(optstudy_torch.SGD([p], lr=0.1, momentum=momentum, dampening=0.2), p, grads)
    tx = optstudy_jax.sgd(0.1, momentum=momentum, dampening=0.2)
    assert np.array_equal(in_jax(tx, begin, grads), found)


def test_what_does_not_decay_stays_so() -> None:
    begin, grads = gradients()
    tx = optstudy_jax.adamw(RATE, weight_decay=DECAY, mask=False)
    without = optstudy_jax.adamw(RATE, weight_decay=0.0)
    assert np.array_equal(in_jax(tx, begin, grads), in_jax(without, begin, grads))


@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy", "torch.optim", "run"])
def test_a_training_goes_on_where_it_was(how: str, tmp_path: Path) -> None:
    begin, grads = gradients()
    model = torch.nn.ParameterDict({"w": torch.nn.Parameter(torch.tensor(begin))})
    optimizer = ours(model["w"])
    in_torch(optimizer, model["w"], grads[:5])
    if how in {"pickle", "deepcopy"}:
        copied = copy.deepcopy if how == "deepcopy" else (lambda x: pickle.loads(pickle.dumps(x)))
        optimizer, model = copied((optimizer, model))
    elif how == "run":
        file = tmp_path / "run.safetensors"
        optstudy_torch.export_run(file, model, optimizer)
        model = copy.deepcopy(model)
        fresh = ours(model["w"])
        optstudy_torch.import_run(file, model, fresh)
        optimizer = fresh
    else:
        saved = optimizer.state_dict()
        if how == "torch.optim":  # which counts steps in its state
            saved = optstudy_torch.to_torch_optim(optimizer)
            saved["param_groups"][0].pop("scheduled_steps", None)
        else:
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        optimizer = ours(model["w"])
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == RATE(5)
    assert np.array_equal(in_torch(optimizer, model["w"], grads[5:]), reference())


def test_steps_that_no_state_counts_have_to_be_told() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = optstudy_torch.Lion([p], lr=0.1)
    in_torch(optimizer, p, np.ones((2, 2), np.float32))
    saved = optimizer.state_dict()
    scheduled = optstudy_torch.Lion([p], lr=RATE)
    with pytest.raises(ValueError, match="without 'scheduled_steps'"):
        scheduled.load_state_dict(saved)
    saved["param_groups"][0]["scheduled_steps"] = 2
    scheduled.load_state_dict(saved)
    assert scheduled.param_groups[0]["lr"] == RATE(2)


def test_a_group_may_have_its_own_schedules() -> None:
    p, q, r = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    groups = [
        {"params": [p]},
        {"params": [q], "lr": 0.5},
        {"params": [r], "algorithm": "sgd", "lr": lambda t: 1 / (1 + t)},
    ]
    optimizer = optstudy_torch.AdamW(groups, lr=RATE)
    assert [list(x) for x in optimizer.schedules] == [["lr"], [], ["lr"]]
    for x in (p, q, r):
        x.grad = torch.ones(2)
    optimizer.step()
    assert [g["lr"] for g in optimizer.param_groups] == [RATE(1), 0.5, 0.5]
    with pytest.raises(ValueError, match=r"lr = -1\.0"):
        optstudy_torch.AdamW([p], lr=lambda t: -1.0)


def test_epoch_methods_multiply_a_schedule() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = optstudy_torch.SGD([p], lr=RATE)
    careful = CarefulLR(optimizer)
    in_torch(optimizer, p, np.ones((1, 2), np.float32))
    careful.step(1.0)
    careful.step(2.0)  # a jump
    before = p.detach().clone()
    in_torch(optimizer, p, np.ones((1, 2), np.float32))
    assert torch.allclose(before - p, torch.full((2,), 0.8 * RATE(1)))
    assert optimizer.param_groups[0]["lr"] == RATE(2)

    control = optstudy_jax.epoch.careful()
    tx = optstudy_jax.epoch.with_control(optstudy_jax.sgd, control, RATE)
    begin, grads = gradients()
    assert np.array_equal(in_jax(tx, begin, grads), in_jax(optstudy_jax.sgd(RATE), begin, grads))


def test_a_curve_under_jit_says_how() -> None:
    with pytest.raises(TypeError, match=r"optstudy_jax\.schedule"):
        jax.jit(RATE)(jnp.int32(1))
    with pytest.raises(TypeError, match="allowed are schedules of the core"):
        optstudy_jax.schedule(lambda t: t)  # type: ignore[arg-type]


# As schedulers of torch.


def scheduled(make: Any, optimizer: Any, steps: int = STEPS) -> list[float]:
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def of_torch() -> Any:
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.5, momentum=0.9)


def test_a_scheduler_of_torch_follows_a_schedule() -> None:
    optimizer = of_torch()
    found = scheduled(lambda o: ScheduleLR(o, RATE, momentum=MOMENTUM), optimizer)
    assert found == [RATE(t) for t in range(STEPS)]
    assert optimizer.param_groups[0]["momentum"] == MOMENTUM(STEPS)
    adam = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    ScheduleLR(adam, [RATE], momentum=MOMENTUM)
    assert adam.param_groups[0]["betas"] == (MOMENTUM(0), 0.999)


def test_a_scheduler_goes_together_with_those_of_torch() -> None:
    def sequence(optimizer: Any) -> Any:
        parts = [lr_scheduler.LinearLR(optimizer, 0.5, 1.0, 4), ScheduleLR(optimizer, RATE)]
        return lr_scheduler.SequentialLR(optimizer, parts, [4])

    found = scheduled(sequence, of_torch())
    assert found[4:] == [RATE(t) for t in range(STEPS - 4)]

    def chain(optimizer: Any) -> Any:
        first = ScheduleLR(optimizer, RATE)
        return lr_scheduler.ChainedScheduler([first, lr_scheduler.StepLR(optimizer, 3, 0.5)])

    assert scheduled(chain, of_torch())[3] == 0.5 * RATE(3)
    factors = scheduled(lambda o: lr_scheduler.LambdaLR(o, RATE), of_torch())
    assert factors == [0.5 * RATE(t) for t in range(STEPS)]


@pytest.mark.parametrize("how", ["state_dict", "pickle"])
def test_a_scheduler_goes_on_where_it_was(how: str) -> None:
    optimizer = of_torch()
    scheduler = ScheduleLR(optimizer, RATE)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    if how == "pickle":
        scheduler = pickle.loads(pickle.dumps(scheduler))
    else:
        saved = scheduler.state_dict()
        assert not any(map(callable, saved.values()))
        scheduler = ScheduleLR(optimizer, RATE)
        scheduler.load_state_dict(saved)
    scheduler.optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [RATE(6)] == [scheduler.optimizer.param_groups[0]["lr"]]


def test_what_does_not_fit_a_scheduler_is_refused() -> None:
    with pytest.raises(ValueError, match="schedule with 2 functions: allowed are one"):
        ScheduleLR(of_torch(), [RATE, RATE])
    adagrad = torch.optim.Adagrad([torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="group 0 has neither"):
        ScheduleLR(adagrad, RATE, momentum=MOMENTUM)


def test_a_run_brings_the_steps_that_no_state_counts(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = optstudy_torch.Lion(model.parameters(), lr=RATE)
    in_torch(optimizer, model.weight, np.ones((3, 1, 2), np.float32))
    file = tmp_path / "run.safetensors"
    optstudy_torch.export_run(file, model, optimizer)
    fresh = optstudy_torch.Lion(model.parameters(), lr=RATE)
    optstudy_torch.import_run(file, model, fresh)
    assert fresh.param_groups[0]["lr"] == RATE(3)
