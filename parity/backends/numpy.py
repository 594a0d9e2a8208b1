"""NumPy, the definition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from optstudy_core import Algorithm
from optstudy_core.arrays.doubles import Doubles
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numbers import is_number
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_core.arrays.quiet import Quiet
from parity.case import Case
from parity.structures import STRUCTURES, working_dtype

from .backend import Backend, Run, measure_on_host, minus


class NumPyBackend(Backend):
    """The definition: the pure function on NumPy arrays, in the working dtype."""

    name = "numpy"

    def run(self, algorithm: Algorithm, case: Case) -> Run:
        paths = [leaf.path for leaf in STRUCTURES[case.structure]]
        params, grads = case.values()
        run = Run()
        groups = []
        resolved = zip(case.rules(algorithm), case.resolved(algorithm), strict=True)
        for number, ((rule, _), values) in enumerate(resolved):
            indices = [i for i, m in enumerate(case.membership) if m == number]
            if indices:
                work = _work(params, indices)
                values = _as_arrays(values, case) if case.arrays else values
                first = values | case.moved(values, 0)
                groups.append(_Group(rule, indices, values, rule.start(work, first)))
        theta = before = list(params)
        with Quiet():
            for number, (row, given) in enumerate(zip(grads, case.inputs(algorithm), strict=True)):
                before, theta = theta, list(theta)
                for group in groups:
                    curves = case.schedules(group.values).items()
                    now = case.moved(group.values, number) | {k: f(number) for k, f in curves}
                    work = _work(before, group.indices)
                    own = {k: x for k, x in given.items() if k in group.rule.inputs}
                    group.state, step = group.rule.update(
                        group.state,
                        _work(row, group.indices),
                        work,
                        **_inputs(own, group.indices, work),
                        **(group.values | now),
                    )
                    for i, s in zip(group.indices, step.values, strict=True):
                        theta[i] = np.asarray(before[i] + np.asarray(s).astype(before[i].dtype))
                run.trajectory.append(theta)
            for group in groups:
                for name, fields in named_fields(group.state):
                    for i, field_value in zip(group.indices, fields, strict=True):
                        if field_value is not None:
                            run.state[f"{paths[i]}.{name}"] = np.asarray(field_value)
            displacements = [params, minus(theta, before), minus(theta, params)]
        measure_on_host(run, paths, displacements)
        return run


@dataclass
class _Group:
    """Leaves that share an algorithm and hyperparameters, and their state."""

    rule: Algorithm
    indices: list[int]
    values: dict[str, Any]
    state: Any


def _work(arrays: list[np.ndarray], indices: list[int]) -> Leaves:
    """Return some of the arrays in their working dtypes."""
    return Leaves([arrays[i].astype(working_dtype(arrays[i].dtype)) for i in indices], NumPy())


def _as_arrays(values: dict[str, Any], case: Case) -> dict[str, Any]:
    """Return the hyperparameters with each number as the exact value of an array, in double."""
    dtype = case.array_dtype().type
    return {
        k: Doubles(np.float64(dtype(v)), NumPy()) if is_number(v) else v for k, v in values.items()
    }


def _inputs(given: dict[str, Any], indices: list[int], work: Leaves) -> dict[str, Any]:
    """Return the inputs of some leaves besides the gradient, in the working dtypes."""
    return {
        k: _work(x, indices) if isinstance(x, list) else _spread(x, work) for k, x in given.items()
    }


def _spread(value: Any, work: Leaves) -> Leaves:
    """Return a NumPy scalar for each leaf, in the dtype of the leaf."""
    with np.errstate(all="ignore"):
        return Leaves([value.astype(w.dtype) for w in work.values], work.backend)


def named_fields(state: Any, prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield the fields of a state of Leaves by name (``average.z``), each a list of leaves."""
    for name, value in zip(state._fields, state, strict=True):
        if isinstance(value, Leaves):
            yield prefix + name, list(value.values)
        elif value is not None:
            yield from named_fields(value, f"{prefix}{name}.")
