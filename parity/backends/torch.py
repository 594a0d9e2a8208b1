"""PyTorch, eager and compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from optstudy_core import Algorithm
from optstudy_core.arrays.numbers import is_number
from parity.case import Case
from parity.structures import STRUCTURES

from .backend import Backend, Run, measure_on_host, minus


class TorchBackend(Backend):
    """An optimizer of ``optstudy_torch``, eager or compiled."""

    def __init__(self, compiled: bool, device: str) -> None:
        self.name = "torch-compiled" if compiled else "torch"
        self.compiled = compiled
        self.device = device

    def run(self, algorithm: Algorithm, case: Case) -> Run:
        import torch

        from optstudy_torch import from_core
        from optstudy_torch._arguments import join_tuples

        leaves = STRUCTURES[case.structure]
        params, grads = case.values()
        theta = []
        for leaf, value in zip(leaves, params, strict=True):
            tensor = self.tensor(value)
            if leaf.transposed:
                tensor = tensor.t().contiguous().t()
            theta.append(torch.nn.Parameter(tensor))
        groups = []
        resolved = list(zip(case.rules(algorithm), case.resolved(algorithm), strict=True))
        for number, ((rule, dialect), values) in enumerate(resolved):
            mine = [p for p, m in zip(theta, case.membership, strict=True) if m == number]
            if mine:
                named = {"params": mine, "algorithm": rule.name, "dialect": _of(rule, dialect)}
                own = values | case.schedules(values)
                groups.append(named | self._arguments(case, own))
        dialect = _of(algorithm, case.dialect)
        optimizer = from_core(algorithm)(groups, compile=self.compiled, dialect=dialect)
        run = Run()
        start = [p.detach().clone() for p in theta]
        before = start
        used = sorted({*case.membership})
        order = sorted(range(len(theta)), key=lambda i: case.membership[i])  # in the optimizer
        of_groups = [resolved[number][1] for number in used]
        for number, (row, given) in enumerate(zip(grads, case.inputs(algorithm), strict=True)):
            for group, values in zip(optimizer.param_groups, of_groups, strict=True):
                moved = case.moved(values, number)
                group.update(join_tuples(values | moved) if moved else {})
            before = [p.detach().clone() for p in theta]
            for p, g in zip(theta, row, strict=True):
                p.grad = self.tensor(g)
            inputs = {
                k: [self.tensor(x[i]) for i in order] if isinstance(x, list) else self.tensor(x)
                for k, x in given.items()
            }
            optimizer.step(None, **inputs)
            run.trajectory.append([from_torch(p) for p in theta])
        for leaf, p in zip(leaves, theta, strict=True):
            for name, value in optimizer.state[p].items():
                run.state[f"{leaf.path}.{name}"] = from_torch(value)
        end = [p.detach() for p in theta]
        displacements = [start, minus(end, before), minus(end, start)]
        measure_on_host(run, [leaf.path for leaf in leaves], displacements)
        return run

    def _arguments(self, case: Case, values: dict[str, Any]) -> dict[str, Any]:
        import torch

        from optstudy_torch._arguments import join_tuples

        if case.arrays:
            values = {
                k: torch.tensor(case.array_dtype().type(v), device=self.device)
                if is_number(v)
                else v
                for k, v in values.items()
            }
        return join_tuples(values)

    def tensor(self, value: np.ndarray) -> Any:
        """Return a tensor on the device with its own memory."""
        import torch

        if value.dtype.name == "bfloat16":  # bfloat16 values are float32 values
            return torch.tensor(value.astype(np.float32), dtype=torch.bfloat16, device=self.device)
        return torch.tensor(value, device=self.device)


def from_torch(tensor: Any) -> np.ndarray:
    """Return a copy as a NumPy array, with the bfloat16 of ``ml_dtypes``."""
    import ml_dtypes
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().copy().view(ml_dtypes.bfloat16)
    copied: np.ndarray = tensor.numpy().copy()
    return copied


def _of(rule: Algorithm, dialect: str | None) -> str | None:
    """Return the dialect of a group, all of whose values are given.

    The dialect torch refuses leaves that the pure function accepts.
    """
    return None if dialect == "torch" and rule.check_shape is not None else dialect
