"""What the tests share: the definition, test gradients, equality of bits, a user's rules."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from optstudy_core import Algorithm, namespace
from optstudy_core.arrays.namespace import scalar
from optstudy_core.catalogue.table import find

ROOT = Path(__file__).parents[2]
"""The top folder of the project."""

Hyperparameters = dict[str, Any]

QUICK = frozenset({"sgd", "adam", "madgrad"})
"""Algorithms that `make test` compiles, of every form and length; `make test-all` takes all."""


def on_eight_devices(code: str) -> None:
    """Run code in a process whose CPU is eight devices to JAX."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def slow(*values: Any, **given: Any) -> Any:
    """Return a parameter that only `make test-all` takes."""
    return pytest.param(*values, marks=pytest.mark.slow, **given)


def slow_unless_quick(names: Iterable[str], quick: Container[str] = QUICK) -> list[Any]:
    """Return names of algorithms as parameters of a test that compiles each of them."""
    return [n if n in quick else slow(n) for n in names]


def draw(
    shapes: Sequence[tuple[int, ...]], steps: int, *, seed: int = 0, dtype: Any = np.float32
) -> list[list[np.ndarray]]:
    """Gradients for each step and leaf: scales 1e-6 to 1e3, exact zeros, signed zeros."""
    rng = np.random.default_rng(seed)

    def one(shape: tuple[int, ...]) -> np.ndarray:
        x = 10 ** rng.uniform(-6, 3, shape) * rng.choice([-1.0, 1.0], shape)
        return np.asarray(np.where(rng.random(shape) < 0.15, 0.0 * np.sign(x), x)).astype(dtype)

    return [[one(shape) for shape in shapes] for _ in range(steps)]


def start(
    shapes: Sequence[tuple[int, ...]], *, seed: int = 99, dtype: Any = np.float32
) -> list[np.ndarray]:
    """Parameters of order one."""
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=shape)).astype(dtype) for shape in shapes]


def inputs_for(algorithm: Algorithm, like: Any) -> dict[str, Any]:
    """What an algorithm is given besides a gradient: ones, for a tree of arrays of any library."""
    leaves = jax.tree.leaves(like)
    given = {
        "value": scalar(leaves[0], 1.0),
        "hessian": jax.tree.map(lambda x: namespace(x).ones_like(x), like),
    }
    return {name: given[name] for name in algorithm.inputs}


def definition(
    algorithm: Any,
    params: Sequence[np.ndarray],
    grads: Sequence[Sequence[np.ndarray | None]],
    given: Hyperparameters | Callable[[int], Hyperparameters] | None = None,
    *,
    dialect: str | None = None,
    step_dtype: str | None = None,
) -> tuple[list[np.ndarray], list[Any]]:
    """Run the pure function on bare NumPy arrays, leaf by leaf; a gradient may be ``None``.

    ``given`` are hyperparameters, or a function of the step's number that gives them.
    """
    algorithm = find(algorithm)
    ends, states = [], []
    for i, p in enumerate(params):
        dtype = p.dtype
        work = np.float64 if dtype == np.float64 else np.float32
        state = None
        for t, g in enumerate(grads):
            if g[i] is None:
                continue
            values = given(t) if callable(given) else given or {}
            values = algorithm.resolve(dialect, values)
            theta = p.astype(work)
            with np.errstate(all="ignore"):
                if state is None:
                    state = algorithm.start(theta, values)
                more = inputs_for(algorithm, theta)
                state, step = algorithm.update(state, g[i].astype(work), theta, **more, **values)
                p = theta + step if step_dtype else p + step.astype(dtype)
                p = np.asarray(p).astype(dtype)
        ends.append(p)
        states.append(state)
    return ends, states


def same(ours: Any, theirs: Any) -> bool:
    """Same shape, dtype and bits, but any NaN is any NaN, and 0 is -0."""
    a, b = np.asarray(ours), np.asarray(theirs)
    equal = (a == b) | ((a != a) & (b != b))
    return a.shape == b.shape and a.dtype == b.dtype and bool(np.all(equal))


def fields(state: Any, prefix: str = "") -> dict[str, Any]:
    """The arrays of a state by name: ``m``, ``average.z``, …; absent ones left out."""
    if state is None:
        return {}
    if not hasattr(state, "_fields"):
        return {prefix: state}
    found = {}
    for name in state._fields:
        found |= fields(getattr(state, name), f"{prefix}.{name}" if prefix else name)
    return found


def to_numpy(x: Any) -> np.ndarray:
    """A torch tensor, bfloat16 too, as a NumPy array of its own."""
    import ml_dtypes
    import torch

    x = x.detach().contiguous()
    if x.dtype == torch.bfloat16:
        return x.view(torch.uint16).numpy().copy().view(ml_dtypes.bfloat16)
    return x.numpy().copy()


def to_torch(x: np.ndarray) -> Any:
    """A NumPy array, bfloat16 too, as a torch tensor of its own."""
    import torch

    x = np.array(x)
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(x)


# Update functions of a user.


class Ball(NamedTuple):
    b: Any


def heavy_ball(state: Any, grad: Any, params: Any = None, *, lr: Any = 0.1, momentum: Any = 0.9):
    b = momentum * state.b + grad
    return Ball(b), -lr * b


class Pair(NamedTuple):
    a: Any
    b: Any


def two_zeros(params: Any) -> Pair:
    """One array that is two fields."""
    zeros = 0 * params
    return Pair(zeros, zeros)


def delayed(state: Any, grad: Any, params: Any = None, *, lr: Any = 0.1):
    """Returns a field as the step, and moves the fields through each other."""
    return Pair(state.b, lr * grad), state.a


def delayed_descent(state: Any, grad: Any, params: Any = None, *, lr: Any = 0.1):
    """Takes the step before last; its fields move through each other."""
    return Pair(state.b, lr * grad), -state.a


HEAVY_BALL = Algorithm("heavy_ball", lambda params: Ball(0 * params), heavy_ball)
DELAYED = Algorithm("delayed_descent", two_zeros, delayed_descent)
