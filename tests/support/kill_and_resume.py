"""Trains a small network in a run's folder, and goes on with what is there.

    python tests/support/kill_and_resume.py {numpy,torch,jax} FOLDER [--epochs N] [--kill-at K]

Prints ``ready`` before it opens the folder, and ``epoch K`` when epoch K is on the disk. Killed at
any moment and started again, it ends on the same bits; ``tests/core/test_records.py`` does that.
With ``--kill-at`` it kills itself before the K-th operation on a file, database or folder.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from optstudy_core.records import Run, pack, random_state, restore_random_state, unpack

STEPS = 6  # in an epoch
Training = tuple[Callable[[Run], int], Callable[[Run, int], None]]


def data(seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(STEPS * 8, 6)).astype(np.float32)
    return x, (x[:, :1] * x[:, 1:2] - x[:, 2:3]).astype(np.float32)


def numpy_training() -> Training:
    """Gradient descent with noise on a line: nothing is imported that takes its time."""
    rng = np.random.default_rng(1)
    carry = {"w": np.zeros(4), "half": np.zeros((), np.float16), "none": np.zeros((0, 2))}

    def load(run: Run) -> int:
        last = run.last_checkpoint()
        if last is None:
            return 0
        tree = unpack(last.arrays, last.state)
        carry.update(tree["carry"])
        restore_random_state(rng, tree["rng"])
        return last.epoch

    def epoch(run: Run, number: int) -> None:
        rows = []
        for i in range(STEPS):
            carry["w"] = 0.9 * carry["w"] + rng.normal(size=4)
            rows.append((STEPS * number + i, {"loss": float(carry["w"] @ carry["w"])}))
        carry["half"] = np.asarray(carry["w"][0], np.float16)
        run.steps(rows)
        arrays, state = pack({"carry": carry, "rng": random_state(rng)})
        row = {
            "loss": rows[-1][1]["loss"],
            "angle": np.nan,
            "layers": {"w": {"a/b": carry["w"][0]}},
        }
        run.checkpoint(number, arrays, state, row=row)

    return load, epoch


def torch_training() -> Training:
    import torch

    from optstudy_torch import Adam, checkpoint
    from optstudy_torch.lr_scheduler import DirectionCarefulLR

    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 16),
        torch.nn.BatchNorm1d(16),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(16, 1),
    )
    # A rate at which the loss jumps now and then, so that epochs are undone.
    optimizer = Adam(model.parameters(), lr=0.1)
    scheduler = DirectionCarefulLR(optimizer, rollback=True, model=model)
    order, noise = np.random.default_rng(1), random.Random(1)
    x, y = map(torch.from_numpy, data())
    kept: dict[str, Any] = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "random": [order, noise],
    }

    def epoch(run: Run, number: int) -> None:
        rows, losses = [], []
        for i, chosen in enumerate(order.permutation(len(x)).reshape(STEPS, -1)):
            optimizer.zero_grad()
            target = y[chosen] + noise.gauss(0, 0.01)
            loss = torch.nn.functional.mse_loss(model(x[chosen]), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            rows.append((STEPS * number + i, {"loss": losses[-1]}))
        scheduler.step(float(np.mean(losses)))
        run.steps(rows)
        row = {
            "loss": float(np.mean(losses)),
            "lr": scheduler.get_last_lr()[0],
            "cut": bool(scheduler.decision.cut),
            "step_size": scheduler.size,
            "cosine": scheduler.cosine,
            "layers": {n: {"norm": p.detach().norm().item()} for n, p in model.named_parameters()},
        }
        checkpoint.save(run, number, row=row, **kept)

    return lambda run: checkpoint.load(run, **kept) or 0, epoch


def jax_training() -> Training:
    import jax
    import jax.numpy as jnp
    import optax

    import optstudy_jax
    from optstudy_jax import checkpoint
    from optstudy_jax.epoch import direction_careful, end_epoch, with_control

    x, y = map(jnp.asarray, data())
    control = direction_careful(rollback=True)
    tx = with_control(optstudy_jax.adam, control, 0.1)
    weights = np.random.default_rng(2)
    params = {
        "w": jnp.asarray(weights.normal(size=(6, 16), scale=0.4), jnp.float32),
        "v": jnp.asarray(weights.normal(size=(16, 1), scale=0.2), jnp.float32),
        "b": jnp.zeros((), jnp.float32),
    }

    def loss_at(params: Any, key: Any, x: Any, y: Any) -> Any:
        hidden = jax.nn.relu(x @ params["w"])
        hidden = jnp.where(jax.random.bernoulli(key, 0.7, hidden.shape), hidden / 0.7, 0.0)
        return jnp.mean((hidden @ params["v"] + params["b"] - y) ** 2)

    @jax.jit
    def train(params: Any, state: Any, key: Any, x: Any, y: Any) -> Any:
        def step(carry: Any, batch: Any) -> Any:
            params, state, key = carry
            key, now = jax.random.split(key)
            loss, grads = jax.value_and_grad(loss_at)(params, now, *batch)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state, key), loss

        (params, state, key), losses = jax.lax.scan(step, (params, state, key), (x, y))
        params, state = end_epoch(control, params, state, value=losses.mean())
        return params, state, key, losses

    order = np.random.default_rng(1)
    carry: dict[str, Any] = {"params": params, "state": tx.init(params), "key": jax.random.key(4)}
    shapes = (STEPS, len(x) // STEPS, -1)
    train(*carry.values(), x.reshape(shapes), y.reshape(shapes))  # compiles

    def load(run: Run) -> int:
        found = checkpoint.load(run, random=order, **carry)
        if found is None:
            return 0
        carry.update({name: found.trees[name] for name in carry})
        return found.epoch

    def epoch(run: Run, number: int) -> None:
        chosen = order.permutation(len(x))
        *new, losses = train(*carry.values(), x[chosen].reshape(shapes), y[chosen].reshape(shapes))
        carry.update(zip(carry, new, strict=True))
        run.steps((STEPS * number + i, {"loss": loss}) for i, loss in enumerate(losses.tolist()))
        metrics = carry["state"].control.metrics
        row = {name: value.item() for name, value in metrics._asdict().items()}
        checkpoint.save(run, number, row=row, random=order, **carry)

    return load, epoch


TRAININGS = {"numpy": numpy_training, "torch": torch_training, "jax": jax_training}


def kill_before_operation(number: int) -> None:
    """Kill this process before its so-many-th operation on a file, database or folder."""
    watched = {"open", "sqlite3.connect", "os.rename", "os.remove", "os.mkdir", "shutil.rmtree"}
    left = number

    def hook(event: str, _: Any) -> None:
        nonlocal left
        if event in watched:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("training", choices=TRAININGS)
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--kill-at", type=int)
    arguments = parser.parse_args()
    load, epoch = TRAININGS[arguments.training]()
    if arguments.kill_at is not None:
        import tensorboard.summary.writer.record_writer  # noqa: F401 - imports open files, too

        kill_before_operation(arguments.kill_at)
    print("ready", flush=True)
    try:
        run = Run.resume(arguments.folder)
    except FileNotFoundError:
        run = Run.create(arguments.folder, {"training": arguments.training})
    with run:
        for number in range(1 + load(run), 1 + arguments.epochs):
            epoch(run, number)
            print("epoch", number, flush=True)


if __name__ == "__main__":
    main()
