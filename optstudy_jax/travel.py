"""Trainings that move between JAX and PyTorch, in one file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optstudy_core import Algorithm
from optstudy_core.travel import file as files
from optstudy_core.travel.file import Group, Sample, Training
from optstudy_core.travel.layers import Names
from optstudy_core.travel.plan import Plan

from ._fields import Own, filled, named, nodes, owns, rebuilt, taken
from ._groups import (
    check_layout,
    compared,
    group_of,
    in_layout,
    made_of,
    parts_of,
    prefix_of,
)
from ._models import Model, model_of, to_file
from .states import TransformState
from .transform import Part

Forward = Callable[..., Any]


class Imported(NamedTuple):
    """The result of an import.

    Attributes:
        model: the module, changed in place, or a new tree.
        optimizer: the optimizer that continues the training: an ``nnx.Optimizer`` for a module, the
            transformation for a tree.
        state: the state of the transformation.
        steps: the number of steps taken; ``None`` if the file does not say.
        notes: sentences about differences between the two models, and about missing checks.
        names: the names of layers of the model, by the names in the file.
    """

    model: Any
    optimizer: Any
    state: Any
    steps: int | None
    notes: tuple[str, ...]
    names: dict[str, str]


def export_run(
    file: Any,
    model: Any,
    optimizer: Any,
    state: Any = None,
    *,
    sample: Any = None,
    forward: Forward | None = None,
    steps: int | None = None,
) -> None:
    """Write a training to one file, so that PyTorch or JAX can continue it.

    The file has the parameters, the buffers and the states of the optimizer by the names of the
    parameters, with axes in the order of PyTorch; the algorithm, dialect and hyperparameters; and
    the number of steps. For a ``chain`` or an ``inject_hyperparams`` the file does not have the
    dialect and the hyperparameters. Random states, and the states of other transformations in a
    chain, are left out.

    Args:
        file: the path of the file, in the format of safetensors.
        model: a module of nnx, a tree of parameters, or the variables of Linen
            (``{"params": …, "batch_stats": …}``).
        optimizer: an ``nnx.Optimizer``, or the transformation.
        state: the state of the transformation; an ``nnx.Optimizer`` has its own state.
        sample: an input of the model, an array or a tuple of arrays. The import fails unless the
            importing model gives the same output.
        forward: ``forward(model, *sample)`` returns the output, an array; ``None``: call the
            module.
        steps: the number of steps taken; ``None``: the count in the state.

    Raises:
        TypeError: if the model or the optimizer has another type.
        ValueError: if the state cannot be exported; the message gives the reason.

    >>> import tempfile
    >>> from optstudy_jax import adamw, export_run, import_run
    >>> file = tempfile.mkdtemp() + "/run.safetensors"
    >>> params, tx = {"out": {"kernel": jnp.ones((2, 1))}}, adamw(0.5)
    >>> export_run(file, params, tx, tx.init(params))
    >>> import_run(file, params).state.inner.m["out"]["kernel"].shape
    (2, 1)
    """
    tx, state, wrt = _optimizer(optimizer, state)
    made = model_of(model, wrt)
    params = made.params(made.arrays)
    parts = parts_of(tx, params)
    own = _owns(tx, made, params, parts)
    states: dict[str, dict[str, np.ndarray]] = {}
    groups, counts = [], []
    held = [x for x in nodes(state) if isinstance(x, TransformState)]
    if len(held) != len(own):
        raise ValueError("state: expected is a state of this optimizer")
    prefix = prefix_of(made, params)
    for x, one in zip(held, own, strict=True):
        check_layout(one.algorithm, tx, made, one.names, params)
        counts.append(int(x.count))
        for name, fields in taken(x, one, dict(named(params))).items():
            turn = made.turns[prefix + name]
            turned = not one.in_torch_layout.get(name) and not in_layout(tx, one.algorithm)
            states[prefix + name] = {
                k: np.asarray(turn.to_torch(v) if turned and v.shape == turn.shape else v)
                for k, v in fields.items()
            }
        if parts is None:
            names = tuple(prefix + name for name in one.names)
            groups.append(Group(names, one.algorithm.name, None, {}))
    if parts is not None:
        order = [prefix + name for name, _ in named(params)]
        groups = [group_of(part, order, max(counts, default=0), tx) for part in parts]
    files.write(
        file,
        Training(
            f"jax {jax.__version__}",
            made.outline,
            made.in_file(),
            tuple(g for g in groups if g.parameters),
            {name: fields for name, fields in states.items() if fields},
            steps if steps is not None else max(counts, default=None),
            None,
            None if sample is None else _sampled(made, made.arrays, sample, forward),
        ),
    )


def import_run(
    file: Any,
    model: Any,
    optimizer: Any = None,
    *,
    names: Names | None = None,
    forward: Forward | None = None,
) -> Imported:
    """Load the training of a file into a model and an optimizer.

    Layers are matched by type, shape and declared order; the numbers of layers must agree. If this
    function raises an error, nothing has changed.

    Args:
        file: a file of ``export_run`` of ``optstudy_torch`` or ``optstudy_jax``.
        model: a model with the same layers. A module of nnx changes in place; for a tree, the
            result has a new tree.
        optimizer: an ``nnx.Optimizer`` of the module, which changes in place, or a transformation.
            It keeps its hyperparameters; ``notes`` lists the differences from the file. ``None``:
            make a transformation with the groups and the hyperparameters of the file.
        names: layers of the model by layers of the file, if they do not match by themselves. A
            tuple ``(name, axes)`` also gives the order of the axes of the parameter in the file.
        forward: ``forward(model, *sample)`` returns the output for the sample of the file, if the
            input of this model has another order of axes; ``None``: call the module.

    Returns:
        the model, the optimizer, the state, the number of steps, and the differences between the
        two models.

    Raises:
        ValueError: if the file is damaged, or has another training. The message names the file and
            the entry.
    """
    found = files.read(file)
    tx, wrt = (None, None) if optimizer is None else _optimizer(optimizer, None)[::2]
    with files.named(file):
        made = model_of(model, wrt)
        plan = Plan.of(found, made.outline, names)
        arrays = {name: made.from_file(name, x) for name, x in plan.arrays().items()}
        params = made.params(arrays)
        prefix = prefix_of(made, params)
        told = []
        if tx is None:
            tx = made_of(plan.groups, made, prefix)
        else:
            told = compared(tx, params, plan.groups, prefix)
        state = _state(tx, made, params, prefix, plan)
        is_called = bool(forward) or not isinstance(model, Mapping | list | tuple)
        proved = found.sample is not None and is_called
        if proved:
            files.prove(lambda inputs: _sampled(made, arrays, inputs, forward), found)
    told += plan.notes(proved)
    written = made.write(arrays)
    result = _written(optimizer, tx, state, written, found.steps)
    return Imported(
        written,
        result,
        state,
        found.steps,
        tuple(told),
        plan.names,
    )


# Optimizers.


def _optimizer(optimizer: Any, state: Any) -> tuple[Any, Any, Any]:
    """Return the transformation, its state and the filter of the variables that it trains."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(optimizer, nnx.Optimizer):
        return optimizer.tx, nnx.as_pure(optimizer.opt_state), optimizer.wrt
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer of type {type(optimizer).__name__}: allowed are nnx.Optimizer and "
            "transformations"
        )
    return optimizer, state, None


