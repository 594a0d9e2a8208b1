"""Operations of torch one after another, on whole tensors of any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from optstudy_core.arrays.bits import size
from optstudy_core.arrays.leaves import Backend, Leaves, Reduction

from . import rounding
from .exact_sums import sum_of, sums_of
from .joined_sums import Joint, Share


class Eager(Backend):
    """One torch operation after another, on whole tensors."""

    name = "torch"

    def apply(self, operation: str, *args: Any) -> torch.Tensor:
        return rounding.apply(operation, *args)

    def scalar_of(self, function: Reduction, vectors: Sequence[Sequence[torch.Tensor]]) -> Any:
        return sum_of(function, vectors)

    def doubled(self, function: Callable[..., Leaves], *leaves: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = function(*(Leaves([x.double()], self) for x in leaves)).values[0]
        return result.to(leaves[0].dtype)

    def full(self, value: Any, leaf: torch.Tensor) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            return value.to(leaf.device, leaf.dtype)
        return rounding.filled((), value, leaf.dtype, leaf.device)

    def no_steps(self, tree: Leaves) -> Leaves:
        return Leaves([torch.zeros((), dtype=torch.int32) for _ in range(tree.count)], self)

    def counts(self, number: Any, like: Leaves) -> Leaves:
        return Leaves(map(torch.tensor, super().counts(number, like).vector), self)

    def truths(self, values: Any, tree: Leaves) -> Leaves:
        pairs = zip(values, tree.values, strict=True)
        return Leaves((torch.tensor(bool(v), device=x.device) for v, x in pairs), self)

    def stacked(self, scalars: Sequence[torch.Tensor]) -> torch.Tensor | None:
        alike = len({(x.dtype, x.device) for x in scalars}) == 1
        return torch.stack(list(scalars)) if alike else None

    def unstacked(self, vector: torch.Tensor) -> Sequence[torch.Tensor]:
        return vector.unbind()


EAGER = Eager()


class EagerPart(Eager):
    """The same, on the local parts of sharded leaves.

    Args:
        joints: for each leaf, the distribution over processes.
    """

    def __init__(self, joints: Sequence[Joint]) -> None:
        self._joints = joints

    def reduce(self, function: Reduction, trees: Sequence[Leaves], whole: bool) -> Leaves:
        del whole  # a state begins leaf by leaf
        jobs: list[Any] = []
        for row, joint in zip(
            zip(*(t.values for t in trees), strict=True), self._joints, strict=True
        ):
            shares = [Share(x, joint) for x in row]
            jobs.append((function, [[x] if size(x) else [] for x in shares]))
        return self.fulls(sums_of(jobs), trees[0])
