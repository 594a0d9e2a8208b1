"""Trainings that move between PyTorch and JAX, in one file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from optstudy_core.travel import file as files
from optstudy_core.travel.file import BITS, Group, Sample, Training
from optstudy_core.travel.layers import Names
from optstudy_core.travel.plan import Plan, known_algorithm

from ._arguments import join_tuples, selected
from ._layers import outline, tensors_of
from ._scheduled import COUNT
from ._states import tensor_of
from .classes import from_core
from .optimizer import CoreOptimizer

Forward = Callable[..., Any]


class Imported(NamedTuple):
    """The result of an import.

    Attributes:
        optimizer: the optimizer that continues the training.
        steps: the number of steps taken; ``None`` if the file does not say.
        notes: sentences about differences between the two models, and about missing checks.
        names: the names of layers of the model, by the names in the file.
    """

    optimizer: Any
    steps: int | None
    notes: tuple[str, ...]
    names: dict[str, str]


def export_run(
    file: Any,
    model: torch.nn.Module,
    optimizer: CoreOptimizer,
    scheduler: Any = None,
    *,
    sample: Any = None,
    forward: Forward | None = None,
    steps: int | None = None,
) -> None:
    """Write a training to one file, so that PyTorch or JAX can continue it.

    The file has the parameters, the buffers, the states of the optimizer by the names of the
    parameters, the algorithm, dialect and hyperparameters of each group, the number of steps, and
    the position of the scheduler. It has no random states.

    Args:
        file: the path of the file, in the format of safetensors.
        model: the model.
        optimizer: an optimizer of a class of ``optstudy_torch``. Load a state of torch.optim with
            ``load_state_dict`` first.
        scheduler: a scheduler with ``state_dict``, if there is one.
        sample: an input of the model, a tensor or a tuple of tensors. The import fails unless the
            importing model gives the same output.
        forward: ``forward(model, *sample)`` returns the output, a tensor; ``None``: call the model.
        steps: the number of steps taken; ``None``: the largest count in the states of the
            parameters or in the schedules.

    Raises:
        TypeError: if the optimizer has another class, or the file cannot hold the model.
        ValueError: if the model lacks a parameter of the optimizer.

    >>> import tempfile
    >>> from optstudy_torch import AdamW, export_run, import_run
    >>> file = tempfile.mkdtemp() + "/run.safetensors"
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = AdamW(model.parameters(), lr=0.5)
    >>> export_run(file, model, optimizer)
    >>> import_run(file, torch.nn.Linear(2, 1)).optimizer.param_groups[0]["lr"]
    0.5
    """
    if not isinstance(optimizer, CoreOptimizer):
        raise TypeError(
            f"optimizer of type {type(optimizer).__name__}: allowed are classes of optstudy_torch. "
            "Their load_state_dict accepts a state of torch.optim."
        )
    made = outline(model)
    tensors = tensors_of(model)
    names = {id(x): name for name, x in tensors.items()}
    groups, states = [], {}
    for group in optimizer.param_groups:
        algorithm, values = selected(optimizer.algorithm, group)
        for p in group["params"]:
            if id(p) not in names:
                raise ValueError(
                    f"optimizer has a parameter of shape {tuple(p.shape)} that is not in the model"
                )
            if optimizer.state.get(p):
                state = optimizer.state[p]
                states[names[id(p)]] = {k: _array(tensor_of(x)) for k, x in state.items()}
        own = tuple(names[id(p)] for p in group["params"])
        values = {k: v.item() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
        groups.append(Group(own, algorithm.name, group["dialect"], values))
    fields = [entry for own in states.values() for entry in own.items()]
    counts = [int(x) for name, x in fields if name.rpartition(".")[2] == "t"]
    counts += [group[COUNT] for group in optimizer.param_groups if COUNT in group]
    position = None
    if scheduler is not None:
        state = scheduler.state_dict()
        position = {"class": type(scheduler).__name__, "state": _plain(state)}
    files.write(
        file,
        Training(
            f"torch {torch.__version__}",
            made,
            {name: _array(x) for name, x in tensors.items()},
            tuple(groups),
            states,
            steps if steps is not None else max(counts, default=None),
            position,
            None if sample is None else _sampled(model, sample, forward),
        ),
    )


def import_run(
    file: Any,
    model: torch.nn.Module,
    optimizer: CoreOptimizer | None = None,
    scheduler: Any = None,
    *,
    names: Names | None = None,
    forward: Forward | None = None,
) -> Imported:
    """Load the training of a file into a model and an optimizer.

    Layers are matched by type, shape and declared order; the numbers of layers must agree. If this
    function raises an error, nothing has changed.

    Args:
        file: a file of ``export_run`` of ``optstudy_torch`` or ``optstudy_jax``.
        model: a model with the same layers; its parameters and buffers are overwritten.
        optimizer: an optimizer of the same algorithm and dialect. Parameters in one group must have
            the same hyperparameters in the file. Its hyperparameters and states are overwritten.
            ``None``: make an optimizer.
        scheduler: the scheduler of ``optimizer``, if there is one. It gets the state of the
            exported scheduler, which must have the same class. If there was none (as with a
            schedule in JAX), it gets the number of steps as its position.
        names: layers of the model by layers of the file, if they do not match by themselves. A
            tuple ``(name, axes)`` also gives the order of the axes of the parameter in the file.
        forward: ``forward(model, *sample)`` returns the output for the sample of the file, if the
            input of this model has another order of axes; ``None``: call the model.

    Returns:
        the optimizer, the number of steps, and the differences between the two models.

    Raises:
        ValueError: if the file is damaged, or has another training. The message names the file and
            the entry.
    """
    found = files.read(file)
    with files.named(file):
        plan = Plan.of(found, outline(model), names)
        tensors = tensors_of(model)
        own = {name: _tensor(x, tensors[name]) for name, x in plan.arrays().items()}
        if optimizer is None:
            optimizer = _made(plan.groups, tensors)
        by_id = {id(x): name for name, x in tensors.items()}
        saved = _saved(optimizer, plan.groups, by_id)
        for i, p in enumerate(p for g in optimizer.param_groups for p in g["params"]):
            state = plan.state(by_id[id(p)])
            if state is not None:
                saved["state"][i] = {k: torch.from_numpy(np.array(x)) for k, x in state.items()}
        proved = found.sample is not None
        if proved:
            tried = _copy_with(model, own)
            files.prove(lambda inputs: _sampled(tried, _on(tried, inputs), forward), found)
        _put(optimizer, scheduler, saved, found, tensors, own)
    told = plan.notes(proved)
    return Imported(optimizer, found.steps, tuple(told), plan.names)


# Arrays.


def _array(x: torch.Tensor) -> Any:
    x = x.detach().cpu().contiguous()
    bits = BITS.get(str(x.dtype).removeprefix("torch."))
    return np.array((x if bits is None else x.view(getattr(torch, bits))).numpy())


def _tensor(x: Any, like: torch.Tensor) -> torch.Tensor:
    own = torch.from_numpy(np.ascontiguousarray(x).reshape(x.shape))
    return own if own.dtype == like.dtype else own.view(like.dtype)


def _plain(value: Any) -> Any:
    """Return the state of a scheduler without values that JSON cannot hold: functions, tensors."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else None