def _written(optimizer: Any, tx: Any, state: Any, model: Any, steps: int | None) -> Any:
    """Return the optimizer with a state: an ``nnx.Optimizer`` of a module."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(model, nnx.Module):
        return tx
    if not isinstance(optimizer, nnx.Optimizer):
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    nnx.update(optimizer.opt_state, nnx.state(state))
    optimizer.step.set_value(jnp.asarray(steps or 0, optimizer.step[...].dtype))
    return optimizer


def _owns(tx: Any, made: Model, params: Any, parts: list[Part] | None) -> list[Own]:
    prefix = prefix_of(made, params)

    def torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        axes, flat = made.turns[prefix + name].axes, made.turns[prefix + name].flat
        if axes is None or len(flat) != len(shape):
            return shape
        return tuple(shape[i] for i in axes)

    known: dict[type, Algorithm] = {x.algorithm.state_type: x.algorithm for x in parts or ()}
    return owns(tx, params, torch_shape, known)


# States.


def _state(tx: Any, made: Model, params: Any, prefix: str, plan: Plan) -> Any:
    """Return the state of a transformation, with the values of the file."""
    own = _owns(tx, made, params, parts_of(tx, params))
    holders: dict[str, Own] = {name: one for one in own for name in one.names}
    states = {}
    for name, group in plan.groups.items():
        short = name.removeprefix(prefix)
        state = plan.state(name)
        one = holders.get(short)
        if one is None:
            if state is not None:
                raise ValueError(f"optimizer does not train {short}, which is trained in the file")
            continue
        if group.algorithm != one.algorithm.name:
            raise ValueError(
                f"algorithm {group.algorithm!r} of {name}; expected is {one.algorithm.name!r}"
            )
        turn = made.turns[name]
        turned = not one.in_torch_layout.get(short) and not in_layout(tx, one.algorithm)
        if state is not None:
            states[short] = {
                k: turn.from_torch(v) if turned and v.shape == turn.torch_shape else v
                for k, v in state.items()
            }
    for one in own:
        check_layout(one.algorithm, tx, made, one.names, params)
    rest = iter(own)
    like = dict(named(params))
    steps = plan.training.steps

    def change(x: Any) -> Any:
        if isinstance(x, TransformState):
            return filled(x, next(rest), like, states, steps)
        if steps is not None and (
            hasattr(x, "hyperparams") or type(x).__name__ == "ScaleByScheduleState"
        ):
            return x._replace(count=jnp.asarray(steps, jnp.int32))
        return x

    return rebuilt(tx.init(params), change)


# The proof.


def _sampled(made: Model, arrays: Mapping[str, Any], sample: Any, forward: Any) -> Sample:
    inputs = sample if isinstance(sample, tuple) else (sample,)
    given = tuple(map(jnp.asarray, inputs))
    with jax.default_matmul_precision("highest"):
        output = made.output(arrays, given, forward)
    if not isinstance(output, jax.Array | np.ndarray):
        raise TypeError(
            f"output of type {type(output).__name__}: allowed is an array. Pass a function as "
            "forward= that returns an array."
        )
    if jnp.finfo(output.dtype).bits < 32:
        output = jnp.asarray(output, jnp.float32)
    return Sample(tuple(map(to_file, inputs)), np.asarray(output))


__all__ = ["Imported", "export_run", "import_run"]
