"""The fields of a state, in one order for every parameter, with checks of their values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from optstudy_core import Algorithm
from optstudy_core.arrays.blocks import ARGUMENTS
from optstudy_core.arrays.doubles import Doubles
from optstudy_core.arrays.leaves import Backend, Leaves, map_leaves
from optstudy_core.arrays.numbers import is_number
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_core.parts.evaluation import average_of

from ._recent import Recent
from .engine.eager import EAGER, EagerPart
from .engine.joined_sums import Joint

WORKING_DTYPE = {
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
    torch.float64: torch.float64,
}
"""The working dtype for the step and the state of a parameter, by its dtype."""


TRAINED = "trained"
"""The field with the trained parameters during an evaluation."""


class Layout:
    """The names of the fields of a state, with functions to build the state.

    Attributes:
        names: names of the fields; a field that a parameter does not need is missing in its state.
        optional: names of fields for other hyperparameters, which are kept but not read.
        full: for each field, whether it is an array like the parameter.
        counts: for each field, whether it is a step count.
        averages: whether the state has an average of the parameters, for evaluation.
        flat: whether every field is an array like the parameter or a scalar, for any shape.
    """

    def __init__(self, algorithm: Algorithm, hyperparameters: dict[str, Any]) -> None:
        self._skeleton = algorithm.start(Leaves([np.zeros(2)], NumPy()), hyperparameters)
        self.names, self.optional = _field_names(self._skeleton)
        fields = [field.values[0] for field in flatten(self._skeleton)]
        shapes = [None if x is None else np.shape(x) for x in fields]
        self.full = [shape == (2,) for shape in shapes]
        self.counts = [getattr(x, "dtype", None) == np.int32 for x in fields]
        self.averages = average_of(self._skeleton) is not None
        if self.averages:
            self.optional.add(TRAINED)
        self.flat = not algorithm.leafwise and all(shape in {(), (2,)} for shape in shapes)
        self._start = functools.partial(algorithm.start, hyperparameters=hyperparameters)
        self._shapes: Recent[tuple[int, ...], dict[str, tuple[int, ...]]] = Recent(1024)

    @classmethod
    def of(cls, algorithm: Algorithm, hyperparameters: dict[str, Any]) -> Layout:
        """Return the layout, made once for each algorithm, its flags and its absent terms."""
        key = (algorithm, *((k, v) for k, v in hyperparameters.items() if is_static(k, v)))

        def made() -> Layout:
            plain = {  # a term with an array as factor is never absent
                k: np.asarray(v.item()) if isinstance(v, torch.Tensor) else v
                for k, v in hyperparameters.items()
            }
            return cls(algorithm, plain)

        return _LAYOUTS.get(key, made)

    def shapes(self, p: torch.Tensor) -> dict[str, tuple[int, ...]]:
        """Return the shape of each field that a parameter needs."""
        shape = tuple(p.shape)
        if self.flat:
            of_fields = (shape if full else () for full in self.full)
            return dict(zip(self.names, of_fields, strict=True))

        def found() -> dict[str, tuple[int, ...]]:
            fields = flatten(self._start(Leaves([np.zeros(shape)], NumPy())))
            own = zip(self.names, (x.values[0] for x in fields), strict=True)
            return {name: np.shape(x) for name, x in own if x is not None}

        return self._shapes.get(shape, found)

    def converted(self, name: str, value: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        """Return a copy of a field of a parameter in its dtype and on its device."""
        if name in self.names and self.counts[self.names.index(name)]:
            return value.to("cpu", torch.int32, copy=True)
        return value.to(p.device, WORKING_DTYPE[p.dtype], copy=True)

    def rebuild(self, fields: list[Any]) -> Any:
        """Return a state with these fields."""
        rest = iter(fields)
        return map_leaves(lambda _: next(rest), self._skeleton)


_LAYOUTS: Recent[Any, Layout] = Recent(256)


def flatten(state: Any) -> list[Leaves]:
    found: list[Leaves] = []
    map_leaves(found.append, state)
    return found


def _field_names(state: Any, prefix: str = "") -> tuple[list[str], set[str]]:
    names: list[str] = []
    absent: set[str] = set()
    for name, field in zip(state._fields, state, strict=True):
        if isinstance(field, Leaves):
            names.append(prefix + name)
        elif field is None:
            absent.add(prefix + name)
        else:
            inner, without = _field_names(field, f"{prefix}{name}.")
            names += inner
            absent |= without
    return names, absent


def is_static(name: str, value: Any) -> bool:
    """Return whether a hyperparameter is part of the program.

    Such are booleans, absent terms, and what says how a leaf is divided into matrices.
    """
    if isinstance(value, torch.Tensor):
        return False
    return name in ARGUMENTS or not is_number(value) or (value == 0 and name != "lr")


def check_fields(what: str, fields: dict[str, Any], layout: Layout, p: torch.Tensor) -> None:
    """Refuse a state of a parameter with other names or shapes than the layout."""
    shapes = layout.shapes(p)
    if not shapes.keys() <= fields.keys() <= shapes.keys() | layout.optional:
        raise ValueError(
            f"{what} has the fields {sorted(map(str, fields))} for a parameter: allowed are "
            f"{sorted(shapes)}{_of_before(fields)}"
        )
    if TRAINED in fields:
        shapes = shapes | {TRAINED: tuple(p.shape)}
    for name, shape in shapes.items():
        found = _shape(fields[name])
        if found is None:
            raise ValueError(
                f"{what} has {name} of type {type(fields[name]).__name__}: allowed are dense "
                "tensors and arrays of real numbers"
            )
        if found != shape:
            raise ValueError(
                f"{what} has {name} of shape {found} for a parameter of shape {tuple(p.shape)}"
            )


def _of_before(fields: dict[str, Any]) -> str:
    """Return a text if the state is from a version that counted no steps."""
    sums = {str(name).rpartition(".")[2] for name in fields} & {"error", "started", "count"}
    return "; optstudy 0.1.0 counted no steps: its states cannot be loaded" if sums else ""


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of a tensor, array or number; ``None`` for other values."""
    if isinstance(value, torch.Tensor):
        dense = value.layout == torch.strided and value.device.type != "meta"
        return tuple(value.shape) if dense and not value.is_complex() else None
    if isinstance(value, np.ndarray | np.generic | int | float):
        try:
            found = tensor_of(value)
        except (TypeError, OverflowError):  # a dtype that torch does not have
            return None
        return None if found.is_complex() else tuple(found.shape)
    return None


