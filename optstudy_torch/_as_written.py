"""Rules that run as they are written: the pure function itself, where no program is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from optstudy_core import Algorithm
from optstudy_core.arrays.leaves import Leaves

from ._plans import Inputs, Plan
from ._states import WORKING_DTYPE, flatten, in_double, owned, tensor_of
from .engine.deferred import HOST_ARRAYS, need_compiler
from .engine.eager import EAGER
from .engine.errors import NoKernelsError
from .engine.in_place import take_steps
from .engine.threads import HOST
from .engine.units import add


def computed(
    params: list[Any],
    states: Mapping[Any, dict[str, Any]],
    group: dict[str, Any],
    plan: Plan,
    inputs: Inputs,
) -> tuple[list[dict[str, torch.Tensor]], Leaves]:
    """Return the new state of each parameter, and the steps; nothing is written yet.

    Args:
        params: with gradients.
        states: of each parameter.
        group: to which they belong.
        plan: of the group.
        inputs: what the algorithm is given besides the gradients.
    """
    layout = plan.layout
    leaves = leaves_of(params, group["compile"])
    work = [p.detach().to(WORKING_DTYPE[p.dtype]) for p in params]
    theta = leaves(work)
    grad = leaves(p.grad.detach().to(w.dtype) for p, w in zip(params, work, strict=True))
    fields = [leaves(states[p].get(n) for p in params) for n in layout.names]
    for i, is_count in enumerate(layout.counts):
        if is_count:
            fields[i] = leaves(states[p][layout.names[i]].to("cpu", torch.int32) for p in params)
    values = in_double(plan.hyperparameters, grad.backend)
    for name, value in inputs.scalars.items():
        values[name] = leaves(value.detach().to(w.device, w.dtype) for w in work)
    for name, tensors in inputs.tensors.items():
        values[name] = leaves(
            tensors[p].detach().to(w.dtype) for p, w in zip(params, work, strict=True)
        )
    values |= dict.fromkeys(plan.algorithm.inputs.keys() - values.keys())
    state, step = plan.algorithm.update(layout.rebuild(fields), grad, theta, **values)
    new = [field.values for field in flatten(state)]
    made = []
    for i in range(len(params)):
        keep = owned(theta.values[i], grad.values[i])
        own = zip(layout.names, (x[i] for x in new), strict=True)
        made.append({n: tensor_of(keep(x)) for n, x in own if x is not None})
    return made, step


def take(
    params: list[Any],
    states: Mapping[Any, dict[str, Any]],
    group: dict[str, Any],
    made: list[dict[str, torch.Tensor]],
    step: Leaves,
) -> None:
    """Write what was computed."""
    for p, own in zip(params, made, strict=True):
        states[p].update(own)
    taken = take_steps(params, step)
    for i, p in enumerate(params):
        if i not in taken:
            add(p, tensor_of(step.values[i]), group["step_dtype"])


def check_compiled(algorithm: Algorithm, params: Sequence[torch.Tensor]) -> None:
    """Refuse what runs as it is written, unless its operations are loops."""
    if not algorithm.leafwise or any(p.device.type != HOST for p in params):
        raise NotImplementedError(
            f"compile = True for {algorithm.name}: allowed for algorithms whose state is made of "
            "scalars and of arrays like the parameter, and on the CPU for those whose formula "
            "depends on the shape of the parameter"
        )
    try:
        need_compiler()
    except NoKernelsError as error:
        raise RuntimeError(f"compile = True on {HOST}: {error}") from error


def leaves_of(
    params: Sequence[torch.Tensor], compiled: bool | None
) -> Callable[[Iterable[torch.Tensor | None]], Leaves]:
    """Return what makes trees of tensors that are where the parameters are.

    NumPy computes in the memory of those on the CPU: a call costs it a third of torch's.
    """
    if any(p.device.type != HOST for p in params):
        return lambda tensors: Leaves(map(_plain, tensors), EAGER)
    backend = HOST_ARRAYS[compiled]
    return lambda tensors: Leaves((x if x is None else _plain(x).numpy() for x in tensors), backend)


def _plain(x: torch.Tensor | None) -> Any:
    return None if x is None else x.resolve_neg()