# Groups.


def _made(groups: Mapping[str, Group], tensors: Mapping[str, torch.Tensor]) -> CoreOptimizer:
    """Return an optimizer with the groups of a file."""
    made: dict[int, dict[str, Any]] = {}
    algorithms = {id(a): a for a in map(known_algorithm, groups.values())}
    if len(algorithms) != 1:
        names = ", ".join(a.name for a in algorithms.values())
        raise ValueError(f"algorithms {names or 'none'}; expected is the same for all groups")
    (algorithm,) = algorithms.values()
    for name, group in groups.items():
        entry = made.setdefault(id(group), {"params": [], "dialect": group.dialect})
        entry["params"].append((name, tensors[name]))
        entry |= join_tuples(dict(group.hyperparameters))
    try:
        return from_core(algorithm)([*made.values()])
    except TypeError as error:
        raise ValueError(f"groups: {error}") from error


def _saved(
    optimizer: CoreOptimizer, groups: Mapping[str, Group], names: Mapping[int, str]
) -> dict[str, Any]:
    """Return the ``state_dict`` of an optimizer with the values of the file and without states."""
    if not isinstance(optimizer, CoreOptimizer):
        raise TypeError(
            f"optimizer of type {type(optimizer).__name__}: allowed are classes of optstudy_torch"
        )
    saved = optimizer.state_dict()
    left = dict(groups)
    entries = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    for number, (entry, own) in enumerate(entries):
        where = f"optimizer, group {number}"
        found: Group | None = None
        for p in own["params"]:
            name = names.get(id(p), "")
            group = left.pop(name, None)
            if group is None:
                raise ValueError(
                    f"{where} has {name or 'a parameter'}, which the file does not train"
                )
            if found is not None and group[1:] != found[1:]:
                raise ValueError(
                    f"{where} has {name}, which has other hyperparameters in the file; expected "
                    f"are the groups {_split(groups)}"
                )
            found = group
        if found is not None:
            entry |= _values(optimizer, own, found, where)
    if left:
        raise ValueError(f"optimizer lacks {', '.join(left)}, which the file trains")
    return saved | {"state": {}}