def started(
    params: Sequence[torch.Tensor],
    algorithm: Algorithm,
    hyperparameters: dict[str, Any],
    layout: Layout,
    joints: Sequence[Joint] = (),
) -> list[dict[str, torch.Tensor]]:
    """Return the state of each parameter before its first step.

    Args:
        params: the parameters; one, if there are no joints.
        algorithm: the algorithm of the group.
        hyperparameters: the hyperparameters of the algorithm.
        layout: the layout of the state.
        joints: the distribution of each parameter, if they are local parts; processes then
            communicate once for all parameters.
    """
    work = [p.detach().to(WORKING_DTYPE[p.dtype]) for p in params]
    backend = EagerPart(joints) if joints else EAGER
    state = algorithm.start(Leaves(work, backend), in_double(hyperparameters, backend))
    found, fields = [], [leaves.values for leaves in flatten(state)]
    for i, w in enumerate(work):
        own = owned(w)
        pairs = zip(layout.names, (values[i] for values in fields), strict=True)
        found.append({name: own(x) for name, x in pairs if x is not None})
    return found


def in_double(hyperparameters: dict[str, Any], backend: Backend) -> dict[str, Any]:
    """Return hyperparameters, with tensors as numbers that are never absent."""
    return {
        k: Doubles(np.float64(v.item()), backend) if isinstance(v, torch.Tensor) else v
        for k, v in hyperparameters.items()
    }


def owned(*inputs: Any) -> Callable[[Any], Any]:
    """Return a function that copies a field that shares memory with an input or another field."""
    taken = list(inputs)

    def own(x: Any) -> Any:
        base = x._base if isinstance(x, torch.Tensor) else getattr(x, "base", None)
        if any(x is other or base is other for other in taken):
            x = x.clone() if isinstance(x, torch.Tensor) else np.array(x)
        taken.append(x)
        return x

    return own


def tensor_of(x: Any) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else torch.from_numpy(np.asarray(x))
