"""Both adapters behind one face, for tests of what every rule promises.

A :class:`Run` is a training with given gradients: parameters, an optimizer, its states.
"""

from __future__ import annotations

import copy
import functools
import io
import pickle
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from harness import fields, inputs_for, to_numpy, to_torch

import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS, WRAPPERS, Algorithm
from optstudy_core.arrays.leaves import Leaves, map_leaves
from optstudy_core.arrays.numpy_backend import NumPy

RULES: dict[str, Algorithm] = dict(ALGORITHMS) | {
    f"{name}(adam)": wrapper(ALGORITHMS["adam"]) for name, wrapper in WRAPPERS.items()
}
RULES["clipped(adamuon)"] = WRAPPERS["clipped"](ALGORITHMS["adamuon"])
"""Every algorithm, every wrapper around Adam, and a norm of all leaves around one of matrices."""

LR = 0.05
Arrays = Sequence[np.ndarray]
State = list[dict[str, np.ndarray]]
"""For each parameter, the fields of its state by name."""


def _rate(rule: Algorithm) -> dict[str, float]:
    return {"lr": LR} if "lr" in rule.defaults() else {}


def reference(
    name: str, dialect: str | None, begin: Arrays, grads: Sequence[Arrays]
) -> tuple[list[np.ndarray], State]:
    """Return the ends and the states that NumPy finds: the definition."""
    rule = RULES[name]
    dtypes = [p.dtype for p in begin]
    work = [np.float64 if d == np.float64 else np.float32 for d in dtypes]

    def tree(arrays: Arrays) -> Leaves:
        pairs = zip(arrays, work, strict=True)
        return Leaves([np.asarray(x).astype(w) for x, w in pairs], NumPy())

    values = rule.resolve(dialect, _rate(rule))
    ends = [np.asarray(p) for p in begin]
    state = rule.start(tree(ends), values)
    inputs = {
        "value": Leaves([w(1.0) for w in work], NumPy()),
        "hessian": tree([np.ones_like(p) for p in begin]),
    }
    more = {key: inputs[key] for key in rule.inputs}
    for g in grads:
        with np.errstate(all="ignore"):
            state, step = rule.update(state, tree(g), tree(ends), **more, **values)
            pairs = zip(ends, step.values, dtypes, strict=True)
            ends = [np.asarray(p + u.astype(d)).astype(d) for p, u, d in pairs]

    def of_leaf(i: int) -> dict[str, np.ndarray]:
        own = fields(map_leaves(lambda field: field.values[i], state))
        return {key: np.asarray(x) for key, x in own.items()}

    return ends, [of_leaf(i) for i in range(len(ends))]


class Run:
    """A training: what both adapters can do."""

    def step(self, grads: Arrays) -> None:
        """Take a step with a gradient for each parameter."""
        raise NotImplementedError

    def ends(self) -> list[np.ndarray]:
        """Return the parameters."""
        raise NotImplementedError

    def states(self) -> State:
        """Return the states."""
        raise NotImplementedError

    def saved_and_loaded(self) -> Run:
        """Return a new run, of the parameters and the state as they are saved and loaded."""
        raise NotImplementedError

    def copied(self, how: str) -> Run:
        """Return a copy made by ``copy.deepcopy`` or by pickling."""
        raise NotImplementedError


