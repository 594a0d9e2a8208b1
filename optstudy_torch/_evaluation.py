"""Parameters to evaluate with in the place of those that are trained, and back."""

from __future__ import annotations

from typing import Any

import torch

from optstudy_core.parts.evaluation import eval_params

from ._arguments import rule_of, selected
from ._as_written import leaves_of
from ._meshes import local
from ._states import WORKING_DTYPE, Layout, tensor_of


@torch.no_grad()
def exchanged(optimizer: Any) -> list[tuple[Any, torch.Tensor]]:
    """Write the parameters to evaluate with; return those that were trained, with copies."""
    trained = []
    for group in optimizer.param_groups:
        algorithm, values = selected(rule_of(group, optimizer.algorithm), group)
        layout = Layout.of(algorithm, values)
        for p in group["params"]:
            state = optimizer.state.get(p)
            if not state:
                continue
            own = local(p.detach())
            leaves = leaves_of([own], None)
            held = (state.get(name) for name in layout.names)
            fields = [leaves([None if x is None else local(x)]) for x in held]
            theta = leaves([own.to(WORKING_DTYPE[p.dtype])])
            found = eval_params(layout.rebuild(fields), theta, b1=values.get("b1"))
            if found is not None:
                trained.append((p, own.clone()))
                own.copy_(tensor_of(found.values[0]))
    return trained


@torch.no_grad()
def put_back(trained: list[tuple[Any, torch.Tensor]]) -> None:
    """Write back what was trained."""
    for p, kept in trained:
        local(p.detach()).copy_(kept)