def _values(
    optimizer: CoreOptimizer, own: dict[str, Any], group: Group, where: str
) -> dict[str, Any]:
    """Return the hyperparameters of a group of the file as a group of the class has them."""
    algorithm, values = selected(optimizer.algorithm, own)
    if group.algorithm != algorithm.name:
        raise ValueError(
            f"algorithm {group.algorithm!r}; expected is {algorithm.name!r}, as in {where}"
        )
    if len({group.dialect, own["dialect"]} - {None}) > 1:
        raise ValueError(
            f"dialect {group.dialect!r}; expected is {own['dialect']!r}, as in {where}"
        )
    unknown = sorted(group.hyperparameters.keys() - values.keys())
    if unknown:
        raise ValueError(f"hyperparameters {', '.join(unknown)} do not exist in {algorithm.name}")
    joined = join_tuples(values | dict(group.hyperparameters))
    return {k: v for k, v in joined.items() if k in own}


def _split(groups: Mapping[str, Group]) -> str:
    found: dict[int, list[str]] = {}
    for name, group in groups.items():
        found.setdefault(id(group), []).append(name)
    return " and ".join(f"[{', '.join(names)}]" for names in found.values())


# The proof, and the writing.


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _sampled(model: torch.nn.Module, sample: Any, forward: Forward | None) -> Sample:
    inputs = sample if isinstance(sample, tuple) else (sample,)
    with _evaluating(model):
        output = (forward or _call)(model, *inputs)
    if not isinstance(output, torch.Tensor):
        raise TypeError(
            f"output of type {type(output).__name__}: allowed is a tensor. Pass a function as "
            "forward= that returns a tensor."
        )
    as_float = output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
    return Sample(tuple(_array(torch.as_tensor(x)) for x in inputs), _array(as_float))


def _call(model: torch.nn.Module, *inputs: Any) -> Any:
    return model(*inputs)


def _copy_with(model: torch.nn.Module, own: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Return a copy of the model with these parameters and buffers."""
    tried = copy.deepcopy(model)
    _write(tensors_of(tried), own)
    return tried


def _on(model: torch.nn.Module, inputs: Sequence[Any]) -> tuple[torch.Tensor, ...]:
    """Return arrays as tensors on the device of a model."""
    device = next((x.device for x in model.parameters()), torch.device("cpu"))
    return tuple(torch.from_numpy(np.array(x)).to(device) for x in inputs)


def _write(tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in own.items():
            tensors[name].copy_(value)


def _put(
    optimizer: CoreOptimizer,
    scheduler: Any,
    saved: dict[str, Any],
    found: Training,
    tensors: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
) -> None:
    """Write everything, or nothing."""
    before = optimizer.state_dict(), {n: x.detach().clone() for n, x in tensors.items()}
    position = None if scheduler is None else scheduler.state_dict()
    for group, schedules in zip(saved["param_groups"], optimizer.schedules, strict=False):
        if schedules and found.steps is not None:
            group[COUNT] = found.steps
    try:
        optimizer.load_state_dict(saved)
        if scheduler is not None:
            _set_position(scheduler, optimizer, found)
        _write(tensors, own)
    except Exception as error:
        optimizer.load_state_dict(before[0])
        _write(tensors, before[1])
        if position is not None:
            scheduler.load_state_dict(position)
        raise ValueError(str(error)) from error


def _set_position(scheduler: Any, optimizer: CoreOptimizer, found: Training) -> None:
    if found.scheduler is not None:
        if found.scheduler["class"] != type(scheduler).__name__:
            raise ValueError(
                f"scheduler {found.scheduler['class']}; expected is {type(scheduler).__name__}"
            )
        own = scheduler.state_dict()
        state = {k: v for k, v in found.scheduler["state"].items() if v is not None}
        if not state.keys() <= own.keys():
            raise ValueError(
                f"scheduler with {', '.join(sorted(state.keys() - own.keys()))}; expected are "
                f"{', '.join(own)}"
            )
        scheduler.load_state_dict(own | state)
        return
    if found.steps is None:
        raise ValueError("the number of steps is missing; the scheduler needs it")
    scheduler.load_state_dict(
        scheduler.state_dict()
        | {
            "last_epoch": found.steps,
            "_step_count": found.steps + 1,
            "_last_lr": [g["lr"] for g in optimizer.param_groups],
        }
    )


__all__ = ["Imported", "export_run", "import_run"]
