"""Parameters for evaluation: an average from the state replaces the trained parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from optstudy_core import Algorithm
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.parts.evaluation import eval_params

from ._meshes import local
from ._states import TRAINED, WORKING_DTYPE, Layout, in_double
from .engine.eager import EAGER


@torch.no_grad()
def bring_average(
    params: Sequence[Any],
    states: Mapping[Any, dict[str, Any]],
    algorithm: Algorithm,
    hyperparameters: dict[str, Any],
) -> None:
    """Write the average in the state to the parameters, and store the parameters in the state.

    Raises:
        ValueError: if the hyperparameters do not determine the average.
    """
    layout = Layout.of(algorithm, hyperparameters)
    if not layout.averages:
        return
    b1 = in_double(hyperparameters, EAGER).get("b1")
    for p in params:
        own = states.get(p, {})
        if not own or TRAINED in own:
            continue
        held = (own.get(name) for name in layout.names)
        fields = [Leaves([None if x is None else local(x)], EAGER) for x in held]
        work = Leaves([local(p).to(WORKING_DTYPE[p.dtype])], EAGER)
        average = eval_params(layout.rebuild(fields), work, b1=b1)
        assert average is not None
        own[TRAINED] = p.detach().clone()
        local(p).copy_(average.values[0])
        torch.autograd.graph.increment_version(p)


@torch.no_grad()
def bring_back(params: Sequence[Any], states: Mapping[Any, dict[str, Any]]) -> None:
    """Write the trained parameters back, bit for bit."""
    for p in params:
        if p in states and TRAINED in states[p]:
            p.copy_(states[p].pop(TRAINED))


def check_trained(name: str, params: Sequence[Any], states: Mapping[Any, dict[str, Any]]) -> None:
    """Refuse a step while the parameters are averages.

    Raises:
        RuntimeError: if they are; the message names the class.
    """
    if any(TRAINED in states[p] for p in params):
        raise RuntimeError(
            f"{name}: the parameters are averages, after eval(): allowed is a step after train()"
        )
