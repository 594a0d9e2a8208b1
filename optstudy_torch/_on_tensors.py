"""Steps with tensors for all numbers: recorded in a CUDA graph, or differentiated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from optstudy_core.arrays.leaves import Leaves

from ._arguments import ON_TENSORS, check_on_tensors
from ._plans import Inputs, Plan
from ._shapes import AsWritten
from ._states import WORKING_DTYPE, flatten, owned
from ._tensors import is_shared
from .engine.on_tensors import on


def is_asked(group: dict[str, Any]) -> bool:
    """Return whether a group requests such a step."""
    return any(map(group.get, ON_TENSORS))


def check_step(
    group: dict[str, Any], plan: Plan, params: Sequence[torch.Tensor], inputs: Inputs
) -> None:
    """Refuse a step that cannot be recorded or differentiated.

    Raises:
        NotImplementedError: for a rule that does not allow it, or a ``DTensor``.
        ValueError: for a hyperparameter on another device, or leaves that need a gradient.
    """
    check_on_tensors(plan.algorithm, group)
    name = next(name for name in ON_TENSORS if group.get(name))
    for p in params:
        if is_shared(p):
            raise NotImplementedError(f"{name} = True for a DTensor: allowed are plain tensors")
        if group.get("differentiable") and p.is_leaf and p.requires_grad:
            raise ValueError(
                "differentiable = True for a leaf that requires a gradient: allowed are tensors "
                "that operations have made, such as p.clone()"
            )
    devices = {p.device for p in params}
    if len(devices) > 1:
        raise ValueError(
            f"{name} = True for a group on {', '.join(sorted(map(str, devices)))}: allowed is one "
            "device"
        )
    for key, x in (plan.hyperparameters | inputs.scalars).items():
        if group.get("capturable") and isinstance(x, torch.Tensor) and x.device not in devices:
            raise ValueError(
                f"{key} on {x.device} with capturable = True: allowed is the device of the "
                f"parameters, {params[0].device}, because a graph would keep the value of now"
            )


def check_recorded(
    group: dict[str, Any], params: Sequence[torch.Tensor], states: Mapping[Any, dict[str, Any]]
) -> None:
    """Refuse a step that a CUDA graph records but would replay incorrectly.

    Args:
        group: the group of the parameters.
        params: parameters with gradients.
        states: the states of the parameters; empty if the rule has no state.

    Raises:
        RuntimeError: without ``capturable=True``, or before a first step has made the states.
    """
    device = params[0].device
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        if not group.get("capturable"):
            raise RuntimeError(
                "a CUDA graph records the step: allowed with capturable = True, because other "
                "steps are handed numbers by the host, which a graph would keep"
            )
        found = [{x.device for x in states[p].values()} for p in params if states]
        if any(own != {device} for own in found):
            raise RuntimeError(
                "a CUDA graph records the first step: allowed after one that has made the states"
            )


@torch.enable_grad()
def begun(p: torch.Tensor, plan: Plan) -> dict[str, torch.Tensor]:
    """Return the initial state of a parameter, with derivatives."""
    backend = on(p.device)
    first = p.clone().to(WORKING_DTYPE[p.dtype])
    state = plan.algorithm.start(Leaves([first], backend), _numbers(plan, backend))
    own = owned(first)
    pairs = zip(plan.layout.names, (field.values[0] for field in flatten(state)), strict=True)
    return {name: own(x) for name, x in pairs if x is not None}


def _numbers(plan: Plan, backend: Any) -> dict[str, Any]:
    """Return hyperparameters, with tensors in double precision."""
    taken = plan.hyperparameters.items()
    return {k: backend.number(v) if isinstance(v, torch.Tensor) else v for k, v in taken}


class OnTensors(AsWritten):
    """A step of the function as written, with tensors on one device for all numbers."""

    def compute(self) -> None:
        """Compute the new states and the steps."""
        with torch.set_grad_enabled(self._is_differentiated):
            super().compute()

    def write(self) -> None:
        """Write the results; states are written in place, or replaced for derivatives.

        A graph reads states at the addresses of the recording.
        """
        if self._is_differentiated:
            with torch.enable_grad():
                super().write()
            return
        for p, own in zip(self._params, self._made, strict=True):
            state = self._states[p]
            apart = owned(*state.values())  # fields may share memory
            made = {n: apart(x) for n, x in own.items()}
            for name, x in made.items():
                to = state[name]
                like = (to.device, to.dtype, to.shape) == (x.device, x.dtype, x.shape)
                own[name] = to.copy_(x) if like else x
        super().write()

    @property
    def _is_differentiated(self) -> bool:
        return bool(self._group.get("differentiable"))

    def _taken(self, x: torch.Tensor) -> torch.Tensor:
        # Autograd keeps a copy, because the parameter is overwritten.
        return x.clone() if self._is_differentiated else x.detach()

    def _count(self, t: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return t.to(p.device, torch.int32)

    def _numbers(self, backend: Any) -> dict[str, Any]:
        return _numbers(self._plan, backend)

    def _leaves(self, tensors: Iterable[torch.Tensor | None]) -> Leaves:
        plain = [None if x is None else x.resolve_neg() for x in tensors]
        return Leaves(plain, on(self._params[0].device))