class TorchRun(Run):
    """A ``torch.optim.Optimizer``; ``groups`` are slices of the parameters."""

    def __init__(
        self,
        name: str,
        dialect: str | None,
        begin: Arrays,
        groups: Sequence[slice] = (slice(None),),
        **given: Any,
    ) -> None:
        if (name, dialect) == ("muon", "torch"):
            dialect = None  # the same values, and vectors are not refused
        self.made = name, dialect
        self.params = [torch.nn.Parameter(to_torch(p)) for p in begin]
        make = optstudy_torch.from_core(RULES[name])
        own = [{"params": self.params[group]} for group in groups]
        self.optimizer = make(own, dialect=dialect, **_rate(RULES[name]) | given)

    def give(self, grads: Sequence[np.ndarray | None]) -> None:
        """Set the gradients."""
        for p, g in zip(self.params, grads, strict=True):
            p.grad = None if g is None else to_torch(g)

    def take(self) -> None:
        """Take a step with the gradients that are there."""
        inside = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.step(None, **inputs_for(self.optimizer.algorithm, inside))

    def step(self, grads: Sequence[np.ndarray | None]) -> None:
        self.give(grads)
        self.take()

    def ends(self) -> list[np.ndarray]:
        return [to_numpy(p) for p in self.params]

    def states(self) -> State:
        states = [self.optimizer.state[p] for p in self.params]
        return [{key: to_numpy(x) for key, x in own.items()} for own in states]

    def saved_and_loaded(self) -> TorchRun:
        file = io.BytesIO()
        torch.save(self.optimizer.state_dict(), file)
        file.seek(0)
        other = TorchRun(*self.made, self.ends(), **dict.fromkeys(_rate(RULES[self.made[0]]), 1.0))
        other.optimizer.load_state_dict(torch.load(file, weights_only=True))
        return other

    def copied(self, how: str) -> TorchRun:
        other = copy.copy(self)
        if how == "copy":
            other.optimizer = copy.deepcopy(self.optimizer)
        else:
            other.optimizer = pickle.loads(pickle.dumps(self.optimizer))
        assert type(other.optimizer) is type(self.optimizer)
        other.params = other.optimizer.param_groups[0]["params"]
        return other


class JaxRun(Run):
    """An optax transformation, whose step is compiled once for all runs of a rule."""

    def __init__(self, name: str, dialect: str | None, begin: Arrays) -> None:
        self.made = name, dialect
        self.tx, self.traced, self._advance = _compiled(name, dialect)
        self.params = [jnp.asarray(p) for p in begin]
        self.state = self.tx.init(self.params)

    def step(self, grads: Arrays) -> None:
        grads = [jnp.asarray(g) for g in grads]
        self.params, self.state = self._advance(self.params, self.state, grads)

    def ends(self) -> list[np.ndarray]:
        return [np.asarray(p) for p in self.params]

    def states(self) -> State:
        inner = optstudy_jax.by_leaf(self.state.inner, self.params)
        return [
            {k: np.asarray(field[i]) for k, field in fields(inner).items() if field[i] is not None}
            for i in range(len(self.params))
        ]

    def _with(self, params: Any, state: Any) -> JaxRun:
        other = copy.copy(self)
        other.params, other.state = params, state
        return other

    def saved_and_loaded(self) -> JaxRun:
        leaves, structure = jax.tree.flatten((self.params, self.state))
        file = io.BytesIO()
        np.savez(file, *leaves)
        file.seek(0)
        with np.load(file, allow_pickle=False) as read:
            return self._with(*jax.tree.unflatten(structure, [read[x] for x in read.files]))

    def copied(self, how: str) -> JaxRun:
        both = self.params, self.state
        return self._with(
            *(copy.deepcopy(both) if how == "copy" else pickle.loads(pickle.dumps(both)))
        )


@functools.cache
def _compiled(name: str, dialect: str | None) -> tuple[Any, list[int], Any]:
    """Return a transformation, the steps that were traced, and its compiled step."""
    rule = RULES[name]
    tx = optstudy_jax.from_core(rule)(*_rate(rule).values(), dialect=dialect)
    traced: list[int] = []

    @jax.jit
    def advance(params: Any, state: Any, grads: Any) -> Any:
        traced.append(1)
        updates, state = tx.update(grads, state, params, **inputs_for(rule, params))
        return optax.apply_updates(params, updates), state

    return tx, traced, advance


ADAPTERS = {"torch": TorchRun, "jax": JaxRun}
