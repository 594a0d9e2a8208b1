"""Schedules of the core as schedulers of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

Curve = Callable[[int], Any]


class ScheduleLR(LRScheduler):
    """A schedule of ``optstudy_core.schedules`` as a scheduler, for any optimizer of torch.

    The schedule is a function of the number of calls of ``step``, and returns the rate. (In
    ``LambdaLR(optimizer, schedule)`` of torch it returns a factor of the rate.) ``state_dict`` does
    not contain the schedule.

    Args:
        optimizer: any ``torch.optim.Optimizer``.
        schedule: the rate as a function of a number, or a list with one function for each group.
        momentum: a schedule of the momentum of all groups, or of the first of ``betas``; ``None``:
            the momentum does not change.
        last_epoch: the number of the last call of ``step``; -1 at the beginning.

    Raises:
        ValueError: if the numbers of schedules and groups differ, or a group has no momentum.

    >>> from optstudy_core.schedules import Cosine
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    >>> scheduler = ScheduleLR(optimizer, Cosine(1.0, 0.0, 10))
    >>> optimizer.param_groups[0]["lr"]
    1.0
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Curve | Sequence[Curve],
        *,
        momentum: Curve | None = None,
        last_epoch: int = -1,
    ) -> None:
        self.schedule, self.momentum = schedule, momentum
        if not callable(schedule) and len(schedule) != len(optimizer.param_groups):
            raise ValueError(
                f"schedule with {len(schedule)} functions: allowed are one function, or "
                f"{len(optimizer.param_groups)}, one for each group"
            )
        if momentum is not None:
            for number, group in enumerate(optimizer.param_groups):
                if not group.keys() & {"betas", "momentum"}:
                    raise ValueError(f"momentum: group {number} has neither 'momentum' nor 'betas'")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the rate of each group, and set its momentum."""
        groups = self.optimizer.param_groups
        if self.momentum is not None:
            now = float(self.momentum(self.last_epoch))
            for group in groups:
                if "betas" in group:
                    group["betas"] = (now, *group["betas"][1:])
                else:
                    group["momentum"] = now
        one = self.schedule
        curves = [one] * len(groups) if callable(one) else one
        return [float(curve(self.last_epoch)) for curve in curves]

    def state_dict(self) -> dict[str, Any]:
        """Return the state, without the optimizer and the schedules."""
        without = {"optimizer", "schedule", "momentum"}
        return {k: v for k, v in self.__dict__.items() if k not in without}
